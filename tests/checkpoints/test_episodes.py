"""Episodes on disk: what is appended comes back, damage is found, kills leave no trace."""

import errno
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from difftori.checkpoints.episodes import ReplayLog
from difftori.checkpoints.store import CheckpointStore
from difftori.checkpoints.tree_file import CheckpointError, CheckpointWriteError, load_tree
from difftori.types import Episode

SRC = Path(__file__).parents[2] / "src"
LENGTH, ACTION = 6, 2


def state_log(folder: Path, per_chunk: int = 3) -> ReplayLog:
    record = 4 * (5 * (LENGTH + 1) + (ACTION + 1) * LENGTH) + 20
    return ReplayLog(
        folder,
        obs_shape=(5,),
        obs_dtype=np.float32,
        action_dim=ACTION,
        episode_length=LENGTH,
        chunk_bytes=per_chunk * record,
    )


def pixel_log(folder: Path, stack: int = 3) -> ReplayLog:
    return ReplayLog(
        folder,
        obs_shape=(3, 4, 4),
        obs_dtype=np.uint8,
        action_dim=ACTION,
        episode_length=LENGTH,
        frame_stack=stack,
        chunk_bytes=1000,
    )


def fresh(log: ReplayLog) -> ReplayLog:
    log.restore(None)
    log.truncate(None)
    return log


def state_episode(seed: int, length: int = LENGTH) -> Episode:
    rng = np.random.default_rng(seed)
    return Episode(
        obs=rng.normal(size=(length + 1, 5)).astype(np.float32),
        action=rng.uniform(-1, 1, (length, ACTION)).astype(np.float32),
        reward=rng.normal(size=length).astype(np.float32),
    )


def pixel_episode(seed: int, length: int = LENGTH, stack: int = 3) -> Episode:
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (length + 1, 3, 4, 4), dtype=np.uint8)
    seen = [frames[0]] * stack
    obs = []
    for frame in frames:
        seen = [*seen[1:], frame]
        obs.append(np.concatenate(seen))
    plain = state_episode(seed, length)
    return Episode(obs=np.stack(obs), action=plain.action, reward=plain.reward)


def same(a: Episode, b: Episode) -> bool:
    pairs = [(a.obs, b.obs), (a.action, b.action), (a.reward, b.reward)]
    return all(x.dtype == y.dtype and np.array_equal(x, y) for x, y in pairs)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("chunk_*")}


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("stack", [1, 2, 3])
def test_pixels_come_back_and_each_frame_is_stored_once(tmp_path: Path, stack: int) -> None:
    log = fresh(pixel_log(tmp_path, stack))
    episodes = [pixel_episode(seed, length, stack) for seed, length in enumerate((6, 1, 0, 9, 6))]
    assert [log.append(episode) for episode in episodes] == [0, 1, 2, 3, 4]
    frames = sum(len(episode.obs) for episode in episodes)
    steps = frames - len(episodes)
    stored = sum(map(len, contents(tmp_path).values()))
    assert stored == frames * 48 + steps * 12 + 5 * 20
    read = list(log.episodes(0, 5))
    assert [number for number, _ in read] == [0, 1, 2, 3, 4]
    assert all(same(a, b) for a, (_, b) in zip(episodes, read, strict=True))
    read[0][1].obs[:] = 0  # writable, and of its own memory
    assert same(next(log.episodes(4, 5))[1], episodes[4])


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    lengths=st.lists(st.integers(0, 2 * LENGTH), max_size=12),
    per_chunk=st.integers(1, 4),
    syncs=st.sets(st.integers(0, 12)),
    data=st.data(),
)
def test_bytes_do_not_depend_on_saves_and_restarts(
    tmp_path_factory: pytest.TempPathFactory,
    lengths: list[int],
    per_chunk: int,
    syncs: set[int],
    data: st.DataObject,
) -> None:
    straight, broken = (tmp_path_factory.mktemp("log") for _ in range(2))
    episodes = [state_episode(seed, length) for seed, length in enumerate(lengths)]
    log = fresh(state_log(straight, per_chunk))
    for episode in episodes:
        log.append(episode)

    log, positions = fresh(state_log(broken, per_chunk)), [None]
    for number, episode in enumerate(episodes):
        log.append(episode)
        if number in syncs:
            positions.append(json.loads(json.dumps(log.sync())))
    position = data.draw(st.sampled_from(positions))
    again = state_log(broken, per_chunk)
    again.restore(position)
    assert contents(broken) == contents(straight)  # looking changes nothing
    again.truncate(position)
    start = position["episodes"] if position else 0
    assert again.position()["episodes"] == again.count == start
    for episode in episodes[start:]:
        again.append(episode)
    assert contents(broken) == contents(straight)
    assert again.position() == log.position()
    assert all(same(episodes[n], episode) for n, episode in again.episodes(0, len(episodes)))


