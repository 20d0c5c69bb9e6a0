"""W&B: the real client offline, read back from its own files; and everything that can fail."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from difftori.monitoring import wandb_files
from difftori.monitoring.trackers import (
    FLUSH_SECONDS,
    Tracker,
    WandbTracker,
    named,
    run_id,
    start_wandb,
)

SOURCE = Path(__file__).parents[2] / "src"

PROGRAM = """
import json, os, signal, sys, time
from pathlib import Path
from difftori.monitoring.trackers import run_id, start_wandb

folder, job = Path(sys.argv[1]), json.loads(sys.argv[2])
tracker = start_wandb(
    project="p", entity=None, mode=job["mode"], run_id=run_id(folder), name="n", group="g",
    tags=["t"], config={"seed": 1}, folder=folder, warn=lambda text: print("WARN", text),
)
print("tracker", tracker is not None)
if tracker is not None:
    for category, step in job["records"]:
        tracker.log({f"{category}/reward": float(step), f"{category}/nan": float("nan")}, step)
    if job.get("video"):
        tracker.video(Path(job["video"]), 2000)
        tracker.artifact(Path(job["video"]), "a model")
    if job.get("kill"):
        time.sleep(job["kill"])
        os.kill(os.getpid(), signal.SIGKILL)
    tracker.summary({"best": 2.0})
    tracker.close(0)
"""


def run(folder: Path, env: dict[str, str] | None = None, **job: Any) -> list[str]:
    """Run a process that logs ``records``; what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder), json.dumps({"mode": "offline", **job})],
        env={
            **{key: value for key, value in os.environ.items() if not key.startswith("WANDB")},
            "PYTHONPATH": str(SOURCE),
            "HOME": str(folder),
            **(env or {}),
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == (-9 if job.get("kill") else 0), done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout.splitlines()


def wandb_records(path: Path) -> list[Any]:
    """The protobuf records of a ``.wandb`` file: a LevelDB log of 32 KiB blocks."""
    from wandb.proto import wandb_internal_pb2

    data, offset, parts, records = path.read_bytes(), 7, b"", []
    while offset + 7 <= len(data):
        left_in_block = 32768 - offset % 32768
        if left_in_block < 7:
            offset += left_in_block
            continue
        length, kind = int.from_bytes(data[offset + 4 : offset + 6], "little"), data[offset + 6]
        parts += data[offset + 7 : offset + 7 + length]
        offset += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()  # type: ignore[attr-defined]
            record.ParseFromString(parts)
            records.append(record)
            parts = b""
    return records


def sent_rows(folder: Path) -> list[list[dict[str, Any]]]:
    """The history rows that a sync would send, per offline folder, oldest first."""
    result = []
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda p: p.stat().st_ctime):
        rows = [record.history for record in wandb_records(path) if record.HasField("history")]
        result.append(
            [
                {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json)
                    for item in row.item
                }
                for row in rows
            ]
        )
    return result


def test_offline_records_reach_the_file_once_over_a_kill_and_a_resume(tmp_path: Path) -> None:
    video = tmp_path / "v.mp4"
    video.write_bytes(b"not looked at")
    records = [("eval", 0), ("train", 500), ("train", 1000), ("eval", 1000)]
    run(tmp_path, records=records, kill=2 * FLUSH_SECONDS)
    # resumed from a checkpoint at 500: the rows of 1000 come again
    again = [*records, ("train", 1500), ("train", 2000)]
    assert run(tmp_path, records=again, video=str(video)) == ["tracker True"]

    before, after = sent_rows(tmp_path)
    assert [row["env_step"] for row in before] == [0, 500, 1000, 1000]
    rows = before + after
    assert [row["_step"] for row in rows] == [1, 500, 1000, 1001, 1500, 2000, 2002]
    assert [row["env_step"] for row in rows] == [0, 500, 1000, 1000, 1500, 2000, 2000]
    assert [row.get("train/reward") for row in rows] == [None, 500, 1000, None, 1500, 2000, None]
    assert [row.get("eval/reward") for row in rows] == [0, None, None, 1000, None, None, None]

    (path,) = tmp_path.glob("wandb/latest-run/*.wandb")
    records = wandb_records(path)
    (begun,) = [record.run for record in records if record.HasField("run")]
    assert (begun.run_id, begun.project, begun.run_group) == (run_id(tmp_path), "p", "g")
    assert (begun.display_name, list(begun.tags), begun.job_type) == ("n", ["t"], "train")
    metrics = [record.metric for record in records if record.HasField("metric")]
    assert any(m.glob_name == "*" and m.step_metric == "env_step" for m in metrics)
    assert [record.exit.exit_code for record in records if record.HasField("exit")] == [0]
    assert [key for key in rows[-1] if key.startswith("eval/video")]
    kept = [record.artifact for record in records if record.HasField("artifact")]
    assert [(artifact.name, artifact.type) for artifact in kept] == [("a-model", "model")]


