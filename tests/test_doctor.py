"""What doctor.py says of machines that lack something."""

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from difftori import doctor
from difftori.config import compose
from runs import POINT, run_debug

ROOT = Path(__file__).resolve().parents[1]
# a broken package raises whatever it likes when it is imported
HIDE = """
import os, sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["HIDDEN"]:
            raise OSError(f"lib{name}.so: cannot open shared object file")
sys.meta_path.insert(0, Hide())
"""


def lines(capsys: pytest.CaptureFixture[str]) -> dict[str, tuple[str, str]]:
    """Verdict and text of each line, by its name."""
    rows = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    return {rest[:12].strip(): (verdict, rest[13:]) for verdict, rest in rows}


@pytest.mark.parametrize("mode", ["default", "back_plan_per_step", "back_plan_replay"])
def test_a_machine_that_has_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: str
) -> None:
    assert doctor.examine(["preset=debug", f"mode={mode}", f"log_dir={tmp_path}", *POINT]) == 0
    found = lines(capsys)
    assert found["disk"][0] == "ok"
    assert "64 env steps take about" in found["time"][1]
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_has_read_enough() -> None:
    with subprocess.Popen(
        [sys.executable, "src/doctor.py", "preset=debug"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


@pytest.mark.parametrize("hidden", ["torch", "hydra"])
def test_a_package_that_does_not_load_is_a_line(tmp_path: Path, hidden: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(HIDE)
    done = subprocess.run(
        [sys.executable, "src/doctor.py", "preset=debug"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "HIDDEN": hidden},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1, done.stderr
    assert f"imports      OSError: lib{hidden}.so: cannot open" in done.stdout
    assert "Traceback" not in done.stderr


def test_each_package_that_is_not_as_pinned_is_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name == "theseus-ai":
            raise metadata.PackageNotFoundError(name)
        return "1.0.0" if name == "torch" else real(name)

    monkeypatch.setattr(metadata, "version", version)
    report = doctor.Report()
    doctor.check_packages(report)
    printed = capsys.readouterr().out
    assert report.fixes == 2
    assert "torch is 1.0.0, 2." in printed
    assert "theseus-ai is missing" in printed


@pytest.mark.parametrize(("modality", "verdict"), [("pixels", "fix"), ("state", "note")])
def test_no_renderer(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    modality: str,
    verdict: str,
) -> None:
    monkeypatch.setenv("MUJOCO_GL", "disabled")
    report = doctor.Report()
    config = compose("preset=debug", f"modality={modality}")
    assert doctor.check_rendering(config, report) == (modality == "state")
    assert lines(capsys)["rendering"][0] == verdict


def test_an_environment_that_draws_by_itself_needs_no_renderer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MUJOCO_GL", "disabled")
    config = compose("preset=debug", "task=gym-pendulum", "modality=pixels")
    assert doctor.check_rendering(config, doctor.Report())
    assert lines(capsys)["rendering"][0] == "ok"


def test_too_little_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("difftori.training.resources.available_memory", lambda device: 1000)
    assert doctor.examine(["preset=debug", f"log_dir={tmp_path}", *POINT]) == 1
    verdict, text = lines(capsys)["run"]
    assert verdict == "fix"
    assert "the replay buffer needs" in text


def test_too_little_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = SimpleNamespace(free=10)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: usage)
    assert doctor.examine(["preset=debug", f"log_dir={tmp_path}", *POINT]) == 1
    assert lines(capsys)["disk"][0] == "fix"


@pytest.fixture(scope="module")
def log_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run that is complete."""
    folder = tmp_path_factory.mktemp("logs")
    assert run_debug(folder, *POINT) == 0
    return folder


@pytest.mark.parametrize(
    ("keys", "verdict", "says"),
    [
        (("train_steps=96", "device=cpu"), "ok", "resume"),
        (("lr=0.5",), "fix", "other settings: lr"),
        (("lr=0.5", "exp_name=other"), "ok", "free"),
        (("resume=false",), "fix", "another exp_name"),
        (("lr=0.5", "resume=false", "overwrite=true"), "note", "overwrite"),
        (("exp_name=killed",), "ok", "free"),
    ],
)
def test_a_run_that_is_there(
    log_dir: Path,
    capsys: pytest.CaptureFixture[str],
    keys: tuple[str, ...],
    verdict: str,
    says: str,
) -> None:
    config = compose("preset=debug", f"log_dir={log_dir}", *POINT, *keys)
    if config.run.exp_name == "killed":  # before its first checkpoint
        (config.run.folder / "checkpoints" / "episodes").mkdir(parents=True)
    report = doctor.Report()
    doctor.check_folder(config, report)
    found = lines(capsys)["run folder"]
    assert found[0] == verdict
    assert says in found[1]


def test_a_file_where_the_run_folder_should_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "logs"
    file.touch()
    assert doctor.examine(["preset=debug", f"log_dir={file}", *POINT]) == 1
    verdict, text = lines(capsys)["run folder"]
    assert verdict == "fix"
    assert f"{file} is no folder" in text


def test_a_folder_that_may_not_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: mode == os.F_OK)
    report = doctor.Report()
    doctor.check_folder(compose("preset=debug", f"log_dir={tmp_path}", *POINT), report)
    assert lines(capsys)["run folder"][0] == "fix"


def test_an_environment_of_one_step_and_a_folder_of_that_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one_step = (*POINT[:2], "domain_task=1-steps", "action_repeat=1", "episodic=true")
    words = ["preset=debug", "mode=default", f"log_dir={tmp_path}", "exp_name=speed"]
    assert doctor.examine([*words, *one_step]) == 0
    assert "64 env steps take about" in lines(capsys)["time"][1]


def test_many_runs_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        doctor.examine(["-m", "seed=1,2"])
    assert capsys.readouterr().err == "error: -m: give the words of one run\n"
