"""Saving and resuming: what a checkpoint holds, when one is due, and which one is used.

The replay data goes to an append-only log beside the checkpoints; each checkpoint refers to a
prefix of it. See ``store`` and ``replay_log`` for how both survive being killed at any moment.
"""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from difftori.checkpoints.episodes import ReplayLog
from difftori.checkpoints.store import CheckpointStore
from difftori.checkpoints.tree_file import CheckpointError, CheckpointWriteError
from difftori.config import ConfigError
from difftori.monitoring.console import ConsoleReporter
from difftori.replay import ReplayBuffer
from difftori.sections import Schedule
from difftori.types import EnvSpec, Episode

FORMAT = 1
"""of the tree; a checkpoint of another format is refused"""

MAY_DIFFER = frozenset(
    {
        *("train_steps", "modality_train_steps", "eval_episodes", "save_video", "preset"),
        *("exp_name", "log_dir", "resume", "overwrite", "start_from", "save_every_minutes"),
        *("save_model", "device", "buffer_device", "threads", "max_nonfinite"),
        *("use_wandb", "wandb_project", "wandb_entity", "wandb_mode", "wandb_group"),
        *("wandb_tags", "wandb_artifact", "use_tensorboard"),
    }
)
"""keys of the config that a resumed run may change"""

MOST_NAMED = 8
"""differing keys that one message names"""


