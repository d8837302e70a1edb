"""The hot operations of a training step, each twice: a reference in plain torch, and Triton, with one signature.

Forward and backward are plain functions, which the lean layers chain by hand; none of them is known to autograd. What
runs where is decided by `dispatch`: on a CPU the reference, which is written to pass over memory as few times as torch
lets it; on a GPU the Triton kernel, or the reference where Triton is not installed. Attention is torch's own flash
kernels where others are Triton's.
"""

from lorica.kernels.attention import attention, attention_backward
from lorica.kernels.cross_entropy import cross_entropy, cross_entropy_
from lorica.kernels.documents import Documents
from lorica.kernels.gated import ACTIVATIONS, gated, gated_backward
from lorica.kernels.norm import rms_norm, rms_norm_backward
from lorica.kernels.rotary import rotate_

__all__ = [
    "ACTIVATIONS",
    "Documents",
    "attention",
    "attention_backward",
    "cross_entropy",
    "cross_entropy_",
    "gated",
    "gated_backward",
    "rms_norm",
    "rms_norm_backward",
    "rotate_",
]
