"""Memory that the command line's process keeps."""

import platform
import subprocess
import sys

import pytest

from fastcam.commands import allocation

SIZE = 2**26
PROGRAM = f"""
import resource, runpy, sys

def fill():
    block = bytearray({SIZE})
    block[::4096] = bytes(len(block) // 4096)

if sys.argv[2] == "kept":
    assert runpy.run_path(sys.argv[1])["keep_freed_memory"]()
fill()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    fill()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(kind: str) -> int:
    """Pages that the system hands out while four blocks are taken and freed again."""
    # By the file, since a package's __init__ would import PyTorch.
    command = [sys.executable, "-c", PROGRAM, allocation.__file__, kind]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="there is another C library here")
def test_freed_memory_is_used_again() -> None:
    pages = SIZE // 4096
    assert faults("as it is") >= 4 * pages
    assert faults("kept") < pages // 10


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not allocation.keep_freed_memory()
