"""Whole runs of the debug preset, inside the test's process."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir

from difftori.config import CONFIG_DIR
from difftori.training.start import train

POINT = ("suite=integrator", "domain=point-2d", "domain_task=16-steps", "action_repeat=1")
"""a task without a simulator, as words of a command"""


def run_debug(log_dir: Path, *overrides: str) -> int:
    """Train with ``preset=debug``; returns the exit code."""
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        cfg = compose("default", ["preset=debug", f"log_dir={log_dir}", *overrides])
    return train(cfg)


def run_folder(log_dir: Path) -> Path:
    """The only run below ``log_dir``."""
    (config,) = log_dir.glob("*/*/*/*/*/config.yaml")
    return config.parent


def records(folder: Path, category: str) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["category"] == category]


def fingerprint(folder: Path) -> dict[str, str]:
    """Digests of everything that must repeat: checkpoints, episodes, weights and records."""
    files = sorted((folder / "checkpoints").glob("step_*"))[-1:]
    files += sorted((folder / "checkpoints" / "episodes").iterdir())
    files += sorted((folder / "models").glob("*")) + sorted(folder.glob("eval.csv"))
    digests = {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }
    return digests | {"metrics.jsonl": without_clock(folder / "metrics.jsonl")}


def without_clock(path: Path) -> str:
    """The records less their wall-clock values."""
    return re.sub(r'"\w+_seconds": [^,}]+', '""', path.read_text())
