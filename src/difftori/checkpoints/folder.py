"""What a run folder holds: the run's config, and a run that is there already and makes room."""

import shutil
from pathlib import Path
from typing import Any, Literal

import yaml

from difftori.checkpoints.lock import HOLDER_FILE, LOCK_FILE
from difftori.config import ConfigError
from difftori.monitoring.status import CONSOLE_FILE, QUEUED_FILE
from difftori.sections import RunConfig

KEPT = (LOCK_FILE, HOLDER_FILE, ".overwritten", QUEUED_FILE, CONSOLE_FILE)
"""what stays when a run is overwritten: it belongs to the run that begins"""

Plan = Literal["free", "resume", "restart", "overwrite", "refuse", "refuse finished"]
"""``restart``: it never saved, so that it begins again; ``refuse finished``: it cannot go on"""


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


def plan_for(run: RunConfig) -> Plan:
    """What a command would do with what is in its folder; looks, and changes nothing."""
    folder = run.folder
    saved = (folder / "checkpoints").exists()
    if not saved and not (folder / "metrics.jsonl").exists():
        return "free"
    if not run.resume:
        return "overwrite" if run.overwrite else "refuse"
    if saved:
        return "resume"
    return "refuse finished" if (folder / "models" / "model.pt").exists() else "restart"


def put_aside(run: RunConfig) -> Path | None:
    """Make room for the run; returns where an old one lies, if it is to be overwritten.

    Raises:
        ConfigError: what is there must not be touched, or cannot go on.
    """
    folder, plan = run.folder, plan_for(run)
    if plan == "refuse finished":
        raise ConfigError(
            f"{folder} holds a finished run without checkpoints, which cannot go on; "
            "use another exp_name, or resume=false overwrite=true"
        )
    if plan == "refuse":
        raise ConfigError(
            f"{folder} holds a run; resume=true goes on with it, "
            "resume=false overwrite=true deletes it"
        )
    if plan != "overwrite":
        return None
    aside = folder / ".overwritten"
    delete(aside)
    aside.mkdir()
    for entry in list(folder.iterdir()):
        if entry.name not in KEPT:
            entry.rename(aside / entry.name)
    return aside


def put_back(folder: Path, aside: Path) -> None:
    """Undo ``put_aside``, because the run that was to replace the old one did not begin."""
    for entry in list(folder.iterdir()):
        if entry.name not in KEPT:
            delete(entry)
    for entry in list(aside.iterdir()):
        entry.rename(folder / entry.name)
    aside.rmdir()


def delete(path: Path) -> None:
    """A file or a folder; nothing if there is none."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
