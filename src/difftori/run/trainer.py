"""The loop: act an episode, learn from it, evaluate now and then, save; and the same again.

Between any two agent steps and any two updates the whole state can be saved, so the loop is
written to begin anywhere: ``Counters.phase`` says where.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from difftori.config import Config
from difftori.envs import ControlEnv
from difftori.learning.finite import NonFiniteCounter, check_weights
from difftori.learning.learner import Learner
from difftori.learning.plan_gradient import PlanGradient
from difftori.model.world_model import WorldModel
from difftori.planning.actor import Actor
from difftori.replay import ReplayBuffer
from difftori.run.checkpoint import Checkpointer
from difftori.run.console import ConsoleReporter
from difftori.run.evaluation import evaluate
from difftori.run.metrics import Metrics
from difftori.run.seeding import RandomStreams, derive_seed
from difftori.run.signals import StopRequested, StopSignals
from difftori.run.state import Averages, Counters, OpenEpisode
from difftori.run.video import write_mp4
from difftori.types import EnvSpec, Plan

FILM_SIZE = 384
"""pixels, height and width of an evaluation's video"""


class EpisodeFailedError(RuntimeError):
    """The environment raised, or gave a value that is not finite."""


class Trainer:
    """Wires the parts of one run and steps through it."""

    def __init__(
        self,
        config: Config,
        spec: EnvSpec,
        *,
        env: ControlEnv,
        make_env: Callable[[], ControlEnv],
        model: WorldModel,
        learner: Learner,
        plan_gradient: PlanGradient | None,
        buffer: ReplayBuffer,
        streams: RandomStreams,
        metrics: Metrics,
        checkpointer: Checkpointer,
        console: ConsoleReporter,
        signals: StopSignals,
    ) -> None:
        self._config = config
        self._spec = spec
        self._env = env
        self._make_env = make_env
        self._model = model
        self._actor = Actor(model, config)
        self._learner = learner
        self._plan_gradient = plan_gradient
        self._buffer = buffer
        self._streams = streams
        self._metrics = metrics
        self._checkpointer = checkpointer
        self._console = console
        self._signals = signals
        self.counters = Counters()
        self._open: OpenEpisode | None = None
        self._averages = Averages()
        self._nonfinite_plans = NonFiniteCounter("the plan", config.run.max_nonfinite)
        self._last_reward = 0.0
        self._last_success: float | None = None
        self._eval_envs: list[ControlEnv] = []
        self._began_at = time.monotonic()
        self._earlier_seconds = 0.0

    # ---- the loop

    def run(self) -> None:
        """Train until ``train_steps``.

        Raises:
            StopRequested: after a signal, once everything is saved.
            NotFiniteError: too many non-finite values in a row; the last checkpoint is finite.
            EpisodeFailedError: too many failed episodes in a row.
        """
        counters, train_steps = self.counters, self._config.run.train_steps
        self._restore_open_episode()
        self._console.start(train_steps, "env steps", self._env_step, self._earlier_seconds)
        while counters.phase != "acting" or self._open or self._env_step < train_steps:
            if counters.phase == "acting":
                self._act_episode()
            if counters.phase == "updating":
                self._update_block()
            if counters.phase == "evaluating":
                best = self._evaluate_if_due()
                counters.phase = "acting"
                if best or self._checkpointer.due:
                    self._save(best=best)
        self._save(wait=True)

    @property
    def _env_step(self) -> int:
        return self.counters.agent_step * self._spec.action_repeat

    @property
    def elapsed_seconds(self) -> float:
        """Of training, earlier processes included."""
        return self._earlier_seconds + time.monotonic() - self._began_at

    # ---- acting

    def _act_episode(self) -> None:
        counters = self.counters
        start = counters.episode_start_step if self._open else counters.agent_step
        name = "acting" if self._is_planned(start) else "acting at random"
        self._console.phase(name, self._spec.episode_length)
        while counters.phase == "acting":
            try:
                if self._open is None:
                    self._open = self._begin_episode()
                self._act_step(self._open)
            except EpisodeFailedError as error:
                self._drop_episode(error)
            self._safe_point()

    def _is_planned(self, episode_start_step: int) -> bool:
        """Whether an episode that begins at this agent step is planned or random."""
        return episode_start_step >= self._config.run.seed_steps

    def _begin_episode(self) -> OpenEpisode:
        counters = self.counters
        counters.episode_start_step = counters.agent_step
        path = ("episode", counters.episode, counters.dropped_in_a_row)
        seed = derive_seed(self._config.run.seed, *path)
        return OpenEpisode(seed=seed, obs=[self._reset(seed)])

    def _reset(self, seed: int) -> np.ndarray:
        try:
            obs, _ = self._env.reset(seed=seed)
        except Exception as error:  # a simulator may raise anything
            raise EpisodeFailedError(f"the environment's reset raised {error!r}") from error
        return _finite_obs(obs)

    def _act_step(self, episode: OpenEpisode) -> None:
        obs = torch.from_numpy(episode.obs[-1]).to(self._model.device).unsqueeze(0)
        plan = self._plan(obs, episode)
        action = plan.action[0].cpu().numpy()
        try:
            next_obs, reward, terminated, truncated, info = self._env.step(action)
        except Exception as error:  # a simulator may raise anything
            raise EpisodeFailedError(f"the environment's step raised {error!r}") from error
        if not np.isfinite(reward):
            raise EpisodeFailedError(f"the reward was {reward}")
        episode.obs.append(_finite_obs(next_obs))
        episode.action.append(action)
        episode.reward.append(float(reward))
        episode.carry = plan.carry
        if "success" in info:
            episode.success = float(info["success"])
        self.counters.agent_step += 1
        self._console.phase_step(len(episode.action))
        self._console.advance(self._env_step)
        if terminated or truncated:
            self._finish_episode(episode)

    def _plan(self, obs: torch.Tensor, episode: OpenEpisode) -> Plan:
        """Choose an action; in the back_plan modes, also learn from how it was chosen."""
        generators = [self._streams.acting]
        if not self._is_planned(self.counters.episode_start_step):
            return self._actor.act_randomly(generators)
        plan = self._actor.act(
            obs,
            episode_start_step=self.counters.episode_start_step,
            update_step=self.counters.update_step,
            carry=episode.carry,
            explore=True,
            generators=generators,
            differentiate=self._plan_gradient is not None,
        )
        finite = plan.finite is None or bool(plan.finite.all())
        if finite:
            self._averages.add(dict(plan.stats))
        else:
            check_weights(self._model)
        self._nonfinite_plans.seen(finite=finite)
        if self._plan_gradient is not None and plan.differentiable_action is not None and finite:
            self._plan_gradient.accumulate(obs, plan.differentiable_action)
            if self._plan_gradient.every_step:
                self._averages.add(self._plan_gradient.apply())
        return plan

    def _finish_episode(self, episode: OpenEpisode) -> None:
        counters = self.counters
        if self._plan_gradient is not None and not self._plan_gradient.every_step:
            self._averages.add(self._plan_gradient.apply())
        finished = episode.finish()
        self._buffer.add(finished)
        self._last_reward = float(np.sum(episode.reward))
        self._last_success = episode.success
        self._open = None
        counters.episode += 1
        counters.dropped_in_a_row = 0
        counters.updates_planned = counters.updates_left = self._updates_due(len(finished))
        counters.phase = "updating"

    def _drop_episode(self, error: EpisodeFailedError) -> None:
        """Forget the episode and make the environment anew; the next attempt has another seed."""
        counters = self.counters
        counters.agent_step = counters.episode_start_step
        counters.episodes_dropped += 1
        counters.dropped_in_a_row += 1
        self._open = None
        if self._plan_gradient is not None:
            self._plan_gradient.discard()
        self._console.warn(f"episode {counters.episode} was dropped and is redone: {error}")
        if counters.dropped_in_a_row >= self._config.run.max_nonfinite:
            raise EpisodeFailedError(
                f"{counters.dropped_in_a_row} episodes in a row failed, the last because {error}"
            ) from error
        self._env.close()
        self._env = self._make_env()

    # ---- learning

    def _updates_due(self, episode_length: int) -> int:
        """After the first planned episode the long block, later one update per agent step."""
        if not self._is_planned(self.counters.episode_start_step):
            return 0
        if not self.counters.seed_block_done:
            self.counters.seed_block_done = True
            return self._config.run.seed_steps or episode_length
        return episode_length

    def _update_block(self) -> None:
        counters, config = self.counters, self._config.learner
        self._console.phase("updating", counters.updates_planned)
        while counters.updates_left:
            done = counters.updates_planned - counters.updates_left
            step = counters.episode_start_step + done
            batch = self._buffer.sample(config.batch_size)
            metrics, priority = self._learner.update(batch, step)
            if priority is not None:
                self._buffer.update_priorities(batch.index, priority)
                self._averages.add(metrics)
            counters.update += 1
            counters.update_step = step
            counters.updates_left -= 1
            self._console.phase_step(done + 1)
            self._safe_point()
            if self._checkpointer.due and counters.updates_left:
                self._save()
        self._log_episode()
        counters.phase = "evaluating"

    def _log_episode(self) -> None:
        counters = self.counters
        start = counters.episode_start_step
        record: dict[str, Any] = {
            "env_step": self._env_step,
            "agent_step": counters.agent_step,
            "episode": counters.episode,
            "episode_reward": self._last_reward,
            "updates": counters.updates_planned,
            "planner": self._actor.planner_at(start) if self._is_planned(start) else "random",
            "horizon": self._actor.horizon_at(start),
            **self._averages.pop(),
            "updates_dropped": self._learner.nonfinite.total,
            "plans_not_finite": self._nonfinite_plans.total,
            "episodes_dropped": counters.episodes_dropped,
            "elapsed_seconds": self.elapsed_seconds,
        }
        if self._last_success is not None:
            record["episode_success"] = self._last_success
        self._metrics.log(record, "train")

    # ---- evaluation

    def _evaluate_if_due(self) -> bool:
        """Score the agent if another eval_freq steps were taken; True if it is the best yet."""
        counters, config = self.counters, self._config.evaluation
        passed = self._env_step // config.eval_freq
        if passed <= counters.evaluated_through:
            return False
        self._console.phase("evaluating", self._spec.episode_length)
        count = config.eval_episodes
        while len(self._eval_envs) < count:
            self._eval_envs.append(self._make_env())
        path = ("evaluation", counters.episode)
        result = evaluate(
            self._actor,
            self._eval_envs,
            seeds=[derive_seed(self._config.run.seed, *path, i) for i in range(count)],
            agent_step=counters.agent_step,
            update_step=counters.update_step,
            device=self._model.device,
            film_size=FILM_SIZE if config.save_video else None,
            on_step=self._on_evaluation_step,
        )
        for error in result.errors:
            self._console.warn(f"an episode of the evaluation failed: {error}")
        record: dict[str, Any] = {
            "env_step": self._env_step,
            "episode_reward": result.mean_reward,
            "episode_reward_std": float(np.nanstd(result.rewards)),
            "episodes": count - len(result.errors),
        }
        if result.successes:
            record["episode_success"] = float(np.mean(result.successes))
        record["elapsed_seconds"] = self.elapsed_seconds
        self._metrics.log(record, "eval")
        if result.frames:
            self._save_video(result.frames)
        counters.evaluated_through = passed
        best = counters.best_reward is None or result.mean_reward > counters.best_reward
        if best and np.isfinite(result.mean_reward):
            counters.best_reward = result.mean_reward
            return True
        return False

    def _on_evaluation_step(self, step: int) -> None:
        self._console.phase_step(step)
        self._safe_point()

    def _save_video(self, frames: Sequence[np.ndarray]) -> None:
        path = self._config.run.folder / "videos" / f"eval_{self._env_step:09d}.mp4"
        try:
            write_mp4(path, frames, fps=25)
        except OSError as error:
            self._console.warn(f"the video was not written: {error}")
            return
        self._metrics.video(path, self._env_step)

    # ---- saving and resuming

    def _safe_point(self) -> None:
        """Between two steps: here, and only here, a signal stops the run."""
        if self._signals.requested is None:
            return
        self._console.phase("saving")
        self._save(wait=True)
        raise StopRequested(self._signals.requested)

    def _save(self, *, best: bool = False, wait: bool = False) -> None:
        self._checkpointer.save(
            self.counters.progress_number, self.state_dict(), self._buffer, best=best, wait=wait
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything but the replay buffer, which saves itself."""
        gradient = self._plan_gradient
        return {
            "counters": self.counters.state_dict(),
            "model": dict(self._model.state_dict()),
            "learner": self._learner.state_dict(),
            "plan_gradient": None if gradient is None else gradient.state_dict(),
            "random": self._streams.state_dict(),
            "open_episode": None if self._open is None else self._open.state_dict(),
            "last_episode": {"reward": self._last_reward, "success": self._last_success},
            "averages": self._averages.state_dict(),
            "nonfinite_plans": self._nonfinite_plans.state_dict(),
            "metrics": self._metrics.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where ``state_dict`` was taken; the buffer must be filled too."""
        device = self._model.device
        self.counters = Counters(**state["counters"])
        self._model.load_state_dict(state["model"])
        self._learner.load_state_dict(state["learner"])
        if self._plan_gradient is not None:
            self._plan_gradient.load_state_dict(state["plan_gradient"])
        self._streams.load_state_dict(state["random"])
        if state["open_episode"] is not None:
            self._open = OpenEpisode.from_state(state["open_episode"], device)
        self._last_reward = state["last_episode"]["reward"]
        self._last_success = state["last_episode"]["success"]
        self._averages.load_state_dict(state["averages"], device)
        self._nonfinite_plans.load_state_dict(state["nonfinite_plans"])
        self._metrics.load_state_dict(state["metrics"])
        self._earlier_seconds = float(
            self._metrics.last_record_value("train", "elapsed_seconds") or 0.0
        )

    def weights(self) -> dict[str, dict[str, torch.Tensor]]:
        """Model and target with the published names, on the CPU."""
        networks = {"model": self._model, "model_target": self._learner.target}
        return {
            name: {key: tensor.cpu() for key, tensor in network.state_dict().items()}
            for name, network in networks.items()
        }

    def _restore_open_episode(self) -> None:
        """Bring the environment to where the open episode was, by taking its actions again."""
        episode = self._open
        if episode is None:
            return
        obs = [self._reset(episode.seed)]
        for action in episode.action:
            obs.append(self._env.step(action)[0])
        if not np.array_equal(np.stack(obs), np.stack(episode.obs)):
            self._console.warn(
                "the environment does not repeat the interrupted episode exactly; "
                "the run goes on, but not to the same bit"
            )

    def close(self) -> None:
        """Close environments and wait for the last write."""
        for env in [self._env, *self._eval_envs]:
            env.close()
        self._checkpointer.close()


def _finite_obs(obs: np.ndarray) -> np.ndarray:
    if not np.isfinite(obs).all():
        raise EpisodeFailedError("an observation was not finite")
    return obs
