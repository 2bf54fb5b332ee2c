"""Evaluation of methods over whole data sets."""
