"""LRP against captum's and zennit's on the CPU, each in its fastest setting.

    make bench-methods     # writes bench/results/lrp.json

vgg11, to the images, batch 8, float32, random images. captum's LRP takes neither of the networks of `test_methods_cpu`:
it has no rule for batch norms and ReLU6, none for additions that are no module, and refuses modules that are used
twice, as the ReLUs of resnet18 are. It has no alpha-beta rule but z+. A process of its own: captum's calls leave
gigabytes behind.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import captum.attr
import pytest
import torch
from captum.attr._utils.lrp_rules import Alpha1_Beta0_Rule, EpsilonRule, GammaRule, PropagationRule
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn
from torchvision.models import vgg11

from bench.test_methods_cpu import RULES, Comparison, Make, measure, single

CAPTUM: dict[str, type[PropagationRule]] = {"z+": Alpha1_Beta0_Rule, "epsilon": EpsilonRule, "gamma": GammaRule}


def captum_lrp(rule: type[PropagationRule]) -> Make:
    """captum: a rule for each convolution and linear layer, set anew, since a call takes them away."""

    def make(model: nn.Module, layer: str, x: Tensor, targets: list[int], batch: int) -> Callable[[], Any]:
        layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
        for module in model.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = False  # captum's hooks are on modules' inputs and outputs
        peer, chosen = captum.attr.LRP(model), torch.tensor(targets)

        def run() -> Any:
            for module in layers:
                module.rule = rule()
            return peer.attribute(x.clone().requires_grad_(), target=chosen)

        return run

    return make


@pytest.mark.parametrize("rule", CAPTUM)
def test_lrp_against_captum_and_zennit(benchmark: BenchmarkFixture, rule: str) -> None:
    torch.manual_seed(0)
    make, options = RULES[rule]
    comparison = Comparison({"captum": captum_lrp(CAPTUM[rule]), "zennit": single(make)}, options)
    network = ("vgg11", vgg11(weights=None).eval(), "")
    measure(benchmark, network, f"lrp, {rule}", comparison, images=8, rounds=3, warmups=1)
