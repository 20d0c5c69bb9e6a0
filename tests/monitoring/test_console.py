"""The live line, the plain lines, and terminals that misbehave."""

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import textwrap
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from difftori.monitoring.console import ConsoleReporter, format_record
from difftori.monitoring.progress import format_seconds

SOURCE = Path(__file__).parents[2] / "src"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal:
    """A pseudo-terminal; ``stream`` is its inner side, ``text`` what a screen would have got."""

    def __init__(self, columns: int = 100) -> None:
        self._outer, inner = pty.openpty()
        fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.stream = os.fdopen(inner, "w")
        self._data = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        try:
            while data := os.read(self._outer, 65536):
                self._data += data
        except OSError:
            return  # Linux: the inner side is closed

    def close(self) -> None:
        self.stream.close()
        self._reader.join(5)
        os.close(self._outer)

    @property
    def text(self) -> str:
        return self._data.decode()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("COLUMNS", raising=False)
    return Terminal()


def plain(clock: Clock) -> tuple[ConsoleReporter, io.StringIO, io.StringIO]:
    out, err = io.StringIO(), io.StringIO()
    return ConsoleReporter(out, err, clock=clock), out, err


def screen(text: str) -> list[str]:
    """The lines of a screen that has shown ``text``: cursor up, line erase and return only."""
    lines, row, column = [""], 0, 0
    for piece in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|.|\n", text):
        if piece == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif piece == "\r":
            column = 0
        elif match := re.fullmatch(r"\x1b\[(\d*)A", piece):
            row = max(0, row - int(match[1] or 1))
        elif piece == "\x1b[2K":
            lines[row] = ""
        elif not piece.startswith("\x1b"):
            lines[row] = lines[row][:column].ljust(column) + piece + lines[row][column + 1 :]
            column += 1
    return [line.rstrip() for line in lines]


def test_without_a_terminal_there_are_plain_lines_only() -> None:
    console, out, err = plain(Clock())
    with console:
        console.start(1000, "env_step", 0)
        console.info("hello")
        console.episode_line(
            {"episode": 12, "env_step": 12000, "episode_reward": 345.6, "updates": 125,
             "elapsed_seconds": 192.4}
        )  # fmt: skip
        console.warn("odd")
        console.error("bad")
    first, second = out.getvalue().splitlines()
    assert first == "hello"
    expected = "train  episode 12  env_step 12,000  reward 345.6  updates 125  3m12s"
    assert second.split() == expected.split()
    assert err.getvalue() == "warning: odd\nerror: bad\n"
    assert "\x1b" not in out.getvalue()


def test_plain_progress_comes_every_ten_seconds_of_silence() -> None:
    clock = Clock()
    console, out, _ = plain(clock)
    console.start(10_000, "env_step", 0)
    console.phase("updating", 5000)
    for step in range(200):
        clock.now += 0.125
        console.phase_step(step)
    shown = out.getvalue().splitlines()
    assert len(shown) == 2
    assert shown[0].startswith("progress  updating 79/5000  0/10,000 env_step  0.0%")
    console.info("a line counts as a sign of life")
    clock.now += 9
    console.advance(500)
    assert len(out.getvalue().splitlines()) == 3


def test_columns_stay_in_place() -> None:
    record = {"episode": 1, "env_step": 500, "episode_reward": 1.0, "updates": 9}
    later = {"episode": 1234, "env_step": 617_000, "episode_reward": -987.65, "updates": 99999}
    short, long = format_record("train", record), format_record("train", later)
    for name in ("env_step", "reward", "updates"):
        assert short.index(name) == long.index(name)
    strange = {"episode": None, "env_step": 1.0, "episode_reward": float("nan"), "updates": "x"}
    assert format_record("eval", strange).split() == ["eval", "env_step", "1", "reward", "nan"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.9, "0s"), (59, "59s"), (192, "3m12s"), (14520, "4h02m"), (183600, "2d03h"),
     (float("nan"), "?"), (float("inf"), "?")],
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_time_left_counts_this_process_only() -> None:
    clock = Clock()
    console, _, _ = plain(clock)
    console.start(1000, "env_step", 600, elapsed_seconds=3600)
    assert console._progress.left_seconds() is None
    clock.now += 50
    console.advance(700)
    assert console._progress.left_seconds() == pytest.approx(150)
    assert console._progress.parts()["elapsed"] == "elapsed 1h00m"
    assert console._progress.parts()["speed"] == "2.0/s"
    console.advance(1000)
    assert console._progress.left_seconds() == 0


