"""Seeds by their names: the operators' own, which they also form without writing them."""

from fastcam.ops.seeds import SEEDS, clrp, one_hot, sglrp

__all__ = ["SEEDS", "clrp", "one_hot", "sglrp"]
