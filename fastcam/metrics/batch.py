"""A batch of images and the network that classifies them; what all maps of these images share is computed once."""

from collections.abc import Callable, Iterator
from functools import cached_property

import torch
from torch import Tensor, nn

from fastcam.metrics.given import check_float
from fastcam.metrics.once import Once
from fastcam.network.arguments import DeferredChecks, check_batch_size, check_images, check_model
from fastcam.network.cache import Output, network_for
from fastcam.network.portions import chunks, fitted
from fastcam.network.precision import matrix_precision
from fastcam.ops.blur import gaussian_blur

# Images per forward pass; with fewer a device would be idle, however small the batch.
_LEAST = 8


class Batch(Once):
    """Images with a model that scores them, and their own scores.

    images: (N, C, H, W), preprocessed as the model expects.
    precision, output: as in `fastcam.explain`.
    batch_size: the most images that one forward pass takes; None: what suits a CPU, at most 8; elsewhere as many as
        there are images in the batch, at least 8, so that a sequence of perturbed images needs no more memory than the
        batch itself.
    probabilities: (N, classes) of the images, where a caller has them already (`Explanation.probabilities`); saves a
        forward pass.
    checks: what is to be told at the end of a call; `settle` them.

    given are the images in their own dtype, images in the network's; both in the network's memory layout.
    """

    def __init__(
        self,
        model: nn.Module,
        images: Tensor,
        *,
        precision: str | None = None,
        output: Output | None = None,
        batch_size: int | None = None,
        probabilities: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.checks = DeferredChecks()
        given = check_images(images, self.checks)
        check_batch_size(batch_size)
        with torch.inference_mode(False), torch.no_grad():
            model = check_model(model)
            self.network = network_for(model, given, precision=precision, output=output, checks=self.checks)
            self.given = given.contiguous(memory_format=self.network.precision.memory_format)
            on_cpu = given.device.type == "cpu"
            self.batch_size = batch_size or (
                self.network.portion(given.device) if on_cpu else max(len(given), fitted(_LEAST))
            )
            # The network's dtype and layout, so that what is made of the images needs no conversion of its own.
            self.images = self.network.prepare(self.given)
        if probabilities is not None:
            self.probabilities = check_probabilities(probabilities, (len(given), self.classes), given.device)

    @property
    def classes(self) -> int:
        """The number of classes."""
        return self.network.graph.classes

    @cached_property
    def probabilities(self) -> Tensor:
        """p(image), (N, classes): the softmax of the logits, in at least float32."""
        return self.check(self.probabilities_of(self.images), "these images")

    @cached_property
    def blank_probabilities(self) -> Tensor:
        """p of an image of zeros, (1, classes)."""
        return self.check(self.probabilities_of(torch.zeros_like(self.images[:1])), "an image of zeros")

    def blurred(self, taps: int, sigma: float) -> Tensor:
        """The images under a Gaussian blur, in the network's dtype."""

        def make() -> Tensor:
            wide = self.images.to(torch.promote_types(self.images.dtype, torch.float32))
            with matrix_precision(self.network.precision, wide.device):
                return self.network.prepare(gaussian_blur(wide, taps, sigma))

        return self.once(("blurred", taps, sigma), make)

    def blurred_probabilities(self, taps: int, sigma: float) -> Tensor:
        """p of the blurred images, (N, classes)."""

        def make() -> Tensor:
            return self.check(self.probabilities_of(self.blurred(taps, sigma)), "blurred images")

        return self.once(("blurred probabilities", taps, sigma), make)

    def probabilities_of(self, images: Tensor) -> Tensor:
        """p of any images of the batch's size, (M, classes), in portions of `batch_size`."""
        with torch.inference_mode(False), torch.no_grad():
            found = [self._forward(images[portion]) for portion in self.portions(len(images))]
            return torch.cat(found) if len(found) != 1 else found[0]

    def scores(self, images: Tensor, targets: Tensor) -> Tensor:
        """p_c of each image's own class: images (M, C, H, W) and targets (M,) to (M,)."""
        return self.probabilities_of(images).gather(1, targets.unsqueeze(1)).squeeze(1)

    def scores_of(self, build: Callable[[slice], Tensor], targets: Tensor) -> Tensor:
        """p_c of M images with targets (M,), of which `build` makes a portion at a time."""
        found = [self.scores(build(portion), targets[portion]) for portion in self.portions(len(targets))]
        return self.check(torch.cat(found), "masked images")

    def portions(self, count: int) -> Iterator[slice]:
        """Cut `count` images into portions of at most `batch_size`."""
        return chunks(count, self.batch_size)

    def check(self, probabilities: Tensor, what: str) -> Tensor:
        """Return probabilities; that they are numbers is checked later."""
        half = self.network.precision.forward == torch.float16
        hint = "; float16 overflows beyond 65504: use bfloat16 or float32" if half else ""
        self.checks.add_finite(probabilities, lambda: f"model: its logits for {what} are NaN or infinite{hint}")
        return probabilities

    def settle(self) -> None:
        """Raise ValueError for the first check that failed; those that held are not looked at again."""
        checks, self.checks = self.checks, DeferredChecks()
        if checks.failed:
            checks.settle()

    def _forward(self, images: Tensor) -> Tensor:
        count, fixed = len(images), len(self.images)
        if not self.network.graph.dynamic_batch and count != fixed:
            # The model's own code fixes the number of images: the last portion is filled up with its first image.
            parts = [images[start : start + fixed] for start in range(0, count, fixed)]
            full = [torch.cat([p, p[:1].expand(fixed - len(p), -1, -1, -1)]) for p in parts]
            return torch.cat([self._forward(part) for part in full])[:count]
        logits = self.network.forward(images)[0]
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(dim=1)


def check_probabilities(probabilities: object, shape: tuple[int, int], device: torch.device) -> Tensor:
    """Probabilities in at least float32. Raises TypeError or ValueError for what does not fit the images."""
    given = check_float("probabilities", probabilities, f"a float tensor of shape {shape}")
    if tuple(given.shape) != shape or given.device != device:
        raise ValueError(f"probabilities: {tuple(given.shape)} on {given.device} given, {shape} on {device} is valid")
    return given.detach().to(torch.promote_types(given.dtype, torch.float32))
