"""One run: its settings, and a data frame of its evaluations."""

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
from difftori.report.folders import RunFolderError

KEYS = ("task", "modality", "mode", "exp_name", "seed", "train_steps", "eval_freq")
"""of a config, what a run cannot do without"""
WHOLE = {"seed": 0, "train_steps": 1, "eval_freq": 1}
"""of these, the whole numbers, and the least that each can be"""
COLUMNS = ["env_step", "episode_reward", "episode_success"]


@dataclass(frozen=True)
class Run:
    """One run folder as it stands now."""

    folder: Path
    label: str
    """the name that the user gave its arm; empty: none"""
    config: Mapping[str, Any]
    """flat keys, resolved"""
    evaluations: pd.DataFrame
    """``COLUMNS``, in order of ``env_step``, each step once, finite rewards only; steps are those
    for which evaluations were due: they took place at the end of the episode in hand"""
    made_with: Mapping[str, str]
    """version of each package, of Python, and the commit; empty if the run does not say"""

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
        RunFolderError: ``config.yaml`` or ``eval.csv`` cannot be read, or lacks what a run has.
    """
    try:
        config = read_config(folder)
    except ConfigError as error:
        raise RunFolderError(str(error)) from error
    lacking = [name for name in KEYS if config.get(name) is None]
    if lacking:
        raise RunFolderError(f"{folder / 'config.yaml'} lacks {', '.join(lacking)}")
    wrong = [name for name, least in WHOLE.items() if not _is_whole(config[name], least)]
    if wrong:
        raise RunFolderError(f"{folder / 'config.yaml'} has no whole number for {', '.join(wrong)}")
    try:
        evaluations = _read_evaluations(folder / "eval.csv", config["eval_freq"])
    except (OSError, ValueError, KeyError) as error:
        raise RunFolderError(f"{folder / 'eval.csv'} cannot be read: {error}") from error
    return Run(folder, label, config, evaluations, _read_versions(folder / "provenance.json"))


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and value >= least


def _read_evaluations(path: Path, eval_freq: int) -> pd.DataFrame:
    if not path.exists():
        return pd.DataFrame(columns=COLUMNS, dtype=float)
    # what follows the last line end is being written, and would read as another number
    whole = path.read_text(encoding="utf-8").rpartition("\n")[0]
    rows = pd.read_csv(io.StringIO(whole or ",".join(COLUMNS)), dtype=float)[COLUMNS]
    rows = rows.replace([np.inf, -np.inf], np.nan).dropna(subset=COLUMNS[:2])
    # seeds whose episodes end early are evaluated at different steps, for the same due ones
    rows["env_step"] = rows["env_step"] // eval_freq * eval_freq
    return rows.drop_duplicates("env_step", keep="last").sort_values("env_step")


def _read_versions(path: Path) -> dict[str, str]:
    """Of the latest session; empty if the file is missing or is something else."""
    try:
        session = json.loads(path.read_text(encoding="utf-8"))["sessions"][-1]
        return {**session["versions"], "Python": session["python"], "commit": session["git_commit"]}
    except (OSError, ValueError, LookupError, TypeError):
        return {}
