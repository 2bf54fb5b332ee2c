"""Processes that are stopped, with all that they started, when it is time."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent


def run(command: Sequence[str], stop: Callable[[], str | None], environment: Mapping[str, str] = os.environ) -> str:
    """Run a command in the repository's root; return how it ended: "ended with 0", say, or why it was stopped.

    stop: asked again and again; the reason to stop it now, or None.
    """
    process = subprocess.Popen(command, env=dict(environment), cwd=ROOT, start_new_session=True)
    try:
        while process.poll() is None:
            reason = stop()
            if reason is not None:
                return reason
            time.sleep(0.1)
        return f"ended with {process.returncode}"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
