"""Network builders and their initialisation, as TD-MPC's (arXiv 2203.04955, appendix)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class PreciseLinear(nn.Linear):
    """A first or last layer, which autocast leaves in float32.

    bf16 has three digits: rounding what enters a network costs gradients ten times the accuracy
    that rounding its hidden layers does, and what leaves one is compared with its like. Both
    products are small beside those of the hidden layers.
    """

    def forward(self, x: Float[Tensor, "*B I"]) -> Float[Tensor, "*B O"]:
        device = x.device.type
        if device == "meta" or not torch.is_autocast_enabled(device):
            return super().forward(x)
        with torch.autocast(device, enabled=False):
            return functional.linear(x.to(self.weight.dtype), self.weight, self.bias)


def mlp(in_dim: int, hidden_dim: int, out_dim: int, layer_norm: bool = False) -> nn.Sequential:
    """Two hidden layers with ELU."""
    return nn.Sequential(
        PreciseLinear(in_dim, hidden_dim),
        *_elu(hidden_dim, layer_norm),
        nn.Linear(hidden_dim, hidden_dim),
        *_elu(hidden_dim, layer_norm),
        PreciseLinear(hidden_dim, out_dim),
    )


def critic(in_dim: int, hidden_dim: int, layer_norm: bool = False) -> nn.Sequential:
    """A scalar value; its first layer is normalised and squashed."""
    return nn.Sequential(
        PreciseLinear(in_dim, hidden_dim),
        nn.LayerNorm(hidden_dim),
        nn.Tanh(),
        nn.Linear(hidden_dim, hidden_dim),
        *_elu(hidden_dim, layer_norm),
        PreciseLinear(hidden_dim, 1),
    )


def state_encoder(
    obs_dim: int, hidden_dim: int, latent_dim: int, layer_norm: bool = False
) -> nn.Sequential:
    return nn.Sequential(
        PreciseLinear(obs_dim, hidden_dim),
        *_elu(hidden_dim, layer_norm),
        PreciseLinear(hidden_dim, latent_dim),
    )


def _elu(dim: int, layer_norm: bool) -> list[nn.Module]:
    return [nn.LayerNorm(dim), nn.ELU()] if layer_norm else [nn.ELU()]


class ScalePixels(nn.Module):
    """0..255 to 0..1."""

    def forward(self, pixels: Tensor) -> Tensor:
        return pixels / 255.0


def pixel_encoder(
    in_channels: int, img_size: int, num_channels: int, latent_dim: int
) -> nn.Sequential:
    """Four convolutions with stride 2, flattened into one linear layer."""
    layers: list[nn.Module] = [ScalePixels()]
    size, channels = img_size, in_channels
    for kernel in (7, 5, 3, 3):
        layers += [nn.Conv2d(channels, num_channels, kernel, stride=2), nn.ReLU()]
        size, channels = (size - kernel) // 2 + 1, num_channels
    layers += [nn.Flatten(), PreciseLinear(num_channels * size * size, latent_dim)]
    return nn.Sequential(*layers)


class StateCritic(nn.Sequential):
    """A critic on states: the layers of ``critic``, under their own numbers."""

    def forward(  # type: ignore[override]
        self, obs: Float[Tensor, "B D"], action: Float[Tensor, "B A"]
    ) -> Tensor:
        return super().forward(torch.cat([obs, action], dim=-1))


class PixelCritic(nn.Module):
    """A critic on pixels, with an encoder of its own."""

    def __init__(self, encoder: nn.Sequential, mlp: nn.Sequential) -> None:
        super().__init__()
        self.encoder = encoder
        self.mlp = mlp

    def forward(self, obs: Float[Tensor, "B C S S"], action: Float[Tensor, "B A"]) -> Tensor:
        return self.mlp(torch.cat([self.encoder(obs), action], dim=-1))


def init_orthogonal(module: nn.Module) -> None:
    """Orthogonal weights and zero biases; convolutions with gain √2. For ``Module.apply``."""
    if isinstance(module, nn.Linear):
        nn.init.orthogonal_(module.weight.data)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        nn.init.orthogonal_(module.weight.data, nn.init.calculate_gain("relu"))
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def zero_last_layer(network: nn.Module) -> nn.Linear:
    """So that rewards and values begin at zero everywhere; returns the layer."""
    *_, last = (module for module in network.modules() if isinstance(module, nn.Linear))
    for parameter in last.parameters():
        nn.init.zeros_(parameter)
    return last
