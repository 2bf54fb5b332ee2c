"""Metrics of explanations: faithfulness, localisation, density, segmentation, sanity."""

from fastcam.metrics.adcc import adcc, coherency, complexity, harmonic_adcc
from fastcam.metrics.batch import Batch
from fastcam.metrics.density import negative_density, positive_density
from fastcam.metrics.evaluate import evaluate
from fastcam.metrics.faithfulness import average_drop, average_increase
from fastcam.metrics.localization import energy_pointing_game, iou, pointing_game
from fastcam.metrics.metric import Column, Metric
from fastcam.metrics.perturbation import deletion, deletion_curve, insertion, insertion_curve
from fastcam.metrics.randomization import randomization
from fastcam.metrics.registry import METRICS
from fastcam.metrics.segmentation import average_precision, pixel_accuracy, segmentation_iou
from fastcam.metrics.selectivity import selectivity
from fastcam.metrics.similarity import rank_correlation, ssim
from fastcam.metrics.trial import Trial

__all__ = [
    "METRICS",
    "Batch",
    "Column",
    "Metric",
    "Trial",
    "adcc",
    "average_drop",
    "average_increase",
    "average_precision",
    "coherency",
    "complexity",
    "deletion",
    "deletion_curve",
    "energy_pointing_game",
    "evaluate",
    "harmonic_adcc",
    "insertion",
    "insertion_curve",
    "iou",
    "negative_density",
    "pixel_accuracy",
    "pointing_game",
    "positive_density",
    "randomization",
    "rank_correlation",
    "segmentation_iou",
    "selectivity",
    "ssim",
]
