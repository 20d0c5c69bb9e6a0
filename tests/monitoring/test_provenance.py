"""Where a run comes from is written down, also of a run that others go on with."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from difftori.monitoring import provenance
from difftori.monitoring.provenance import git_state, record_session

CPU = torch.device("cpu")
A, B = "a" * 40, "b" * 40


def record(folder: Path, env_step: int = 0) -> None:
    record_session(folder, device=CPU, env_step=env_step)


def sessions(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "provenance.json").read_text())["sessions"]
    return found


@pytest.fixture(autouse=True)
def git(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str | None, bytes]]:
    """What git is to say: the last of these."""
    states: list[tuple[str | None, bytes]] = [(A, b"")]
    monkeypatch.setattr(provenance, "git_state", lambda root: states[-1])
    return states


def test_a_session_says_what_ran_where(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    record(tmp_path)
    (session,) = sessions(tmp_path)
    assert all(isinstance(word, str) for word in session["command"])
    assert session["versions"]["torch"] == torch.__version__
    assert session["versions"]["theseus-ai"] == "0.2.3"
    assert "pytest" not in session["versions"]
    assert (session["git_commit"], session["git_dirty"], session["git_diff"]) == (A, False, None)
    assert (session["gpu"], session["env_step"]) == (None, 0)
    for key in ("started_at", "python", "platform", "host", "cpu"):
        assert isinstance(session[key], str)
        assert session[key]
    assert caplog.messages == []


def test_each_process_has_an_entry_and_changes_are_kept_once(
    tmp_path: Path, git: list[tuple[str | None, bytes]]
) -> None:
    for diff in (b"one", b"one", b"two", b""):
        git.append((A, diff))
        record(tmp_path)
    one, again, two, none = (session["git_diff"] for session in sessions(tmp_path))
    assert one == again != two
    assert none is None
    assert (tmp_path / one).read_bytes() == b"one"
    assert (tmp_path / two).read_bytes() == b"two"


def test_other_code_or_versions_are_one_warning(
    tmp_path: Path,
    git: list[tuple[str | None, bytes]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    record(tmp_path)
    record(tmp_path, 500)
    assert caplog.messages == []
    git.append((B, b"change"))
    monkeypatch.setattr(provenance, "required_versions", lambda root: {"torch": "9.9"})
    record(tmp_path, 500)
    (warning,) = caplog.messages
    assert f"torch 9.9 (was {torch.__version__})" in warning
    assert "commit bbbbbbb (was aaaaaaa)" in warning
    assert re.search(r"uncommitted changes provenance-.*\.diff \(was None\)", warning)


def test_an_entry_that_lacks_something_is_another(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "provenance.json").write_text('{"sessions": [{}]}')
    record(tmp_path, 500)
    assert len(json.loads((tmp_path / "provenance.json").read_text())["sessions"]) == 2
    (warning,) = caplog.messages
    assert "Python" in warning
    assert "(was None)" in warning


def test_what_cannot_be_read_or_written_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "provenance.json").write_text("{")
    record(tmp_path, 500)
    record(tmp_path / "gone")
    assert all("has no entry of this process" in message for message in caplog.messages)
    assert len(caplog.messages) == 2


class TestGit:
    """Against the real git."""

    @pytest.fixture
    def clone(self, tmp_path: Path) -> Path:
        root = tmp_path / "clone"
        code = root / "src" / "difftori"
        code.mkdir(parents=True)
        (code / "__init__.py").write_text("one\n")
        (root / ".gitignore").write_text("*.pyc\n")
        self.git(root, "init", "-q")
        self.git(root, "config", "diff.noprefix", "true")
        self.git(root, "add", ".")
        self.git(root, "commit", "-q", "-m", "first")
        return root

    def git(self, root: Path, *arguments: str) -> str:
        who = ("-c", "user.name=n", "-c", "user.email=e@example.org")
        command = ["git", "-C", str(root), *who, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def test_a_clean_clone(self, clone: Path) -> None:
        (clone / "src" / "ignored.pyc").touch()
        (clone / "logs").mkdir()
        (clone / "logs" / "notes.txt").touch()
        commit = self.git(clone, "rev-parse", "HEAD").strip()
        assert git_state(clone) == (commit, b"")

    def test_the_changes_make_the_code_again(self, clone: Path, tmp_path: Path) -> None:
        self.git(tmp_path, "clone", "-q", str(clone), str(tmp_path / "copy"))
        changes = {
            "src/difftori/__init__.py": b"two\n",
            "src/new file.py": b"new\n",
            "src/picture.bin": bytes(range(256)),
        }
        for name, content in changes.items():
            (clone / name).write_bytes(content)
        _, diff = git_state(clone)
        (tmp_path / "all.diff").write_bytes(diff)
        self.git(tmp_path / "copy", "apply", str(tmp_path / "all.diff"))
        for name, content in changes.items():
            assert (tmp_path / "copy" / name).read_bytes() == content

    def test_a_folder_that_is_no_clone_or_a_copy_in_another(self, clone: Path) -> None:
        assert git_state(clone.parent) == (None, b"")
        copy = clone / "vendored"
        (copy / "src" / "difftori").mkdir(parents=True)
        (copy / "src" / "difftori" / "__init__.py").touch()
        assert git_state(copy) == (None, b"")

    def test_without_git(self, clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", os.devnull)
        assert git_state(clone) == (None, b"")
