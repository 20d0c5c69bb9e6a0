"""The policy-gradient loss on replayed observations (DiffTORI, sec. 4.2, as the paper words it)."""

import torch

from difftori.learning.learner import Learner
from difftori.learning.plan_gradient import PlanGradient
from difftori.planning.actor import Actor
from difftori.replay import ReplayBuffer
from difftori.sections import PlanGradientConfig


class ReplayedPlans:
    """Plans for observations drawn uniformly from the buffer, as one batch, and learns from it."""

    def __init__(
        self,
        actor: Actor,
        learner: Learner,
        plan_gradient: PlanGradient,
        buffer: ReplayBuffer,
        config: PlanGradientConfig,
        generator: torch.Generator,
    ) -> None:
        self._actor = actor
        self._learner = learner
        self._plan_gradient = plan_gradient
        self._buffer = buffer
        self._config = config
        self._generator = generator

    def due(self, agent_step: int, episode_start_step: int) -> bool:
        """Every ``frequency`` agent steps of episodes that are acted by trajectory optimization."""
        optimizing = self._actor.planner_at(episode_start_step) == "trajectory"
        return optimizing and agent_step % self._config.frequency == 0

    def step(self, episode_start_step: int, update_step: int) -> dict[str, float]:
        """One step on c₀ · mean −min Q_iˢ(o, â); returns what is worth logging.

        Rows whose plan is not finite are left out.
        """
        count = self._config.sample_update
        obs = self._learner.augment(self._buffer.uniform_observations(count))
        plan = self._actor.act(
            obs,
            episode_start_step=episode_start_step,
            update_step=update_step,
            carry=None,
            explore=False,
            generators=[self._generator] * count,
            differentiate=True,
        )
        assert plan.differentiable_action is not None
        assert plan.finite is not None
        whole = plan.finite.nonzero().squeeze(1)
        weight = self._config.plan_loss_coef / count
        self._plan_gradient.accumulate(obs[whole], plan.differentiable_action[whole], weight)
        dropped = {"replayed_plans_dropped": float(count - len(whole))}
        return self._plan_gradient.apply() | dropped
