"""The classes of pytorch-grad-cam, each over one of fastcam's methods."""

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fastcam.compat.grad_cam.utils.model_targets import resolve
from fastcam.compat.methods import explains_images, raw_maps
from fastcam.ops.maps import upsample

Maps = NDArray[np.float32]

# Theirs: each map is divided by its largest value plus this.
_EPSILON = 1e-7
_FACTORS = (0.9, 1.0, 1.1)


class BaseCAM:
    """What all classes share: the call, and what is made of a method's maps.

    Maps are cut at 0, scaled to [0, 1] at the layer's size, resized bilinearly to the images', averaged over the
    layers and scaled again, in that order, as theirs are.

    What differs: the model is explained as in eval mode but neither switched to it nor hooked nor given gradients;
    each image needs its target (theirs explains the first images only when given fewer); errors inside the `with`
    block are not swallowed; `outputs` carries no graph. `targets` may be left out: the predicted classes.
    """

    method: ClassVar[str]
    _projected: ClassVar[bool] = False

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        if reshape_transform is not None:
            raise ValueError(
                "reshape_transform: given, but only None is valid: fastcam explains layers of shape (N, C, h, w)"
            )
        if isinstance(target_layers, nn.Module | str):
            raise TypeError(f"target_layers: {type(target_layers).__name__} given, a list of modules is valid")
        self.model = model
        self.target_layers = list(target_layers)
        self.outputs: Tensor | None = None
        if not (self.target_layers or explains_images(self.method)):
            raise ValueError("target_layers: an empty list given, at least one module is valid")

    def __call__(
        self,
        input_tensor: Tensor,
        targets: Sequence[Any] | None = None,
        aug_smooth: bool = False,
        eigen_smooth: bool = False,
    ) -> Maps:
        """Maps (N, H, W) in [0, 1] of images (N, C, H, W).

        targets: one per image, objects of `utils.model_targets`, of pytorch-grad-cam's, or any callables from the
        logits (classes,) of one image to one number; None: the predicted classes. aug_smooth: the mean over six
        versions of the images: flipped horizontally or not, times 0.9, 1, 1.1. eigen_smooth: the first principal
        component of the weighted channels in place of their sum, its sign as EigenCAM's. EigenCAM looks at no targets.
        Afterwards `outputs` holds the logits (N, classes).
        """
        if eigen_smooth and explains_images(self.method):
            raise ValueError(
                f"eigen_smooth: True given, only False is valid for {type(self).__name__}: its map is no sum over a "
                "layer's channels"
            )
        device = next((p.device for p in self.model.parameters()), input_tensor.device)
        images = input_tensor.to(device)
        if not aug_smooth:
            return _to_numpy(self._maps(images, targets, eigen_smooth))
        versions = [(flipped, factor) for flipped in (False, True) for factor in _FACTORS]
        smooth = [
            _flip(self._maps(_flip(images, flipped) * factor, targets, eigen_smooth), flipped)
            for flipped, factor in versions
        ]
        return _to_numpy(torch.stack(smooth).mean(dim=0))

    def _maps(self, images: Tensor, targets: Sequence[Any] | None, projected: bool) -> Tensor:
        # EigenCAM asks for nothing of theirs.
        chosen, view = resolve(None if self.method == "eigen_cam" else targets, len(images))
        layers = None if explains_images(self.method) else self.target_layers
        maps, self.outputs = raw_maps(
            self.model,
            images,
            chosen,
            layers,
            method=self.method,
            view=view,
            projected=projected or self._projected,
            options=self._options(),
        )
        size = (images.shape[2], images.shape[3])
        scaled = [upsample(_scale(m.clamp(min=0))[:, None], size)[:, 0] for m in maps]
        return _scale(torch.stack(scaled).mean(dim=0))

    def _options(self) -> dict[str, Any]:
        """The method's own options."""
        return {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


def _scale(maps: Tensor) -> Tensor:
    """(m - min) / (max - min + 1e-7), per map (N, h, w)."""
    above = maps - maps.amin(dim=(1, 2), keepdim=True)
    return above / (above.amax(dim=(1, 2), keepdim=True) + _EPSILON)


def _flip(tensor: Tensor, flipped: bool) -> Tensor:
    return tensor.flip(-1) if flipped else tensor


def _to_numpy(maps: Tensor) -> Maps:
    return maps.to(device="cpu", dtype=torch.float32).numpy()


class GradCAM(BaseCAM):
    """`fastcam.grad_cam`."""

    method = "grad_cam"


class GradCAMPlusPlus(BaseCAM):
    """`fastcam.grad_cam_pp`; theirs adds 1e-6 to the denominator, which tells where gradients are that small."""

    method = "grad_cam_pp"


class XGradCAM(BaseCAM):
    """`fastcam.xgrad_cam`."""

    method = "xgrad_cam"


class LayerCAM(BaseCAM):
    """`fastcam.layer_cam`."""

    method = "layer_cam"


class HiResCAM(BaseCAM):
    """`fastcam.hires_cam`."""

    method = "hires_cam"


class FullGrad(BaseCAM):
    """`fastcam.full_grad`, which looks at all biases: target_layers are ignored, as theirs are."""

    method = "full_grad"


class EigenCAM(BaseCAM):
    """`fastcam.eigen_cam`; theirs leaves the component's sign to chance."""

    method = "eigen_cam"


class EigenGradCAM(BaseCAM):
    """`fastcam.hires_cam` with the first principal component in place of the sum: `eigen_smooth` is always on."""

    method = "hires_cam"
    _projected = True


class ScoreCAM(BaseCAM):
    """`fastcam.score_cam` with their weights: softmax over the channels of the target's score, no baseline.

    Theirs upsamples the masks with aligned corners, ours with half-pixel centres. `batch_size`: masked images per
    forward pass; None leaves it to fastcam.
    """

    method = "score_cam"

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(model, target_layers, reshape_transform)
        self.batch_size: int | None = None

    def _options(self) -> dict[str, Any]:
        return {"baseline": None, "score": "logit", "weights": "softmax", "batch_size": self.batch_size}


class AblationCAM(BaseCAM):
    """`fastcam.ablation_cam`: (y - y without the channel) / y, a channel that is left out being 0.

    Theirs sets it to 0 only where that is the layer's least value, as behind a ReLU; else the first channel of a batch
    is set to about -1e7, the second to -2e7, and so on. All channels are ablated:
    ratio_channels_to_ablate other than 1 and ablation layers of one's own are refused.
    """

    method = "ablation_cam"

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
        ablation_layer: nn.Module | None = None,
        batch_size: int = 32,
        ratio_channels_to_ablate: float = 1.0,
    ) -> None:
        super().__init__(model, target_layers, reshape_transform)
        if ablation_layer is not None:
            raise ValueError("ablation_layer: given, but only None is valid: a channel that is left out is 0")
        if ratio_channels_to_ablate != 1:
            raise ValueError(
                f"ratio_channels_to_ablate: {ratio_channels_to_ablate} given, only 1.0 is valid: every channel counts"
            )
        self.batch_size = batch_size

    def _options(self) -> dict[str, Any]:
        return {"batch_size": self.batch_size}
