"""The lean body of a model, found by trying."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from lorica.lean.body import Layer, LeanBody
from lorica.lean.own import PlainLayer
from lorica.lean.probe import Probe
from lorica.lean.recognise import TOLERANCE, Trial, difference, lean_layer
from lorica.lean.structure import NotLeanError

# Every layer was compared by itself; through all of them the rounding of 16 bits adds up (5 % over 32 random layers),
# while a wrong table, mask or last norm differs by its whole size.
BODY_TOLERANCE = {**TOLERANCE, torch.bfloat16: 0.25, torch.float16: 0.25}


def find_body(model: nn.Module, lanes: int = 1, verify: bool = True) -> LeanBody:
    """The body that computes as the model's own does, its adapter as it stands and dropout off. Without `verify`
    nothing is compared: for a model without weights, whose structure alone is asked for.

    Raises NotLeanError, with the reason, for a model that is something else than embeddings, decoder layers and a norm,
    or none of whose layers can be lean, nor half of one.
    """
    probe = Probe(model, lanes, verify)
    layers = [_layer(i, layer, probe) for i, layer in enumerate(probe.layers)]
    tables = [probe.rotary(number) for number in range(len(probe.tables))]
    body = LeanBody(probe.embedding, probe.multiplier, tables, layers, probe.final, probe.masks)
    if all(isinstance(layer, PlainLayer) for layer in layers):
        raise NotLeanError(body.description)
    if not verify:
        return body
    with torch.no_grad():
        found = body.hidden(probe.input_ids, probe.position_ids, probe.documents)
    error = difference(found, probe.output.flatten(0, 1))
    if not error < BODY_TOLERANCE[probe.output.dtype]:
        raise NotLeanError(f"its final hidden states differ by {error:.1e} from the model's own")
    return body


def _layer(i: int, layer: nn.Module, probe: Probe) -> Layer:
    call = probe.calls[i]
    try:
        if len(call.args) != 1:
            raise NotLeanError("it is called with more than hidden states and keywords")
        kwargs: dict[str, Any] = call.kwargs
        window, own = partial(probe.window, i), partial(probe.own, layer=i)
        return lean_layer(Trial(layer, call.input, kwargs, probe.pack, probe.table_of(i), window, own), probe.verify)
    except NotLeanError as error:
        return PlainLayer(probe.own(call, i), str(error))
