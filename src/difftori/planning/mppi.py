"""The sampling planner of TD-MPC: MPPI with policy candidates (arXiv 2203.04955, algorithm 1)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from difftori.compiling.compiler import EAGER, Compiler
from difftori.compiling.float32_matmul import fast_large_products
from difftori.model.world_model import WorldModel
from difftori.planning import noise
from difftori.planning.returns import plan_return, policy_rollout
from difftori.sections import MppiConfig
from difftori.types import Plan

INITIAL_STD = 2.0
"""of the first round's candidates, and the most that later rounds may have"""


@dataclass(frozen=True)
class Draws:
    """The noise of one search, standard unless said otherwise; it is drawn before the search."""

    policy: Float[Tensor, "B H P A"]
    """of the P policy candidates"""
    candidates: Float[Tensor, "rounds B H S A"]
    """of the S Gaussian candidates"""
    terminal: Float[Tensor, "rounds B N A"]
    """of the policy at the end of each of the N = S + P candidates"""
    choice: Float[Tensor, "B K"]
    """exponential, of the choice among the K elites"""


@dataclass(frozen=True)
class Search:
    """What a search found."""

    action: Float[Tensor, "B A"]
    """the chosen elite's first"""
    mean: Float[Tensor, "H B A"]
    std: Float[Tensor, "H B A"]
    best_return: Float[Tensor, "B"]
    """G of the best candidate of the last round"""


