"""Draws proportional to priority^α, at a cost that hardly depends on how many there are.

Prioritized replay (Schaul, Quan, Antonoglou, Silver, ICLR 2016, arXiv 1511.05952), eq. 1:
P(i) = p_i^α / Σ_k p_k^α. The masses p^α lie in blocks, each with its cumulative sum, and the sums
of the blocks have a cumulative sum of their own. A draw finds the block, then the slot in it.

Every sum is recomputed from all its parts whenever one of them changes. So nothing drifts, and the
tree is a pure function of its leaves, bit for bit, however it came about.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

BLOCK = 64  # a million slots: a draw copies a row of 64, a change sums up 16,000 blocks in order


class PriorityTree:
    """Priorities p ≥ 0 of ``size`` slots, zero at first; a slot of priority zero is never drawn.

    Masses and sums are float64 and on the CPU: there a cumulative sum adds one by one, so it never
    falls and gives the same bits every time, and the checks that read values back wait for nothing.
    """

    def __init__(self, size: int, alpha: float) -> None:
        self.size = size
        self.alpha = alpha
        self.priority = torch.zeros(size, dtype=torch.float64)
        """``[size]`` before the exponent; not to be written to"""
        self.drawable = 0
        """number of slots whose mass is not zero"""
        blocks = -(-size // BLOCK)
        self._leaves = torch.zeros(blocks, BLOCK, dtype=torch.float64)
        self._within = torch.zeros(blocks, BLOCK, dtype=torch.float64)
        """cumulative sums inside each block"""
        self._block_sums = torch.zeros(blocks, dtype=torch.float64)
        self._before = torch.zeros(blocks + 1, dtype=torch.float64)
        """sum of all blocks before each one; the last entry is the total"""

    @property
    def mass(self) -> Float[Tensor, "size"]:
        """``[size]`` p^α, and zero where p is zero; a view, not to be written to."""
        return self._leaves.view(-1)[: self.size]

    @property
    def total(self) -> Float[Tensor, ""]:
        """Sum of all masses."""
        return self._before[-1]

    def max(self) -> Float[Tensor, ""]:
        """The largest priority, before the exponent."""
        return self.priority.max()

    def set(self, index: Int[Tensor, "n"], priority: Float[Tensor, "n"]) -> None:
        """Set the priorities of slots ``index [n]``; of a repeated slot the last one counts.

        Raises ValueError if a priority is negative or not finite, or its power is not finite.
        """
        index, last = _last_of_each(index)
        priority = priority[last].double()
        mass = self._power(priority)
        if not bool(((priority >= 0) & torch.isfinite(priority) & torch.isfinite(mass)).all()):
            raise ValueError(f"priorities must be finite and not negative, got {priority}")
        self.priority[index] = priority
        self._set_mass(index, mass)

    def restore(
        self,
        index: Int[Tensor, "n"],
        priority: Float[Tensor, "n"],
        mass: Float[Tensor, "n"],
    ) -> None:
        """Put back what was read from a tree with the same α, at distinct slots.

        The masses are taken as they were saved, because the last bit of a power may depend on where
        in a vector its argument stands. Raises ValueError if they do not belong to the priorities.
        """
        if not torch.allclose(mass, self._power(priority), rtol=1e-9, atol=0.0):
            raise ValueError(f"the saved priorities were not saved with alpha={self.alpha}")
        index, order = index.sort()
        self.priority[index] = priority[order]
        self._set_mass(index, mass[order])

    def draw(self, uniform: Float[Tensor, "n"]) -> Int[Tensor, "n"]:
        """Slots ``[n]`` drawn with replacement, one for each number of ``uniform [n]`` in [0, 1].

        The slot grows with the number: this is the inverse of the cumulative distribution. Raises
        ValueError if every priority is zero.
        """
        if self.drawable == 0:
            raise ValueError("nothing to draw: every priority is zero")
        # A target must lie below the last sum for a slot to be found, and rounding may put it there
        # or past it; the first sum beyond the target then is always that of a slot with mass.
        target = torch.minimum(uniform.double() * self.total, _just_below(self.total))
        block = torch.searchsorted(self._before[1:], target, right=True)
        within = self._within[block]
        target = torch.minimum(target - self._before[block], _just_below(within[:, -1]))
        slot = torch.searchsorted(within, target[:, None], right=True)[:, 0]
        return block * BLOCK + slot

    def draw_without_replacement(self, n: int, generator: torch.Generator) -> Int[Tensor, "n"]:
        """``n`` distinct slots, as if drawn one after the other, each from those left.

        Drawing with replacement and dropping repeats has the same law: given the slots taken so
        far, the next new one is distributed as the masses of the others. So a round draws all that
        is missing, keeps what is new, and sets the masses of what it took to zero for the next
        round; the tree is put back at the end. Few rounds are needed unless a few slots hold nearly
        all the mass, and each round takes at least one.

        ``generator`` is a CPU generator. Raises ValueError if fewer than ``n`` slots have mass.
        """
        if n > self.drawable:
            raise ValueError(f"asked for {n} distinct slots, but only {self.drawable} can be drawn")
        taken = torch.empty(0, dtype=torch.int64)
        removed = self.priority.new_empty(0)
        try:
            while True:
                missing = n - len(taken)
                uniform = torch.rand(missing, dtype=torch.float64, generator=generator)
                found = _distinct(self.draw(uniform))
                if len(found) == missing:
                    return torch.cat([taken, found])
                removed = torch.cat([removed, self.mass[found]])
                taken = torch.cat([taken, found])
                self._set_mass(found.sort().values, self.priority.new_zeros(len(found)))
        finally:
            if len(taken):
                slots, order = taken.sort()
                self._set_mass(slots, removed[order])

    def _power(self, priority: Tensor) -> Tensor:
        # 0^0 is 1, but a slot of priority zero must not be drawn under α = 0 either
        return torch.where(priority > 0, priority**self.alpha, 0.0)

    def _set_mass(self, index: Tensor, mass: Tensor) -> None:
        """Write the leaves ``index``, sorted and distinct, and recompute the sums above them."""
        leaves = self._leaves.view(-1)
        self.drawable += int((mass > 0).sum()) - int((leaves[index] > 0).sum())
        leaves[index] = mass
        blocks = torch.unique_consecutive(index // BLOCK)
        sums = self._leaves[blocks].cumsum(1)
        self._within[blocks] = sums
        self._block_sums[blocks] = sums[:, -1]
        torch.cumsum(self._block_sums, 0, out=self._before[1:])


def _just_below(value: Tensor) -> Tensor:
    return torch.nextafter(value, torch.zeros_like(value))


def _last_of_each(index: Tensor) -> tuple[Tensor, Tensor]:
    """Sorted distinct values of ``index [n]``, and for each the position of its last occurrence."""
    values, order = index.sort(stable=True)
    last = torch.ones_like(values, dtype=torch.bool)
    last[:-1] = values[1:] != values[:-1]
    return values[last], order[last]


def _distinct(index: Tensor) -> Tensor:
    """``index [n]`` without repeats, in the order of first occurrence."""
    values, order = index.sort(stable=True)
    repeats = values[1:] == values[:-1]
    if not bool(repeats.any()):
        return index
    first = torch.ones_like(values, dtype=torch.bool)
    first[1:] = ~repeats
    return index[order[first].sort().values]
