"""The grid pointing game: does a map of a class lie on that class's photo?

    python -m bench.mosaics          # writes bench/results/mosaics.json

Four photos that come with scikit-image are set into 2x2 mosaics, such that every photo stands in every quarter once.
For each mosaic and each of the four classes, the share of the map's positive part that lies in that class's quarter is
taken; a map that knows nothing gets 0.25.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fastcam
from bench.machine import cpu_machine
from fastcam.attribution import METHODS
from fastcam.demo import CLASSES, LAST_LAYER, PHOTOS, photo_file
from fastcam.models.loading import load_model
from fastcam.photos import read_photo

RESULTS = Path(__file__).parent / "results" / "mosaics.json"


def mosaics(photos: Sequence[Tensor]) -> Tensor:
    """(4, C, 2H, 2W) from four photos (C, H, W): in mosaic m, quarter q (row by row) holds photo (q + m) mod 4."""
    grids = [[photos[(quarter + m) % 4] for quarter in range(4)] for m in range(4)]
    return torch.stack([torch.cat([torch.cat(grid[:2], dim=2), torch.cat(grid[2:], dim=2)], dim=1) for grid in grids])


def shares(maps: Tensor) -> Tensor:
    """Share (M, 4), by mosaic and photo, of the positive part of maps (M, 4, H, W) that lies in the photo's quarter."""
    height, width = maps.shape[-2:]
    positive = maps.clamp(min=0).double()
    quarters = positive.unfold(2, height // 2, height // 2).unfold(3, width // 2, width // 2).sum(dim=(-2, -1))
    where = torch.tensor([[(t - m) % 4 for t in range(4)] for m in range(len(maps))])
    right = quarters.flatten(2).gather(2, where.unsqueeze(2)).squeeze(2)
    return right / positive.sum(dim=(-2, -1))


def embedded_mosaics(side: int = 112) -> tuple[nn.Module, Tensor]:
    """The embedded model, and the mosaics of the four photos of that side; together they are as large as its input."""
    loaded = load_model("efficientnet_lite0")
    views = [loaded.preprocessing.view(read_photo(photo_file(name))).resize((side, side)) for name in PHOTOS]
    return loaded.model, mosaics([loaded.preprocessing.tensor(view)[0] for view in views])


def pointing(model: nn.Module, images: Tensor, method: str, options: Mapping[str, Any]) -> dict[str, float]:
    """Mean and least share of a method's positive evidence in the right quarter.

    empty: maps without positive evidence, of which no share is taken.
    """
    layered = METHODS[method].layer == "last"
    settings = {"layer": LAST_LAYER if layered else None, "method": method, "normalize": False, **options}
    draws = [
        fastcam.explain(model, images, [list(CLASSES)] * len(images), **settings) for _ in range(DRAWS.get(method, 1))
    ]
    found = torch.stack([shares(maps) for maps in draws])
    told = ~found.isnan()
    return {
        "mean": found[told].mean().item(),
        "least": found[told].min().item(),
        "empty": int((~told).sum()),
    }


# Where the default would take many minutes.
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "ss_cam": {"samples": 1},
    "is_cam": {"samples": 1},
    "rise": {"masks": 1000},
    "extremal_perturbation": {"steps": 200},
}
# A map of random weights says something on average only.
DRAWS = {"random_cam": 128}


def main() -> None:
    """Measure every method; write the file at the end."""
    model, images = embedded_mosaics()
    setting = {
        "model": "efficientnet_lite0",
        "layer": LAST_LAYER,
        "images": len(images),
        "targets": len(CLASSES),
        "machine": cpu_machine(("torch", "torchvision")),
    }
    found: dict[str, Any] = {}
    for name in METHODS:
        options = OPTIONS.get(name, {})
        torch.manual_seed(0)
        found[name] = {"options": dict(options), **pointing(model, images, name, options)}
        print(name, found[name], flush=True)
    RESULTS.write_text(json.dumps({**setting, "methods": found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
