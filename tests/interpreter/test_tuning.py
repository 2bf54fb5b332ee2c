"""The tuner's way to the kernels: every algorithm gives what the reference gives."""

import pytest
import torch

from fastcam.network.units import Geometry
from fastcam.propagation import tuning
from fastcam.propagation.convolutions import Convolution
from fastcam_kernels.tuning import Choice

CONVOLUTIONS = {
    "1x1": Convolution(8, 12, (5, 3), (1, 1), Geometry((1, 1), (0, 0), (1, 1), 1), "relu", signed=False),
    "3x3-signed": Convolution(5, 8, (5, 3), (3, 3), Geometry((2, 2), (1, 1), (1, 1), 1), "relu6", signed=True),
}


@pytest.mark.parametrize("choice", [Choice("triton", 64, 32, 32), Choice("composition"), None], ids=str)
@pytest.mark.parametrize("conv", CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys())
def test_kernels_agree_with_the_reference(conv: Convolution, choice: Choice | None) -> None:
    torch.manual_seed(0)
    problem = tuning.make_problem(conv, 2, torch.float32, "cpu")
    y, gate = tuning.forward(conv, problem, choice)
    expected_y, expected_gate = tuning.reference_forward(conv, problem)
    assert tuning.agrees(y, expected_y)
    assert tuning.agrees(gate, expected_gate)
    assert tuning.agrees(tuning.backward(conv, problem, choice), tuning.reference_backward(conv, problem))
