"""One call for several metrics: what is shared, modes and precisions, the user's model, and bad input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastcam
from fastcam import metrics, ops
from fastcam.metrics import Batch, Trial
from fastcam.metrics.evaluate import choose_metrics
from fastcam.metrics.measure import measure
from fastcam.network.arguments import NotFiniteError
from tests.attribution.test_model_untouched import assert_unchanged, snapshot
from tests.attribution.toys import watched
from tests.metrics.toys import SIZE, build, explainer, gradient_maps, model_of, some_images

IMAGES = some_images(4).float()
MODEL = model_of(torch.float32)
# Of the metrics that score images with the model.
SCORED = [
    "drop", "increase", "coherency", "complexity", "adcc", "insertion", "deletion", "positive_density",
    "negative_density",
]  # fmt: skip


@pytest.fixture(scope="module")
def maps() -> Tensor:
    return explainer()(IMAGES)


def counted(explain: Callable[[Tensor, Tensor], Tensor], calls: list[int]) -> Callable[[Tensor, Tensor], Tensor]:
    """A method of a user's own, whose forward passes are its own affair."""

    def run(images: Tensor, targets: Tensor) -> Tensor:
        calls.append(len(images))
        return explain(images, targets)

    return run


# -- what is shared


def test_one_plain_and_one_masked_forward_serve_all_that_mask(maps: Tensor) -> None:
    calls: list[int] = []
    explain = counted(gradient_maps, calls)
    names = ["drop", "increase", "coherency", "complexity", "adcc", "positive_density"]
    with watched() as seen:
        metrics.evaluate(MODEL, IMAGES, maps, metrics=names, explain=explain)
    assert seen["forward"] == [4, 4]
    assert calls == [4]


def test_probabilities_that_are_known_are_not_computed_again(maps: Tensor) -> None:
    info = fastcam.abs_cam_init(MODEL, IMAGES, return_info=True)
    chosen = choose_metrics(["drop", "increase", "positive_density"], {})
    expected = metrics.evaluate(MODEL, IMAGES, maps, metrics=["drop", "increase", "positive_density"])
    with watched() as seen:
        batch = Batch(MODEL, IMAGES, probabilities=info.probabilities)
        found = measure(Trial(batch, maps), chosen)
    assert seen["forward"] == [4]
    for name, values in expected.items():
        assert torch.allclose(found[name], values, rtol=1e-4, atol=1e-4), name


def test_classes_that_are_given_need_no_forward(maps: Tensor) -> None:
    with watched() as seen:
        metrics.evaluate(MODEL, IMAGES, maps, 1, metrics="complexity")
    assert seen["forward"] == []


def test_sequences_leave_out_what_is_known(maps: Tensor) -> None:
    # 156 pixels in 4 steps: the image itself is scored once, one image of zeros for all, the blurred ones once.
    with watched() as seen:
        metrics.evaluate(MODEL, IMAGES, maps, metrics=["insertion", "deletion"], step=39, batch_size=4)
    assert sum(seen["forward"]) == 4 + 4 + 1 + 2 * 3 * 4
    assert max(seen["forward"]) <= 4


@pytest.mark.parametrize(
    ("batch_size", "forwards"), [(3, [3] * 4), (5, [4] * 3), (6, [6] * 2), (7, [6] * 2), (2, [2] * 6), (64, [12])]
)
def test_sequences_fill_their_forwards(batch_size: int, forwards: list[int], maps: Tensor) -> None:
    # Three steps between the ends of four maps.
    with watched() as seen:
        metrics.deletion(MODEL, IMAGES, maps, step=39, batch_size=batch_size)
    ends = [*seen["forward"]]
    for known in (1, *[len(p) for p in torch.arange(4).split(batch_size)]):
        ends.remove(known)  # the image of zeros, and the images
    assert ends == forwards


