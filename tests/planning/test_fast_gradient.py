"""The written-out gradient against autograd's, and when it steps aside."""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from builders import generators, random_batch, random_obs, tiny_config, tiny_model, tiny_spec
from difftori.compiling.compiler import EAGER
from difftori.learning.losses import model_loss
from difftori.model.world_model import WorldModel
from difftori.planning import tape
from difftori.planning.fast_gradient import discounts, gradient_function, return_and_gradient
from difftori.planning.mppi import MppiPlanner
from difftori.planning.returns import plan_return
from difftori.planning.trajectory import TrajectoryPlanner

DISCOUNT = 0.97


def double_model(
    seed: int, action_dim: int = 2, *, can_terminate: bool = False, layer_norm: bool = False
) -> WorldModel:
    spec = replace(tiny_spec(action_dim=action_dim), can_terminate=can_terminate)
    model = tiny_model(tiny_config(layer_norm=layer_norm), spec, seed)
    if can_terminate:
        torch.nn.init.normal_(model._termination[-1].weight)
        torch.nn.init.normal_(model._termination[-1].bias)
    return model.double()


episodic = pytest.mark.parametrize("can_terminate", [False, True], ids=["endless", "episodic"])


def by_adjoint(
    model: WorldModel, z: Tensor, actions: Tensor, spread: float = 0.0
) -> tuple[Tensor, Tensor]:
    weights = discounts(DISCOUNT, len(actions), z)
    return return_and_gradient(model, z, actions, DISCOUNT, weights, spread)


def by_autograd(
    model: WorldModel, z: Tensor, actions: Tensor, spread: float = 0.0
) -> tuple[Tensor, Tensor]:
    G = plan_return(model, z, actions, DISCOUNT, spread=spread)
    (gradient,) = torch.autograd.grad(G.sum(), actions, create_graph=True)
    return G, gradient


@pytest.mark.parametrize("spread", [-0.2, 0.5, 0.8])
def test_knows_layer_norm_and_the_critics_spread(spread: float) -> None:
    model = double_model(seed=4, layer_norm=True)
    z = torch.randn(3, 6, dtype=torch.float64)
    actions = torch.randn(3, 3, 2, dtype=torch.float64).requires_grad_()
    ours, theirs = by_adjoint(model, z, actions, spread), by_autograd(model, z, actions, spread)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    assert not torch.allclose(ours[0], by_adjoint(model, z, actions)[0])


