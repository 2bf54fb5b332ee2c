"""One launch at a time in one folder."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastcam.evaluation.errors import RunError


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a run's folder; it ends with the process, however that ends.

    A record lock of POSIX, not flock: processes that load images inherit the latter, and would hold it for some
    seconds after their parent was killed.

    Raises:
        RunError: another process holds it.
    """
    try:
        import fcntl
    except ModuleNotFoundError as error:
        raise RunError(
            "runs need the file locks of POSIX systems (the module fcntl), which this system lacks"
        ) from error
    with (folder / "lock").open("a+") as stream:
        try:
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            stream.seek(0)
            holder = stream.read().strip() or "another process"
            raise RunError(
                f"output {folder}: {holder} is at work on this run; wait for it, or write to another folder with -o"
            ) from error
        stream.truncate(0)
        stream.write(f"process {os.getpid()} on {socket.gethostname()}")
        stream.flush()
        try:
            yield
        finally:
            stream.truncate(0)
