"""What a rule is: how relevance goes back through one operation.

A signal on its way back is carried in one of two forms: as G, where the relevance is R = t G for a tensor t
(elementwise), or as R itself. G is what convolutions, additions and pools want: their rules are then backward
passes. R is what a lone batch norm of the z+ rule wants: it passes R unchanged, and G_x = (y / x) G_y would blow up
where x is near 0; and what a rule wants that gives relevance to inputs of 0, as those for pixels do.

A rule computes its operation forward and returns, with the value, how to go back. Signals are (T, N, ...): T
targets, outermost, share what the forward pass has kept.

To write a set of rules of one's own:

1. For each kind of operation that needs one, a `Rule`. `receivers` picks the operands that get relevance (`layer_input`
   for a convolution or linear layer). `sends` tells the form of what is sent from the form of what comes
   (`always_g`, `always_r`, `unchanged`). `forward(call, values)` returns the operation's value, from `values` and
   `call.network.weights`, and a function from the signal (T, N, ...), in `call.form`, to one `Signal` per node of
   `call.receivers`. What has settings is a frozen dataclass with a `__call__`, so that equal rules are equal: routes
   are kept per network and set of rules.
2. A `RuleSet`: a hashable object whose `rule_for(step, graph)` returns the rule of a step. `step.unit` tells a
   convolution or linear layer (with what is folded into it: batch norm, activation); for the rest there is
   `fastcam.propagation.operations.operation_rule`. `fastcam.propagation.composites.Composite` is one.
3. `find_route(network, layers, rules)` and `propagate`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from torch import Tensor, fx

from fastcam.network.graph import Graph
from fastcam.network.network import Network
from fastcam.network.plan import Step, Values


class Form(Enum):
    """How a signal carries relevance."""

    G = "R / t"
    R = "R"


@dataclass(frozen=True)
class Signal:
    """A signal (T, N, ...); `fresh` if its memory is nobody else's."""

    tensor: Tensor
    fresh: bool = False


Pullback = Callable[[Tensor], list[Signal]]


@dataclass(frozen=True, eq=False)
class Call:
    """One operation of a propagation: its step, the form in which its signal comes, who gets it.

    given: what the caller of the propagation has found out before, by node, such as gradients.
    """

    step: Step
    form: Form
    receivers: tuple[fx.Node, ...]
    network: Network
    given: Mapping[fx.Node, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Rule:
    """A rule: which operands receive relevance, in which form, and the propagation itself."""

    receivers: Callable[[Step, Graph], tuple[fx.Node, ...]]
    sends: Callable[[Form], Form]
    forward: Callable[[Call, Values], tuple[Any, Pullback]]


class RuleSet(Protocol):
    """The rule of each step; hashable, and equal to another where all rules are."""

    def rule_for(self, step: Step, graph: Graph) -> Rule:
        """The rule of a step. Raises ValueError, naming the operation and its module, where there is none."""

    def __hash__(self) -> int: ...


def layer_input(step: Step, graph: Graph) -> tuple[fx.Node, ...]:
    """Receivers: what a convolution or linear layer reads."""
    assert step.unit is not None
    return (step.unit.input,)


def always_g(_: Form) -> Form:
    """Sends G, whatever comes."""
    return Form.G


def always_r(_: Form) -> Form:
    """Sends R, whatever comes."""
    return Form.R


def unchanged(form: Form) -> Form:
    """Sends what comes."""
    return form
