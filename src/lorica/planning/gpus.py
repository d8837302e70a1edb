"""GPUs that a plan can be made for without having one.

Bandwidth, dense bf16 (fp16 for the T4, which has no bf16) and fp32 rates and power are the makers' figures, of
the data sheets named beside each, written down from memory and not checked against them again. What products and copies
reach of them, a launch and a context are assumptions that no GPU has confirmed yet.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches

from lorica.planning.machine import Machine

# Assumed shares of the maker's figures that torch reaches: by smallest side of a product, and of bandwidth.
PRODUCT_SHARES = [(16, 0.10), (64, 0.25), (256, 0.45), (1024, 0.65), (4096, 0.72)]
BANDWIDTH_SHARE = 0.8
LAUNCH = 6e-6  # seconds: what a host needs to start one operator of torch
# A context, the libraries' own memory and cuBLAS's workspace: assumed, not measured.
CONTEXT_BYTES = 600 * 10**6


@dataclass(frozen=True)
class Gpu:
    """MiB as the driver reports them; GB/s, TFLOP/s and W as the maker states them in `source`."""

    name: str
    memory: int
    bandwidth: float
    half: float
    single: float
    watts: float
    source: str
    bf16: bool = True

    @property
    def machine(self) -> Machine:
        rates = {
            kind: [(side, share * peak * 1e12) for side, share in PRODUCT_SHARES]
            for kind, peak in (("bf16", self.half), ("fp32", self.single))
        }
        memory, moved = self.memory * 2**20, self.bandwidth * 1e9 * BANDWIDTH_SHARE
        return Machine(self.name, "cuda", memory, rates, moved, LAUNCH, CONTEXT_BYTES, self.watts, self.source)


_ADA = "NVIDIA Ada GPU Architecture whitepaper v2.1, appendix A"
_AMPERE = "NVIDIA Ampere GA102 GPU Architecture whitepaper v2.1, appendix A"
_BLACKWELL = "NVIDIA RTX Blackwell GPU Architecture whitepaper v1.1, appendix A"
GPUS = [
    Gpu(
        "RTX 3060", 12288, 360, 51.2, 12.7, 170, "NVIDIA GeForce RTX 3060 specifications; tensor rate 4 x fp32 (GA106)"
    ),
    Gpu("RTX 3090", 24576, 936, 71.2, 35.6, 350, _AMPERE),
    Gpu("RTX 4060 Ti 16GB", 16380, 288, 88.2, 22.1, 165, _ADA),
    Gpu("RTX 4080", 16376, 717, 97.5, 48.7, 320, _ADA),
    Gpu("RTX 4090", 24564, 1008, 165.2, 82.6, 450, _ADA),
    Gpu("RTX 5070 Ti", 16303, 896, 87.9, 43.9, 300, _BLACKWELL),
    Gpu("RTX 5080", 16303, 960, 112.6, 56.3, 360, _BLACKWELL),
    Gpu("RTX 5090", 32607, 1792, 209.5, 104.8, 575, _BLACKWELL),
    Gpu("T4", 15360, 320, 65, 8.1, 70, "NVIDIA T4 data sheet (2019); fp16, no bf16", bf16=False),
    Gpu("L4", 23034, 300, 121, 30.3, 72, "NVIDIA L4 data sheet (2023), without sparsity"),
    Gpu("A10", 23028, 600, 125, 31.2, 150, "NVIDIA A10 data sheet (2021)"),
    Gpu("L40S", 46068, 864, 362, 91.6, 350, "NVIDIA L40S data sheet (2023), without sparsity"),
    Gpu("A100 40GB", 40960, 1555, 312, 19.5, 400, "NVIDIA A100 data sheet (2021), SXM"),
    Gpu("A100 80GB", 81920, 2039, 312, 19.5, 400, "NVIDIA A100 data sheet (2021), SXM"),
    Gpu("H100", 81559, 3350, 989, 67, 700, "NVIDIA H100 data sheet (2023), SXM, without sparsity"),
    Gpu("H200", 143771, 4800, 989, 67, 700, "NVIDIA H200 data sheet (2024), SXM, without sparsity"),
    Gpu("B200", 183359, 7700, 2250, 75, 1000, "NVIDIA DGX B200 data sheet (2024), an eighth of it, without sparsity"),
    Gpu("MI300X", 196592, 5300, 1307, 163.4, 750, "AMD Instinct MI300X data sheet (2023)"),
]


def find_gpu(name: str) -> Gpu:
    """The GPU called `name`, however it is spelt. Raises ValueError with the nearest ones."""
    wanted, known = _spelt(name), {gpu.name: _spelt(gpu.name) for gpu in GPUS}
    same = [gpu for gpu in GPUS if known[gpu.name] == wanted]
    found = same or [gpu for gpu in GPUS if _is_part(wanted, known[gpu.name]) or _is_part(known[gpu.name], wanted)]
    if len(found) == 1:
        return found[0]
    near = [gpu.name for gpu in found] or get_close_matches(name.upper(), known, n=3, cutoff=0.3) or list(known)
    raise ValueError(
        f"the GPU {name} is none that figures are kept of; nearest: {', '.join(near)}. --memory works for any."
    )


def _spelt(name: str) -> tuple[str, str]:
    """Words and numbers of a name, each between spaces, and its memory in GB: an A100 is no A10, nor a T400 a T4."""
    plain = name.lower().replace("nvidia", " ").replace("geforce", " ")
    memory = re.search(r"(\d+) ?gb", plain)
    words = re.findall(r"[a-z]+|\d+", plain if memory is None else plain.replace(memory[0], " "))
    return f" {' '.join(words)} ", memory[1] if memory else ""


def _is_part(short: tuple[str, str], long: tuple[str, str]) -> bool:
    return short[0] in long[0] and (not short[1] or not long[1] or short[1] == long[1])
