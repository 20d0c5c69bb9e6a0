"""No tensor is made on the wrong device, checked without a GPU.

Fake CUDA tensors refuse to be mixed with CPU tensors but know no autograd; the meta device knows
autograd. Generators exist on real devices only, so noise is faked.
"""

import pytest
import torch

from builders import AFTER_SCHEDULES, random_batch, tiny_config, tiny_spec
from difftori.devices import resolve_device
from difftori.learning import losses
from difftori.planning.actor import Actor
from difftori.planning.returns import plan_return
from difftori.types import Batch
from fake_cuda import fake_cuda, fake_noise, model_on  # noqa: F401, a fixture


@pytest.mark.parametrize("modality", ["state", "pixels"])
@pytest.mark.usefixtures("fake_cuda")
def test_networks_on_fake_cuda(modality: str) -> None:
    spec = tiny_spec(modality)
    model = model_on("cuda", tiny_config(f"modality={modality}"))
    obs = torch.empty(2, *spec.obs_shape, dtype=spec.obs_dtype, device="cuda")
    action = torch.empty(2, 2, device="cuda")
    z = model.encode(obs)
    outputs = [z, model.next_latent(z, action), model.reward(z, action)]
    outputs += [model.policy(z), model.policy(z, action), *model.q(z, action)]
    outputs += model.q_obs(obs, action)
    outputs += [plan_return(model, z, action.expand(3, 2, 2), 0.99)]
    assert {output.device.type for output in outputs} == {"cuda"}


@pytest.mark.usefixtures("fake_cuda")
def test_fake_cuda_finds_a_tensor_on_the_wrong_device() -> None:
    """The check itself can fail."""
    model = model_on("cuda", tiny_config())
    with pytest.raises(RuntimeError, match="device"):
        model.encode(torch.empty(2, 5))


@pytest.mark.parametrize("carried", [True, False])
@pytest.mark.usefixtures("fake_cuda")
def test_sampling_planner_on_fake_cuda(monkeypatch: pytest.MonkeyPatch, carried: bool) -> None:
    config = tiny_config(gradient="autograd")  # the adjoint's guard looks at values
    model = model_on("cuda", config)
    fake_noise(monkeypatch, "cuda")
    plan = Actor(model, config).act(
        torch.empty(2, 5, device="cuda"),
        episode_start_step=0,
        update_step=0,
        carry=torch.empty(2, 1, 2, device="cuda") if carried else None,
        explore=True,
        generators=[torch.Generator()] * 2,
    )
    assert plan.action.device.type == "cuda"
    assert plan.carry is not None
    assert plan.carry.device.type == "cuda"


@pytest.mark.parametrize("differentiate", [True, False])
def test_trajectory_planner_on_the_meta_device(
    monkeypatch: pytest.MonkeyPatch, differentiate: bool
) -> None:
    """Also: nothing copies a number to the CPU while it plans."""
    config = tiny_config("mode=theseus_forward", explore_noise=0.1)
    model = model_on("meta", config)
    fake_noise(monkeypatch, "meta")
    plan = Actor(model, config).act(
        torch.empty(2, 5, device="meta"),
        episode_start_step=AFTER_SCHEDULES,
        update_step=0,
        carry=None,
        explore=True,
        generators=[torch.Generator()] * 2,
        differentiate=differentiate,
    )
    assert plan.action.device.type == "meta"
    if differentiate:
        assert plan.differentiable_action is not None
        loss = losses.plan_loss(model, torch.empty(2, 5, device="meta"), plan.differentiable_action)
        gradients = torch.autograd.grad(loss.sum(), model.plan_parameters(), allow_unused=True)
        assert {g.device.type for g in gradients if g is not None} == {"meta"}


def test_losses_on_the_meta_device() -> None:
    config = tiny_config()
    model = model_on("meta", config)
    batch = random_batch()
    batch = Batch(**{n: v if v is None else v.to("meta") for n, v in vars(batch).items()})
    loss = losses.model_loss(
        model,
        model.target_copy(),
        batch,
        torch.empty(3, 4, 2, device="meta"),
        discount=0.99,
        rho=0.5,
        coefficients=dict.fromkeys(
            ("consistency_loss", "reward_loss", "value_loss", "value_s_loss"), 1.0
        ),
    )
    policy_loss = losses.policy_loss(
        model, loss.latents, torch.empty(4, 4, 2, device="meta"), rho=0.5
    )
    gradients = torch.autograd.grad(loss.weighted, model.model_parameters())
    gradients += torch.autograd.grad(policy_loss, model.policy_parameters())
    assert {g.device.type for g in gradients} == {"meta"}
    assert loss.priority.device.type == "meta"


def test_shift_on_the_meta_device() -> None:
    from difftori.model.augment import shift

    images = torch.empty(2, 9, 84, 84, dtype=torch.uint8, device="meta")
    assert shift(images, torch.empty(2, 2, dtype=torch.long, device="meta")).device.type == "meta"


def test_a_gpu_is_known_by_its_number() -> None:
    """torch.cuda.set_device refuses one without, and no tensor lies on one."""
    assert resolve_device("cuda") == torch.device("cuda", 0)
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    assert resolve_device("cpu") == torch.device("cpu")