def test_further_maps_of_the_same_images_share_what_is_the_images_own(maps: Tensor) -> None:
    chosen = choose_metrics(["insertion", "deletion"], {"step": 39})
    batch = Batch(MODEL, IMAGES)
    measure(Trial(batch, maps), chosen)
    with watched() as seen:
        measure(Trial(batch, 1 - maps), chosen)
    assert sum(seen["forward"]) == 2 * 3 * 4


@pytest.mark.parametrize("batch_size", [1, 3, 5, 64])
def test_batch_sizes_bound_every_forward_and_change_nothing_else(batch_size: int, maps: Tensor) -> None:
    calls: list[int] = []
    options: dict[str, Any] = {"metrics": SCORED, "step": 17}
    expected = metrics.evaluate(MODEL, IMAGES, maps, explain=gradient_maps, **options)
    with watched() as seen:
        found = metrics.evaluate(
            MODEL, IMAGES, maps, explain=counted(gradient_maps, calls), batch_size=batch_size, **options
        )
    assert max(seen["forward"] + calls) <= batch_size
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, rtol=1e-3, atol=1e-3)


def test_evaluate_gives_what_each_function_gives(maps: Tensor) -> None:
    explain = explainer()
    found = metrics.evaluate(MODEL, IMAGES, maps, metrics=SCORED, explain=explain, step=39)
    sequence = {"step": 39}
    single = {
        "drop": metrics.average_drop(MODEL, IMAGES, maps),
        "increase": metrics.average_increase(MODEL, IMAGES, maps),
        "coherency": metrics.coherency(MODEL, IMAGES, maps, explain=explain),
        "complexity": metrics.complexity(maps),
        "adcc": metrics.adcc(MODEL, IMAGES, maps, explain=explain),
        "adcc_coherency": metrics.coherency(MODEL, IMAGES, maps, explain=explain),
        "adcc_complexity": metrics.complexity(maps),
        "adcc_drop": metrics.average_drop(MODEL, IMAGES, maps),
        "insertion": metrics.insertion(MODEL, IMAGES, maps, **sequence),
        "deletion": metrics.deletion(MODEL, IMAGES, maps, **sequence),
        "insertion_curve": metrics.insertion_curve(MODEL, IMAGES, maps, **sequence)[0],
        "deletion_curve": metrics.deletion_curve(MODEL, IMAGES, maps, **sequence)[0],
        "insertion_step": torch.full((4,), 0.25),
        "deletion_step": torch.full((4,), 0.25),
        "positive_density": metrics.positive_density(MODEL, IMAGES, maps),
        "negative_density": metrics.negative_density(MODEL, IMAGES, maps),
    }
    assert found.keys() == single.keys()
    for name, values in single.items():
        assert torch.equal(found[name], values), name


def test_the_columns_are_those_that_the_metrics_name(maps: Tensor) -> None:
    for name in SCORED:
        metric = metrics.METRICS[name]
        found = metrics.evaluate(MODEL, IMAGES, maps, metrics=name, explain=gradient_maps)
        assert list(found) == [column.name for column in metric.columns]
        for column in metric.columns:
            assert found[column.name].dim() == (2 if column.curve else 1)
            assert found[column.name].dtype == torch.float32


# -- modes and precisions


def test_under_inference_mode_and_without_gradient(maps: Tensor) -> None:
    options: dict[str, Any] = {"metrics": SCORED, "step": 39, "explain": gradient_maps}
    expected = metrics.evaluate(MODEL, IMAGES, maps, **options)
    with torch.inference_mode():
        # Inference tensors, as a loop under inference_mode makes them.
        images, own_maps = IMAGES * 1, maps * 1
        found = metrics.evaluate(MODEL, images, own_maps, **options)
        complexity = metrics.complexity(own_maps)
        with_explainer = metrics.adcc(MODEL, images, own_maps, explain=explainer())
    assert images.is_inference()
    for name, values in expected.items():
        assert torch.equal(found[name], values), name
        assert not found[name].requires_grad
        assert not found[name].is_inference()
    assert torch.equal(complexity, expected["complexity"])
    assert torch.equal(with_explainer, metrics.adcc(MODEL, IMAGES, maps, explain=explainer()))


