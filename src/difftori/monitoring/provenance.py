"""Where a run comes from: command, code, versions and machine, of each process that trained it."""

import hashlib
import json
import logging
import os
import platform
import re
import socket
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig

from difftori.checkpoints.files import write_bytes

ROOT = Path(__file__).resolve().parents[3]
REQUIREMENTS = ("requirements.txt", "requirements-theseus.txt")
"""those of a run; what development needs beside them changes no run"""
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
    sessions: list[dict[str, Any]] = []
    try:
        session = describe_process(device, env_step)
        commit, diff = git_state(ROOT)
        name = f"provenance-{hashlib.sha256(diff).hexdigest()[:8]}.diff" if diff else None
        session |= {"git_commit": commit, "git_dirty": bool(diff), "git_diff": name}
        if path.exists():
            sessions = json.loads(path.read_text())["sessions"]
        if name is not None:
            write_bytes(folder / name, diff)
        content = json.dumps({"sessions": [*sessions, session]}, indent=2) + "\n"
        write_bytes(path, content.encode())
    except (OSError, ValueError, LookupError, TypeError) as error:
        logger.warning(f"{path} has no entry of this process: {error!r}")
        return
    if env_step == 0 or not sessions:
        return
    before, now = _what_counts(sessions[-1]), _what_counts(session)
    changes = [f"{k} {now[k]} (was {before.get(k)})" for k in now if now[k] != before.get(k)]
    if changes:
        logger.warning(f"resumed with {', '.join(changes)}: the run may not repeat to the bit")


def describe_process(device: torch.device, env_step: int) -> dict[str, Any]:
    """An entry of ``sessions``, but for git."""
    cpu = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    return {
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "env_step": env_step,
        "command": sys.orig_argv,
        "overrides": list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else None,
        "working_directory": str(Path.cwd()),
        "versions": required_versions(ROOT),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "cpu": cpu[1] if cpu else platform.machine(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "device": str(device),
        "threads": torch.get_num_threads(),
    }


def required_versions(root: Path) -> dict[str, str]:
    """The installed version of each package that the requirements name."""
    text = "\n".join((root / name).read_text() for name in REQUIREMENTS)
    found = {}
    for name in re.findall(r"(?m)^[\w.-]+(?===)", text):
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def git_state(root: Path) -> tuple[str | None, bytes]:
    """Commit of the clone that holds ``root``, and what is not committed, for ``git apply``.

    New files count in ``src`` and ``cfgs``. None and nothing where there is no git or no clone.
    """
    # whatever the user's own settings are
    compare = ["diff", "--binary", "--no-color", "--no-ext-diff"]
    compare += ["--src-prefix=a/", "--dst-prefix=b/"]
    try:
        # a copy of the code inside somebody else's clone is not of its commit
        if not _git(root, "ls-files", "--", "src/difftori/__init__.py"):
            return None, b""
        commit = _git(root, "rev-parse", "HEAD").decode().strip()
        diff = _git(root, *compare, "HEAD", "--", ".")
        new = _git(root, "ls-files", "-z", "--others", "--exclude-standard", "--", "src", "cfgs")
        for name in filter(None, new.decode(errors="surrogateescape").split("\0")):
            diff += _git(root, *compare, "--no-index", "--", os.devnull, name)
    except (OSError, subprocess.SubprocessError):
        return None, b""
    return commit, diff


def _git(root: Path, *arguments: str) -> bytes:
    """What git prints. Raises OSError or SubprocessError where it fails or is missing."""
    command = ["git", "-C", str(root), *arguments]
    done = subprocess.run(command, capture_output=True, timeout=GIT_TIMEOUT_SECONDS)
    if done.returncode != 1:  # 1: the two files of --no-index differ
        done.check_returncode()
    return done.stdout


def _what_counts(session: dict[str, Any]) -> dict[str, Any]:
    """What must be the same in two processes for the same bits."""
    return {
        "Python": session.get("python"),
        **session.get("versions", {}),
        "commit": str(session.get("git_commit"))[:7],
        "uncommitted changes": session.get("git_diff"),
    }
