"""Importance matrices of llama.cpp: the mean square of every input feature of each tensor, over some text."""

import struct
from pathlib import Path

import torch
from torch import Tensor

from lorica.gguf.read import MAGIC
from lorica.gguf.split import open_file

LONGEST_NAME, MOST_VALUES = 256, 1 << 24


def read_imatrix(path: str | Path) -> dict[str, Tensor]:
    """Importances (columns), fp32, by tensor name; of experts the mean over them. Reads GGUF and the older .dat form.

    Raises ValueError for a file that is neither, damaged, or of something else.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"the imatrix {path} does not exist.")
    with open(path, "rb") as file:
        head = file.read(4)
    found = _from_gguf(path) if head == MAGIC else _from_dat(path)
    for name, values in found.items():
        if not torch.isfinite(values).all() or (values < 0).any():
            raise ValueError(f"{path}: the importances of {name} are not all numbers of at least 0; it is damaged.")
    return found


def _from_gguf(path: Path) -> dict[str, Tensor]:
    file = open_file(path)
    if file.metadata.text("general.type", "") != "imatrix":
        raise ValueError(f"{path} is a GGUF file of another kind than an imatrix.")
    found = {}
    for name in file.tensors:
        if name.endswith(".in_sum2"):
            stem = name.removesuffix(".in_sum2")
            if f"{stem}.counts" not in file.tensors:
                raise ValueError(f"{path} lacks {stem}.counts; it is incomplete.")
            sums, counts = file.values(name), file.values(f"{stem}.counts")
            if sums.numel() % counts.numel():
                raise ValueError(f"{path}: {counts.numel()} counts for {sums.numel()} sums of {stem}; it is damaged.")
            seen = counts.reshape(-1, 1) > 0
            if seen.any():
                means = sums.view(counts.numel(), -1) / counts.reshape(-1, 1).clamp_min(1)
                found[stem] = means[seen.squeeze(1)].mean(0)
    return found


def _from_dat(path: Path) -> dict[str, Tensor]:
    """Entries of a name, a number of calls, and sums that are divided by it."""
    data, at, found = path.read_bytes(), 4, {}
    try:
        (entries,) = struct.unpack_from("<i", data)
        for _ in range(entries):
            (length,) = struct.unpack_from("<i", data, at)
            if not 0 < length <= LONGEST_NAME:
                raise ValueError
            name = data[at + 4 : at + 4 + length].decode("utf-8")
            calls, values = struct.unpack_from("<ii", data, at + 4 + length)
            at += 12 + length
            if not 0 < values <= MOST_VALUES or at + 4 * values > len(data):
                raise ValueError
            sums = torch.frombuffer(bytearray(data[at : at + 4 * values]), dtype=torch.float32)
            found[name] = sums / max(calls, 1)
            at += 4 * values
    except (struct.error, ValueError, UnicodeDecodeError):
        raise ValueError(f"{path} is no imatrix of llama.cpp (GGUF or .dat), or damaged.") from None
    return found
