"""Multi-head Latent Attention over a paged latent cache, on CUDA devices and on the CPU.

`decode` is the operator, `plan` shares its work out once for all layers of a step, `explain` says
which kernel runs; `append` and `head_linear` are what comes before and after it. Arrays may be
PyTorch's, CuPy's, JAX's or NumPy's. `mla.flash_mla` has the functions of FlashMLA under its names.
"""

from mla._decode import Plan, Verdict, decode, explain, merge, plan
from mla._library import ArgumentError, Error
from mla._step import append, head_linear
from mla._system import BuildInfo, Device, build_info, devices

__version__ = build_info().version

__all__ = [
    "ArgumentError",
    "BuildInfo",
    "Device",
    "Error",
    "Plan",
    "Verdict",
    "append",
    "build_info",
    "decode",
    "devices",
    "explain",
    "head_linear",
    "merge",
    "plan",
]
