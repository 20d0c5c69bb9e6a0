"""Where a run comes from: command, code, versions and machine, of each process that trained it."""

import contextlib
import importlib.metadata
import json
import os
import platform
import re
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig

from difftori.checkpoints.files import write_bytes
from difftori.monitoring.console import ConsoleReporter

ROOT = Path(__file__).resolve().parents[3]
REQUIREMENTS = ("requirements.txt", "requirements-theseus.txt")
"""those of a run; what development needs beside them changes no run"""
CODE_FOLDERS = ("src", "cfgs")
"""in which files that git does not know yet change a run as well"""
GIT_TIMEOUT_SECONDS = 20
DIFF_LIMIT_BYTES = 20_000_000


@dataclass(frozen=True)
class GitState:
    """Of the code's clone; None throughout where there is no git or no clone."""

    commit: str | None = None
    dirty: bool | None = None
    diff: bytes | None = None
    """what is not committed, as ``git apply`` takes it; None if all is"""


def record_session(
    folder: Path, *, device: torch.device, env_step: int, console: ConsoleReporter
) -> None:
    """Add this process to ``folder/provenance.json``, and what is not committed beside it.

    Warns, in one line, if the run was begun by other code or with other versions. A file that
    cannot be read or written is a warning too.

    Args:
        folder: the run's.
        device: where the run computes.
        env_step: environment steps that lie behind it; 0 begins the run.
    """
    path = folder / "provenance.json"
    sessions = _read(path, console)
    git = git_state(ROOT)
    session = describe(device=device, env_step=env_step, git=git)
    try:
        session["git_diff"] = _keep_diff(folder, git.diff, len(sessions) + 1)
        content = json.dumps({"sessions": [*sessions, session]}, indent=2) + "\n"
        write_bytes(path, content.encode())
    except OSError as error:
        console.warn(f"{path} was not written: {error.strerror}")
    began = _beginning(sessions)
    if env_step > 0 and began is not None:
        changes = differences(began, session, _diff_changed(folder, began, git.diff))
        if changes:
            console.warn(f"this run began with {', '.join(changes)}: it may not repeat to the bit")


def describe(*, device: torch.device, env_step: int, git: GitState) -> dict[str, Any]:
    """One entry of ``sessions``; what cannot be found out is None."""
    on_gpu = device.type == "cuda"
    return {
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "env_step": env_step,
        "command": list(sys.orig_argv),
        "overrides": list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else None,
        "working_directory": str(Path.cwd()),
        "git_commit": git.commit,
        "git_dirty": git.dirty,
        "git_diff": None,
        "versions": installed_versions(ROOT),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "cpu": cpu_name(),
        "gpu": torch.cuda.get_device_name(device) if on_gpu else None,
        "device": str(device),
        "threads": torch.get_num_threads(),
    }


def differences(
    began: Mapping[str, Any], now: Mapping[str, Any], diff_changed: bool = False
) -> list[str]:
    """What of code and versions is not as it was, as ``torch 2.12.0 (now 2.13.0)``."""
    before, after = ({"Python": s.get("python")} | (s.get("versions") or {}) for s in (began, now))
    found = [
        f"{name} {before[name]} (now {after.get(name)})"
        for name in before
        if before[name] is not None and before[name] != after.get(name)
    ]
    commits = [str(session.get("git_commit") or "")[:7] for session in (began, now)]
    if all(commits) and commits[0] != commits[1]:
        found.append(f"commit {commits[0]} (now {commits[1]})")
    elif diff_changed:
        found.append("other uncommitted changes")
    return found


def git_state(root: Path) -> GitState:
    """Commit and uncommitted changes of the clone that holds ``root``."""
    commit = _git(root, "rev-parse", "HEAD")
    # a copy of the code inside somebody else's clone is not of its commit
    if commit is None or not _git(root, "ls-files", "--", "src/difftori/__init__.py"):
        return GitState()
    changed = _git(root, *_DIFF, "HEAD", "--", ".")
    new = _git(root, "ls-files", "-z", "--others", "--exclude-standard", "--", *CODE_FOLDERS)
    if changed is None or new is None:
        return GitState(commit.decode().strip())
    added = [
        _git(root, *_DIFF, "--no-index", "--", os.devnull, name, differs=1) or b""
        for name in filter(None, new.decode(errors="surrogateescape").split("\0"))
    ]
    diff = b"".join([changed, *added])
    return GitState(commit.decode().strip(), bool(diff), diff or None)


def installed_versions(root: Path) -> dict[str, str | None]:
    """Of each package that the requirements name; None where it is not installed."""
    found: dict[str, str | None] = {}
    for name in REQUIREMENTS:
        try:
            lines = (root / name).read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            match = re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", line.strip())
            if match:
                found[match[0]] = _version(match[0])
    return found


@cache
def cpu_name() -> str | None:
    """As the processor calls itself."""
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        text = ""
    match = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1].strip() if match else platform.processor() or platform.machine() or None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


_PLAIN = ("-c", "color.ui=false", "-c", "diff.noprefix=false", "-c", "diff.mnemonicPrefix=false")
_GIT_PLACES = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX")
_DIFF = ("diff", "--no-ext-diff", "--binary")


def _git(root: Path, *arguments: str, differs: int = 0) -> bytes | None:
    """What git prints; None where it fails or is missing. ``differs`` is a good exit code too."""
    # no locks, because another process may be committing; nothing of the user's own taste
    command = ["git", "--no-optional-locks", "-C", str(root), *_PLAIN, *arguments]
    try:
        done = subprocess.run(
            command,
            # a git hook that starts us would point us to its own clone
            env={key: value for key, value in os.environ.items() if key not in _GIT_PLACES},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=GIT_TIMEOUT_SECONDS,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode in (0, differs) else None


def _read(path: Path, console: ConsoleReporter) -> list[dict[str, Any]]:
    """The sessions before this one; a file that is not one of ours is put aside."""
    try:
        content = json.loads(path.read_text())
        sessions = content["sessions"]
        if not all(isinstance(session, dict) for session in sessions):
            raise ValueError("a session is not an object")
        return list(sessions)
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        console.warn(f"{path} cannot be read, and is begun anew: {error!r}")
        with contextlib.suppress(OSError):
            path.replace(path.with_name(f"{path.name}.unreadable"))
        return []


def _beginning(sessions: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The session that began what the run is now: the last one with nothing behind it."""
    began = [session for session in sessions if session.get("env_step") == 0]
    return began[-1] if began else None


def _keep_diff(folder: Path, diff: bytes | None, number: int) -> str | None:
    """Name of the file with these changes: one that is there already, or a new one."""
    if diff is None:
        return None
    if len(diff) > DIFF_LIMIT_BYTES:
        diff = f"# {len(diff):,} bytes of changes, too many to be kept\n".encode()
    for path in sorted(folder.glob("provenance*.diff")):
        if path.read_bytes() == diff:
            return path.name
    first = folder / "provenance.diff"
    path = first.with_name(f"provenance-{number}.diff") if first.exists() else first
    write_bytes(path, diff)
    return path.name


def _diff_changed(folder: Path, began: Mapping[str, Any], diff: bytes | None) -> bool:
    """Whether other changes are uncommitted now than when the run began."""
    name = began.get("git_diff")
    if name is None or diff is None:
        return began.get("git_dirty") is not None and bool(name) != (diff is not None)
    try:
        return (folder / str(name)).read_bytes() != diff
    except OSError:
        return False
