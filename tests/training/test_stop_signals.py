"""What a cluster's launcher had installed is called for each signal that came, in any order."""

import signal
from collections.abc import Iterator
from itertools import permutations
from types import FrameType

import pytest

from difftori.training.signals import StopSignals


@pytest.fixture
def heard() -> Iterator[list[str]]:
    """Names of the signals that reach the launcher's handlers."""
    names: list[str] = []

    def hear(number: int, frame: FrameType | None) -> None:
        names.append(signal.Signals(number).name)

    before = {n: signal.signal(n, hear) for n in (signal.SIGTERM, signal.SIGUSR2)}
    yield names
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("came", list(permutations(("SIGTERM", "SIGUSR2"))))
def test_the_one_that_requeues_is_not_lost_among_others(
    heard: list[str], came: tuple[str, str]
) -> None:
    with StopSignals() as signals:
        for name in (*came, came[0]):
            signal.raise_signal(getattr(signal, name))
        assert heard == []
    signals.call_previous_handlers()
    assert heard == list(came)


@pytest.mark.parametrize("ignored", [True, False])
def test_a_terminal_that_is_gone_asks_to_stop_unless_it_was_to_be_ignored(ignored: bool) -> None:
    """``nohup`` has it ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        with StopSignals() as signals:
            signal.raise_signal(signal.SIGHUP)
        assert signals.requested == (None if ignored else "SIGHUP")
    finally:
        signal.signal(signal.SIGHUP, before)


def test_pythons_own_handler_of_an_interrupt_is_not_called(heard: list[str]) -> None:
    with StopSignals() as signals:
        signal.raise_signal(signal.SIGINT)
    assert signals.requested == "SIGINT"
    signals.call_previous_handlers()
    assert heard == []
