"""The rows of ``speed.py``: what is timed on either side, checked to agree, and its floor."""

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import machine
import numpy as np
import published
import torch
from torch import Tensor

from difftori.compiling.compiler import Compiler
from difftori.config import Config, compose
from difftori.envs import env_from_config
from difftori.learning import losses
from difftori.learning.learner import Learner
from difftori.learning.plan_gradient import PlanGradient
from difftori.model.world_model import WorldModel
from difftori.planning.trajectory import TrajectoryPlanner
from difftori.replay import ReplayBuffer
from difftori.types import Batch, EnvSpec, Episode

EPISODE = 500
"""agent steps of an episode of finger-turn-easy"""
SLICE = 5
"""agent steps and updates in one timed piece of an episode"""


@dataclass(frozen=True)
class Case:
    name: str
    what: str
    reach: float
    """the ratio to reach"""
    reference: Callable[[], Any]
    ours: Callable[[], Any]
    floor_ms: float
    agreement: str
    """how the results of both sides compare"""
    repeats: int = 10
    scale: float = 1.0
    """timed calls in what the row is about"""


@dataclass
class Bench:
    """What the rows share."""

    compiled: bool
    fp32_rate: float = field(init=False)
    bf16_rate: float = field(init=False)
    bandwidth: float = field(init=False)

    def __post_init__(self) -> None:
        model = self.model(self.config())
        self.fp32_rate = machine.product_rate(torch.float32)
        self.bf16_rate = machine.product_rate(torch.bfloat16)
        self.bandwidth = machine.weight_bandwidth(machine.plan_weight_bytes(model))

    @property
    def machine_line(self) -> str:
        return (
            f"{torch.get_num_threads()} threads: products {self.fp32_rate / 1e9:,.0f} GFLOP/s in "
            f"float32, {self.bf16_rate / 1e9:,.0f} in bf16; weights at "
            f"{self.bandwidth / 1e9:,.0f} GB/s"
        )

    def config(self, *groups: str, **keys: Any) -> Config:
        """Full size, without an early stop."""
        task = ("task=finger-turn-easy", "mode=back_plan")
        return compose(*task, *groups, **{"device": "cpu", "rel_err_tolerance": 0, **keys})

    def model(self, config: Config) -> WorldModel:
        """Random, with last layers that give plans something to gain inside the box.

        They are small enough for the reference: at large gradients its Cholesky loses digits.
        """
        torch.manual_seed(0)
        pixels = config.env.modality == "pixels"
        shape, stack = ((9, 84, 84), 3) if pixels else ((12,), 1)
        spec = EnvSpec("finger-turn-easy", config.env.modality, shape, 2, EPISODE, 2, stack)
        model = WorldModel(spec, config.model)
        for parameter in model.parameters():
            if parameter.ndim == 2 and not parameter.any():
                torch.nn.init.normal_(parameter, std=0.03 if pixels else 0.3)
        return model

    def compiler(self) -> Compiler:
        return Compiler(self.compiled)

    def plan_floor_ms(self, model: WorldModel, config: Config, differentiated: int) -> float:
        """Reading the weights; a differentiated iteration reads them three times as often."""
        iterations = config.trajectory.max_iterations + 2 * differentiated
        bytes_read = iterations * machine.iteration_bytes(model, config.learner.horizon)
        return 1e3 * bytes_read / self.bandwidth


