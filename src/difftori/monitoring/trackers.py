"""Services that show a run while it goes on. The run itself never depends on one of them."""

import json
import os
import re
import secrets
import string
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from difftori.checkpoints.files import write_bytes
from difftori.monitoring import wandb_files

INIT_TIMEOUT_SECONDS = 30
FINISH_TIMEOUT_SECONDS = 60
FLUSH_SECONDS = 1.0
ARTIFACT_NAME_LENGTH = 128
"""characters, the most that W&B takes"""

PANEL = (
    "plan_iterations",
    "plan_return_before",
    "plan_return_after",
    "plan_return_gain",
    "share_at_bound",
    "share_zero_gradients",
    "grad_norm_a",
    "plans_not_finite",
    "plans_dropped",
    "replayed_plans_dropped",
)
"""what tells how well the planner works; shown once more under ``planner/``"""


def named(record: Mapping[str, Any], category: str) -> dict[str, Any]:
    """A record as trackers show it: each name behind its panel's, without the step."""
    shown = {f"{category}/{key}": value for key, value in record.items() if key != "env_step"}
    if category == "train":
        shown |= {f"planner/{key}": record[key] for key in PANEL if key in record}
    return shown


@runtime_checkable
class Tracker(Protocol):
    """Shows records, videos and files somewhere. No method raises: it warns once and falls silent.

    ``step`` counts environment steps. Within a category, which is what stands in front of the
    slash of a record's first name, it rises from record to record. A resumed run hands over all
    its records from the first one on: a tracker takes those that it lacks.
    """

    def log(self, record: Mapping[str, Any], step: int) -> None:
        """Show one record, its names as in ``train/episode_reward``."""

    def summary(self, values: Mapping[str, Any]) -> None:
        """Set the numbers that stand for the whole run."""

    def video(self, path: Path, step: int) -> None:
        """Show an mp4 file."""

    def artifact(self, path: Path, name: str) -> None:
        """Keep a file or folder under ``name``."""

    def close(self, exit_code: int) -> None:
        """Send what is left; 0 marks the run as finished, anything else as failed."""


def run_id(folder: Path) -> str:
    """The run's own id of 8 characters, made on first use, kept in ``folder/wandb_id.txt``.

    Raises OSError if the folder cannot be read or written.
    """
    path = folder / "wandb_id.txt"
    if path.exists() and re.fullmatch(r"[a-z0-9]{8}", text := path.read_text().strip()):
        return text
    text = "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(8))
    write_bytes(path, f"{text}\n".encode())
    return text


def start_wandb(
    *,
    project: str,
    entity: str | None,
    mode: Literal["online", "offline"],
    run_id: str,
    name: str | None,
    group: str | None,
    tags: Sequence[str],
    config: dict[str, Any],
    folder: Path,
    warn: Callable[[str], None],
) -> "WandbTracker | None":
    """Weights & Biases for the run in ``folder``; its own files go to ``folder/wandb``.

    Never raises, never asks on the terminal, and gives up on a server after
    ``INIT_TIMEOUT_SECONDS``. After one warning it returns an offline tracker if the server cannot
    be used, and None if wandb is missing, nobody is logged in, or offline fails as well.
    """
    try:
        import wandb
    except ImportError as error:
        warn(f"W&B is off: {error}; install it with `pip install wandb`")
        return None

    def begin(mode: Literal["online", "offline"]) -> WandbTracker:
        run = wandb.init(
            project=project,
            entity=entity,
            mode=mode,
            id=run_id,
            name=name,
            group=group,
            tags=list(tags),
            job_type="train",
            config=config,
            dir=str(folder),
            # wandb knows no resume offline: it starts another folder with the same id, which
            # `wandb sync` appends in order of time
            resume="allow" if mode == "online" else None,
            settings=wandb.Settings(
                init_timeout=INIT_TIMEOUT_SECONDS,
                finish_timeout=FINISH_TIMEOUT_SECONDS,
                silent=True,
                # the live line's control codes have no place in a log
                console="off",
                allow_val_change=True,
                # a process killed outright loses what is not in the file yet
                x_transaction_log_flush_interval=FLUSH_SECONDS,
            ),
        )
        run.define_metric("env_step", hidden=True)
        run.define_metric("*", step_metric="env_step")
        own_folder = Path(run.dir).parent
        location = run.url if mode == "online" else str(own_folder)
        records = own_folder / f"run-{run_id}.wandb"
        return WandbTracker(
            run, location=location or "", folder=folder, warn=warn, records=records, mode=mode
        )

    # wandb raises many kinds of errors here, of its own and of its libraries; none of them is
    # worth a training run
    try:
        if mode == "online" and not _logged_in(wandb):
            warn(
                "W&B is off: nobody is logged in. Run `wandb login` once on this machine, "
                "or keep the records here with wandb_mode=offline"
            )
            return None
        return begin(mode)
    except Exception as error:
        reason = _sentence(error)
    if mode == "offline":
        warn(f"W&B is off: {reason}")
        return None
    try:
        # its background process still holds the run's id
        wandb.teardown()
        tracker = begin("offline")
    except Exception as error:
        warn(f"W&B is off: {reason}; nor offline: {_sentence(error)}")
        return None
    warn(
        f"W&B cannot be used online: {reason}. This run's records are kept offline; "
        f"send them later with `wandb sync {tracker.location}`"
    )
    return tracker