def test_what_an_earlier_process_left_is_not_overwritten(tmp_path: Path) -> None:
    fresh(state_log(tmp_path)).append(state_episode(0))
    with pytest.raises(CheckpointError, match="left by an earlier process"):
        state_log(tmp_path).append(state_episode(0))
    with pytest.raises(ValueError, match="last restore verified"):
        state_log(tmp_path).truncate(None)


def test_any_damage_within_the_position_is_found_and_beyond_it_cut_off(tmp_path: Path) -> None:
    log = fresh(state_log(tmp_path))
    for seed in range(4):
        log.append(state_episode(seed))
    position = log.sync()
    good = contents(tmp_path)
    log.append(state_episode(4))
    for name, data in good.items():
        path = tmp_path / name
        whole = path.read_bytes()
        damaged = [data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] for at in range(len(data))]
        cut = [data[:at] for at in range(0, len(data), 7)]
        for content in damaged + cut:
            path.write_bytes(content)
            with pytest.raises(CheckpointError, match=name):
                state_log(tmp_path).restore(position)
        path.unlink()
        with pytest.raises(CheckpointError, match=f"{name}: cannot be read: No such file"):
            state_log(tmp_path).restore(position)
        path.write_bytes(whole + b"garbage")
    log = state_log(tmp_path)
    log.restore(position)
    log.truncate(position)
    assert contents(tmp_path) == good


def test_damage_is_found_when_an_episode_is_read(tmp_path: Path) -> None:
    log = fresh(state_log(tmp_path))
    for seed in range(3):
        log.append(state_episode(seed))
    (path,) = tmp_path.iterdir()
    data = path.read_bytes()
    for at in range(0, len(data), 3):
        path.write_bytes(data[:at] + bytes([data[at] ^ 64]) + data[at + 1 :])
        with pytest.raises(CheckpointError, match=r"chunk_000000.bin: episode \d at byte"):
            list(log.episodes(0, 3))
        path.write_bytes(data[:at])
        with pytest.raises(CheckpointError, match=r"chunk_000000.bin: episode \d at byte"):
            list(log.episodes(0, 3))
    with pytest.raises(CheckpointError, match="there are 3"):
        list(log.episodes(0, 4))


