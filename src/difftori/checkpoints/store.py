"""The checkpoint files of one run: which are kept, and which is used."""

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from difftori.checkpoints.tree_file import CheckpointError, load_tree, save_tree

KEPT = 2
_NAME = re.compile(r"step_(\d{12})\.safetensors")

logger = logging.getLogger(__name__)


class CheckpointStore:
    """``step_000000012000.safetensors``, ..., and ``best.safetensors``, for one process at a time.

    The last ``KEPT`` that are good stay, and the best one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.best_path = folder / "best.safetensors"
        self.kept = self.numbers()
        """numbers of the checkpoints that stay, rising"""
        self.refused: list[str] = []
        """what was wrong with each checkpoint that the last ``latest`` passed over"""

    def path(self, number: int) -> Path:
        return self.folder / f"step_{number:012d}.safetensors"

    def numbers(self) -> list[int]:
        """Numbers of the checkpoints on disk, rising, good or not."""
        names = [entry.name for entry in self.folder.iterdir()] if self.folder.is_dir() else []
        return sorted(int(found[1]) for name in names if (found := _NAME.fullmatch(name)))

    def save(self, number: int, tree: Any, *, best: bool = False) -> None:
        """Write a checkpoint, then remove what need not stay.

        ``number`` grows from save to save; the same number again replaces that checkpoint. With
        ``best`` it becomes ``best.safetensors`` too. Raises what ``save_tree`` raises.
        """
        if best:
            # The best goes first: killed in between, the run resumes from before it and finds it
            # again; the other way round a checkpoint would promise a best file that is not there.
            save_tree(self.best_path, tree)
        save_tree(self.path(number), tree)
        self.kept = [*(n for n in self.kept if n != number), number][-KEPT:]
        self.remove_others()

    def latest(self, check: Callable[[Any], None] | None = None) -> tuple[int, Any] | None:
        """The newest good checkpoint as (number, tree), None where there are none.

        ``check(tree)`` raises CheckpointError to refuse a tree. Nothing on disk changes.

        Raises:
            CheckpointError: there are checkpoints, and none is good; lists what is wrong.
        """
        if (self.folder / "replay").exists():
            raise CheckpointError(
                f"{self.folder} was written by an earlier version, whose checkpoints are not read "
                "any more; use another exp_name, or resume=false overwrite=true"
            )
        self.refused = []
        numbers = self.numbers()
        for number in reversed(numbers):
            try:
                tree = load_tree(self.path(number))
                if check is not None:
                    check(tree)
            except CheckpointError as error:
                self.refused.append(f"{self.path(number).name}: {error}")
            else:
                self.kept = [n for n in numbers if n <= number]
                return number, tree
        if not self.refused:
            return None
        problems = "\n  ".join(self.refused)
        raise CheckpointError(
            f"no checkpoint in {self.folder} is usable, nothing was deleted:\n  {problems}"
        )

    def remove_others(self) -> None:
        """Remove the checkpoints that are not in ``kept``; what cannot go is a warning."""
        try:
            for number in self.numbers():
                if number not in self.kept:
                    self.path(number).unlink(missing_ok=True)
        except OSError as error:
            logger.warning(f"older checkpoints in {self.folder} stay: {error.strerror}")
