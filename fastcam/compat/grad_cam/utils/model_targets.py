"""What to explain: a number made of the model's output for one image."""

from collections.abc import Sequence
from typing import Any, SupportsInt

from torch import Tensor

from fastcam.compat.targets import Columns, one_per_image
from fastcam.network.network import View


class ClassifierOutputTarget:
    """The logit of a class."""

    def __init__(self, category: SupportsInt) -> None:
        self.category = category

    def __call__(self, model_output: Tensor) -> Tensor:
        """Logits (classes,) or (N, classes) -> the class's, () or (N,)."""
        return model_output[..., int(self.category)]


class ClassifierOutputSoftmaxTarget:
    """The probability of a class, softmax over the logits."""

    def __init__(self, category: SupportsInt) -> None:
        self.category = category

    def __call__(self, model_output: Tensor) -> Tensor:
        """Logits (classes,) or (N, classes) -> the class's probability, () or (N,)."""
        return model_output.softmax(dim=-1)[..., int(self.category)]


class ClassifierOutputReST:
    """The logit of a class plus the logarithm of its probability (arXiv 2501.06261)."""

    def __init__(self, category: SupportsInt) -> None:
        self.category = category

    def __call__(self, model_output: Tensor) -> Tensor:
        """Logits (classes,) or (N, classes) -> (), or (N,)."""
        return (model_output + model_output.log_softmax(dim=-1))[..., int(self.category)]


class BinaryClassifierOutputTarget:
    """The output of a model of one number, for category 1; its negative for any other."""

    def __init__(self, category: SupportsInt) -> None:
        self.category = category

    def __call__(self, model_output: Tensor) -> Tensor:
        """Logits to as many."""
        return model_output if int(self.category) == 1 else -model_output


class SoftmaxOutputTarget:
    """All probabilities: a target only where there is one class."""

    def __call__(self, model_output: Tensor) -> Tensor:
        """Logits to as many."""
        return model_output.softmax(dim=-1)


class RawScoresOutputTarget:
    """All logits: a target only where there is one class."""

    def __call__(self, model_output: Tensor) -> Tensor:
        """Logits to as many."""
        return model_output


class FinerWeightedTarget:
    """By how much a class's logit exceeds alpha times those of others, on average weighted by their probabilities."""

    def __init__(self, main_category: int, comparison_categories: Sequence[int], alpha: float) -> None:
        self.main_category = main_category
        self.comparison_categories = comparison_categories
        self.alpha = alpha

    def __call__(self, model_output: Tensor) -> Tensor:
        """Logits (classes,) or (N, classes) -> (), or (N,)."""
        others = list(self.comparison_categories)
        weights = model_output.softmax(dim=-1)[..., others]
        margins = model_output[..., [self.main_category]] - self.alpha * model_output[..., others]
        return (weights * margins).sum(dim=-1) / (weights.sum(dim=-1) + 1e-9)


# By name, so that the same objects of pytorch-grad-cam itself are known without importing it. A subclass may compute
# anything: it is a callable as any other.
_LOGIT, _PROBABILITY = "ClassifierOutputTarget", "ClassifierOutputSoftmaxTarget"
_HOMES = (__name__, "pytorch_grad_cam.utils.model_targets")


def resolve(targets: object, images: int) -> tuple[list[int] | None, View | None]:
    """What is explained of each image: a class (None: the predicted), or a column of a function of the logits.

    Raises:
        TypeError: targets that are no list, or one that cannot be called.
        ValueError: another number of targets than images.
    """
    if targets is None:
        return None, None
    given = one_per_image(targets, images)
    for name, view in ((_LOGIT, None), (_PROBABILITY, _probabilities)):
        if all(_names_a_class(name, target) for target in given):
            return [int(target.category) for target in given], view  # type: ignore[attr-defined]
    columns = Columns(given)
    return columns.of_images, columns


def _names_a_class(name: str, target: Any) -> bool:
    """Whether an object of that name counts its class from the first; one from the last is a callable as any other."""
    return type(target).__name__ == name and type(target).__module__ in _HOMES and int(target.category) >= 0


def _probabilities(logits: Tensor) -> Tensor:
    return logits.softmax(dim=-1)