def test_a_log_of_another_shape_is_refused_by_what_differs(tmp_path: Path) -> None:
    log = fresh(pixel_log(tmp_path))
    log.append(pixel_episode(0))
    position = log.sync()
    with pytest.raises(CheckpointError, match="has frame_stack 3, this run has 2"):
        pixel_log(tmp_path, 2).restore(position)
    with pytest.raises(CheckpointError, match=r"has obs_shape \[3, 4, 4\], this run has \[5\]"):
        state_log(tmp_path).restore(position)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("obs", np.zeros((7, 9, 4, 4), np.float32), "obs of an episode is float32"),
        ("obs", np.zeros((6, 9, 4, 4), np.uint8), "obs of an episode is uint8"),
        ("obs", np.arange(7 * 144, dtype=np.uint8).reshape(7, 9, 4, 4), "not a stack of 3 frames"),
        ("action", np.zeros((6, 3), np.float32), "action of an episode"),
        ("reward", np.zeros((6,), np.float64), "reward of an episode is float64"),
    ],
)
def test_an_episode_of_another_shape_is_refused(
    tmp_path: Path, field: str, value: np.ndarray, said: str
) -> None:
    log = fresh(pixel_log(tmp_path))
    whole = pixel_episode(0)
    fields = {"obs": whole.obs, "action": whole.action, "reward": whole.reward, field: value}
    with pytest.raises(ValueError, match=said):
        log.append(Episode(**fields))
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("limit", [1, 19, 21, 300, 690])
def test_a_full_disk_leaves_no_hole_and_no_duplicate(tmp_path: Path, limit: int) -> None:
    full, free = tmp_path / "full", tmp_path / "free"
    log, other = fresh(state_log(full)), fresh(state_log(free))
    failures: list[CheckpointWriteError] = []
    for number in range(5):
        other.append(state_episode(number))
        try:
            with file_size_limit(limit):
                log.append(state_episode(number))
        except CheckpointWriteError as error:
            failures.append(error)
            position = log.sync()
            assert position["episodes"] == number
            sizes = {chunk["index"]: chunk["bytes"] for chunk in position["chunks"]}
            found = contents(full)
            assert all(len(found[f"chunk_{i:06d}.bin"]) == size for i, size in sizes.items())
            log.append(state_episode(number))
    assert failures
    assert all(error.bytes_needed == log.episode_bytes for error in failures)
    assert all("File too large" in str(error) for error in failures)
    assert contents(full) == contents(free)
    assert log.sync() == other.sync()


def test_errors_of_fsync_and_cutting_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = fresh(state_log(tmp_path))
    log.append(state_episode(0))

    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(CheckpointWriteError, match="No space left"):
            log.sync()
    with monkeypatch.context() as patch:
        patch.setattr(os, "ftruncate", fail)
        patch.setattr(os, "pwrite", fail)
        with pytest.raises(CheckpointWriteError, match="No space left"):
            log.append(state_episode(1))
    log.append(state_episode(1))
    assert [number for number, _ in log.episodes(0, 2)] == [0, 1]
    assert log.sync()["episodes"] == 2


def test_chunks_are_dropped_when_nothing_refers_to_them(tmp_path: Path) -> None:
    log = fresh(state_log(tmp_path))
    for seed in range(7):
        log.append(state_episode(seed))
    older = log.sync()
    for seed in range(7, 11):
        log.append(state_episode(seed))
    log.drop_before(7, referenced=older["first"])
    newer = log.sync()
    assert newer["first"] == 7
    assert [chunk["index"] for chunk in newer["chunks"]] == [2, 3]
    for position in (older, newer):
        state_log(tmp_path).restore(position)
    log.drop_before(9, referenced=newer["first"])
    assert sorted(contents(tmp_path)) == ["chunk_000002.bin", "chunk_000003.bin"]
    with pytest.raises(CheckpointError, match=r"chunk_000000.bin: cannot be read"):
        state_log(tmp_path).restore(older)
    again = state_log(tmp_path)
    again.restore(newer)
    again.truncate(newer)
    again.append(state_episode(11))
    numbers = [number for number, _ in again.episodes(7, 12)]
    assert numbers == [7, 8, 9, 10, 11]
    with pytest.raises(ValueError, match="between 7 and 12"):
        again.drop_before(13, referenced=0)
    again.drop_before(12, referenced=12)
    assert contents(tmp_path) == {}
    assert again.append(state_episode(12)) == 12


def test_appends_go_on_while_another_thread_makes_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, other = fresh(state_log(tmp_path / "a")), fresh(state_log(tmp_path / "b"))
    fsync, synced = os.fsync, []

    def slow(descriptor: int) -> None:
        synced.append(descriptor)
        log.append(state_episode(log.count))
        fsync(descriptor)
        log.append(state_episode(log.count))

    monkeypatch.setattr(os, "fsync", slow)
    log.append(state_episode(0))
    for _ in range(4):
        log.fsync()
    assert len(synced) > 8
    for seed in range(log.count):
        other.append(state_episode(seed))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert log.position() == other.position()


