"""Dropout that depends on what a token is, not on where it lies in a batch.

Ordinary dropout draws from a stream of random numbers, so the same example gets another mask when the microbatch, the
packing or the number of processes changes. Here each element's mask is a hash of (seed, step, example, position in the
example, layer, feature): how the step is computed cannot change its result, nothing has to be saved for the backward
pass, and a resumed run needs no random state.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# Odd 64-bit constants of SplitMix64 (Steele, Lea, Flood 2014), as signed integers because torch has no uint64
# arithmetic.
_GOLDEN = -7046029254386353131
_MIX_1 = -4658895280553007687
_MIX_2 = -7723592293110705685


@dataclass
class TokenKeys:
    """What identifies the tokens of the microbatch in hand; one object shared by all layers of an adapter.

    `keys` is (tokens,) or (lanes, tokens) int64, or None outside a training step.
    """

    keys: Tensor | None = None


def _mix(hashed: Tensor) -> Tensor:
    """SplitMix64's finaliser; the arithmetic shift only repeats sign bits, which the multiplications disperse again."""
    hashed = (hashed ^ (hashed >> 30)) * _MIX_1
    hashed = (hashed ^ (hashed >> 27)) * _MIX_2
    return hashed ^ (hashed >> 31)


def token_keys(seed: int, step: int, examples: Tensor, positions: Tensor) -> Tensor:
    """Keys of tokens. `examples` and `positions`: int64 of one shape, which the result has too."""
    run = _mix(torch.tensor(seed * 1_000_003 + step, dtype=torch.int64, device=examples.device) + _GOLDEN)
    return _mix(_mix(examples + run) + positions)


def token_dropout(x: Tensor, p: float, keys: Tensor | None, layer: int) -> Tensor:
    """Drop elements of `x` (..., tokens, features) with probability `p` and scale the rest by 1 / (1 - p).

    `keys` is (tokens,) or (lanes, tokens). Without keys (a training loop that is not Lorica's) this is torch's own
    dropout. Raises ValueError if `x` is not one row of features a token, as in a layer that sees some tokens only.
    """
    if keys is None:
        return F.dropout(x, p)
    if x.shape[-2] != keys.shape[-1]:
        raise ValueError(
            f"lora.dropout: a layer was given {tuple(x.shape)} for a batch of {keys.shape[-1]} tokens (an expert that "
            "sees some of the tokens, perhaps), so its dropout cannot follow the tokens. Set lora.dropout=0, or put "
            "such layers in lora.exclude_modules."
        )
    salted = torch.arange(x.shape[-1], device=x.device, dtype=torch.int64) * _GOLDEN + layer
    hashed = _mix(_mix(keys).unsqueeze(-1) + salted)  # (..., tokens, features)
    uniform = (hashed & 0xFFFFFF).to(torch.float32) / float(1 << 24)
    return x * ((uniform >= p).to(x.dtype) / (1.0 - p))
