import asyncio
import contextlib
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import torch

from fastcam.ops import backend
from fastcam.ops.backend import current_backend, kernels_serve, use_backend


@pytest.fixture(autouse=True)
def fresh_answers() -> Iterator[None]:
    # What the module remembers about the machine must not leak between pretended machines.
    backend.triton_installed.cache_clear()
    backend._obstacle.cache_clear()
    yield
    backend.triton_installed.cache_clear()
    backend._obstacle.cache_clear()


def test_default_is_auto() -> None:
    assert current_backend() == "auto"


def test_nests_and_restores_also_after_an_error() -> None:
    with use_backend("reference"):
        assert current_backend() == "reference"
        with contextlib.suppress(KeyError), use_backend("triton"):
            assert current_backend() == "triton"
            raise KeyError
        assert current_backend() == "reference"
    assert current_backend() == "auto"


def test_unknown_name_lists_the_valid_ones() -> None:
    with pytest.raises(ValueError, match=r"'cuda' does not exist; valid names: 'auto', 'triton', 'reference'"):
        use_backend("cuda").__enter__()
    assert current_backend() == "auto"


def test_another_thread_does_not_see_the_choice() -> None:
    seen: list[str] = []
    with use_backend("reference"):
        thread = threading.Thread(target=lambda: seen.append(current_backend()))
        thread.start()
        thread.join()
    assert seen == ["auto"]


def test_tasks_do_not_see_each_others_choice() -> None:
    async def choose(name: str) -> str:
        with use_backend(name):
            await asyncio.sleep(0.01)
            return current_backend()

    async def both() -> list[str]:
        return await asyncio.gather(choose("reference"), choose("triton"))

    assert asyncio.run(both()) == ["reference", "triton"]


@pytest.mark.parametrize(
    ("capability", "serves"), [((7, 5), False), ((8, 0), True), ((9, 0), True), ((12, 0), True)], ids=str
)
def test_auto_takes_the_kernels_from_ampere_on(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], serves: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(backend.importlib.util, "find_spec", lambda name: object())
    device = torch.device("cuda:0")
    assert kernels_serve(device) is serves
    with use_backend("reference"):
        assert kernels_serve(device) is False
    if not serves:
        with (
            use_backend("triton"),
            pytest.raises(RuntimeError, match=r"capability \(7, 5\), the kernels need"),
        ):
            kernels_serve(device)


def test_without_triton_the_reference_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend.importlib.util, "find_spec", lambda name: None)
    device = torch.device("cuda:0")
    assert kernels_serve(device) is False
    with use_backend("triton"), pytest.raises(RuntimeError, match="triton is not installed"):
        kernels_serve(device)


def test_every_operator_imports_and_runs_without_triton() -> None:
    program = """
import sys
sys.modules["triton"] = None  # any import of it fails
import torch
from fastcam import ops
from fastcam.propagation.tuning import make_problem
from fastcam.propagation.convolutions import Convolution
from fastcam.network.units import Geometry

x, conv = torch.rand(1, 2, 3, 3), [[1, 1], [0, 0], [1, 1], 1]
zero, w, m = torch.zeros(1, dtype=torch.int64), torch.rand(4, 2, 1, 1), torch.rand(4, 2)
g = torch.rand(1, 4, 3, 3)
results = [
    ops.cam_map(x, torch.rand(1, 1, 2), [6, 6], True, True),
    ops.masked_inputs(torch.rand(1, 3, 6, 6), x, zero, zero, None),
    ops.perturbed_inputs(x, x, ops.pixel_rank(x[:, 0]), torch.tensor([0, 3])),
    ops.unfold_patches(x, zero, zero, [2, 2], [4, 4], "bicubic"),
    ops.fold_patches(torch.rand(1, 1, 1, 2, 2), torch.rand(1, 1, 1), zero, zero, [2, 2], [3, 3]),
    *ops.relevance_conv(x, w, None, w, None, None, *conv, "relu", False),
    ops.relevance_conv_backward(g, g, None, w, None, None, [3, 3], *conv),
    ops.relevance_conv_weights(g, g, x, w, None, None, *conv),
    *ops.relevance_linear(m, m, None, m, None, "none", True),
    ops.relevance_linear_backward(torch.rand(4, 4), torch.rand(4, 4), None, m, None),
    ops.relevance_linear_seeded(torch.rand(1, 4), zero.view(1, 1), torch.rand(1, 4), None, m, None, "clrp"),
]
assert len(results) == 13 and all(result.isfinite().all() for result in results)
assert {name for name in ops.__all__} == {
    "cam_map", "masked_inputs", "perturbed_inputs", "pixel_rank", "unfold_patches", "patch_offsets", "fold_patches",
    "relevance_conv", "relevance_conv_backward", "relevance_conv_weights", "relevance_linear",
    "relevance_linear_backward", "relevance_linear_seeded",
}
make_problem(Convolution(2, 4, (3, 3), (1, 1), Geometry((1, 1), (0, 0), (1, 1), 1), "relu", False), 1, x.dtype, "cpu")
assert not any(name.startswith("fastcam_kernels.") for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
