"""Episodes on disk: what is written comes back, damage is found, and only what is needed stays."""

import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from builders import tiny_config, tiny_spec
from difftori.checkpoints.checkpoint import Checkpointer
from difftori.checkpoints.episodes import EpisodeFiles
from difftori.replay.buffer import ReplayBuffer
from difftori.types import EnvSpec, Episode

LENGTH, IN_BUFFER = 6, 5
FILE_OVERHEAD = 800
"""bytes, at most"""
STATE, PIXELS = tiny_spec("state"), tiny_spec("pixels")
CONFIG = tiny_config().flat()


def random_episode(spec: EnvSpec, seed: int, length: int = LENGTH) -> Episode:
    """Of the spec's shapes; pixels are a true stack of frames."""
    rng = np.random.default_rng(seed)
    obs = rng.normal(size=(length + 1, *spec.obs_shape)).astype(np.float32)
    if spec.modality == "pixels":
        channels, *size = spec.obs_shape
        shape = (length + 1, channels // spec.frame_stack, *size)
        frames = rng.integers(0, 256, shape, dtype=np.uint8)
        index = np.arange(length + 1)[:, None] + np.arange(1 - spec.frame_stack, 1)
        obs = frames[np.maximum(index, 0)].reshape(length + 1, *spec.obs_shape)
    arrays = {
        "obs": obs,
        "action": rng.uniform(-1, 1, (length, spec.action_dim)).astype(np.float32),
        "reward": rng.normal(size=length).astype(np.float32),
        "terminated": (np.arange(length) == length - 1) & (seed % 2 == 1),
    }
    return Episode(**{field.name: arrays[field.name] for field in fields(Episode)})


def same(a: Episode, b: Episode) -> bool:
    pairs = [(getattr(a, field.name), getattr(b, field.name)) for field in fields(Episode)]
    return all(x.dtype == y.dtype and np.array_equal(x, y) for x, y in pairs)


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("stack", [1, 3])
@pytest.mark.parametrize("length", [1, LENGTH])
def test_pixels_come_back_and_each_frame_is_stored_once(
    tmp_path: Path, stack: int, length: int
) -> None:
    spec = replace(PIXELS, obs_shape=(3 * stack, 16, 16), frame_stack=stack)
    files, episode = EpisodeFiles(tmp_path, spec), random_episode(spec, 0, length)
    files.save(0, episode)
    assert same(files.load(0), episode)
    frames = (length + 1) * 3 * 16 * 16
    assert frames < files.path(0).stat().st_size < frames + 20 * length + FILE_OVERHEAD


def test_observations_that_are_no_stack_of_frames_are_refused(tmp_path: Path) -> None:
    episode = random_episode(PIXELS, 0)
    episode.obs[2, 0] ^= 1
    with pytest.raises(ValueError, match="observation 2 does not continue the frame stack"):
        EpisodeFiles(tmp_path, PIXELS).save(0, episode)
    assert list(tmp_path.iterdir()) == []


def small_buffer() -> ReplayBuffer:
    return ReplayBuffer(
        replace(STATE, episode_length=LENGTH),
        capacity=IN_BUFFER * LENGTH,
        horizon=2,
        alpha=0.6,
        beta=0.4,
        storage_device="cpu",
        compute_device="cpu",
        generator=torch.Generator(),
    )


def resumed_from_each(folder: Path, aside: Path) -> list[range]:
    """The live episodes after resuming from each checkpoint on disk, newest first."""
    copy = Path(shutil.copytree(folder, aside))
    found = []
    for path in sorted((copy / "checkpoints").glob("step_*"), reverse=True):
        buffer, checkpointer = small_buffer(), Checkpointer(copy, STATE, CONFIG, every_minutes=5)
        tree = checkpointer.latest()
        assert tree is not None
        checkpointer.load_buffer(tree, buffer)
        for number in buffer.live_episodes:
            assert same(buffer.episode(number), random_episode(STATE, number))
        found.append(buffer.live_episodes)
        path.unlink()
    return found


def test_both_checkpoints_stay_usable_while_the_buffer_forgets(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Three episodes come between saves, and the disk is full for two of the saves."""
    folder, buffer = tmp_path / "run", small_buffer()
    checkpointer, done = Checkpointer(folder, STATE, CONFIG, every_minutes=5), []
    for save in range(1, 9):
        full = save in (5, 6)
        with file_size_limit(300 if full else resource.RLIM_INFINITY):
            for number in range(3 * save - 3, 3 * save):
                buffer.add(random_episode(STATE, number))
            assert checkpointer.save(save, {}, buffer) is not full
        if not full:
            done.append(range(max(0, 3 * save - IN_BUFFER), 3 * save))
        assert resumed_from_each(folder, tmp_path / f"copy{save}") == done[:-3:-1]
    assert caplog.text.count("saving is tried again") == 2
    names = sorted(path.name for path in (folder / "checkpoints" / "episodes").iterdir())
    assert names == [f"{number:06d}.safetensors" for number in range(done[-2].start, 24)]


def test_episodes_after_the_checkpoint_are_written_again(tmp_path: Path) -> None:
    """As when a run is killed in a save, and what it would have done next is different."""
    buffer = small_buffer()
    checkpointer = Checkpointer(tmp_path, STATE, CONFIG, every_minutes=5)
    buffer.add(random_episode(STATE, 0))
    assert checkpointer.save(1, {}, buffer)
    files = EpisodeFiles(tmp_path / "checkpoints" / "episodes", STATE)
    files.save(1, random_episode(STATE, 1))
    again, buffer = Checkpointer(tmp_path, STATE, CONFIG, every_minutes=5), small_buffer()
    tree = again.latest()
    assert tree is not None
    again.load_buffer(tree, buffer)
    assert buffer.live_episodes == range(1)
    other = random_episode(STATE, 99)
    buffer.add(other)
    assert again.save(2, {}, buffer)
    assert same(files.load(1), other)
