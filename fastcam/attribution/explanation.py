"""What a call returns besides maps."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Explanation:
    """Maps with all that was computed on the way, so that no second forward pass is needed.

    maps: (N, H, W), or (N, T, H, W) where targets were (N, T); a list for a list of layers.
    logits, probabilities: (N, classes). targets: (N,) or (N, T), the classes explained.
    layer: the name of the target layer, or the list of names; "input" for methods that explain the images.
    weights: the channel weights alpha (N, K) or (N, T, K), per position (..., K, h, w), before any normalisation;
        None where the map is no weighted sum of channels; a list for a list of layers.
    left_out: what the method skipped, by name; a list for a list of layers. score_cam: "skipped_channels", a count per
        image. Relevance methods: "lost_relevance", by the name of each operation on the way, from the logits down, the
        relevance that came to it minus what it sent on, (N,) or (N, T); see `fastcam.propagation.relevance`. ucag:
        "confidences", the patches' weights (N, P) or (N, T, P), and what the method skipped in each patch, likewise.
    """

    maps: Tensor | list[Tensor]
    logits: Tensor
    probabilities: Tensor
    targets: Tensor
    layer: str | list[str]
    weights: Tensor | list[Tensor | None] | None
    left_out: Mapping[str, Any] = field(default_factory=dict)
