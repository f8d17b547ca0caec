"""The ``bench-tune`` command: search for the settings with the best validation top-1.

    bench-tune data=digits trainer.max_epochs=3 model=lenet,nin 'optimizer.lr=tag(log,interval(1e-4,1e-1))' trials=20

Ranges are Hydra's sweeps:
    a,b,c or choice(a,b,c)   one of these
    interval(0,0.2)          any number between
    int(interval(16,128))    a whole number from 16 to 128
    range(16,129,16)         16, 32, … 128
    tag(log,interval(…))     log-uniform: equal weight for each order of magnitude
Parentheses need quotes in a shell. All other settings are those of bench, the same in each trial.

    trials=20      total number of trials
    study=NAME     name of the study; by default derived from the settings and ranges
    prune=median   stop a trial whose validation top-1 is below the median of earlier ones; or hyperband; or none,
                   which a search over trainer.max_epochs needs

The study is a file, <paths.results>/studies/NAME.log, and each trial is a cell with its own record. The same command
resumes a stopped search, also with a larger trials=, and joins one running elsewhere; trials=0 only shows the study. A
search stops when its first three trials have failed.
Test results decide nothing here and are not shown; each trial is still tested, like any cell, for its record.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from filelock import FileLock
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from rich.markup import escape
from rich.table import Table

from bench import cli, config, console, resolvers
from bench.errors import ConfigError
from bench.interrupt import Interrupted, Interrupts
from bench.record import RUN_ID, identity, protocol
from bench.store import Store
from bench.study import Search, overrides, pruner, short

if TYPE_CHECKING:  # Optuna is optional, and with PyTorch takes seconds to import
    from optuna.distributions import BaseDistribution
    from optuna.pruners import BasePruner

OWN = {"trials": "20", "study": "", "prune": "median"}
PRUNERS = ("median", "hyperband", "none")


def main() -> None:
    """Run the command line."""
    cli.run("bench-tune", __doc__ or "", tune)


def tune(arguments: list[str]) -> None:
    """Run the search and show the results; exit code 1 if a trial failed."""
    try:
        import optuna
        from optuna.storages.journal import JournalFileBackend  # noqa: F401  # not there before 4.0
    except ImportError as error:
        raise ConfigError("needs optuna 4.0 or newer; pip install 'convbench[tune]'") from error
    own = OWN | {key: value for key, _, value in (a.partition("=") for a in arguments) if key in OWN}
    if not (own["trials"].isascii() and own["trials"].isdigit()):
        raise ConfigError(f"trials={own['trials']}: must be a whole number, 0 or more")
    if own["prune"] not in PRUNERS:
        raise ConfigError(f"prune={own['prune']}: must be one of {', '.join(PRUNERS)}")
    settings = [a for a in arguments if a.partition("=")[0] not in OWN]
    if flags := [a for a in settings if a.startswith("-")]:
        raise ConfigError(f"{flags[0]}: no such flag; see --help")
    try:
        fixed, space = ranges(settings)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    begin = int(own["trials"]) > 0
    cells = check(fixed, space, begin)
    if own["prune"] != "none" and any(cell["trainer"]["devices"] > 1 for cell in cells):
        raise ConfigError("trainer.devices: trials of several processes cannot be pruned; add prune=none")
    lengths = {cell["trainer"]["max_epochs"] for cell in cells}
    if own["prune"] != "none" and len(lengths) > 1:  # of which one is at its peak rate where another has ended
        raise ConfigError("trainer.max_epochs: trials of different lengths cannot be compared midway; add prune=none")
    prune = pruner(own["prune"], max(lengths))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        search = open_search(own["study"], prune, fixed, space, cells[0], begin)
        try:
            with Interrupts():  # also between cells, and while others train them
                search.run(int(own["trials"]))
        except Interrupted as stop:
            cli.stop("bench-tune", f"{stop}; the same command resumes from there", 128 + stop.signum)
        failed = show(search)
    if failed:
        cli.stop("bench-tune", f"{failed} trial{'s' * (failed > 1)} failed", cli.FAILED)


def ranges(settings: Sequence[str]) -> tuple[list[str], dict[str, BaseDistribution]]:
    """The settings without a range, and the ranges of the others; the options of a choice are override strings.

    Raises:
        ValueError, HydraException: a range is wrong, or there is none.
    """
    fixed, space = [], {}
    for override in OverridesParser.create().parse_overrides(list(settings)):
        key = override.get_key_element()
        launches = override.is_hydra_override() and key != "hydra.searchpath"
        if launches or override.key_or_group == "sweep":
            raise ValueError(f"{override.input_line}: a search takes ranges, not a launcher or a sweep")
        if not override.is_sweep_override():
            fixed.append(str(override.input_line))
        elif key in space:
            raise ValueError(f"{override.input_line}: {key} already has a range")
        else:
            try:
                space[key] = distribution(override)
            except ValueError as error:
                raise ValueError(f"{override.input_line}: {error}") from error
    if not space:
        raise ValueError("nothing to search; give a setting a range: 'optimizer.lr=tag(log,interval(1e-4,1e-1))'")
    return fixed, space


def distribution(override: Override) -> BaseDistribution:
    """The Optuna distribution for a Hydra sweep.

    Raises:
        ValueError: it is empty or cannot be searched.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    sweep: Any = override.value()
    log = "log" in getattr(sweep, "tags", ())
    kind: Any
    if isinstance(sweep, IntervalSweep):
        kind = IntDistribution if isinstance(sweep.start, int) and isinstance(sweep.end, int) else FloatDistribution
        return kind(sweep.start, sweep.end, log=log)
    if log:
        raise ValueError("log only works with interval(…)")
    if isinstance(sweep, RangeSweep):
        if not (values := sorted(sweep.range())):
            raise ValueError("the range is empty")
        kind = IntDistribution if all(isinstance(value, int) for value in values) else FloatDistribution
        # in decimals: Hydra adds up a last value of 0.8999999999999999, which Optuna would leave out
        start, step = Decimal(str(sweep.start)), Decimal(str(sweep.step))
        low, high = sorted((start, start + (len(values) - 1) * step))
        return kind(type(values[0])(low), type(values[0])(high), step=abs(sweep.step))
    if not isinstance(sweep, ChoiceSweep):
        raise ValueError("cannot be searched; list the options")
    return CategoricalDistribution(list(dict.fromkeys(override.sweep_string_iterator())))


