"""Scaled rotary embeddings: transformers' `rope_parameters` and GGUF's metadata and factor tensors, both directions.

llama.cpp stores the result of Llama 3's rule, a factor for each frequency; the rule's parameters are recovered from the
factors. Factors that no such rule gives are LongRoPE's, with the same list for short and long inputs.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lorica.gguf.architectures import Architecture
from lorica.gguf.metadata import Metadata
from lorica.gguf.values import Value, count, number, shortest, text

FACTORS, LONG, SHORT = "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"
MINISTRAL, TEMPERATURE = "ministral3", "attention.temperature_scale"
TOLERANCE = 1e-5  # of recovered factors, which files hold in fp32


def read_rope(metadata: Metadata, found: Architecture, factors: Mapping[str, Tensor], context: int) -> dict[str, Any]:
    """`rope_parameters` of the architecture; `factors` are the factor tensors of the file, by name.

    Raises ValueError for a scaling that transformers has no form for.
    """
    theta = shortest(metadata.positive(f"{found.name}.rope.freq_base", 10000.0))
    return {"rope_theta": theta} | _scaling(metadata, found, factors, context, theta)


def _scaling(
    metadata: Metadata, found: Architecture, factors: Mapping[str, Tensor], context: int, theta: float
) -> dict[str, Any]:
    name = found.name
    kind = metadata.text(f"{name}.rope.scaling.type", "linear")
    old_key = metadata.number(f"{name}.rope.scale_linear", 1.0)
    factor = shortest(metadata.number(f"{name}.rope.scaling.factor", old_key))
    original = int(metadata.positive(f"{name}.rope.scaling.original_context_length", context))
    attention = shortest(metadata.positive(f"{name}.rope.scaling.attn_factor", 1.0))
    if SHORT in factors and LONG in factors:
        return _longrope(factors[SHORT], factors[LONG], original, attention)
    if attention != 1 and kind != "yarn":
        raise ValueError(f"{metadata.source}: rope scaling multiplies attention by {attention:g} without YaRN.")
    if FACTORS in factors:
        if kind == "yarn" or (kind != "none" and factor not in (0.0, 1.0)):
            raise ValueError(
                f"{metadata.source}: {FACTORS} and rope scaling by {factor:g} ({kind}), which transformers cannot "
                "compute together."
            )
        return _llama3(factors[FACTORS], theta) or _longrope(factors[FACTORS], factors[FACTORS], original, 1.0)
    if found.model_type == MINISTRAL and kind != "yarn":
        raise ValueError(f"{metadata.source}: a temperature of attention, which Lorica reads beside YaRN only.")
    if factor and not 1 <= factor <= 1 << 20:
        raise ValueError(f"{metadata.source}: rope scaling by {factor:g}, which is no longer context.")
    if kind == "none" or (kind == "linear" and factor in (0.0, 1.0)):
        return {"rope_type": "default"}
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind == "yarn" and factor:
        return _yarn(metadata, found, factor, original)
    raise ValueError(
        f"{metadata.source}: rope scaling of the type {kind} without its factor tensors; Lorica reads none, linear, "
        "yarn, and the factors of Llama 3 and LongRoPE."
    )


def _yarn(metadata: Metadata, found: Architecture, factor: float, original: int) -> dict[str, Any]:
    prefix = f"{found.name}.rope.scaling."
    ministral = found.model_type == MINISTRAL
    log = metadata.number(prefix + "yarn_log_multiplier", 0.0)
    if metadata.number(prefix + "yarn_ext_factor", 1.0) != 1 or bool(log) != ministral:
        raise ValueError(f"{metadata.source}: a YaRN scaling with a log multiplier or extrapolation factor of its own.")
    yarn = {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original}
    yarn["beta_fast"] = shortest(metadata.positive(prefix + "yarn_beta_fast", 32.0))
    yarn["beta_slow"] = shortest(metadata.positive(prefix + "yarn_beta_slow", 1.0))
    if ministral:  # equal multipliers cancel out, which is all that llama.cpp computes of them
        beta = shortest(metadata.positive(f"{found.name}.{TEMPERATURE}"))
        return yarn | {"mscale": shortest(log), "mscale_all_dim": shortest(log), "llama_4_scaling_beta": beta}
    own = metadata.positive(prefix + "attn_factor", 1.0)
    if own != 1:
        yarn["attention_factor"] = own * _usual_attention(factor)
    return yarn


def _usual_attention(factor: float, multiplier: float = 1.0) -> float:
    """What YaRN multiplies attention by."""
    return 0.1 * multiplier * math.log(factor) + 1 if factor > 1 else 1.0


def _longrope(short: Tensor, long: Tensor, original: int, attention: float) -> dict[str, Any]:
    lists = {"short_factor": short.tolist(), "long_factor": long.tolist()}
    fixed = {"attention_factor": attention, "original_max_position_embeddings": original}
    return {"rope_type": "longrope"} | lists | fixed


def _llama3(factors: Tensor, theta: float) -> dict[str, Any] | None:
    """The rule that gives `factors` (frequencies), or None. With s the share kept of a frequency in the transition,
    1 / factor = (1 - s) / F + s, and s is linear in the frequency: two points give it."""
    exact = factors.double()
    largest = float(exact.max())
    frequencies = theta ** (-torch.arange(len(exact), dtype=torch.float64) / len(exact)) / (2 * math.pi)
    middle = (exact > 1 + TOLERANCE) & (exact < largest * (1 - TOLERANCE))
    if int(middle.sum()) < 2 or largest <= 1:
        return None
    share = (1 / exact[middle] - 1 / largest) / (1 - 1 / largest)
    system = torch.stack([frequencies[middle], torch.ones_like(share)], 1)
    slope, offset = torch.linalg.lstsq(system, share).solution.tolist()
    if offset >= 0 or slope <= 0:
        return None
    # share = (original * frequency - low) / (high - low); only ratios matter, so low is 1
    parameters = {"factor": largest, "low_freq_factor": 1.0, "high_freq_factor": 1 - 1 / offset}
    parameters["original_max_position_embeddings"] = round(-slope / offset)
    for key in ("factor", "high_freq_factor"):
        if abs(parameters[key] - round(parameters[key])) < 1e-3:
            parameters[key] = float(round(parameters[key]))
    again = llama3_factors(parameters, theta, len(exact))
    return {"rope_type": "llama3"} | parameters if torch.allclose(again, exact, rtol=TOLERANCE, atol=0) else None


def llama3_factors(parameters: Mapping[str, Any], theta: float, pairs: int) -> Tensor:
    """What Llama 3's rule divides each of `pairs` frequencies by, fp64 (pairs). As transformers'
    `_compute_llama3_parameters`."""
    frequencies = theta ** (-torch.arange(pairs, dtype=torch.float64) / pairs)
    wavelength = 2 * math.pi / frequencies
    factor, original = parameters["factor"], parameters["original_max_position_embeddings"]
    low, high = parameters["low_freq_factor"], parameters["high_freq_factor"]
    share = ((original / wavelength - low) / (high - low)).clamp(0, 1)
    return 1 / ((1 - share) / factor + share)


def write_rope(
    parameters: Mapping[str, Any], architecture: Architecture, pairs: int
) -> tuple[dict[str, Value], dict[str, Tensor]]:
    """Metadata and fp32 factor tensors for flat `rope_parameters`.

    Raises ValueError for a kind of scaling that llama.cpp does not have.
    """
    kind = parameters.get("rope_type", "default")
    if architecture.model_type == MINISTRAL and kind != "yarn":
        raise ValueError(f"llama.cpp computes Ministral 3 with YaRN, and this one rotates by {kind}.")
    name = architecture.name
    prefix = f"{name}.rope.scaling."
    found = {f"{name}.rope.freq_base": number(parameters["rope_theta"])}
    if kind in ("llama3", "longrope") and not architecture.rope_factors:
        raise ValueError(f"llama.cpp has no factors for frequencies in {name}, which this model's {kind} needs.")
    if kind == "default":
        return found, {}
    if kind == "llama3":
        return found, {FACTORS: llama3_factors(parameters, parameters["rope_theta"], pairs).float()}
    if kind == "longrope":
        return found | _write_longrope(parameters, prefix), {
            LONG: torch.tensor(parameters["long_factor"]),
            SHORT: torch.tensor(parameters["short_factor"]),
        }
    if kind in ("linear", "yarn"):
        found |= {prefix + "type": text(kind), prefix + "factor": number(parameters["factor"])}
        return found | (_write_yarn(parameters, architecture) if kind == "yarn" else {}), {}
    raise ValueError(f"llama.cpp has no rope scaling like transformers' {kind}; it has linear, yarn, llama3, longrope.")


def _write_longrope(parameters: Mapping[str, Any], prefix: str) -> dict[str, Value]:
    original = parameters["original_max_position_embeddings"]
    attention = parameters.get("attention_factor")
    if attention is None:
        factor = parameters.get("factor") or 1.0
        attention = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    return {
        prefix + "type": text("longrope"),
        prefix + "original_context_length": count(original),
        prefix + "attn_factor": number(attention),
    }


def _write_yarn(parameters: Mapping[str, Any], architecture: Architecture) -> dict[str, Value]:
    prefix = f"{architecture.name}.rope.scaling."
    if parameters.get("truncate") is False:
        raise ValueError("llama.cpp rounds the bounds of YaRN's transition, and this model does not (truncate: false).")
    found = {prefix + "original_context_length": count(parameters["original_max_position_embeddings"])}
    for ours, theirs in (("beta_fast", "yarn_beta_fast"), ("beta_slow", "yarn_beta_slow")):
        if parameters.get(ours) is not None:
            found[prefix + theirs] = number(parameters[ours])
    usual = _usual_attention(parameters["factor"])
    attention = parameters.get("attention_factor")
    multiplier, under = parameters.get("mscale"), parameters.get("mscale_all_dim")
    if attention is None and multiplier and under:
        attention = _usual_attention(parameters["factor"], multiplier) / _usual_attention(parameters["factor"], under)
    if architecture.model_type == MINISTRAL:
        if attention != 1 or not parameters.get("llama_4_scaling_beta"):
            raise ValueError("llama.cpp computes Ministral 3 with equal YaRN multipliers and a scaled temperature.")
        found[prefix + "yarn_log_multiplier"] = number(under or 1.0)
        found[f"{architecture.name}.{TEMPERATURE}"] = number(parameters["llama_4_scaling_beta"])
    elif attention is not None:
        found[prefix + "attn_factor"] = number(attention / usual)
    return found
