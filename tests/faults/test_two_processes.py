"""Two runs on one folder: the second is refused by name."""

import signal
import socket
from pathlib import Path

from processes import start_training

from difftori.process import USAGE_EXIT_CODE
from runs import fingerprint, run_folder


def test_the_second_run_is_refused_and_the_first_is_not_disturbed(
    tmp_path: Path, finished_run: Path
) -> None:
    first = start_training(tmp_path, name="first")
    first.wait_for(lambda: "episode 1" in first.out)
    first.signal(signal.SIGSTOP)
    second = start_training(tmp_path, name="second")
    assert second.wait() == USAGE_EXIT_CODE
    who = f"is in use by process {first.process.pid} on {socket.gethostname()}"
    (line,) = second.err.splitlines()
    assert line.startswith("error: ")
    assert who in line
    first.signal(signal.SIGCONT)
    assert first.wait() == 0
    assert fingerprint(run_folder(tmp_path)) == fingerprint(finished_run)
