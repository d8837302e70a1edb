"""The user's own metric: a Python function named as "module:function".

    def closeness(prediction: str, reference: str, prompt: str) -> float: ...

The module may be installed or lie in the current directory; an installed module of the same name wins, as a file that
happens to lie nearby must not replace it unseen.
"""

import importlib
import inspect
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from numbers import Real
from pathlib import Path
from typing import Any

from lorica.evaluation.completions import Answer

MetricFunction = Callable[[str, str, str], float]
EXPECTED = "f(prediction: str, reference: str, prompt: str) -> float"


def load_function(name: str) -> MetricFunction:
    """Imports "module:function"; ValueError says what is missing."""
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name:
        raise ValueError(f'Metric {name!r} should read "module:function", for example "my_metrics:closeness".')
    module = _import(module_name, name)
    function = getattr(module, function_name, None)
    where = getattr(module, "__file__", module_name)
    if not callable(function):
        raise ValueError(f"Metric {name!r}: {where} has no function {function_name!r}. Expected {EXPECTED}.")
    try:
        inspect.signature(function).bind("", "", "")
    except TypeError as error:
        raise ValueError(f"Metric {name!r} in {where} cannot be called as {EXPECTED}: {error}.") from error
    return function


def apply_function(name: str, answers: Sequence[Answer]) -> list[float]:
    """The function's value for every answer (the best over its references); ValueError names the row that failed."""
    function = load_function(name)
    return [max(_call(function, name, answer, reference) for reference in answer.references) for answer in answers]


def _call(function: MetricFunction, name: str, answer: Answer, reference: str) -> float:
    try:
        value: Any = function(answer.prediction, reference, answer.prompt)
    except Exception as error:  # the user's code may raise anything
        raise ValueError(
            f"Metric {name!r} failed on row {answer.source} with {type(error).__name__}: {error}. "
            f"It was given the prediction {answer.prediction[:80]!r} and the reference {reference[:80]!r}."
        ) from error
    if not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(
            f"Metric {name!r} returned {value!r} ({type(value).__name__}) on row {answer.source}; expected a finite "
            f"number, as in {EXPECTED}."
        )
    return float(value)


def _import(module_name: str, name: str) -> Any:
    with _current_directory_importable():
        try:
            return importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            missing = "" if error.name == module_name else f" (it imports {error.name!r}, which is not installed)"
            raise ValueError(
                f"Metric {name!r}: no module {module_name!r}{missing}. Looked in the installed packages and in "
                f"{Path.cwd()}. Run from the folder that holds {module_name.split('.')[0]}.py, or install it."
            ) from error
        except Exception as error:  # likewise
            raise ValueError(
                f"Metric {name!r}: importing {module_name!r} failed with {type(error).__name__}: {error}."
            ) from error


@contextmanager
def _current_directory_importable() -> Iterator[None]:
    folder = str(Path.cwd())
    sys.path.append(folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
