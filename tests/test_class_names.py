from pathlib import Path

import pytest

from fastcam.class_names import class_title, parse_targets, read_class_names
from fastcam.models.loading import imagenet_class_names

PLAIN = ("tench", "crane", "tiger cat", "crane", "Cardigan", "cardigan", "7")
SYNONYMS = ("tench, Tinca tinca", "goldfish, Carassius auratus", "tench", "a, b", "a", "a, b, c", "b")


@pytest.mark.parametrize(
    ("text", "names", "expected"),
    [
        pytest.param("tiger cat", PLAIN, [2], id="name"),
        pytest.param("tiger cat,4", PLAIN, [2, 4], id="name and index"),
        pytest.param(" 4 ,  tiger   cat ", PLAIN, [4, 2], id="spaces"),
        pytest.param("TENCH", PLAIN, [0], id="case"),
        pytest.param("cardigan", PLAIN, [5], id="exact case wins"),
        pytest.param("Cardigan", PLAIN, [4], id="exact case wins, other"),
        pytest.param("tench,0,tench,2", PLAIN, [0, 2], id="each once"),
        pytest.param("7", PLAIN, [7], id="a number is an index"),
        pytest.param("285", None, [285], id="index without names"),
        pytest.param("-1", PLAIN, [-1], id="left to the range check"),
        pytest.param("tench, Tinca tinca", SYNONYMS, [0], id="name with a comma"),
        pytest.param("tench", SYNONYMS, [2], id="its first part alone is another"),
        pytest.param("tench,Tinca tinca,goldfish, Carassius auratus,3", SYNONYMS, [0, 1, 3], id="several"),
        pytest.param("a,b,c", SYNONYMS, [5], id="longest"),
        pytest.param("a,b,b", SYNONYMS, [3, 6], id="longest that is one"),
    ],
)
def test_parse_targets(text: str, names: tuple[str, ...] | None, expected: list[int]) -> None:
    assert parse_targets(text, names) == expected


@pytest.mark.parametrize(
    ("text", "names", "message"),
    [
        pytest.param("crane", PLAIN, r"'crane' is the name of 2 classes, 1 \(crane\), 3 \(crane\)", id="twice"),
        pytest.param("CARDIGAN", PLAIN, r"4 \(Cardigan\), 5 \(cardigan\): give an index", id="case"),
        pytest.param("tiger ct", PLAIN, "'tiger ct' is no class .*close names: 'tiger cat'", id="typing error"),
        pytest.param("cat", PLAIN, "close names: .*'tiger cat'", id="a word of it"),
        pytest.param("tench,xyzzy", PLAIN, "'xyzzy' is no class of the model$", id="nothing close"),
        pytest.param("tench,,crane", PLAIN, "empty entry", id="empty entry"),
        pytest.param("", PLAIN, "empty entry", id="empty"),
        pytest.param("tench", None, "--class-names FILE", id="no names"),
        pytest.param("1.5", PLAIN, "'1.5' is no class", id="fraction"),
    ],
)
def test_parse_targets_refuses(text: str, names: tuple[str, ...] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_targets(text, names)


def test_every_name_of_imagenet_is_found() -> None:
    names = imagenet_class_names()
    assert len(names) == 1000
    repeated = {name for name in names if names.count(name) > 1}
    for index, name in enumerate(names):
        if name not in repeated:
            assert parse_targets(f"{name},7", names) == list(dict.fromkeys([index, 7]))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param("cat\ndog\n", ("cat", "dog"), id="plain"),
        pytest.param("cat\r\ndog\r\n\r\n", ("cat", "dog"), id="Windows"),
        pytest.param("\ufeffcat, the\n  dog ", ("cat, the", "dog"), id="byte order mark"),
    ],
)
def test_read_class_names(content: str, expected: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "n.txt").write_text(content, encoding="utf-8", newline="")
    assert read_class_names(tmp_path / "n.txt") == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"", "is empty", id="empty"),
        pytest.param(b"\n\n", "is empty", id="blank"),
        pytest.param(b"cat\n\ndog", "line 2 is empty", id="gap"),
        pytest.param(b"\xff\xfe\x00", "cannot be read", id="no UTF-8"),
        pytest.param(None, "cannot be read", id="missing"),
    ],
)
def test_read_class_names_refuses(content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "n.txt").write_bytes(content)
    with pytest.raises(ValueError, match=rf"class names file .*n\.txt.* {message}"):
        read_class_names(tmp_path / "n.txt")


def test_class_title() -> None:
    assert class_title(2, PLAIN) == "tiger cat"
    assert class_title(2, None) == "class 2"