def test_damage_that_only_the_newest_checkpoint_refers_to(tmp_path: Path) -> None:
    log, store = fresh(state_log(tmp_path / "replay")), CheckpointStore(tmp_path / "checkpoints")
    for seed in range(8):
        log.append(state_episode(seed))
        if seed in (3, 7):
            store.save(seed, {"replay": log.sync()})
    good = contents(tmp_path / "replay")
    path = tmp_path / "replay" / "chunk_000001.bin"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    log = state_log(tmp_path / "replay")
    found = store.latest(lambda tree: log.restore(tree["replay"]))
    assert found is not None
    assert found[0] == 3
    assert "step_000000000007.safetensors: refused" in store.skipped[0]
    assert "chunk_000001.bin: damaged" in store.skipped[0]
    log.truncate(found[1]["replay"])
    for seed in range(4, 8):
        log.append(state_episode(seed))
    assert contents(tmp_path / "replay") == good


def test_every_checkpoint_on_disk_stays_whole_while_the_buffer_moves_on(tmp_path: Path) -> None:
    log, store = fresh(state_log(tmp_path / "replay", 1)), CheckpointStore(tmp_path / "checkpoints")
    firsts: dict[int, int] = {}
    for save in range(1, 16):
        for _ in range(3):
            log.append(state_episode(log.count))
        oldest = max(0, log.count - 10)
        store.wait()
        referenced = min((firsts[number] for number in store.numbers()), default=oldest)
        log.drop_before(oldest, referenced=referenced)
        position = log.sync()
        firsts[save] = position["first"]
        if save not in (8, 9, 10, 11):  # the disk is full for a while
            store.save_async(save, {"replay": position})
        for number in store.numbers():
            replay = load_tree(store.path(number))["replay"]
            state_log(tmp_path / "replay", 1).restore(replay)
    store.wait()
    assert store.numbers() == [14, 15]
    assert len(contents(tmp_path / "replay")) <= 10 + 3 * 3


KILLED = """
import os, sys
from pathlib import Path
sys.path[:0] = sys.argv[1:3]
from difftori.checkpoints.store import CheckpointStore
from test_replay_log import state_episode, state_log

def run(folder):
    log, store = state_log(folder / "replay"), CheckpointStore(folder / "checkpoints")
    found = store.latest(lambda tree: log.restore(tree["replay"]))
    if found is None:
        log.restore(None)
    log.truncate(found[1]["replay"] if found else None)
    os.write(1, b"%d\\n" % os.getpid())
    firsts = {}
    while True:
        log.append(state_episode(log.count))
        if log.count % 5 == 0:
            store.wait()
            referenced = min((firsts.get(n, 0) for n in store.numbers()), default=0)
            log.drop_before(max(0, log.count - 20), referenced=referenced)
            firsts[log.count] = log.position()["first"]
            store.save_async(log.count, {"replay": log.position()}, before=log.fsync)

for line in sys.stdin:
    if not (child := os.fork()):
        run(Path(line.strip()))
    os.waitpid(child, 0)
    os.write(1, b"dead\\n")
"""


@pytest.mark.slow
def test_kills_leave_the_bytes_of_a_run_never_killed(tmp_path: Path) -> None:
    moments, store = random.Random(0), CheckpointStore(tmp_path / "checkpoints")
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(SRC), str(Path(__file__).parent)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as nursery:
        assert nursery.stdin
        assert nursery.stdout
        for _ in range(20):
            print(tmp_path, file=nursery.stdin, flush=True)
            child = int(nursery.stdout.readline())
            time.sleep(moments.uniform(0.01, 0.1))
            os.kill(child, signal.SIGKILL)
            nursery.stdout.readline()
        nursery.stdin.close()
    log = state_log(tmp_path / "replay")
    found = store.latest(lambda tree: log.restore(tree["replay"]))
    assert found is not None
    assert store.skipped == []
    position = found[1]["replay"]
    log.truncate(position)
    assert log.count > 20
    straight = fresh(state_log(tmp_path / "straight"))
    for seed in range(log.count):
        straight.append(state_episode(seed))
    whole = contents(tmp_path / "straight")
    assert all(whole[name] == data for name, data in contents(tmp_path / "replay").items())
    straight.drop_before(position["first"], referenced=position["first"])
    assert straight.position() == position
