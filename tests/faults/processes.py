"""Runs in processes of their own that are there at once, forked from a server without threads.

The server has imported everything and run nothing: what other tests leave in this process (threads
of autograd, type checks) does not reach the children, and a child costs no imports.
"""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
for folder in (TESTS.parent / "src", TESTS):
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


@cache
def context() -> ForkServerContext:
    """Of ``multiprocessing``; its server is running."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(["preloaded"])
    before = os.environ.get("PYTHONPATH")
    # the server looks for what it preloads along its own path
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    try:
        forkserver.ensure_running()
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before
    return found


@dataclass
class Child:
    """A running or ended process and what it has printed."""

    process: BaseProcess
    out_path: Path
    err_path: Path

    @property
    def out(self) -> str:
        return self.out_path.read_text()

    @property
    def err(self) -> str:
        return self.err_path.read_text()

    def signal(self, number: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def wait(self, timeout: float = 60) -> int:
        """The exit code; negative is the number of the signal that ended it."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.signal(signal.SIGKILL)
            raise AssertionError(f"not done after {timeout} s; it said\n{self.out}{self.err}")
        return self.process.exitcode

    def wait_for(self, condition: Callable[[], bool], timeout: float = 60) -> None:
        """Until ``condition`` holds, looked at every few milliseconds while the process lives."""
        end = time.monotonic() + timeout
        while not condition():
            assert self.process.is_alive(), f"ended early; it said\n{self.out}{self.err}"
            assert time.monotonic() < end, f"waited {timeout} s; it said\n{self.out}{self.err}"
            time.sleep(0.005)


def start(work: Callable[..., int], *args: Any, log: Path) -> Child:
    """Begin ``work(*args)``, a function of a module; its result is the exit code.

    What it prints goes to ``log`` with ``.out`` and ``.err`` behind.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    paths = (log.with_name(f"{log.name}.out"), log.with_name(f"{log.name}.err"))
    for path in paths:
        path.write_text("")
    process = context().Process(target=_enter, args=(paths, work, args), daemon=True)
    process.start()
    return Child(process, *paths)


def _enter(paths: tuple[Path, Path], work: Callable[..., int], args: tuple[Any, ...]) -> None:
    for descriptor, path in zip((1, 2), paths, strict=True):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(file, descriptor)
        os.close(file)
    sys.exit(work(*args))


def train(log_dir: Path, *overrides: str) -> int:
    """A debug run with the exit code and the errors of the command line."""
    from difftori import cli
    from runs import run_debug

    return cli.guarded(lambda _: run_debug(log_dir, *overrides), None)  # type: ignore[arg-type]


def start_training(log_dir: Path, *overrides: str, name: str = "log") -> Child:
    return start(train, log_dir, *overrides, log=log_dir / name)
