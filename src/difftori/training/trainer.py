"""The loop: act an episode, learn from it, evaluate now and then, save; and the same again.

Between any two agent steps and any two updates the whole state can be saved, so the loop is
written to begin anywhere: ``Counters.phase`` says where.
"""

import logging
from dataclasses import dataclass, replace
from typing import Any

import torch

from difftori.checkpoints.checkpoint import Checkpointer
from difftori.checkpoints.tree_file import CheckpointError
from difftori.config import Config
from difftori.learning.finite import check_weights
from difftori.learning.learner import Learner
from difftori.learning.novelty import novelty
from difftori.learning.plan_gradient_ways import PlanGradientWay
from difftori.model.world_model import WorldModel
from difftori.monitoring.console import Console
from difftori.monitoring.metrics import Metrics
from difftori.planning.actor import Actor
from difftori.replay.batches import Batches
from difftori.replay.buffer import ReplayBuffer
from difftori.training.collector import Collector, EpisodeFailedError
from difftori.training.scheduled_evaluation import Evaluator
from difftori.training.seeding import RandomStreams
from difftori.training.signals import StopRequested, StopSignals
from difftori.training.state import Averages, Counters, OpenEpisode
from difftori.types import EnvSpec

logger = logging.getLogger(__name__)


@dataclass
class Trainer:
    """One run: its parts, and the loop that steps through them."""

    config: Config
    spec: EnvSpec
    model: WorldModel
    actor: Actor
    learner: Learner
    plan_gradient: PlanGradientWay
    collector: Collector
    evaluator: Evaluator
    buffer: ReplayBuffer
    batches: Batches
    averages: Averages
    """of what is logged with the next episode"""
    streams: RandomStreams
    metrics: Metrics
    checkpointer: Checkpointer
    console: Console
    signals: StopSignals

    def __post_init__(self) -> None:
        self.counters = Counters()
        self._last_episode: dict[str, float | None] = {}

    # ---- the loop

    def run(self) -> None:
        """Train until ``train_steps``; a run that was complete already stays as it is.

        Raises:
            StopRequested: after a signal, once everything is saved.
            NotFiniteError: too many non-finite values in a row; the last checkpoint is finite.
            EpisodeFailedError: too many failed episodes in a row.
            CheckpointError: the end of the run could not be saved.
        """
        if self.is_complete:
            return
        counters = self.counters
        if not self.collector.replay_open_episode(counters):
            logger.warning(
                "the environment does not repeat the interrupted episode exactly: it is dropped, "
                "and the run goes on, but not to the same bit"
            )
        self.console.start(self.config.run.train_steps, "env steps", counters.env_step)
        while not self.is_complete:
            if counters.phase == "acting":
                self._act_episode()
            if counters.phase == "updating":
                self._update_block()
            if counters.phase == "evaluating":
                best = self.evaluator.run_if_due(counters, safe_point=self._safe_point)
                counters.phase = "acting"
                if best or self.checkpointer.due:
                    self._save(best=best)  # if it fails, no later agent takes its place
        if not self._save():
            raise CheckpointError("the run is complete, but its end could not be saved")

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to do: no episode is open, and none has to follow."""
        counters = self.counters
        ended = counters.phase == "acting" and self.collector.open_episode is None
        return ended and counters.env_step >= self.config.run.train_steps

    # ---- acting

    def _act_episode(self) -> None:
        counters, collector = self.counters, self.collector
        is_open = collector.open_episode is not None
        if self.config.run.update_within_episode and not is_open:
            self._apply_plan_gradient()  # of the episode before
        start = counters.episode_start_step if is_open else counters.agent_step
        name = "acting" if collector.is_planned(start) else "acting at random"
        self.console.phase(name, self.spec.episode_length)
        while counters.phase == "acting":
            try:
                episode = collector.step(counters)
            except EpisodeFailedError as error:
                logger.warning(f"episode {counters.episode} is dropped and redone: {error}")
                collector.drop(counters, error)
                episode = None
            self.console.phase_step(counters.agent_step - counters.episode_start_step)
            if episode is not None:
                self.console.advance(counters.env_step)
                self._end_episode(episode)
            elif collector.open_episode is not None and self._updates_while_acting:
                self._update_while_acting()
            self._safe_point()

    def _update_while_acting(self) -> None:
        """The updates of the step just taken, unless it is of an episode that is redone."""
        counters = self.counters
        if counters.agent_step > counters.learned_through:
            counters.learned_through = counters.agent_step
            for left in reversed(range(self.config.run.updates_per_step)):
                self._update(counters.agent_step - 1, more=left > 0)

    def _apply_plan_gradient(self) -> None:
        """One step on the gradient summed over the last episode's plans.

        Updates follow it at once: alone, it may spoil the model for a while.
        """
        self.averages.add(self.plan_gradient.after_episode(self.counters.agent_step))

    def _end_episode(self, episode: OpenEpisode) -> None:
        counters = self.counters
        if not self.config.run.update_within_episode:
            self._apply_plan_gradient()
        finished = episode.finish(self.spec)
        self.buffer.add(finished)
        self.model.observe(torch.from_numpy(finished.obs), torch.from_numpy(finished.reward))
        self._last_episode = episode.outcome()
        counters.episode += 1
        counters.dropped_in_a_row = 0
        each = self.config.run.updates_per_step
        done = each * max(0, counters.learned_through - counters.episode_start_step)
        counters.updates_planned = each * self._agent_steps_to_learn_from(len(episode))
        counters.seed_block_done |= counters.updates_planned > 0
        counters.updates_left = max(0, counters.updates_planned - done)
        counters.phase = "updating"

    # ---- learning

    @property
    def _updates_while_acting(self) -> bool:
        """Not in the first planned episode, whose updates are a long block at its end."""
        within = self.config.run.update_within_episode and self.counters.seed_block_done
        return within and self.buffer.can_sample

    def _agent_steps_to_learn_from(self, episode_length: int) -> int:
        """Those of the episode; after the first planned one, those of the seed phase.

        0 while all episodes are too short to be learned from.
        """
        planned = self.collector.is_planned(self.counters.episode_start_step)
        if not planned or not self.buffer.can_sample:
            return 0
        if not self.counters.seed_block_done:
            return self.collector.planned_from or episode_length
        return episode_length

    def _update_block(self) -> None:
        counters, each = self.counters, self.config.run.updates_per_step
        self.console.phase("updating", counters.updates_planned)
        while counters.updates_left:
            done = counters.updates_planned - counters.updates_left
            self._update(counters.episode_start_step + done // each, more=counters.updates_left > 1)
            counters.updates_left -= 1
            self.console.phase_step(done + 1)
            self._safe_point()
        self._log_episode()
        counters.phase = "evaluating"

    def _update(self, step: int, *, more: bool) -> None:
        """One update, of the agent step ``step``; ``more``: another one follows at once."""
        batch = self.batches.next(more=more)
        if self.config.run.novelty_until_reward and not self.collector.saw_reward:
            scale = self.model.normalized_reward(torch.ones_like(batch.reward))
            batch = replace(batch, reward=novelty(batch.next_obs) / scale)  # of any reward's size
        result = self.learner.update(batch, step)
        if result.finite:
            self.batches.update_priorities(batch.index, result.priority)
            self.averages.add(result.losses)
        self.counters.update += 1
        self.counters.update_step = step

    def _log_episode(self) -> None:
        counters = self.counters
        start = counters.episode_start_step
        planned = self.collector.is_planned(start)
        record: dict[str, Any] = {
            "env_step": counters.env_step,
            "agent_step": counters.agent_step,
            "episode": counters.episode,
            **{f"episode_{k}": v for k, v in self._last_episode.items() if v is not None},
            "updates": counters.updates_planned,
            "planner": self.actor.planner_at(start) if planned else "random",
            "horizon": self.actor.horizon_at(start),
            "saw_reward": self.collector.saw_reward,
            **self.averages.pop(),
            "updates_dropped": self.learner.nonfinite.total,
            "plans_not_finite": self.collector.nonfinite_plans.total,
            "episodes_dropped": counters.episodes_dropped,
        }
        self.metrics.log(record, "train")

    # ---- saving and resuming

    def _safe_point(self) -> None:
        """Between two steps: a checkpoint that is due, and here alone a signal stops the run.

        An evaluation is not saved in its middle: it is done again from its beginning anyway.
        """
        if self.signals.requested is None:
            if self.counters.phase != "evaluating" and self.checkpointer.due_within_episode:
                self._save()
            return
        self.console.phase("saving")
        saved = self._save()
        raise StopRequested(self.signals.requested, saved)

    def _save(self, *, best: bool = False) -> bool:
        """False if the disk did not take it; the checkpoints before are intact then.

        Raises NotFiniteError rather than save a weight that is not finite.
        """
        check_weights(self.model)
        check_weights(self.learner.target)
        number = self.counters.progress_number
        return self.checkpointer.save(number, self.state_dict(), self.buffer, best=best)

    def state_dict(self) -> dict[str, Any]:
        """Everything but the replay buffer, which saves itself."""
        return {
            "counters": self.counters.state_dict(),
            "model": dict(self.model.state_dict()),
            "learner": self.learner.state_dict(),
            "plan_gradient": self.plan_gradient.state_dict(),
            "batches": self.batches.state_dict(),
            "random": self.streams.state_dict(),
            "collector": self.collector.state_dict(),
            "last_episode": dict(self._last_episode),
            "averages": self.averages.state_dict(),
            "metrics": {"metrics_records": self.metrics.records},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where ``state_dict`` was taken; the buffer must be filled too."""
        self.counters = Counters(**state["counters"])
        self.model.load_state_dict(state["model"])
        self.learner.load_state_dict(state["learner"])
        self.plan_gradient.load_state_dict(state["plan_gradient"])
        if not self.streams.load_state_dict(state["random"]):
            logger.warning(
                "the run goes on on another device, with new random numbers: it will not end in "
                "the bytes that it would have ended in"
            )
        self.batches.load_state_dict(state["batches"])
        self.collector.load_state_dict(state["collector"])
        self._last_episode = dict(state["last_episode"])
        self.averages.load_state_dict(state["averages"])
        self.metrics.truncate(state["metrics"]["metrics_records"], self.counters.env_step)

    def weights(self) -> dict[str, dict[str, torch.Tensor]]:
        """Model and target with the published names, on the CPU."""
        networks = {"model": self.model, "model_target": self.learner.target}
        return {
            name: {key: tensor.cpu() for key, tensor in network.state_dict().items()}
            for name, network in networks.items()
        }

    def close(self) -> None:
        """Close the environments."""
        self.collector.close()
        self.evaluator.close()
