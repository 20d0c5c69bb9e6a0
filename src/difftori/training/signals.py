"""Being asked to stop: finish the step in hand, save, and say that the run can be resumed."""

import signal
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class StopRequested(Exception):  # noqa: N818, a request and not an error
    """Raised at the first safe point after a signal, once it was tried to save everything."""

    def __init__(self, signal_name: str, saved: bool) -> None:
        super().__init__(signal_name)
        self.saved = saved


def heard_signals() -> list[int]:
    """Those that ask this process to stop; nohup has it ignore that its terminal is gone."""
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [number for number in SIGNALS if number != signal.SIGHUP or not ignored]


class StopSignals:
    """Within this context the signals only leave a note; a second SIGINT stops at once."""

    def __init__(self) -> None:
        self.requested: str | None = None
        """name of the signal that asked to stop"""
        self._came: list[int] = []
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        for number in heard_signals():
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def call_previous_handlers(self) -> None:
        """What a launcher had installed for the signals that came; call it last.

        A cluster sends several signals for one event, in any order; launchers requeue the job at
        one of them.
        """
        for number in dict.fromkeys(self._came):
            handler = self._before[number]
            if callable(handler) and handler is not signal.default_int_handler:
                handler(number, None)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.requested is not None:
            raise KeyboardInterrupt
        self.requested = signal.Signals(number).name
        self._came.append(number)
