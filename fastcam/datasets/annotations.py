"""Boxes from XML files in PASCAL VOC's format, which ImageNet's have too."""

from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree


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
        root = ElementTree.parse(path).getroot()
        size = int(root.findtext("size/width", "")), int(root.findtext("size/height", ""))
        objects = tuple(_marked(element) for element in root.iterfind("object"))
    except FileNotFoundError:
        raise ValueError(f"annotation {path} does not exist") from None
    except (OSError, ElementTree.ParseError, ValueError) as error:
        raise ValueError(f"annotation {path} is unreadable or not in PASCAL VOC's format: {error}") from error
    return Annotation(root.findtext("filename", ""), size, objects)


def _marked(element: ElementTree.Element) -> Marked:
    x, y, right, bottom = (float(element.findtext(f"bndbox/{key}", "")) for key in ("xmin", "ymin", "xmax", "ymax"))
    if right < x or bottom < y:
        raise ValueError(f"a box from ({x:g}, {y:g}) to ({right:g}, {bottom:g})")
    return Marked(element.findtext("name", "").strip(), (x, y, right, bottom), element.findtext("difficult") == "1")
