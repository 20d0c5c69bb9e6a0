"""What a run folder holds: the run's config, and a run that is there already and makes room."""

import shutil
from pathlib import Path
from typing import Any, Literal

import yaml

from difftori.checkpoints.lock import HOLDER_FILE, LOCK_FILE
from difftori.config import ConfigError
from difftori.monitoring.status import CONSOLE_FILE, QUEUED_FILE, read_status
from difftori.sections import RunConfig

KEPT = (LOCK_FILE, HOLDER_FILE, QUEUED_FILE, CONSOLE_FILE)
"""what stays when a run is overwritten: it belongs to the run that begins"""

Fate = Literal["free", "resume", "restart", "overwrite", "refuse", "refuse ended"]
"""``restart``: it never saved, so that it begins again; ``refuse ended``: it cannot go on"""


def read_config(folder: Path) -> dict[str, Any]:
    """The flat keys of the run in ``folder``, as it was last started.

    Raises:
        ConfigError: ``config.yaml`` is missing, cannot be read or holds no keys.
    """
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
        raise ConfigError(f"{folder} is not a run's folder: config.yaml: {reason}") from error
    if not isinstance(config, dict):
        raise ConfigError(f"{folder} is not a run's folder: its config.yaml holds no keys")
    return config


def fate_of(run: RunConfig) -> Fate:
    """What a command would do with what is in its folder; looks, and changes nothing."""
    folder, status = run.folder, read_status(run.folder)
    saved = any((folder / "checkpoints").glob("step_*"))
    has_records = (folder / "metrics.jsonl").exists()
    ended = (
        status.get("state") == "done"
        or (status.get("state") == "stopped" and str(status.get("reason")).endswith("and saved"))
        or (folder / "models" / "model.pt").exists()
        # a run writes metrics.jsonl first: this is what was kept of one
        or ((folder / "eval.csv").exists() and not has_records)
    )
    if not (saved or has_records or ended):
        return "free"
    if not run.resume:
        return "overwrite" if run.overwrite else "refuse"
    if saved:
        return "resume"
    return "refuse ended" if ended else "restart"


def refuse_to_touch(run: RunConfig) -> None:
    """Raise ConfigError if what is in the run's folder must stay, or cannot go on."""
    folder, fate = run.folder, fate_of(run)
    if fate == "refuse ended":
        raise ConfigError(
            f"{folder} holds a run whose checkpoints are gone, which cannot go on; "
            "use another exp_name, or resume=false overwrite=true"
        )
    if fate == "refuse":
        raise ConfigError(
            f"{folder} holds a run; resume=true goes on with it, "
            "resume=false overwrite=true deletes it"
        )


def empty(folder: Path) -> None:
    """Delete the run that is to be overwritten, its checkpoints first; of a link, the link.

    Raises ConfigError if something cannot be deleted.
    """
    try:
        for entry in sorted(folder.iterdir()):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry.name not in KEPT:
                entry.unlink()
    except OSError as error:
        raise ConfigError(f"{folder} cannot be overwritten: {error}") from error