def observations(model: WorldModel, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    if model.obs_ndim == 1:
        return torch.randn(count, 12, generator=generator)
    return torch.randint(0, 256, (count, 9, 84, 84), generator=generator, dtype=torch.uint8)


class Sides:
    """A planner of each kind on one model."""

    def __init__(self, bench: Bench, config: Config) -> None:
        self.config = config
        self.model = bench.model(config)
        self.horizon = config.learner.horizon
        self.ours = TrajectoryPlanner(self.model, config.trajectory, bench.compiler())
        learning = config.plan_gradient
        self.plan_gradient = PlanGradient(
            self.model, lr=learning.lr, max_norm=learning.grad_clip_norm_a, max_nonfinite=1
        )
        self.reference = published.Planner(self.model, config, horizon=self.horizon)
        self.agent = published.Agent(self.model, config)

    def plan(self, obs: Tensor, differentiate: bool = False) -> Any:
        return self.ours.plan(
            obs,
            horizon=self.horizon,
            explore=False,
            generators=[torch.Generator()] * len(obs),
            differentiate=differentiate,
        )

    def plan_and_learn(self, obs: Tensor) -> Tensor:
        plan = self.plan(obs, differentiate=True)
        self.plan_gradient.accumulate(obs, plan.differentiable_action)
        return plan.action

    def reference_plan_and_learn(self, obs: Tensor) -> Tensor:
        best, last = self.reference.plan(obs, differentiate=True)
        self.agent.plan_loss(obs, last)
        return best

    def agreement(self, count: int) -> str:
        """Of actions and of the loss's gradient, over ``count`` observations."""
        obs = observations(self.model, count)
        plan = self.plan(obs, differentiate=True)
        ours = losses.plan_loss(self.model, obs, plan.differentiable_action).sum()
        parameters = self.model.plan_parameters()
        gradient = torch.autograd.grad(ours, parameters, allow_unused=True)
        best = [self.reference_plan_and_learn(row) for row in obs.split(1)]
        theirs = [p.grad for p in parameters]
        self.model.zero_grad()
        off = float((torch.cat(best) - plan.action).abs().max())
        flat = [
            torch.cat([torch.zeros(1) if g is None else g.flatten() for g in gradients])
            for gradients in (gradient, theirs)
        ]
        cosine = float(torch.cosine_similarity(*(part.double() for part in flat), dim=0))
        steps = f"{int(plan.stats['plan_iterations'][0])}/{self.reference.iterations} iterations"
        return f"{steps}, actions {off:.0e}, gradient cosine {cosine:.5f}"


def plan(bench: Bench, name: str, what: str, count: int, reach: float, repeats: int) -> Case:
    """``count`` actions at once against one after the other."""
    config = bench.config()
    sides = Sides(bench, config)
    obs = observations(sides.model, count)
    return Case(
        name,
        what,
        reach,
        lambda: [sides.reference.plan(row, differentiate=False) for row in obs.split(1)],
        lambda: sides.plan(obs),
        bench.plan_floor_ms(sides.model, config, 0),
        sides.agreement(max(4, count)),
        repeats=repeats,
    )


def plan_and_learn(
    bench: Bench, name: str, what: str, modality: str, reach: float, repeats: int
) -> Case:
    """One action with the loss's gradient."""
    config = bench.config(f"modality={modality}")
    sides = Sides(bench, config)
    obs = observations(sides.model, 1)
    floor_ms = bench.plan_floor_ms(sides.model, config, config.trajectory.backward_num_iterations)
    if modality == "pixels":
        encoding = machine.count_flops(lambda: sides.model.encode(obs)) / bench.fp32_rate
        floor_ms += 3e3 * encoding
    return Case(
        name,
        what,
        reach,
        lambda: sides.reference_plan_and_learn(obs),
        lambda: sides.plan_and_learn(obs),
        floor_ms,
        sides.agreement(2 if modality == "pixels" else 4),
        repeats=repeats,
    )


def random_batch(config: Config, size: int, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    horizon = config.learner.horizon
    shape = (9, 84, 84) if config.env.modality == "pixels" else (12,)

    def obs(*leading: int) -> Tensor:
        if len(shape) == 1:
            return torch.randn(*leading, *shape, generator=generator)
        return torch.randint(0, 256, (*leading, *shape), generator=generator, dtype=torch.uint8)

    return Batch(
        obs=obs(size),
        next_obs=obs(horizon, size),
        action=2 * torch.rand(horizon, size, 2, generator=generator) - 1,
        reward=torch.rand(horizon, size, 1, generator=generator),
        terminated=torch.zeros(horizon, size, 1),
        weight=torch.rand(size, generator=generator),
        index=torch.arange(size),
    )


def new_learner(bench: Bench, model: WorldModel, config: Config) -> Learner:
    generator = torch.Generator().manual_seed(0)
    compiler = bench.compiler()
    return Learner(model, config.learner, generator=generator, max_nonfinite=1, compiler=compiler)


def update_agreement(bench: Bench, modality: str, precision: str, size: int) -> str:
    """Of the losses of two updates from the same weights, without noise and augmentation."""
    keys = {"min_std": 0, "std_schedule": 0, "augmentation": "none"}
    config = bench.config(f"modality={modality}", precision=precision, **keys)
    model = bench.model(config)
    agent = published.Agent(copy.deepcopy(model), config)
    generator = torch.Generator()
    learner = Learner(model, config.learner, generator=generator, max_nonfinite=1)
    batch = random_batch(config, size)
    off = 0.0
    for step in range(2):
        ours, theirs = learner.update(batch, step).losses, agent.update(batch, step)[0]
        compared = [name for name in theirs if name != "grad_norm"]
        off = max(off, *(abs(float(ours[n]) - theirs[n]) / abs(theirs[n]) for n in compared))
    return f"losses of two updates {off:.0e}"


def update(bench: Bench, name: str, modality: str, precision: str, size: int, reach: float) -> Case:
    config = bench.config(f"modality={modality}", precision=precision)
    model = bench.model(config)
    agent = published.Agent(copy.deepcopy(model), config)
    learner = new_learner(bench, model, config)
    batch = random_batch(config, size)
    plain = Learner(
        copy.deepcopy(model), config.learner, generator=torch.Generator(), max_nonfinite=1
    )
    flops = machine.count_flops(lambda: plain.update(batch, 1))
    rate = bench.bf16_rate if precision == "bf16" else bench.fp32_rate
    return Case(
        name,
        f"one update from {modality}, batch {size}, {precision}",
        reach,
        lambda: agent.update(batch, 0),
        lambda: learner.update(batch, 0),
        1e3 * flops / rate,
        update_agreement(bench, modality, precision, min(size, 128)),
        repeats=8,
    )


def replay_draw(bench: Bench) -> Case:
    size, batch, horizon = 1_000_000, 512, 5
    spec = EnvSpec("finger-turn-easy", "state", (12,), 2, EPISODE, 2, 1)
    buffer = ReplayBuffer(
        spec,
        capacity=size,
        horizon=horizon,
        alpha=0.6,
        beta=0.4,
        storage_device="cpu",
        compute_device="cpu",
        generator=torch.Generator().manual_seed(0),
    )
    random = np.random.default_rng(0)
    for _ in range(size // EPISODE + 1):
        obs = random.standard_normal((EPISODE + 1, 12), dtype=np.float32)
        action = random.uniform(-1, 1, (EPISODE, 2)).astype(np.float32)
        reward = random.random(EPISODE, dtype=np.float32)
        buffer.add(Episode(obs, action, reward, terminated=np.zeros(EPISODE, dtype=bool)))
    for _ in range(200):
        index = buffer.sample(batch).index
        buffer.update_priorities(index, torch.rand(batch))
    direct = published.DirectReplay(size, 12, 2, horizon=horizon)
    index = torch.randint(size, (batch,))

    def gather() -> None:
        for t in range(horizon):
            direct.obs[index + t], direct.action[index + t], direct.reward[index + t]

    return Case(
        "replay_draw",
        "one batch of 512 from 1,000,000",
        20,
        lambda: direct.sample(batch),
        lambda: buffer.sample(batch),
        machine.median_ms(gather, 50),
        "tests/replay compares the draws",
        repeats=30,
    )


def episode(bench: Bench, name: str, precision: str, reach: float) -> Case:
    config = bench.config(precision=precision)
    sides = Sides(bench, config)
    batch = random_batch(config, config.learner.batch_size)
    learner = new_learner(bench, copy.deepcopy(sides.model), config)
    agent = published.Agent(copy.deepcopy(sides.model), config)

    def side(plan: Callable[[Tensor], Tensor], learn: Callable[[], Any]) -> Callable[[], None]:
        env, _ = env_from_config(config.env)
        latest = [env.reset(seed=0)[0]]

        def piece() -> None:
            for _ in range(SLICE):
                action = plan(torch.from_numpy(latest[0]).unsqueeze(0))
                latest[0], *_ = env.step(action[0].clamp(-1, 1).detach().numpy())
            for _ in range(SLICE):
                learn()

        return piece

    env, _ = env_from_config(config.env)
    env.reset(seed=0)
    step_ms = machine.median_ms(lambda: env.step(np.zeros(2, np.float32)), 50)
    update_floor = update(bench, name, "state", precision, config.learner.batch_size, 0).floor_ms
    plan_floor = bench.plan_floor_ms(sides.model, config, config.trajectory.backward_num_iterations)
    return Case(
        name,
        f"an episode of finger-turn-easy in back_plan, {precision}",
        reach,
        side(sides.reference_plan_and_learn, lambda: agent.update(batch, 0)),
        side(sides.plan_and_learn, lambda: learner.update(batch, 0)),
        EPISODE * (step_ms + plan_floor + update_floor),
        f"timed in pieces of {SLICE} agent steps",
        repeats=4,
        scale=EPISODE / SLICE,
    )


ROWS: dict[str, Callable[[Bench], Case]] = {
    "plan_forward": functools.partial(
        plan, name="plan_forward", what="one action", count=1, reach=8, repeats=10
    ),
    "plan_back": functools.partial(
        plan_and_learn,
        name="plan_back",
        what="one action with the loss's gradient",
        modality="state",
        reach=7,
        repeats=10,
    ),
    "plan_batch10": functools.partial(
        plan, name="plan_batch10", what="ten actions", count=10, reach=20, repeats=5
    ),
    "plan_pixels": functools.partial(
        plan_and_learn,
        name="plan_pixels",
        what="one action from pixels with gradient",
        modality="pixels",
        reach=8,
        repeats=5,
    ),
    "update_fp32": functools.partial(
        update, name="update_fp32", modality="state", precision="fp32", size=512, reach=1.6
    ),
    "update_bf16": functools.partial(
        update, name="update_bf16", modality="state", precision="bf16", size=512, reach=3
    ),
    "update_pixels": functools.partial(
        update, name="update_pixels", modality="pixels", precision="bf16", size=64, reach=1.7
    ),
    "replay_draw": replay_draw,
    "episode_fp32": functools.partial(episode, name="episode_fp32", precision="fp32", reach=2.5),
    "episode_bf16": functools.partial(episode, name="episode_bf16", precision="bf16", reach=4),
}
