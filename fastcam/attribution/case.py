"""One call: its images and targets, and the passes that its methods share."""

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property

import torch
from torch import Tensor, fx

from fastcam.network.arguments import DeferredChecks
from fastcam.network.layers import Layer
from fastcam.network.network import Network
from fastcam.network.plan import Operations, Values
from fastcam.network.precision import matrix_precision

# logits (N, classes) -> targets (N, T)
Resolve = Callable[[Tensor], Tensor]
# images of another size, layers -> the model's network for them, and the layers' nodes there
AtSize = Callable[[Tensor, Sequence[Layer]], tuple[Network, list[fx.Node]]]


class Pass:
    """A forward run that keeps some values, and the backward passes from scores to some of them.

    keep: nodes whose values are kept. leaves: nodes that scores are differentiated by; what lies before all of them
    runs without autograd's record. operations: functions to run in place of some ATen operations.
    """

    def __init__(
        self,
        network: Network,
        images: Tensor,
        keep: Iterable[fx.Node],
        leaves: Iterable[fx.Node] = (),
        operations: Operations | None = None,
    ) -> None:
        self._network = network
        self._device = images.device
        self._leaves = tuple(dict.fromkeys(leaves))
        wanted = (*keep, *self._leaves)
        self._logits, self._values = network.forward(images, wanted, leaves=self._leaves, operations=operations)

    @property
    def logits(self) -> Tensor:
        """Logits (N, classes), without gradient."""
        return self._logits.detach()

    def value(self, node: fx.Node) -> Tensor:
        """A kept value, without gradient."""
        value: Tensor = self._values[node]
        return value.detach()

    def gradients(self, targets: Tensor) -> Values:
        """dy_t / dleaf (N, T, ...) by leaf, y the logits at the targets (N, T): one backward pass per target."""
        leaves = [self._values[leaf] for leaf in self._leaves]
        last = targets.shape[1] - 1
        with torch.inference_mode(False), torch.enable_grad(), matrix_precision(self._network.precision, self._device):
            scores = self._logits.gather(1, targets).sum(dim=0).unbind()
            found = [torch.autograd.grad(s, leaves, retain_graph=t < last) for t, s in enumerate(scores)]
        per_leaf = zip(*found, strict=True)
        return {leaf: _stack(gradients) for leaf, gradients in zip(self._leaves, per_leaf, strict=True)}


def _stack(gradients: tuple[Tensor, ...]) -> Tensor:
    return gradients[0].unsqueeze(1) if len(gradients) == 1 else torch.stack(gradients, dim=1)


class Case:
    """The images of a call, the classes to explain, and one forward and backward pass for all methods.

    at_size: captures the model for images of another size.
    keep, leaves: what the call's methods together want kept and differentiated by.
    checks: where methods leave checks of values, to be settled once for the call.
    given: what the caller gave, where `images` are made of it: values are checked there.
    report: whether the caller wants to be told what was left out, where finding that out costs something.
    """

    def __init__(
        self,
        network: Network,
        images: Tensor,
        resolve: Resolve,
        at_size: AtSize,
        *,
        keep: Iterable[fx.Node] = (),
        leaves: Iterable[fx.Node] = (),
        checks: DeferredChecks,
        given: Tensor | None = None,
        report: bool = False,
    ) -> None:
        self.network = network
        self.images = images
        self.given = images if given is None else given
        self.at_size = at_size
        self.checks = checks
        self.report = report
        self._resolve = resolve
        self._targets: Tensor | None = None
        self._keep = tuple(keep)
        self._leaves = tuple(leaves)

    def resolve(self, logits: Tensor) -> Tensor:
        """The targets (N, T); the first logits of a call decide, so that all its methods explain the same classes."""
        if self._targets is None:
            self._targets = self._resolve(logits)
        return self._targets

    @cached_property
    def forward(self) -> Pass:
        """The shared forward pass."""
        return Pass(self.network, self.images, self._keep, self._leaves)

    @property
    def logits(self) -> Tensor:
        """Logits (N, classes) of the shared forward pass."""
        return self.forward.logits

    @property
    def targets(self) -> Tensor:
        """Targets (N, T)."""
        return self.resolve(self.logits)

    def value(self, node: fx.Node) -> Tensor:
        """The value of a layer, from the shared forward pass."""
        return self.forward.value(node)

    def gradient(self, node: fx.Node) -> Tensor:
        """g = dy_t / dnode (N, T, ...), from the shared backward pass."""
        gradient: Tensor = self._gradients[node]
        return gradient

    @cached_property
    def _gradients(self) -> Values:
        return self.forward.gradients(self.targets)
