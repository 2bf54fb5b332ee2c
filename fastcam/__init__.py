"""Explanations of CNN image classifiers: class activation maps and layer-wise relevance propagation."""
