"""Layer-wise relevance propagation: rules, seeds, and the pass back."""

from fastcam.lrp.relevance import relevance

__all__ = ["relevance"]
