"""Where a run comes from: command, code, versions and machine, of each process that trained it."""

import importlib.metadata
import json
import logging
import os
import platform
import re
import socket
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig

from difftori.checkpoints.files import write_bytes

ROOT = Path(__file__).resolve().parents[3]
REQUIREMENTS = ("requirements.txt", "requirements-theseus.txt")
"""those of a run; what development needs beside them changes no run"""
CODE_FOLDERS = ("src", "cfgs")
"""in which files that git does not know yet change a run as well"""
GIT_TIMEOUT_SECONDS = 20

logger = logging.getLogger(__name__)


def record_session(folder: Path, *, device: torch.device, env_step: int) -> None:
    """Add this process to ``folder/provenance.json``, and what is not committed beside it.

    Warns, in one line, if the process before had other code or versions. A file that cannot be
    read or written is a warning too.

    Args:
        folder: the run's.
        device: where the run computes.
        env_step: environment steps that lie behind it; 0 begins the run.
    """
    path = folder / "provenance.json"
    sessions = _earlier_sessions(path)
    session = describe_process(device, env_step)
    commit, diff = git_state(ROOT)
    session |= {"git_commit": commit, "git_dirty": None if commit is None else bool(diff)}
    try:
        session["git_diff"] = _keep_diff(folder, diff, sessions)
        content = json.dumps({"sessions": [*sessions, session]}, indent=2) + "\n"
        write_bytes(path, content.encode())
    except OSError as error:
        logger.warning(f"{path} was not written: {error.strerror}")
    if env_step > 0 and sessions:
        before, now = _what_counts(sessions[-1]), _what_counts(session)
        changes = [f"{k} {now[k]} (was {before.get(k)})" for k in now if now[k] != before.get(k)]
        if changes:
            logger.warning(f"resumed with {', '.join(changes)}: the run may not repeat to the bit")


def describe_process(device: torch.device, env_step: int) -> dict[str, Any]:
    """An entry of ``sessions``, but for git; what cannot be found out is None."""
    on_gpu = device.type == "cuda"
    return {
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "env_step": env_step,
        "command": list(sys.orig_argv),
        "overrides": list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else None,
        "working_directory": str(Path.cwd()),
        "versions": installed_versions(ROOT),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "cpu": _cpu_name(),
        "gpu": torch.cuda.get_device_name(device) if on_gpu else None,
        "device": str(device),
        "threads": torch.get_num_threads(),
    }


def git_state(root: Path) -> tuple[str | None, bytes]:
    """Commit of the clone that holds ``root``, and what is not committed, for ``git apply``.

    None and nothing where there is no git or no clone.
    """
    try:
        # a copy of the code inside somebody else's clone is not of its commit
        if not _git(root, "ls-files", "--", "src/difftori/__init__.py"):
            return None, b""
        commit = _git(root, "rev-parse", "HEAD").decode().strip()
        diff = _git(root, *_DIFF, "HEAD", "--", ".")
        new = _git(root, "ls-files", "-z", "--others", "--exclude-standard", "--", *CODE_FOLDERS)
        for name in filter(None, new.decode(errors="surrogateescape").split("\0")):
            diff += _git(root, *_DIFF, "--no-index", "--", os.devnull, name)
    except (OSError, subprocess.SubprocessError):
        return None, b""
    return commit, diff


def installed_versions(root: Path) -> dict[str, str | None]:
    """Of each package that the requirements name; None where it is not installed."""
    found: dict[str, str | None] = {}
    for path in (root / name for name in REQUIREMENTS):
        text = path.read_text() if path.exists() else ""
        for package in re.findall(r"^[\w.-]+(?===)", text, re.MULTILINE):
            try:
                found[package] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                found[package] = None
    return found


def _what_counts(session: dict[str, Any]) -> dict[str, Any]:
    """What must be the same in two processes for the same bits."""
    return {
        "Python": session.get("python"),
        **(session.get("versions") or {}),
        "commit": str(session.get("git_commit") or "unknown")[:7],
        "uncommitted changes": session.get("git_diff") or "none",
    }


def _earlier_sessions(path: Path) -> list[dict[str, Any]]:
    try:
        sessions = json.loads(path.read_text())["sessions"]
        return [dict(session) for session in sessions]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning(f"{path} cannot be read, and is begun anew: {error!r}")
        return []


def _keep_diff(folder: Path, diff: bytes, sessions: list[dict[str, Any]]) -> str | None:
    """Name of the file with these changes: the one of the session before, or a new one."""
    if not diff:
        return None
    last = sessions[-1].get("git_diff") if sessions else None
    if last and (folder / last).exists() and (folder / last).read_bytes() == diff:
        return str(last)
    name = f"provenance-{len(sessions) + 1}.diff" if sessions else "provenance.diff"
    write_bytes(folder / name, diff)
    return name


def _cpu_name() -> str | None:
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        text = ""
    match = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1].strip() if match else platform.processor() or None


# whatever the user's own settings are
_DIFF = ("diff", "--binary", "--no-color", "--no-ext-diff", "--src-prefix=a/", "--dst-prefix=b/")


def _git(root: Path, *arguments: str) -> bytes:
    """What git prints. Raises OSError or SubprocessError where it fails or is missing."""
    command = ["git", "-C", str(root), *arguments]
    done = subprocess.run(command, capture_output=True, timeout=GIT_TIMEOUT_SECONDS)
    if done.returncode != 1:  # 1: the two files of --no-index differ
        done.check_returncode()
    return done.stdout
