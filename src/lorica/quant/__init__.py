"""Packed weights: the formats that bases are stored, trained on and exported in."""

from lorica.quant.codec import Codec
from lorica.quant.linear import PackedEmbedding, PackedLinear, can_be_packed, is_read_by_kernels, packed_module
from lorica.quant.matrix import PackedMatrix
from lorica.quant.pack_model import pack_model
from lorica.quant.table import CODECS, codec, codec_of_type, fallback

__all__ = [
    "CODECS",
    "Codec",
    "PackedEmbedding",
    "PackedLinear",
    "PackedMatrix",
    "can_be_packed",
    "codec",
    "codec_of_type",
    "fallback",
    "is_read_by_kernels",
    "pack_model",
    "packed_module",
]
