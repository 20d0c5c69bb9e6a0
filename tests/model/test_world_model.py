import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from builders import random_obs, tiny_config, tiny_model, tiny_spec
from difftori.config import Config
from difftori.model import networks
from difftori.model.world_model import WorldModel
from difftori.types import EnvSpec

REFERENCE = Path(__file__).parents[1] / "reference"
SIZES = {"enc_dim": 16, "mlp_dim": 32, "latent_dim": 8, "num_channels": 4}
CASES = {
    "state_interior": EnvSpec("case", "state", (5,), 2, 1000, 1),
    "state_saturated": EnvSpec("case", "state", (17,), 6, 1000, 1),
    "pixels_interior": EnvSpec("case", "pixels", (9, 84, 84), 2, 1000, 1, 3),
}


def fresh(modality: str = "state") -> WorldModel:
    torch.manual_seed(0)
    return WorldModel(tiny_spec(modality), tiny_config(f"modality={modality}").model)


@pytest.mark.parametrize("case", sorted(CASES))
def test_parameters_have_the_published_names_and_shapes(case: str) -> None:
    published = torch.load(REFERENCE / f"{case}.pt", weights_only=True)["model"]
    spec = CASES[case]
    model = WorldModel(spec, tiny_config(f"modality={spec.modality}", **SIZES).model)
    ours = {name: value.shape for name, value in model.state_dict().items()}
    assert ours == {name: value.shape for name, value in published.items()}


@pytest.mark.parametrize("modality", ["state", "pixels"])
def test_weights_begin_orthogonal_and_biases_zero(modality: str) -> None:
    model = fresh(modality)
    zeroed = [model._reward, model._Q1, model._Q2]
    zeroed += [
        critic.mlp if modality == "pixels" else critic for critic in (model._Q1_s, model._Q2_s)
    ]
    last_layers = {network[-1] for network in zeroed}
    checked = 0
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            assert not module.bias.any()
            weight = module.weight.detach().flatten(1)
            if module in last_layers:
                assert not weight.any()
                continue
            gain = math.sqrt(2) if isinstance(module, nn.Conv2d) else 1.0
            rows, columns = weight.shape
            gram = weight @ weight.T if rows <= columns else weight.T @ weight
            torch.testing.assert_close(gram, gain**2 * torch.eye(len(gram)), atol=1e-5, rtol=0)
            checked += 1
    assert checked == {"state": 18, "pixels": 31}[modality]


@pytest.mark.parametrize("modality", ["state", "pixels"])
def test_rewards_and_values_begin_at_zero_everywhere(modality: str) -> None:
    model, obs = fresh(modality), random_obs(3, modality=modality)
    z, action = model.encode(obs), torch.rand(3, 2)
    outputs = [model.reward(z, action), *model.q(z, action), *model.q_obs(obs, action)]
    assert not any(output.any() for output in outputs)
    assert z.any()
    assert model.policy(z).any()


def kinds(network: nn.Module) -> list[str]:
    return [type(layer).__name__ for layer in network.children()]


def test_layers_are_the_described_ones() -> None:
    mlp = ["PreciseLinear", "ELU", "Linear", "ELU", "PreciseLinear"]
    critic = ["PreciseLinear", "LayerNorm", "Tanh", "Linear", "ELU", "PreciseLinear"]
    encoder = ["ScalePixels", *["Conv2d", "ReLU"] * 4, "Flatten", "PreciseLinear"]
    state, pixels = fresh("state"), fresh("pixels")
    assert kinds(state._encoder) == ["PreciseLinear", "ELU", "PreciseLinear"]
    for model in (state, pixels):
        assert kinds(model._dynamics) == kinds(model._reward) == kinds(model._pi) == mlp
        assert kinds(model._Q1) == kinds(model._Q2) == critic
    assert kinds(state._Q1_s) == critic
    assert kinds(pixels._encoder) == kinds(pixels._Q1_s.encoder) == encoder
    assert kinds(pixels._Q1_s.mlp) == critic
    convolutions = [layer for layer in pixels._encoder if isinstance(layer, nn.Conv2d)]
    assert [layer.kernel_size[0] for layer in convolutions] == [7, 5, 3, 3]
    assert {layer.stride for layer in convolutions} == {(2, 2)}


