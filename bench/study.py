"""A running search: trials are drawn, trained as cells and reported; shared by processes that may die."""

from __future__ import annotations

import shutil
import signal
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from bench import cli, config, console, resolvers
from bench.claim import Claim, ClaimedError, owner_of
from bench.errors import ConfigError
from bench.explain import explain
from bench.interrupt import Interrupted
from bench.record import run_id
from bench.status import rows_of
from bench.store import BusyError, DoneError, Store

if TYPE_CHECKING:  # Optuna is optional, and with PyTorch takes seconds to import
    from lightning import Callback, LightningModule, Trainer
    from optuna import Study, Trial
    from optuna.distributions import BaseDistribution
    from optuna.pruners import BasePruner
    from optuna.trial import TrialState

DEATHS = 3
"""Processes that may die of a trial, such as of its memory, without another epoch: then it has failed."""
HOPELESS = 3
"""Trials that may fail before one succeeds: then the cause is hardly in what is searched, and the others would, too."""
POLL = 1.0
"""Seconds between polls of what other processes are working on."""


class Pruned(Interrupted):
    """A cell was stopped because others do better; handled like SIGTERM where only signals are known."""

    def __init__(self, epoch: int):
        super().__init__(signal.SIGTERM)
        self.epoch = epoch

    def __str__(self) -> str:
        return f"pruned after epoch {self.epoch}"


