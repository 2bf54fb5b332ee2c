"""Interpreted kernels and compiled ones need processes of their own: triton decides at import which they are."""

import os

INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")
collect_ignore = ["compiled", "gpu"] if INTERPRETED else ["interpreter"]
