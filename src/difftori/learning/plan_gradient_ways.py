"""When the policy-gradient loss through the plan is computed and applied: one object for each way.

The loop asks it at three points: after a plan was made, after an agent step, at an episode's end.
"""

from typing import Any

import torch
from torch import Tensor

from difftori.learning.finite import check_weights
from difftori.learning.learner import Learner
from difftori.learning.plan_gradient import PlanGradient
from difftori.planning.actor import Actor
from difftori.replay.buffer import ReplayBuffer
from difftori.sections import PlanGradientConfig
from difftori.types import Plan


class PlanGradientWay:
    """What the loop asks; this one is the way of modes without the loss, and does nothing.

    Each of the three answers is what is worth logging.
    """

    differentiates = False
    """whether acted plans must come with a graph"""

    def after_plan(self, obs: Tensor, plan: Plan, agent_step: int) -> dict[str, float]:
        """``plan`` was made for ``obs`` ``[1, *O]``, in acting, and is finite."""
        return {}

    def after_step(
        self, agent_step: int, episode_start_step: int, update_step: int
    ) -> dict[str, float]:
        """The environment took an agent step, the ``agent_step``-th, in a planned episode."""
        return {}

    def after_episode(self, agent_step: int) -> dict[str, float]:
        """The episode came to its end, and updates follow."""
        return {}

    def discard(self) -> None:
        """The open episode is dropped: forget what it gave."""

    def state_dict(self) -> dict[str, Any] | None:
        return None

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Take what ``state_dict`` gave."""


class _WithGradient(PlanGradientWay):
    def __init__(self, gradient: PlanGradient) -> None:
        self.gradient = gradient

    def discard(self) -> None:
        self.gradient.discard()

    def state_dict(self) -> dict[str, Any] | None:
        return self.gradient.state_dict()

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        assert state is not None
        self.gradient.load_state_dict(state)


class PerEpisode(_WithGradient):
    """Summed over the plans of an episode, applied once at its end (DiffTORI, alg. 1)."""

    differentiates = True

    def __init__(self, gradient: PlanGradient, weight: float) -> None:
        super().__init__(gradient)
        self._weight = weight

    def after_plan(self, obs: Tensor, plan: Plan, agent_step: int) -> dict[str, float]:
        if plan.differentiable_action is not None:
            self.gradient.accumulate(obs, plan.differentiable_action, self._weight)
        return {}

    def after_episode(self, agent_step: int) -> dict[str, float]:
        return self.gradient.apply(agent_step)


class PerStep(PerEpisode):
    """Applied as soon as a plan has been made."""

    def after_plan(self, obs: Tensor, plan: Plan, agent_step: int) -> dict[str, float]:
        super().after_plan(obs, plan, agent_step)
        return self.gradient.apply(agent_step)


class OnReplay(_WithGradient):
    """On plans for observations drawn uniformly from the buffer, as one batch (sec. 4.2)."""

    def __init__(
        self,
        gradient: PlanGradient,
        config: PlanGradientConfig,
        actor: Actor,
        learner: Learner,
        buffer: ReplayBuffer,
        generator: torch.Generator,
    ) -> None:
        super().__init__(gradient)
        self._config = config
        self._actor = actor
        self._learner = learner
        self._buffer = buffer
        self._generator = generator

    def after_step(
        self, agent_step: int, episode_start_step: int, update_step: int
    ) -> dict[str, float]:
        """Every ``frequency`` agent steps of episodes that are acted by trajectory optimization."""
        optimizing = self._actor.planner_at(episode_start_step) == "trajectory"
        stored = self._buffer.num_transitions > 0
        if optimizing and stored and agent_step % self._config.frequency == 0:
            return self.learn(agent_step, episode_start_step, update_step)
        return {}

    def learn(self, agent_step: int, episode_start_step: int, update_step: int) -> dict[str, float]:
        """One step on c₀ · mean −min Q_iˢ(o, â) over the observations whose plan is finite.

        Raises:
            NotFiniteError: for a weight that is not finite, and after ``max_nonfinite`` batches in
                a row without a finite plan or gradient.
        """
        count = self._config.sample_update
        obs = self._learner.augment(self._buffer.uniform_observations(count))
        plan = self._plan(obs, episode_start_step, update_step)
        finite = plan.finite
        kept = int(finite.sum())
        dropped = {"replayed_plans_dropped": float(count - kept)}
        if kept == 0:
            check_weights(self._learner.model)
            self.gradient.nonfinite.seen(finite=False, where="all replayed plans")
            return dropped
        if kept < count:
            # A bad row would reach the weights' gradient even with weight zero: a good one stands
            # in for it, so that the batch keeps its size, for which it may have been compiled.
            rows = torch.arange(count, device=obs.device)
            obs = obs[torch.where(finite, rows, finite.int().argmax())]
            plan = self._plan(obs, episode_start_step, update_step)
        assert plan.differentiable_action is not None
        self.gradient.accumulate(
            obs,
            plan.differentiable_action,
            weight=self._config.plan_loss_coef / kept,
            counted=finite if kept < count else None,
        )
        applied = self.gradient.apply(agent_step)
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


def plan_gradient_way(
    config: PlanGradientConfig,
    actor: Actor,
    learner: Learner,
    buffer: ReplayBuffer,
    *,
    generator: torch.Generator,
    max_nonfinite: int,
) -> PlanGradientWay:
    """The way that a mode names; none where the loss has no weight.

    ``generator`` draws the candidates and noise of replayed plans' first guesses, where they have
    any. Replayed plans are those of an evaluation: without exploration, and with ``plan_spread``.
    """
    way = config.plan_gradient
    if way == "none" or config.plan_loss_coef == 0:
        return PlanGradientWay()
    max_norm = config.grad_clip_norm_a_buffer if way == "replay" else config.grad_clip_norm_a
    lr = config.lr if config.plan_lr is None else config.plan_lr
    gradient = PlanGradient(learner.model, lr=lr, max_norm=max_norm, max_nonfinite=max_nonfinite)
    if way == "replay":
        return OnReplay(gradient, config, actor, learner, buffer, generator)
    per_plan = PerStep if way == "step" else PerEpisode
    return per_plan(gradient, config.plan_loss_coef)
