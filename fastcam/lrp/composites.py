"""Composites: which rule each layer of a network takes."""

from dataclasses import dataclass

from torch import fx

from fastcam.lrp.operations import operation_rule
from fastcam.lrp.rule import Rule
from fastcam.lrp.z_plus import Z_PLUS
from fastcam.network.graph import Graph, aten
from fastcam.network.plan import Step
from fastcam.network.units import is_layer


@dataclass(frozen=True)
class Composite:
    """Rules by kind of layer; the operations between the layers have those of `fastcam.lrp.operations`.

    convolution, linear: of the layers.
    first: of the layers with no other layer between them and the images; None: the same as elsewhere.
    classifier: of the layers with no other layer between them and the logits; None: the same as elsewhere.
    norm: of batch norms that are not folded into a convolution; None: relevance passes, where the input is not 0.
    """

    convolution: Rule = Z_PLUS
    linear: Rule = Z_PLUS
    first: Rule | None = None
    classifier: Rule | None = None
    norm: Rule | None = None

    def rule_for(self, step: Step, graph: Graph) -> Rule:
        """The rule of a step. Raises ValueError, naming the operation and its module, where there is none."""
        unit = step.unit
        if unit is None:
            if step.node.target is aten.batch_norm.default and self.norm is not None:
                return self.norm
            return operation_rule(step, graph)
        if self.first is not None and not _layers(graph.ancestors([unit.layer]) - {unit.layer}, graph):
            return self.first
        if self.classifier is not None and not _layers(graph.descendants([unit.layer]) - {unit.layer}, graph):
            return self.classifier
        return self.linear if unit.geometry is None else self.convolution


def _layers(nodes: set[fx.Node], graph: Graph) -> bool:
    """Whether a convolution or linear layer is among the nodes."""
    return any(is_layer(node, graph) for node in nodes)