def test_maps_and_images_that_require_gradients(maps: Tensor) -> None:
    images, tracked = IMAGES.clone().requires_grad_(), maps.clone().requires_grad_()
    found = metrics.evaluate(MODEL, images, tracked, metrics=["drop", "adcc", "insertion"], explain=gradient_maps)
    assert not any(values.requires_grad for values in found.values())
    assert images.grad is None
    assert tracked.grad is None


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 0), ("float16", 0.01), ("bfloat16", 0.08)])
def test_precisions(precision: str, tolerance: float, maps: Tensor) -> None:
    seen: list[torch.dtype] = []

    def explain(images: Tensor, targets: Tensor) -> Tensor:
        seen.append(images.dtype)
        return gradient_maps(images, targets)

    targets = MODEL(IMAGES).argmax(dim=1)
    names = ["adcc", "insertion", "deletion", "insertion_curve", "deletion_curve"]
    options: dict[str, Any] = {"metrics": ["adcc", "insertion", "deletion"], "step": 39}
    expected = metrics.evaluate(MODEL, IMAGES, maps, targets, explain=gradient_maps, **options)
    found = metrics.evaluate(MODEL, IMAGES, maps, targets, explain=explain, precision=precision, **options)
    assert seen == [torch.float32]
    for name in names:
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=tolerance)
    differs = not torch.equal(found["insertion"], expected["insertion"])
    assert differs == (precision != "float32")


@pytest.mark.parametrize("name", ["insertion", "deletion"])
@pytest.mark.parametrize("precision", [None, "float32", "float16", "bfloat16"], ids=str)
def test_sequences_are_made_in_the_networks_dtype(
    precision: str | None, name: str, maps: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that no step is converted on its own."""
    seen: list[torch.dtype] = []
    perturbed_inputs = ops.perturbed_inputs

    def spy(images: Tensor, base: Tensor, rank: Tensor, steps: Tensor) -> Tensor:
        found = perturbed_inputs(images, base, rank, steps)
        seen.extend(tensor.dtype for tensor in (images, base, found))
        return found

    monkeypatch.setattr(ops, "perturbed_inputs", spy)
    metrics.evaluate(MODEL, IMAGES, maps, metrics=name, step=39, precision=precision)
    assert set(seen) == {getattr(torch, precision or "float32")}


def test_images_and_maps_in_16_bits(maps: Tensor) -> None:
    model = build().bfloat16()
    images = IMAGES.bfloat16()
    found = metrics.evaluate(model, images, maps.bfloat16(), metrics=["drop", "insertion", "deletion"], step=39)
    assert all(values.dtype == torch.float32 and values.isfinite().all() for values in found.values())


# -- the user's model


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_the_model_is_not_touched(training: bool, maps: Tensor) -> None:
    options: dict[str, Any] = {"metrics": SCORED, "step": 39, "explain": gradient_maps}
    expected = metrics.evaluate(MODEL, IMAGES, maps, **options)
    model = build().train(training)
    images, own_maps = IMAGES.clone(), maps.clone()
    before = snapshot(model)
    found = metrics.evaluate(model, images, own_maps, **options)
    assert_unchanged(model, before)
    assert torch.equal(images, IMAGES)
    assert torch.equal(own_maps, maps)
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, rtol=1e-4, atol=1e-4)


def test_the_baseline_may_be_a_tensor(maps: Tensor) -> None:
    black = [-2.0, -1.0, 0.5]
    expected = metrics.average_drop(MODEL, IMAGES, maps, baseline=black)
    assert torch.equal(metrics.average_drop(MODEL, IMAGES, maps, baseline=torch.tensor(black)), expected)
    assert not torch.equal(metrics.average_drop(MODEL, IMAGES, maps), expected)


class Two(nn.Module):
    """Its code fixes the number of images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).relu().mean((2, 3)).view(2, 4))


