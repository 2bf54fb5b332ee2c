"""What a capture writes into its graph besides ATen: where each module returned, and batch norms as one operation.

Tracing an operation takes milliseconds, so these two keep a capture at half of what it would take otherwise: a mark is
written into the graph without being run, and a batch norm has a kernel for shapes, which ATen's own lacks (there its
decomposition is traced through). `graph.build` takes both out again.
"""

from typing import TypeGuard, cast

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode, get_proxy_slot
from torch.fx.node import has_side_effect
from torch.nn.modules.batchnorm import _BatchNorm

torch.library.define("fastcam::module_output", "(Tensor x, str name) -> Tensor")
torch.library.define(
    "fastcam::batch_norm",
    "(Tensor x, Tensor? weight, Tensor? bias, Tensor running_mean, Tensor running_var, float eps) -> Tensor",
)
torch.library.impl("fastcam::module_output", "Meta", lambda x, name: torch.empty_like(x))
torch.library.impl("fastcam::batch_norm", "Meta", lambda x, *parameters: torch.empty_like(x))

# Nobody reads a mark, and yet it must stay where a pass removes what nobody reads.
MODULE_OUTPUT = has_side_effect(torch.ops.fastcam.module_output.default)
BATCH_NORM = torch.ops.fastcam.batch_norm.default


def mark_output(output: Tensor, name: str) -> None:
    """Note, in the graph that is being traced, that module `name` returned `output` as it is now."""
    mode = get_proxy_mode()
    assert mode is not None
    traced = get_proxy_slot(output, mode.tracer, None)
    if traced is None:  # a parameter: no operation made it
        return
    source = traced.proxy.node
    mark = mode.tracer.graph.call_function(MODULE_OUTPUT, (source, name))
    # The images were made by no module, and torch.export asks for one of everything else.
    mark.meta = {"nn_module_stack": {}, **source.meta}


def has_fixed_statistics(module: torch.nn.Module) -> TypeGuard[_BatchNorm]:
    """Whether a module is a batch norm that, in eval mode, only scales and shifts each channel."""
    return type(module).forward is _BatchNorm.forward and module.running_mean is not None


def batch_norm(module: _BatchNorm, x: Tensor) -> Tensor:
    """The forward of a batch norm with fixed statistics."""
    module._check_input_dim(x)  # type: ignore[no-untyped-call]
    parameters = (module.weight, module.bias, module.running_mean, module.running_var)
    return cast("Tensor", BATCH_NORM(x, *parameters, module.eps))
