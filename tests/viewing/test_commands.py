"""evaluate.py and watch.py: the score, the mp4, the window."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from difftori.config import CONFIG_DIR, ConfigError
from difftori.viewing.options import ViewOptions
from difftori.viewing.score_run import score_run
from difftori.viewing.watch_run import watch_run
from difftori.viewing.window import Window
from runs import run_debug, run_folder

STEPS = 16
POINT = ("suite=integrator", "domain=point-2d", f"domain_task={STEPS}-steps", "action_repeat=1")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A finished run of a mode, from its name."""

    @functools.cache
    def folder(mode: str) -> Path:
        logs = tmp_path_factory.mktemp("logs")
        assert run_debug(logs, f"mode={mode}", *POINT) == 0
        return run_folder(logs)

    return folder


@pytest.fixture
def run(trained: Callable[[str], Path]) -> Path:
    return trained("back_plan")


def call(command: str, run: Path, **keys: Any) -> int:
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        overrides = [f"{key}={value}" for key, value in keys.items()]
        cfg = compose(command, [f"run={run}", "device=cpu", *overrides])
    return {"evaluate": score_run, "watch": watch_run}[command](cfg)


@pytest.mark.parametrize("mode", ["default", "back_plan"])
def test_being_watched_changes_nothing(
    trained: Callable[[str], Path], tmp_path: Path, mode: str
) -> None:
    run = trained(mode)
    rewards = []
    overlay = {"plan_overlay": "true", "video_size": 119}
    for name, keys in (("plain", {}), ("watched", overlay)):
        folder = tmp_path / name
        assert call("evaluate", run, output=folder, eval_episodes=2, **keys) == 0
        (file,) = folder.glob("*.json")
        rewards.append(json.loads(file.read_text())["episode_rewards"])
    assert rewards[0] == rewards[1]
    (video,) = (tmp_path / "watched").glob("*_plan.mp4")
    with imageio.get_reader(video) as reader:
        frames = [np.asarray(frame) for frame in reader.iter_data()]
    assert len(frames) == STEPS + 1
    assert frames[0].shape == (120, 120 + 94, 3)


def test_a_result_replaces_no_other(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = run / "models" / "model.pt"
    film = {"save_video": "true", "video_size": 96}
    for keys in (
        film,
        {**film, "plan_overlay": "true"},
        {"eval_episodes": 1},
        {"seed": 3},
        {"checkpoint": weights},
    ):
        asked = {"eval_episodes": 2, **keys}
        assert call("evaluate", run, output=tmp_path, **asked) == 0
        counted = "1 episode;" if "eval_episodes" in keys else "2 episodes;"
        assert f"over {counted}" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "model_2-episodes_seed-0.json",
        "step_000000064_1-episode_seed-0.json",
        "step_000000064_2-episodes_seed-0.json",
        "step_000000064_2-episodes_seed-0.mp4",
        "step_000000064_2-episodes_seed-0_plan.mp4",
        "step_000000064_2-episodes_seed-3.json",
    ]


def _record_frames(monkeypatch: pytest.MonkeyPatch, close_after: int = 0) -> list[np.ndarray]:
    """The frames that windows show from now on; they close after so many."""
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    shown: list[np.ndarray] = []

    def show(self: Window, frame: np.ndarray) -> None:
        shown.append(frame)
        self.closed = len(shown) == close_after

    monkeypatch.setattr(Window, "show", show)
    return shown


def test_a_window_shows_every_step(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = _record_frames(monkeypatch)
    keys = {"fps": 120, "video_size": 96}
    assert call("evaluate", run, output=tmp_path, eval_episodes=1, live="true", **keys) == 0
    assert len(shown) == STEPS + 1
    assert not list(tmp_path.glob("*.mp4"))
    assert call("watch", run, episodes=2, **keys) == 0
    assert len(shown) == 3 * (STEPS + 1)
    assert shown[-1].shape[1] > shown[0].shape[1]


def test_a_closed_window_ends_the_watching_and_not_the_scoring(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {"fps": 120, "video_size": 96}
    shown = _record_frames(monkeypatch, close_after=3)
    assert call("watch", run, **keys) == 0
    assert len(shown) == 3
    shown.clear()
    assert call("evaluate", run, output=tmp_path, eval_episodes=1, live="true", **keys) == 0
    assert len(shown) == 3
    assert len(list(tmp_path.glob("*.json"))) == 1


@pytest.mark.parametrize("command", ["evaluate", "watch"])
def test_without_a_display_a_video_is_offered(
    run: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    live = {"live": "true"} if command == "evaluate" else {}
    with pytest.raises(ConfigError, match=rf"no display.*evaluate.py run={run} save_video=true"):
        call(command, run, **live)


def test_a_video_that_cannot_be_written_loses_no_score(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("difftori.viewing.video._count_frames", lambda path: 4)
    assert call("evaluate", run, output=tmp_path, save_video="true", video_size=96) == 1
    assert f"the video was not written: ffmpeg wrote 4 of {STEPS + 1}" in capsys.readouterr().err
    assert [path.suffix for path in tmp_path.iterdir()] == [".json"]


def options(**keys: Any) -> ViewOptions:
    usual = dict.fromkeys(("checkpoint", "video_size", "fps", "threads"))
    fixed = {"run": "r", "seed": 0, "plan_overlay": False, "device": "cpu"}
    return ViewOptions.model_validate(usual | fixed | keys)


def test_a_video_runs_in_real_time() -> None:
    assert options().frame_rate(0.08) == 12.5
    assert options().frame_rate(None) == 25
    assert options().frame_rate(0.001) == 60
    assert options(fps=7).frame_rate(0.08) == 7


def test_a_picture_is_large_enough_to_look_at_and_even() -> None:
    assert options().frame_size == 480
    assert options(plan_overlay=True).frame_size == 720
    assert options(plan_overlay=True, video_size=99).frame_size == 100
