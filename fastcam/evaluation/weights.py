"""A digest that tells whether a run goes on with the weights that it began with."""

import hashlib

import torch
from torch import nn


def weights_digest(model: nn.Module) -> str:
    """Of a model's parameters and buffers, by name."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        # Any dtype as the bytes it is made of; numpy knows no bfloat16.
        digest.update(tensor.detach().cpu().contiguous().flatten().view(dtype=torch.uint8).numpy().tobytes())
    return digest.hexdigest()
