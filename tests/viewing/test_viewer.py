"""Scored episodes as others see them: the moments, the mp4, the window."""

import json
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from difftori.config import CONFIG_DIR, ConfigError
from difftori.training.evaluation import Moment
from difftori.viewing.score import score
from difftori.viewing.viewer import Viewer, film_fps, film_size
from difftori.viewing.watch import watch
from runs import run_debug, run_folder

STEPS = 16
POINT = ("suite=integrator", "domain=point-2d", f"domain_task={STEPS}-steps", "action_repeat=1")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose last episodes were planned by trajectory optimization."""
    return _trained(tmp_path_factory.mktemp("logs"), "mode=back_plan")


def _trained(log_dir: Path, mode: str) -> Path:
    assert run_debug(log_dir, mode, *POINT) == 0
    return run_folder(log_dir)


def call(command: str, run: Path, **keys: Any) -> int:
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        overrides = [f"{key}={value}" for key, value in keys.items()]
        cfg = compose(command, [f"run={run}", "device=cpu", *overrides])
    return {"evaluate": score, "watch": watch}[command](cfg)


def frames_of(path: Path) -> list[np.ndarray]:
    reader = imageio.get_reader(path)
    frames = [np.asarray(frame) for frame in reader.iter_data()]
    reader.close()
    return frames


@pytest.mark.parametrize("mode", ["default", "back_plan"])
def test_being_watched_changes_nothing(tmp_path: Path, mode: str) -> None:
    run = _trained(tmp_path / "logs", f"mode={mode}")
    rewards = []
    overlay = {"plan_overlay": "true", "video_size": 120}
    for name, keys in (("plain", {}), ("watched", overlay)):
        folder = tmp_path / name
        assert call("evaluate", run, output=folder, eval_episodes=2, **keys) == 0
        (file,) = folder.glob("*.json")
        rewards.append(json.loads(file.read_text())["episode_rewards"])
    assert rewards[0] == rewards[1]
    (video,) = (tmp_path / "watched").glob("*_plan.mp4")
    frames = frames_of(video)
    assert len(frames) == STEPS + 1
    assert frames[0].shape == (120, 120 + 94, 3)


def test_plain_and_overlaid_videos_stand_side_by_side(run: Path, tmp_path: Path) -> None:
    for overlay in ("false", "true"):
        keys = {"save_video": "true", "plan_overlay": overlay, "eval_episodes": 1}
        assert call("evaluate", run, output=tmp_path, video_size=96, **keys) == 0
    assert len(list(tmp_path.glob("*.mp4"))) == 2


def test_a_score_replaces_no_other(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = run / "models" / "model.pt"
    for keys in ({}, {"eval_episodes": 1}, {"seed": 3}, {"checkpoint": weights}):
        asked = {"eval_episodes": 2, **keys}
        assert call("evaluate", run, output=tmp_path, **asked) == 0
        counted = "1 episode;" if "eval_episodes" in keys else "2 episodes;"
        assert f"over {counted}" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "model_2-episodes_seed-0.json",
        "step_000000064_1-episode_seed-0.json",
        "step_000000064_2-episodes_seed-0.json",
        "step_000000064_2-episodes_seed-3.json",
    ]


@pytest.mark.parametrize("command", ["evaluate", "watch"])
def test_a_file_that_is_not_there_is_named(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("difftori.viewing.watch.require_window", lambda run: None)
    with pytest.raises(ConfigError, match=r"^run=nowhere does not exist$"):
        call(command, Path("nowhere"))
    with pytest.raises(ConfigError, match=r"^run=. is not a run's folder: config.yaml does not"):
        call(command, Path())
    for name in ("nope.pt", "nope.safetensors"):
        with pytest.raises(ConfigError, match=f"^checkpoint={name} does not exist$"):
            call(command, run, checkpoint=name)


def test_a_window_shows_every_step(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
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
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    shown = _record_frames(monkeypatch, close_after=3)
    keys = {"fps": 120, "video_size": 96}
    assert call("watch", run, **keys) == 0
    assert len(shown) == 3
    assert call("evaluate", run, output=tmp_path, eval_episodes=1, live="true", **keys) == 0
    assert len(list(tmp_path.glob("*.json"))) == 1


def _record_frames(monkeypatch: pytest.MonkeyPatch, close_after: int = 0) -> list[np.ndarray]:
    from difftori.viewing.window import Window

    shown: list[np.ndarray] = []

    def show(self: Window, frame: np.ndarray) -> None:
        shown.append(frame)
        self.closed = len(shown) == close_after

    monkeypatch.setattr(Window, "show", show)
    return shown


@pytest.mark.parametrize("command", ["evaluate", "watch"])
def test_without_a_display_a_video_is_offered(
    run: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("difftori.viewing.window.sys.platform", "linux")
    live = {"live": "true"} if command == "evaluate" else {}
    with pytest.raises(ConfigError, match=rf"no display.*evaluate.py run={run} save_video=true"):
        call(command, run, **live)


def test_a_failure_leaves_no_video(tmp_path: Path) -> None:
    def film(*sizes: int) -> None:
        video = tmp_path / "x.mp4"
        with Viewer(lambda moment: moment.frame, video=video, window=None, fps=10) as viewer:
            for size in sizes:
                viewer(Moment(0, np.zeros((size, size, 3), np.uint8), 0.0, None))

    with pytest.raises(ValueError, match="frame 2"):
        film(32, 34)
    assert list(tmp_path.iterdir()) == []


def test_an_episode_that_did_not_begin_has_no_video(tmp_path: Path) -> None:
    viewer = Viewer(lambda moment: moment.frame, video=tmp_path / "x.mp4", window=None, fps=10)
    with viewer:
        pass
    assert "no frames" in str(viewer.error)
    assert list(tmp_path.iterdir()) == []


def test_a_video_that_cannot_be_written_loses_no_score(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*arguments: object) -> None:
        raise OSError("No space left on device")

    for place in ("Mp4Writer.add", "_check"):
        with monkeypatch.context() as patch:
            patch.setattr(f"difftori.viewing.video.{place}", full)
            folder = tmp_path / place
            keys = {"save_video": "true", "video_size": 96, "eval_episodes": 1}
            assert call("evaluate", run, output=folder, **keys) == 1
        assert "the video was not written: No space left" in capsys.readouterr().err
        assert [path.suffix for path in folder.iterdir()] == [".json"]


def test_a_video_runs_in_real_time() -> None:
    assert film_fps(None, 0.08) == 12.5
    assert film_fps(None, None) == 25
    assert film_fps(None, 0.001) == 60
    assert film_fps(7.0, 0.08) == 7


def test_a_picture_is_large_enough_to_look_at() -> None:
    assert film_size(None, plan_overlay=False) == 480
    assert film_size(None, plan_overlay=True) == 720
    assert film_size(100, plan_overlay=True) == 100
