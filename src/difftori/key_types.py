"""The types of keys: numbers and words within their ranges."""

import re
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


def _no_lookalikes(value: object) -> object:
    """pydantic would read 'true' as 1 and '5' as 5; a config says what it means."""
    if isinstance(value, (bool, str)):
        raise ValueError("expected a number")
    return value


def plain_name(value: object) -> str:
    if value is None:
        raise ValueError("expected a name")
    value = str(value)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.=+-]*", value):
        raise ValueError("expected letters, digits and _ . = + - (it names a folder)")
    return value


number = BeforeValidator(_no_lookalikes)
Count = Annotated[int, number, Field(ge=1)]
CountOrZero = Annotated[int, number, Field(ge=0)]
Positive = Annotated[float, number, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, number, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, number, Field(allow_inf_nan=False)]
Share = Annotated[float, number, Field(ge=0, le=1)]
