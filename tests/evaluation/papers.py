"""The tables of the papers, rows and cells as they are printed: a second writing of what the presets hold.

`PRINTED` has the figures by preset, by (model, layer, method) and by column; `SETTINGS` the protocols.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

# What stands at the side or above a cell, by field: preset, model, layer, method, column.
Key = Mapping[str, str]

PRINTED: dict[str, dict[tuple[str, str | None, str], dict[str, str]]] = {}
PERCENT: dict[str, set[str]] = {}


def _over(*levels: Sequence[Key]) -> list[Key]:
    """Columns under several levels of headings, the outermost first."""
    return [{name: value for key in keys for name, value in key.items()} for keys in product(*levels)]


def _named(field: str, names: str) -> list[Key]:
    return [{field: name} for name in names.split(", ")]


def _table(text: str, columns: Sequence[Key], rows: Mapping[str, Key] | None = None, *, percent: str = "") -> None:
    """Enter a table: each line has a label (a method, or one of `rows`), a colon, a number or "-" for each column."""
    for line in text.strip().splitlines():
        label, _, cells = line.rpartition(": ")
        at = {"method": label} if rows is None else rows[label]
        numbers = re.findall(r"[\d.]+|-", cells)
        assert len(numbers) == len(columns), line
        for number, column in zip(numbers, columns, strict=True):
            key = {**at, **column}
            PERCENT.setdefault(key["preset"], set()).update(percent.split())
            if number != "-":
                place = (key["model"], key.get("layer"), key["method"])
                PRINTED.setdefault(key["preset"], {}).setdefault(place, {})[key["column"]] = number


_table(
    """
Grad-CAM: 74.91 4.45 23.13 24.05
Grad-CAM++: 71.15 4.85 22.03 25.35
Score-CAM: 56.59 8.8 21.89 24.65
Relevance-CAM: 39.02 16.6 21.53 25.7
""",
    _over(
        [{"preset": "relevance-cam/table1", "model": "resnet50"}],
        _named("layer", "layer2, layer4"),
        _named("column", "drop, increase"),
    ),
)
_table(
    """
Grad-CAM: 85.43 1.5 23.15 22.35
Grad-CAM++: 86.77 1.3 22.98 22.35
Score-CAM: 76.11 3.2 21.22 23.5
Relevance-CAM: 72.25 3.9 22.42 24.95
""",
    _over(
        [{"preset": "relevance-cam/table2", "model": "vgg16_bn"}],
        _named("layer", "features.23, features.43"),
        _named("column", "drop, increase"),
    ),
)
_table(
    """
Grad-CAM: 0.12 0.18 0.22 0.34
Grad-CAM++: 0.13 0.19 0.22 0.34
Score-CAM: 0.21 0.25 0.28 0.34
Relevance-CAM: 0.30 0.32 0.32 0.34
""",
    _over(
        [{"preset": "relevance-cam/table3", "model": "resnet50", "column": "iou"}],
        _named("layer", "layer1, layer2, layer3, layer4"),
    ),
)
_table(
    """
Grad-CAM: 41.5 20.8 0.4626 0.1110
Grad-CAM++: 40.8 22.3 0.4484 0.1179
SGCAM++: 41.1 23.4 0.4504 0.1169
Score-CAM: 35.6 29.5 0.4929 0.1099
Group-CAM: 35.7 29.7 0.493 0.1108
Abs-CAM_init: 39.8 25.6 0.4712 0.1107
Abs-CAM: 34.2 30.1 0.4949 0.1096
""",
    _over([{"preset": "abs-cam/table2", "model": "vgg16"}], _named("column", "drop, increase, insertion, deletion")),
)
_table(
    """
Grad-CAM: 0.589 16.84
Grad-CAM++: 0.576 17.83
SGCAM++: 0.594 22.43
Score-CAM: 0.637 22.65
Group-CAM: 0.642 17.14
Abs-CAM_init: 0.601 16.98
Abs-CAM: 0.652 23.46
""",
    _over([{"preset": "abs-cam/table3", "model": "vgg16"}], _named("column", "pointing, seconds")),
)
_table(
    """
