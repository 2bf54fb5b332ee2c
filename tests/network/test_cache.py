"""Networks are kept while they are right, and no longer."""

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fastcam
from fastcam.network import cache
from fastcam.network.cache import network_for


def build() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3)).eval()


IMAGES = torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """One entry per capture."""
    made: list[object] = []
    original = cache.capture

    def counted(*args: object, **kwargs: object) -> object:
        made.append(args)
        return original(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(cache, "capture", counted)
    return made


def test_one_capture_serves_every_batch_and_precision(captures: list[object]) -> None:
    model = build()
    networks = [network_for(model, images) for images in (IMAGES, IMAGES[:1], torch.cat([IMAGES] * 3))]
    assert networks[0] is networks[1] is networks[2]
    assert network_for(model, IMAGES, precision="bfloat16") is not networks[0]
    assert len(captures) == 1
    network_for(model, torch.zeros(2, 1, 7, 6))
    assert len(captures) == 2


def test_written_weights_are_prepared_anew_without_a_capture(captures: list[object]) -> None:
    model = build()
    before, _ = network_for(model, IMAGES).forward(IMAGES)
    with torch.no_grad():
        model[4].bias.add_(1)
    after, _ = network_for(model, IMAGES).forward(IMAGES)
    torch.testing.assert_close(after, before + 1)
    assert len(captures) == 1


@pytest.mark.parametrize("index", [1, 4], ids=["without parameters", "with parameters"])
def test_a_replaced_module_is_captured_anew(captures: list[object], index: int) -> None:
    model = build()
    network_for(model, IMAGES)
    model[index] = nn.GELU() if index == 1 else nn.Linear(2, 5)
    logits, _ = network_for(model, IMAGES).forward(IMAGES)
    with torch.no_grad():
        torch.testing.assert_close(logits, model(IMAGES))
    assert len(captures) == 2


def test_the_cache_keeps_no_model_alive() -> None:
    model = build()
    fastcam.relevance_cam(model, IMAGES, output=lambda y, m=model: y)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_as_many_sizes_as_said_are_kept(captures: list[object]) -> None:
    model = build()
    for width in range(6, 6 + cache._MOST_GRAPHS + 1):
        network_for(model, torch.zeros(1, 1, 6, width))
    made = len(captures)
    network_for(model, torch.zeros(1, 1, 6, 7))
    assert len(captures) == made
    network_for(model, torch.zeros(1, 1, 6, 6))
    assert len(captures) == made + 1


class Pick:
    def __init__(self, sign: float) -> None:
        self.sign = sign

    def pick(self, logits: Tensor) -> Tensor:
        return self.sign * logits


def test_outputs_are_told_apart_and_inline_lambdas_are_not(captures: list[object]) -> None:
    model = build()
    for _ in range(3):
        network_for(model, IMAGES, output=lambda y: y * 2)
    assert len(captures) == 1
    picks = Pick(1.0), Pick(-1.0)
    first, second = (network_for(model, IMAGES, output=p.pick).forward(IMAGES)[0] for p in picks)
    torch.testing.assert_close(first, -second)
    network_for(model, IMAGES, output=picks[0].pick)
    assert len(captures) == 3


def test_clear_cache_forgets(captures: list[object]) -> None:
    model = build()
    network_for(model, IMAGES)
    fastcam.clear_cache(model)
    network_for(model, IMAGES)
    assert len(captures) == 2


class Keeps(nn.Module):
    """Keeps tensors without registering them: some that it computes with, some that it only puts away."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.scale = build(), torch.full((1,), 2.0)
        self.weights = {"a": [nn.Parameter(torch.ones(1))]}
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        return self.net(x * self.scale * self.weights["a"][0])


def replaced(model: Keeps) -> None:
    model.scale = torch.full((1,), 3.0)


def written(model: Keeps) -> None:
    model.scale.mul_(3)


def written_without_trace(model: Keeps) -> None:
    model.scale.numpy()[:] = 3


def replaced_in_a_list(model: Keeps) -> None:
    model.weights["a"][0] = nn.Parameter(torch.full((1,), 4.0))


def replaced_list(model: Keeps) -> None:
    model.weights = {"a": [torch.full((1,), 4.0)]}


UNREGISTERED = [replaced, written, written_without_trace, replaced_in_a_list, replaced_list]


@pytest.mark.parametrize("change", UNREGISTERED, ids=lambda change: change.__name__)
def test_unregistered_tensors_are_watched(captures: list[object], change: Callable[[Keeps], None]) -> None:
    model = Keeps().eval()
    network_for(model, IMAGES)
    change(model)
    logits, _ = network_for(model, IMAGES).forward(IMAGES)
    torch.testing.assert_close(logits, model(IMAGES).detach())
    assert len(captures) == 2


def test_what_is_only_put_away_is_not_watched(captures: list[object]) -> None:
    model = Keeps().eval()
    network_for(model, IMAGES)
    model(IMAGES)
    network_for(model, IMAGES)
    assert len(captures) == 1


def test_a_setting_is_captured_anew(captures: list[object]) -> None:
    model = build()
    network_for(model, IMAGES)
    model[0].stride = (2, 2)
    logits, _ = network_for(model, IMAGES).forward(IMAGES)
    torch.testing.assert_close(logits, model(IMAGES).detach())
    assert len(captures) == 2


CALLS: dict[str, Callable[[nn.Module], Tensor]] = {
    "explain": lambda model: fastcam.grad_cam(model, IMAGES, 0, normalize=False),
    "ucag": lambda model: fastcam.ucag(model, IMAGES, 0, patches=2, crop=4, scale=1.5, normalize=False),
    "relevance": lambda model: fastcam.relevance(model, IMAGES, 0),
    "metrics": lambda model: fastcam.metrics.average_drop(model, IMAGES, IMAGES[:, 0].abs(), 0),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("kind", [build, Keeps], ids=["weights", "unregistered"])
def test_elsewhere_than_on_a_cpu_a_call_tells_at_its_end(
    kind: Callable[[], nn.Module],
    call: Callable[[nn.Module], Tensor],
    captures: list[object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on a device that is not waited for: the call has used what was prepared before, and says so once."""
    monkeypatch.setattr(cache, "_is_read_at_once", lambda device: False)
    model = kind().eval()
    call(model)
    made = len(captures)
    (model.scale if isinstance(model, Keeps) else model[0].weight.detach()).numpy()[:] *= -3
    with pytest.raises(ValueError, match=r"model: its weights were written to.*call again"):
        call(model)
    found = call(model)
    # What was captured with the numbers in it is captured anew; weights alone are prepared anew.
    assert len(captures) == (2 * made if isinstance(model, Keeps) else made)
    fastcam.clear_cache(model)
    torch.testing.assert_close(found, call(model))
