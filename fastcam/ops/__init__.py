"""Operators: each with its maths, its PyTorch reference and its registration with the dispatcher."""
