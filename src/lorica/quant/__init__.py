"""Packed weights: the formats that bases are stored, trained on and exported in."""

from lorica.quant.codec import Codec
from lorica.quant.table import CODECS, codec, codec_of_type, fallback

__all__ = ["CODECS", "Codec", "codec", "codec_of_type", "fallback"]
