"""What happens when a number is not finite: it is dropped and counted, and a run of it stops."""

from dataclasses import dataclass

import torch
from torch import nn


class NotFiniteError(RuntimeError):
    """Too many non-finite values in a row; says which."""


def check_weights(network: nn.Module) -> None:
    """Raise ``NotFiniteError`` naming the first weight that is not finite: it cannot heal."""
    for name, tensor in network.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise NotFiniteError(f"the weight {name} is not finite")


@dataclass
class NonFiniteCounter:
    """Counts values dropped for not being finite.

    Raises ``NotFiniteError`` from ``seen`` after ``limit`` bad ones in a row.
    """

    what: str
    limit: int
    total: int = 0
    in_a_row: int = 0

    def seen(self, *, finite: bool, where: str = "") -> None:
        """Count one more value; ``where`` names what exactly was bad."""
        if finite:
            self.in_a_row = 0
            return
        self.total += 1
        self.in_a_row += 1
        if self.in_a_row >= self.limit:
            times = "once" if self.in_a_row == 1 else f"{self.in_a_row} times in a row"
            raise NotFiniteError(f"{self.what} was not finite {times}{where and ': ' + where}")

    def state_dict(self) -> dict[str, int]:
        return {"total": self.total, "in_a_row": self.in_a_row}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.total, self.in_a_row = state["total"], state["in_a_row"]
