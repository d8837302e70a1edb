"""Fixtures of the evaluation tests."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from stand_ins import character_tokenizer, tiny_llama


@pytest.fixture(scope="session")
def model() -> Any:
    return tiny_llama().eval()


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return character_tokenizer()


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Matrices this small are slower on several threads, and far slower when other work runs beside the tests."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
