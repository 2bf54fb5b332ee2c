"""masked_inputs: the batch of masked images that Score-CAM and its relatives send through the network.

For pair p with image n = image_index[p] and channel k = channel_index[p]:

    U = bilinear upsampling of A[n, k] to the image's size     (align_corners=False)
    M = (U - min U) / (max U - min U)                          0 for a flat map
    output[p] = x[n] * M + baseline[n] * (1 - M)               baseline None: x[n] * M
"""

import torch
from torch import Tensor

from fastcam.ops.backend import kernels_serve
from fastcam.ops.maps import flat_tolerance, min_max_, upsample


def masked_inputs_reference(
    images: Tensor,
    activations: Tensor,
    image_index: Tensor,
    channel_index: Tensor,
    baseline: Tensor | None,
) -> Tensor:
    """Return the masked images (P, C, H, W), in plain PyTorch.

    Args:
        images: x, (N, C, H, W), floating point.
        activations: A, (N, K, h, w), floating point.
        image_index: (P,), int64 or int32: which image each masked one is made from.
        channel_index: (P,), int64 or int32: which channel makes the mask.
        baseline: (N, C, H, W), dtype of the images: what shows where the mask is 0; None for zeros.

    Returns:
        The images' dtype, channels-last; not differentiable. M is computed in float32 (float64 if activations
        or images are) and rounded to the images' dtype once (by the Triton kernel not at all before the product).

    Raises:
        ValueError: shapes that do not fit each other, tensors on different devices.
        TypeError: dtypes other than those above.
        IndexError: an index out of range. On CUDA the host does not wait to learn of one: there the reference
            ends in a device-side assertion, and the Triton kernel makes the whole masked image NaN.
    """
    _check(images, activations, image_index, channel_index, baseline)
    number = torch.promote_types(torch.promote_types(images.dtype, activations.dtype), torch.float32)
    with torch.no_grad():
        chosen = activations[image_index, channel_index].to(number)
        masks = min_max_(upsample(chosen.unsqueeze(1), (images.shape[2], images.shape[3])))
        masks = masks.to(images.dtype)
        picked = _pick(images, image_index)
        narrow = images.element_size() < 4
        # Many images: the copies that were picked become the output. The fewer large tensors, the fewer pages
        # a CPU has to map afresh for each batch, which costs as much as the arithmetic.
        reuse = images.shape[0] != 1 and not narrow
        output = picked if reuse else _empty_like_batch(images, image_index)
        if narrow:
            # In 16 bits, a product that broadcasts along the innermost axis, as a mask does channels-last,
            # takes a CPU three times as long as spreading the mask first.
            masks = output.copy_(masks)
        if baseline is None:
            return torch.mul(picked, masks, out=output)
        return torch.lerp(_pick(baseline, image_index), picked, masks, out=output)


def _pick(images: Tensor, image_index: Tensor) -> Tensor:
    """Return images[image_index], channels-last; a single image is broadcast instead of copied."""
    rows = images.permute(0, 2, 3, 1).contiguous()
    picked = rows if rows.shape[0] == 1 else rows.index_select(0, image_index)
    return picked.permute(0, 3, 1, 2)


def _empty_like_batch(images: Tensor, image_index: Tensor) -> Tensor:
    shape = (image_index.shape[0], *images.shape[1:])
    return torch.empty(shape, dtype=images.dtype, device=images.device, memory_format=torch.channels_last)


def _check(
    images: Tensor,
    activations: Tensor,
    image_index: Tensor,
    channel_index: Tensor,
    baseline: Tensor | None,
) -> None:
    tensors = {
        "images": images,
        "activations": activations,
        "image_index": image_index,
        "channel_index": channel_index,
    }
    if baseline is not None:
        tensors["baseline"] = baseline
    for name, tensor in tensors.items():
        if tensor.device != images.device:
            raise ValueError(f"{name} is on {tensor.device} and images on {images.device}: move one")
        if name.endswith("index"):
            if tensor.dtype not in (torch.int64, torch.int32):
                raise TypeError(f"{name} is {tensor.dtype}; int64 or int32 is needed")
            if tensor.ndim != 1 or tensor.shape != image_index.shape:
                raise ValueError(
                    f"{name} has shape {tuple(tensor.shape)} and image_index {tuple(image_index.shape)}; both"
                    " must be (P,)"
                )
        elif not tensor.is_floating_point():
            raise TypeError(f"{name} is {tensor.dtype}; a floating-point tensor is needed")
        elif tensor.ndim != 4 or min(tensor.shape[1:]) < 1 or tensor.shape[0] != images.shape[0]:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)} and images {tuple(images.shape)}; both need four"
                " axes, none empty but the first, and the same number of images"
            )
    if baseline is not None and (baseline.shape != images.shape or baseline.dtype != images.dtype):
        raise ValueError(
            f"baseline is {baseline.dtype} {tuple(baseline.shape)} and images {images.dtype}"
            f" {tuple(images.shape)}; they must agree in shape and dtype"
        )


masked_inputs = torch.library.custom_op("fastcam::masked_inputs", mutates_args=())(masked_inputs_reference)


@masked_inputs.register_kernel("cuda")
def _(
    images: Tensor,
    activations: Tensor,
    image_index: Tensor,
    channel_index: Tensor,
    baseline: Tensor | None,
) -> Tensor:
    if not kernels_serve(images.device):
        return masked_inputs_reference(images, activations, image_index, channel_index, baseline)
    from fastcam_kernels import masked_inputs as kernel

    number = torch.promote_types(torch.promote_types(images.dtype, activations.dtype), torch.float32)
    return kernel.masked_inputs(
        images, activations, image_index, channel_index, baseline, flat_tolerance=flat_tolerance(number)
    )


@masked_inputs.register_fake
def _(
    images: Tensor,
    activations: Tensor,
    image_index: Tensor,
    channel_index: Tensor,
    baseline: Tensor | None,
) -> Tensor:
    _check(images, activations, image_index, channel_index, baseline)
    return _empty_like_batch(images, image_index)
