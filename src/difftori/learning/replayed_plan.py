"""The policy-gradient loss on replayed observations (DiffTORI, sec. 4.2, as the paper words it)."""

import torch
from torch import Tensor

from difftori.learning.learner import Learner
from difftori.learning.plan_gradient import PlanGradient
from difftori.planning.actor import Actor
from difftori.replay import ReplayBuffer
from difftori.sections import PlanGradientConfig
from difftori.types import Plan


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
        stored = self._buffer.num_transitions > 0
        return optimizing and stored and agent_step % self._config.frequency == 0

    def step(self, episode_start_step: int, update_step: int) -> dict[str, float]:
        """One step on c₀ · mean −min Q_iˢ(o, â); returns what is worth logging.

        Observations whose plan is not finite are left out.
        """
        count = self._config.sample_update
        obs = self._learner.augment(self._buffer.uniform_observations(count))
        plan = self._plan(obs, episode_start_step, update_step)
        assert plan.finite is not None
        if not plan.finite.all():
            # A bad row would reach the weights' gradient even with weight zero: plan without it.
            obs = obs[plan.finite.nonzero().squeeze(1)]
            plan = self._plan(obs, episode_start_step, update_step) if len(obs) else plan
        dropped = {"replayed_plans_dropped": float(count - len(obs))}
        if len(obs) == 0:
            return dropped
        assert plan.differentiable_action is not None
        weight = self._config.plan_loss_coef / len(obs)
        self._plan_gradient.accumulate(obs, plan.differentiable_action, weight)
        applied = self._plan_gradient.apply(update_step)
        logged = ("total_a_loss", "grad_norm_a", "plans_dropped")
        return {name: applied[name] for name in logged} | dropped

    def _plan(self, obs: Tensor, episode_start_step: int, update_step: int) -> Plan:
        return self._actor.act(
            obs,
            episode_start_step=episode_start_step,
            update_step=update_step,
            carry=None,
            explore=False,
            generators=[self._generator] * len(obs),
            differentiate=True,
        )
