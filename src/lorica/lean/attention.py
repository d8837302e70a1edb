"""The attention half of a decoder layer, forwards and backwards: `y = x + m * post(o(attend(qkv(pre(x)))))`.

Kept for the backward pass, at most: q, k and v as they enter attention (before their norms, where they have norms: norm
and rotation cost less to compute again than to keep), its output and log-sum-exp. The normalised input is computed
again.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from lorica.kernels import rotate_
from lorica.kernels.attention import attention, attention_backward
from lorica.lean.group import Group
from lorica.lean.norm import Norm
from lorica.lean.pack import Pack
from lorica.lean.policy import Keep
from lorica.lean.residual import Residual


@dataclass(frozen=True)
class Rotary:
    """Which of the model's tables turns the heads, and how: `interleaved` turns features (2 i, 2 i + 1) together, and
    the tables (rows, 2 * pairs), which say every angle twice, may be `doubled` in place (0, 0, 1, 1, ...) or end to end
    (0, 1, ..., 0, 1, ...)."""

    table: int
    interleaved: bool = False
    doubled: bool = False

    def turn_(self, x: Tensor, pack: Pack, inverse: bool = False) -> Tensor:
        """Heads (rows, heads, dim) in place."""
        cos, sin = pack.tables[self.table]
        if self.doubled:
            cos, sin = cos[:, ::2], sin[:, ::2]
        else:
            cos, sin = (table.narrow(1, 0, table.shape[1] // 2) for table in (cos, sin))
        return rotate_(x, cos, sin, self.interleaved, inverse)


class AttentionKept(NamedTuple):
    """q, k, v: (rows, features); `out` (rows, features) of attention; `lse` (rows, heads) or as attention gives it;
    `added`: what the output projection gave, kept only where a norm follows it."""

    q: Tensor
    k: Tensor
    v: Tensor
    out: Tensor
    lse: Tensor
    added: Tensor | None


@dataclass(frozen=True)
class Attention:
    """What is known of the half: its groups of projections, norms, heads and constants."""

    qkv: Group
    o: Group
    residual: Residual
    q_norm: Norm | None
    k_norm: Norm | None
    head_dim: int
    scale: float
    rotary: Rotary | None
    window: int | None
    softcap: float

    def parameters(self) -> list[nn.Parameter]:
        return self.qkv.parameters() + self.o.parameters()

    def forward(self, x: Tensor, pack: Pack) -> tuple[Tensor, AttentionKept]:
        """`x`: (rows, hidden). Returns the half's output and what its backward pass needs."""
        return self.joined(x, self.attended(x, (), pack), pack)

    def attended(self, x: Tensor, part: tuple[Any, ...], pack: Pack) -> AttentionKept:
        """All but `added`, from attention's kept output or without."""
        q, k, v = self.qkv.forward(self.residual.normalised(x), pack)
        if part:
            out, lse = part
            if self.q_norm is None:
                self.heads(q, k, v, pack)
            return AttentionKept(q, k, v, out, lse, None)
        out, lse = attention(*self.heads(q, k, v, pack), pack.documents, self.scale, self.window, self.softcap)
        return AttentionKept(q, k, v, out.flatten(1), lse, None)

    def joined(self, x: Tensor, kept: AttentionKept, pack: Pack) -> tuple[Tensor, AttentionKept]:
        """The half's output."""
        [added] = self.o.forward(kept.out, pack) if kept.added is None else [kept.added]
        y, added_kept = self.residual.add(x, added)
        return y, kept._replace(added=added_kept)

    def part(self, kept: AttentionKept, keep: Keep) -> tuple[Any, ...]:
        """What of it is kept."""
        return {"all": kept, "attention": (kept.out, kept.lse), "input": ()}[keep]

    def whole(self, x: Tensor, part: tuple[Any, ...], pack: Pack) -> AttentionKept:
        """What `forward` kept from a part of it, without the product by `o` that nobody would read."""
        if len(part) == len(AttentionKept._fields):
            return AttentionKept(*part)
        kept = self.attended(x, part, pack)
        return kept if self.residual.post is None else kept._replace(added=self.o.forward(kept.out, pack)[0])

    def heads(self, q: Tensor, k: Tensor, v: Tensor, pack: Pack) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v as attention reads them, (rows, heads, dim): normed in new memory, or else turned where they lie."""
        q = self.q_norm.forward(q) if self.q_norm is not None else q
        k = self.k_norm.forward(k) if self.k_norm is not None else k
        q, k, v = (part.unflatten(-1, (-1, self.head_dim)) for part in (q, k, v))
        if self.rotary is not None:
            self.rotary.turn_(q, pack)
            self.rotary.turn_(k, pack)
        return q, k, v

    def heads_again(self, kept: AttentionKept, pack: Pack) -> tuple[Tensor, Tensor, Tensor]:
        """The heads of kept q, k, v: those without norms were turned when they were kept."""
        if self.q_norm is not None or self.k_norm is not None:
            return self.heads(kept.q, kept.k, kept.v, pack)
        q, k, v = (part.unflatten(-1, (-1, self.head_dim)) for part in (kept.q, kept.k, kept.v))
        return q, k, v

    def heads_backward(self, gradients: tuple[Tensor, Tensor, Tensor], kept: AttentionKept, pack: Pack) -> list[Tensor]:
        """Gradients of q, k, v (rows, features) from those of the heads, in their memory."""
        dq, dk, dv = gradients
        if self.rotary is not None:
            self.rotary.turn_(dq, pack, inverse=True)
            self.rotary.turn_(dk, pack, inverse=True)
        dq, dk, dv = (part.flatten(1) for part in (dq, dk, dv))
        dq = self.q_norm.backward(dq, kept.q) if self.q_norm is not None else dq
        dk = self.k_norm.backward(dk, kept.k) if self.k_norm is not None else dk
        return [dq, dk, dv]

    def backward(
        self, dy: Tensor, x: Tensor, kept: AttentionKept, pack: Pack, needs_input: bool
    ) -> tuple[Tensor | None, list[Tensor]]:
        """Gradients of `x`, if needed, and of the parameters of `qkv` and `o`."""
        inside = needs_input or bool(self.qkv.parameters())
        if not inside and not self.o.parameters():
            return None, []
        o = self.o.backward([self.residual.added_backward(dy, kept.added)], pack)
        o_gradients = o.parameters(kept.out)
        if not inside:
            return None, o_gradients
        heads = self.heads_again(kept, pack)
        gradients = attention_backward(
            o.input().view(heads[0].shape), *heads, kept.out.view(heads[0].shape), kept.lse,
            pack.documents, self.scale, self.window, self.softcap,
        )  # fmt: skip
        qkv = self.qkv.backward(self.heads_backward(gradients, kept, pack), pack)
        gradients_ = qkv.parameters(self.residual.normalised(x)) + o_gradients
        return self.residual.backward(dy, qkv.input(), x) if needs_input else None, gradients_
