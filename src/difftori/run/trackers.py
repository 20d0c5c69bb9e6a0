"""Services that show a run while it goes on. The run itself never depends on one of them."""

import json
import re
import secrets
import string
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from difftori.run.files import write_bytes

INIT_TIMEOUT_SECONDS = 30
FINISH_TIMEOUT_SECONDS = 60
FLUSH_SECONDS = 1.0


@runtime_checkable
class Tracker(Protocol):
    """Shows records, videos and files somewhere. No method raises: it warns once and falls silent.

    ``step`` counts environment steps. Within a category, which is what stands in front of the
    slash of a record's names, it rises from record to record.
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
        run.define_metric("env_step")
        run.define_metric("*", step_metric="env_step")
        location = run.url if mode == "online" else str(Path(run.dir).parent)
        return WandbTracker(run, location=location or "", folder=folder, warn=warn)

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

    wandb itself cannot tell what was sent before: offline it begins anew at each resume. So
    ``folder/wandb_sent.json`` keeps the last step of each category and the number of rows, which
    becomes wandb's own row index; the rows of several offline folders then follow each other.
    """

    def __init__(
        self, run: Any, *, location: str, folder: Path, warn: Callable[[str], None]
    ) -> None:
        self.location = location
        """web address, or folder if offline"""
        self._run = run
        self._warn = warn
        self._enabled = True
        self._closed = False
        self._marker_failed = False
        self._sent_path = folder / "wandb_sent.json"
        self._sent = self._read_sent()
        self._rows = max(self._sent.pop("rows", 0), run.step)

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

            kept = wandb.Artifact(re.sub(r"[^A-Za-z0-9_.-]", "-", name), type="run-file")
            kept.add_dir(str(path)) if path.is_dir() else kept.add_file(str(path))
            self._run.log_artifact(kept)

        self._guard(send)

    def close(self, exit_code: int) -> None:
        if not self._closed:
            self._closed = True
            self._guard(lambda: self._run.finish(exit_code=exit_code), even_if_off=True)
            self._enabled = False

    def _send_row(self, category: str, record: Mapping[str, Any], step: int) -> None:
        if step <= self._sent.get(category, -1):
            return
        row, self._rows = self._rows, self._rows + 1
        self._sent[category] = step
        # noted before it is sent: a kill in between leaves a gap, which metrics.jsonl can fill,
        # and not a row twice
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

    def _read_sent(self) -> dict[str, int]:
        try:
            text = json.loads(self._sent_path.read_text())
            return {str(k): int(v) for k, v in text["sent"].items()} if self._is_ours(text) else {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    def _is_ours(self, text: Mapping[str, Any]) -> bool:
        return bool(text["run_id"] == self._run.id)

    def _write_sent(self) -> None:
        sent = {"run_id": self._run.id, "sent": {**self._sent, "rows": self._rows}}
        try:
            write_bytes(self._sent_path, (json.dumps(sent) + "\n").encode())
        except OSError as error:
            if not self._marker_failed:
                self._marker_failed = True
                self._warn(
                    f"cannot write {self._sent_path}: {error.strerror}; "
                    "after a resume W&B may show records twice"
                )


def _logged_in(wandb: Any) -> bool:
    """Whether there is a key for the server, without asking the user or the server."""
    # silent, because greeting the user by name would wait for the server
    wandb.setup(wandb.Settings(silent=True))
    return bool(wandb.login(prompt=False, verify=False))


def _sentence(error: Exception) -> str:
    """The error's first line; some of wandb's errors go on for a page."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
