"""One run as a data frame of its evaluations."""

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from difftori.checkpoints.folder import read_config
from difftori.config import ConfigError
from difftori.report.folders import KEY, RunFolderError

COLUMNS = ("env_step", "episode_reward", "episode_success")


@dataclass(frozen=True)
class Run:
    """One run folder as it stands now."""

    folder: Path
    label: str
    """the name that the user gave its arm; empty: none"""
    config: Mapping[str, Any]
    """flat keys, resolved"""
    evaluations: pd.DataFrame
    """``COLUMNS``, in order of ``env_step``, each step once, finite rewards only"""
    made_with: Mapping[str, str]
    """version of each package, of Python, and the commit; empty if the run does not say"""
    problem: str
    """what could not be read, a sentence"""

    @property
    def evaluated_until(self) -> int:
        """Env step of the last evaluation; 0 if there is none yet."""
        return int(self.evaluations["env_step"].max()) if len(self.evaluations) else 0

    @property
    def is_short(self) -> bool:
        """Evaluations are still to come."""
        train_steps, every = self.config["train_steps"], self.config["eval_freq"]
        return self.evaluated_until < train_steps // every * every


def read_run(folder: Path, label: str = "") -> Run:
    """The run in ``folder``.

    Raises:
        RunFolderError: ``config.yaml`` cannot be read or does not describe a run.
    """
    try:
        config = read_config(folder)
    except ConfigError as error:
        raise RunFolderError(str(error)) from error
    lacking = [name for name in KEY if config.get(name) is None]
    if lacking:
        raise RunFolderError(f"{folder / 'config.yaml'} lacks {', '.join(lacking)}")
    for name in ("seed", "train_steps", "eval_freq"):
        value = config.get(name)
        if not isinstance(value, int) or value < (name != "seed"):
            raise RunFolderError(f"{folder / 'config.yaml'}: {name}={value} is not possible")
    evaluations, problem = read_evaluations(folder / "eval.csv")
    made_with = _read_versions(folder / "provenance.json")
    return Run(folder, label, config, evaluations, made_with, problem)


def read_evaluations(path: Path) -> tuple[pd.DataFrame, str]:
    """The whole rows of an ``eval.csv``, and what was wrong with it; a missing file has none."""
    nothing = pd.DataFrame(columns=COLUMNS, dtype=float)
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return nothing, ""
    except OSError as error:
        return nothing, f"{path} cannot be read: {error.strerror}"
    # what follows the last line end is being written, and would read as another number
    whole = text[: text.rfind("\n") + 1]
    if not whole.strip():
        return nothing, ""
    rows = pd.read_csv(
        io.StringIO(whole), dtype=str, on_bad_lines="skip", index_col=False, quoting=csv.QUOTE_NONE
    )
    rows = rows.reindex(columns=COLUMNS).apply(pd.to_numeric, errors="coerce")
    rows = rows.replace([np.inf, -np.inf], np.nan).dropna(subset=["env_step", "episode_reward"])
    bad = len(whole.splitlines()) - 1 - len(rows)
    rows = rows.drop_duplicates("env_step", keep="last").sort_values("env_step")
    return rows, f"{path}: {bad} rows without a finite return are left out" if bad else ""


def _read_versions(path: Path) -> dict[str, str]:
    """Of the latest session; empty if the file is missing or spoiled."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        record = (record.get("sessions") or [record])[-1]
        commit = str(record.get("git_commit") or "") + "+" * bool(record.get("git_dirty"))
        return {**record["versions"], "Python": str(record.get("python")), "the commit": commit}
    except (OSError, ValueError, AttributeError, TypeError, KeyError):
        return {}
