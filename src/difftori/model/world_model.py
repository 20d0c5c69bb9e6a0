"""The task-oriented latent dynamics model (TOLD) of TD-MPC, with DiffTORI's observation critics.

Parameters carry the published names (``_encoder``, ``_dynamics``, ``_Q1_s``, …), so that
checkpoints go both ways.
"""

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn

from difftori.model import networks
from difftori.model.observation_norm import ObservationNorm
from difftori.model.reward_norm import RewardNorm
from difftori.sections import ModelConfig
from difftori.types import EnvSpec

POLICY_NOISE_CLIP = 0.3
"""the policy's noise never exceeds this, in actions"""
FIRST_TERMINATION_LOGIT = -4.0
"""before anything is learned, an episode ends at an agent step with a probability of 2 %"""
BOX_MARGIN = 1e-6
"""sampled actions stay this far inside [-1, 1]"""


class WorldModel(nn.Module):
    """h, d, R, π, Q1, Q2 on latents, Q1ˢ, Q2ˢ on observations.

    For tasks whose episodes can end by themselves also the probability that one goes on.
    Every method takes any number of leading batch dimensions; shapes below show one.
    """

    episodic = False
    """whether it has a network for where episodes end"""

    def __init__(self, spec: EnvSpec, config: ModelConfig) -> None:
        super().__init__()
        latent_dim, hidden_dim = config.latent_dim, config.mlp_dim
        layer_norm = config.layer_norm
        latent_action_dim = latent_dim + spec.action_dim
        self.obs_ndim = len(spec.obs_shape)
        self.action_dim = spec.action_dim
        self.hidden_dim = hidden_dim

        def new_encoder() -> nn.Sequential:
            if spec.modality == "pixels":
                channels, img_size = spec.obs_shape[0], spec.obs_shape[-1]
                return networks.pixel_encoder(channels, img_size, config.num_channels, latent_dim)
            return networks.state_encoder(spec.obs_shape[0], config.enc_dim, latent_dim, layer_norm)

        def new_observation_critic() -> nn.Module:
            if spec.modality == "pixels":
                mlp = networks.critic(latent_action_dim, hidden_dim, layer_norm)
                return networks.PixelCritic(new_encoder(), mlp)
            return networks.StateCritic(
                *networks.critic(spec.obs_shape[0] + spec.action_dim, hidden_dim, layer_norm)
            )

        self._encoder = new_encoder()
        self._dynamics = networks.mlp(latent_action_dim, hidden_dim, latent_dim, layer_norm)
        self._reward = networks.mlp(latent_action_dim, hidden_dim, 1, layer_norm)
        self._pi = networks.mlp(latent_dim, hidden_dim, spec.action_dim, layer_norm)
        self._Q1 = networks.critic(latent_action_dim, hidden_dim, layer_norm)
        self._Q2 = networks.critic(latent_action_dim, hidden_dim, layer_norm)
        self._Q1_s = new_observation_critic()
        self._Q2_s = new_observation_critic()

        self.apply(networks.init_orthogonal)
        for network in (self._reward, self._Q1, self._Q2, self._Q1_s, self._Q2_s):
            networks.zero_last_layer(network)
        if spec.can_terminate:
            self.episodic = True
            self._termination = networks.mlp(latent_action_dim, hidden_dim, 1, layer_norm)
            self._termination.apply(networks.init_orthogonal)
            last = networks.zero_last_layer(self._termination)
            nn.init.constant_(last.bias, FIRST_TERMINATION_LOGIT)
        normalizes = config.normalize_observations and spec.modality == "state"
        self._norm = ObservationNorm(spec.obs_shape[0]) if normalizes else None
        self._reward_norm = RewardNorm() if config.normalize_rewards else None

    def encode(self, obs: Tensor) -> Float[Tensor, "*B Z"]:
        """h: observations ``[*B, *O]`` of any dtype to latents."""
        batch = obs.shape[: obs.ndim - self.obs_ndim]
        return self._encoder(self._flat(obs)).reshape(*batch, -1)

    def next_latent(
        self, z: Float[Tensor, "*B Z"], action: Float[Tensor, "*B A"]
    ) -> Float[Tensor, "*B Z"]:
        """d: the latent after one agent step."""
        return self._dynamics(torch.cat([z, action], dim=-1))

    def reward(
        self, z: Float[Tensor, "*B Z"], action: Float[Tensor, "*B A"]
    ) -> Float[Tensor, "*B 1"]:
        """R: the reward of one agent step."""
        return self._reward(torch.cat([z, action], dim=-1))

    def termination_logit(
        self, z: Float[Tensor, "*B Z"], action: Float[Tensor, "*B A"]
    ) -> Float[Tensor, "*B 1"]:
        """Logit of the probability that this agent step ends the episode; episodic models only.

        As TD-MPC2's episodic variant and DreamerV3's continue head (arXiv 2301.04104) have it,
        here a function of z and a like the reward.
        """
        return self._termination(torch.cat([z, action], dim=-1))

    def policy(
        self, z: Float[Tensor, "*B Z"], noise: Float[Tensor, "*B A"] | None = None
    ) -> Float[Tensor, "*B A"]:
        """π: the mean tanh(·), or a sample when ``noise`` (already times its std) is given.

        A sample is the mean plus clipped noise, clamped into the box; the clamp passes
        gradients straight through.
        """
        mean = torch.tanh(self._pi(z))
        if noise is None:
            return mean
        sample = mean + noise.clamp(-POLICY_NOISE_CLIP, POLICY_NOISE_CLIP)
        clamped = sample.clamp(-1 + BOX_MARGIN, 1 - BOX_MARGIN)
        return sample + (clamped - sample).detach()

    def q(
        self, z: Float[Tensor, "*B Z"], action: Float[Tensor, "*B A"]
    ) -> tuple[Float[Tensor, "*B 1"], Float[Tensor, "*B 1"]]:
        """Q1, Q2: both latent critics."""
        z_action = torch.cat([z, action], dim=-1)
        return self._Q1(z_action), self._Q2(z_action)

    def q_obs(
        self, obs: Tensor, action: Float[Tensor, "*B A"]
    ) -> tuple[Float[Tensor, "*B 1"], Float[Tensor, "*B 1"]]:
        """Q1ˢ, Q2ˢ: both observation critics on ``[*B, *O]``."""
        batch = action.shape[:-1]
        flat_obs = self._flat(obs)
        flat_action = action.reshape(-1, action.shape[-1])
        q1 = self._Q1_s(flat_obs, flat_action).reshape(*batch, 1)
        q2 = self._Q2_s(flat_obs, flat_action).reshape(*batch, 1)
        return q1, q2

    def observe(self, obs: Tensor, reward: Float[Tensor, "N"]) -> None:
        """Let the normalizations, where there are any, know ``[N_1, *O]`` and N rewards more."""
        if self._norm is not None:
            self._norm.update(obs)
        if self._reward_norm is not None:
            self._reward_norm.update(reward)

    def normalized_reward(self, reward: Float[Tensor, "*B 1"]) -> Float[Tensor, "*B 1"]:
        """An environment's reward as R, the values and the return of a plan count it."""
        return reward if self._reward_norm is None else self._reward_norm(reward)

    def _flat(self, obs: Tensor) -> Tensor:
        """Observations ``[N, *O]`` in the model's dtype, normalized."""
        flat = obs.reshape(-1, *obs.shape[obs.ndim - self.obs_ndim :]).to(self.dtype)
        return flat if self._norm is None else self._norm(flat)

    @property
    def dtype(self) -> torch.dtype:
        return next(self._pi.parameters()).dtype

    @property
    def device(self) -> torch.device:
        return next(self._pi.parameters()).device

    def policy_parameters(self) -> list[nn.Parameter]:
        return list(self._pi.parameters())

    def model_parameters(self) -> list[nn.Parameter]:
        """All but the policy's: what the model update trains."""
        policy = set(self.policy_parameters())
        return [p for p in self.parameters() if p not in policy]

    def plan_parameters(self) -> list[nn.Parameter]:
        """What the plan's gradient trains: everything that the return of a plan is made of."""
        trained = [self._encoder, self._dynamics, self._reward, self._Q1, self._Q2]
        if self.episodic:
            trained.append(self._termination)
        return [p for network in trained for p in network.parameters()]

    def target_copy(self) -> "WorldModel":
        """A copy for the targets, whose weights take no gradients.

        The normalizations are not copied: both see the same numbers.
        """
        target = copy.deepcopy(self).requires_grad_(False)
        target._norm = self._norm
        target._reward_norm = self._reward_norm
        return target


def value_of(
    q1: Float[Tensor, "*B 1"], q2: Float[Tensor, "*B 1"], spread: float = 0.0
) -> Float[Tensor, "*B 1"]:
    """min_i Q_i + κ |Q1 − Q2|, with κ the ``spread``.

    0 is the published minimum, ½ the mean, and more than ½ is optimism (BRO, arXiv 2405.16158).
    """
    lower = torch.minimum(q1, q2)
    return lower if spread == 0 else lower + spread * (q1 - q2).abs()
