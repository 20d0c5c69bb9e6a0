"""Plain lines, a terminal's progress bar, and outputs that go away."""

import logging
import os
import pty
import subprocess
import sys
import textwrap
from contextlib import suppress
from pathlib import Path

import pytest

from difftori.monitoring.console import Console, format_record, format_seconds

SOURCE = Path(__file__).parents[2] / "src"
logger = logging.getLogger("difftori.somewhere")

PROGRAM = """
    import logging, sys
    sys.path.insert(0, {source!r})
    from difftori.monitoring.console import Console

    logger = logging.getLogger("difftori.somewhere")
    with Console() as console:
        console.start(1000, "env steps", 0)
        console.phase("acting", 100)
        for step in range(100):
            console.phase_step(step)
            console.advance(step)
            logger.info("line %d", step)
        logger.warning("odd")
    print("reached the end", file=sys.stderr)
"""


def program() -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(PROGRAM.format(source=str(SOURCE)))]


def test_info_goes_to_stdout_and_warnings_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with Console() as console:
        console.start(1000, "env steps", 0)
        console.advance(10)
        logger.info("a [bold] line")
        logger.warning("odd")
        logger.error("bad")
        logger.debug("unseen")
    logger.info("after the end")
    shown = capsys.readouterr()
    assert shown.out == "a [bold] line\n"
    assert shown.err == "warning: odd\nerror: bad\n"


def test_a_closed_pipe_does_not_end_the_run() -> None:
    read, write = os.pipe()
    with subprocess.Popen(program(), stdout=write, stderr=subprocess.PIPE, text=True) as process:
        os.close(write)
        os.close(read)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert err == "warning: odd\nreached the end\n"


def test_a_terminal_that_is_closed_does_not_end_the_run() -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(program(), stdout=theirs, stderr=subprocess.PIPE, text=True) as process:
        os.close(theirs)
        os.read(ours, 100)
        os.close(ours)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "reached the end" in err


def test_a_terminal_that_is_closed_as_the_run_begins_does_not_end_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours, theirs = pty.openpty()
    terminal = os.fdopen(theirs, "w")
    with monkeypatch.context() as patched:
        patched.setattr("sys.stdout", terminal)
        patched.setenv("FORCE_COLOR", "1")  # it was a terminal when it was asked
        console = Console()
        os.close(ours)
        with console:
            console.start(1000, "env steps", 0)
            logger.info("a line")
    with suppress(OSError):  # what could not be written
        terminal.close()


@pytest.mark.skipif(
    not Path("/dev/full").exists(), reason="only Linux has /dev/full, a disk that is always full"
)
def test_a_full_disk_does_not_end_the_run() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(program(), stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert "reached the end" in done.stderr


def test_a_terminal_keeps_every_line_and_shows_the_bar() -> None:
    outer, inner = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"}
    with subprocess.Popen(program(), stdout=inner, stderr=inner, env=environment) as process:
        os.close(inner)
        shown = b""
        try:
            while data := os.read(outer, 65536):
                shown += data
        except OSError:
            pass  # Linux: the inner side is closed
    os.close(outer)
    text = shown.decode()
    assert process.returncode == 0
    assert all(f"line {step}\r\n" in text for step in range(100))
    assert "warning: odd" in text
    assert "acting" in text
    assert "/1000" in text


def test_columns_stay_in_place() -> None:
    record = {"episode": 1, "env_step": 500, "episode_reward": 1.0, "updates": 9}
    later = {"episode": 1000, "env_step": 500_000, "episode_reward": 345.6, "updates": 125}
    short, long = format_record("train", record), format_record("train", later)
    assert [short.index(name) for name in ("env_step", "reward", "updates")] == [
        long.index(name) for name in ("env_step", "reward", "updates")
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.9, "59s"), (192, "3m12s"), (14_520, "4h02m"), (183_600, "2d03h"),
     (float("nan"), "?")],
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_a_phase_of_unknown_length_has_none() -> None:
    console = Console()
    console.phase("acting", 1000)
    console.phase("saving")
    *_, phase = console._bar.tasks
    assert (phase.description, phase.total) == ("saving", None)