class WandbTracker:
    """One W&B run. Each record goes out once, also when a resumed run repeats it.

    wandb numbers rows, and takes none that is not behind the last one. Here a row's number is its
    environment step plus a place for its category, so that a repeated record has its old number.
    Where the rows ended, the server says; offline, where wandb begins another file at each
    resume, the files of before are read back, and ``folder/wandb_sent.json`` says which, and
    where they ended if they are gone because they were synced.
    """

    def __init__(
        self,
        run: Any,
        *,
        location: str,
        folder: Path,
        warn: Callable[[str], None],
        records: Path | None = None,
        mode: Literal["online", "offline"] = "offline",
    ) -> None:
        """``records`` is the file that wandb itself writes to."""
        self.location = location
        """web address, or folder if offline"""
        self._run = run
        self._warn = warn
        self._enabled = True
        self._closed = False
        self._marker_failed = False
        # within the run's folder, which may be moved before the run goes on
        self._records = None if records is None else os.path.relpath(records, folder)
        self._sent_path = folder / "wandb_sent.json"
        written_before, reached = self._read_next_row(), run.step
        if mode == "online":
            # a server knows best what has reached it, and gets what has not
            self._first_row = self._next_row = reached
            if written_before > reached:
                warn(
                    f"W&B lacks records that {folder / 'wandb'} holds; they are sent now from "
                    "metrics.jsonl, so do not `wandb sync` them as well"
                )
        else:
            self._first_row = self._next_row = max(written_before, reached)

    def log(self, record: Mapping[str, Any], step: int) -> None:
        category = next(iter(record), "").split("/")[0]
        self._guard(lambda: self._send_row(category, record, step))

    def summary(self, values: Mapping[str, Any]) -> None:
        self._guard(lambda: self._run.summary.update(dict(values)))

    def video(self, path: Path, step: int) -> None:
        def send() -> None:
            import wandb

            self._send_row("video", {"eval/video": wandb.Video(str(path), format="mp4")}, step)

        self._guard(send)

    def artifact(self, path: Path, name: str) -> None:
        def send() -> None:
            import wandb

            name_there = re.sub(r"[^A-Za-z0-9_.-]", "-", name)[:ARTIFACT_NAME_LENGTH]
            kept = wandb.Artifact(name_there, type="model")
            kept.add_dir(str(path)) if path.is_dir() else kept.add_file(str(path))
            self._run.log_artifact(kept)

        self._guard(send)

    def close(self, exit_code: int) -> None:
        if not self._closed:
            self._closed = True
            self._guard(lambda: self._run.finish(exit_code=exit_code), even_if_off=True)
            self._enabled = False

    def _send_row(self, category: str, record: Mapping[str, Any], step: int) -> None:
        row = step + _PLACES[category]
        if row < self._next_row:
            return
        self._next_row = row + 1
        self._write_sent()
        self._run.log({**record, "env_step": step}, step=row, commit=True)

    def _guard(self, action: Callable[[], object], *, even_if_off: bool = False) -> None:
        """Run ``action``; whatever goes wrong in it ends this tracker and not the training."""
        if not self._enabled and not even_if_off:
            return
        try:
            action()
        except Exception as error:
            if self._enabled:
                self._warn(
                    f"W&B is off from here on: {_sentence(error)}; metrics.jsonl has all records"
                )
            self._enabled = False

    def _read_next_row(self) -> int:
        """The first row that no session before this one has sent."""
        try:
            sent = json.loads(self._sent_path.read_text())
            if sent["run_id"] != self._run.id:
                return 0
            first, following = int(sent["first_row"]), int(sent["next_row"])
            path = None if sent["records"] is None else self._sent_path.parent / sent["records"]
        except (OSError, ValueError, KeyError, TypeError):
            return 0
        written = None if path is None else wandb_files.next_step(path)
        return following if written is None else max(first, written)

    def _write_sent(self) -> None:
        sent = {
            "run_id": self._run.id,
            "first_row": self._first_row,
            "next_row": self._next_row,
            "records": self._records,
        }
        try:
            write_bytes(self._sent_path, (json.dumps(sent) + "\n").encode())
        except OSError as error:
            if not self._marker_failed:
                self._marker_failed = True
                self._warn(
                    f"cannot write {self._sent_path}: {error.strerror}; "
                    "after a resume W&B may show records twice"
                )


_PLACES = {"train": 0, "eval": 1, "video": 2}
"""of a category among the rows of one environment step; an episode takes more steps than places"""


def _logged_in(wandb: Any) -> bool:
    """Whether there is a key for the server, without asking the user or the server."""
    # silent, because greeting the user by name would wait for the server
    wandb.setup(wandb.Settings(silent=True))
    return bool(wandb.login(prompt=False, verify=False))


def _sentence(error: Exception) -> str:
    """The error's first line; some of wandb's errors go on for a page."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