class MppiPlanner:
    def __init__(self, model: WorldModel, config: MppiConfig, compiler: Compiler = EAGER) -> None:
        self._model = model
        self._config = config
        name = "the sampling planner"
        self._searches = {}
        """by the κ of the values"""
        for spread in {config.plan_spread, config.explore_spread}:
            score = compiler(partial(self._score, spread), name)
            self._searches[spread] = compiler.graphs(partial(self._search, score), name)

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
        config = self._config
        spread = config.explore_spread if explore else config.plan_spread
        z = self._model.encode(obs)
        first_mean = z.new_zeros(horizon, len(obs), self._model.action_dim)
        if carry is not None:
            first_mean[:-1] = carry.transpose(0, 1)[1:]
        draws = self._draw(horizon, generators)
        rows = len(obs) * config.num_samples
        with fast_large_products(rows, self._model.hidden_dim, z.device):
            found = self._searches[spread](z, first_mean, z.new_full((), std_floor), draws)
        action, mean = found.action, found.mean
        if explore:
            action = action + found.std[0] * noise.normal(action.shape[1:], generators)
        # A row that went wrong must not spoil the next steps of its episode.
        whole = torch.isfinite(mean).all(dim=-1).all(dim=0)
        mean = torch.where(whole[None, :, None], mean, 0.0)
        finite = torch.isfinite(found.best_return) & torch.isfinite(action).all(dim=1)
        stats = {"plan_return_after": found.best_return}
        if score_means:
            stats["mean_return_before"] = self._return_of(z, first_mean, spread)
            stats["mean_return_after"] = self._return_of(z, mean, spread)
        return Plan(
            action=action,
            carry=mean.transpose(0, 1),
            finite=finite,
            actions=mean,
            first_guess=first_mean,
            stats=stats,
        )

    def _return_of(
        self, z: Float[Tensor, "B Z"], actions: Float[Tensor, "H B A"], spread: float
    ) -> Float[Tensor, "B"]:
        """G of one plan for each latent; it draws no noise."""
        G = plan_return(self._model, z, actions, self._config.discount, spread=spread)
        return G.squeeze(1)

    def _draw(self, horizon: int, generators: Sequence[torch.Generator]) -> Draws:
        config, action_dim = self._config, self._model.action_dim
        samples, policies = config.num_samples, config.num_policy_samples
        policy = noise.normal((horizon, policies, action_dim), generators)
        candidates, terminal = [], []
        for _ in range(config.iterations):
            candidates.append(noise.normal((horizon, samples, action_dim), generators))
            terminal.append(noise.normal((samples + policies, action_dim), generators))
        return Draws(
            policy=policy,
            candidates=torch.stack(candidates),
            terminal=torch.stack(terminal),
            choice=noise.exponential(config.num_elites, generators),
        )

    def _search(
        self,
        score: Callable[..., Tensor],
        z: Float[Tensor, "B Z"],
        mean: Float[Tensor, "H B A"],
        std_floor: Float[Tensor, ""],
        draws: Draws,
    ) -> Search:
        config, (horizon, batch, action_dim) = self._config, mean.shape
        policy_actions = self._policy_candidates(z, draws.policy)
        z_all = z.repeat_interleave(config.num_samples + config.num_policy_samples, dim=0)
        std = torch.full_like(mean, INITIAL_STD)
        for candidate_draws, terminal_draws in zip(draws.candidates, draws.terminal, strict=True):
            gaussian = mean.unsqueeze(2) + std.unsqueeze(2) * candidate_draws.transpose(0, 1)
            candidates = torch.cat([gaussian.clamp(-1, 1), policy_actions], dim=2)
            values = score(z_all, candidates, terminal_draws)
            elite_values, elite_index = values.topk(config.num_elites, dim=1)
            gather_index = elite_index[None, :, :, None].expand(horizon, -1, -1, action_dim)
            elites = candidates.gather(2, gather_index)
            scores = elite_scores(elite_values, config.temperature)
            elite_mean, elite_std = weighted_moments(elites, scores)
            std = elite_std.maximum(std_floor).clamp(max=INITIAL_STD)
            mean = config.momentum * mean + (1 - config.momentum) * elite_mean
        chosen = noise.choice(scores, draws.choice)
        action = elites[0, torch.arange(batch, device=z.device), chosen]
        return Search(action, mean, std, best_return=elite_values[:, 0])

    def _policy_candidates(
        self, z: Float[Tensor, "B Z"], draws: Float[Tensor, "B H P A"]
    ) -> Float[Tensor, "H B P A"]:
        count = draws.shape[2]
        if count == 0:
            return draws.transpose(0, 1)
        noises = self._config.min_std * draws.transpose(0, 1).flatten(1, 2)
        z_all = z.repeat_interleave(count, dim=0)
        actions = policy_rollout(self._model, z_all, len(noises), noises)
        return actions.unflatten(1, (len(z), count))

    def _score(
        self,
        spread: float,
        z_all: Float[Tensor, "BN Z"],
        candidates: Float[Tensor, "H B N A"],
        draws: Float[Tensor, "B N A"],
    ) -> Float[Tensor, "B N"]:
        """G of every candidate; −inf where it is not finite, so that it has no weight."""
        actions, terminal_noise = candidates.flatten(1, 2), self._config.min_std * draws
        G = plan_return(
            self._model, z_all, actions, self._config.discount, terminal_noise.flatten(0, 1), spread
        )
        return G.view(candidates.shape[1:3]).nan_to_num(
            nan=-torch.inf, posinf=-torch.inf, neginf=-torch.inf
        )


def elite_scores(values: Float[Tensor, "B K"], temperature: float) -> Float[Tensor, "B K"]:
    """Normalised exp(τ (G − max G)), 0 for a value of −inf; uniform where all values are −inf."""
    best = values.amax(dim=1, keepdim=True)
    scores = torch.exp(temperature * (values - best)).masked_fill(values == -torch.inf, 0.0)
    scores = torch.where(torch.isfinite(best), scores, 1.0)
    return scores / scores.sum(dim=1, keepdim=True)


def weighted_moments(
    elites: Float[Tensor, "H B K A"], scores: Float[Tensor, "B K"]
) -> tuple[Float[Tensor, "H B A"], Float[Tensor, "H B A"]]:
    """Mean and standard deviation of the elites' actions under their scores."""
    weights = scores[None, :, :, None]
    elites = elites.masked_fill(weights == 0, 0.0)  # these may be NaN
    mean = (weights * elites).sum(dim=2)
    variance = (weights * (elites - mean.unsqueeze(2)).square()).sum(dim=2)
    return mean, variance.sqrt()
