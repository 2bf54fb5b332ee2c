"""Whole explanations on a GPU: images per second and joules per image, against the reference operators and peers."""

import copy
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

import fastcam
from bench.gpu_machine import watched
from fastcam.ops.backend import use_backend

SIDE = 224
WINDOW_SECONDS, ROUNDS = 0.4, 5
# The energy counter samples a quarter of the time: it takes seconds to say something.
ENERGY_SECONDS, ENERGY = 3.0, ("fastcam, float32", "fastcam, bfloat16", "stock forward, bfloat16 autocast")
SETTINGS = [
    # model, method, layer, batch
    *(("resnet50", "grad_cam", "layer4", batch) for batch in (1, 32, 256)),
    *(("resnet50", "relevance_cam", layer, batch) for layer in ("layer2", "layer4") for batch in (1, 32, 256)),
    *(("efficientnet_lite0", "relevance_cam", "head.activation", batch) for batch in (32, 256)),
    ("efficientnet_lite0", "score_cam", "head.activation", 1),
    *(("resnet50", method, "layer4", 32) for method in ("layer_cam", "grad_cam_pp", "eigen_cam")),
    *(("resnet50", method, None, 32) for method in ("gradient", "guided_backprop", "full_grad", "lrp")),
    *(("efficientnet_lite0", method, "head.activation", 1) for method in ("ss_cam", "is_cam", "ablation_cam")),
    ("resnet50", "ucag", "layer4", 8),
]
PRECISIONS = ("float32", "tf32", "bfloat16", "float16")


def build(name: str) -> nn.Module:
    """A model on the device; speed does not depend on weights, but for score_cam, which skips dead channels."""
    if name == "efficientnet_lite0":
        return fastcam.models.efficientnet_lite0(pretrained=True).eval().cuda()
    from torchvision.models import get_model

    return get_model(name, weights=None).eval().cuda()  # type: ignore[no-any-return]


def peers(
    model: nn.Module, method: str, layer: str, images: Tensor, targets: list[int]
) -> dict[str, Callable[[], Any]]:
    """What of the same kind the peers have, at their best settings, of those that are installed."""
    found: dict[str, Callable[[], Any]] = {}
    laid_out = model.to(memory_format=torch.channels_last)
    photos = images.contiguous(memory_format=torch.channels_last)
    try:
        import pytorch_grad_cam as grad_cam_package
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    except ImportError:
        pass
    else:
        kind = {"grad_cam": "GradCAM", "score_cam": "ScoreCAM"}.get(method)
        if kind is not None:
            peer = getattr(grad_cam_package, kind)(model=laid_out, target_layers=[laid_out.get_submodule(layer)])
            peer.batch_size = 128
            chosen = [ClassifierOutputTarget(target) for target in targets]
            found["grad-cam"] = lambda: peer(input_tensor=photos, targets=chosen)
    try:
        from torchcam import methods as torchcam_methods
    except ImportError:
        pass
    else:
        kind = {"grad_cam": "GradCAM", "score_cam": "ScoreCAM"}.get(method)
        if kind is not None:
            options = {"batch_size": 128} if method == "score_cam" else {}

            def torchcam() -> Any:
                with getattr(torchcam_methods, kind)(laid_out, layer, **options) as extractor:
                    return extractor(targets, laid_out(photos))

            found["torchcam"] = torchcam
    return found


def variants(model: nn.Module, method: str, layer: str, images: Tensor) -> dict[str, Callable[[], Any]]:
    """fastcam in every precision, its references, the model's own forward, and the peers in float32."""
    targets = torch.arange(len(images), device=images.device) % 1000

    def own(precision: str, backend: str) -> Callable[[], Any]:
        explainer = fastcam.Explainer(model, method=method, layer=layer, precision=precision)

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
    return found | peers(copy.deepcopy(model), method, layer, images, targets.tolist())


def window(run: Callable[[], Any], seconds: float = WINDOW_SECONDS) -> tuple[float, int]:
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


def rows() -> Iterator[dict[str, Any]]:
    """Measure every setting, the variants taking turns. A variant that fails is named with its error."""
    for name, method, layer, batch in SETTINGS:
        model = build(name)
        images = torch.randn(batch, 3, SIDE, SIDE, device="cuda", generator=torch.Generator("cuda").manual_seed(0))
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
                        taken, _ = window(run)
                except (RuntimeError, TypeError, ValueError) as error:
                    failed[variant] = f"{type(error).__name__}: {error}"[:300]
                    continue
                if round_:  # the first warms up
                    seconds.setdefault(variant, []).append(taken)
                    conditions[variant] = seen
        yield {
            "model": name,
            "method": method,
            "layer": layer,
            "batch": batch,
            "seconds": {variant: statistics.median(values) for variant, values in seconds.items()},
            "spread": {variant: [min(values), max(values)] for variant, values in seconds.items()},
            "images_per_s": {variant: batch / statistics.median(values) for variant, values in seconds.items()},
            "joules_per_image": joules_per_image({v: run for v, run in runs.items() if v not in failed}, batch),
            "failed": failed,
            "conditions": conditions,
        }
        del model, runs
        fastcam.clear_cache()
        torch.cuda.empty_cache()
