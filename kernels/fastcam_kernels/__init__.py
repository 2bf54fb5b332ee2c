"""Triton kernels behind fastcam's operators; they know torch and triton alone."""