def test_a_model_whose_code_fixes_the_number_of_images(maps: Tensor) -> None:
    torch.manual_seed(0)
    fixed = Two().eval()
    free = nn.Sequential(fixed.conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), fixed.fc).eval()
    options = {"metrics": ["drop", "insertion", "deletion", "negative_density"], "step": 39}
    found = metrics.evaluate(fixed, IMAGES[:2], maps[:2], 1, **options)
    for name, values in metrics.evaluate(free, IMAGES[:2], maps[:2], 1, **options).items():
        torch.testing.assert_close(found[name], values, rtol=1e-4, atol=1e-4)


def test_logits_picked_from_a_dictionary(maps: Tensor) -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = build()

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"logits": self.inner(x)}

    found = metrics.average_drop(Wrapped().eval(), IMAGES, maps, output=lambda y: y["logits"])
    assert torch.allclose(found, metrics.average_drop(MODEL, IMAGES, maps), rtol=1e-4, atol=1e-4)


# -- bad input


def refused(match: str, error: type[Exception] = ValueError, **changed: object) -> None:
    arguments: dict[str, object] = {
        "images": IMAGES, "maps": torch.rand(4, *SIZE), "targets": 1, "metrics": ["drop"], **changed,
    }  # fmt: skip
    with pytest.raises(error, match=match) as caught:
        metrics.evaluate(MODEL, **arguments)  # type: ignore[arg-type]
    assert type(caught.value) is error


@pytest.mark.parametrize(
    ("names", "match"),
    [
        (["drop", "insertoin"], r"metrics: 'insertoin' given.*close names: insertion"),
        ("average_drop", r"metrics: 'average_drop' given"),
        ([], r"metrics: \[\] given"),
        (["drop", "drop"], r"metrics.*different"),
        ([None], r"metrics: None given.*valid are drop, increase"),
    ],
    ids=["typo", "function_name", "none", "twice", "no_name"],
)
def test_names_of_metrics(names: object, match: str) -> None:
    refused(match, metrics=names)


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"steps": 5}, r"steps: no option of drop; mask, baseline are valid"),
        ({"step": 5}, r"step: no option of drop"),
        ({"metrics": "complexity", "mask": "soft"}, r"mask: no option of complexity; they have none"),
        ({"maps": torch.rand(4, *SIZE).numpy()}, r"maps: ndarray given"),
        ({"maps": torch.ones(4, *SIZE, dtype=torch.long)}, r"maps: torch.int64 given"),
        ({"explain": "grad_cam"}, r"explain: str given"),
        ({"metrics": "coherency", "explain": lambda x, c: None}, r"explain: NoneType given"),
    ],
    ids=["unknown", "of_another", "of_none", "numpy", "whole_numbers", "not_callable", "gives_nothing"],
)
def test_wrong_types(changed: dict[str, object], match: str) -> None:
    refused(match, TypeError, **changed)


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"maps": torch.rand(4, 6, 6)}, r'maps: shape \(4, 6, 6\) given, \(4, 12, 13\).*size="input"'),
        ({"maps": torch.rand(3, *SIZE)}, r"maps: shape \(3, 12, 13\) given, \(4, 12, 13\)"),
        ({"targets": [[0, 1]] * 4}, r"maps: shape \(4, 12, 13\) given, \(4, 2, 12, 13\)"),
        ({"maps": torch.rand(4, *SIZE).log() * float("inf")}, r"maps: NaN or infinite"),
        ({"images": IMAGES * float("nan")}, r"images: NaN or infinite values in image\(s\) 0, 1, 2, 3"),
        ({"targets": 5}, r"targets: class 5 given, 0 to 4"),
        ({"targets": [0, 1]}, r"targets: shape \(2,\) given"),
        ({"mask": "hard"}, r"mask: 'hard' given, one of 'soft', 'top50', 'soft_top50'"),
        ({"baseline": "black"}, r"baseline: 'black' given"),
        ({"baseline": float("nan")}, r"baseline: nan given"),
        ({"baseline": []}, r"baseline: \[\] given"),
        ({"baseline": [0.0, 1.0]}, r"baseline: 2 values given for images of 3 channels"),
        ({"batch_size": 0}, r"batch_size: 0 given"),
        ({"precision": "float8"}, r"precision: 'float8' given"),
        ({"metrics": "deletion", "step": 0}, r"step: 0 given, a positive integer"),
        ({"metrics": "deletion", "step": 1.5}, r"step: 1.5 given"),
        ({"metrics": "insertion", "taps": 10}, r"taps: 10 given, an odd positive integer"),
        ({"metrics": "insertion", "sigma": 0}, r"sigma: 0 given, a positive number"),
        ({"metrics": ["drop", "adcc"]}, r"explain: not given, but adcc needs it; pass .*Explainer"),
        ({"metrics": "coherency", "explain": lambda x, c: x}, r"explain: shape \(4, 3, 12, 13\) given"),
        ({"metrics": "coherency", "explain": lambda x, c: x[:, 0] * torch.nan}, r"explain: NaN or infinite"),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, dict) else "",
)
def test_wrong_values(changed: dict[str, object], match: str) -> None:
    refused(match, NotFiniteError if "NaN or infinite" in match else ValueError, **changed)


