"""A speed test of about ten seconds on an idle machine, and what it says about the whole run."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from difftori.config import Config
from difftori.envs import ControlEnv
from difftori.learning.learner import Learner
from difftori.learning.plan_gradient import PlanGradient
from difftori.learning.replayed_plan import ReplayedPlans
from difftori.model.world_model import WorldModel
from difftori.planning.actor import Actor
from difftori.replay import ReplayBuffer
from difftori.training.allocator import keep_freed_memory
from difftori.training.build import env_factory, resolve_device
from difftori.training.seeding import RandomStreams, generator
from difftori.types import EnvSpec, Episode

BUDGET_SECONDS = {"env": 1.0, "plan": 1.5, "eval_plan": 1.5, "update": 3.0, "replayed_plan": 1.5}
"""for each thing measured"""
DEADLINE_SECONDS = 15.0
"""of the whole test; what comes later is done once, to have its time at all"""
FULL_HORIZON_STEP = 10**9
"""an agent step at which every schedule has ended"""


@dataclass(frozen=True)
class Speed:
    """Seconds of each part of the loop, on this machine as it is now."""

    env: float
    """one agent step of the environment, from pixels with its picture"""
    warmup_plan: float
    """one agent step's plan, and what is learned from it, before ``planner_start_step``"""
    plan: float
    """the same from then on"""
    update: float
    eval_plan: float
    """one batched plan of an evaluation"""
    replayed_plan: float
    """one step from replayed plans; 0 in modes without"""


@dataclass(frozen=True)
class Work:
    """How often each part of the loop runs in the whole run."""

    random_steps: int
    warmup_steps: int
    planned_steps: int
    updates: int
    evaluations: int


@dataclass(frozen=True)
class Estimate:
    """Seconds of a whole run."""

    acting: float
    learning: float
    evaluating: float

    @property
    def total(self) -> float:
        return self.acting + self.learning + self.evaluating


def work(config: Config, episode_length: int) -> Work:
    """What the loop will do, in whole episodes; ``episode_length`` in agent steps."""
    run, repeat = config.run, config.env.action_repeat

    def whole_episodes(agent_steps: float) -> int:
        return math.ceil(agent_steps / episode_length) * episode_length

    total = whole_episodes(run.train_steps / repeat)
    random_steps = min(total, whole_episodes(run.seed_steps))
    start = whole_episodes(config.actor.planner_start_step)
    warmup_steps = min(total, max(start, random_steps)) - random_steps
    planned = total - random_steps
    updates = (run.seed_steps or episode_length) + planned - episode_length if planned else 0
    return Work(
        random_steps=random_steps,
        warmup_steps=warmup_steps,
        planned_steps=planned - warmup_steps,
        updates=updates,
        evaluations=total * repeat // config.evaluation.eval_freq,
    )


def estimate(speed: Speed, counts: Work, config: Config, episode_length: int) -> Estimate:
    steps = counts.random_steps + counts.warmup_steps + counts.planned_steps
    acting = steps * speed.env
    acting += counts.warmup_steps * speed.warmup_plan + counts.planned_steps * speed.plan
    replayed = counts.planned_steps / config.plan_gradient.frequency * speed.replayed_plan
    eval_step = speed.eval_plan + config.evaluation.eval_episodes * speed.env
    return Estimate(
        acting=acting,
        learning=counts.updates * speed.update + replayed,
        evaluating=counts.evaluations * episode_length * eval_step,
    )


def measure(config: Config, say: Callable[[str], None] = lambda text: None) -> tuple[Speed, int]:
    """Run the loop's own parts for a moment; returns their speed and the episode's length.

    ``say`` hears of each part before it is measured.

    Raises ConfigError for a task or a renderer that is not to be had.
    """
    deadline = time.perf_counter() + DEADLINE_SECONDS
    say("speed: building environment and model")
    if config.run.threads is not None:
        torch.set_num_threads(config.run.threads)
    keep_freed_memory()
    device = resolve_device(config.run.device)
    env, spec = env_factory(config)()
    try:
        watch = _Stopwatch(deadline, say)
        return _Bench(config, env, spec, device, watch).measure(), spec.episode_length
    finally:
        env.close()


class _Stopwatch:
    """Measures the parts one by one, each within its budget and all before the deadline.

    A slow part is done once all the same: a call is never broken off.
    """

    def __init__(self, deadline: float, say: Callable[[str], None]) -> None:
        self._deadline, self._say = deadline, say

    def seconds_each(self, part: str, action: Callable[[], object]) -> float:
        """Mean seconds of ``action``; its first call only warms up, if there is time for more."""
        self._say(f"speed: {part.replace('_', ' ')}")
        began = time.perf_counter()
        end = min(began + BUDGET_SECONDS[part], self._deadline)
        action()
        warm = now = time.perf_counter()
        count = 0
        while now < end:
            action()
            count += 1
            now = time.perf_counter()
        return (now - warm) / count if count else warm - began


