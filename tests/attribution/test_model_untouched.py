"""The user's model is the same after a call to the last bit, and is not touched during it either."""

from __future__ import annotations

import copy
import threading
import warnings
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import fastcam
from tests.zoo import ZOO, BasicBlock, conv, randomise

METHODS: dict[str, Callable[..., Any]] = {
    "cam": fastcam.cam,
    "grad_cam": fastcam.grad_cam,
    "relevance_cam": fastcam.relevance_cam,
    "score_cam": fastcam.score_cam,
}
EVERY_METHOD = pytest.mark.parametrize("method", METHODS)


class Net(nn.Module):
    """Batch norm, in-place activations, dropout, a parameter and a buffer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn, self.relu = conv(3, 4), nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        self.block, self.drop = BasicBlock(4, 6, stride=2), nn.Dropout2d(0.5)
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(6, 5)
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.register_buffer("seen", torch.zeros(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn(self.stem(x)))
        x = self.drop(self.block(x)) * self.scale
        return self.fc(self.pool(x).flatten(1))


class PlainNet(Net):
    """What cam wants: pooling and one linear layer behind the last block."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.block(self.relu(self.bn(self.stem(x))))).flatten(1))


def build(kind: type[nn.Module] = PlainNet, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return randomise(kind())


@cache
def another() -> nn.Module:
    """A model of which only maps are taken: those of a model that is watched must equal them."""
    return build()


def some_images(count: int = 2, seed: int = 1) -> Tensor:
    return torch.randn(count, 3, 10, 10, generator=torch.Generator().manual_seed(seed))


HOOKS = [name for name in vars(nn.Module()) if "hooks" in name]


@dataclass
class Snapshot:
    """Everything about a model that a user could notice."""

    state: dict[str, Tensor]
    identities: dict[str, tuple[int, int, int, torch.Size, tuple[int, ...]]]
    grads: dict[str, tuple[bool, int | None, bool]]
    modules: dict[str, tuple[int, type, bool, tuple[str, ...]]]
    hooks: dict[str, tuple[tuple[int, ...], ...]]
    random_state: Tensor
    grad_mode: bool


def snapshot(model: nn.Module) -> Snapshot:
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    return Snapshot(
        state={name: value.detach().clone() for name, value in tensors.items()},
        identities={
            name: (id(t), t.data_ptr(), t._version, t.shape, t.stride()) for name, t in tensors.items()
        },
        grads={
            name: (t.requires_grad, None if t.grad is None else id(t.grad), t.is_leaf)
            for name, t in tensors.items()
        },
        modules={
            name: (id(m), type(m), m.training, tuple(vars(m))) for name, m in model.named_modules()
        },
        hooks={
            name: tuple(tuple(getattr(m, hook) or ()) for hook in HOOKS) for name, m in model.named_modules()
        },
        random_state=torch.get_rng_state(),
        grad_mode=torch.is_grad_enabled(),
    )  # fmt: skip


def assert_unchanged(model: nn.Module, before: Snapshot) -> None:
    after = snapshot(model)
    assert after.state.keys() == before.state.keys()
    for name, value in before.state.items():
        assert torch.equal(after.state[name], value), name
        assert after.state[name].dtype == value.dtype, name
    for field in ("identities", "grads", "modules", "hooks", "grad_mode"):
        assert getattr(after, field) == getattr(before, field), field
    assert torch.equal(after.random_state, before.random_state)


@EVERY_METHOD
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_nothing_changes(method: str, training: bool) -> None:
    model, images = build(), some_images()
    expected = METHODS[method](another(), images, [[0, 1], [2, 3]])
    model.train(training)
    model.block.bn1.eval()  # flags differ from module to module
    model.stem.weight.requires_grad_(False)
    model.fc.weight.grad = torch.ones_like(model.fc.weight)
    calls: list[str] = []
    handles = [
        model.block.register_forward_hook(lambda *_: calls.append("forward")),
        model.register_forward_pre_hook(lambda *_: calls.append("pre")),
        model.stem.register_full_backward_hook(lambda *_: calls.append("backward")),
    ]
    before = snapshot(model)
    for size in ("input", "layer"):
        METHODS[method](model, images, [[0, 1], [2, 3]], size=size)
    METHODS[method](model, some_images(3), None, return_info=True, precision="bfloat16")
    found = METHODS[method](model, images, [[0, 1], [2, 3]])
    assert_unchanged(model, before)
    assert torch.equal(model.fc.weight.grad, torch.ones_like(model.fc.weight))
    # Explained as in eval mode, whatever the flags say.
    assert torch.allclose(found, expected, atol=1e-5)
    for handle in handles:
        handle.remove()


def test_nothing_changes_for_several_layers() -> None:
    model, images = build(Net), some_images()
    before = snapshot(model)
    for method in ("grad_cam", "relevance_cam", "score_cam"):
        METHODS[method](model, images, None, ["stem", "block.bn1", model.block])
    assert_unchanged(model, before)


def raises(call: Callable[[], object]) -> None:
    with pytest.raises((ValueError, TypeError)):
        call()


@EVERY_METHOD
def test_nothing_changes_when_a_call_raises(method: str) -> None:
    function = METHODS[method]
    model, images = build().train(), some_images()
    before = snapshot(model)
    for warm in (False, True):
        raises(lambda: function(model, images[0]))
        raises(lambda: function(model, images * float("nan")))
        raises(lambda: function(model, images[:, :2]))
        raises(lambda: function(model, images, 99))
        raises(lambda: function(model, images, [0]))
        raises(lambda: function(model, images, 0, "no_such_layer"))
        raises(lambda: function(model, images, 0, "fc"))
        raises(lambda: function(model, images, 0, size="huge"))
        raises(lambda: function(model, images, 0, precision="int4"))
        assert_unchanged(model, before)
        if not warm:
            function(model, images)


class NoRule(nn.Module):
    """Layer norm behind the target layer; a pooled classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.fc = conv(3, 4), nn.LayerNorm([4, 10, 10]), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(self.stem(x)).mean((2, 3)))


class Branches(nn.Module):
    """What it computes depends on the values: not one graph."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fc = conv(3, 4), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if x.sum() > 0:
            x = x * 2
        return self.fc(x.mean((2, 3)))


@pytest.mark.parametrize("kind", [NoRule, Branches], ids=["no_rule", "no_graph"])
def test_nothing_changes_when_the_model_cannot_be_explained(kind: type[nn.Module]) -> None:
    model = kind().train()
    before = snapshot(model)
    for _ in range(2):
        raises(lambda: fastcam.relevance_cam(model, some_images(), 0, "stem"))
        assert_unchanged(model, before)


@EVERY_METHOD
@pytest.mark.parametrize(
    "mode", [nullcontext, torch.no_grad, torch.inference_mode, torch.enable_grad],
    ids=["plain", "no_grad", "inference_mode", "enable_grad"],
)  # fmt: skip
def test_grad_modes(method: str, mode: Callable[[], Any]) -> None:
    expected = METHODS[method](another(), some_images(), [[0, 1], [2, 3]])
    model = build()
    before = snapshot(model)
    with mode():
        inside = METHODS[method](model, some_images(), [[0, 1], [2, 3]])
    outside = METHODS[method](model, some_images(), [[0, 1], [2, 3]])
    assert torch.allclose(inside, expected, atol=1e-6)
    assert torch.allclose(outside, expected, atol=1e-6)
    assert_unchanged(model, before)
    # The model still learns.
    model(some_images()).sum().backward()
    assert model.stem.weight.grad is not None


@EVERY_METHOD
def test_images_made_in_inference_mode(method: str) -> None:
    with torch.inference_mode():
        images = some_images() * 1
    expected = METHODS[method](another(), some_images(), 1)
    assert torch.allclose(METHODS[method](build(), images, 1), expected, atol=1e-6)


@EVERY_METHOD
def test_a_model_made_in_inference_mode(method: str) -> None:
    with torch.inference_mode():
        model = build()
    expected = METHODS[method](another(), some_images(), 1)
    assert torch.allclose(METHODS[method](model, some_images(), 1), expected, atol=1e-6)


@EVERY_METHOD
def test_frozen_parameters(method: str) -> None:
    expected = METHODS[method](another(), some_images(), [[0, 1], [2, 3]])
    model = build().requires_grad_(False)
    before = snapshot(model)
    assert torch.allclose(METHODS[method](model, some_images(), [[0, 1], [2, 3]]), expected, atol=1e-6)
    assert_unchanged(model, before)


class WatchedDict(dict):
    """Notes every write to itself, a swapped parameter included; copies of it note nothing."""

    def note(self, key: object) -> None:
        if id(self) in WATCHED:
            WRITES.append(f"{WATCHED[id(self)]}[{key!r}]")

    def __setitem__(self, key: Any, value: Any) -> None:
        self.note(key)
        super().__setitem__(key, value)

    def __delitem__(self, key: Any) -> None:
        self.note(key)
        super().__delitem__(key)

    def pop(self, key: Any, *default: Any) -> Any:
        self.note(key)
        return super().pop(key, *default)

    def update(self, *args: Any, **kwargs: Any) -> None:
        self.note("update")
        super().update(*args, **kwargs)

    def clear(self) -> None:
        self.note("clear")
        super().clear()


WATCHED: dict[int, str] = {}
WRITES: list[str] = []


@pytest.fixture
def watched_model(monkeypatch: pytest.MonkeyPatch) -> Iterator[nn.Module]:
    """A model on which any write, however short-lived, is noted in WRITES."""
    model = build().train()
    own = {id(module): name for name, module in model.named_modules()}
    for name, module in model.named_modules():
        for part in ("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks"):
            module.__dict__[part] = watched = WatchedDict(module.__dict__[part])
            WATCHED[id(watched)] = f"{name}.{part}"
    setter = nn.Module.__setattr__

    def noting(self: nn.Module, key: str, value: Any) -> None:
        if id(self) in own:
            WRITES.append(f"{own[id(self)]}.{key}")
        setter(self, key, value)

    monkeypatch.setattr(nn.Module, "__setattr__", noting)
    WRITES.clear()
    yield model
    WATCHED.clear()
    WRITES.clear()


def test_the_watch_sees_short_writes(watched_model: nn.Module) -> None:
    watched_model.eval()
    torch.func.functional_call(watched_model, {"fc.bias": torch.zeros(5)}, (some_images(),))
    assert ".training" in WRITES
    assert "fc._parameters['bias']" in WRITES


@EVERY_METHOD
def test_not_even_for_a_moment(method: str, watched_model: nn.Module) -> None:
    for count in (1, 2):
        METHODS[method](watched_model, some_images(count), 1)
    if method == "relevance_cam":
        raises(lambda: fastcam.relevance_cam(watched_model, some_images(), 0, "no_such_layer"))
    assert WRITES == []


@EVERY_METHOD
def test_two_threads_at_once(method: str) -> None:
    model = build().train()
    jobs = [(some_images(2, seed), [[seed % 5, 1], [2, (seed + 1) % 5]]) for seed in range(8)]
    expected = [METHODS[method](another(), *job) for job in jobs]
    before = snapshot(model)
    start = threading.Barrier(2)

    def work(first: int) -> list[Tensor]:
        start.wait()
        return [METHODS[method](model, *jobs[i]) for i in range(first, 8, 2)]

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(work, (0, 1)))
    for i in range(8):
        assert torch.allclose(found[i % 2][i // 2], expected[i], atol=1e-5), i
    assert_unchanged(model, before)


def test_two_threads_with_two_models_and_methods() -> None:
    models = [build(seed=0), build(seed=1)]
    images = some_images()
    expected = [fastcam.relevance_cam(models[0], images), fastcam.score_cam(models[1], images, 2)]
    fastcam.clear_cache()
    start = threading.Barrier(2)

    def work(which: int) -> list[Tensor]:
        start.wait()
        if which == 0:
            return [fastcam.relevance_cam(models[0], images) for _ in range(4)]
        return [fastcam.score_cam(models[1], images, 2) for _ in range(4)]

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(work, (0, 1)))
    for maps, right in zip(found, expected, strict=True):
        assert all(torch.allclose(each, right, atol=1e-5) for each in maps)


def test_training_goes_on_in_another_thread() -> None:
    # The model is called by its owner while it is captured again and again.
    model = build()
    images = some_images()
    with torch.no_grad():
        expected = model(images)
    stop = threading.Event()

    def serve() -> int:
        served = 0
        while not stop.is_set():
            with torch.no_grad():
                # Not to the last bit: how a sum is split among cores depends on who else is at work.
                assert torch.allclose(model(images), expected, rtol=1e-4, atol=1e-5)
            served += 1
        return served

    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(serve)
        try:
            for _ in range(3):
                fastcam.clear_cache(model)
                fastcam.relevance_cam(model, images, 1)
        finally:
            stop.set()
    assert answer.result() > 0


@pytest.mark.parametrize("name", ["functional_and_in_place", "reused_module", "linear_bottleneck"])
def test_networks_with_in_place_operations(name: str) -> None:
    model, images = ZOO[name].model(), ZOO[name].images()
    given, before = images.clone(), snapshot(model)
    fastcam.relevance_cam(model, images)
    fastcam.grad_cam(model, images)
    fastcam.score_cam(model, images)
    assert_unchanged(model, before)
    assert torch.equal(images, given)


class ChangesItsInput(nn.Module):
    """The first thing it does is to write on the images."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fc = conv(3, 4), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.stem(x.sub_(0.5).div_(2)).relu().mean((2, 3)))


@EVERY_METHOD
def test_images_of_a_model_that_writes_on_them(method: str) -> None:
    model, images = ChangesItsInput().eval(), some_images()
    given = images.clone()
    first = METHODS[method](model, images, 1)
    assert torch.equal(images, given)
    assert torch.equal(METHODS[method](model, images, 1), first)


class Pair(NamedTuple):
    gain: Tensor
    name: str


class Keeper(nn.Module):
    """Writes to tensors that it has not registered, and into lists, dicts and whatever else keeps them."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.average, self.plain = PlainNet(), torch.full((3,), 5.0), [nn.BatchNorm2d(3)]
        self.listed = [self.net.stem, self.plain[0]]
        self.grids: dict[int, Tensor] = {}
        self.nested: dict[str, Any] = {"a": [torch.ones(1)], "b": OrderedDict(c=deque([torch.ones(1)], maxlen=2))}
        self.pair = Pair(torch.ones(1), "gain")
        self.log: list[Tensor] = []
        self.names = {"none"}
        self.last: Tensor | None = None
        self.call = self.classify

    def classify(self, x: Tensor) -> Tensor:
        self.log.append(x)
        return self.net(x)

    def forward(self, x: Tensor) -> Tensor:
        self.average.mul_(0.9)
        if x.shape[-1] not in self.grids:
            self.grids[x.shape[-1]] = torch.linspace(0, 1, x.shape[-1])
        x = self.listed[1](x * self.grids[x.shape[-1]]) * self.average.view(3, 1, 1)
        self.nested["a"][0].add_(1)
        self.nested["b"]["c"].append(x)
        self.pair.gain.mul_(2)
        self.names.add("some")
        self.last = x
        return self.call(x * self.nested["a"][0] * self.pair.gain)


def kept(model: nn.Module) -> str:
    """What is kept, and of what classes, in words."""
    assert isinstance(model, Keeper)
    parts = (model.average, model.grids, model.nested, model.pair, model.log, model.names, model.last)
    (norm,) = model.plain
    return repr((parts, norm.training, list(norm.buffers()), len(model.listed), vars(norm).keys()))


@EVERY_METHOD
@pytest.mark.parametrize("used", [False, True], ids=["fresh", "used"])
def test_what_is_kept_in_lists_and_dicts(method: str, used: bool) -> None:
    model, images = build(Keeper).train(), some_images()
    model.plain[0].train()
    if used:
        with torch.no_grad():
            model(images)
    before, words = snapshot(model), kept(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        info = METHODS[method](model, images, [[0, 1], [2, 3]], return_info=True)
        METHODS[method](model, images[:1], 1)
    assert kept(model) == words
    assert_unchanged(model, before)
    # The next forward pass of the model's own, after which what it keeps is another.
    model.eval()
    model.plain[0].eval()
    with torch.no_grad():
        torch.testing.assert_close(info.logits, model(images), rtol=1e-4, atol=1e-5)
    again = METHODS[method](model, images, [[0, 1], [2, 3]], return_info=True)
    with torch.no_grad():
        torch.testing.assert_close(again.logits, copy.deepcopy(model)(images), rtol=1e-4, atol=1e-5)


def test_unregistered_modules_are_watched() -> None:
    model, images = build(Keeper), some_images()
    (norm,) = model.plain
    norm.eval()
    for change in (lambda: norm.bias.data.add_(1), lambda: setattr(norm, "weight", nn.Parameter(torch.randn(3)))):
        fastcam.grad_cam(model, images, 1)
        change()
        found = fastcam.grad_cam(model, images, 1, return_info=True)
        with torch.no_grad():
            torch.testing.assert_close(found.logits, copy.deepcopy(model)(images), rtol=1e-4, atol=1e-5)
