"""Saving and resuming: what a checkpoint holds, when one is due, and which one is used.

The replay data lies beside the checkpoints, a file for each episode; a checkpoint refers to a
range of them. ``files.write_durably`` says how a file survives being killed at any moment.
"""

import logging
import time
from pathlib import Path
from typing import Any

from difftori.checkpoints.episodes import EpisodeFiles
from difftori.checkpoints.store import CheckpointStore
from difftori.checkpoints.tree_file import CheckpointError, CheckpointWriteError
from difftori.config import ConfigError, from_flat, plain_defaults
from difftori.replay import ReplayBuffer
from difftori.schedule import Schedule
from difftori.types import EnvSpec

FORMAT = 4
"""of the tree; a checkpoint of another format is refused"""

MAY_DIFFER = frozenset(
    {
        *("train_steps", "eval_episodes", "save_video", "preset", "agent"),
        *("exp_name", "log_dir", "resume", "overwrite", "start_from", "save_every_minutes"),
        *("save_model", "device", "buffer_device", "threads", "compile"),
        *("cuda_graphs", "prefetch", "max_nonfinite", "max_failed_episodes"),
        *("use_wandb", "wandb_project", "wandb_entity", "wandb_mode", "wandb_group"),
        *("wandb_tags", "wandb_artifact", "use_tensorboard"),
    }
)
"""keys of the config that a resumed run may change"""

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
        """``config`` has the flat keys; those outside ``MAY_DIFFER`` must agree to resume."""
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
        whole = {**tree, "format": FORMAT, "config": _identity(self._config), "replay": state}
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
        changes = other_settings(tree, self._config)
        if changes:
            raise ConfigError(
                f"the run in {self._folder} was made with other settings: {changes}; "
                "use them again, or another exp_name"
            )
        for number in _episodes_of(tree):
            self._episodes.load(number)


def other_settings(tree: dict[str, Any], config: dict[str, Any]) -> str:
    """What keeps a run with the flat ``config`` from going on from ``tree``: ``lr 1 (now 2)``.

    Empty if nothing does. A key that is younger than the checkpoint has had its default.
    """
    free = {key: value for key, value in config.items() if key in MAY_DIFFER}
    try:
        before = from_flat({**free, **plain_defaults(), **tree["config"]}, check_devices=False)
    except ConfigError as error:  # of another version
        return str(error)
    now, stored = _identity(config), _identity(before.flat())
    return ", ".join(
        f"{key} {_shown(stored[key])} (now {_shown(now[key])})"
        for key in sorted(now)
        if stored[key] != now[key]
    )


def _shown(value: Any) -> Any:
    """A schedule as one writes it; anything else as it is."""
    return Schedule(*value) if isinstance(value, list) and len(value) == 3 else value


def read_latest(folder: Path) -> dict[str, Any] | None:
    """The newest whole checkpoint of a run folder, whatever its configuration; None without any.

    Raises CheckpointError if there are some, and none can be used.
    """
    found = CheckpointStore(folder / "checkpoints").latest()
    return None if found is None else found[1]


def _episodes_of(tree: dict[str, Any]) -> range:
    """The running numbers of the episodes that a checkpoint refers to."""
    return range(tree["replay"]["first_episode"], tree["replay"]["episodes_added"])


def _identity(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in MAY_DIFFER}
