"""The kinds of figures in the papers, for one's own photo and model: one file each."""

from fastcam.evaluation.figures import depth, sanity, segmentation, selectivity, sensitivity, upscaling

__all__ = ["depth", "sanity", "segmentation", "selectivity", "sensitivity", "upscaling"]
