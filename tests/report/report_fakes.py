"""Run folders for tests, as training leaves them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

CONFIG = {
    "task": "cup-catch",
    "modality": "state",
    "mode": "back_plan",
    "exp_name": "default",
    "suite": "dmcontrol",
    "seed": 1,
    "train_steps": 30,
    "eval_freq": 10,
    "episode_length": None,
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
    (folder / ".lock").touch()
    if rewards or tail:
        rows = "".join(f"{step},{reward},\n" for step, reward in rewards.items())
        header = "env_step,episode_reward,episode_success\n"
        (folder / "eval.csv").write_text(f"{header}{rows}{tail}")
    if provenance is not None:
        (folder / "provenance.json").write_text(json.dumps(provenance))
    return folder
