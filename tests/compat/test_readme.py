"""The README says which classes the adapters have and which they lack."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest
import pytorch_grad_cam
import torchcam.methods

from fastcam.compat import grad_cam
from fastcam.compat.torchcam import methods

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "ours", "theirs", "base"),
    [
        ("pytorch-grad-cam", grad_cam, pytorch_grad_cam, "BaseCAM"),
        ("torchcam", methods, torchcam.methods, "Extractor"),
    ],
    ids=["grad_cam", "torchcam"],
)
def test_classes_are_told(name: str, ours: ModuleType, theirs: ModuleType, base: str) -> None:
    told = re.search(rf"Of {name} there are(.*?)[,;] (?:with|not)(.*?)\.\s", README, re.DOTALL)
    assert told is not None
    there, missing = (re.findall(r"`([A-Z]\w+)`", part) for part in told.groups())
    assert sorted(there) == sorted(set(ours.__all__) - {base})
    assert missing
    assert not set(missing) & set(ours.__all__)
    assert all(hasattr(theirs, each) for each in (*there, *missing))
