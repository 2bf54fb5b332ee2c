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


def test_operators_import_and_run_without_triton() -> None:
    program = """
import sys
sys.modules["triton"] = None  # any import of it fails
import torch
from fastcam.ops import cam_map
maps = cam_map(torch.rand(1, 2, 3, 3), torch.rand(1, 1, 2), [6, 6], True, True)
assert maps.shape == (1, 1, 6, 6)
assert "fastcam_kernels.cam_map" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
