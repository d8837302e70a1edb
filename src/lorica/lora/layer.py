"""The LoRA layers: `y = base(x) + scale * B A x` (Hu et al. 2021, https://arxiv.org/abs/2106.09685).

A layer owns the frozen module it replaced, so switching the adapter off runs that module and nothing else. Parameters
have a leading lane axis: A is (lanes, r, in), B is (lanes, out, r), and x is (lanes, ..., in); with one lane x may have
any leading shape. DoRA (Liu et al. 2024, https://arxiv.org/abs/2402.09353) scales each output by magnitude / ||W +
scale B A||, whose norm comes from ||W||^2 + 2 s <W, BA> + s^2 ||BA||^2 without ever forming BA.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorica.lora.dropout import TokenKeys, token_dropout
from lorica.lora.part import AdapterPart
from lorica.lora.weights import device_of, features, weight_chunks


@dataclass(frozen=True)
class Strength:
    """The rank of one lane's pair, its alpha, and the scale that follows from both."""

    r: int
    alpha: float
    scale: float


class LoraLayer(AdapterPart):
    """What the linear and the embedding layer share: the pair, its scale, and whether it is in use.

    `start_A` and `start_B` keep the frozen pair (A0, B0) of an initialisation that does not begin at zero (PiSSA,
    OLoRA): the layer then adds `scale * (B A - B0 A0) x`, which leaves the base weight as it was and is a plain LoRA of
    rank 2r when saved.

    Lanes may differ in `strengths`. The pairs have the largest rank `r`; what lies beyond a lane's own is zero, has a
    gradient of zero, and so stays zero.
    """

    def __init__(self, base: nn.Module, strengths: Sequence[Strength], dropout: float = 0.0) -> None:
        super().__init__(base)
        inputs, outputs = features(base)
        device = device_of(base)
        self.strengths, self.dropout = tuple(strengths), dropout
        self.lanes, self.r = lanes, r = len(strengths), max(strength.r for strength in strengths)
        self.lora_A = nn.Parameter(torch.zeros(lanes, r, inputs, device=device))
        self.lora_B = nn.Parameter(torch.zeros(lanes, outputs, r, device=device))
        self.register_parameter("magnitude", None)  # (lanes, out), DoRA only
        scales = [strength.scale for strength in strengths]
        differ = len(set(scales)) > 1
        self.register_buffer("scales", torch.tensor(scales, device=device).view(-1, 1, 1) if differ else None)
        self.register_buffer("start_A", None)
        self.register_buffer("start_B", None)
        self.token_keys, self.dropout_salt = TokenKeys(), 0

    magnitude: nn.Parameter | None
    scales: Tensor | None
    start_A: Tensor | None
    start_B: Tensor | None

    def extra_repr(self) -> str:
        dora = self.magnitude is not None
        scales = "/".join(f"{strength.scale:g}" for strength in dict.fromkeys(self.strengths))
        return f"r={self.r}, scale={scales}, lanes={self.lanes}, dora={dora}"

    @property
    def scale(self) -> float | Tensor:
        """What multiplies `B A`: a number, or (lanes, 1, 1) where lanes differ."""
        return self.strengths[0].scale if self.scales is None else self.scales

    def pairs(self, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
        """The (A, scale * B) pairs to add, in the compute dtype; the scale is folded into B, the smaller operand."""
        pairs = [(self.lora_A.to(dtype), (self.lora_B * self.scale).to(dtype))]
        if self.start_A is not None and self.start_B is not None:
            pairs.append((self.start_A.to(dtype), (self.start_B * -self.scale).to(dtype)))
        return pairs

    def delta(self, lane: int = 0) -> Tensor:
        """`scale * B A` (out, in) in fp32, without DoRA's rescaling."""
        scale = self.strengths[lane].scale
        delta = scale * (self.lora_B[lane].float() @ self.lora_A[lane].float())
        if self.start_A is not None and self.start_B is not None:
            delta = delta - scale * (self.start_B[lane].float() @ self.start_A[lane].float())
        return delta.detach()

    def weight_norm(self) -> Tensor:
        """||W + scale B A|| of each output (lanes, out), fp32, as a constant (DoRA section 4.3: no gradient through
        it)."""
        with torch.no_grad():
            down = torch.cat([a for a, _ in self.pairs(torch.float32)], 1)  # (lanes, r, in)
            up = torch.cat([b for _, b in self.pairs(torch.float32)], 2)  # (lanes, out, r), scaled
            squared = ((up @ (down @ down.transpose(1, 2))) * up).sum(2)
            for rows, weight in weight_chunks(self.base):
                cross = ((down @ weight.t()).transpose(1, 2) * up[:, rows]).sum(2)
                squared[:, rows] += weight.square().sum(1) + 2 * cross
            return squared.clamp_min(0).sqrt()

    def magnitude_scale(self, x: Tensor) -> Tensor:
        """magnitude / norm, shaped to multiply an output whose leading axis is the lanes, or any shape with one
        lane."""
        assert self.magnitude is not None
        ratio = (self.magnitude / self.weight_norm()).to(x.dtype)  # (lanes, out)
        return ratio[0] if self.lanes == 1 else ratio.view(self.lanes, *[1] * (x.dim() - 2), -1)

    def check_lanes(self, x: Tensor) -> None:
        if x.shape[0] != self.lanes:
            raise ValueError(
                f"an adapter with {self.lanes} lanes needs inputs whose first axis is {self.lanes}, one row a lane; "
                f"this layer was given {tuple(x.shape)}. Models that flatten the batch axis train one lane at a time."
            )


class LoraLinear(LoraLayer):
    """A linear layer with a LoRA pair beside it."""

    def forward(self, x: Tensor) -> Tensor:
        """`x`: (lanes, ..., in), or any leading shape with one lane. Returns (..., out) in the base's dtype."""
        y = self.base(x)
        if not self.in_use:
            return y
        dropped = x
        if self.dropout > 0 and self.training:
            dropped = token_dropout(x, self.dropout, self.token_keys.keys, self.dropout_salt)
        added = self.low_rank(dropped).to(y.dtype)
        if self.magnitude is None:
            return y + added
        ratio = self.magnitude_scale(y)
        bias = getattr(self.base, "bias", None)
        return ratio * (y + added) if bias is None else ratio * (y - bias + added) + bias

    def low_rank(self, x: Tensor) -> Tensor:
        """`scale * B A x` for every lane."""
        if self.lanes == 1:
            # squeeze is a view with a view's backward; indexing would fill a zero gradient to write into
            terms = [F.linear(F.linear(x, a.squeeze(0)), b.squeeze(0)) for a, b in self.pairs(x.dtype)]
        else:
            self.check_lanes(x)
            rows = x.flatten(1, -2)  # (lanes, tokens, in)
            terms = [
                (rows @ a.transpose(1, 2) @ b.transpose(1, 2)).unflatten(1, x.shape[1:-1])
                for a, b in self.pairs(x.dtype)
            ]
        return terms[0] if len(terms) == 1 else terms[0] + terms[1]


class LoraEmbedding(LoraLayer):
    """An embedding with a LoRA pair: A is (lanes, r, vocabulary), whose columns are gathered, and B is (lanes, dim,
    r)."""

    def forward(self, tokens: Tensor) -> Tensor:
        """`tokens`: (lanes, ...) int64, or any shape with one lane. Returns (..., dim) in the base's dtype."""
        y = self.base(tokens)
        if not self.in_use:
            return y
        added = self.low_rank(tokens, y.dtype)
        factor = getattr(self.base, "embed_scale", None)  # Gemma multiplies the looked-up rows
        if factor is not None:
            added = added * torch.as_tensor(factor, dtype=added.dtype, device=added.device)
        return y + added if self.magnitude is None else self.magnitude_scale(y) * (y + added)

    def low_rank(self, tokens: Tensor, dtype: torch.dtype) -> Tensor:
        pairs = self.pairs(dtype)
        if self.lanes == 1:
            terms = [F.linear(F.embedding(tokens, a.squeeze(0).t()), b.squeeze(0)) for a, b in pairs]
        else:
            self.check_lanes(tokens)
            terms = [
                torch.stack([F.linear(F.embedding(tokens[i], a[i].t()), b[i]) for i in range(self.lanes)])
                for a, b in pairs
            ]
        return terms[0] if len(terms) == 1 else terms[0] + terms[1]
