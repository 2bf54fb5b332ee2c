"""Whole explanations on a GPU: images per second and joules per image, against the reference operators and peers."""

import copy
import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import fastcam
from bench.gpu_machine import device_is_lost, watched
from bench.gpu_results import Job
from fastcam.network.precision import matrix_precision, resolve
from fastcam.ops.backend import use_backend

SIDE = 224
WARM_UP_SECONDS, WINDOW_SECONDS, ROUNDS = 0.1, 0.3, 5
# The energy counter samples a quarter of the time: it takes seconds to say something.
ENERGY_SECONDS, ENERGY = 3.0, ("fastcam, float32", "fastcam, bfloat16", "stock forward, bfloat16 autocast")
Setting = tuple[str, str, str | None, int]  # model, method, layer, batch
SETTINGS: list[Setting] = [
    *(("resnet50", "grad_cam", "layer4", batch) for batch in (1, 32, 256)),
    *(("resnet50", "relevance_cam", layer, batch) for layer in ("layer2", "layer4") for batch in (1, 32, 256)),
    *(("efficientnet_lite0", "relevance_cam", "head.activation", batch) for batch in (32, 256)),
    ("efficientnet_lite0", "score_cam", "head.activation", 1),
]
FAMILIES: list[Setting] = [
    *(("resnet50", method, "layer4", 32) for method in ("layer_cam", "grad_cam_pp", "eigen_cam")),
    *(("resnet50", method, None, 32) for method in ("gradient", "guided_backprop", "full_grad", "lrp")),
    *(("efficientnet_lite0", method, "head.activation", 1) for method in ("ss_cam", "is_cam", "ablation_cam")),
    *(("resnet50", method, layer, 8) for method, layer in (("rap", None), ("rsp", "layer4"), ("agf", None))),
    ("resnet50", "ucag", "layer4", 8),
]
# What is not measured, for the time, and the measured method that tells of it: it takes the same passes, or, from
# smooth_grad_cam_pp on, fewer of them than its own, which `fastcam methods` counts.
TOLD_BY = {
    **dict.fromkeys(("xgrad_cam", "wgrad_cam", "abs_cam_init", "norm_grad"), "grad_cam"),
    "hires_cam": "layer_cam",
    "deconvnet": "guided_backprop",
    **dict.fromkeys(("cam", "fake_cam", "random_cam"), "eigen_cam"),
    "excitation_backprop": "relevance_cam",
    "smooth_grad_cam_pp": "grad_cam_pp",
    "cameras": "grad_cam",
    **dict.fromkeys(("clrp", "sglrp"), "lrp"),
    **dict.fromkeys(("group_cam", "abs_cam", "rise"), "score_cam"),
    "extremal_perturbation": "gradient",
}
PRECISIONS = ("float32", "tf32", "bfloat16", "float16")
PEERS_IN = ("float32", "tf32")


def build(name: str) -> nn.Module:
    """A model on the device; speed does not depend on weights, but for score_cam, which skips dead channels."""
    if name == "efficientnet_lite0":
        return fastcam.models.efficientnet_lite0(pretrained=True).eval().cuda()
    from torchvision.models import get_model

    return get_model(name, weights=None).eval().cuda()  # type: ignore[no-any-return]


def draw_images(batch: int) -> Tensor:
    """Random images on the device, the same in every run."""
    return torch.rand(batch, 3, SIDE, SIDE, device="cuda", generator=torch.Generator("cuda").manual_seed(0))


# The names of the same method in grad-cam and in torchcam. Not grad-cam's FullGrad: it resizes a map of every
# channel of every layer on the CPU, where eight images take it from 7 to 29 s a call.
PEERS: dict[str, tuple[str | None, str | None]] = {
    "grad_cam": ("GradCAM", "GradCAM"),
    "grad_cam_pp": ("GradCAMPlusPlus", "GradCAMpp"),
    "layer_cam": ("LayerCAM", "LayerCAM"),
    "eigen_cam": ("EigenCAM", None),
    "ablation_cam": ("AblationCAM", None),
    "score_cam": ("ScoreCAM", "ScoreCAM"),
    "ss_cam": (None, "SSCAM"),
    "is_cam": (None, "ISCAM"),
}
# Few samples, for fastcam and torchcam alike.
SAMPLED = {"ss_cam": 2, "is_cam": 2}
BATCH = 128


