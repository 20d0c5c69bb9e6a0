import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from builders import random_batch, tiny_config, tiny_model
from difftori.config import Config
from difftori.learning.finite import NotFiniteError
from difftori.learning.learner import Learner
from difftori.model import augment
from difftori.model.world_model import WorldModel

STILL = {"min_std": 0.0, "std_schedule": 0.05}
"""no noise in the targets' actions"""


def new_learner(model: WorldModel, config: Config, max_nonfinite: int = 3) -> Learner:
    generator = torch.Generator().manual_seed(0)
    return Learner(model, config.learner, generator=generator, max_nonfinite=max_nonfinite)


def snapshot(model: WorldModel) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def moved(before: dict[str, Tensor], model: WorldModel) -> set[str]:
    """Networks of which any parameter moved."""
    after = model.state_dict()
    return {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}


NETWORKS = {"_encoder", "_dynamics", "_reward", "_pi", "_Q1", "_Q2", "_Q1_s", "_Q2_s"}


@pytest.mark.parametrize("modality", ["state", "pixels"])
def test_an_update_moves_every_network(modality: str) -> None:
    config = tiny_config("mode=default", f"modality={modality}", batch_size=4)
    model = tiny_model(config)
    learner = new_learner(model, config)
    before, target_before = snapshot(model), snapshot(learner.target)
    result = learner.update(random_batch(modality=modality), step=1)
    assert moved(before, model) == NETWORKS
    assert moved(target_before, learner.target) == set()
    assert result.finite
    assert result.priority.shape == (4,)
    assert all(value.isfinite() for value in result.losses.values())
    assert result.losses.keys() == {
        "consistency_loss",
        "reward_loss",
        "value_loss",
        "value_s_loss",
        "total_loss",
        "weighted_loss",
        "grad_norm",
        "pi_loss",
    }


def test_the_step_size_follows_its_schedule(model: WorldModel) -> None:
    """Adam's first step has the size of the learning rate, whatever the gradient."""
    for step, size in ((0, 1e-2), (50, 6e-3), (1000, 2e-3)):
        config = tiny_config(lr="linear(1e-2, 2e-3, 100)", **STILL)
        learner, before = new_learner(model, config), snapshot(model)
        learner.update(random_batch(), step)
        moves = [(before[n] - value).abs().max() for n, value in model.state_dict().items()]
        assert max(moves).item() == pytest.approx(size, rel=1e-3)


@pytest.mark.parametrize("update_freq", [1, 2, 3])
def test_targets_move_by_tau_at_multiples_of_update_freq(update_freq: int) -> None:
    config = tiny_config(update_freq=update_freq, tau=0.25)
    model = tiny_model(config)
    learner = new_learner(model, config)
    for step in range(7):
        before = snapshot(learner.target)
        learner.update(random_batch(seed=step), step)
        online = model.state_dict()
        for name, value in learner.target.state_dict().items():
            expected = before[name]
            if step % update_freq == 0:
                expected = 0.75 * before[name] + 0.25 * online[name]
            torch.testing.assert_close(value, expected)


def test_the_policy_step_moves_the_policy_alone(model: WorldModel, config: Config) -> None:
    learner, before = new_learner(model, config), snapshot(model)
    latents = model.encode(random_batch().obs).detach().unsqueeze(0)
    learner._update_policy(latents, None, 1e-3)
    assert moved(before, model) == {"_pi"}
    assert all(p.grad is None for p in model.parameters())


