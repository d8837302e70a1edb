"""A model in one GGUF file, or split over several (`name-00001-of-00003.gguf`)."""

import re
from pathlib import Path

from torch import Tensor

from lorica.gguf.metadata import Metadata
from lorica.gguf.read import GgufFile, TensorInfo, read
from lorica.quant import Codec, codec_of_type

_SPLIT = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")


class GgufModel:
    """The metadata and all tensors of a model. `files` are open, in order; the first has the metadata."""

    def __init__(self, files: list[GgufFile]) -> None:
        self.files = files
        self.metadata: Metadata = files[0].metadata
        self.tensors: dict[str, TensorInfo] = {}
        self._file: dict[str, GgufFile] = {}
        for file in files:
            twice = sorted(self.tensors.keys() & file.tensors.keys())
            if twice:
                raise ValueError(f"{file.path} has the tensor {twice[0]}, which another file of the model has too.")
            self.tensors |= file.tensors
            self._file |= dict.fromkeys(file.tensors, file)

    @property
    def path(self) -> Path:
        return self.files[0].path

    def data(self, name: str) -> Tensor:
        """The bytes of a tensor, uint8 (bytes): a view of the mapped file."""
        return self._file[name].data(name)

    def rows(self, name: str) -> Tensor:
        """Its packed rows, uint8 (rows, bytes a row); of a vector one row."""
        return self._file[name].rows(name)

    def codec(self, name: str) -> Codec:
        """How it is packed. Raises ValueError for a type that Lorica does not read."""
        type = self.tensors[name].type
        try:
            return codec_of_type(type.id)
        except ValueError as error:
            raise ValueError(
                f"{self.path}: {name} is of the type {type.name}, and {error} Take another file of the model, or make "
                "one with llama-quantize."
            ) from None

    def values(self, name: str) -> Tensor:
        """Its values in fp32, in its shape. Raises ValueError for a type that Lorica does not read."""
        return self.codec(name).unpack(self.rows(name)).view(self.tensors[name].shape)


def open_model(path: str | Path) -> GgufModel:
    """Open a model by its file, or by any file of a split one.

    Raises ValueError as `open_file`, and for an adapter.
    """
    file = open_file(path)
    if holds_adapter(file):
        raise ValueError(
            f"{path} is an adapter in llama.cpp's format, which does not say which model it belongs to. Give that "
            f"model, too: generate and chat take MODEL --adapter {path}, export {path} --base MODEL."
        )
    return file


def holds_adapter(file: GgufModel) -> bool:
    return file.metadata.text("general.type", "model") == "adapter"


def open_file(path: str | Path) -> GgufModel:
    """Open a GGUF file of any kind, or all files of a split model by any of them.

    Raises ValueError for what `read` refuses, and for files of a split model that are missing or do not fit together.
    """
    path = Path(path)
    found = _SPLIT.fullmatch(path.name)
    if found is None:
        model = GgufModel([read(path)])
        parts = model.metadata.integer("split.count", 1)
        if parts > 1:
            raise ValueError(
                f"{path} is one of {parts} files of a model, and not named like it; llama.cpp's names are "
                f"{path.stem}-00001-of-{parts:05d}.gguf and so on."
            )
        return model
    stem, total = found[1], int(found[3])
    names = [path.with_name(f"{stem}-{number:05d}-of-{total:05d}.gguf") for number in range(1, total + 1)]
    missing = [name.name for name in names if not name.is_file()]
    if missing or not names:
        raise ValueError(
            f"{path.parent} lacks {len(missing)} of the {total} files of {stem} ({', '.join(missing[:3])})."
        )
    files = [read(name) for name in names]
    _check_parts(files)
    return GgufModel(files)


def _check_parts(files: list[GgufFile]) -> None:
    for number, file in enumerate(files):
        told = (file.metadata.integer("split.no", 0), file.metadata.integer("split.count", 1))
        if told != (number, len(files)):
            raise ValueError(
                f"{file.path} says of itself that it is file {told[0] + 1} of {told[1]}; its name says {number + 1} of "
                f"{len(files)}. It was renamed, or belongs to another model."
            )
    total = files[0].metadata.integer("split.tensors.count", sum(len(file.tensors) for file in files))
    held = sum(len(file.tensors) for file in files)
    if total != held:
        raise ValueError(
            f"{files[0].path} counts {total} tensors in all files, which hold {held}; download them again."
        )