Grad-CAM: 66.42 5.92 32.99 24.27
XGrad-CAM: 73.84 4.09 - -
Grad-CAM++: 32.88 20.10 12.82 40.63
Smooth Grad-CAM++: 36.72 16.11 15.21 35.62
Score-CAM: 26.13 24.75 8.61 46.00
Fake-CAM: 0.15 45.51 0.38 47.54
""",
    _over([{"preset": "adcc/table1"}], _named("model", "vgg16, resnet50"), _named("column", "drop, increase")),
)
for _models, _cells in {
    "vgg16, resnet18": """
Fake-CAM: 0.15 45.51 32.87 35.70 100.00 100.00 0.01 0.24 45.37 31.12 33.44 100.00 100.00 0.01
Grad-CAM: 66.42 5.92 11.12 19.56 69.20 15.65 53.52 42.90 16.63 13.43 41.47 81.03 23.04 69.98
XGrad-CAM: 73.84 4.09 11.59 14.95 66.69 13.68 46.29 - - - - - - -
Grad-CAM++: 32.88 20.10 8.82 36.60 89.34 26.33 75.65 17.85 34.46 12.30 44.80 98.18 44.63 74.24
Smooth Grad-CAM++: 36.72 16.11 10.57 31.36 82.68 28.09 71.72 20.67 29.99 12.83 43.13 97.53 43.11 74.20
Score-CAM: 26.13 24.75 9.52 47.00 93.83 20.27 81.66 12.81 40.41 10.76 46.01 98.35 41.78 77.30
""",
    "resnet50, resnet101": """
Fake-CAM: 0.38 47.54 38.06 38.72 100.00 100.00 0.01 0.36 43.98 43.66 41.64 100.00 100.00 0.01
Grad-CAM: 32.99 24.27 17.49 48.48 82.80 22.24 75.27 29.38 29.35 18.66 47.47 81.97 22.51 76.40
Grad-CAM++: 12.82 40.63 14.10 53.51 97.84 43.99 75.86 11.38 42.07 14.99 56.65 98.28 43.94 76.34
Smooth Grad-CAM++: 15.21 35.62 15.21 52.43 97.47 42.25 76.19 13.37 37.76 14.32 58.23 97.76 42.61 76.54
Score-CAM: 8.61 46.00 13.33 54.16 98.12 42.05 78.14 7.20 47.93 14.63 59.57 98.37 42.04 78.55
""",
    "resnext50_32x4d, resnext101_32x8d": """
Fake-CAM: 0.34 46.70 41.67 43.31 100.00 100.00 0.01 0.26 42.43 48.90 46.79 100.00 100.00 0.01
Grad-CAM: 28.06 29.42 20.73 50.30 82.72 25.57 76.09 24.12 36.37 20.47 61.04 82.94 25.45 77.62
Grad-CAM++: 11.12 41.38 17.07 56.05 97.30 48.66 73.16 9.74 42.63 17.63 62.90 95.05 46.27 74.61
Smooth Grad-CAM++: 12.70 36.58 16.90 56.76 97.32 47.48 73.58 9.49 40.43 17.67 64.16 96.81 49.24 73.03
Score-CAM: 7.20 45.70 15.59 57.92 98.00 46.86 75.38 5.37 47.70 17.30 63.61 97.03 46.83 75.60
""",
}.items():
    _table(
        _cells,
        _over(
            [{"preset": "adcc/table2"}],
            _named("model", _models),
            _named("column", "drop, increase, deletion, insertion, coherency, complexity, adcc_of_means"),
        ),
        percent="deletion insertion coherency complexity adcc_of_means",
    )
_table(
    """
GCAM: 11.3/53.9 | 10.6/48.1 | 10.0/52.8
GCAM++: 11.6/52.7 | 10.9/47.2 | 10.1/52.0
WGCAM: 10.1/52.1 | 10.8/47.7 | 10.1/52.1
GCAM*: 8.6/53.4 | 8.9/49.0 | 8.59/53.4
GCAM++*: 8.7/52.7 | 9.2/48.0 | 8.86/51.9
WGCAM*: 9.1/52.8 | 9.3/48.6 | 9.08/52.5
""",
    _over(
        [{"preset": "ucag/table1"}],
        _named("model", "resnet50, densenet121, inception_v3"),
        _named("column", "deletion, insertion"),
    ),
    percent="deletion insertion",
)
_table(
    """
