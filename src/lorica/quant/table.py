"""The packed formats by name and by ggml's type number, and what llama.cpp takes where rows do not divide."""

import torch

from lorica.quant.affine_k import Q2_K, Q4_K, Q5_K
from lorica.quant.blocks_of_32 import Q8_0, Affine, Symmetric
from lorica.quant.codebook import IQ4_NL, IQ4_XS, MXFP4
from lorica.quant.codec import Codec
from lorica.quant.half import Float
from lorica.quant.nf4 import NF4, DoubleNF4
from lorica.quant.symmetric_k import Q3_K, Q6_K

CODECS: dict[str, Codec] = {
    codec.name: codec
    for codec in (
        Float("F32", 0, torch.float32),
        Float("F16", 1, torch.float16),
        Float("BF16", 30, torch.bfloat16),
        Q8_0(),
        Q6_K(),
        Q5_K(),
        Q4_K(),
        Q3_K(),
        Q2_K(),
        Symmetric("Q5_0", 6, 22, 5),
        Affine("Q5_1", 7, 24, 5),
        Symmetric("Q4_0", 2, 18, 4),
        Affine("Q4_1", 3, 20, 4),
        IQ4_NL(),
        IQ4_XS(),
        MXFP4(),
        NF4(),
        DoubleNF4(),
    )
}
FALLBACKS = {
    "Q2_K": "Q4_0",
    "Q3_K": "Q4_0",
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
    "IQ4_XS": "IQ4_NL",
    "NF4": "IQ4_NL",
    "NF4_DQ": "IQ4_NL",
}


def codec(name: str) -> Codec:
    """The codec called `name`, in any case. Raises ValueError for a name that no codec has."""
    found = CODECS.get(name.upper())
    if found is None:
        raise ValueError(f'"{name}" is no packed format that Lorica knows; it knows {", ".join(CODECS)}.')
    return found


def codec_of_type(type_id: int) -> Codec:
    """The codec of a ggml type number. Raises ValueError for a type without a codec."""
    found = next((codec for codec in CODECS.values() if codec.type_id == type_id), None)
    if found is None:
        known = ", ".join(f"{codec.name} ({codec.type_id})" for codec in CODECS.values() if codec.type_id is not None)
        raise ValueError(f"ggml's type {type_id} cannot be read; Lorica reads {known}.")
    return found


def fallback(name: str, columns: int) -> str:
    """The type that llama.cpp's quantiser gives a tensor with rows of `columns` weights when asked for `name`: `name`
    itself where the rows divide. NF4, which llama.cpp lacks, falls back to the nearest of its formats."""
    if CODECS[name].accepts(columns):
        return name
    second = FALLBACKS.get(name, "F16")
    return second if second != "F16" and CODECS[second].accepts(columns) else "F16"
