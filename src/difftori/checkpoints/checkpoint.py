"""Saving and resuming: what a checkpoint holds, when one is due, and which one is used.

The replay data lies beside the checkpoints, a file for each episode; a checkpoint refers to a
range of them. ``files.write_durably`` says how a file survives being killed at any moment.
"""

import logging
import time
from pathlib import Path
from typing import Any

from difftori.checkpoints.episodes import EpisodeFiles
from difftori.checkpoints.settings import binding, other_settings
from difftori.checkpoints.store import CheckpointStore
from difftori.checkpoints.tree_file import CheckpointError, CheckpointWriteError
from difftori.config import ConfigError
from difftori.replay.buffer import ReplayBuffer
from difftori.types import EnvSpec

FORMAT = 4
"""of the tree; a checkpoint of another format is refused"""

logger = logging.getLogger(__name__)


class Checkpointer:
    """The checkpoints and the replay data of one run folder; begin with ``latest``."""

    def __init__(
        self,
        folder: Path,
        spec: EnvSpec,
        config: dict[str, Any],
        *,
        every_minutes: float,
    ) -> None:
        """``config`` has the flat keys."""
        self._folder = folder
        self._config = config
        self._every_seconds = 60 * every_minutes
        self._saved_at = time.monotonic()
        self._store = CheckpointStore(folder / "checkpoints")
        self._episodes = EpisodeFiles(folder / "checkpoints" / "episodes", spec)
        self._episodes_written = 0
        """episodes on disk, and the number of the next"""
        self._first_needed: dict[int, int] = {}
        """oldest episode that each checkpoint on disk needs, by the checkpoint's number"""

    @property
    def due(self) -> bool:
        return time.monotonic() - self._saved_at >= self._every_seconds

    @property
    def due_within_episode(self) -> bool:
        """In the middle of an episode too, unless there is one at each end anyway."""
        return self._every_seconds > 0 and self.due

    def save(
        self, number: int, tree: dict[str, Any], buffer: ReplayBuffer, *, best: bool = False
    ) -> bool:
        """Write ``tree`` and what the buffer holds, durably; ``number`` grows from save to save.

        A disk that does not take it is a warning and a False (the old checkpoints stay intact,
        and the next time it is tried again).
        """
        self._saved_at = time.monotonic()
        state = buffer.priorities_state()
        whole = {**tree, "format": FORMAT, "config": binding(self._config), "replay": state}
        try:
            self._write_episodes(buffer)
            self._store.save(number, whole, best=best)
        except CheckpointWriteError as error:
            logger.warning(f"{error}; training goes on, and saving is tried again")
            return False
        needed = {**self._first_needed, number: buffer.live_episodes.start}
        # A checkpoint of an earlier process may need anything.
        self._first_needed = {n: needed.get(n, 0) for n in self._store.kept}
        self._episodes.remove_before(min(self._first_needed.values()))
        return True

    def latest(self) -> dict[str, Any] | None:
        """The newest checkpoint that is whole, None if the run has none.

        It becomes the last one: newer ones, which cannot be used, are deleted.

        Raises:
            ConfigError: it belongs to another configuration; names what differs.
            CheckpointError: there are checkpoints, and none can be used.
        """
        found = self._store.latest(self._check)
        for problem in self._store.refused:
            logger.warning(f"a checkpoint was passed over: {problem}")
        if found is None:
            return None
        number, tree = found
        # The run will write other episodes in place of those that newer ones refer to.
        self._store.remove_others()
        self._first_needed = {number: tree["replay"]["first_episode"]}
        self._episodes_written = tree["replay"]["episodes_added"]
        return tree

    def load_buffer(self, tree: dict[str, Any], buffer: ReplayBuffer) -> None:
        """Fill an empty buffer with what the checkpoint refers to.

        Raises:
            CheckpointError: an episode is damaged, or does not fit the buffer.
        """
        try:
            buffer.load(map(self._episodes.load, _episodes_of(tree)), tree["replay"])
        except ValueError as error:
            raise CheckpointError(f"the replay data does not fit this run: {error}") from error

    def _write_episodes(self, buffer: ReplayBuffer) -> None:
        """Those that are not on disk yet, and that the buffer has not forgotten."""
        for number in range(self._episodes_written, buffer.num_episodes_added):
            if number in buffer.live_episodes:
                self._episodes.save(number, buffer.episode(number))
        self._episodes_written = buffer.num_episodes_added

    def _check(self, tree: dict[str, Any]) -> None:
        if tree.get("format") != FORMAT:
            raise ConfigError(
                f"the checkpoint has format {tree.get('format')}, this version reads {FORMAT}"
            )
        changes = other_settings(tree["config"], self._config)
        if changes:
            raise ConfigError(
                f"the run in {self._folder} was made with other settings: {changes}; "
                "use them again, or another exp_name"
            )
        for number in _episodes_of(tree):
            self._episodes.load(number)


def read_latest(folder: Path) -> dict[str, Any] | None:
    """The newest whole checkpoint of a run folder, whatever its configuration; None without any.

    Raises CheckpointError if there are some, and none can be used.
    """
    found = CheckpointStore(folder / "checkpoints").latest()
    return None if found is None else found[1]


def _episodes_of(tree: dict[str, Any]) -> range:
    """The running numbers of the episodes that a checkpoint refers to."""
    return range(tree["replay"]["first_episode"], tree["replay"]["episodes_added"])