Center: 69.6/42.4 | 69.6/42.4 | 27.8/19.5 | 27.8/19.5
Gradient: 76.3/56.9 | 72.3/56.8 | 37.7/31.4 | 35.0/29.4
DeConv: 67.5/44.2 | 68.6/44.7 | 30.7/23.0 | 30.0/21.9
Guid: 75.9/53.0 | 77.2/59.4 | 39.1/31.4 | 42.1/35.3
MWP: 77.1/56.6 | 84.4/70.8 | 39.8/32.8 | 49.6/43.9
cMWP: 79.9/66.5 | 90.7/82.1 | 49.7/44.3 | 58.5/53.6
RISE: 86.9/75.1 | 86.4/78.8 | 50.8/45.3 | 54.7/50.0
GradCAM: 86.6/74.0 | 90.4/82.3 | 54.2/49.0 | 57.3/52.3
Extremal: 88.0/76.1 | 88.9/78.7 | 51.5/45.9 | 56.5/51.5
NormGrad: 81.9/64.8 | 84.6/72.2 | -/- | -/-
CAMERAS: 86.2/76.2 | 94.2/88.8 | 55.4/50.7 | 69.6/66.4
Ours: 91.1/82.8 | 94.2/89.4 | 61.8/57.6 | 71.0/67.6
""",
    _over(
        _named("preset", "ucag/table2, ucag/table2-coco14"),
        _named("model", "vgg16, resnet50"),
        _named("column", "pointing, pointing_difficult"),
    ),
    percent="pointing pointing_difficult",
)
_table(
    """
VGG, VOC07: 56.6(40.1)/59.7(43.6) | 53.7(36.0)/61.4(47.6) | 55.6(39.6)/59.3(43.2) | 55.6(37.4)/56.5(38.5)
VGG, COCO14: 25.5(19.6)/29.9(23.8) | 22.4(16.5)/29.2(23.3) | 25.0(19.2)/28.6(22.6) | 24.4(18.1)/26.8(20.3)
ResNet, VOC07: 61.3(45.3)/74.0(66.8) | 52.9(31.8)/63.9(47.6) | 61.3(45.3)/74.0(66.8) | 55.9(36.8)/64.2(44.9)
ResNet, COCO14: 27.5(21.1)/42.7(37.4) | 21.9(15.2)/31.4(25.0) | 27.5(21.1)/42.7(37.4) | 23.1(16.5)/35.4(29.6)
""",
    _over(
        _named("method", "GCAM, GCAM + UCAG, GCAM++, GCAM++ + UCAG, XGCAM, XGCAM + UCAG, WGCAM, WGCAM + UCAG"),
        _named("column", "energy_pointing, energy_pointing_difficult"),
    ),
    {
        "VGG, VOC07": {"preset": "ucag/table3", "model": "vgg16"},
        "VGG, COCO14": {"preset": "ucag/table3-coco14", "model": "vgg16"},
        "ResNet, VOC07": {"preset": "ucag/table3", "model": "resnet50"},
        "ResNet, COCO14": {"preset": "ucag/table3-coco14", "model": "resnet50"},
    },
    percent="energy_pointing energy_pointing_difficult",
)
_table(
    """