def check(fixed: Sequence[str], space: Mapping[str, BaseDistribution], begin: bool) -> list[dict[str, Any]]:
    """The configuration of a cell at each edge of each range, the other settings at their first value; ``begin``: as
    they are to run, their constructors are asked, too.

    Raises:
        ConfigError, HydraException, OmegaConfBaseException: one is invalid, or not comparable with the others. What a
            data source says of its arguments and images shows only when they are read.
    """
    edges = {key: _edges(of) for key, of in space.items()}
    first = {key: values[0] for key, values in edges.items()}
    params = [first, *({**first, key: value} for key, values in edges.items() for value in values[1:])]
    composed = [cli.composed([*fixed, *overrides(values)]) for values in params]
    with resolvers.remembering():
        cells = [config.check(cfg) for cfg in composed]
    if any(cell["data"]["val_size"] == 0 for cell in cells):
        raise ConfigError("data.val_size=0: a search needs validation images; test images must not decide")
    if len({(cell["data"]["name"], protocol(cell)) for cell in cells}) > 1:
        raise ConfigError("data: trials are compared on the same validation images, which no range may change")
    if any(cell["force"] for cell in cells):
        raise ConfigError("force=true: a search resumes from its existing trials; study=NAME starts another")
    if begin:
        from bench import assemble  # only now: importing PyTorch takes seconds

        tried: set[str] = set()
        for cfg, cell in zip(composed, cells, strict=True):
            assemble.try_out(cfg, cell, tried)
    return cells


def _edges(of: Any) -> tuple[Any, ...]:
    """All options of a choice; both ends of a range, and its second value if it has steps: if the first two are
    multiples of another setting (as max_epochs must be of the validation interval), all are.
    """
    if options := getattr(of, "choices", None):
        return tuple(options)
    return tuple(dict.fromkeys((of.low, min(of.low + (of.step or 0), of.high), of.high)))


def open_search(
    name: str,
    pruner: BasePruner,
    fixed: list[str],
    space: dict[str, BaseDistribution],
    first: Mapping[str, Any],
    begin: bool,
) -> Search:
    """The search called ``name``, by default derived from what is searched; ``begin``: create it if it is missing.

    Raises:
        ConfigError: the name is invalid or belongs to another search, or the study is missing and may not be created.
    """
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    texts = {key: optuna.distributions.distribution_to_json(of) for key, of in space.items()}
    digest = hashlib.sha256(json.dumps([identity(first), texts], sort_keys=True).encode()).hexdigest()[:10]
    name = name or f"{first['data']['name']}-{digest}".replace("/", "-")
    if not RUN_ID.fullmatch(name):
        raise ConfigError(f"study={name}: must be letters, digits and . _ -, starting with a letter or digit")
    store = Store(first["paths"]["results"])
    folder = store.root / "studies" / name
    file = folder.with_name(f"{name}.log")
    if not begin and not file.exists():
        raise ConfigError(f"study={name}: no such study in {file.parent}")
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        try:
            # absolute: Optuna's lock is a link to the name it is given, and a relative one would point nowhere
            storage = JournalStorage(JournalFileBackend(str(file.absolute())))
            study = optuna.create_study(
                study_name=name, storage=storage, pruner=pruner, direction="maximize", load_if_exists=True
            )
        except (ValueError, KeyError) as error:
            raise ConfigError(f"{file}: is damaged or not a study ({error}); choose another study=NAME") from error
        if not study.user_attrs:
            study.set_user_attr("search", digest)
        elif study.user_attrs.get("search") != digest:
            raise ConfigError(f"study={name}: already exists with other settings or ranges; choose another name")
    return Search(study, space, fixed, folder, store, first["seed"])


def show(search: Search) -> int:
    """Print the best trials and the command for the best one; returns how many failed."""
    from optuna.trial import TrialState

    trials = search.study.get_trials(deepcopy=False)
    counts = Counter(trial.state for trial in trials)
    best = sorted(
        (trial for trial in trials if trial.state == TrialState.COMPLETE), key=lambda trial: -(trial.value or 0.0)
    )
    title = f"study {search.study.study_name}, validation images"
    table = Table("trial", title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("top-1", justify="right")
    table.add_column("settings", overflow="fold")
    for trial in best[:10]:
        table.add_row(str(trial.number + 1), f"{trial.value:.1%}", escape("  ".join(map(short, trial.params.items()))))
    if best:
        console.out.print(table)
    names = ", ".join(f"{counts[state]} {state.name.lower()}" for state in TrialState if counts[state])
    console.say(f"{len(trials)} trials: {names or 'none yet'}")
    for trial in trials:
        if trial.state == TrialState.FAIL:
            console.say(f"  trial {trial.number + 1} failed: {trial.user_attrs.get('error')}")
    if best:
        console.say(f"best: {best[0].user_attrs['run_id']}, validation top-1 {best[0].value:.1%}")
        console.say(f"  {shlex.join(['bench', *search.fixed, *overrides(best[0].params)])}")
    return counts[TrialState.FAIL]


if __name__ == "__main__":
    main()
