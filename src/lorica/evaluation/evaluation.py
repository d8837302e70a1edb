"""One side of a before/after comparison: everything measured about one state of a model.

The "before" side is written into the run folder as soon as it is known and read back after a resume, so an
`Evaluation` keeps statistics per row (which intervals need) and turns into JSON and back without loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from lorica.data.examples import Example
from lorica.evaluation.completions import Answer, Question, decode, questions, without_stop
from lorica.evaluation.forgetting import GeneralLoss, general_loss, read_general_text
from lorica.evaluation.generation import generate
from lorica.evaluation.metrics import MetricResult, check_metric, measure
from lorica.evaluation.scores import Scores, score
from lorica.training.engine import Engine

StageProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Evaluation:
    """Scores of the held-out rows, answers to their prompts, task metrics on the answers, loss on a general text.

    `scores` is None where there were no held-out rows, `general` where forgetting was not asked for.
    """

    scores: Scores | None
    answers: list[Answer]
    metrics: list[MetricResult]
    general: GeneralLoss | None
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        return {
            "scores": self.scores.to_dict() if self.scores else None,
            "answers": [answer.to_dict() for answer in self.answers],
            "metrics": [metric.to_dict() for metric in self.metrics],
            "general": self.general.to_dict() if self.general else None,
            "notes": self.notes,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Evaluation:
        return cls(
            scores=Scores.from_dict(values["scores"]) if values["scores"] else None,
            answers=[Answer(**answer) for answer in values["answers"]],
            metrics=[MetricResult.from_dict(metric) for metric in values["metrics"]],
            general=GeneralLoss.from_dict(values["general"]) if values["general"] else None,
            notes=list(values["notes"]),
        )


def evaluate(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Example],
    *,
    capacity: int,
    device: torch.device | str,
    stop_ids: Sequence[int],
    metrics: Sequence[str] = (),
    max_new_tokens: int = 128,
    generate_rows: int = 200,
    samples: int = 5,
    forgetting: str | None = "auto",
    max_length: int = 512,
    progress: StageProgress | None = None,
    engine: Engine | None = None,
) -> Evaluation:
    """Measures the model as it stands (adapter on or off is the caller's choice) on held-out rows.

    Args:
        capacity: tokens per microbatch; changes speed and memory, never a result.
        stop_ids: what ends a turn.
        metrics: names as in `evaluate.metric`: exact_match, bleu, chrf, "module:function".
        generate_rows: at most this many distinct prompts are answered for the metrics; `samples` where there are none.
        forgetting: "auto", the path of a text, or None; its passages are cut at `max_length` tokens.
        progress: called with (stage, done, total).
        engine: computes the losses; None is the model's own forward pass. Answers are the model's in any case.

    Raises:
        ValueError: unknown metric, a metric function that fails (names the row), an unreadable general text.
    """
    for name in metrics:
        check_metric(name)
    text = read_general_text(forgetting) if forgetting is not None else None
    stops = list(stop_ids)
    asked = questions(rows, tokenizer, stops, max(generate_rows, samples) if metrics else samples)
    answers = _answer(model, tokenizer, asked, max_new_tokens, stops, _stage(progress, "answers"))
    general = None
    if text is not None:
        stage = _stage(progress, "general text")
        general = general_loss(model, tokenizer, text, max_length, capacity, device, stage, engine)
    return Evaluation(
        scores=score(model, rows, capacity, device, _stage(progress, "held-out rows"), engine) if rows else None,
        answers=answers,
        metrics=[measure(name, answers) for name in metrics] if answers else [],
        general=general,
        notes=_notes(rows, answers, metrics, max_new_tokens, general),
    )


def _answer(
    model: Any,
    tokenizer: Any,
    asked: Sequence[Question],
    max_new_tokens: int,
    stops: list[int],
    progress: Callable[[int, int], None] | None,
) -> list[Answer]:
    generated = generate(model, tokenizer, [q.prompt_ids for q in asked], max_new_tokens, stops, progress)
    return [
        Answer(
            source=question.source,
            prompt=question.prompt,
            references=question.references,
            prediction=decode(tokenizer, without_stop(ids, stops)),
            finished=bool(ids) and ids[-1] in stops,
        )
        for question, ids in zip(asked, generated, strict=True)
    ]


def _notes(
    rows: Sequence[Example],
    answers: Sequence[Answer],
    metrics: Sequence[str],
    max_new_tokens: int,
    general: GeneralLoss | None,
) -> list[str]:
    notes = []
    if not rows:
        notes.append("No held-out rows: nothing was evaluated. Set evaluate.held_out to measure this run.")
    elif metrics and not answers:
        notes.append(f"{', '.join(metrics)}: not measured, because the held-out rows are plain text without an answer.")
    cut = sum(not answer.finished for answer in answers)
    if cut:
        notes.append(f"{cut} of {len(answers)} answers did not end by themselves within {max_new_tokens} tokens.")
    if general is not None and general.bytes_left_aside:
        notes.append(f"{general.text}: its last {general.bytes_left_aside:,} bytes were not scored (limit 200,000).")
    return notes


def _stage(progress: StageProgress | None, name: str) -> Callable[[int, int], None] | None:
    return None if progress is None else partial(progress, name)
