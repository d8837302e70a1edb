"""The files of a demo run: the task's rows, and a configuration that any `lorica train` can be given."""

from itertools import count
from pathlib import Path

import yaml

from lorica.demo import settings
from lorica.demo.task import write_demo_data


def fresh_folder(wanted: Path) -> Path:
    """`wanted`, or where that is taken the first free of `wanted`-2, `wanted`-3 ...: no earlier run is overwritten."""
    candidates = (wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}") for number in count(1))
    return next(folder for folder in candidates if not folder.exists())


def write_demo_run(folder: Path) -> Path:
    """Write the rows and `demo.yaml` into `folder`/task; returns the path of the configuration.

    Raises ValueError if the folder cannot be written.
    """
    try:
        train, held_out = write_demo_data(
            folder / "task", settings.TRAIN_ROWS, settings.HELD_OUT_ROWS, settings.DATA_SEED
        )
        config = {
            "model": {"path": str(settings.BASE), "dtype": settings.DTYPE},
            "data": str(train),
            "train": settings.TRAIN,
            "system": settings.SYSTEM,
            "evaluate": {"held_out": str(held_out), **settings.EVALUATE},
        }
        path = folder / "task" / "demo.yaml"
        path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    except OSError as error:
        raise ValueError(f"the run folder {folder} cannot be written ({error.strerror}); give another --out.") from None
    return path
