"""What packing a base lost, from which LoftQ starts (Li et al. 2023, https://arxiv.org/abs/2310.08659).

LoftQ alternates `Q = pack(W - scale B A)` and `scale B A = SVD_r(W - unpack(Q))`. This is its first iteration, PEFT's
default too: Q is then `pack(W)`, the base that everyone gets from the same files, so a base keeps its hash, the adapter
switched off is the base, and the adapter is an ordinary LoRA file. Later iterations would need a base of their own.
"""

from collections.abc import Callable, Mapping

from torch import Tensor

from lorica.lora.adapter import Adapter
from lorica.lora.leading import leading_directions
from lorica.lora.targets import tied_pair
from lorica.lora.weights import dense_weight, is_embedding, is_packed
from lorica.models.stored import StoredTensor

Directions = tuple[Tensor, Tensor, Tensor]
Source = Callable[[str], Directions | None]


def packing_errors(adapter: Adapter, stored: Mapping[str, StoredTensor] | None) -> Source:
    """A function from a module's name to the leading directions of what packing took from its weight, or None where it
    is not packed. One tensor is dense at a time.

    `stored` are the tensors of the files that the base was packed from, by their names. Raises ValueError where nothing
    is packed, and, once asked, where the weights from before the packing are not at hand.
    """
    if not any(is_packed(layer.base) for layer in adapter.layers.values()):
        raise ValueError(
            "init_lora_weights: loftq starts from what packing lost, and no adapted module of this base is packed. Set "
            "model.weights (nf4, q4_k_m, ...), or leave init_lora_weights out."
        )

    def directions(name: str) -> Directions | None:
        layer = adapter.layers[name]
        if not is_packed(layer.base):
            return None
        before = _before_packing(adapter, name, stored)
        error = dense_weight(layer.base).neg_()  # a copy: the weight is packed
        error += (before.t() if is_embedding(layer.base) else before).to(error.device)
        return leading_directions(error, layer.r)

    return directions


def _before_packing(adapter: Adapter, name: str, stored: Mapping[str, StoredTensor] | None) -> Tensor:
    pair = tied_pair(adapter.model) or ()
    names = [f"{other}.weight" for other in (name, *(pair if name in pair else ()))]
    found = next((key for key in names if key in (stored or {})), None)
    before = None if stored is None or found is None else stored[found]
    if before is None or not before.dtype.is_floating_point:
        raise ValueError(
            f"init_lora_weights: loftq needs the weights of {name} from before they were packed, and the base's files "
            "have none of that name: it was packed already (a GGUF file, a bitsandbytes checkpoint, or packed in "
            "memory), or its files name them otherwise. Give the 16-bit model it was made of with model.weights (nf4, "
            "q4_k_m, ...), or leave init_lora_weights out."
        )
    return before.read()
