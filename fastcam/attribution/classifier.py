"""The classifier of a model that ends in global average pooling and one linear layer."""

from torch import fx

from fastcam.network.graph import aten, shape
from fastcam.network.layers import Layer
from fastcam.network.network import Network

_MOVES = {
    aten.flatten.using_ints,
    aten.reshape.default,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
}


class NoClassifierError(ValueError):
    """Something else stands between a layer and the logits; the message says what."""


def classifier_of(network: Network, layer: Layer) -> fx.Node:
    """The weight (classes, K) of the linear layer that reads the globally average-pooled `layer`, and nothing but it.

    Raises NoClassifierError where anything else stands between the layer and the logits.
    """
    if network.view is not None:
        raise NoClassifierError("what is explained is a function of the logits")
    needed = network.graph.ancestors([network.graph.logits])
    found, pooled = layer.node, False
    while True:
        readers = [user for user in found.users if user in needed]
        if len(readers) != 1:
            raise NoClassifierError(f"{len(readers)} operations read it")
        before, found = found, readers[0]
        if not pooled and _is_global_average(found, before, layer):
            pooled = True
        elif found.target is aten.linear.default and pooled and found is network.graph.logits:
            (weight,) = [node for node in found.all_input_nodes[1:2] if node in network.graph.weights]
            if shape(weight)[1] == shape(layer.node)[1]:
                return weight
            raise NoClassifierError("the linear layer behind it reads more than its channels")
        elif found.target not in _MOVES:
            raise NoClassifierError(f"{found.target} stands between it and the logits")


def _is_global_average(node: fx.Node, operand: fx.Node, layer: Layer) -> bool:
    """Whether `node` is the mean over all positions of `operand`, which still has the layer's channels."""
    size, result = shape(operand), shape(node)
    if len(size) < 3 or size[1] != shape(layer.node)[1]:
        return False
    if node.target is aten.mean.dim:
        dims = node.args[1]
        every = list(range(2, len(size)))
        return isinstance(dims, list | tuple) and sorted(int(str(dim)) % len(size) for dim in dims) == every
    if result[2:] != (1, 1):
        return False
    if node.target is aten.avg_pool2d.default:
        # (x, kernel, stride, padding, ceil_mode, count_include_pad, divisor_override)
        plain = not node.kwargs and all(not given or given == [0, 0] for given in (*node.args[3:5], *node.args[6:]))
        return plain and bool(node.args[1] == list(size[2:]))
    return node.target is aten.adaptive_avg_pool2d.default
