"""The loss head: from the final hidden states of supervised tokens to their loss, and never to all their logits.

Logits of a 50,000-token vocabulary are the largest tensor of a plain training step several times over. Here rows of
hidden states go through the projection chunk by chunk; a chunk's logits become their own gradient in place, and that
becomes the gradient of the hidden states at once, so the backward pass has nothing left to do but scale it. A frozen
projection gets no gradient of its own. This is the chunked loss of Liger (Hsu et al. 2024,
https://arxiv.org/abs/2410.10989) for supervised rows only. It gives up second derivatives.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lorica.kernels import cross_entropy, cross_entropy_
from lorica.lora.weights import dtype_of, has_weight, vocabulary_of
from lorica.quant import PackedLinear

# Bytes of one chunk of logits in fp32. On a CPU larger chunks are no faster; a GPU needs more rows to fill its cores.
CHUNK_BYTES = {"cpu": 32 << 20, "cuda": 512 << 20}
# Bytes of one in the type of a packed projection, which is unpacked twice a chunk: it takes more rows to be lost in its
# products. Sixteen-bit logits are widened for the loss some rows at a time, as many as above.
PACKED_CHUNK_BYTES = {"cpu": 128 << 20, "cuda": 256 << 20}
# Constants that models multiply or divide their logits by, as their configs call them: Cohere, Granite, Falcon-H1, ...
SCALES = ("logit_scale", "logits_scaling", "lm_head_multiplier", "output_multiplier")


@dataclass(frozen=True)
class LossHead:
    """`projection` is the model's output layer as it stands, adapted or not; the logits that the loss is of are
    `softcap * tanh(scale * projection(hidden) / softcap)`, or without the cap where `softcap` is 0. `chunk_bytes`
    bounds the logits that exist at a time; None is a size that suits the device."""

    projection: nn.Module
    scale: float = 1.0
    softcap: float = 0.0
    chunk_bytes: int | None = None

    def lane_losses(self, hidden: Tensor, labels: Tensor, coefficients: Tensor, lanes: Tensor, count: int) -> Tensor:
        """As `loss`, summed by lane: (count,) fp32. `lanes` (rows,) int64 is the lane of each row. The projection is a
        frozen linear layer, which lanes share."""
        assert isinstance(self.projection, nn.Linear | PackedLinear) and not self.trained()
        losses: Tensor = _FrozenProjectionLoss.apply(hidden, labels, coefficients, self, lanes, count)
        return losses

    def loss(self, hidden: Tensor, labels: Tensor, coefficients: Tensor) -> Tensor:
        """`sum(coefficients * losses)` () fp32 of rows `hidden` (rows, hidden) whose next tokens are `labels` (rows,).

        `coefficients` (rows,) fp32 are each token's weight over the weights' total. Differentiable once.
        """
        trained = self.trained()
        if isinstance(self.projection, nn.Linear | PackedLinear) and not trained:
            loss: Tensor = _FrozenProjectionLoss.apply(hidden, labels, coefficients, self, None, 1)
        else:
            loss = _ModuleLoss.apply(hidden, labels, coefficients, self, *trained)
        return loss

    @torch.no_grad()
    def token_losses(self, hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Negative log-likelihood (nats, fp32) and argmax hit (bool) of each row, both (rows,)."""
        found = [
            cross_entropy(self.projection(hidden[chunk]), labels[chunk], self.scale, self.softcap)
            for chunk in self.chunks(hidden)
        ]
        if not found:
            return hidden.new_zeros(0, dtype=torch.float32), labels.new_zeros(0, dtype=torch.bool)
        losses, hits = zip(*found, strict=True)
        return torch.cat(losses), torch.cat(hits)

    def trained(self) -> list[nn.Parameter]:
        """The projection's parameters that are trained."""
        return [parameter for parameter in self.projection.parameters() if parameter.requires_grad]

    def chunks(self, hidden: Tensor) -> Iterator[slice]:
        rows = self.chunk_rows(hidden)
        for start in range(0, len(hidden), rows):
            yield slice(start, min(start + rows, len(hidden)))

    def chunk_rows(self, hidden: Tensor) -> int:
        packed = isinstance(getattr(self.projection, "base", self.projection), PackedLinear)
        sizes, itemsize = (PACKED_CHUNK_BYTES, dtype_of(self.projection).itemsize) if packed else (CHUNK_BYTES, 4)
        most = self._rows(sizes, itemsize, hidden.device)
        chunks = max(1, -(-len(hidden) // most))
        return max(1, -(-len(hidden) // chunks))  # of one size: a last chunk of few rows takes as long as a whole one

    def _rows(self, sizes: dict[str, int], itemsize: int, device: torch.device) -> int:
        budget = self.chunk_bytes or sizes.get(device.type, sizes["cuda"])
        return max(1, budget // (itemsize * vocabulary_of(self.projection)))

    def losses_(self, logits: Tensor, labels: Tensor, coefficients: Tensor) -> Tensor:
        """`coefficients * losses` (rows,) of a chunk of logits, which become their gradient."""
        most = self._rows(CHUNK_BYTES, 4, logits.device)
        parts = zip(*(values.split(most) for values in (logits, labels, coefficients)), strict=True)
        losses = [cross_entropy_(z, right, c, self.scale, self.softcap) for z, right, c in parts]
        return torch.cat(losses).mul_(coefficients)


def project(projection: nn.Module, hidden: Tensor, out: Tensor) -> Tensor:
    """Logits (rows, vocabulary) of `hidden` (rows, hidden), in `out`."""
    if isinstance(projection, PackedLinear):
        return projection.project(hidden, out)
    assert isinstance(projection, nn.Linear)
    logits = torch.mm(hidden, projection.weight.t(), out=out)
    return logits if projection.bias is None else logits.add_(projection.bias)


def project_back(projection: nn.Module, d_logits: Tensor, out: Tensor) -> None:
    """The gradient of `hidden` in `out` (rows, hidden), from that of the logits."""
    if isinstance(projection, PackedLinear):
        out.copy_(projection.project_back(d_logits))
    else:
        assert isinstance(projection, nn.Linear)
        torch.mm(d_logits, projection.weight, out=out)


class _FrozenProjectionLoss(torch.autograd.Function):
    """A linear projection that nobody trains: only the hidden states have a gradient. With `lanes`, a sum for each."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, labels: Tensor, coefficients: Tensor, head: LossHead, lanes: Tensor | None, count: int
    ) -> Tensor:
        sums = torch.zeros(count, dtype=torch.float32, device=hidden.device)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        # One buffer for all chunks: fresh pages for each would cost more than the loss itself.
        buffer = hidden.new_empty(
            head.chunk_rows(hidden), vocabulary_of(head.projection), dtype=dtype_of(head.projection)
        )
        for chunk in head.chunks(hidden):
            logits = project(head.projection, hidden[chunk], buffer[: chunk.stop - chunk.start])
            losses = head.losses_(logits, labels[chunk], coefficients[chunk])
            if lanes is None:
                sums += losses.sum()
            else:
                sums.index_add_(0, lanes[chunk], losses)
            if gradient is not None:
                project_back(head.projection, logits, gradient[chunk])
        ctx.save_for_backward(gradient, lanes)
        return sums.squeeze() if lanes is None else sums

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:
        gradient, lanes = ctx.saved_tensors
        factor = factor if lanes is None else factor[lanes].unsqueeze(1)
        return None if gradient is None else gradient * factor, None, None, None, None, None


class _ModuleLoss(torch.autograd.Function):
    """Any projection: adapted by a pair, trained whole or in some rows, or of a kind of its own. Its parameters'
    gradients are summed over the chunks."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, labels: Tensor, coefficients: Tensor, head: LossHead, *trained: Tensor
    ) -> Tensor:
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        gradient = torch.zeros_like(hidden)
        sums: list[Tensor | None] = [None] * len(trained)
        for chunk in head.chunks(hidden):
            with torch.enable_grad():
                rows = hidden[chunk].detach().requires_grad_()
                logits = head.projection(rows)
            d_logits = logits.detach().contiguous()  # autograd objects, should the projection still need its output
            total += head.losses_(d_logits, labels[chunk], coefficients[chunk]).sum()
            found = torch.autograd.grad(logits, (rows, *trained), d_logits, allow_unused=True)
            if found[0] is not None:
                gradient[chunk] = found[0]
            sums = [_add(sum_, new) for sum_, new in zip(sums, found[1:], strict=True)]
        ctx.save_for_backward(gradient, *sums)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:
        gradient, *sums = (None if saved is None else saved * factor for saved in ctx.saved_tensors)
        return gradient, None, None, None, *sums


def _add(total: Tensor | None, new: Tensor | None) -> Tensor | None:
    if total is None or new is None:
        return new if total is None else total
    return total.add_(new)


def find_head(model: nn.Module, lanes: int = 1, verify: bool = True) -> LossHead | str:
    """The loss head of a causal language model, or why it has none that we can compute.

    What the model does to its logits is read from its config and settled by trying: the head has to give the logits
    that the model itself gives. Without `verify` the config is believed, for a model without weights.
    """
    projection = getattr(model, "get_output_embeddings", lambda: None)()
    if not isinstance(projection, nn.Module) or not has_weight(projection):
        return "the model names no output layer"
    seen: list[Tensor] = []
    hook = projection.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    device = next(model.parameters()).device
    tokens = torch.arange(1, 8, device=device).expand(lanes, -1)
    try:
        with torch.no_grad():
            logits = model(input_ids=tokens, use_cache=False).logits.float()
    finally:
        hook.remove()
    if len(seen) != 1:
        return f"the model calls its output layer {len(seen)} times a pass"
    with torch.no_grad():
        projected = projection(seen[0]).float()
    softcap, scales = _logit_constants(model)
    if not verify:
        return LossHead(projection, scales[1] if len(scales) > 1 else 1.0, softcap)
    errors = {scale: _difference(_applied(projected, scale, softcap), logits) for scale in scales}
    scale = min(errors, key=lambda scale: errors[scale])
    # A 16-bit model rounds its scaled logits once more than the head does.
    tolerance = 1e-5 if dtype_of(projection) == torch.float32 else 2e-2
    if errors[scale] > tolerance:
        return "the model does something unknown to its logits"
    return LossHead(projection, scale, softcap)


def _logit_constants(model: nn.Module) -> tuple[float, list[float]]:
    """The softcap, and what the logits may be scaled by: some models multiply by a constant, others divide by it."""
    config: Any = model.config
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    constants = [float(value) for name in SCALES if (value := getattr(config, name, None))]
    scales = [1.0, *constants, *(1.0 / constant for constant in constants)]
    return float(getattr(config, "final_logit_softcapping", None) or 0.0), scales


def _applied(projected: Tensor, scale: float, softcap: float) -> Tensor:
    z = projected * scale
    return torch.tanh(z / softcap) * softcap if softcap else z


def _difference(found: Tensor, expected: Tensor) -> float:
    """Relative to the norm of what is expected; infinite for other shapes."""
    if found.shape != expected.shape:
        return float("inf")
    return float((found - expected).norm() / expected.norm().clamp_min(1e-30))
