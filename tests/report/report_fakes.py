"""Run folders as training leaves them, and comparisons of numbers, for tests."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from difftori.report.comparison import COLUMNS, TYPES, Comparison

CONFIG = {
    "task": "cup-catch",
    "modality": "state",
    "mode": "back_plan",
    "exp_name": "default",
    "suite": "dmcontrol",
    "seed": 1,
    "train_steps": 30,
    "eval_freq": 10,
    "lr": 1e-3,
}


def make_run(
    root: Path,
    rewards: Mapping[int, float | str],
    *,
    tail: str = "",
    provenance: Mapping[str, Any] | None = None,
    **keys: Any,
) -> Path:
    """A folder with ``rewards`` by env step; ``tail`` is appended to ``eval.csv`` as it is."""
    config = {**CONFIG, **keys}
    folder = root.joinpath(
        *(str(config[name]) for name in ("task", "modality", "mode", "exp_name", "seed"))
    )
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    rows = "".join(f"{step},{reward},\n" for step, reward in rewards.items())
    header = "env_step,episode_reward,episode_success\n"
    (folder / "eval.csv").write_text(f"{header}{rows}{tail}")
    if provenance is not None:
        (folder / "provenance.json").write_text(json.dumps(provenance))
    return folder


def comparison_of(
    runs: Mapping[tuple[str, str], Sequence[Mapping[int, float]]],
    maximum: float | None = 100,
    published: pd.DataFrame | None = None,
) -> Comparison:
    """Of each task and method, the scores of its seeds by env step."""
    rows = [
        (task, method, seed, step, score)
        for (task, method), seeds in runs.items()
        for seed, points in enumerate(seeds, start=1)
        for step, score in points.items()
    ]
    scores, nothing = pd.DataFrame(rows, columns=COLUMNS), pd.DataFrame(columns=COLUMNS)
    return Comparison(
        name="dmcontrol-state",
        modality="state",
        scores=scores.astype(TYPES),
        published=(nothing if published is None else published).astype(TYPES),
        methods=tuple(dict.fromkeys(method for _, method in runs)),
        score_name="Return",
        maximum=maximum,
        notes=(),
    )
