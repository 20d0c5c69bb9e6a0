"""The sampling planner of TD-MPC: MPPI with policy candidates (arXiv 2203.04955, algorithm 1)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from difftori.model.world_model import WorldModel
from difftori.planning import noise
from difftori.planning.returns import plan_return, policy_rollout
from difftori.sections import MppiConfig
from difftori.types import Plan

INITIAL_STD = 2.0
"""of the first round's candidates, and the most that later rounds may have"""


class MppiPlanner:
    def __init__(self, model: WorldModel, config: MppiConfig) -> None:
        self._model = model
        self._config = config

    @torch.no_grad()
    def plan(
        self,
        obs: Tensor,
        *,
        horizon: int,
        std_floor: float,
        carry: Float[Tensor, "B H A"] | None,
        explore: bool,
        generators: Sequence[torch.Generator],
        score_means: bool = False,
    ) -> Plan:
        """Plan for B observations ``[B, *O]``, each with its own generator of noise.

        ``carry`` is the last step's mean in the same episode, None at its start. Only when
        exploring is noise added to the chosen elite's first action. ``score_means`` adds the
        returns of the mean before the first round and after the last one to ``stats``.
        """
        config, batch = self._config, len(obs)
        spread = config.explore_spread if explore else 0.0
        z = self._model.encode(obs)
        policy_actions = self._policy_candidates(z, horizon, generators)
        z_all = z.repeat_interleave(config.num_samples + config.num_policy_samples, dim=0)

        mean = z.new_zeros(horizon, batch, self._model.action_dim)
        if carry is not None:
            mean[:-1] = carry.transpose(0, 1)[1:]
        first_mean = mean
        std = torch.full_like(mean, INITIAL_STD)
        for _ in range(config.iterations):
            draws = noise.normal((horizon, config.num_samples, mean.shape[-1]), generators)
            gaussian = mean.unsqueeze(2) + std.unsqueeze(2) * draws.transpose(0, 1)
            candidates = torch.cat([gaussian.clamp(-1, 1), policy_actions], dim=2)
            values = self._score(z_all, candidates, spread, generators)
            elite_values, elite_index = values.topk(config.num_elites, dim=1)
            gather_index = elite_index[None, :, :, None].expand(horizon, -1, -1, mean.shape[-1])
            elites = candidates.gather(2, gather_index)
            scores = elite_scores(elite_values, config.temperature)
            elite_mean, elite_std = weighted_moments(elites, scores)
            std = elite_std.clamp(std_floor, INITIAL_STD)
            mean = config.momentum * mean + (1 - config.momentum) * elite_mean

        chosen = noise.choice(scores, generators)
        action = elites[0, torch.arange(batch, device=z.device), chosen]
        if explore:
            action = action + std[0] * noise.normal(action.shape[1:], generators)
        # A row that went wrong must not spoil the next steps of its episode.
        whole = torch.isfinite(mean).all(dim=-1).all(dim=0)
        mean = torch.where(whole[None, :, None], mean, 0.0)
        finite = torch.isfinite(elite_values[:, 0]) & torch.isfinite(action).all(dim=1)
        stats = {"plan_return_after": elite_values[:, 0]}
        if score_means:
            stats["mean_return_before"] = self._return_of(z, first_mean)
            stats["mean_return_after"] = self._return_of(z, mean)
        return Plan(
            action=action,
            carry=mean.transpose(0, 1),
            finite=finite,
            actions=mean,
            first_guess=first_mean,
            stats=stats,
        )

    def _return_of(self, z: Float[Tensor, "B Z"], actions: Float[Tensor, "H B A"]) -> Tensor:
        """G of one plan for each latent, ``[B]``; it draws no noise."""
        return plan_return(self._model, z, actions, self._config.discount).squeeze(1)

    def _policy_candidates(
        self, z: Float[Tensor, "B Z"], horizon: int, generators: Sequence[torch.Generator]
    ) -> Float[Tensor, "H B N A"]:
        count, action_dim = self._config.num_policy_samples, self._model.action_dim
        if count == 0:
            return z.new_zeros(horizon, len(z), 0, action_dim)
        draws = noise.normal((horizon, count, action_dim), generators).transpose(0, 1)
        draws = self._config.min_std * draws.flatten(1, 2)
        actions = policy_rollout(self._model, z.repeat_interleave(count, dim=0), horizon, draws)
        return actions.unflatten(1, (len(z), count))

    def _score(
        self,
        z_all: Float[Tensor, "BN Z"],
        candidates: Float[Tensor, "H B N A"],
        spread: float,
        generators: Sequence[torch.Generator],
    ) -> Float[Tensor, "B N"]:
        """G of every candidate; −inf where it is not finite, so that it is never an elite."""
        draws = self._config.min_std * noise.normal(candidates.shape[2:], generators)
        actions, draws = candidates.flatten(1, 2), draws.flatten(0, 1)
        G = plan_return(self._model, z_all, actions, self._config.discount, draws, spread)
        return G.view(candidates.shape[1:3]).nan_to_num(
            nan=-torch.inf, posinf=-torch.inf, neginf=-torch.inf
        )


def elite_scores(values: Float[Tensor, "B K"], temperature: float) -> Float[Tensor, "B K"]:
    """Normalised exp(τ (G − max G)); uniform where no elite has a finite value."""
    best = values.amax(dim=1, keepdim=True)
    scores = torch.where(torch.isfinite(best), torch.exp(temperature * (values - best)), 1.0)
    return scores / scores.sum(dim=1, keepdim=True)


def weighted_moments(
    elites: Float[Tensor, "H B K A"], scores: Float[Tensor, "B K"]
) -> tuple[Float[Tensor, "H B A"], Float[Tensor, "H B A"]]:
    """Mean and standard deviation of the elites' actions under their scores."""
    weights = scores[None, :, :, None]
    mean = (weights * elites).sum(dim=2)
    variance = (weights * (elites - mean.unsqueeze(2)).square()).sum(dim=2)
    return mean, variance.sqrt()
