"""Memory that a process keeps for itself.

A forward pass on a CPU frees as much memory as it takes, again and again. glibc gives blocks above 32 MiB, and the free
end of its heap, back to the system, which hands them out anew page by page: up to half the time of a large batch.
"""

import ctypes
import platform

# Parameters of mallopt (malloc.h).
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Have this process keep what it frees, for its next tensors; False where the C library is not glibc.

    For a process of our own, never for a user's: what MALLOC_TRIM_THRESHOLD_=-1 and MALLOC_MMAP_MAX_=0 do.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_TRIM_THRESHOLD, -1) and mallopt(_MMAP_MAX, 0))
