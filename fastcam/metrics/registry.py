"""All metrics, by name."""

from collections.abc import Mapping

from fastcam.metrics.adcc import ADCC, COHERENCY, COMPLEXITY
from fastcam.metrics.density import NEGATIVE_DENSITY, POSITIVE_DENSITY
from fastcam.metrics.faithfulness import DROP, INCREASE
from fastcam.metrics.localization import ENERGY_POINTING, IOU, POINTING
from fastcam.metrics.metric import Metric
from fastcam.metrics.perturbation import DELETION, INSERTION
from fastcam.metrics.segmentation import AVERAGE_PRECISION, PIXEL_ACCURACY, SEGMENTATION_IOU

_FAITHFULNESS = (DROP, INCREASE, COHERENCY, COMPLEXITY, ADCC, INSERTION, DELETION)
_DENSITY = (POSITIVE_DENSITY, NEGATIVE_DENSITY)
_LOCALISATION = (POINTING, ENERGY_POINTING, IOU)
_SEGMENTATION = (AVERAGE_PRECISION, PIXEL_ACCURACY, SEGMENTATION_IOU)

METRICS: Mapping[str, Metric] = {
    metric.name: metric for metric in (*_FAITHFULNESS, *_DENSITY, *_LOCALISATION, *_SEGMENTATION)
}
