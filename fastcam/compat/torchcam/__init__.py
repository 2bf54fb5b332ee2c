"""The call form of torchcam 0.5.0: `from fastcam.compat.torchcam.methods import LayerCAM` in place of its own import.

    with LayerCAM(model, "layer4") as extractor:
        out = model(images)
        maps = extractor(out.argmax(1).tolist(), out)  # one tensor (N, h, w) in [0, 1] per layer

`methods` and `utils` lie where theirs do. The package itself is not needed. What differs is told at
`methods.Extractor`.
"""

from fastcam.compat.torchcam import methods, utils

__all__ = ["methods", "utils"]