MANY = [("train", 100 * i) for i in range(1, 400)]


@pytest.fixture(scope="module")
def killed_and_resumed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was killed as soon as its last row was handed to the client."""
    folder = tmp_path_factory.mktemp("killed")
    run(folder, records=MANY[:300], kill=0.0)
    run(folder, records=MANY)
    return folder


def test_rows_that_a_kill_took_from_the_client_are_sent_by_the_next(
    killed_and_resumed: Path,
) -> None:
    rows = [row["_step"] for part in sent_rows(killed_and_resumed) for row in part]
    assert rows == [step for _, step in MANY]


def test_a_file_is_read_back_as_far_as_it_goes(killed_and_resumed: Path, tmp_path: Path) -> None:
    files = list(killed_and_resumed.glob("wandb/offline-run-*/*.wandb"))
    whole = max((path.read_bytes() for path in files), key=len)
    assert len(whole) > 32768  # records cross blocks
    found: list[int | None] = []
    for size in (*range(0, len(whole), len(whole) // 50), len(whole)):
        (tmp_path / "cut").write_bytes(whole[:size])
        found.append(wandb_files.next_step(tmp_path / "cut"))
    numbers = [number for number in found if number is not None]
    assert numbers == sorted(found)  # type: ignore[type-var]
    assert (numbers[0], len(set(numbers)) > 10, numbers[-1] % 100) == (0, True, 1)
    assert wandb_files.next_step(tmp_path / "gone") is None
    (tmp_path / "cut").write_bytes(bytes(range(256)) * 200)
    assert wandb_files.next_step(tmp_path / "cut") in (0, None)


def test_a_run_whose_offline_files_were_synced_and_deleted_repeats_nothing(
    killed_and_resumed: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(killed_and_resumed, tmp_path / "run", symlinks=True))
    shutil.rmtree(folder / "wandb")
    run(folder, records=[*MANY, ("eval", MANY[-1][1])])
    (rows,) = sent_rows(folder)
    assert [row["_step"] for row in rows] == [MANY[-1][1] + 1]


def test_without_a_login_there_is_one_warning_that_says_what_to_do(tmp_path: Path) -> None:
    warning, started = run(tmp_path, mode="online", records=[])
    assert "wandb login" in warning
    assert "wandb_mode=offline" in warning
    assert started == "tracker False"


def test_a_server_that_refuses_means_offline(tmp_path: Path) -> None:
    # a malformed key is refused before anything is sent
    env = {"WANDB_API_KEY": "short", "WANDB_BASE_URL": "http://127.0.0.1:9"}
    warning, started = run(tmp_path, env, mode="online", records=[("train", 500)])
    assert warning.startswith("WARN W&B cannot be used online")
    assert "wandb sync" in warning
    assert started == "tracker True"
    assert [row["env_step"] for row in sent_rows(tmp_path)[-1]] == [500]


def start(tmp_path: Path, warnings: list[str]) -> Tracker | None:
    return start_wandb(
        project="p", entity=None, mode="offline", run_id="abcd1234", name=None, group=None,
        tags=[], config={}, folder=tmp_path, warn=warnings.append,
    )  # fmt: skip


def test_without_wandb_there_is_one_warning(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    warnings: list[str] = []
    assert start(tmp_path, warnings) is None
    assert len(warnings) == 1
    assert "pip install wandb" in warnings[0]


def test_a_client_that_cannot_start_is_one_warning(tmp_path: Path, monkeypatch: Any) -> None:
    def init(**_: Any) -> None:
        raise RuntimeError("service died\nand a page more")

    fake = SimpleNamespace(init=init, Settings=lambda **_: None)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    warnings: list[str] = []
    assert start(tmp_path, warnings) is None
    assert warnings == ["W&B is off: RuntimeError: service died"]


class FakeRun:
    """A wandb run that keeps its rows, and fails from row ``fails_at`` on."""

    def __init__(self, *, step: int = 0, fails_at: int = 1000, name: str = "abcd1234") -> None:
        self.id, self.step, self.fails_at = name, step, fails_at
        self.rows: list[tuple[int, dict[str, Any]]] = []
        self.exit_codes: list[int] = []

    def log(self, data: dict[str, Any], *, step: int, commit: bool) -> None:
        if len(self.rows) >= self.fails_at:
            raise ConnectionError("gone")
        self.rows.append((step, data))

    def finish(self, exit_code: int) -> None:
        self.exit_codes.append(exit_code)
        if self.fails_at < 1000:
            raise ConnectionError("still gone")


def tracker(fake: FakeRun, folder: Path, warnings: list[str] | None = None) -> WandbTracker:
    heard = [] if warnings is None else warnings
    return WandbTracker(fake, location="", folder=folder, warn=heard.append)


def test_a_failure_later_is_one_warning(tmp_path: Path) -> None:
    warnings: list[str] = []
    fake = FakeRun(fails_at=1)
    subject = tracker(fake, tmp_path, warnings)
    for step in range(4):
        subject.log({"train/x": 1.0}, step)
    subject.close(1)
    subject.close(1)
    assert len(warnings) == 1
    assert "ConnectionError: gone" in warnings[0]
    assert fake.exit_codes == [1]


def test_a_disk_that_takes_no_marker_is_no_reason_to_stop(tmp_path: Path) -> None:
    warnings: list[str] = []
    fake = FakeRun()
    subject = tracker(fake, tmp_path / "gone", warnings)
    for step in range(3):
        subject.log({"train/x": 1.0}, step)
    assert len(fake.rows) == 3
    assert len(warnings) == 1
    assert "wandb_sent.json" in warnings[0]


def test_a_server_gets_what_it_lacks_and_nothing_twice(tmp_path: Path) -> None:
    tracker(FakeRun(), tmp_path).log({"train/x": 1.0}, 900)
    fake = FakeRun(step=501)
    heard: list[str] = []
    subject = WandbTracker(fake, location="", folder=tmp_path, warn=heard.append, mode="online")
    assert "do not `wandb sync`" in heard[0]
    for step in (400, 500, 700, 900):
        subject.log({"train/x": 1.0}, step)
        subject.log({"eval/x": 2.0}, step)
    assert [row for row, _ in fake.rows] == [501, 700, 701, 900, 901]
    assert fake.rows[0][1] == {"eval/x": 2.0, "env_step": 500}


def test_the_planner_has_a_panel_of_its_own() -> None:
    record = {"env_step": 1, "plan_iterations": 7.0, "reward_loss": 0.5, "share_at_bound": 0.25}
    assert named(record, "train") == {
        "train/plan_iterations": 7.0,
        "train/reward_loss": 0.5,
        "train/share_at_bound": 0.25,
        "planner/plan_iterations": 7.0,
        "planner/share_at_bound": 0.25,
    }
    assert named({"env_step": 1, "grad_norm_a": 1.0}, "eval") == {"eval/grad_norm_a": 1.0}


def test_the_marker_belongs_to_one_run(tmp_path: Path) -> None:
    tracker(FakeRun(), tmp_path).log({"train/x": 1.0}, 500)
    same, other = FakeRun(), FakeRun(name="efgh5678")
    tracker(same, tmp_path).log({"train/x": 1.0}, 500)
    tracker(other, tmp_path).log({"train/x": 1.0}, 500)
    assert (len(same.rows), len(other.rows)) == (0, 1)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"run_id": "abcd1234"}', "null", '{"sent": 1}'])
def test_a_spoiled_marker_is_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "wandb_sent.json").write_text(text)
    fake = FakeRun()
    tracker(fake, tmp_path).log({"train/x": 1.0}, 500)
    assert len(fake.rows) == 1


def test_the_run_id_stays(tmp_path: Path) -> None:
    first = run_id(tmp_path)
    assert len(first) == 8
    assert run_id(tmp_path) == first
    assert list(tmp_path.iterdir()) == [tmp_path / "wandb_id.txt"]
    (tmp_path / "wandb_id.txt").write_text("")
    assert run_id(tmp_path) != ""
