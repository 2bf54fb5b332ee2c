"""Data sets to evaluate explanations on."""
