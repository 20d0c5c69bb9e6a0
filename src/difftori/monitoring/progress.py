"""Where a run stands and how long it will still take, in words."""

import math
from collections.abc import Callable


class Progress:
    """Where the run stands, and how long it will still take."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._earlier_seconds = 0.0
        self._unit = ""
        self._phase = "starting"
        self._phase_total: int | None = None
        self._phase_began = self._began = clock()
        self._first = self._done = self._phase_first = 0
        self.total = 0
        self.phase_done = 0

    def start(self, total: int, unit: str, done: int, elapsed_seconds: float | int) -> None:
        self.total, self._unit = total, unit
        self._first = self._done = self._phase_first = done
        self._earlier_seconds = elapsed_seconds
        self._phase_began = self._began = self._clock()

    def advance(self, done: int) -> None:
        self._done = done

    def phase(self, name: str, total: int | None) -> None:
        self._phase, self._phase_total, self.phase_done = name, total, 0
        self._phase_began, self._phase_first = self._clock(), self._done

    @property
    def fraction(self) -> float:
        return min(1.0, self._done / self.total) if self.total > 0 else 0.0

    def left_seconds(self) -> float | None:
        """What remains of this phase, and of the run at the pace of this process so far.

        A phase in which the run itself stands still counts as if it were over, so that the
        estimate does not grow all through a long block of model updates. None before the first
        step of the run.
        """
        if self._done >= self.total:
            return 0.0
        steps = self._done - self._first
        if steps <= 0:
            return None
        now = self._clock()
        in_phase = 0.0
        stands_still = self._done == self._phase_first
        if stands_still and self._phase_total and 0 < self.phase_done < self._phase_total:
            spent = now - self._phase_began
            in_phase = spent * (self._phase_total - self.phase_done) / self.phase_done
        took = now - self._began + in_phase
        return in_phase + took * (self.total - self._done) / steps

    def parts(self) -> dict[str, str]:
        """The pieces of the progress line, by name, in order."""
        parts = {"phase": self._phase}
        if self._phase_total is not None:
            parts["phase"] += f" {self.phase_done}/{self._phase_total}"
        elapsed = self._clock() - self._began
        if self.total > 0:
            parts["done"] = f"{self._done:,}/{self.total:,} {self._unit}"
            parts["percent"] = f"{100 * self.fraction:.1f}%"
            steps = self._done - self._first
            parts["speed"] = f"{steps / elapsed if elapsed > 0 else 0.0:.1f}/s"
        parts["elapsed"] = f"elapsed {format_seconds(self._earlier_seconds + elapsed)}"
        left = self.left_seconds() if self.total > 0 else None
        parts["left"] = f"left {'?' if left is None else format_seconds(left)}"
        return parts


def format_seconds(seconds: float | int) -> str:
    """``3m12s``, ``4h02m``, ``2d03h``: two units, the second of fixed width."""
    if not math.isfinite(seconds):
        return "?"
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"