def test_the_model_step_leaves_the_policy(
    model: WorldModel, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner, before = new_learner(model, config), snapshot(model)
    monkeypatch.setattr(learner, "_update_policy", lambda *_: torch.zeros(()))
    learner.update(random_batch(), step=1)
    assert moved(before, model) == NETWORKS - {"_pi"}


def test_the_policy_learns_to_raise_the_critics_value() -> None:
    config = tiny_config(**STILL)
    model = tiny_model(config)
    learner = new_learner(model, config)
    latents = model.encode(random_batch(size=16).obs).detach().unsqueeze(0)
    losses = [learner._update_policy(latents, None, 1e-3).item() for _ in range(50)]
    assert losses[-1] < losses[0] - 0.01


def test_repeated_updates_on_one_batch_lower_its_losses() -> None:
    config = tiny_config(**STILL)
    learner, batch = new_learner(tiny_model(config), config), random_batch()
    metrics = [learner.update(batch, step).losses for step in range(60)]
    for name in ("consistency_loss", "reward_loss", "value_loss", "value_s_loss"):
        assert metrics[-1][name] < 0.7 * metrics[0][name], name


def test_the_gradient_is_scaled_by_the_horizon(config: Config) -> None:
    """The same loss; its gradient's norm goes with 1/H."""
    norms, losses = [], []
    for horizon in (3, 6):
        learner = new_learner(tiny_model(config), tiny_config(**STILL, horizon=horizon))
        metrics = learner.update(random_batch(horizon=3), step=1).losses
        norms.append(metrics["grad_norm"].item())
        losses.append(metrics["weighted_loss"].item())
    assert losses[0] == losses[1]
    assert norms[0] == pytest.approx(2 * norms[1], rel=1e-5)


def test_coefficients_come_from_the_config(model: WorldModel) -> None:
    config = tiny_config(consistency_coef=3.0, reward_coef=5.0, value_coef=7.0, **STILL)
    metrics = new_learner(model, config).update(random_batch(), step=1).losses
    total = 3 * metrics["consistency_loss"] + 5 * metrics["reward_loss"]
    total += 7 * (metrics["value_loss"] + metrics["value_s_loss"])
    torch.testing.assert_close(metrics["total_loss"], total)


@pytest.mark.parametrize("key", ["discount", "rho", "target_spread"])
def test_keys_of_the_model_loss_come_from_the_config(key: str) -> None:
    losses = []
    for value in (0.5, 0.75):
        config = tiny_config(**STILL, **{key: value})
        learner = new_learner(tiny_model(config), config)
        losses.append(learner.update(random_batch(), step=1).losses["weighted_loss"])
    assert losses[0] != losses[1]


@pytest.mark.parametrize("field", ["reward", "obs", "next_obs", "action", "weight"])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_batch_that_is_not_finite_changes_nothing(
    model: WorldModel, config: Config, field: str, bad: float
) -> None:
    learner = new_learner(model, config)
    learner.update(random_batch(), step=1)
    before, target, state = snapshot(model), snapshot(learner.target), learner.state_dict()
    kept = copy.deepcopy({k: state[k] for k in ("model_optimizer", "policy_optimizer")})
    batch = random_batch()
    spoiled = getattr(batch, field).clone()
    spoiled.view(-1)[1] = bad
    result = learner.update(replace(batch, **{field: spoiled}), step=2)
    if field == "reward" and bad == torch.inf:
        # The infinite loss is clamped, and a clamped loss has no gradient.
        assert all(p.isfinite().all() for p in model.parameters())
        return
    assert not result.finite
    assert moved(before, model) == set()
    assert moved(target, learner.target) == set()
    for name, moments in kept.items():
        torch.testing.assert_close(learner.state_dict()[name], moments, rtol=0, atol=0)
    assert learner.nonfinite.total == 1


def test_stops_after_so_many_in_a_row_and_names_the_loss(model: WorldModel, config: Config) -> None:
    learner, batch = new_learner(model, config, max_nonfinite=3), random_batch()
    spoiled = replace(batch, reward=batch.reward * torch.nan)
    for b in (spoiled, spoiled, batch, spoiled, spoiled):
        learner.update(b, step=1)
    with pytest.raises(NotFiniteError, match=r"3 times in a row.*reward_loss"):
        learner.update(spoiled, step=1)
    assert learner.nonfinite.total == 5


def test_a_policy_gradient_that_is_not_finite_is_dropped_and_counted(
    model: WorldModel, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner, before = new_learner(model, config), snapshot(model)
    original = learner._policy_loss
    monkeypatch.setattr(learner, "_policy_loss", lambda *args: original(*args) * torch.nan)
    result = learner.update(random_batch(), step=1)
    assert moved(before, model) == NETWORKS - {"_pi"}
    assert result.finite
    assert not result.losses["pi_loss"].isfinite()
    assert learner.nonfinite.total == 1


def test_resumes_bit_for_bit(config: Config) -> None:
    first_model, second_model = tiny_model(config), tiny_model(config, seed=5)
    first, second = new_learner(first_model, config), new_learner(second_model, config)
    for step in range(3):
        first.update(random_batch(seed=step), step)
    first.nonfinite.seen(finite=False)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    second_model.load_state_dict(first_model.state_dict())
    second._generator.set_state(first._generator.get_state())
    assert second.nonfinite == first.nonfinite
    for step in range(3, 6):
        for learner in (first, second):
            learner.update(random_batch(seed=step), step)
    assert moved(snapshot(first_model), second_model) == set()
    assert moved(snapshot(first.target), second.target) == set()


@pytest.mark.parametrize("kind", ["shift", "kornia", "none"])
def test_each_observation_is_augmented_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config("mode=default", "modality=pixels", batch_size=2, augmentation=kind)
    learner = new_learner(tiny_model(config), config)
    batch = random_batch(size=2, horizon=2, modality="pixels")
    augmented = learner._augmented(batch)
    same = True
    for name in ("obs", "next_obs"):
        one, other = getattr(augmented, name), getattr(batch, name)
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        same = same and torch.equal(one, other)
    assert same == (kind == "none")


def test_images_are_shifted_before_what_a_gpu_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kornia reads on the CPU where to crop, which no recording can hold."""
    config = tiny_config("mode=default", "modality=pixels", batch_size=2, augmentation="kornia")
    learner = new_learner(tiny_model(config), config)
    order = []
    shift, step = augment.SHIFTS["kornia"], learner._recorded_step

    def seen_shift(*args: Any) -> Any:
        order.append("shift")
        return shift(*args)

    def seen_step(*args: Any) -> Any:
        order.append("begin")
        result = step(*args)
        order.append("end")
        return result

    monkeypatch.setitem(augment.SHIFTS, "kornia", seen_shift)
    monkeypatch.setattr(learner, "_recorded_step", seen_step)
    learner.update(random_batch(size=2, horizon=2, modality="pixels"), step=1)
    assert order == ["shift", "begin", "end"]
