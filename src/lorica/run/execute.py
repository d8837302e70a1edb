"""The stages of a run: measure the base, train, save, measure again, report. Each leaves its result in the run folder,
so that a run that was stopped anywhere takes up there."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from lorica.evaluation.evaluation import Evaluation, evaluate
from lorica.evaluation.report import build_report, write_report
from lorica.evaluation.scores import score
from lorica.files import read_json, write_json
from lorica.lora import attach
from lorica.planning.history import remember
from lorica.planning.keeping import apply_checkpointing
from lorica.run.less import take_less
from lorica.run.memory import forget_peak, peak_memory_bytes
from lorica.run.planned import residual_of
from lorica.run.prepare import Prepared, metric_names
from lorica.run.receipt import settings_with_origins
from lorica.run.sample import start_sample
from lorica.run.watch import Watcher
from lorica.training.checkpoint import Progress
from lorica.training.loop import Loop, LoopSettings
from lorica.training.loss import packing_error
from lorica.training.memory import StepOutOfMemoryError
from lorica.training.run_folder import RunFolder
from lorica.training.schedule import total_steps
from lorica.training.subject import Subject, subject_of
from lorica.training.trackers import Trackers

# Logits of packed documents may differ from those of the documents alone by rounding; seeing each other differs by ~1.
PACKING_TOLERANCE = {torch.float32: 0.05, torch.bfloat16: 0.3, torch.float16: 0.3}
LEAST_SECONDS = 5.0  # of training; shorter runs say little of a machine


@dataclass(frozen=True)
class RunResult:
    """What `train` returns. `run` is the folder; `report` is None when evaluation was switched off."""

    run: str
    steps: int
    final_loss: float | None
    seconds: float
    tokens_per_second: float | None
    peak_memory_bytes: int
    report: dict[str, Any] | None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def prepare_subject(prepared: Prepared, watcher: Watcher) -> Subject:
    """What is to be trained, and what there is to say about it and the rows."""
    config = prepared.resolved.config
    fit_packing(prepared, watcher)
    for finding in prepared.rows.findings:
        watcher.notice(str(finding))
    adapter = None
    if config.method == "lora":
        adapter = attach(prepared.base, config.lora, seed=config.train.seed, sample=start_sample(prepared))
    for note in adapter.notes if adapter is not None else []:
        watcher.notice(note)
    recompute = config.system.checkpointing == "full"
    subject = subject_of(prepared.base.model, adapter, recompute, config.system.engine)
    apply_checkpointing(subject, config.system.checkpointing)
    watcher.notice(_description(subject))
    return subject


def execute(prepared: Prepared, subject: Subject, run: RunFolder, watcher: Watcher) -> RunResult:
    """From wherever the run stands to its report."""
    forget_peak(subject.device)
    frozen = subject.frozen_checksum()
    before = _measure_before(prepared, subject, run, watcher)
    progress = _train(prepared, subject, run, watcher)
    _save(prepared, subject, run)
    assert subject.frozen_checksum() == frozen, "the frozen weights changed in training"
    after = _measure(prepared, subject, watcher) if before is not None else None
    if after is not None:
        write_json(run.after, after.to_dict())
    return _finish(prepared, subject, run, progress, before, after)


def fit_packing(prepared: Prepared, watcher: Watcher) -> None:
    """Compute every row alone where the model lets packed documents see each other."""
    if prepared.capacity == 1:
        return
    error = packing_error(prepared.base.model)
    if error > PACKING_TOLERANCE[prepared.base.dtype]:
        watcher.notice(
            f"this model does not keep packed documents apart (logits differ by {error:.2f} standard deviations), so "
            "every row is computed alone: slower, with the same result"
        )
        prepared.capacity = 1


def _description(subject: Subject) -> str:
    total = subject.total_parameters()
    share = subject.trainable_parameters() / total
    what = f"{len(subject.adapter.layers)} modules adapted" if subject.adapter is not None else "full fine-tuning"
    trained = f"{subject.trainable_parameters():,} trained parameters ({share:.2%} of {total:,})"
    return f"{what}: {trained}; {subject.engine.description}"


def _measure_before(prepared: Prepared, subject: Subject, run: RunFolder, watcher: Watcher) -> Evaluation | None:
    """The untouched base, measured once: a resumed run reads it back."""
    if not prepared.resolved.config.evaluate.enabled:
        return None
    if run.before.exists():
        return Evaluation.from_dict(read_json(run.before))
    if subject.adapter is not None:
        with subject.adapter.disable():
            before = _measure(prepared, subject, watcher)
    else:
        before = _measure(prepared, subject, watcher)
    write_json(run.before, before.to_dict())
    return before


def _measure(prepared: Prepared, subject: Subject, watcher: Watcher) -> Evaluation:
    config = prepared.resolved.config
    assert config.data.max_length is not None
    with subject.evaluating():
        return evaluate(
            prepared.base.model,
            prepared.base.tokenizer,
            prepared.rows.held_out,
            capacity=prepared.capacity,
            device=subject.device,
            metrics=metric_names(config.evaluate),
            max_new_tokens=config.evaluate.max_new_tokens,
            generate_rows=config.evaluate.generate_rows,
            samples=config.evaluate.samples,
            forgetting=config.evaluate.forgetting,
            max_length=min(512, config.data.max_length),
            stop_ids=sorted(prepared.base.stop_ids),
            progress=watcher.stage,
            engine=subject.engine,
        )


def _train(prepared: Prepared, subject: Subject, run: RunFolder, watcher: Watcher) -> Progress:
    config = prepared.resolved.config
    settings = _loop_settings(prepared)

    def held_out_loss() -> float:
        with subject.evaluating():
            engine = subject.engine
            return score(
                prepared.base.model, prepared.rows.held_out, prepared.capacity, subject.device, engine=engine
            ).loss

    with Trackers(config.system.trackers, run, settings_with_origins(prepared.resolved)) as trackers:

        def on_record(record: dict[str, float | int]) -> None:
            trackers.log(record)
            watcher.record(record, settings.steps)

        measured = held_out_loss if prepared.rows.held_out else None
        while True:
            rows, settings = prepared.rows.training, _loop_settings(prepared)
            loop = Loop(subject, rows, config.train, settings, run, measured, on_record, watcher.notice)
            try:
                return loop.train()
            except StepOutOfMemoryError as error:
                said = str(error)
            take_less(prepared, subject, said, watcher)


def _loop_settings(prepared: Prepared) -> LoopSettings:
    config = prepared.resolved.config
    assert isinstance(config.train.lr, float)
    every = config.system.checkpoint_every
    return LoopSettings(
        steps=total_steps(
            len(prepared.rows.training), config.train.batch_size, config.train.epochs, config.train.steps
        ),
        lr=config.train.lr,
        tokens_per_microbatch=prepared.capacity,
        evaluate_every=config.evaluate.every,
        checkpoint_every=None if every == "auto" else every,
        keep_checkpoints=config.system.keep_checkpoints,
    )


def _save(prepared: Prepared, subject: Subject, run: RunFolder) -> None:
    """The adapter in PEFT's format, or the whole model in transformers'; the tokenizer beside it, as servers expect."""
    target = run.adapter if subject.adapter is not None else run.model
    target.mkdir(exist_ok=True)
    _save_pretrained(prepared.base.tokenizer, target)
    if subject.adapter is not None:
        subject.adapter.save(target)  # last: where there is an adapter, there is all that belongs to it
    else:
        _save_pretrained(prepared.base.model, target)


def _save_pretrained(part: Any, target: Path) -> None:
    try:
        part.save_pretrained(target)
    except Exception as error:  # tokenizers raise no other type, and safetensors one of its own
        if "os error" in str(error):  # how both, which are written in Rust, tell of a full disk
            raise OSError(f"{target}: {error}") from error
        raise


def _finish(
    prepared: Prepared,
    subject: Subject,
    run: RunFolder,
    progress: Progress,
    before: Evaluation | None,
    after: Evaluation | None,
) -> RunResult:
    speed = progress.tokens / progress.seconds if progress.seconds > 0 else None
    peak = peak_memory_bytes(prepared.base.device)
    if prepared.plan is not None and progress.seconds > LEAST_SECONDS:
        remember(residual_of(prepared.plan, str(run.path), prepared.base.name, peak, speed))
    report = None
    if before is not None and after is not None:
        measured = {"seconds": progress.seconds, "tokens_per_second": speed, "peak_memory_bytes": peak}
        facts = _facts(prepared, subject, run, progress.step, measured)
        report = build_report(before, after, facts, prepared.resolved.config.evaluate.samples)
        write_report(report, run.path, run.read_metrics())
    else:
        write_json(run.report, {"steps": progress.step, "evaluated": False})
    return RunResult(str(run.path), progress.step, progress.last_loss, progress.seconds, speed, peak, report)


def _facts(
    prepared: Prepared, subject: Subject, run: RunFolder, steps: int, measured: dict[str, Any]
) -> dict[str, Any]:
    """What the report tells of the run beside its evaluations."""
    return {
        "run": str(run.path),
        "model": prepared.base.name,
        "data": prepared.resolved.config.data.paths,
        "trainable_parameters": subject.trainable_parameters(),
        "total_parameters": subject.total_parameters(),
        "steps": steps,
        "plan": None if prepared.plan is None else prepared.plan.to_dict() | {"timeline": prepared.plan.timeline},
        "measured": measured | {"frozen_weights_unchanged": True},
        "learning_rate": read_json(run.search) if run.search.exists() else None,
        "findings": [asdict(finding) for finding in prepared.rows.findings],
        "settings": prepared.origins or settings_with_origins(prepared.resolved),
        "receipt": {key: value for key, value in read_json(run.receipt).items() if key != "settings"},
    }
