"""Versions against the pins."""

from importlib import metadata
from pathlib import Path

import pytest

from difftori.doctor import packages


def fake_versions(monkeypatch: pytest.MonkeyPatch, **changes: str | None) -> None:
    """What is installed is as pinned, but for ``changes``; None is missing."""
    pinned = {name: version for file in FILES for name, version in packages.pins(file).items()}

    def version(name: str) -> str:
        found = {**pinned, **changes}[name]
        if found is None:
            raise metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(metadata, "version", version)


FILES = (*packages.NEEDED_FILES, packages.TEST_FILE)


def test_all_as_pinned_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_versions(monkeypatch, torch=packages.pins("requirements.txt")["torch"] + "+cpu")
    (finding,) = packages.versions()
    assert finding.verdict == "ok"
    assert packages.python().verdict == "ok"


def test_each_deviation_is_a_line_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned = packages.pins("requirements.txt")["torch"]
    fake_versions(monkeypatch, **{"torch": "1.0.0", "wandb": None, "theseus-ai": None})
    torch, wandb, theseus = packages.versions()
    assert (torch.verdict, torch.remedy) == ("fix", f"pip install torch=={pinned}")
    assert "1.0.0" in torch.text
    assert "wandb is missing" in wandb.text
    assert theseus.remedy == "make setup"


def test_what_only_tests_need_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_versions(monkeypatch, ruff=None)
    verdicts = [finding.verdict for finding in packages.versions()]
    assert verdicts == ["ok", "note"]


def test_a_package_that_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "IMPORTED", ("json", "no_such_package"))
    (finding,) = packages.imports()
    assert finding.verdict == "fix"
    assert "no_such_package does not load: ModuleNotFoundError" in finding.text


def test_a_package_that_ends_the_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "crashing.py").write_text("import os\nos._exit(139)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(packages, "IMPORTED", ("json", "crashing", "math"))
    (finding,) = packages.imports()
    assert "crashing does not load: exit code 139" in finding.text