def peers(
    model: nn.Module, method: str, layer: str | None, images: Tensor, targets: list[int]
) -> dict[str, Callable[[], Any]]:
    """What of the same kind the installed peers have, channels-last, in float32 and with TF32's products."""
    found: dict[str, Callable[[], Any]] = {}
    in_grad_cam, in_torchcam = PEERS.get(method, (None, None))
    laid_out = model.to(memory_format=torch.channels_last)
    photos = images.contiguous(memory_format=torch.channels_last)
    if in_grad_cam is not None and importlib.util.find_spec("pytorch_grad_cam"):
        import pytorch_grad_cam
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        at = [] if layer is None else [laid_out.get_submodule(layer)]
        peer = getattr(pytorch_grad_cam, in_grad_cam)(model=laid_out, target_layers=at)
        peer.batch_size = BATCH
        chosen = [ClassifierOutputTarget(target) for target in targets]
        found["grad-cam"] = lambda: peer(input_tensor=photos, targets=chosen)
    if in_torchcam is not None and importlib.util.find_spec("torchcam"):
        from torchcam import methods as torchcam_methods

        batched = {"batch_size": BATCH} if method in ("score_cam", *SAMPLED) else {}
        sampled = {"num_samples": SAMPLED[method]} if method in SAMPLED else {}

        def torchcam() -> Any:
            with getattr(torchcam_methods, in_torchcam)(laid_out, layer, **batched, **sampled) as extractor:
                return extractor(targets, laid_out(photos))

        found["torchcam"] = torchcam
    return found


def variants(model: nn.Module, method: str, layer: str | None, images: Tensor) -> dict[str, Callable[[], Any]]:
    """fastcam in every precision, its references, the model's own forward, and the peers."""
    targets = torch.arange(len(images), device=images.device) % 1000
    options = {"samples": SAMPLED[method]} if method in SAMPLED else {}

    def own(precision: str, backend: str) -> Callable[[], Any]:
        settings = {"layer": layer, "precision": precision, **options}
        if method == "ucag":
            explainer: Callable[..., Any] = fastcam.Ucag(model, method="grad_cam", **settings)
        else:
            explainer = fastcam.Explainer(model, method=method, **settings)

        def run() -> Any:
            with use_backend(backend):
                return explainer(images, targets)

        return run

    def forward() -> Any:
        with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
            return model(images)

    found: dict[str, Callable[[], Any]] = {f"fastcam, {p}": own(p, "triton") for p in PRECISIONS}
    found["fastcam, bfloat16, references"] = own("bfloat16", "reference")
    found["stock forward, bfloat16 autocast"] = forward
    for peer, run in peers(copy.deepcopy(model), method, layer, images, targets.tolist()).items():
        # PyTorch's own setting allows TF32 to convolutions alone: it is neither of fastcam's.
        found |= {f"{peer}, {precision}": _in_precision(run, precision, images.device) for precision in PEERS_IN}
    return found


def _in_precision(run: Callable[[], Any], precision: str, device: torch.device) -> Callable[[], Any]:
    def inside() -> Any:
        with matrix_precision(resolve(precision, torch.float32, device), device):
            return run()

    return inside


def window(run: Callable[[], Any], seconds: float) -> tuple[float, int]:
    """Return seconds a call, and how many calls filled the window."""
    calls = 0
    torch.cuda.synchronize()
    start = time.perf_counter()
    while time.perf_counter() - start < seconds or calls == 0:
        run()
        calls += 1
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / calls, calls


def joules_per_image(runs: dict[str, Callable[[], Any]], batch: int) -> dict[str, float | None]:
    """Return the energy of the device per image, from its counter over several seconds; None where NVML has none."""
    found: dict[str, float | None] = {}
    for variant in ENERGY:
        if variant in runs:
            with watched() as seen:
                _, calls = window(runs[variant], ENERGY_SECONDS)
            found[variant] = None if seen["joules"] is None else seen["joules"] / (calls * batch)
    return found


def jobs(settings: Sequence[Setting]) -> Iterator[Job]:
    """Every setting, to be measured, the largest batch first."""
    for name, method, layer, batch in sorted(settings, key=lambda setting: -setting[3]):
        yield Job(f"{name} {method} {layer or 'input'} {batch}", partial(_row, name, method, layer, batch))


def _row(name: str, method: str, layer: str | None, batch: int) -> dict[str, Any]:
    """Measure one setting, the variants taking turns. A variant that fails is named with its error."""
    model = build(name)
    images = draw_images(batch)
    seconds: dict[str, list[float]] = {}
    failed: dict[str, str] = {}
    conditions: dict[str, Any] = {}
    runs = variants(model, method, layer, images)
    for round_ in range(ROUNDS + 1):
        for variant, run in runs.items():
            if variant in failed:
                continue
            try:
                with watched() as seen:
                    taken, _ = window(run, WINDOW_SECONDS if round_ else WARM_UP_SECONDS)
            except Exception as error:
                if device_is_lost():
                    raise
                failed[variant] = f"{type(error).__name__}: {error}"[:300]
                continue
            if round_:  # the first warms up
                seconds.setdefault(variant, []).append(taken)
                conditions[variant] = seen
    good = {variant: run for variant, run in runs.items() if variant not in failed}
    found = {
        "model": name,
        "method": method,
        "layer": layer,
        "batch": batch,
        "seconds": {variant: statistics.median(seconds[variant]) for variant in good},
        "spread": {variant: [min(seconds[variant]), max(seconds[variant])] for variant in good},
        "images_per_s": {variant: batch / statistics.median(seconds[variant]) for variant in good},
        "joules_per_image": joules_per_image(good, batch),
        "failed": failed,
        "conditions": {variant: conditions[variant] for variant in good},
    }
    fastcam.clear_cache()
    return found