def test_time_left_stays_put_through_a_block_of_updates() -> None:
    clock = Clock()
    console, _, _ = plain(clock)
    console.start(1000, "env_step", 0)
    clock.now += 10
    console.advance(100)
    console.phase("updating", 200)
    estimates = []
    for step in (50, 100, 150, 200):
        clock.now += 25
        console.phase_step(step)
        estimates.append(console._progress.left_seconds())
    # 110 s for 100 steps in the end, so 990 for the other 900, and what is left of the block
    assert estimates == pytest.approx([990 + 75, 990 + 50, 990 + 25, 990])
    console.phase("acting", 100)
    console.phase_step(10)
    console.advance(110)
    assert console._progress.left_seconds() == pytest.approx(110 * 890 / 110)


def test_the_live_line_stays_below_the_log(terminal: Terminal) -> None:
    with ConsoleReporter(terminal.stream, terminal.stream) as console:
        console.start(1_000_000, "env_step", 0)
        console.phase("updating", 5000)
        console.phase_step(1234)
        console.advance(12_000)
        time.sleep(0.6)
        console.info("first")
        console.warn("second")
        time.sleep(0.6)
        during = screen(terminal.text)
    terminal.close()
    assert [line for line in during[:2] if line] == ["first", "warning: second"]
    assert "updating 1234/5000" in during[2]
    assert "12,000/1,000,000 env_step" in during[2]
    assert len(during[2]) <= 100
    assert during[3:] == []
    # afterwards the log alone, and a cursor
    assert [line for line in screen(terminal.text) if line] == ["first", "warning: second"]
    assert terminal.text.rfind("\x1b[?25h") > terminal.text.rfind("\x1b[?25l")


def test_ctrl_c_leaves_a_clean_terminal(terminal: Terminal) -> None:
    before = sys.stdout

    def interrupted() -> None:
        with ConsoleReporter(terminal.stream, terminal.stream) as console:
            console.start(10, "env_step", 0)
            console.info("kept")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert sys.stdout is before
    terminal.close()
    assert [line for line in screen(terminal.text) if line] == ["kept"]
    assert terminal.text.rfind("\x1b[?25h") > terminal.text.rfind("\x1b[?25l")


def test_a_dumb_terminal_gets_plain_lines(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    with ConsoleReporter(terminal.stream, terminal.stream) as console:
        console.info("hello")
    terminal.close()
    assert terminal.text == "hello\r\n"


def test_the_live_line_fits_any_width(terminal: Terminal) -> None:
    console = ConsoleReporter(terminal.stream, terminal.stream)
    console.start(1_000_000, "env_step", 0)
    console.phase("updating", 5000)
    console.advance(999_999)
    for width in [*range(1, 40), 60, 80, 100, 120, 200]:
        console._rich.width = width
        out = io.StringIO()
        Console(file=out, width=width).print(console._render())
        lines = out.getvalue().rstrip("\n").split("\n")
        assert len(lines) == 1, width
        assert len(lines[0]) <= width
    terminal.close()


def test_a_terminal_that_goes_away_is_no_error(terminal: Terminal) -> None:
    with ConsoleReporter(terminal.stream, terminal.stream) as console:
        console.start(10, "env_step", 0)
        terminal.stream.close()
        console.info("into the void")
        time.sleep(0.4)
        console.advance(3)
    terminal.close()


def test_letters_that_the_stream_cannot_write() -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")
    ConsoleReporter(out, out).info("naïve \udcff")
    out.flush()
    assert raw.getvalue() == b"na?ve ?\n"


def test_a_closed_pipe_does_not_end_the_run(tmp_path: Path) -> None:
    program = f"""
        import sys
        from pathlib import Path
        from difftori.monitoring.console import ConsoleReporter
        with ConsoleReporter() as console:
            console.start(10, "env_step", 0)
            sys.stdin.readline()
            for step in range(2000):
                console.info("x" * 100)
                print("another library prints as well")
        Path({str(tmp_path / "done")!r}).touch()
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.close()
    _, errors = process.communicate(b"go\n", timeout=30)
    assert (process.returncode, errors) == (0, b"")
    assert (tmp_path / "done").exists()


@pytest.mark.parametrize("live", [True, False])
def test_progress_calls_cost_little(terminal: Terminal, live: bool) -> None:
    out = terminal.stream if live else io.StringIO()
    with ConsoleReporter(out, out) as console:
        console.start(1_000_000, "env_step", 0)
        console.phase("updating", 20_000)
        began = time.process_time()
        for step in range(20_000):
            console.phase_step(step)
            console.advance(step)
        per_call = (time.process_time() - began) / 40_000
    terminal.close()
    assert per_call < 50e-6
