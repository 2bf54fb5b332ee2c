"""Metrics of explanations: faithfulness, localisation, density, segmentation, sanity."""

from fastcam.metrics.adcc import adcc, coherency, complexity, harmonic_adcc
from fastcam.metrics.batch import Batch
from fastcam.metrics.density import negative_density, positive_density
from fastcam.metrics.evaluate import evaluate
from fastcam.metrics.faithfulness import average_drop, average_increase
from fastcam.metrics.metric import Column, Metric
from fastcam.metrics.perturbation import deletion, deletion_curve, insertion, insertion_curve
from fastcam.metrics.registry import METRICS
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
    "coherency",
    "complexity",
    "deletion",
    "deletion_curve",
    "evaluate",
    "harmonic_adcc",
    "insertion",
    "insertion_curve",
    "negative_density",
    "positive_density",
]
