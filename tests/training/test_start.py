"""Whole runs: what they leave on disk, and that they can be resumed to the bit."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import pytest
import torch

from difftori import load_agent
from difftori.checkpoints.checkpoint import Checkpointer
from difftori.checkpoints.tree_file import load_tree
from difftori.config import ConfigError
from difftori.envs import ControlEnv
from difftori.model.world_model import WorldModel
from difftori.planning.actor import Actor
from difftori.process import RESUME_EXIT_CODE
from difftori.replay.buffer import ReplayBuffer
from difftori.training import scheduled_evaluation
from difftori.training.evaluation import Evaluation
from difftori.training.signals import StopSignals
from runs import POINT, fingerprint, records, run_debug, run_folder

MODES = ("default", "theseus_forward", "back_plan", "back_plan_per_step", "back_plan_replay")
EPISODE_ENV_STEPS = 128
"""of a debug episode of cartpole-swingup"""


@pytest.mark.parametrize("mode", MODES)
def test_a_debug_run_goes_through_every_phase(tmp_path: Path, mode: str) -> None:
    assert run_debug(tmp_path, f"mode={mode}") == 0
    folder = run_folder(tmp_path)
    train, evaluations = records(folder, "train"), records(folder, "eval")
    assert [r["env_step"] for r in train] == [EPISODE_ENV_STEPS * i for i in (1, 2, 3, 4)]
    later = "mppi" if mode == "default" else "trajectory"
    warm_up = "trajectory" if mode == "theseus_forward" else "mppi"
    assert [r["planner"] for r in train] == ["random", warm_up, later, later]
    assert [r["updates"] for r in train] == [0, 16, 16, 16]
    assert [r["env_step"] for r in evaluations] == [256, 512]
    assert ("grad_norm_a" in train[-1]) == mode.startswith("back_plan")
    assert train[-1]["horizon"] == 3
    lines = (folder / "eval.csv").read_text().splitlines()
    assert lines[0] == "env_step,episode_reward,episode_success"
    assert len(lines) == 3
    weights = torch.load(folder / "models" / "model.pt", weights_only=True)
    assert weights.keys() == {"model", "model_target"}
    assert all(torch.isfinite(tensor).all() for tensor in weights["model"].values())


def spy_on(
    monkeypatch: pytest.MonkeyPatch, owner: type, name: str, note: Callable[..., object]
) -> None:
    """Call ``note`` with the arguments of each call of a method."""
    method = getattr(owner, name)

    def watched(self: Any, *arguments: Any, **keys: Any) -> Any:
        note(*arguments, **keys)
        return method(self, *arguments, **keys)

    monkeypatch.setattr(owner, name, watched)


def test_what_a_run_hands_from_part_to_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs that are compared with each other could all lack it."""
    acted: list[tuple[bool, int]] = []
    observed: list[int] = []
    priorities: list[torch.Tensor] = []

    spy = partial(spy_on, monkeypatch)
    spy(Actor, "act", lambda obs, **how: acted.append((how["explore"], how["update_step"])))
    spy(WorldModel, "observe", lambda obs, reward: observed.append(len(obs)))
    spy(ReplayBuffer, "update_priorities", lambda index, new: priorities.append(new))
    assert run_debug(tmp_path, "mode=default") == 0
    training = [step for explore, step in acted if explore]
    # an update is of the agent step that brings it; the first planned episode has none before it
    assert training == [0] * 16 + [31] * 16 + [47] * 16
    assert len(acted) == len(training) + 2 * 16  # two evaluations, as batches
    assert observed == [17] * 4
    assert len(priorities) == 3 * 16
    assert all(len(new.unique()) > 1 for new in priorities)


@pytest.mark.parametrize("mode", ["back_plan_per_step", "back_plan_replay"])
def test_a_resumed_run_ends_in_the_same_bytes(tmp_path: Path, mode: str) -> None:
    whole, resumed, mode = tmp_path / "whole", tmp_path / "resumed", f"mode={mode}"
    assert run_debug(whole, mode) == 0
    assert run_debug(resumed, mode, f"train_steps={3 * EPISODE_ENV_STEPS}") == 0
    assert run_debug(resumed, mode) == 0
    assert fingerprint(run_folder(resumed)) == fingerprint(run_folder(whole))