@pytest.mark.parametrize("horizon", [1, 2, 5])
@pytest.mark.parametrize(("batch", "action_dim"), [(1, 2), (3, 1)])
@episodic
def test_equals_autograd(horizon: int, batch: int, action_dim: int, can_terminate: bool) -> None:
    model = double_model(seed=horizon, action_dim=action_dim, can_terminate=can_terminate)
    z = torch.randn(batch, 6, dtype=torch.float64)
    actions = torch.randn(horizon, batch, action_dim, dtype=torch.float64).requires_grad_()
    for ours, theirs in zip(
        by_adjoint(model, z, actions), by_autograd(model, z, actions), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("equal_critics", [False, True])
@episodic
def test_its_own_derivative_equals_autograds(equal_critics: bool, can_terminate: bool) -> None:
    """Equal critics share the slope of their minimum."""
    model = double_model(seed=3, can_terminate=can_terminate)
    if equal_critics:
        model._Q2.load_state_dict(model._Q1.state_dict())
    z = torch.randn(2, 6, dtype=torch.float64).requires_grad_()
    actions = torch.randn(4, 2, 2, dtype=torch.float64).requires_grad_()
    wanted = [z, actions, *model.plan_parameters()]
    direction = torch.randn(4, 2, 2, dtype=torch.float64)
    derivatives = []
    for function in (by_adjoint, by_autograd):
        G, gradient = function(model, z, actions)
        scalar = (gradient * direction).sum() + G.square().sum()
        derivatives.append(torch.autograd.grad(scalar, wanted, materialize_grads=True))
    for ours, theirs in zip(*derivatives, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    assert any(part.abs().max() > 1e-3 for part in derivatives[0])


class NoCopies(TorchFunctionMode):
    """Refuses tensors made of numbers, each a copy that waits for a GPU."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: Any = None
    ) -> Any:
        assert func not in (torch.tensor, torch.as_tensor), args
        return func(*args, **(kwargs or {}))


def test_iterations_make_no_tensors_of_numbers() -> None:
    config = tiny_config().trajectory
    function = gradient_function(tiny_model(tiny_config()), config, EAGER)
    assert function is not None
    flat, z = torch.zeros(1, 6), torch.zeros(1, 6)
    function(flat, z)
    with NoCopies():
        function(flat, z)


# Where it steps aside


def insert(model: WorldModel, network: str, position: int, *layers: nn.Module) -> None:
    for layer in reversed(layers):
        getattr(model, network).insert(position, layer.double())


class Residual(WorldModel):
    """z' = z + d(z, a)."""

    def next_latent(self, z: Tensor, action: Tensor) -> Tensor:
        return z + super().next_latent(z, action)


def edited_class(model: WorldModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """As someone edits ``WorldModel`` itself."""
    plain = WorldModel.reward
    monkeypatch.setattr(WorldModel, "reward", lambda *args: torch.tanh(plain(*args)))


def hooked(model: WorldModel, monkeypatch: pytest.MonkeyPatch) -> None:
    model._dynamics[1].register_forward_hook(lambda layer, args, output: 2 * output)


CHANGES: dict[str, tuple[Callable[..., object], str | None]] = {
    "a known pair": (
        lambda m, _: insert(m, "_dynamics", 2, nn.Linear(16, 16), nn.ELU()),
        None,
    ),
    "a known norm": (lambda m, _: insert(m, "_dynamics", 1, nn.LayerNorm(16)), None),
    "a norm at the end": (lambda m, _: insert(m, "_dynamics", 5, nn.LayerNorm(6)), None),
    "another activation": (
        lambda m, _: insert(m, "_dynamics", 1, nn.SiLU()),
        "a SiLU, whose derivative",
    ),
    "another ELU": (lambda m, _: insert(m, "_reward", 1, nn.ELU(0.5)), "what the model computes"),
    "a plain norm": (
        lambda m, _: insert(m, "_Q2", 1, nn.LayerNorm(16, elementwise_affine=False)),
        None,
    ),
    "a norm first": (lambda m, _: insert(m, "_dynamics", 0, nn.LayerNorm(8)), "first layer"),
    "a hook": (hooked, "what the model computes"),
    "another class": (lambda m, _: setattr(m, "__class__", Residual), "a Residual"),
    "an edited class": (edited_class, "what the model computes"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_losses_and_both_planners_agree_on_a_changed_model(
    change: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    edit, reason = CHANGES[change]
    model = double_model(seed=1)
    edit(model, monkeypatch)
    config, obs = tiny_config(min_std=0.0, std_schedule=0.05), random_obs(3)
    z = model.encode(obs)

    with caplog.at_level(logging.INFO, logger="difftori"):
        planner = TrajectoryPlanner(model, config.trajectory)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == (reason is not None)
    assert reason is None or reason in lines[0]

    arguments = {"horizon": 3, "explore": False, "generators": generators(3)}
    optimized = planner.plan(obs, **arguments, differentiate=True)
    exact = TrajectoryPlanner(model, tiny_config(gradient="autograd").trajectory).plan(
        obs, **arguments, differentiate=True
    )
    torch.testing.assert_close(
        optimized.differentiable_action, exact.differentiable_action, rtol=0, atol=1e-9
    )
    sampled = MppiPlanner(model, config.mppi).plan(
        obs, **arguments, std_floor=0.05, carry=None, score_means=True
    )
    for plan, stat in ((optimized, "plan_return_after"), (sampled, "mean_return_after")):
        expected = step_by_step(model, z, plan.actions.clamp(-1, 1))[0]
        torch.testing.assert_close(plan.stats[stat], expected, rtol=0, atol=1e-6)


def step_by_step(model: WorldModel, z: Tensor, actions: Tensor) -> tuple[Tensor, list[Tensor]]:
    """G and the latents, one step after the other, by the model's own methods."""
    G, latents = torch.zeros(len(z), 1), [z]
    for t, action in enumerate(actions):
        G = G + 0.99**t * model.reward(latents[-1], action)
        latents.append(model.next_latent(latents[-1], action))
    value = torch.minimum(*model.q(latents[-1], model.policy(latents[-1])))
    return (G + 0.99 ** len(actions) * value).detach().squeeze(1), latents


def test_losses_roll_out_an_added_layer_too() -> None:
    model, batch = tiny_model(tiny_config()), random_batch()
    model._dynamics.insert(1, nn.LayerNorm(16))
    names = ("consistency_loss", "reward_loss", "value_loss", "value_s_loss")
    loss = model_loss(
        model,
        model.target_copy(),
        batch,
        None,
        discount=0.99,
        rho=0.5,
        coefficients=dict.fromkeys(names, 1.0),
    )
    _, latents = step_by_step(model, model.encode(batch.obs), batch.action)
    torch.testing.assert_close(loss.latents, torch.stack(latents).detach())


def test_autograd_is_taken_where_it_is_asked_for() -> None:
    model = tiny_model(tiny_config())
    for gradient, taken in (("autograd", True), ("adjoint", False)):
        config = tiny_config(gradient=gradient).trajectory
        assert (gradient_function(model, config, EAGER) is None) == taken


def test_a_layer_without_a_written_derivative_is_refused() -> None:
    with pytest.raises(TypeError, match="Dropout"):
        tape.forward(nn.Sequential(nn.Dropout()), torch.ones(1, 2))