class Checkpointer:
    """The checkpoints of one run folder."""

    def __init__(
        self,
        folder: Path,
        spec: EnvSpec,
        config: dict[str, Any],
        *,
        every_minutes: float,
        console: ConsoleReporter,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``config`` has the flat keys; those outside ``MAY_DIFFER`` must agree to resume."""
        self._folder = folder
        self._config = config
        self._identity = _identity(config)
        self._every_seconds = 60 * every_minutes
        self._console = console
        self._clock = clock
        self._saved_at = clock()
        self._store = CheckpointStore(folder / "checkpoints")
        stack = spec.frame_stack
        channels, *size = spec.obs_shape
        self._log = ReplayLog(
            folder / "checkpoints" / "replay",
            obs_shape=(channels // stack, *size),
            obs_dtype="uint8" if spec.obs_dtype == torch.uint8 else "<f4",
            action_dim=spec.action_dim,
            episode_length=spec.episode_length,
            frame_stack=stack,
        )
        self._empty_episode = Episode(
            obs=np.zeros((1, *spec.obs_shape), self._log.obs_dtype),
            action=np.zeros((0, spec.action_dim), np.float32),
            reward=np.zeros(0, np.float32),
        )
        self._first_needed: dict[int, int] = {}
        """oldest episode that each checkpoint on disk needs"""
        self.episode_bytes = self._log.episode_bytes
        """on disk, of one episode"""

    @property
    def due(self) -> bool:
        return self._clock() - self._saved_at >= self._every_seconds

    @property
    def due_within_episode(self) -> bool:
        """In a long block of updates too, unless there is one at each episode anyway."""
        return self._every_seconds > 0 and self.due

    def save(
        self,
        number: int,
        tree: dict[str, Any],
        buffer: ReplayBuffer,
        *,
        best: bool = False,
        wait: bool = False,
    ) -> bool:
        """Copy ``tree`` and write it behind the caller's back, or at once with ``wait``.

        A disk that does not take it is a warning and a False (the old checkpoints stay intact,
        and the next time it is tried again).
        """
        self._saved_at = self._clock()
        try:
            self._append_episodes(buffer)
            self._drop_old_episodes(buffer)
            position = self._log.position()
            replay = {"buffer": buffer.priorities_state(), "log": position}
            whole = {**tree, "format": FORMAT, "config": self._identity, "replay": replay}
            self._store.save_async(number, whole, best=best, before=self._log.fsync)
            self._first_needed[number] = min(
                position["first"], self._first_needed.get(number, position["first"])
            )
            if wait:
                self._store.wait()
        except CheckpointWriteError as error:
            self._warn(error)
            return False
        return not self.report_failures()

    def append(self, episode: Episode, number: int) -> None:
        """Put a finished episode into the log, so that a save has nothing left to copy.

        What the disk does not take now is tried again with the next save.
        """
        if number == self._log.count:
            with contextlib.suppress(CheckpointWriteError):
                self._log.append(episode)

    def report_failures(self) -> bool:
        """Warn of writes that have failed since; True if there were any."""
        failures = self._store.poll()
        for failure in failures:
            self._warn(failure)
        return bool(failures)

    def latest(self) -> dict[str, Any] | None:
        """The newest checkpoint that is whole, None if the run has none.

        Raises:
            ConfigError: it belongs to another configuration; names what differs.
            CheckpointError: there are checkpoints, and all are damaged.
        """
        found = self._store.latest(self._check)
        for problem in self._store.skipped:
            self._console.warn(f"a checkpoint was passed over: {problem}")
        if found is None:
            self._log.restore(None)
            self._log.truncate(None)
            return None
        number, tree = found
        position = tree["replay"]["log"]
        self._first_needed[number] = position["first"]
        self._log.truncate(position)
        self._list_changes()
        return tree

    def load_buffer(self, tree: dict[str, Any], buffer: ReplayBuffer) -> None:
        """Fill an empty buffer with what the checkpoint refers to."""
        state = tree["replay"]["buffer"]
        first, last = state["first_episode"], state["episodes_added"]
        episodes = (episode for _, episode in self._log.episodes(first, last))
        buffer.load(episodes, state)

    def close(self) -> None:
        """Wait for the last write."""
        self._store.wait()
        self.report_failures()
        self._log.close()

    def _append_episodes(self, buffer: ReplayBuffer) -> None:
        for number in range(self._log.count, buffer.num_episodes_added):
            live = number in buffer.live_episodes
            # One that left the buffer before it was saved is not needed, but its place is.
            self._log.append(buffer.episode(number) if live else self._empty_episode)

    def _drop_old_episodes(self, buffer: ReplayBuffer) -> None:
        """Delete replay data that neither the buffer nor a checkpoint on disk needs any more."""
        oldest = buffer.live_episodes.start
        if oldest == 0:
            return
        self._store.wait()
        # A checkpoint of an earlier process may need anything.
        needed = [self._first_needed.get(number, 0) for number in self._store.numbers()]
        self._log.drop_before(oldest, referenced=min(needed, default=oldest))

    def _check(self, tree: dict[str, Any]) -> None:
        if tree.get("format") != FORMAT:
            raise ConfigError(
                f"the checkpoint has format {tree.get('format')}, this version reads {FORMAT}"
            )
        changes = other_settings(tree, self._config)
        if changes:
            raise ConfigError(
                f"the run in {self._folder} was made with other settings: {changes}; "
                "use them again, or another exp_name"
            )
        self._log.restore(tree["replay"]["log"])

    def _list_changes(self) -> None:
        """Say which of the keys that may differ are not as they were when the run last began."""
        try:
            before = yaml.safe_load((self._folder / "config.yaml").read_text())
        except (OSError, ValueError, yaml.YAMLError):
            return
        if not isinstance(before, dict):
            return
        changes = [
            f"{key} {before[key]} (now {value})"
            for key, value in self._config.items()
            if key in MAY_DIFFER - {"resume", "overwrite"}
            and key in before
            and before[key] != value
        ]
        if changes:
            self._console.info(f"changed since the last start: {', '.join(changes)}")

    def _warn(self, error: CheckpointError) -> None:
        self._console.warn(f"{error}; training goes on, and saving is tried again")


def other_settings(tree: dict[str, Any], config: dict[str, Any]) -> str:
    """What keeps a run with the flat ``config`` from going on from ``tree``: ``lr 1 (now 2)``.

    Empty if nothing does.
    """
    stored, now = tree["config"], _identity(config)
    changes = [
        f"{key} {_shown(stored.get(key))} (now {_shown(now.get(key))})"
        for key in sorted(stored.keys() | now.keys())
        if stored.get(key) != now.get(key)
    ]
    more = len(changes) - MOST_NAMED
    return ", ".join(changes[:MOST_NAMED]) + (f", and {more} more" if more > 0 else "")


def _identity(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in MAY_DIFFER}


def _shown(value: Any) -> Any:
    """A key's value as one writes it; a stored schedule is a list of three numbers."""
    if isinstance(value, list | tuple) and len(value) == len(Schedule._fields):
        return Schedule(*value)
    return value


def read_latest(folder: Path) -> dict[str, Any]:
    """The newest whole checkpoint of a run folder, whatever its configuration.

    Raises CheckpointError if there is none.
    """
    found = CheckpointStore(folder / "checkpoints").latest()
    if found is None:
        raise CheckpointError(f"there is no checkpoint in {folder / 'checkpoints'}")
    return found[1]
