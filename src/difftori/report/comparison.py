"""Runs sorted into what one picture compares: the methods of one suite and modality."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from difftori.checkpoints.settings import MAY_DIFFER
from difftori.config import plain_defaults
from difftori.report.folders import RunFolderError
from difftori.report.runs import Run

logger = logging.getLogger(__name__)

SCORES = {
    "dmcontrol": ("episode_reward", "Episode return", 1000.0),
    "metaworld": ("episode_success", "Success rate", 1.0),
}
"""of a suite: the column of ``eval.csv``, its name, the most that an episode can give"""
SEED_INVARIANT_KEYS = MAY_DIFFER - {"exp_name", "start_from", "eval_episodes", "compile"} | {
    "seed",
    "eval_freq",
}
"""keys that may differ between the seeds of one experiment"""
COLUMNS = ["task", "method", "seed", "env_step", "score"]
TYPES = {"seed": int, "env_step": int, "score": float}


@dataclass(frozen=True)
class Comparison:
    """The scores of all runs of one suite and modality."""

    name: str
    modality: str
    scores: pd.DataFrame
    """``COLUMNS``: a row for each evaluation"""
    published: pd.DataFrame
    """``COLUMNS``: published means as if of one run; their methods say that they are published"""
    methods: tuple[str, ...]
    """of the runs, those with a label first, as the user gave them"""
    score_name: str
    maximum: float | None
    """the largest score of an episode; None: not known, so tasks are not averaged"""
    notes: tuple[str, ...]
    """what a reader has to know, a sentence each"""

    @property
    def tasks(self) -> list[str]:
        return sorted(self.scores["task"].unique())

    @property
    def all_methods(self) -> list[str]:
        """Those of the runs, then the published ones, in the order that pictures list them."""
        return [*self.methods, *self.published["method"].unique()]

    @property
    def everything(self) -> pd.DataFrame:
        """The runs' scores, then the published ones."""
        return pd.concat([self.scores, self.published])


def compare(
    runs: Sequence[Run], published: pd.DataFrame, *, drop_short: bool = False
) -> list[Comparison]:
    """A comparison for each suite and modality that has an evaluation.

    Args:
        published: ``published.COLUMNS``.
        drop_short: leave out runs that have evaluations still to come.

    Raises RunFolderError where a label does not say which runs are meant.
    """
    table = _one_for_each_seed(_table_of(runs))
    order = dict.fromkeys([*(run.label for run in runs if run.label), *sorted(table["method"])])
    comparisons = []
    for (suite, modality), part in table.groupby(["suite", "modality"]):
        column, score_name, maximum = SCORES.get(suite, ("episode_reward", "Episode return", None))
        kept = part[~part["short"]] if drop_short else part
        frames = [
            row.run.evaluations.assign(task=row.task, method=row.method, seed=row.seed)
            .rename(columns={column: "score"})[COLUMNS]
            .dropna()
            for row in kept.itertuples()
            if row.until
        ]
        if not any(map(len, frames)):
            continue
        scores = pd.concat(frames)
        theirs = published[
            (published["modality"] == modality) & published["task"].isin(scores["task"])
        ]
        theirs = theirs.rename(columns={"mean": "score"}).assign(
            seed=0, method=theirs["method"] + " (published)"
        )
        comparisons.append(
            Comparison(
                name=f"{suite}-{modality}",
                modality=str(modality),
                scores=scores.astype(TYPES),
                published=theirs[COLUMNS].astype(TYPES),
                methods=tuple(method for method in order if method in set(scores["method"])),
                score_name=score_name,
                maximum=maximum,
                notes=tuple(_notes(part)),
            )
        )
    return comparisons


def _table_of(runs: Sequence[Run]) -> pd.DataFrame:
    """A row for each run."""
    columns = ["task", "modality", "seed"]
    table = pd.DataFrame([{name: run.config[name] for name in columns} for run in runs])
    table["suite"] = [run.config.get("suite", "unknown") for run in runs]
    table["until"] = [run.evaluated_until for run in runs]
    table["short"] = [run.is_short for run in runs]
    table["run"] = list(runs)
    table["method"] = _method_names(runs)
    return table


def _method_names(runs: Sequence[Run]) -> list[str]:
    """The label, or else of mode and exp_name what tells the methods without a label apart."""
    plain = [run.config for run in runs if not run.label]
    keys = [key for key in ("mode", "exp_name") if len({config[key] for config in plain}) > 1]
    names = [run.label or "/".join(run.config[key] for key in keys or ["mode"]) for run in runs]
    for run, name in zip(runs, names, strict=True):
        if not run.label and any(other.label == name for other in runs):
            raise RunFolderError(f"{run.folder} has no label, and would be called {name} as others")
    return names


def _one_for_each_seed(table: pd.DataFrame) -> pd.DataFrame:
    """Of two runs of the same seed, the one that got further is kept, and that is said."""
    key = ["suite", "modality", "task", "method", "seed"]
    table = table.sort_values("until", kind="stable")
    for (*_, method, _), same in table.groupby(key):
        first, *others = same["run"]
        for run in others:
            if any(run.config[name] != first.config[name] for name in ("mode", "exp_name")):
                raise RunFolderError(
                    f"{method} has two experiments with the same seed: {first.folder} and "
                    f"{run.folder}; give each a label"
                )
    double = table.duplicated(key, keep="last")
    for run in table.loc[double, "run"]:
        logger.warning(f"{run.folder} is left out: another run of its seed got as far or further")
    return table[~double].sort_values(["task", "method", "seed"])


def _notes(table: pd.DataFrame) -> list[str]:
    """Of each method, which seeds are missing or short, and which settings its seeds differ in."""
    notes = []
    for method, runs in table.groupby("method"):
        seeds, behind, mixed = set(runs["seed"]), [], set()
        for task, curve in runs.groupby("task"):
            ended = set(curve.loc[~curve["short"], "seed"])
            if seeds - ended:
                behind.append(f"{task} {', '.join(map(str, sorted(seeds - ended)))}")
            mixed |= _differing(curve["run"].tolist())
        if behind:
            notes.append(f"{method}: seeds are missing or not at their end: {'; '.join(behind)}")
        if mixed:
            notes.append(f"{method}: the seeds of a task differ in {', '.join(sorted(mixed))}")
    return notes


def _differing(runs: Sequence[Run]) -> set[str]:
    """Settings, and versions as far as runs say them, that they do not share."""
    defaults = plain_defaults()  # of keys that are younger than a run
    values = [
        {
            key: value if isinstance(value, int | float) else str(value)  # 0 is 0.0
            for key, value in {**defaults, **run.config, **run.made_with}.items()
        }
        for run in runs
    ]
    counts = pd.DataFrame(values).nunique()
    return set(counts.index[counts > 1]) - SEED_INVARIANT_KEYS
