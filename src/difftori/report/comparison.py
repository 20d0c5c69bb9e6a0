"""Runs sorted into what one picture compares: the methods of one suite and modality."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from difftori.report.runs import Run

logger = logging.getLogger(__name__)

DMCONTROL_MAXIMUM = 1000.0
"""return of an episode of full length: up to 1 for each env step"""
SEED_INVARIANT_KEYS = frozenset(
    {
        *("seed", "log_dir", "device", "buffer_device", "threads", "resume", "overwrite", "preset"),
        "agent",
        *("save_every_minutes", "save_model", "save_video", "train_steps", "eval_freq"),
        "max_nonfinite",
    }
)
"""keys that may differ between the seeds of one experiment"""
OF_TRACKERS = ("use_", "wandb_")
CURVE = ["suite", "modality", "task", "method"]


@dataclass(frozen=True)
class Comparison:
    """The scores of all runs of one suite and modality."""

    name: str
    modality: str
    scores: pd.DataFrame
    """``task, method, seed, env_step, score``: a row for each evaluation"""
    methods: tuple[str, ...]
    """those with a label first, as the user gave them"""
    score_name: str
    maxima: dict[str, float | None]
    """by task, the largest score of an episode; None: not known, so tasks are not averaged"""
    train_steps: int
    """of the longest run"""
    notes: tuple[str, ...]
    """missing seeds, short seeds and mixed settings, a sentence each"""

    @property
    def tasks(self) -> list[str]:
        return sorted(self.scores["task"].unique())


def compare(
    runs: Sequence[Run],
    *,
    until: int | None = None,
    drop_short: bool = False,
) -> list[Comparison]:
    """A comparison for each suite and modality that has an evaluation.

    Args:
        until: env step of the last evaluation that counts.
        drop_short: leave out runs that have evaluations still to come.
    """
    table = _one_for_each_seed(_table_of(runs))
    order = [*dict.fromkeys(run.label for run in runs if run.label), *sorted(table["method"])]
    comparisons = []
    for (suite, modality), part in table.groupby(["suite", "modality"]):
        kept = part[~part["short"]] if drop_short else part
        scores, score_name = _scores(suite, kept, until)
        if len(scores):
            there = set(scores["method"])
            comparisons.append(
                Comparison(
                    name=f"{suite}-{modality}",
                    modality=modality,
                    scores=scores,
                    methods=tuple(method for method in dict.fromkeys(order) if method in there),
                    score_name=score_name,
                    maxima=_maxima(kept, score_name),
                    train_steps=max(run.config["train_steps"] for run in kept["run"]),
                    notes=tuple(_notes(part)),
                )
            )
    return comparisons


def _table_of(runs: Sequence[Run]) -> pd.DataFrame:
    """A row for each run."""
    columns = ["task", "modality", "mode", "exp_name", "seed"]
    table = pd.DataFrame([{name: run.config[name] for name in columns} for run in runs])
    table["suite"] = [str(run.config.get("suite", "unknown")) for run in runs]
    table["until"] = [run.evaluated_until for run in runs]
    table["short"] = [run.is_short for run in runs]
    table["run"] = list(runs)
    table["method"] = _method_names(runs)
    return table


def _method_names(runs: Sequence[Run]) -> list[str]:
    """The label, or else of mode and exp_name what tells the methods without a label apart."""
    pairs = {(run.config["mode"], run.config["exp_name"]) for run in runs if not run.label}
    modes, experiments = ({pair[index] for pair in pairs} for index in (0, 1))
    pattern = "{mode}/{exp_name}"
    if len(experiments) == 1:
        pattern = "{mode}"
    elif len(modes) == 1:
        pattern = "{exp_name}"
    return [run.label or pattern.format(**run.config) for run in runs]


def _one_for_each_seed(table: pd.DataFrame) -> pd.DataFrame:
    """Of two runs of the same seed, the one that got further is kept, and that is said."""
    table = table.sort_values("until", ascending=False, kind="stable")
    double = table.duplicated([*CURVE, "seed"])
    for _, row in table[double].iterrows():
        logger.warning(
            "%s is left out: another run of %s %s seed %s got as far or further",
            row["run"].folder, row["task"], row["method"], row["seed"],
        )  # fmt: skip
    return table[~double].sort_values([*CURVE, "seed"])


def _scores(suite: str, part: pd.DataFrame, until: int | None) -> tuple[pd.DataFrame, str]:
    """Success on Meta-World, whose rewards differ between tasks, where it was recorded."""
    keys = ["task", "method", "seed"]
    frames = [
        row["run"].evaluations.assign(**{key: row[key] for key in keys})
        for _, row in part.iterrows()
        if row["until"]
    ]
    if not frames:
        return pd.DataFrame(), ""
    rows = pd.concat(frames, ignore_index=True)
    success = suite == "metaworld" and rows["episode_success"].notna().any()
    rows["score"] = rows["episode_success" if success else "episode_reward"]
    rows = rows[rows["env_step"] <= until] if until is not None else rows
    name = "Success rate" if success else "Episode return"
    return rows[[*keys, "env_step", "score"]].dropna().astype({"env_step": int}), name


def _maxima(part: pd.DataFrame, score_name: str) -> dict[str, float | None]:
    """By task; a cut dm_control episode has fewer rewards of 1."""
    if score_name == "Success rate":
        return dict.fromkeys(part["task"], 1.0)
    if set(part["suite"]) != {"dmcontrol"}:
        return dict.fromkeys(part["task"])
    return {
        task: max(
            min(float(run.config.get("episode_length") or DMCONTROL_MAXIMUM), DMCONTROL_MAXIMUM)
            for run in runs
        )
        for task, runs in part.groupby("task")["run"]
    }


def _notes(part: pd.DataFrame) -> list[str]:
    """Of each method, a sentence for missing seeds, for short seeds and for mixed settings."""
    notes = []
    for method, runs in part.groupby("method"):
        wanted, missing, short, mixed = set(runs["seed"]), [], [], []
        for task, curve in runs.groupby("task"):
            begun = curve[curve["until"] > 0]
            if absent := sorted(wanted - set(begun["seed"])):
                missing.append(f"{task} {', '.join(map(str, absent))}")
            short += [
                f"{task} {row.seed} ({row.until:,} of {row.run.config['train_steps']:,})"
                for row in begun[begun["short"]].itertuples()
            ]
            mixed += [f"{task}: {', '.join(keys)}" for keys in [_mixed_keys(curve["run"])] if keys]
        for what, found in (
            ("has no evaluation of some seeds", missing),
            ("has seeds that are not at their end", short),
            ("mixes settings", mixed),
        ):
            if found:
                notes.append(f"{method} {what}: {'; '.join(found)}")
    return notes


def _mixed_keys(runs: Iterable[Run]) -> list[str]:
    """The keys of the config in which the seeds of a curve differ, and should not."""
    configs = [run.config for run in runs]
    return [
        key
        for key in sorted(set().union(*configs) - SEED_INVARIANT_KEYS)
        if not key.startswith(OF_TRACKERS)
        and len({str(config.get(key, "unset")) for config in configs}) > 1
    ]


def mixed_versions(runs: Sequence[Run]) -> list[str]:
    """One sentence if the runs that say what they were made with do not agree."""
    known = [run.made_with for run in runs if run.made_with]
    names = sorted(set().union(*known)) if known else []
    mixed = [name for name in names if len({versions.get(name) for versions in known}) > 1]
    if not mixed:
        return []
    return [f"the runs differ in the versions of {', '.join(mixed)}; see their provenance.json"]
