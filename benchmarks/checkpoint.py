"""How long training stands still for a checkpoint, with a large replay buffer.

    python benchmarks/checkpoint.py state 500000
    python benchmarks/checkpoint.py pixels 100000

Fills a buffer with that many agent steps of random data and saves it. Then it saves a few times
more, with full-size networks and one new episode in between, as a run would. Needs as much memory
and disk as it says.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from rich.filesize import decimal

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from difftori.checkpoints.checkpoint import Checkpointer
from difftori.config import compose
from difftori.learning.learner import Learner
from difftori.model.world_model import WorldModel
from difftori.replay.buffer import ReplayBuffer
from difftori.types import EnvSpec, Episode

EPISODE_LENGTH = 500
SAVES = 5


def random_episode(spec: EnvSpec, random: np.random.Generator) -> Episode:
    """Of the spec's shapes; pixels are a true stack of frames."""
    length = spec.episode_length
    if spec.modality == "pixels":
        frames = random.integers(0, 256, (length + 1, 3, *spec.obs_shape[1:]), dtype=np.uint8)
        index = np.maximum(np.arange(length + 1)[:, None] + np.arange(-2, 1), 0)
        obs = frames[index].reshape(length + 1, *spec.obs_shape)
    else:
        obs = random.standard_normal((length + 1, *spec.obs_shape), dtype=np.float32)
    action = random.uniform(-1, 1, (length, spec.action_dim)).astype(np.float32)
    reward = random.random(length, dtype=np.float32)
    return Episode(obs, action, reward, terminated=np.zeros(length, dtype=bool))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("modality", choices=["state", "pixels"])
    parser.add_argument("steps", type=int, help="agent steps in the buffer")
    arguments = parser.parse_args()
    pixels = arguments.modality == "pixels"
    shape = (9, 84, 84) if pixels else (24,)
    stack = 3 if pixels else 1
    spec = EnvSpec("random", arguments.modality, shape, 6, EPISODE_LENGTH, 2, stack)
    config = compose(f"modality={arguments.modality}", device="cpu")
    model = WorldModel(spec, config.model)
    learner = Learner(model, config.learner, generator=torch.Generator(), max_nonfinite=1)
    buffer = ReplayBuffer(
        spec,
        capacity=1_000_000,
        horizon=5,
        alpha=0.6,
        beta=0.4,
        storage_device="cpu",
        compute_device="cpu",
        generator=torch.Generator(),
    )
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        checkpointer = Checkpointer(Path(folder), spec, config.flat(), every_minutes=0)
        checkpointer.latest()
        stands = []

        def add() -> None:
            buffer.add(random_episode(spec, random))

        for _ in range(arguments.steps // EPISODE_LENGTH):
            add()
        learner.update(buffer.sample(config.learner.batch_size), 0)  # Adam has moments then
        tree = {"model": dict(model.state_dict()), "learner": learner.state_dict()}
        checkpointer.save(0, tree, buffer)
        for number in range(1, SAVES + 1):
            add()
            begin = time.perf_counter()
            checkpointer.save(number, tree, buffer)
            stands.append(time.perf_counter() - begin)
        disk = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    print(f"{buffer.num_transitions:,} agent steps from {arguments.modality}, {decimal(disk)}")
    print(f"stands still for a save:    {1e3 * np.median(stands):6.0f} ms (median of {SAVES})")


if __name__ == "__main__":
    main()
