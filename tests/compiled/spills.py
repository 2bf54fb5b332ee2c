"""Where a version of Triton makes its assembler keep registers in memory, whatever our configurations do."""

import triton

# Instructions that move registers through memory, by version, launch and chip. Those of products lie before and after
# their loops, the grouped convolution's once a tap.
_FEW = {
    "3.6": {
        ("cam_map sum batch=32 layer2 nchw bfloat16 targets=1", "sm_100"): 2,
        ("relevance_conv_backward 3x3/2 256->256 28 bf16", "sm_80"): 2,
        ("relevance_conv_backward 3x3 256->256 56 bf16", "sm_100"): 2,
        ("relevance_conv_backward 3x3 512->512 14 bf16 weights", "sm_80"): 4,
        ("relevance_conv_backward 3x3 512->512 14 bf16 weights", "sm_100"): 4,
        ("relevance_conv_backward 3x3 128->128 g32 56 bf16", "sm_80"): 4,
        ("relevance_linear products N=256 25088->4096 float32 tf32", "sm_100"): 10,
    },
    "3.9": {("masked_inputs write 256 layer4 299 nhwc bfloat16", "sm_80"): 4},
}


def most_spills(name: str, target: str) -> int:
    """How many such instructions a launch may have; 0 but for those above."""
    version = ".".join(triton.__version__.split(".")[:2])
    return _FEW.get(version, {}).get((name, target), 0)
