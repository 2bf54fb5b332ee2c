"""perturbed_inputs: the batch of steps in which insertion and deletion (RISE) replace pixels by rank.

With rank[n, p] the position of pixel p in the descending order of a map (0: the most important) and steps[s] the
number of pixels already replaced at step s:

    output[n, s, :, p] = base[n, :, p] if rank[n, p] < steps[s] else x[n, :, p]

Both metrics are this one operator. Deletion: x is the image and base what replaces its pixels, zeros say. Insertion:
x is the blurred image and base the image.
"""

import torch
from torch import Tensor

from fastcam.ops.backend import kernels_serve


def pixel_rank(maps: Tensor) -> Tensor:
    """Return each pixel's position in the descending order of its map, (N, H, W) int32, for maps (N, H, W).

    Of equal pixels the one with the smaller index comes first; NaN comes before every number.

    Raises:
        ValueError: maps that are not (N, H, W).
    """
    if maps.ndim != 3:
        raise ValueError(f"maps has shape {tuple(maps.shape)}; (N, H, W) is needed")
    flat = maps.detach().flatten(1)
    order = flat.argsort(dim=1, descending=True, stable=True)
    positions = torch.arange(flat.shape[1], dtype=torch.int32, device=maps.device).expand_as(order)
    return torch.empty_like(order, dtype=torch.int32).scatter_(1, order, positions).view(maps.shape)


def perturbed_inputs_reference(images: Tensor, base: Tensor, rank: Tensor, steps: Tensor) -> Tensor:
    """Return the images of all steps (N * S, C, H, W), those of one image behind each other, in plain PyTorch.

    Args:
        images: x, (N, C, H, W), floating point: what is shown where nothing is replaced.
        base: (N, C, H, W), dtype of the images: what replaces a pixel.
        rank: (N, H, W) or (N, H * W), int32 or int64: each pixel's position in the order of replacement, 0 to
            H * W - 1, as `pixel_rank` gives it.
        steps: (S,), int32 or int64: how many pixels are replaced at each step, in any order; below 0 counts as
            none, above H * W as all. The output grows with S: a caller bounds its memory by giving the steps in
            portions.

    Returns:
        The images' dtype, channels-last; not differentiable.

    Raises:
        ValueError: shapes that do not fit each other, tensors on different devices.
        TypeError: dtypes other than those above.
    """
    _check(images, base, rank, steps)
    batch, colours, height, width = images.shape
    with torch.no_grad():
        replaced = rank.reshape(batch, 1, height, width, 1) < steps.view(1, -1, 1, 1, 1)
        # Written out for each colour: a mask of its own stride would be read number by number.
        replaced = replaced.expand(-1, -1, -1, -1, colours).contiguous()
        shown, others = (tensor.permute(0, 2, 3, 1).unsqueeze(1) for tensor in (images, base))
        output = images.new_empty((batch, len(steps), height, width, colours))
        torch.where(replaced, others, shown, out=output)
    return output.flatten(0, 1).permute(0, 3, 1, 2)


def _check(images: Tensor, base: Tensor, rank: Tensor, steps: Tensor) -> None:
    for name, tensor in {"base": base, "rank": rank, "steps": steps}.items():
        if tensor.device != images.device:
            raise ValueError(f"{name} is on {tensor.device} and images on {images.device}: move one")
    if not images.is_floating_point():
        raise TypeError(f"images is {images.dtype}; a floating-point tensor is needed")
    for name, tensor in {"rank": rank, "steps": steps}.items():
        if tensor.dtype not in (torch.int64, torch.int32):
            raise TypeError(f"{name} is {tensor.dtype}; int64 or int32 is needed")
    if images.ndim != 4 or min(images.shape[1:]) < 1:
        raise ValueError(f"images has shape {tuple(images.shape)}; (N, C, H, W) is needed, no axis empty but the first")
    if base.shape != images.shape or base.dtype != images.dtype:
        raise ValueError(
            f"base is {base.dtype} {tuple(base.shape)} and images {images.dtype} {tuple(images.shape)}; they must"
            " agree in shape and dtype"
        )
    batch, _, height, width = images.shape
    if tuple(rank.shape) not in ((batch, height, width), (batch, height * width)):
        raise ValueError(
            f"rank has shape {tuple(rank.shape)}; with images {tuple(images.shape)} it must be"
            f" ({batch}, {height}, {width}) or ({batch}, {height * width})"
        )
    if steps.ndim != 1:
        raise ValueError(f"steps has shape {tuple(steps.shape)}; (S,) is needed")


perturbed_inputs = torch.library.custom_op("fastcam::perturbed_inputs", mutates_args=())(perturbed_inputs_reference)


@perturbed_inputs.register_kernel("cuda")
def _(images: Tensor, base: Tensor, rank: Tensor, steps: Tensor) -> Tensor:
    if not kernels_serve(images.device):
        return perturbed_inputs_reference(images, base, rank, steps)
    from fastcam_kernels import perturbed_inputs as kernel

    return kernel.perturbed_inputs(images, base, rank, steps)


@perturbed_inputs.register_fake
def _(images: Tensor, base: Tensor, rank: Tensor, steps: Tensor) -> Tensor:
    _check(images, base, rank, steps)
    shape = (images.shape[0] * steps.shape[0], *images.shape[1:])
    return torch.empty(shape, dtype=images.dtype, device=images.device, memory_format=torch.channels_last)
