"""Numbers that change with the agent steps: linear from one to another, then constant."""

import math
import re
from typing import Annotated, NamedTuple, TypeGuard

from pydantic import AfterValidator, BeforeValidator


class Schedule(NamedTuple):
    """Linear from ``start`` to ``end`` over ``duration`` steps, then constant."""

    start: float
    end: float
    duration: float

    def __call__(self, step: int) -> float:
        if self.start == self.end:  # mixing them would round
            return self.start
        mix = min(max(step / self.duration, 0.0), 1.0) if self.duration else 1.0
        return (1 - mix) * self.start + mix * self.end

    def __str__(self) -> str:
        """As one writes it."""
        if self.start == self.end:
            return f"{self.start:g}"
        return f"linear({self.start:g}, {self.end:g}, {self.duration:g})"


def parse_schedule(value: object) -> object:
    """``linear(START, END, STEPS)`` or a number, which is constant."""
    if isinstance(value, Schedule):
        return value
    if _is_number(value):
        return _checked_schedule(value, value, 0)
    if isinstance(value, (list, tuple)) and len(value) == 3 and all(map(_is_number, value)):
        return _checked_schedule(*value)
    if not isinstance(value, str):
        raise ValueError("expected a number or linear(START, END, STEPS)")
    number = r"\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*"
    match = re.fullmatch(rf"\s*linear\({number},{number},{number}\)\s*", value)
    if match is None:
        raise ValueError("expected a number or linear(START, END, STEPS)")
    return _checked_schedule(*map(float, match.groups()))


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _checked_schedule(start: float, end: float, duration: float) -> Schedule:
    if not all(map(math.isfinite, (start, end, duration))) or duration < 0:
        raise ValueError("a schedule needs finite numbers, and 0 or more steps")
    return Schedule(start, end, duration)


def _none_negative(schedule: Schedule) -> Schedule:
    if min(schedule.start, schedule.end) < 0:
        raise ValueError("expected a number of 0 or more, or linear(START, END, STEPS) of such")
    return schedule


def _all_positive(schedule: Schedule) -> Schedule:
    if min(schedule.start, schedule.end) <= 0:
        raise ValueError("expected a number above 0, or linear(START, END, STEPS) of such")
    return schedule


ScheduleField = Annotated[Schedule, BeforeValidator(parse_schedule), AfterValidator(_none_negative)]
PositiveSchedule = Annotated[ScheduleField, AfterValidator(_all_positive)]
