"""Following jobs in a queue, and ending as a cluster wants it, without a cluster."""

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from difftori.config import CONFIG_DIR
from difftori.monitoring.console import ConsoleReporter
from difftori.monitoring.status import write_status
from difftori.study.jobs import Job
from difftori.study.slurm import ended_by_slurm, follow, printed_to


def test_jobs_are_followed_until_they_leave_the_queue(make_job: Callable[..., Job]) -> None:
    jobs = {"7_0": make_job(0), "7_1": make_job(1)}
    for job, state in zip(jobs.values(), ("done", "failed"), strict=True):
        job.folder.mkdir(parents=True)
        write_status(job.folder, state, reason="" if state == "done" else "a NaN")  # type: ignore[arg-type]
    both = {"7_0": "RUNNING", "7_1": "PENDING"}
    # once the queue cannot be asked, once a job is missing for a moment
    queues = iter([both, None, {"7_0": "RUNNING"}, both, {"7_1": "RUNNING"}, {}, {}, {}])
    out = io.StringIO()
    outcomes = follow(
        jobs,
        ended=1,
        console=ConsoleReporter(out, out),  # type: ignore[arg-type]
        listed=lambda: next(queues),
        sleep=lambda seconds: None,
    )
    assert [(outcome.job.number, outcome.state) for outcome in outcomes] == [
        (0, "done"),
        (1, "failed"),
    ]
    assert "[2/3] done" in out.getvalue()
    assert "a NaN" in outcomes[1].detail
    assert next(queues) == {}


def test_what_a_job_prints_goes_to_its_folder(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "run" / "console.log"
    for word in ("one", "two"):
        with printed_to(log):
            os.write(1, f"{word}\n".encode())
            os.write(2, b"and an error\n")
    os.write(1, b"outside\n")
    assert log.read_text() == "one\nand an error\ntwo\nand an error\n"
    assert capfd.readouterr().out == "outside\n"


@pytest.mark.parametrize(("code", "waits"), [(75, True), (0, False), (-1, False), (1, False)])
def test_only_a_run_that_saved_waits_for_the_end(code: int, waits: bool) -> None:
    waited: list[float] = []
    with pytest.raises(SystemExit), ended_by_slurm(waited.append):
        sys.exit(code)
    assert bool(waited) == waits


def test_every_key_of_the_launcher_has_a_comment() -> None:
    text = (CONFIG_DIR / "hydra" / "launcher" / "slurm.yaml").read_text()
    keys = set(yaml.safe_load(text)) - {"defaults", "_target_"}
    commented = {line.partition(":")[0] for line in text.splitlines() if " #" in line}
    assert keys <= commented
