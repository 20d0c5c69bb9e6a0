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
from difftori.viewing.window import Window, WindowClosedError
from runs import run_debug, run_folder

STEPS = 8
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
    overlay = {"plan_overlay": "true", "video_size": 64}
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
    assert frames[0].shape == (64, 64 + 50, 3)


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
        assert f"over {asked['eval_episodes']} episodes;" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "model_2-episodes_seed-0.json",
        "step_000000064_1-episodes_seed-0.json",
        "step_000000064_2-episodes_seed-0.json",
        "step_000000064_2-episodes_seed-0.mp4",
        "step_000000064_2-episodes_seed-0_plan.mp4",
        "step_000000064_2-episodes_seed-3.json",
    ]


@pytest.mark.parametrize(("episodes", "close_after"), [("2", 99), ("null", 3)])
def test_a_window_shows_every_step_until_it_is_closed(
    run: Path, monkeypatch: pytest.MonkeyPatch, episodes: str, close_after: int
) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    shown: list[np.ndarray] = []

    def show(self: Window, frame: np.ndarray) -> None:
        shown.append(frame)
        if len(shown) == close_after:
            raise WindowClosedError

    monkeypatch.setattr(Window, "show", show)
    assert call("watch", run, episodes=episodes, video_size=96) == 0
    assert len(shown) == min(2 * (STEPS + 1), close_after)
    assert shown[0].shape[1] > 96


def test_a_video_that_cannot_be_written_loses_no_score(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("difftori.viewing.video._count_frames", lambda path: 4)
    assert call("evaluate", run, output=tmp_path, save_video="true", video_size=96) == 1
    assert f"does not hold all {STEPS + 1} frames" in capsys.readouterr().err
    assert [path.suffix for path in tmp_path.iterdir()] == [".json"]


def test_without_a_display_a_video_is_offered(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    with pytest.raises(ConfigError, match=rf"no display.*evaluate.py run={run} save_video=true"):
        call("watch", run)


def test_a_video_runs_in_real_time() -> None:
    keys = {"run": "r", "seed": 0, "plan_overlay": False, "video_size": 96, "device": "cpu"}
    unset = {"checkpoint": None, "fps": None}
    options = ViewOptions.model_validate(keys | unset)
    assert options.frame_rate(0.08) == 12.5
    assert options.frame_rate(None) == 25
    assert ViewOptions.model_validate(keys | unset | {"fps": 7}).frame_rate(0.08) == 7