def test_complexity_refuses_what_is_no_map() -> None:
    with pytest.raises(TypeError, match=r"maps: list given"):
        metrics.complexity([0.5])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"maps: shape \(5,\) given"):
        metrics.complexity(torch.rand(5))
    with pytest.raises(ValueError, match=r"maps: NaN or infinite"):
        metrics.complexity(torch.full((2, 3, 3), torch.nan))


@pytest.mark.parametrize(
    ("probabilities", "match", "error"),
    [
        (torch.rand(4, 6), r"probabilities: \(4, 6\).*\(4, 5\)", ValueError),
        ([0.5], r"probabilities: list given", TypeError),
    ],
    ids=["shape", "list"],
)
def test_probabilities_that_do_not_fit(probabilities: Any, match: str, error: type[Exception]) -> None:
    with pytest.raises(error, match=match):
        Batch(MODEL, IMAGES, probabilities=probabilities)


def test_logits_that_overflow(maps: Tensor) -> None:
    model = build()
    with torch.no_grad():
        model.head[-1].weight.mul_(1e9)
    with pytest.raises(ValueError, match=r"model: its logits for these images are NaN or infinite; float16 overflows"):
        metrics.average_drop(model, IMAGES, maps, precision="float16")


def test_a_bad_map_does_not_spoil_the_batch_for_the_next(maps: Tensor) -> None:
    chosen, batch = choose_metrics(["drop"], {}), Batch(MODEL, IMAGES)
    with pytest.raises(ValueError, match="maps: NaN"):
        measure(Trial(batch, maps * torch.nan), chosen)
    assert torch.equal(measure(Trial(batch, maps), chosen)["drop"], metrics.average_drop(MODEL, IMAGES, maps))


def test_a_trial_keeps_the_scores_of_each_baseline_apart(maps: Tensor) -> None:
    trial = Trial(Batch(MODEL, IMAGES), maps, explain=gradient_maps)
    for baseline in (0.0, -2.0, [-2.0, 1.0, 0.5]):
        found = measure(trial, choose_metrics(["drop", "coherency"], {"baseline": baseline}))
        assert torch.equal(found["drop"], metrics.average_drop(MODEL, IMAGES, maps, baseline=baseline))
        expected = metrics.coherency(MODEL, IMAGES, maps, baseline=baseline, explain=gradient_maps)
        assert torch.equal(found["coherency"], expected)


def test_a_method_of_the_users_own_may_take_gradients(maps: Tensor) -> None:
    def explain(images: Tensor, targets: Tensor) -> Tensor:
        x = images.requires_grad_()
        (gradient,) = torch.autograd.grad(MODEL(x).gather(1, targets[:, None]).sum(), x)
        return (gradient * x).sum(dim=1)

    with torch.no_grad():
        found = metrics.coherency(MODEL, IMAGES, maps, explain=explain)
    assert torch.equal(found, metrics.coherency(MODEL, IMAGES, maps, explain=gradient_maps))
