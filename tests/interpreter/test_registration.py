"""What is registered for CUDA hands its arguments on: called here as the dispatcher would, on CPU tensors."""

import importlib

import pytest
import torch
from torch import Tensor

from fastcam import ops
from fastcam.ops.gate import zero_share

G = torch.Generator().manual_seed(0)
X, ZERO = torch.rand(1, 2, 3, 3, generator=G), torch.zeros(1, dtype=torch.int64)
W, M, S = torch.rand(4, 2, 1, 1, generator=G), torch.rand(4, 2, generator=G), torch.rand(1, 4, 3, 3, generator=G)
GEOMETRY = ([1, 1], [0, 0], [1, 1], 1)
CALLS = {
    "cam_map": (X, torch.rand(1, 1, 2, generator=G), [6, 6], True, True),
    "masked_inputs": (torch.rand(1, 3, 6, 6, generator=G), X, ZERO, ZERO, None),
    "perturbed_inputs": (X, X + 1, ops.pixel_rank(X[:, 0]), torch.tensor([0, 3])),
    "unfold_patches": (X, ZERO, ZERO + 1, [2, 2], [4, 5], "bicubic"),
    "fold_patches": (torch.rand(1, 1, 1, 2, 2), torch.rand(1, 1, 1), ZERO, ZERO + 1, [2, 2], [3, 3]),
    "relevance_conv": (X, W, W[:, 0, 0, 0], W, -W, None, [2, 1], [0, 1], [1, 1], 1, "relu", False),
    "relevance_conv_backward": (S, S, None, W, None, X, [3, 3], *GEOMETRY),
    "relevance_conv_weights": (S, S, X, W, None, X, *GEOMETRY),
    "relevance_linear": (M, M, M[:, 0], M, None, "relu", False),
    "relevance_linear_backward": (torch.rand(4, 4, generator=G), torch.rand(4, 4, generator=G), None, M, None),
    "relevance_linear_seeded": (torch.rand(1, 4), ZERO.view(1, 1), torch.rand(1, 4), None, M, None, "clrp"),
}


def test_every_operator_is_called() -> None:
    assert set(CALLS) == set(ops.__all__) - {"pixel_rank", "patch_offsets"}
    assert zero_share(torch.float32) > 0


@pytest.mark.parametrize("name", CALLS)
def test_the_kernel_gets_what_the_reference_gets(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    operator = getattr(ops, name)
    home = importlib.import_module(operator._init_fn.__module__)
    asked = []
    monkeypatch.setattr(home, "kernels_serve", lambda device: asked.append(device) or True)
    found, expected = operator._backend_fns["cuda"](*CALLS[name]), operator(*CALLS[name])
    assert len(asked) == 1
    pairs = [(found, expected)] if isinstance(found, Tensor) else list(zip(found, expected, strict=True))
    for a, b in pairs:
        assert (a.dtype, a.stride()) == (b.dtype, b.stride())
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
