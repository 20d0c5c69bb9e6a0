"""The example of ``docs/your-environment.md``, run as a user runs it, outside the repository."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"


def run(folder: Path, *command: str) -> str:
    """In ``folder``, where nothing of this project is but what is named."""
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_from_thirty_lines_to_an_agent_a_video_a_plot_and_a_loop(tmp_path: Path) -> None:
    for name in ("soft_landing.py", "fly.py"):
        (tmp_path / name).write_bytes((EXAMPLES / name).read_bytes())
    src = ROOT / "src"
    words = ("task=gym", "env_id=soft_landing:SoftLanding-v0", "preset=debug")
    assert "done: " in run(tmp_path, str(src / "train.py"), *words)
    (logs,) = (tmp_path / "logs").glob("soft_landing-SoftLanding-v0/state/back_plan/default/1")
    evaluate = ("evaluate.py", f"run={logs}", "save_video=true", "eval_episodes=2")
    assert "video: " in run(tmp_path, str(src / evaluate[0]), *evaluate[1:])
    (video,) = (logs / "evaluation").glob("*.mp4")
    assert video.stat().st_size > 1000
    assert "curves-gymnasium-state.png" in run(tmp_path, str(src / "plot.py"), "logs")
    lines = run(tmp_path, "fly.py", str(logs)).splitlines()
    assert len(lines) == 5
    assert all(re.match(r"episode \d: return -?\d+\.\d+, soft landing: ", line) for line in lines)
