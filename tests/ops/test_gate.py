"""The gate's reference at the edges of its definition."""

import pytest
import torch

from fastcam.ops.gate import gate

TINY = 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("reciprocal", [False, True], ids=["y/Z", "1/Z"])
def test_z_counts_as_0_up_to_a_share_of_the_images_largest(reciprocal: bool, dtype: torch.dtype) -> None:
    share = TINY if dtype == torch.float32 else 1e-14
    z = torch.tensor([[4.0, 0.0, 3 * share, 5 * share], [1e-12, 0.0, 1e-12 * share / 2, 2e-12 * share]], dtype=dtype)
    y = torch.tensor([[2.0, 3.0, 5.0, 7.0], [1.0, 1.0, 1.0, -1.0]], dtype=dtype)
    alive = torch.tensor([[True, False, False, True], [True, False, False, True]])
    expected = torch.where(alive, (1.0 if reciprocal else y) / z, 0.0)
    found = gate(y, z.clone(), reciprocal=reciprocal, dtype=dtype)
    # One further rounding of Z than in y / Z.
    torch.testing.assert_close(found, expected, rtol=4 * torch.finfo(dtype).eps, atol=0)


def test_beside_a_nan_no_threshold_holds() -> None:
    z = torch.tensor([[torch.nan, 0.0, 1e-20, 2.0], [1.0, 0.0, 1e-20, 2.0]])
    found = gate(torch.ones(2, 4), z, reciprocal=False, dtype=torch.float32)
    torch.testing.assert_close(found[0, 1:], torch.tensor([torch.inf, 1e20, 0.5]))
    assert found[0, 0].isnan()
    assert found[1].tolist() == [1, 0, 0, 0.5]


def test_beside_an_infinite_z_the_rest_is_0() -> None:
    z = torch.tensor([[torch.inf, 0.0, 1.0, 1e30]])
    assert gate(torch.ones(1, 4), z, reciprocal=False, dtype=torch.float32).eq(0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("reciprocal", [False, True], ids=["y/Z", "1/Z"])
def test_where_no_z_counts_as_0_the_gate_is_the_quotient_to_the_last_bit(reciprocal: bool, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    z = (torch.rand(2, 3, 5, 5, generator=generator) + 0.01).to(dtype)
    y = torch.randn(2, 3, 5, 5, generator=generator).to(dtype)
    expected = 1 / z if reciprocal else y / z
    assert torch.equal(gate(y, z.clone(), reciprocal=reciprocal, dtype=dtype), expected)
    # A single dead Z, in the other image, is still found.
    z[1, 2, 3, 4] = 0
    found = gate(y, z.clone(), reciprocal=reciprocal, dtype=dtype)
    assert found[1, 2, 3, 4] == 0
    torch.testing.assert_close(found[0], expected[0])
