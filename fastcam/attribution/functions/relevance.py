"""Functions of the relevance family: propagation by rules that are linear in the relevance."""

from typing import Unpack

from torch import Tensor, nn

from fastcam.attribution.explainer import Result
from fastcam.attribution.functions.common import Common, Layers, explain
from fastcam.network.arguments import Targets


def relevance_cam(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    layer: Layers = None,
    **common: Unpack[Common],
) -> Result:
    """Relevance-CAM (Lee et al. 2021, eq. 8-9): sum_k alpha_k A_k with alpha_k = sum_xy R_k(x, y), not clipped.

    R is the layer's relevance by the z+ rule (eq. 5-6), propagated from the contrastive seed (eq. 7): |z_t| at the
    target's logit, -|z_t| / (classes - 1) at all others. Arguments and results are those of `fastcam.explain`; with
    `return_info=True`, "lost_relevance" in `Explanation.left_out` is what each operation on the way lost, which costs
    some time to find out.

    Relevance ends where Z, what a unit gets by its positive weights, is at most 1e-6 of the image's largest Z in that
    layer (in float64 1e-14): where Z is 0, rounding may leave as much.

    Raises ValueError where an operation behind `layer` has no z+ rule (layer norm, attention); it is named.
    """
    return explain(model, images, targets, layer, method="relevance_cam", **common)


def lrp(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    layer: Layers = None,
    *,
    rule: str = "z+",
    seed: str = "one_hot",
    epsilon: float | None = None,
    gamma: float | None = None,
    alpha: float | None = None,
    beta: float | None = None,
    first: str | None = None,
    pixel_range: object = None,
    **common: Unpack[Common],
) -> Result:
    """Layer-wise relevance propagation (Bach et al. 2015): sum_k R_k(x, y), signed, at the images or at any layer.

    `fastcam.relevance` gives R itself, per channel. With `return_info=True`, "lost_relevance" in
    `Explanation.left_out` tells for each operation on the way what relevance it lost; finding out costs some time.

    Args:
        model, images, targets, common: see `fastcam.explain`.
        layer: None and "input" are the images; else see `fastcam.explain`.
        rule: "z+" (relevance-cam eq. 5-6; small Z count as 0, see `relevance_cam`), "epsilon", "gamma", "alpha_beta",
            or a composite: "epsilon_plus", "epsilon_plus_flat", "epsilon_gamma_box"; see
            `fastcam.propagation.composites`.
        seed: what the logits start with: "one_hot" (z_t at the target), "clrp" (relevance-cam eq. 7), "sglrp" (p_t
            (1 - p_t) at the target, -p_t p_n elsewhere) or "probability" (p_t at the target).
        epsilon: of the epsilon rule, above 0; None: 1e-6.
        gamma: of the gamma rule, at least 0; None: 0.25.
        alpha, beta: of the alpha-beta rule, at least 0, alpha - beta = 1; None: 2 and 1.
        first: rule of the first layers, where relevance passes them: "zB", "flat", "w2" or "z+"; None: the rule's own,
            for z+ that is z^B.
        pixel_range: (low, high) of the images' values for z^B, numbers or one per channel; None: that of [0, 1] in
            ImageNet's normalisation, for images of three channels.

    Raises ValueError for an option that the rule has no use for, for images outside `pixel_range`, and where an
    operation on the way has no rule.
    """
    return explain(
        model,
        images,
        targets,
        layer,
        method="lrp",
        rule=rule,
        seed=seed,
        epsilon=epsilon,
        gamma=gamma,
        alpha=alpha,
        beta=beta,
        first=first,
        pixel_range=pixel_range,
        **common,
    )


def clrp(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    layer: Layers = None,
    *,
    contrast: str = "others",
    first: str = "zB",
    pixel_range: object = None,
    **common: Unpack[Common],
) -> Result:
    """Contrastive LRP (Gu et al. 2018): relu(R / sum R - R' / sum R'), R and R' summed over the channels.

    R comes by the z+ rule from |z_t| at the target, R' from what it is contrasted with, both in one propagation. The
    form of one seed, with the contrast in it, is that of `relevance_cam`.

    Args:
        model, images, targets, common: see `fastcam.explain`.
        layer: None and "input" are the images; else see `fastcam.explain`.
        contrast: "others", |z_n| at all other classes; or "negated", |z_t| at the target through the negated last
            layer, -W for W.
        first, pixel_range: of the first layers, see `lrp`.
    """
    return explain(
        model,
        images,
        targets,
        layer,
        method="clrp",
        contrast=contrast,
        first=first,
        pixel_range=pixel_range,
        **common,
    )


def sglrp(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    layer: Layers = None,
    *,
    first: str = "zB",
    pixel_range: object = None,
    **common: Unpack[Common],
) -> Result:
    """Softmax-gradient LRP (Iwana et al. 2019): R - R' (sum R / sum R'), R and R' summed over the channels, signed.

    R comes by the z+ rule from p_t (1 - p_t) at the target, R' from p_t p_n at the other classes n, both in one
    propagation. With both in one seed, and so without equal sums: `lrp(seed="sglrp")`.

    Args:
        model, images, targets, common: see `fastcam.explain`.
        layer: None and "input" are the images; else see `fastcam.explain`.
        first, pixel_range: of the first layers, see `lrp`.
    """
    return explain(model, images, targets, layer, method="sglrp", first=first, pixel_range=pixel_range, **common)


def excitation_backprop(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    layer: Layers = None,
    *,
    contrastive: bool = False,
    **common: Unpack[Common],
) -> Result:
    """Excitation backprop (Zhang et al. 2018): the marginal winning probability sum_k P_k(x, y) of a layer.

    P starts with p_t at the target and goes back by the z+ rule. As in the paper, it is read at a layer on the way
    (the last feature map unless given); at the images that is `lrp(seed="probability")`.

    Args:
        model, images, targets, layer, common: see `fastcam.explain`.
        contrastive: subtract what comes through the negated last layer, -W for W; the map is signed then.
    """
    return explain(model, images, targets, layer, method="excitation_backprop", contrastive=contrastive, **common)
