"""Files that are either whole or not there."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a stream whose bytes appear at `path` only when the block ends without an exception.

    They are written beside the target, so that the final rename stays within one file system. The folder
    is made if it is missing; an existing file is replaced.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Short, since the target's own name may be as long as the file system allows.
    unfinished = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        with unfinished.open("xb") as stream:
            yield stream
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def refusal(error: OSError) -> str:
    """Why the system refused. Not its own message: that names the unfinished file."""
    return os.strerror(error.errno) if error.errno else str(error)
