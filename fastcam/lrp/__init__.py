"""Layer-wise relevance propagation: rules, seeds, and the pass back."""

from fastcam.lrp.composites import composite
from fastcam.lrp.relevance import Relevance, relevance

__all__ = ["Relevance", "composite", "relevance"]
