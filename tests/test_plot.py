"""The plot command as a user types it."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def plot(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "src/plot.py", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_missing_folder_is_one_line(tmp_path: Path) -> None:
    done = plot(f"{tmp_path}/nowhere", "--out", f"{tmp_path}/out")
    assert done.returncode == 2
    assert done.stderr == f"error: {tmp_path}/nowhere: no such folder\n"
    assert not (tmp_path / "out").exists()


def make_run(folder: Path, rows: str) -> None:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(
        "{task: cup-catch, modality: state, mode: default, exp_name: e, "
        f"seed: {folder.name}, suite: dmcontrol, train_steps: 20, eval_freq: 10}}"
    )
    (folder / "eval.csv").write_text(f"env_step,episode_reward,episode_success\n{rows}")


def test_published_curves_beside_runs_less_the_short_ones(tmp_path: Path) -> None:
    make_run(tmp_path / "logs/1", "10,5.0,\n20,7.0,\n")
    make_run(tmp_path / "logs/2", "10,5.0,\n")
    published = tmp_path / "published.csv"
    rows = [f"{name},cup-catch,state,{step},3" for name in ("A", "B1") for step in (10, 20)]
    published.write_text("\n".join(["method,task,modality,env_step,mean", *rows]) + "\n")
    options = ("--drop-short", "--published", f"{published}", "--published-methods", "B*")
    done = plot(f"{tmp_path}/logs", "--out", f"{tmp_path}/out", *options)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "out/returns-dmcontrol-state.md").read_text()
    assert "B1 (published)" in page
    assert "A (published)" not in page
    assert "| cup-catch | 20 | 7 | 3 |" in page


def test_pictures_and_tables_are_written_and_named(tmp_path: Path) -> None:
    folder = tmp_path / "1"
    make_run(folder, "10,5.0,\n20,7.0,\n")
    options = ("--metric", "iqm", "--at", "15,9k")
    done = plot(f"our arm={folder}", "--out", f"{tmp_path}/out", *options)
    assert done.returncode == 0, done.stderr
    page = tmp_path / "out/returns-dmcontrol-state.md"
    assert str(page) in done.stdout.splitlines()
    assert "| task | env_step | our arm |" in page.read_text()
    assert "| cup-catch | 15 | 6 |" in page.read_text()


def test_a_word_that_is_no_number_of_steps_is_refused(tmp_path: Path) -> None:
    done = plot(f"{tmp_path}", "--at", "soon,inf")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: argument --at: expected env steps like 20k,50k")
