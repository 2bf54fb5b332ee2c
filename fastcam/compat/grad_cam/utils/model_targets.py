"""What to explain: a class's logit or its probability."""

from typing import SupportsInt

from torch import Tensor


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


LOGIT, PROBABILITY = "logit", "probability"

# By name, so that the same objects of pytorch-grad-cam itself are known without importing it.
_KINDS = {"ClassifierOutputTarget": LOGIT, "ClassifierOutputSoftmaxTarget": PROBABILITY}


def resolve(targets: object, images: int) -> tuple[list[int] | None, str]:
    """The classes of target objects, one per image, or None; and whether logits or probabilities are explained.

    Raises:
        TypeError: a target that is no object of the two kinds above: no class can be read from it.
        ValueError: another number of targets than images, or both kinds in one call.
    """
    if targets is None:
        return None, LOGIT
    if not isinstance(targets, list | tuple):
        raise TypeError(
            f"targets: {type(targets).__name__} given, None or a list of target objects, one per image, is valid"
        )
    if len(targets) != images:
        raise ValueError(f"targets: {len(targets)} given for {images} image(s); one per image is valid")
    kinds = {_kind(target) for target in targets}
    if len(kinds) > 1:
        raise ValueError(
            f"targets: objects of different kinds given; only one of {', '.join(_KINDS)} in a call is valid"
        )
    return [int(target.category) for target in targets], kinds.pop()


def _kind(target: object) -> str:
    for parent in type(target).__mro__:
        if parent.__name__ in _KINDS:
            return _KINDS[parent.__name__]
    raise TypeError(
        f"targets: an object of {type(target).__name__} given, which names no class; objects of "
        f"{' and '.join(_KINDS)} are valid"
    )