def test_the_same_command_again_changes_nothing(tmp_path: Path) -> None:
    assert run_debug(tmp_path) == 0
    folder = run_folder(tmp_path)
    written = {path: path.stat().st_mtime_ns for path in folder.glob("*/*")}
    before, made_by = fingerprint(folder), (folder / "provenance.json").read_bytes()
    assert run_debug(tmp_path) == 0
    assert fingerprint(folder) == before
    assert (folder / "provenance.json").read_bytes() == made_by  # it trained nothing
    # so a full disk is no reason to fail
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*/*")} == written


def test_evaluation_does_not_disturb_training(tmp_path: Path) -> None:
    assert run_debug(tmp_path / "often") == 0
    assert run_debug(tmp_path / "never", "eval_freq=100000") == 0
    weights = [
        torch.load(run_folder(tmp_path / name) / "models" / "model.pt", weights_only=True)["model"]
        for name in ("often", "never")
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_updates_within_the_episode_are_as_many_as_at_its_end(tmp_path: Path) -> None:
    counts = []
    for within in ("true", "false"):
        folder = tmp_path / within
        words = ("mode=default", "updates_per_step=2", f"update_within_episode={within}")
        assert run_debug(folder, *words) == 0
        counts.append([r["updates"] for r in records(run_folder(folder), "train")])
        (last,) = sorted((run_folder(folder) / "checkpoints").glob("step_*"))[-1:]
        assert load_tree(last)["counters"]["update"] == 3 * 2 * 16
    assert counts == [[0, 32, 32, 32]] * 2


def test_an_episode_that_begins_at_random_stays_random(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``seed_steps`` falls into the second episode."""
    explored: list[bool] = []
    spy_on(monkeypatch, Actor, "act", lambda obs, **how: explored.append(how["explore"]))
    assert run_debug(tmp_path, "mode=default", "seed_steps=20") == 0
    train = records(run_folder(tmp_path), "train")
    assert [r["planner"] for r in train] == ["random", "random", "mppi", "mppi"]
    assert [r["updates"] for r in train] == [0, 0, 20, 16]
    assert sum(explored) == 2 * 16


def test_a_film_of_each_evaluation_and_the_best_agent_are_kept(tmp_path: Path) -> None:
    assert run_debug(tmp_path, "mode=default", "save_video=true", *POINT) == 0
    folder = run_folder(tmp_path)
    evaluations = records(folder, "eval")
    films = sorted((folder / "videos").iterdir())
    assert [film.name for film in films] == [f"eval_{r['env_step']:09d}.mp4" for r in evaluations]
    for film in films:
        with imageio.get_reader(film) as reader:
            assert sum(1 for _ in reader.iter_data()) == 17
    best = load_agent(folder, folder / "checkpoints" / "best.safetensors", "cpu")
    highest = max(evaluations, key=lambda r: r["episode_reward"])
    assert best.trained.env_step == highest["env_step"]


@pytest.mark.parametrize(("task", "at_random"), [("cartpole-swingup", 1), ("finger-spin", 3)])
def test_random_episodes_end_with_the_first_reward(
    tmp_path: Path, task: str, at_random: int
) -> None:
    """Nothing spins in a debug episode. The run stops after the first, and goes on."""
    words = ("mode=default", f"task={task}", "seed_steps=48", "seed_until_reward=true")
    assert run_debug(tmp_path, *words, "train_steps=32") == 0
    assert run_debug(tmp_path, *words) == 0
    train = records(run_folder(tmp_path), "train")
    assert [r["planner"] for r in train] == ["random"] * at_random + ["mppi"] * (4 - at_random)
    updates = [0] * at_random + [16 * at_random] + [16] * (3 - at_random)
    assert [r["updates"] for r in train] == updates


@pytest.mark.parametrize("optimizer", ["published", "trust_region"])
def test_a_plan_beyond_c_is_warned_of_once(
    tmp_path: Path, optimizer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """There the published optimizer's steps lower G; the trust region has no c."""
    assert (
        run_debug(
            tmp_path,
            "mode=theseus_forward",
            f"optimizer={optimizer}",
            "value_offset=-1000",
            "theseus_start_step=0",
        )
        == 0
    )
    warned = capsys.readouterr().err.count("has reached value_offset=-1000")
    assert warned == (optimizer == "published")


@pytest.mark.parametrize(
    ("task", "saw_reward"), [("cartpole-swingup", True), ("pendulum-swingup", False)]
)
def test_novelty_is_learned_from_until_rewards_differ(
    tmp_path: Path, task: str, saw_reward: bool
) -> None:
    """Where they differ in the first episode, the key changes nothing."""
    digits = []
    for novelty in ("true", "false"):
        folder, words = tmp_path / novelty, (f"task={task}", f"novelty_until_reward={novelty}")
        assert run_debug(folder, "mode=default", *words) == 0
        train = records(run_folder(folder), "train")
        assert [r["saw_reward"] for r in train] == [saw_reward] * 4
        digits.append([r.get("reward_loss") for r in train])
    assert (digits[0] == digits[1]) == saw_reward
    assert saw_reward or digits[1][1:] == [0.0] * 3


@pytest.mark.parametrize(
    "words",
    [["task=finger-turn-hard"], ["task=mw-bin-picking"], ["agent=tuned", "task=pendulum-swingup"]],
    ids=" ".join,
)
def test_a_signal_anywhere_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    """Stopped in the middle of an episode, of a block of updates and of an evaluation."""
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert run_debug(whole, *words) == 0
    for safe_points in (20, 16, 30):
        with monkeypatch.context() as patch:
            patch.setattr(StopSignals, "requested", _after(safe_points), raising=False)
            assert run_debug(stopped, *words) == RESUME_EXIT_CODE
    assert run_debug(stopped, *words) == 0
    assert fingerprint(run_folder(stopped)) == fingerprint(run_folder(whole))


def test_an_episode_that_an_environment_does_not_repeat_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("task=gym", "env_id=gymnasium_fakes:Unseeded-v0", "mode=default")
    words += ("max_failed_episodes=1",)
    with monkeypatch.context() as patch:
        patch.setattr(StopSignals, "requested", _after(6), raising=False)
        assert run_debug(tmp_path, *words) == RESUME_EXIT_CODE
    assert run_debug(tmp_path, *words) == 0
    assert records(run_folder(tmp_path), "train")[-1]["episodes_dropped"] == 1


def test_success_is_recorded_at_the_last_step_and_at_any(tmp_path: Path) -> None:
    assert run_debug(tmp_path, "task=mw-reach", "mode=default", "train_steps=64") == 0
    folder = run_folder(tmp_path)
    for record in records(folder, "train") + records(folder, "eval"):
        assert 0.0 <= record["episode_success"] <= record["episode_success_any"] <= 1.0
    (evaluation,) = records(folder, "eval")
    header, row = (folder / "eval.csv").read_text().splitlines()
    assert header == "env_step,episode_reward,episode_success"
    assert float(row.split(",")[2]) == evaluation["episode_success"]


def _after(count: int) -> property:
    """A ``requested`` that asks to stop when it is looked at for the ``count``-th time."""
    looks = 0

    def requested(self: StopSignals) -> str | None:
        nonlocal looks
        looks += 1
        return "SIGTERM" if looks >= count else None

    return property(requested, lambda self, value: None)


def test_an_existing_run_is_not_overwritten_by_accident(tmp_path: Path) -> None:
    one_episode = f"train_steps={EPISODE_ENV_STEPS}"
    assert run_debug(tmp_path, one_episode) == 0
    folder = run_folder(tmp_path)
    before = fingerprint(folder)
    overwriting = ("resume=false", "overwrite=true", "mlp_dim=48", one_episode)
    for refused in ("resume=false",), (*overwriting, "horizon=40"), (*overwriting, "start_from=no"):
        with pytest.raises(ConfigError):
            run_debug(tmp_path, *refused)
        assert fingerprint(folder) == before
    assert run_debug(tmp_path, *overwriting) == 0
    assert len(records(folder, "train")) == 1
    (last,) = (folder / "checkpoints").glob("step_*")
    assert load_tree(last)["config"]["mlp_dim"] == 48


def test_a_run_from_pixels(tmp_path: Path) -> None:
    assert run_debug(tmp_path, "modality=pixels", "eval_freq=100000") == 0
    (_, *_, last) = sorted((run_folder(tmp_path) / "checkpoints").glob("step_*"))
    assert load_tree(last)["counters"]["update"] == 48


@pytest.mark.parametrize("within", [False, True])
def test_the_plans_gradient_is_applied_where_updates_follow(tmp_path: Path, within: bool) -> None:
    """Within episodes it is that of the episode before; that of the last one is never applied."""
    assert run_debug(tmp_path, "mode=back_plan", f"update_within_episode={within}") == 0
    (*_, last) = sorted((run_folder(tmp_path) / "checkpoints").glob("step_*"))
    waiting = load_tree(last)["plan_gradient"]["gradient"]
    assert (waiting is not None) is within
    steps = [r for r in records(run_folder(tmp_path), "train") if "grad_norm_a" in r]
    assert [r["episode"] for r in steps] == ([4] if within else [3, 4])


def test_a_checkpoint_that_is_due_does_not_wait_for_the_episodes_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("agent=tuned", f"train_steps={2 * EPISODE_ENV_STEPS}")
    assert run_debug(tmp_path / "once", *words) == 0
    within: list[bool] = []

    def note(number: int, tree: Any, buffer: Any, **how: bool) -> None:
        within.append(tree["collector"]["open_episode"] is not None)

    spy_on(monkeypatch, Checkpointer, "save", note)
    assert run_debug(tmp_path / "often", *words, "save_every_minutes=1e-9") == 0
    assert sum(within) == 2 * 15  # after each step of both episodes but the last
    assert fingerprint(run_folder(tmp_path / "often")) == fingerprint(run_folder(tmp_path / "once"))


def test_no_worse_agent_takes_the_place_of_a_best_one_that_could_not_be_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rewards, best = iter([5.0, 1.0, 7.0, 2.0]), []

    def evaluate(actor: Actor, envs: Sequence[ControlEnv], **how: Any) -> Evaluation:
        return Evaluation((next(rewards),) * len(envs), (), (), (), 0)

    save = Checkpointer.save

    def full_at_first(self: Checkpointer, number: int, tree: Any, buffer: Any, **how: bool) -> bool:
        if how.get("best"):
            best.append(tree["counters"]["best_reward"])
        return best != [5.0] and save(self, number, tree, buffer, **how)

    monkeypatch.setattr(scheduled_evaluation, "evaluate", evaluate)
    monkeypatch.setattr(Checkpointer, "save", full_at_first)
    assert run_debug(tmp_path, "mode=default", f"eval_freq={EPISODE_ENV_STEPS}") == 0
    assert best == [5.0, 7.0]


class TestStartFrom:
    def test_goes_on_from_published_weights(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """TD-MPC's have no observation critics."""
        assert run_debug(tmp_path / "first") == 0
        path = run_folder(tmp_path / "first") / "models" / "model.pt"
        weights = torch.load(path, weights_only=True)
        for name, state in weights.items():
            weights[name] = {key: value for key, value in state.items() if "_s." not in key}
        tdmpc = tmp_path / "tdmpc.pt"
        torch.save(weights, tdmpc)
        for name, source in (("ours", path), ("tdmpc", tdmpc)):
            one_random_episode = f"train_steps={EPISODE_ENV_STEPS}"
            assert run_debug(tmp_path / name, f"start_from={source}", one_random_episode) == 0
            ours = run_folder(tmp_path / name) / "models" / "model.pt"
            assert_equal_weights(source, ours)
        assert capsys.readouterr().out.count("no observation critics") == 1

    def test_another_file_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "model.pt"
        path.write_bytes(b"not a checkpoint")
        with pytest.raises(ConfigError, match="not a file of weights"):
            run_debug(tmp_path, f"start_from={path}")

    def test_another_architecture_is_refused(self, tmp_path: Path) -> None:
        assert run_debug(tmp_path / "first", f"train_steps={EPISODE_ENV_STEPS}") == 0
        model = run_folder(tmp_path / "first") / "models" / "model.pt"
        with pytest.raises(ConfigError, match="size mismatch for"):
            run_debug(tmp_path / "second", f"start_from={model}", "mlp_dim=48")


def assert_equal_weights(first: Path, second: Path) -> None:
    one = torch.load(first, weights_only=True)
    other = torch.load(second, weights_only=True)
    for network, state in one.items():
        for name, tensor in state.items():
            assert torch.equal(tensor, other[network][name]), f"{network} {name}"

    def test_layer_norm_fits_only_a_model_that_has_it(self, tmp_path: Path) -> None:
        words = ("mode=default", f"train_steps={EPISODE_ENV_STEPS}")
        assert run_debug(tmp_path / "plain", *words) == 0
        assert run_debug(tmp_path / "norm", *words, "layer_norm=true") == 0
        plain, norm = (
            f"start_from={run_folder(tmp_path / name) / 'models' / 'model.pt'}"
            for name in ("plain", "norm")
        )
        assert run_debug(tmp_path / "again", *words, "layer_norm=true", norm) == 0
        with pytest.raises(ConfigError, match="size mismatch"):
            run_debug(tmp_path / "refused", *words, "layer_norm=true", plain)
