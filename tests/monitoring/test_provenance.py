"""Where a run comes from is written down, also of a run that others go on with."""

import json
import os
import subprocess
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch

from difftori.monitoring import provenance
from difftori.monitoring.console import ConsoleReporter
from difftori.monitoring.provenance import GitState, differences, git_state, record_session

CPU = torch.device("cpu")
CLEAN = GitState("a" * 40, False, None)


def record(folder: Path, env_step: int = 0) -> list[str]:
    """Add a session; the warnings."""
    err = StringIO()
    console = ConsoleReporter(StringIO(), err)
    record_session(folder, device=CPU, env_step=env_step, console=console)
    return err.getvalue().splitlines()


def sessions(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "provenance.json").read_text())["sessions"]
    return found


@pytest.fixture(autouse=True)
def git(monkeypatch: pytest.MonkeyPatch) -> list[GitState]:
    """What git is to say: the last of these."""
    states = [CLEAN]
    monkeypatch.setattr(provenance, "git_state", lambda root: states[-1])
    return states


def test_a_session_says_what_ran_where(tmp_path: Path) -> None:
    assert record(tmp_path) == []
    (session,) = sessions(tmp_path)
    assert isinstance(session["command"], list)
    assert all(isinstance(word, str) for word in session["command"])
    assert session["versions"]["torch"] == torch.__version__
    assert session["versions"]["theseus-ai"] == "0.2.3"
    assert "pytest" not in session["versions"]
    assert session["git_commit"] == "a" * 40
    assert session["git_dirty"] is False
    assert session["gpu"] is None
    assert session["env_step"] == 0
    for key in ("started_at", "python", "platform", "host", "cpu"):
        assert isinstance(session[key], str)
        assert session[key]


def test_sessions_are_added_and_changes_kept_once(tmp_path: Path, git: list[GitState]) -> None:
    for diff in (b"one", b"one", b"two", None, b"one"):
        git.append(GitState("a" * 40, diff is not None, diff))
        record(tmp_path)
    names = [session["git_diff"] for session in sessions(tmp_path)]
    one, two = "provenance.diff", "provenance-3.diff"
    assert names == [one, one, two, None, one]
    assert (tmp_path / one).read_bytes() == b"one"
    assert (tmp_path / two).read_bytes() == b"two"


def test_other_code_or_versions_are_one_warning(
    tmp_path: Path, git: list[GitState], monkeypatch: pytest.MonkeyPatch
) -> None:
    record(tmp_path)
    assert record(tmp_path, 500) == []
    git.append(GitState("b" * 40, False, None))
    monkeypatch.setattr(provenance, "installed_versions", lambda root: {"torch": "9.9"})
    for _ in range(2):  # compared with the beginning, not with the session before
        (warning,) = record(tmp_path, 500)
        assert f"torch {torch.__version__} (now 9.9)" in warning
        assert "commit aaaaaaa (now bbbbbbb)" in warning
    # a run without a checkpoint begins anew, so nothing of the old one is in it
    assert record(tmp_path, 0) == []
    assert record(tmp_path, 500) == []


def test_uncommitted_changes_are_noticed(tmp_path: Path, git: list[GitState]) -> None:
    record(tmp_path)
    git.append(GitState("a" * 40, True, b"change"))
    (warning,) = record(tmp_path, 500)
    assert "other uncommitted changes" in warning


def test_without_git_nothing_is_compared(tmp_path: Path, git: list[GitState]) -> None:
    record(tmp_path)
    git.append(GitState())
    assert record(tmp_path, 500) == []
    assert sessions(tmp_path)[-1]["git_dirty"] is None
    assert differences({}, {}) == []
    assert differences({"python": "3.11.1"}, {"python": "3.11.2"}) == ["Python 3.11.1 (now 3.11.2)"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"sessions": [1]}', '{"sessions": null}'])
def test_a_spoiled_file_is_put_aside(tmp_path: Path, text: str) -> None:
    (tmp_path / "provenance.json").write_text(text)
    (warning,) = record(tmp_path, 500)
    assert "cannot be read" in warning
    assert len(sessions(tmp_path)) == 1
    assert (tmp_path / "provenance.json.unreadable").read_text() == text


def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    (warning,) = record(tmp_path / "gone")
    assert "was not written" in warning


def test_changes_too_large_are_not_kept(
    tmp_path: Path, git: list[GitState], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "DIFF_LIMIT_BYTES", 3)
    git.append(GitState("a" * 40, True, b"much"))
    record(tmp_path)
    assert b"4 bytes of changes" in (tmp_path / "provenance.diff").read_bytes()


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
        assert git_state(clone) == GitState(commit, False, None)

    def test_the_changes_make_the_code_again(self, clone: Path, tmp_path: Path) -> None:
        self.git(tmp_path, "clone", "-q", str(clone), str(tmp_path / "copy"))
        changes = {
            "src/difftori/__init__.py": b"two\n",
            "src/new file.py": b"new\n",
            "src/picture.bin": bytes(range(256)),
        }
        for name, content in changes.items():
            (clone / name).write_bytes(content)
        state = git_state(clone)
        assert state.dirty is True
        assert state.diff is not None
        (tmp_path / "all.diff").write_bytes(state.diff)
        self.git(tmp_path / "copy", "apply", str(tmp_path / "all.diff"))
        for name, content in changes.items():
            assert (tmp_path / "copy" / name).read_bytes() == content

    def test_a_folder_that_is_no_clone(self, tmp_path: Path) -> None:
        assert git_state(tmp_path) == GitState()

    def test_a_copy_in_somebody_elses_clone(self, clone: Path) -> None:
        copy = clone / "vendored"
        (copy / "src" / "difftori").mkdir(parents=True)
        (copy / "src" / "difftori" / "__init__.py").touch()
        assert git_state(copy) == GitState()

    def test_a_clone_without_commits(self, tmp_path: Path) -> None:
        self.git(tmp_path, "init", "-q")
        assert git_state(tmp_path) == GitState()

    def test_without_git(self, clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", os.devnull)
        assert git_state(clone) == GitState()
