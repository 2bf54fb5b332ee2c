import os
from pathlib import Path

import pytest

from fastcam.files import atomic_write


def test_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.bin"
    with atomic_write(path) as stream:
        stream.write(b"first")
        assert not path.exists()
    reader = path.open("rb")
    with atomic_write(path) as stream:
        stream.write(b"sec")
        stream.flush()
        assert path.read_bytes() == b"first"
        stream.write(b"ond")
    assert path.read_bytes() == b"second"
    with reader:
        # The new file took the old one's place; whoever reads the old one is not disturbed.
        assert reader.read() == b"first"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_failure_leaves_what_was_there(error: type[BaseException], tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def write() -> None:
        with atomic_write(path) as stream:
            stream.write(b"half")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a") as stream:
        stream.write(b"")
    (tmp_path / "b").write_bytes(b"")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_longest_name_that_the_file_system_takes(tmp_path: Path) -> None:
    path = tmp_path / ("a" * os.pathconf(tmp_path, "PC_NAME_MAX"))
    with atomic_write(path) as stream:
        stream.write(b"x")
    assert path.read_bytes() == b"x"
