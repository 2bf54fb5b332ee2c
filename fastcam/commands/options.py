"""Options that several commands take."""

from typing import Annotated

import typer

Model = Annotated[
    str,
    typer.Option(
        help="A torchvision classifier, efficientnet_lite0, or package.module:function. A function's model gets photos "
        "as ImageNet's models do, in grey where its first convolution takes one channel."
    ),
]
Weights = Annotated[
    str,
    typer.Option(
        help="default or a name such as IMAGENET1K_V1 (torchvision's, downloaded once), none (random), or a file with "
        "a state dict. The model of a function is taken as it comes unless a file is named.",
        metavar="WEIGHTS",
    ),
]
Layers = Annotated[
    str | None,
    typer.Option(
        help="Module names between commas, such as layer2,layer4; for methods that take a layer.",
        show_default="the last layer, or the images",
    ),
]
Device = Annotated[
    str | None,
    typer.Option(help="cpu, cuda, cuda:1, ...", show_default="cuda where there is one, else cpu"),
]
Precision = Annotated[
    str | None,
    typer.Option(help="float32, tf32, bfloat16 or float16.", show_default="the model's own"),
]
Resize = Annotated[
    str | None,
    typer.Option(
        help="256 for the short side, or 224x224 for exactly that (then nothing is cropped unless --crop says so).",
        metavar="SIZE",
        show_default="the model's own",
    ),
]
Crop = Annotated[
    str | None,
    typer.Option(
        help="Centre crop after resizing, such as 224 or 224x224, or none.",
        metavar="SIZE",
        show_default="the model's own",
    ),
]
