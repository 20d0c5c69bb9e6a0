"""The written-out gradient against autograd's, once and twice differentiated."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from builders import tiny_config, tiny_model, tiny_spec
from difftori.model.world_model import WorldModel
from difftori.planning import tape
from difftori.planning.fast_gradient import return_and_gradient
from difftori.planning.returns import plan_return

DISCOUNT = 0.97


def double_model(seed: int, action_dim: int = 2, *, can_terminate: bool = False) -> WorldModel:
    spec = replace(tiny_spec(action_dim=action_dim), can_terminate=can_terminate)
    model = tiny_model(tiny_config(), spec, seed)
    if can_terminate:
        torch.nn.init.normal_(model._termination[-1].weight)
        torch.nn.init.normal_(model._termination[-1].bias)
    return model.double()


episodic = pytest.mark.parametrize("can_terminate", [False, True], ids=["endless", "episodic"])


def by_autograd(model: WorldModel, z: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    G = plan_return(model, z, actions, DISCOUNT)
    (gradient,) = torch.autograd.grad(G.sum(), actions, create_graph=True)
    return G, gradient


@pytest.mark.parametrize("horizon", [1, 2, 5])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("action_dim", [1, 2])
@episodic
def test_equals_autograd(horizon: int, batch: int, action_dim: int, can_terminate: bool) -> None:
    model = double_model(seed=horizon, action_dim=action_dim, can_terminate=can_terminate)
    z = torch.randn(batch, 6, dtype=torch.float64)
    actions = torch.randn(horizon, batch, action_dim, dtype=torch.float64).requires_grad_()
    G, gradient = return_and_gradient(model, z, actions, DISCOUNT)
    expected_G, expected = by_autograd(model, z, actions)
    torch.testing.assert_close(G, expected_G, rtol=0, atol=1e-12)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12)


@episodic
def test_its_own_derivative_equals_autograds(can_terminate: bool) -> None:
    model = double_model(seed=3, can_terminate=can_terminate)
    z = torch.randn(2, 6, dtype=torch.float64).requires_grad_()
    actions = torch.randn(4, 2, 2, dtype=torch.float64).requires_grad_()
    wanted = [z, actions, *model.plan_parameters()]
    direction = torch.randn(4, 2, 2, dtype=torch.float64)
    derivatives = []
    for function in (lambda *a: return_and_gradient(*a, DISCOUNT), by_autograd):
        G, gradient = function(model, z, actions)
        scalar = (gradient * direction).sum() + G.square().sum()
        derivatives.append(torch.autograd.grad(scalar, wanted, materialize_grads=True))
    for ours, theirs in zip(*derivatives, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    assert any(part.abs().max() > 1e-3 for part in derivatives[0])


def test_equal_critics_share_the_slope_as_autograd_shares_it() -> None:
    model = double_model(seed=5)
    model._Q2.load_state_dict(model._Q1.state_dict())
    z = torch.randn(2, 6, dtype=torch.float64)
    actions = torch.randn(2, 2, 2, dtype=torch.float64).requires_grad_()
    wanted = list(model._Q2.parameters())
    derivatives = []
    for function in (lambda *a: return_and_gradient(*a, DISCOUNT), by_autograd):
        _, gradient = function(model, z, actions)
        derivatives.append(torch.autograd.grad(gradient.sum(), wanted, materialize_grads=True))
    for ours, theirs in zip(*derivatives, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_a_layer_without_a_written_derivative_is_refused() -> None:
    with pytest.raises(TypeError, match="Dropout"):
        tape.forward(nn.Sequential(nn.Dropout()), torch.ones(1, 2))
