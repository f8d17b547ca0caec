"""What the tests of searches share."""

from pathlib import Path

from common import SHORT
from optuna import Study, load_study
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial

CELL = ("model=lenet", *SHORT, "progress=none", "study=mine", "optimizer.lr=tag(log,interval(1e-4,1e-1))")


def study(root: Path) -> Study:
    """The study, opened as by anyone."""
    (file,) = root.glob("results/studies/*.log")
    return load_study(study_name=file.stem, storage=JournalStorage(JournalFileBackend(str(file))))


def trials(root: Path) -> list[FrozenTrial]:
    """Its trials."""
    return study(root).get_trials()


def states(root: Path) -> list[str]:
    return [trial.state.name for trial in trials(root)]
