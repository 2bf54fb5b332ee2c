"""A batch of images and the network that classifies them; what all maps of these images share is computed once."""

from functools import cached_property

import torch
from torch import Tensor, nn

from fastcam.network.arguments import DeferredChecks, check_images, check_model
from fastcam.network.cache import Output, network_for
from fastcam.ops.blur import gaussian_blur


class Batch:
    """Images with a model that scores them, and their own scores.

    images: (N, C, H, W), preprocessed as the model expects.
    precision, output: as in `fastcam.explain`.
    batch_size: the most images that one forward pass takes; None: as many as there are images in the batch, at
        least 8, so that a sequence of perturbed images needs no more memory than the batch itself.
    probabilities: (N, classes) of the images, where a caller has them already; saves a forward pass.
    checks: what is to be told at the end of a call; `settle` them.
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
        self.checks = DeferredChecks()
        self.given = check_images(images, self.checks)
        if batch_size is not None and (isinstance(batch_size, bool) or not isinstance(batch_size, int)):
            raise TypeError(f"batch_size: {batch_size!r} given, None or a positive integer is valid")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size: {batch_size} given, None or a positive integer is valid")
        self.batch_size = batch_size or max(len(images), 8)
        with torch.inference_mode(False), torch.no_grad():
            self.network = network_for(check_model(model), images, precision=precision, output=output)
            # The network's dtype and layout, so that what is made of the images needs no conversion of its own.
            self.images = self.network.prepare(self.given)
        self._blurred: dict[tuple[int, float], Tensor] = {}
        if probabilities is not None:
            self.probabilities = probabilities

    @cached_property
    def probabilities(self) -> Tensor:
        """p(image), (N, classes): the softmax of the logits, in at least float32."""
        return self.probabilities_of(self.images)

    def probabilities_of(self, images: Tensor) -> Tensor:
        """p of any images of the batch's size, (M, classes), in portions of `batch_size`."""
        with torch.inference_mode(False), torch.no_grad():
            portions = [self.network.forward(part)[0] for part in images.split(self.batch_size)]
            logits = torch.cat(portions) if len(portions) != 1 else portions[0]
            return logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(dim=1)

    def scores(self, images: Tensor, targets: Tensor) -> Tensor:
        """p_c of each image's own class: images (M, C, H, W) and targets (M,) to (M,)."""
        return self.probabilities_of(images).gather(1, targets.unsqueeze(1)).squeeze(1)

    def blurred(self, taps: int, sigma: float) -> Tensor:
        """The images under a Gaussian blur, in their dtype."""
        key = (taps, sigma)
        if key not in self._blurred:
            wide = self.images.to(torch.promote_types(self.images.dtype, torch.float32))
            blurred = gaussian_blur(wide, taps, sigma).to(self.images.dtype)
            self._blurred[key] = blurred.contiguous(memory_format=self.network.precision.memory_format)
        return self._blurred[key]
