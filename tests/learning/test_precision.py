"""In which precision products run."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from builders import random_batch, random_obs, tiny_config, tiny_model
from difftori.learning import losses
from difftori.learning.learner import Learner
from difftori.planning.actor import Actor

aten = torch.ops.aten
PRODUCTS = {aten.mm.default, aten.addmm.default, aten.bmm.default, aten.convolution.default}


HIDDEN = (16, 16)
"""shape of the weight of a hidden layer"""


class Products(TorchDispatchMode):
    """Counts products, forward and backward, by the dtype of what they multiply."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: Counter[torch.dtype] = Counter()
        self.hidden: Counter[torch.dtype] = Counter()
        """those with a hidden layer's weight"""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in PRODUCTS:
            self.dtypes[args[0].dtype] += 1
            if any(isinstance(arg, torch.Tensor) and arg.shape == HIDDEN for arg in args):
                self.hidden[args[0].dtype] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("modality", ["state", "pixels"])
def test_the_updates_products_run_in_bf16(modality: str) -> None:
    counted: dict[str, Products] = {}
    for precision in ("fp32", "bf16"):
        config = tiny_config("mode=default", f"modality={modality}", precision=precision)
        learner = Learner(
            tiny_model(config),
            config.learner,
            generator=torch.Generator().manual_seed(0),
            max_nonfinite=1,
        )
        with Products() as products:
            result = learner.update(random_batch(5, modality=modality), step=0)
        counted[precision] = products
        assert all(value.dtype == torch.float32 for value in result.losses.values())
        assert result.priority.dtype == torch.float32
    fp32, bf16 = counted["fp32"], counted["bf16"]
    assert fp32.dtypes.keys() == {torch.float32}
    assert fp32.dtypes.total() == bf16.dtypes.total()
    assert bf16.hidden.keys() == {torch.bfloat16}
    assert bf16.hidden.total() == fp32.hidden.total() > 0
    # first and last layers stay in float32
    assert bf16.dtypes[torch.float32] > 0


def test_values_rewards_and_latents_are_float32_in_bf16() -> None:
    config = tiny_config("mode=default")
    model, obs = tiny_model(config), random_obs(4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = model.encode(obs)
        action = model.policy(z)
        outputs = [z, model.next_latent(z, action), model.reward(z, action)]
        outputs += [*model.q(z, action), *model.q_obs(obs, action)]
    assert {output.dtype for output in outputs} == {torch.float32}


def test_plans_stay_in_float32() -> None:
    config = tiny_config("mode=back_plan", precision="bf16")
    model, obs = tiny_model(config), random_obs(2)
    actor = Actor(model, config)
    with Products() as products:
        plan = actor.act(
            obs,
            episode_start_step=10**9,
            update_step=0,
            carry=None,
            explore=False,
            generators=[torch.Generator().manual_seed(i) for i in range(2)],
            differentiate=True,
        )
        assert plan.differentiable_action is not None
        losses.plan_loss(model, obs, plan.differentiable_action).sum().backward()
    assert products.dtypes.keys() == {torch.float32}