class _Bench:
    def __init__(
        self,
        config: Config,
        env: ControlEnv,
        spec: EnvSpec,
        device: torch.device,
        watch: _Stopwatch,
    ) -> None:
        self._watch = watch
        # a plan in a trained model is harder than one in a new model: no early stop
        patient = config.trajectory.model_copy(update={"rel_err_tolerance": 0.0})
        self._config = config = config.model_copy(update={"trajectory": patient})
        self._env, self._spec, self._device = env, spec, device
        streams = RandomStreams(config.run.seed, device)
        self._model = model = WorldModel(spec, config.model).to(device)
        with torch.no_grad():
            for parameter in model.parameters():
                if not parameter.any():  # last layers begin at zero: nothing to plan for
                    parameter.normal_(std=0.01)
        self._actor = Actor(model, config)
        limit = config.run.max_nonfinite
        self._learner = Learner(
            model, config.learner, generator=streams.learning, max_nonfinite=limit
        )
        self._gradient = None
        if config.plan_gradient.plan_gradient != "none":
            self._gradient = PlanGradient(model, config.plan_gradient, max_nonfinite=limit)
        self._buffer = _filled_buffer(config, spec, device, streams.replay)
        self._generator = streams.acting
        self._obs = torch.from_numpy(env.reset(seed=0)[0]).to(device).unsqueeze(0)

    def measure(self) -> Speed:
        actor, start = self._actor, self._config.actor.planner_start_step
        seconds_each = self._watch.seconds_each
        warmup_plan = plan = seconds_each("plan", self._plan_at(FULL_HORIZON_STEP))
        if start and actor.planner_at(start - 1) != actor.planner_at(FULL_HORIZON_STEP):
            warmup_plan = seconds_each("plan", self._plan_at(start - 1))
        replayed = 0.0
        if self._gradient is not None and self._gradient.applies == "replay":
            plans = ReplayedPlans(
                actor,
                self._learner,
                self._gradient,
                self._buffer,
                self._config.plan_gradient,
                self._generator,
            )
            replayed = seconds_each("replayed_plan", lambda: plans.step(FULL_HORIZON_STEP, 0))
        return Speed(
            env=seconds_each("env", self._env_step),
            warmup_plan=warmup_plan,
            plan=plan,
            update=seconds_each("update", self._update),
            eval_plan=seconds_each("eval_plan", self._evaluation_plan),
            replayed_plan=replayed,
        )

    def _env_step(self) -> None:
        action = np.random.default_rng(0).uniform(-1, 1, self._spec.action_dim)
        _, _, terminated, truncated, _ = self._env.step(action.astype(np.float32))
        if terminated or truncated:
            self._env.reset(seed=0)

    def _plan_at(self, episode_start_step: int) -> Callable[[], None]:
        gradient = self._gradient
        learns = gradient is not None and gradient.applies != "replay"

        def plan() -> None:
            made = self._actor.act(
                self._obs,
                episode_start_step=episode_start_step,
                update_step=0,
                carry=None,
                explore=True,
                generators=[self._generator],
                differentiate=learns,
            )
            made.action.cpu()
            if gradient is not None and made.differentiable_action is not None:
                gradient.accumulate(self._obs, made.differentiable_action)
                if gradient.applies == "step":
                    gradient.apply(0)

        return plan

    def _update(self) -> None:
        batch = self._buffer.sample(self._config.learner.batch_size)
        _, priority = self._learner.update(batch, 0)
        if priority is not None:
            self._buffer.update_priorities(batch.index, priority)

    def _evaluation_plan(self) -> None:
        episodes = self._config.evaluation.eval_episodes
        plan = self._actor.act(
            self._obs.expand(episodes, *self._obs.shape[1:]).contiguous(),
            episode_start_step=FULL_HORIZON_STEP,
            update_step=0,
            carry=None,
            explore=False,
            generators=[generator(self._device, i) for i in range(episodes)],
        )
        plan.action.cpu()


def _filled_buffer(
    config: Config, spec: EnvSpec, device: torch.device, stream: torch.Generator
) -> ReplayBuffer:
    """A small buffer of noise, large enough for a batch."""
    length, horizon = spec.episode_length, config.replay.horizon
    episodes = 2 + config.learner.batch_size // max(1, length - horizon)
    buffer = ReplayBuffer(
        spec,
        capacity=episodes * length,
        horizon=horizon,
        alpha=config.replay.per_alpha,
        beta=config.replay.per_beta,
        storage_device=config.run.buffer_device,
        compute_device=device,
        generator=stream,
    )
    rng = np.random.default_rng(0)
    for _ in range(episodes):
        buffer.add(_noise_episode(spec, rng))
    return buffer


def _noise_episode(spec: EnvSpec, rng: np.random.Generator) -> Episode:
    length, stack = spec.episode_length, spec.frame_stack
    if spec.modality == "pixels":
        shape = (length + 1, spec.obs_shape[0] // stack, *spec.obs_shape[1:])
        frames = rng.integers(0, 256, shape, dtype=np.uint8)
        padded = np.concatenate([frames[:1]] * (stack - 1) + [frames])
        obs = np.concatenate([padded[k : k + length + 1] for k in range(stack)], axis=1)
    else:
        obs = rng.standard_normal((length + 1, *spec.obs_shape), dtype=np.float32)
    return Episode(
        obs=obs,
        action=rng.uniform(-1, 1, (length, spec.action_dim)).astype(np.float32),
        reward=rng.uniform(0, 1, length).astype(np.float32),
        terminated=np.zeros(length, np.bool_),
    )
