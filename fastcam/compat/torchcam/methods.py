"""The extractors of torchcam, each over one of fastcam's methods."""

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from types import TracebackType
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from fastcam.compat.methods import raw_maps
from fastcam.compat.targets import Columns, Target, one_per_image
from fastcam.network.arguments import check_model
from fastcam.network.cache import network_for
from fastcam.network.layers import find_layers

TargetLayer = nn.Module | str | Sequence[nn.Module | str] | None
Classes = int | list[int] | Tensor

__all__ = [
    "CAM",
    "ISCAM",
    "SSCAM",
    "Extractor",
    "GradCAM",
    "GradCAMpp",
    "LayerCAM",
    "ScoreCAM",
    "SmoothGradCAMpp",
    "XGradCAM",
]

# Theirs: each map is divided by its largest value plus this.
_EPSILON = 1e-8


class Extractor:
    """What all extractors share: they remember the images of the last `model(images)`, and explain those.

    To see the images, an extractor registers one forward pre-hook on the model, which copies the images and changes
    nothing, until the `with` block ends or `remove_hooks()` is called. It is the only hook that fastcam ever sets: the
    call form asks for it, since the extractor is never given the images. Explaining runs no code of the model's own:
    the forward pass may as well be one in inference mode, of frozen parameters or in training mode (explained is the
    model in eval mode).

    What differs from theirs: scores may be left out, and their graph is neither needed nor freed, so that a call can
    be repeated; `target_layer=None` is fastcam's last feature map.

    Args:
        model: an image classifier.
        target_layer: a module, its dotted name, or a list of these; None: the last feature map.
        input_shape: shape of an image; asked only for the name of the layer that None stands for.
        enable_hooks: whether images are remembered from the start.
    """

    method: ClassVar[str]
    _relu: ClassVar[bool | None] = None
    _targets_supported: ClassVar[bool] = True

    def __init__(
        self,
        model: nn.Module,
        target_layer: TargetLayer = None,
        input_shape: tuple[int, ...] = (3, 224, 224),
        enable_hooks: bool = True,
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        if reshape_transform is not None:
            raise ValueError(
                "reshape_transform: given, but only None is valid: fastcam explains layers of shape (N, C, h, w)"
            )
        self.model = model
        self._layers = _layers(check_model(model), target_layer)
        self._input_shape = input_shape
        self._images: Tensor | None = None
        self._hooks_enabled = enable_hooks
        self._handle: RemovableHandle | None = model.register_forward_pre_hook(self._remember)

    @property
    def target_names(self) -> list[str]:
        """The names of the layers explained."""
        if self._layers is not None:
            return list(self._layers)
        parameter = next((p for p in self.model.parameters()), torch.empty(0))
        example = torch.zeros((1, *self._input_shape), device=parameter.device)
        model = check_model(self.model)
        return [layer.name for layer in find_layers(network_for(model, example).graph, model, None)]

    def _remember(self, _: nn.Module, given: tuple[Any, ...]) -> None:
        if self._hooks_enabled and given and isinstance(given[0], Tensor):
            self._images = given[0].detach().clone()

    def __call__(
        self,
        class_idx: Classes | None = None,
        scores: Tensor | None = None,
        normalized: bool = True,
        *,
        targets: Target | Sequence[Target] | None = None,
    ) -> list[Tensor]:
        """Maps (N, h, w) of the images last run, one tensor per layer at its size, on the images' device.

        class_idx: a class for all images, or a list with one for each. scores: what the model returned; not needed.
        normalized: (m - min) / (max - min + 1e-8) per map; False gives raw maps.
        targets: in place of class_idx, a callable from the logits (classes,) of one image to one number, or a list with
        one for each image.

        Raises:
            RuntimeError: no images were run through the model since the extractor was made or reset.
            ValueError, TypeError: classes or targets that are not valid.
        """
        return self.compute_cams(class_idx, scores, normalized, targets=targets)

    def compute_cams(
        self,
        class_idx: Classes | None = None,
        scores: Tensor | None = None,
        normalized: bool = True,
        *,
        targets: Target | Sequence[Target] | None = None,
    ) -> list[Tensor]:
        """The same as calling the extractor."""
        if class_idx is None and targets is None:
            raise ValueError("class_idx: None given, a class or a list with one class per image is valid, or targets")
        if class_idx is not None and targets is not None:
            raise ValueError("targets: given beside class_idx; one of the two is valid")
        if targets is not None and not self._targets_supported:
            raise ValueError(f"targets: given, but {type(self).__name__} explains classes alone: pass class_idx")
        if self._images is None:
            raise RuntimeError("no images to explain: run the model on them first, model(images), with hooks enabled")
        count = len(self._images)
        given = [targets] * count if callable(targets) else targets
        columns = None if given is None else Columns(one_per_image(given, count))
        # Copies made in inference mode would bind whoever differentiates them.
        images = self._images.clone() if self._images.is_inference() else self._images
        maps, _ = raw_maps(
            self.model,
            images,
            class_idx if columns is None else columns.of_images,
            self._layers,
            method=self.method,
            view=columns,
            relu=self._relu,
            options=self._options(),
        )
        return [_normalise(m) for m in maps] if normalized else maps

    def _options(self) -> dict[str, Any]:
        """The method's own options."""
        return {}

    def enable_hooks(self) -> None:
        """Remember the images of forward passes from now on."""
        self._hooks_enabled = True

    def disable_hooks(self) -> None:
        """Keep the images that are remembered, whatever else the model is run on."""
        self._hooks_enabled = False

    def reset_hooks(self) -> None:
        """Forget the images."""
        self._images = None

    def remove_hooks(self) -> None:
        """Take the hook off the model."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove_hooks()
        self.reset_hooks()

    def __repr__(self) -> str:
        layers = None if self._layers is None else list(self._layers)
        return f"{type(self).__name__}(target_layer={layers})"

    @classmethod
    def fuse_cams(cls, cams: list[Tensor], target_shape: tuple[int, int] | None = None) -> Tensor:
        """The largest value of several layers' maps at each position: (N, H, W).

        Maps are resized bilinearly to target_shape, or to the largest of their sizes; a single map is returned as it
        is.
        """
        if not isinstance(cams, list) or not all(isinstance(cam, Tensor) for cam in cams):
            raise TypeError(f"cams: {type(cams).__name__} given, a list of tensors (N, h, w) is valid")
        if not cams:
            raise ValueError("cams: an empty list given, at least one tensor is valid")
        if len(cams) == 1:
            return cams[0]
        size = target_shape or (max(cam.shape[1] for cam in cams), max(cam.shape[2] for cam in cams))
        resized = [
            F.interpolate(cls._before_fusing(cam)[:, None], size, mode="bilinear", align_corners=False) for cam in cams
        ]
        return torch.cat(resized, dim=1).amax(dim=1)

    @staticmethod
    def _before_fusing(cam: Tensor) -> Tensor:
        return cam


def _layers(model: nn.Module, given: TargetLayer) -> list[str] | None:
    """The names of the layers; None where none is given. Raises for what is no layer of the model's."""
    if given is None:
        return None
    modules = dict(model.named_modules())
    names = []
    for layer in [given] if isinstance(given, nn.Module | str) else given:
        if not isinstance(layer, nn.Module | str):
            raise TypeError(f"target_layer: {type(layer).__name__} given, modules and their names are valid")
        name = layer if isinstance(layer, str) else next((n for n, m in modules.items() if m is layer), None)
        if name is None:
            raise ValueError(f"target_layer: the {type(layer).__name__} given is no module of the model")
        # "block@1": a module's second call
        if name.partition("@")[0] not in modules:
            close = get_close_matches(name, modules)
            hint = f"; did you mean {', '.join(map(repr, close))}?" if close else "; see model.named_modules()"
            raise ValueError(f"target_layer: the model has no module {name!r}{hint}")
        names.append(name)
    if not names:
        raise ValueError("target_layer: an empty list given, at least one module or name is valid")
    return names


def _normalise(maps: Tensor) -> Tensor:
    above = maps - maps.amin(dim=(1, 2), keepdim=True)
    return above / (above.amax(dim=(1, 2), keepdim=True) + _EPSILON)


class CAM(Extractor):
    """`fastcam.cam`, not cut at 0, as theirs is not.

    fc_layer is taken for the form's sake: the classifier is found in the captured model, and anything but global
    average pooling and one linear layer behind the target layer is refused.
    """

    method = "cam"
    _relu = False
    _targets_supported = False

    def __init__(
        self,
        model: nn.Module,
        target_layer: TargetLayer = None,
        fc_layer: nn.Module | str | None = None,
        input_shape: tuple[int, ...] = (3, 224, 224),
        **kwargs: Any,
    ) -> None:
        _layers(check_model(model), fc_layer)
        super().__init__(model, target_layer, input_shape, **kwargs)


class GradCAM(Extractor):
    """`fastcam.grad_cam`."""

    method = "grad_cam"


class GradCAMpp(Extractor):
    """`fastcam.grad_cam_pp`.

    The definition is the paper's (eq. 19), a_ij = g_ij^2 / (2 g_ij^2 + (sum_xy A) g_ij^3). Theirs writes the sum over
    A g^3 in its place, and in 0.5.0 divides a copy, so that its maps are those of a_ij = g_ij^2: maps differ.
    """

    method = "grad_cam_pp"


class SmoothGradCAMpp(Extractor):
    """`fastcam.smooth_grad_cam_pp`, with the paper's sum over the activation alone, as `GradCAMpp`.

    num_samples noisy copies of the images, with noise of deviation std from torch's own random numbers.
    """

    method = "smooth_grad_cam_pp"

    def __init__(
        self,
        model: nn.Module,
        target_layer: TargetLayer = None,
        num_samples: int = 4,
        std: float = 0.3,
        input_shape: tuple[int, ...] = (3, 224, 224),
        **kwargs: Any,
    ) -> None:
        super().__init__(model, target_layer, input_shape, **kwargs)
        self.num_samples, self.std = num_samples, std

    def _options(self) -> dict[str, Any]:
        return {"samples": self.num_samples, "std": self.std}


class XGradCAM(Extractor):
    """`fastcam.xgrad_cam`."""

    method = "xgrad_cam"


class LayerCAM(Extractor):
    """`fastcam.layer_cam`; fusing scales maps by tanh(2 m) first (eq. 9 of its paper)."""

    method = "layer_cam"

    @staticmethod
    def _before_fusing(cam: Tensor) -> Tensor:
        return torch.tanh(2 * cam)


class _Scored(Extractor):
    """Masked images run through the model, batch_size at a time."""

    def __init__(
        self,
        model: nn.Module,
        target_layer: TargetLayer = None,
        batch_size: int = 32,
        input_shape: tuple[int, ...] = (3, 224, 224),
        **kwargs: Any,
    ) -> None:
        super().__init__(model, target_layer, input_shape, **kwargs)
        self.bs = batch_size

    def _options(self) -> dict[str, Any]:
        return {"batch_size": self.bs}


class ScoreCAM(_Scored):
    """`fastcam.score_cam` with their weights: softmax over the channels of the class's logit.

    Theirs scales masks to [0, 1] before they are upsampled, ours after.
    """

    method = "score_cam"

    def _options(self) -> dict[str, Any]:
        return {**super()._options(), "baseline": None, "score": "logit", "weights": "softmax"}


class SSCAM(_Scored):
    """`fastcam.ss_cam`: num_samples noisy masks per channel, with noise of deviation std."""

    method = "ss_cam"

    def __init__(
        self,
        model: nn.Module,
        target_layer: TargetLayer = None,
        batch_size: int = 32,
        num_samples: int = 35,
        std: float = 2.0,
        input_shape: tuple[int, ...] = (3, 224, 224),
        **kwargs: Any,
    ) -> None:
        super().__init__(model, target_layer, batch_size, input_shape, **kwargs)
        self.num_samples, self.std = num_samples, std

    def _options(self) -> dict[str, Any]:
        return {**super()._options(), "samples": self.num_samples, "std": self.std}


class ISCAM(_Scored):
    """`fastcam.is_cam` with their scales, (1 + 2 + ... + i) / num_samples for i = 1 ... num_samples."""

    method = "is_cam"

    def __init__(
        self,
        model: nn.Module,
        target_layer: TargetLayer = None,
        batch_size: int = 32,
        num_samples: int = 10,
        input_shape: tuple[int, ...] = (3, 224, 224),
        **kwargs: Any,
    ) -> None:
        super().__init__(model, target_layer, batch_size, input_shape, **kwargs)
        self.num_samples = num_samples

    def _options(self) -> dict[str, Any]:
        return {**super()._options(), "samples": self.num_samples, "scales": "cumulative"}
