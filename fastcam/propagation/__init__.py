"""Layer-wise relevance propagation: rules, seeds, and the pass back."""

from fastcam.propagation.composites import composite
from fastcam.propagation.relevance import Relevance, relevance

__all__ = ["Relevance", "composite", "relevance"]
