"""All metrics, by name."""

from collections.abc import Mapping

from fastcam.metrics.adcc import ADCC, COHERENCY, COMPLEXITY
from fastcam.metrics.density import NEGATIVE_DENSITY, POSITIVE_DENSITY
from fastcam.metrics.faithfulness import DROP, INCREASE
from fastcam.metrics.metric import Metric
from fastcam.metrics.perturbation import DELETION, INSERTION

_FAITHFULNESS = (DROP, INCREASE, COHERENCY, COMPLEXITY, ADCC, INSERTION, DELETION)
_DENSITY = (POSITIVE_DENSITY, NEGATIVE_DENSITY)

METRICS: Mapping[str, Metric] = {metric.name: metric for metric in (*_FAITHFULNESS, *_DENSITY)}
