"""Layer-wise relevance propagation: channel weights made of it, and relevance itself."""

from collections.abc import Sequence

from fastcam.attribution.case import Case
from fastcam.attribution.method import Evidence, Method, Options, Weighted, Whole
from fastcam.attribution.propagated import propagated
from fastcam.network.arguments import check_choice
from fastcam.network.layers import Layer
from fastcam.ops.seeds import SEEDS
from fastcam.propagation.composites import Composite, composite
from fastcam.propagation.propagate import Lost, find_route, propagate
from fastcam.propagation.relevance import by_label


def _relevance_cam(case: Case, layers: Sequence[Layer], _: Options) -> Evidence:
    nodes = [layer.node for layer in layers]
    route = find_route(case.network, nodes)
    lost: Lost | None = {} if case.report else None
    logits, values, weights = propagate(case.network, route, case.images, nodes, case.resolve, "clrp", lost=lost)
    parts = [Weighted(values[node], alpha) for node, alpha in zip(nodes, weights, strict=True)]
    report = {} if lost is None else {"lost_relevance": [by_label(lost, case.network.graph)] * len(nodes)}
    return Evidence(logits, case.resolve(logits), parts, report)


RELEVANCE_CAM = Method(
    name="relevance_cam",
    family="relevance",
    paper="Lee et al. 2021",
    find=_relevance_cam,
    relu=False,
    forwards="1",
    backwards="1",
)


def _lrp(case: Case, layers: Sequence[Layer], options: Options) -> Evidence:
    found = propagated(case, layers, _composite(options), options["seed"])
    return Evidence(found.value, case.resolve(found.value), [Whole(r) for r in found.maps], found.left_out())


def _composite(options: Options) -> Composite:
    return composite(**{name: value for name, value in options.items() if name != "seed"})


def _check_lrp(options: Options) -> None:
    check_choice("seed", options["seed"], tuple(SEEDS))
    _composite(options)


LRP = Method(
    name="lrp",
    family="relevance",
    paper="Bach et al. 2015",
    find=_lrp,
    relu=False,
    signed=True,
    layer="input",
    forwards="1",
    backwards="1",
    options={
        "rule": "z+",
        "seed": "one_hot",
        "epsilon": None,
        "gamma": None,
        "alpha": None,
        "beta": None,
        "first": None,
        "pixel_range": None,
    },
    check=_check_lrp,
)
