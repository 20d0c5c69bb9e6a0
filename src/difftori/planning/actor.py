"""Which planner acts when."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from difftori.compiling.compiler import EAGER, Compiler
from difftori.config import Config
from difftori.model.world_model import WorldModel
from difftori.planning import noise
from difftori.planning.mppi import MppiPlanner
from difftori.planning.trajectory import TrajectoryPlanner
from difftori.planning.trust_region_planner import TrustRegionPlanner
from difftori.types import Plan

OPTIMIZERS: dict[str, type[TrajectoryPlanner | TrustRegionPlanner]] = {
    "published": TrajectoryPlanner,
    "trust_region": TrustRegionPlanner,
}
"""by the key ``optimizer``"""


class Actor:
    """Chooses actions for B observations at once; keeps nothing between steps."""

    def __init__(self, model: WorldModel, config: Config, compiler: Compiler = EAGER) -> None:
        self._model = model
        self._config = config.actor
        self._mppi = MppiPlanner(model, config.mppi, compiler)
        optimized = OPTIMIZERS[config.trajectory.optimizer]
        self._trajectory = optimized(model, config.trajectory, compiler)
        self.return_limit = self._trajectory.return_limit
        """G from which the trajectory optimizer's steps descend"""

    def planner_at(self, episode_start_step: int) -> str:
        """Name of the planner for an episode that begins at this agent step."""
        config = self._config
        started = episode_start_step >= config.planner_start_step
        return config.planner if started else config.warmup_planner

    def horizon_at(self, episode_start_step: int) -> int:
        """Agent steps planned ahead, constant through an episode."""
        scheduled = int(self._config.horizon_schedule(episode_start_step))
        return max(1, min(self._config.horizon, scheduled))

    def act(
        self,
        obs: Tensor,
        *,
        episode_start_step: int,
        update_step: int,
        carry: Float[Tensor, "B *C"] | None,
        explore: bool,
        generators: Sequence[torch.Generator],
        differentiate: bool = False,
        score_means: bool = False,
    ) -> Plan:
        """Plan for observations ``[B, *O]`` on the model's device.

        Args:
            episode_start_step: agent step at which the episode began; it decides planner and
                horizon.
            update_step: step of the last model update; it decides the std of the sampling
                planner and of the exploration noise.
            carry: of the last step of the same episode, None at its start.
            explore: add the planner's exploration noise.
            generators: one for each row.
            differentiate: ask the trajectory optimizer for a differentiable action.
            score_means: ask the sampling planner for the returns of its mean, which acting
                itself does not need.
        """
        horizon = self.horizon_at(episode_start_step)
        if self.planner_at(episode_start_step) == "mppi":
            plan = self._mppi.plan(
                obs,
                horizon=horizon,
                std_floor=self._config.std_schedule(update_step),
                carry=carry,
                explore=explore,
                generators=generators,
                score_means=score_means,
            )
        else:
            plan = self._trajectory.plan(
                obs,
                horizon=horizon,
                explore=explore,
                generators=generators,
                update_step=update_step,
                carry=carry,
                differentiate=differentiate,
            )
        return self._executable(plan)

    def act_randomly(self, generators: Sequence[torch.Generator]) -> Float[Tensor, "B A"]:
        """Uniform in the box, for the seed phase."""
        return noise.uniform_actions(self._model.action_dim, generators)

    def _executable(self, plan: Plan) -> Plan:
        """Clip into the box, and stand still where the plan is not finite."""
        action = plan.action.masked_fill(~plan.finite.unsqueeze(1), 0.0)
        at_bound = (action.abs() >= 1).float().mean(dim=1)
        if self._config.clip_actions:
            action = action.clamp(-1, 1)
        return replace(plan, action=action, stats={**plan.stats, "share_at_bound": at_bound})
