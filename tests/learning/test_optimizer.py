import copy

import pytest
import torch
from torch import Tensor, nn

from difftori.learning.optimizer import GuardedAdam


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((3, 4), (4,))]


def gradients(step: int, scale: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    return [scale * torch.randn(shape, generator=generator) for shape in ((3, 4), (4,))]


@pytest.mark.parametrize("scale", [0.01, 1.0, 1e4])
def test_equals_torchs_adam_with_clipping(scale: float) -> None:
    ours, theirs = parameters(), parameters()
    guarded = GuardedAdam(ours, 1.0)
    adam = torch.optim.Adam(theirs, lr=1e-2)
    for step in range(10):
        # A scale that changes, so that clipping shows in Adam's moments.
        factor = scale * (1 + step)
        for parameter, gradient in zip(theirs, gradients(step, factor), strict=True):
            parameter.grad = gradient
        their_norm = nn.utils.clip_grad_norm_(theirs, 1.0)
        adam.step()
        torch.testing.assert_close(guarded.step(gradients(step, factor), lr=1e-2), their_norm)
        for our_parameter, their_parameter in zip(ours, theirs, strict=True):
            torch.testing.assert_close(our_parameter, their_parameter, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_takes_no_step_from_a_gradient_that_is_not_finite(bad: float) -> None:
    ours, twin = parameters(), parameters()
    guarded, other = GuardedAdam(ours, 1.0), GuardedAdam(twin, 1.0)
    for optimizer in (guarded, other):
        optimizer.step(gradients(0), lr=1e-2)
    spoiled = gradients(1)
    spoiled[1][2] = bad
    assert not torch.isfinite(guarded.step(spoiled, lr=1e-2))
    for optimizer in (guarded, other):
        optimizer.step(gradients(2), lr=1e-2)
    assert all(torch.equal(a, b) for a, b in zip(ours, twin, strict=True))


def test_leaves_no_gradients_and_the_given_ones_as_they_were() -> None:
    ours, given = parameters(), gradients(0, 100.0)
    kept = [gradient.clone() for gradient in given]
    GuardedAdam(ours, 1.0).step(given, lr=1e-2)
    assert all(parameter.grad is None for parameter in ours)
    assert all(torch.equal(a, b) for a, b in zip(given, kept, strict=True))


def test_resumes_bit_for_bit() -> None:
    ours, twin = parameters(), parameters()
    first, second = GuardedAdam(ours, 1.0), GuardedAdam(twin, 1.0)
    for step in range(3):
        first.step(gradients(step), lr=1e-2)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for ours_parameter, twin_parameter in zip(ours, twin, strict=True):
        twin_parameter.data.copy_(ours_parameter.data)
    for step in range(3, 6):
        first.step(gradients(step), lr=1e-2)
        second.step(gradients(step), lr=1e-2)
    assert all(torch.equal(a, b) for a, b in zip(ours, twin, strict=True))


def test_a_loaded_state_is_not_shared() -> None:
    """Two optimizers that loaded the same state do not step each other's moments."""
    first = GuardedAdam(parameters(), 1.0)
    first.step(gradients(0), lr=1e-2)
    state = copy.deepcopy(first.state_dict())
    second = GuardedAdam(parameters(), 1.0)
    second.load_state_dict(state)
    kept = state["0"]["exp_avg"].clone()
    second.step(gradients(1), lr=1e-2)
    assert torch.equal(state["0"]["exp_avg"], kept)


def test_gradients_in_another_memory_order_are_read_right() -> None:
    """A compiled convolution hands back its weight's gradient with the channels last."""
    values = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    ordered, other = (nn.Parameter(torch.zeros(4, 3, 5, 5)) for _ in range(2))
    GuardedAdam([ordered], 1.0).step([values], lr=1e-2)
    GuardedAdam([other], 1.0).step([values.contiguous(memory_format=torch.channels_last)], lr=1e-2)
    assert torch.equal(ordered, other)