def pruner(name: str, epochs: int) -> BasePruner:
    """The median pruner spares the first third of the epochs, where a high learning rate looks worse than it is."""
    from optuna.pruners import HyperbandPruner, MedianPruner, NopPruner

    if name == "median":
        spared = max(1, epochs // 3) + 1  # epochs count from 1
        return MedianPruner(n_startup_trials=5, n_warmup_steps=spared, n_min_trials=5)  # some trials have no epochs
    return HyperbandPruner(max(1, epochs // 9), max(1, epochs)) if name == "hyperband" else NopPruner()


@dataclass
class Search:
    """A study, its ranges and the settings shared by all trials.

    Each of several processes works on the trials it has claimed. A trial whose process died is resumed, its cell from
    the last checkpoint. ``folder`` holds the claims, and the lock under which trials start and end.
    """

    study: Study
    space: dict[str, BaseDistribution]
    fixed: list[str]
    folder: Path
    store: Store
    seed: int

    def run(self, trials: int) -> None:
        """Run until there are ``trials`` in total and none is running, here or elsewhere, or all have failed so far.

        Raises:
            Interrupted: a signal stopped it; the trial can be resumed.
        """
        from optuna.trial import TrialState

        waiting = False
        while trials:
            taken = self.take(trials)
            if taken is None:
                left = len(self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))
                if not left:
                    return
                if not waiting:
                    console.say(f"waiting for {left} more running elsewhere")
                waiting = True
                time.sleep(POLL)
                continue
            trial, claim = taken
            try:
                with resolvers.remembering():  # its settings are checked twice
                    ended = self.work(trial, claim)
                with self.lock():
                    if ended is None or not claim.held():  # this machine slept meanwhile
                        console.say(f"trial {trial.number + 1} of {trials}: taken over by another process")
                        continue
                    state, value, text = ended
                    self.study.tell(trial, value, state)
                    claim.release()
                    shutil.rmtree(self.folder / str(trial.number), ignore_errors=True)
            finally:
                claim.release()
            console.say(f"trial {trial.number + 1} of {trials}: {text}; {', '.join(map(short, trial.params.items()))}")
            counts = Counter(each.state for each in self.study.get_trials(deepcopy=False))
            left = trials - counts.total()
            hopeless = (
                counts[TrialState.FAIL] >= HOPELESS and not counts[TrialState.COMPLETE] + counts[TrialState.PRUNED]
            )
            if left > 0 and hopeless:
                console.say(f"no trial has succeeded: once the cause is mended, the same command runs the other {left}")
                return

    def lock(self) -> FileLock:
        return FileLock(self.folder / "lock")

    def take(self, most: int) -> tuple[Trial, Claim] | None:
        """A trial whose process died, else a new one if there are fewer than ``most``, and the claim on it."""
        from optuna.trial import Trial, TrialState

        with self.lock():
            there = self.study.get_trials(deepcopy=False)
            for frozen in there:
                if frozen.state != TrialState.RUNNING:
                    continue
                died = owner_of(self.folder / str(frozen.number)) is not None  # else it was stopped
                if (claim := self.claim(frozen.number)) is not None:
                    self.study.sampler = self.sampler(frozen.number)
                    trial = Trial(self.study, frozen._trial_id)
                    if died:
                        epochs = self.epochs(trial)
                        before, then = frozen.user_attrs.get("deaths", (0, epochs))
                        trial.set_user_attr("deaths", (before + 1 if then == epochs else 1, epochs))
                    return trial, claim
            if len(there) >= most or (claim := self.claim(len(there))) is None:
                return None
            self.study.sampler = self.sampler(len(there))
            return self.study.ask(), claim

    def epochs(self, trial: Trial) -> int:
        """Epochs of a trial's cell that have ended; 0 if its process died before it named the cell."""
        name = trial.user_attrs.get("run_id")
        return 0 if name is None else max(len(rows_of(place)) for place in self.store.places(name))

    def claim(self, number: int) -> Claim | None:
        """The claim on a trial; None if a living process has it."""
        folder = self.folder / str(number)
        folder.mkdir(exist_ok=True)
        try:
            return Claim.take(folder)
        except ClaimedError:
            return None

    def sampler(self, number: int) -> Any:
        """Seeded per trial: processes that share a study draw different points, and a resumed search draws the same
        ones as an uninterrupted one.
        """
        from optuna.samplers import TPESampler

        return TPESampler(seed=(1_000_003 * self.seed + number) % 2**32, constant_liar=True)

    def work(self, trial: Trial, claim: Claim) -> tuple[TrialState, float | None, str] | None:
        """Train a trial's cell unless it already has a record; returns its final state, its value and a one-line text,
        or None if another process has taken the trial over.

        Raises:
            Interrupted: a signal stopped it.
        """
        from optuna.trial import TrialState

        from bench import train

        try:
            params = {key: suggest(trial, key, of) for key, of in self.space.items()}
            cfg = cli.composed([*self.fixed, *overrides(params)])
            name = run_id(config.check(cfg))
            trial.set_user_attr("run_id", name)
            while (record := self.store.ok(name)) is None:
                deaths, epoch = trial.user_attrs.get("deaths", (0, 0))
                if deaths >= DEATHS:
                    raise ConfigError(f"{deaths} processes died of it after epoch {epoch}")
                try:
                    record = train.run(cfg, self.study.study_name, watchers=[reporter(self.study, trial)])
                    break
                except BusyError:  # the same cell in another trial or sweep, or in this trial elsewhere
                    if not claim.held():
                        return None
                    time.sleep(POLL)
                except DoneError:  # another process has just finished it
                    continue
        except Pruned as stop:
            return TrialState.PRUNED, None, str(stop)
        except (ConfigError, HydraException, OmegaConfBaseException) as error:
            reason = str(error) if isinstance(error, ConfigError) else explain(error)
        else:
            if record.status == "ok" and "val" in record.metrics:
                top1 = record.metrics["val"]["top1"]
                return TrialState.COMPLETE, top1, f"validation top-1 {top1:.1%}"
            reason = record.error or "has no validation images"  # from an earlier run, or with several processes
        trial.set_user_attr("error", reason)
        return TrialState.FAIL, None, f"failed, {reason}"


def suggest(trial: Trial, key: str, of: BaseDistribution) -> Any:
    """The trial's value of a setting, drawn now if it has none."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(of, CategoricalDistribution):
        return trial.suggest_categorical(key, of.choices)
    if isinstance(of, IntDistribution):
        return trial.suggest_int(key, of.low, of.high, step=of.step, log=of.log)
    assert isinstance(of, FloatDistribution)
    return trial.suggest_float(key, of.low, of.high, step=of.step, log=of.log)


def reporter(study: Study, trial: Trial) -> Callback:
    """Reports each validated epoch to the study once, when the next one starts: by then its checkpoint is written, and
    a trial is no longer stopped after its last epoch. Raises Pruned during training if the study says so.
    """
    from lightning.pytorch.callbacks import LambdaCallback

    from bench.callbacks import EpochTable

    told = set(study.get_trials(deepcopy=False)[trial.number].intermediate_values)

    def report(trainer: Trainer, module: LightningModule) -> None:
        if not trainer.enable_validation:
            raise ConfigError("data: has no validation images, which a search needs: test images must not decide")
        (table,) = (watcher for watcher in trainer.callbacks if isinstance(watcher, EpochTable))  # type: ignore[attr-defined]
        validated = {int(row["epoch"]): row["val_top1"] for row in table.rows if "val_top1" in row}
        new = sorted(validated.keys() - told)
        for epoch in new:
            trial.report(validated[epoch], epoch)
            told.add(epoch)
        if new and trial.should_prune():
            raise Pruned(new[-1])

    return LambdaCallback(on_train_epoch_start=report)


def overrides(params: Mapping[str, Any]) -> list[str]:
    """A trial's parameters as Hydra overrides."""
    return [f"{key}={value}" for key, value in params.items()]


def short(setting: tuple[str, Any]) -> str:
    """A setting in short form: ``optimizer.lr=0.00123``."""
    return f"{setting[0]}={setting[1]:.3g}" if isinstance(setting[1], float) else f"{setting[0]}={setting[1]}"
