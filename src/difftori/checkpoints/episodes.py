"""Finished episodes on disk: one file each, written once.

Of stacked observations a file holds each frame once. Its entries are the fields of ``Episode``, so
a new field of a transition is stored without a change here.
"""

import logging
from dataclasses import fields
from pathlib import Path

import torch
from torch import Tensor

from difftori.checkpoints.tree_file import CheckpointError, load_tree, save_tree
from difftori.replay.layout import newest_frames, stack_frames
from difftori.types import EnvSpec, Episode

FIELDS = tuple(field.name for field in fields(Episode))

logger = logging.getLogger(__name__)


class EpisodeFiles:
    """``episodes/000123.safetensors``, by the running number of the episode from 0."""

    def __init__(self, folder: Path, spec: EnvSpec) -> None:
        self.folder = folder
        self._stack = spec.frame_stack

    def path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.safetensors"

    def save(self, number: int, episode: Episode) -> None:
        """Write it durably, in place of a file of that number from a run that was killed.

        Raises:
            ValueError: its observations are not a running stack of frames.
            CheckpointWriteError: the disk did not take it.
        """
        arrays = {name: getattr(episode, name) for name in FIELDS}
        arrays["obs"] = newest_frames(episode.obs, self._stack)
        tree = {name: torch.from_numpy(array) for name, array in arrays.items()}
        save_tree(self.path(number), tree)

    def load(self, number: int) -> Episode:
        """Read it back. Raises CheckpointError, naming the file, if it is damaged or missing."""
        path = self.path(number)
        tree = load_tree(path)
        missing = [name for name in FIELDS if name not in tree]
        if missing:
            raise CheckpointError(f"{path}: an episode without {', '.join(missing)}")
        tree["obs"] = _stacked(tree["obs"], self._stack)
        return Episode(**{name: tree[name].numpy() for name in FIELDS})

    def remove_before(self, number: int) -> None:
        """Remove the episodes below ``number``; what cannot go is a warning."""
        try:
            for path in self.folder.glob("*.safetensors"):
                if path.stem.isdecimal() and int(path.stem) < number:
                    path.unlink(missing_ok=True)
        except OSError as error:
            logger.warning(f"old episodes in {self.folder} stay: {error.strerror}")


def _stacked(frames: Tensor, stack: int) -> Tensor:
    """``[L+1, C, ...]`` frames to ``[L+1, stack·C, ...]`` observations; the first frame repeats."""
    before = frames[:1].expand(stack - 1, *frames.shape[1:])
    return stack_frames(torch.cat([before, frames])[:, None], stack)[:, 0]