VGG, mAP: 0.789/0.783 | 0.700/0.682 | 0.547/0.559 | 0.551/0.570 | 0.735/0.743 | 0.743/0.752 | 0.740/0.752
VGG, Pixel Acc.: 0.742/0.737 | 0.750/0.730 | 0.534/0.556 | 0.543/0.587 | 0.786/0.789 | 0.793/0.796 | 0.779/0.794
ResNet, mAP: 0.748/0.774 | 0.717/0.722 | 0.671/0.694 | 0.588/0.617 | 0.711/0.761 | 0.719/0.766 | 0.758/0.783
ResNet, Pixel Acc.: 0.798/0.821 | 0.770/0.774 | 0.716/0.736 | 0.608/0.648 | 0.763/0.809 | 0.775/0.813 | 0.804/0.826
""",
    [
        {"preset": "ucag/table4", "method": method + with_ucag}
        for method in ("FullGrad", "LRP", "c*LRP", "SGLRP", "RAP", "RSP", "AGF")
        for with_ucag in ("", " + UCAG")
    ],
    {
        "VGG, mAP": {"model": "vgg19", "column": "average_precision"},
        "VGG, Pixel Acc.": {"model": "vgg19", "column": "pixel_accuracy"},
        "ResNet, mAP": {"model": "resnet50", "column": "average_precision"},
        "ResNet, Pixel Acc.": {"model": "resnet50", "column": "pixel_accuracy"},
    },
)
for _column, _cells in {
    "positive_density": "ResNet50: 2.33 3.20 3.89\nDenseNet: 2.35 3.23 3.45\nInceptionv3: 2.18 3.15 3.83",
    "negative_density": "ResNet50: 0.86 0.81 0.81\nDenseNet: 0.94 0.83 0.82\nInceptionv3: 1.04 0.93 0.85",
}.items():
    _table(
        _cells,
        _over([{"preset": "ucag/table5", "column": _column}], _named("method", "GCAM, CAMERAS, Ours")),
        {
            "ResNet50": {"model": "resnet50"},
            "DenseNet": {"model": "densenet121"},
            "Inceptionv3": {"model": "inception_v3"},
        },
    )

# -- protocols

# What a study has where nothing else is said below.
_PLAIN = {"targets": "predicted", "subset": None, "correct_only": False, "space": "normalized", "options": {}}
# Relevance-CAM and Abs-CAM resize without a crop; ADCC resizes the short side to 224 and crops.
_SQUARE, _CROPPED, _OWN = ("224x224", None), ("224", "224"), (None, None)
_RELEVANCE_CAM = {
    "dataset": "imagenet", "subset": 2000, "correct_only": True, "targets": "label", "view": _SQUARE,
    "methods": {
        "Grad-CAM": "grad_cam", "Grad-CAM++": "grad_cam_pp", "Score-CAM": "score_cam",
        "Relevance-CAM": "relevance_cam",
    },
}  # fmt: skip
_ABS_CAM = {
    "dataset": "imagenet", "view": _SQUARE, "models": {"vgg16": ("features.29",)},
    "methods": {
        "Grad-CAM": "grad_cam", "Grad-CAM++": "grad_cam_pp", "SGCAM++": "smooth_grad_cam_pp", "Score-CAM": "score_cam",
        "Group-CAM": "group_cam", "Abs-CAM_init": "abs_cam_init", "Abs-CAM": "abs_cam",
    },
}  # fmt: skip
_ADCC = {
    "dataset": "imagenet", "view": _CROPPED,
    "methods": {
        "Fake-CAM": "fake_cam", "Grad-CAM": "grad_cam", "XGrad-CAM": "xgrad_cam", "Grad-CAM++": "grad_cam_pp",
        "Smooth Grad-CAM++": "smooth_grad_cam_pp", "Score-CAM": "score_cam",
    },
}  # fmt: skip
_POINTING = {
    "targets": "label", "view": _SQUARE, "models": {"vgg16": None, "resnet50": None}, "options": {"tolerance": 15},
    "metrics": ["pointing"],
    "methods": {
        "Gradient": "gradient", "DeConv": "deconvnet", "Guid": "guided_backprop", "MWP": "excitation_backprop",
        "cMWP": "excitation_backprop, contrastive", "RISE": "rise", "GradCAM": "grad_cam",
        "Extremal": "extremal_perturbation", "NormGrad": "norm_grad", "CAMERAS": "cameras", "Ours": "ucag of grad_cam",
    },
}  # fmt: skip
_CAMS = {"GCAM": "grad_cam", "GCAM++": "grad_cam_pp", "XGCAM": "xgrad_cam", "WGCAM": "wgrad_cam"}
_RELEVANCE = {
    "FullGrad": "full_grad", "LRP": "lrp", "c*LRP": "clrp", "SGLRP": "sglrp", "RAP": "rap", "RSP": "rsp", "AGF": "agf",
}  # fmt: skip
_ENERGY = {
    "targets": "label", "view": _SQUARE, "models": {"vgg16": None, "resnet50": None}, "metrics": ["energy_pointing"],
    "methods": _CAMS | {f"{label} + UCAG": f"ucag of {name}" for label, name in _CAMS.items()},
}  # fmt: skip
_THREE = {"resnet50": None, "densenet121": None, "inception_v3": None}

# models: with their layers, None: each method's own. methods: by label, "NAME", "NAME, OPTION" or "ucag of NAME".
# view: resize and crop, of every model. weights: of each model, "MODEL" standing for its name.
SETTINGS: dict[str, dict[str, Any]] = {
    name: {**_PLAIN, "weights": "IMAGENET1K_V1", **settings}
    for name, settings in {
        "relevance-cam/table1": {
            **_RELEVANCE_CAM, "models": {"resnet50": ("layer2", "layer4")}, "metrics": ["drop", "increase"],
            "options": {"mask": "top50"},
        },
        "relevance-cam/table2": {
            **_RELEVANCE_CAM, "models": {"vgg16_bn": ("features.23", "features.43")}, "metrics": ["drop", "increase"],
            "options": {"mask": "top50"},
        },
        "relevance-cam/table3": {
            **_RELEVANCE_CAM, "models": {"resnet50": ("layer1", "layer2", "layer3", "layer4")}, "metrics": ["iou"],
        },
        "abs-cam/table2": {
            **_ABS_CAM, "subset": 5500, "metrics": ["drop", "increase", "insertion", "deletion"],
            "options": {"mask": "top50", "step": 1792},
        },
        "abs-cam/table3": {
            **_ABS_CAM, "subset": 300, "targets": "label", "metrics": ["pointing"], "options": {"tolerance": 0},
        },
        "adcc/table1": {
            **_ADCC, "models": {"vgg16": ("features.29",), "resnet50": ("layer4",)}, "metrics": ["drop", "increase"],
            "options": {"mask": "soft"},
        },
        "adcc/table2": {
            **_ADCC,
            "models": {
                "vgg16": ("features.29",), "resnet18": ("layer4",), "resnet50": ("layer4",), "resnet101": ("layer4",),
                "resnext50_32x4d": ("layer4",), "resnext101_32x8d": ("layer4",),
            },
            "metrics": ["drop", "increase", "deletion", "insertion", "coherency", "complexity", "adcc"],
            "options": {"mask": "soft", "step": 1792},
        },
        "ucag/table1": {
            "dataset": "imagenet", "view": _OWN, "models": _THREE, "metrics": ["deletion", "insertion"],
            "options": {"step": 1792},
            "methods": {
                "GCAM": "grad_cam", "GCAM++": "grad_cam_pp", "WGCAM": "wgrad_cam", "GCAM*": "ucag of grad_cam",
                "GCAM++*": "ucag of grad_cam_pp", "WGCAM*": "ucag of wgrad_cam",
            },
        },
        "ucag/table2": {**_POINTING, "dataset": "voc07", "weights": "MODEL-voc07.pth"},
        "ucag/table2-coco14": {**_POINTING, "dataset": "coco14", "weights": "MODEL-coco14.pth"},
        "ucag/table3": {**_ENERGY, "dataset": "voc07", "weights": "MODEL-voc07.pth"},
        "ucag/table3-coco14": {**_ENERGY, "dataset": "coco14", "weights": "MODEL-coco14.pth"},
        "ucag/table4": {
            "dataset": "imagenet-segmentation", "view": _SQUARE, "models": {"vgg19": None, "resnet50": None},
            "metrics": ["average_precision", "pixel_accuracy"],
            "methods": _RELEVANCE | {f"{label} + UCAG": f"ucag of {name}" for label, name in _RELEVANCE.items()},
        },
        "ucag/table5": {
            "dataset": "imagenet", "view": _OWN, "models": _THREE, "metrics": ["positive_density", "negative_density"],
            "methods": {"GCAM": "grad_cam", "CAMERAS": "cameras", "Ours": "ucag of grad_cam"},
        },
    }.items()
}  # fmt: skip
