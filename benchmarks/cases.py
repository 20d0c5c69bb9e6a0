"""The rows of ``speed.py``: what is timed on either side, checked to agree, and its floor."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import machine
import numpy as np
import published
import torch
from bench import EPISODE, Bench, Case
from plan_cases import Sides, plan, plan_and_learn, sampling
from torch import Tensor
from update_cases import new_learner, update

from difftori.envs import make_env
from difftori.replay.buffer import ReplayBuffer
from difftori.types import EnvSpec, Episode

SLICE = 5
"""agent steps and updates in one timed piece of an episode"""


def replay_draw(bench: Bench, name: str) -> Case:
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
        name,
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
    batch = bench.batch(config, config.learner.batch_size)
    learner = new_learner(bench, copy.deepcopy(sides.model), config)
    agent = published.Agent(copy.deepcopy(sides.model), config)

    def side(plan: Callable[[Tensor], Tensor], learn: Callable[[], Any]) -> Callable[[], None]:
        env, _ = make_env(config.env)
        latest = [env.reset(seed=0)[0]]

        def piece() -> None:
            for _ in range(SLICE):
                obs = torch.from_numpy(latest[0]).unsqueeze(0).to(bench.device)
                action = plan(obs)[0].clamp(-1, 1).detach()
                latest[0], *_ = env.step(action.cpu().numpy())
            for _ in range(SLICE):
                learn()

        return piece

    env, _ = make_env(config.env)
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


_STATE = {"modality": "state", "size": 512}
_MAKERS: dict[str, Callable[..., Case]] = {
    "plan_forward": partial(plan, what="one action", count=1, reach=8, repeats=10),
    "plan_small": partial(
        plan, what="one action of preset=small", count=1, reach=8, repeats=10, preset="small"
    ),
    "plan_back": partial(
        plan_and_learn,
        what="one action with the loss's gradient",
        modality="state",
        reach=7,
        repeats=10,
    ),
    "plan_batch10": partial(plan, what="ten actions", count=10, reach=20, repeats=5),
    "plan_pixels": partial(
        plan_and_learn,
        what="one action from pixels with gradient",
        modality="pixels",
        reach=8,
        repeats=5,
    ),
    "mppi": partial(sampling, what="one action of the sampling planner", reach=1),
    "mppi_small": partial(sampling, what="the same of preset=small", reach=1, preset="small"),
    "update_fp32": partial(update, **_STATE, precision="fp32", reach=1.6),
    "update_tf32": partial(update, **_STATE, precision="tf32", reach=1.6),
    "update_bf16": partial(update, **_STATE, precision="bf16", reach=3),
    "update_small": partial(
        update, modality="state", precision="fp32", size=128, reach=2, preset="small"
    ),
    "update_pixels": partial(update, modality="pixels", precision="bf16", size=64, reach=1.7),
    "replay_draw": replay_draw,
    "episode_fp32": partial(episode, precision="fp32", reach=2.5),
    "episode_bf16": partial(episode, precision="bf16", reach=4),
}
ROWS: dict[str, Callable[[Bench], Case]] = {
    name: partial(make, name=name) for name, make in _MAKERS.items()
}
GPU_ONLY = {"update_tf32"}
CPU_ONLY = {"replay_draw"}
