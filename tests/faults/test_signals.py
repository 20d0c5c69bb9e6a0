"""Signals at random moments: the run saves, says that it can be resumed, and loses nothing."""

import random
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from processes import Child, start, start_training, train

from difftori.process import RESUME_EXIT_CODE
from runs import fingerprint, run_folder

SAVE_SECONDS = 60
NAMES = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2")


def wait_until_it_listens(child: Child) -> None:
    """Before that, while libraries are imported, there is nothing to save."""
    child.wait_for(lambda: "run folder" in child.out)


def stop(child: Child, number: int) -> int:
    """Send a signal; the exit code, which must come in time."""
    child.signal(number)
    return child.wait(SAVE_SECONDS)


def train_and_listen(log_dir: Path) -> int:
    """``nohup``, if the tests run under it, would have the run ignore that a terminal is gone."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    return train(log_dir)


def test_signals_at_random_moments_lose_nothing(tmp_path: Path, finished_run: Path) -> None:
    rng = random.Random(1)
    codes = []
    for name in NAMES:
        child = start(train_and_listen, tmp_path, log=tmp_path / name)
        wait_until_it_listens(child)
        time.sleep(rng.uniform(0, 0.3))
        codes.append(stop(child, getattr(signal, name)))
        assert f"stopped by {name} and saved" in child.out
    assert codes == [RESUME_EXIT_CODE] * len(NAMES)
    assert start_training(tmp_path).wait() == 0
    assert fingerprint(run_folder(tmp_path)) == fingerprint(finished_run)


def never_done(log_dir: Path) -> int:
    """A run that hangs in its simulator after two episodes."""
    from difftori.envs import ControlEnv

    step = ControlEnv.step
    calls = 0

    def hang(self, action):  # type: ignore[no-untyped-def]
        nonlocal calls
        calls += 1
        if calls > 20:
            print("hangs", flush=True)
            end = time.monotonic() + 30
            while time.monotonic() < end:  # a sleep would be woken up by the first signal
                time.sleep(0.01)
        return step(self, action)

    ControlEnv.step = hang  # type: ignore[method-assign]
    return train(log_dir)


def test_a_second_interrupt_stops_at_once(tmp_path: Path) -> None:
    child = start(never_done, tmp_path, log=tmp_path / "log")
    child.wait_for(lambda: "hangs" in child.out)
    child.signal(signal.SIGINT)
    child.process.join(0.5)
    assert child.process.is_alive()
    assert stop(child, signal.SIGINT) not in (0, RESUME_EXIT_CODE)
    assert start_training(tmp_path, name="again").wait() == 0


def with_a_launcher(log_dir: Path) -> int:
    """As under a launcher that requeues the job when the signal comes, and then exits."""

    def requeue(number: int, frame: FrameType | None) -> None:
        (checkpoint,) = log_dir.glob("*/*/*/*/*/checkpoints/step_*")
        print(f"requeued {signal.Signals(number).name} with {checkpoint.name}", flush=True)
        sys.exit(7)

    signal.signal(signal.SIGUSR2, requeue)
    return train(log_dir)


def test_a_launchers_handler_is_called_after_saving(tmp_path: Path) -> None:
    child = start(with_a_launcher, tmp_path, log=tmp_path / "log")
    wait_until_it_listens(child)
    assert stop(child, signal.SIGUSR2) == 7
    assert "stopped by SIGUSR2 and saved" in child.out.splitlines()[-2]
    assert "requeued SIGUSR2 with step_" in child.out.splitlines()[-1]
