"""Digests that tell whether a run goes on with the data and the weights that it began with."""

import hashlib
import json
from dataclasses import astuple

import torch
from torch import nn

from fastcam.datasets.sample import DataSet


def fingerprint_of(dataset: DataSet) -> str:
    """Of the samples: their names, labels, boxes and order; not of the photos' bytes, nor of where they lie."""
    digest = hashlib.sha256()
    for s in dataset.samples:
        digest.update(json.dumps([s.name, s.label, [astuple(box) for box in s.boxes], s.difficult]).encode())
    return digest.hexdigest()


def weights_digest(model: nn.Module) -> str:
    """Of a model's parameters and buffers, by name."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        # Any dtype as the bytes it is made of; numpy knows no bfloat16.
        digest.update(tensor.detach().cpu().contiguous().flatten().view(dtype=torch.uint8).numpy().tobytes())
    return digest.hexdigest()
