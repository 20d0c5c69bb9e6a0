"""The checkpoints of one run folder: which are kept, which is used, and writing in the background.

What one file looks like, and how it survives a kill, is in ``tree_file``.
"""

import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from difftori.checkpoints.tree_file import (
    CheckpointError,
    CheckpointWriteError,
    Image,
    image_of,
    link_file,
    load_tree,
    write_image,
)

_STEP = re.compile(r"step_(\d{12})\.safetensors")


class CheckpointStore:
    """The checkpoints of one run: ``step_000000012000.safetensors``, ..., and the best one.

    For one process at a time (see RunLock) and one thread of it. The background write is that of
    one thread, which holds no lock and is waited for when the interpreter ends.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = folder
        self.keep = keep
        self.best_path = folder / "best.safetensors"
        self.skipped: list[str] = []
        """what was wrong with each checkpoint that the last ``latest`` passed over"""
        self._refused: set[int] = set()
        self._thread: threading.Thread | None = None
        self._errors: list[CheckpointWriteError] = []

    def path(self, number: int) -> Path:
        return self.folder / f"step_{number:012d}.safetensors"

    def numbers(self) -> list[int]:
        """Numbers of the checkpoints on disk, rising, valid or not. Raises OSError."""
        names = [entry.name for entry in self.folder.iterdir()] if self.folder.is_dir() else []
        return sorted(int(found[1]) for name in names if (found := _STEP.fullmatch(name)))

    def save(self, number: int, tree: Any, *, best: bool = False) -> None:
        """Write now. ``number`` never falls; the same number again replaces that checkpoint.

        ``best`` makes it ``best.safetensors`` too. Raises CheckpointError as ``save_tree`` does,
        ValueError for a number below that of a checkpoint which ``latest`` did not refuse.
        """
        self._begin(number)
        self._store(number, image_of(tree, copy=False), best)

    def save_async(
        self,
        number: int,
        tree: Any,
        *,
        best: bool = False,
        before: Callable[[], None] | None = None,
    ) -> None:
        """Copy ``tree`` and return; a thread writes the copy. Errors of the disk: see ``poll``.

        While an earlier write runs this waits for its end, so that which files appear does not
        depend on the speed of the disk and no more than one copy is in memory. ``before`` runs in
        the thread ahead of the write: what the checkpoint refers to is made durable there.
        Raises CheckpointError (content that cannot be stored) and ValueError like ``save``.
        """
        self._begin(number)
        image = image_of(tree, copy=True)

        def run() -> None:
            try:
                if before is not None:
                    before()
                self._store(number, image, best)
            except CheckpointWriteError as error:
                self._errors.append(error)
            except Exception as error:  # it would end in the thread, told to nobody
                path, needed = self.path(number), image.bytes_needed
                self._errors.append(CheckpointWriteError(path, needed, repr(error)))

        thread = threading.Thread(target=run, name="checkpoint")
        try:
            thread.start()
        except RuntimeError:  # the system gives no thread: rather late than not at all
            run()
        else:
            self._thread = thread

    def wait(self) -> None:
        """Return when no write is running."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def poll(self) -> list[CheckpointWriteError]:
        """Errors of background writes since the last call; does not wait."""
        return [self._errors.pop(0) for _ in range(len(self._errors))]

    def latest(self, validate: Callable[[Any], None] | None = None) -> tuple[int, Any] | None:
        """The newest usable checkpoint as (number, tree), None where there are no checkpoints.

        ``validate(tree)`` raises CheckpointError to refuse a tree. What was passed over is told in
        ``skipped`` and removed when a later save has replaced it. Raises CheckpointError, which
        lists them, when none is usable; nothing is deleted then.
        """
        self.wait()
        self.skipped, self._refused = [], set()
        for number in reversed(self.numbers()):
            try:
                tree = load_tree(self.path(number))
            except CheckpointError as error:
                self.skipped.append(str(error))
            else:
                try:
                    if validate is not None:
                        validate(tree)
                    return number, tree
                except CheckpointError as error:
                    self.skipped.append(f"{self.path(number)}: refused: {error}")
            self._refused.add(number)
        self._refused = set()
        if not self.skipped:
            return None
        problems = "\n  ".join(self.skipped)
        raise CheckpointError(
            f"no checkpoint in {self.folder} is usable, nothing was deleted:\n  {problems}"
        )

    def _begin(self, number: int) -> None:
        self.wait()
        try:
            newest = max(set(self.numbers()) - self._refused, default=0)
        except OSError:  # the write that follows meets it too, and tells it as its own
            return
        if not newest <= number < 10**12:
            raise ValueError(f"checkpoint number {number} is below {newest}, the newest on disk")

    def _store(self, number: int, image: Image, best: bool) -> None:
        if best:
            # The best goes first: killed in between, the run resumes from before it and finds it
            # again; the other way round a checkpoint would promise a best file that is not there.
            write_image(self.best_path, image)
            link_file(self.best_path, self.path(number))
        else:
            write_image(self.path(number), image)
        # Files that latest() refused are of an abandoned future: the run went on from before them.
        self._refused.discard(number)
        try:
            numbers = self.numbers()
            kept = [n for n in numbers if n not in self._refused][-self.keep :]
            for old in set(numbers) - set(kept):
                self.path(old).unlink(missing_ok=True)
        except OSError as error:
            reason = f"written, but older ones cannot be removed: {error.strerror}"
            raise CheckpointWriteError(self.path(number), 0, reason) from error
        self._refused.clear()
