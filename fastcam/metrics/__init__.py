"""Metrics of explanations: faithfulness, localisation, density, segmentation, sanity."""
