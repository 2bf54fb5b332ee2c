"""Boxes from XML files in PASCAL VOC's format, which ImageNet's have too."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from xml.etree import ElementTree

T = TypeVar("T", int, float)


@dataclass(frozen=True)
class Marked:
    """An object in a photo: its class's name, (xmin, ymin, xmax, ymax) as the file has them, VOC's flag "difficult"."""

    name: str
    corners: tuple[float, float, float, float]
    difficult: bool


@dataclass(frozen=True)
class Annotation:
    """A photo's file name as the XML has it, its (width, height), and the objects in it."""

    filename: str
    size: tuple[int, int]
    objects: tuple[Marked, ...]


def read_annotation(path: Path) -> Annotation:
    """What an XML file says. Raises ValueError, with the file's name, where it cannot be read or lacks a part."""
    try:
        root = ElementTree.fromstring(path.read_bytes())
        objects = tuple(_marked(element) for element in root.iterfind("object"))
        size = _numbers(root, "size", ("width", "height"), int)
    except FileNotFoundError:
        raise ValueError(f"annotation {path} does not exist") from None
    except (OSError, ElementTree.ParseError, ValueError) as error:
        raise ValueError(f"annotation {path} is unreadable or not in PASCAL VOC's format: {error}") from error
    return Annotation(root.findtext("filename", ""), (size[0], size[1]), objects)


def _marked(element: ElementTree.Element) -> Marked:
    x, y, right, bottom = _numbers(element, "bndbox", ("xmin", "ymin", "xmax", "ymax"), float)
    if right < x or bottom < y:
        raise ValueError(f"a box from ({x:g}, {y:g}) to ({right:g}, {bottom:g})")
    return Marked(element.findtext("name", "").strip(), (x, y, right, bottom), element.findtext("difficult") == "1")


def _numbers(element: ElementTree.Element, part: str, keys: Sequence[str], kind: Callable[[str], T]) -> list[T]:
    # Tag by tag: a path with slashes takes ElementTree three times as long, and ImageNet has 50,000 files.
    found = element.find(part)
    if found is None:
        raise ValueError(f"<{element.tag}> has no <{part}>")
    return [kind(found.findtext(key, "")) for key in keys]