def test_pixels_are_scaled_to_one() -> None:
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8)
    scaled = networks.ScalePixels()(pixels.float())
    torch.testing.assert_close(scaled, torch.tensor([0.0, 0.2, 1.0]))


# Policy


def test_the_policy_mean_is_tanh(model: WorldModel) -> None:
    z = model.encode(random_obs(3))
    assert torch.equal(model.policy(z), torch.tanh(model._pi(z)))


def test_a_policy_sample_clips_its_noise_and_stays_in_the_box(model: WorldModel) -> None:
    z = model.encode(random_obs(5))
    mean = model.policy(z)
    for noise in (0.1, 0.3, 5.0, -5.0):
        sample = model.policy(z, torch.full_like(mean, noise))
        expected = (mean + max(-0.3, min(0.3, noise))).clamp(-1 + 1e-6, 1 - 1e-6)
        torch.testing.assert_close(sample, expected)
        assert sample.abs().max() < 1
    model._pi[-1].bias.data += 100
    assert model.policy(z, torch.full_like(mean, 0.2)).max() < 1


def test_the_samples_clamp_passes_gradients_straight_through(model: WorldModel) -> None:
    z = model.encode(random_obs(5)).detach()
    noise = torch.full((5, 2), 0.3)
    # Means near the bound, so that the noise reaches beyond it.
    model._pi[-1].bias.data += 1.5
    assert (model.policy(z) + noise > 1).any()
    parameters = model.policy_parameters()
    of_mean = torch.autograd.grad(model.policy(z).sum(), parameters)
    of_sample = torch.autograd.grad(model.policy(z, noise).sum(), parameters)
    for mean_gradient, sample_gradient in zip(of_mean, of_sample, strict=True):
        torch.testing.assert_close(sample_gradient, mean_gradient)


# Shapes and groups of parameters


@pytest.mark.parametrize("modality", ["state", "pixels"])
@pytest.mark.parametrize("batch", [(3,), (2, 3), ()])
def test_any_leading_dimensions(modality: str, batch: tuple[int, ...]) -> None:
    config = tiny_config(f"modality={modality}")
    model, obs = tiny_model(config), random_obs(*batch, modality=modality)
    action = torch.rand(*batch, 2)
    z = model.encode(obs)
    assert z.shape == (*batch, config.model.latent_dim)
    assert model.next_latent(z, action).shape == z.shape
    assert model.policy(z).shape == action.shape
    for value in (model.reward(z, action), *model.q(z, action), *model.q_obs(obs, action)):
        assert value.shape == (*batch, 1)


@pytest.mark.parametrize("modality", ["state", "pixels"])
def test_leading_dimensions_are_only_folded(modality: str) -> None:
    model = tiny_model(tiny_config(f"modality={modality}"))
    obs, action = random_obs(2, 3, modality=modality), torch.rand(2, 3, 2)

    def outputs(o: Tensor, a: Tensor) -> list[Tensor]:
        return [model.encode(o), *model.q_obs(o, a)]

    folded = outputs(obs.flatten(0, 1), action.flatten(0, 1))
    for whole, flat in zip(outputs(obs, action), folded, strict=True):
        torch.testing.assert_close(whole.flatten(0, 1), flat)


def test_parameter_groups(model: WorldModel) -> None:
    names = {parameter: name.partition(".")[0] for name, parameter in model.named_parameters()}
    everything = set(names.values())
    assert {names[p] for p in model.policy_parameters()} == {"_pi"}
    assert {names[p] for p in model.model_parameters()} == everything - {"_pi"}
    still = {"_pi", "_Q1_s", "_Q2_s"}
    assert {names[p] for p in model.plan_parameters()} == everything - still
    for group in (model.model_parameters(), model.plan_parameters()):
        wanted = {names[p] for p in group}
        assert len(group) == sum(name in wanted for name in names.values())


def test_the_target_is_a_frozen_copy(model: WorldModel, config: Config) -> None:
    target = model.target_copy()
    before = {name: value.clone() for name, value in target.state_dict().items()}
    for parameter in model.parameters():
        parameter.data += 1
    assert all(torch.equal(before[name], value) for name, value in target.state_dict().items())
    assert not any(parameter.requires_grad for parameter in target.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_device_and_dtype_are_the_weights(model: WorldModel) -> None:
    assert model.dtype == torch.float32
    assert model.double().dtype == torch.float64
    assert model.device.type == "cpu"
