import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from difftori.replay.priorities import BLOCK, PriorityTree

positive = st.floats(1e-6, 1e4)
priorities = st.lists(st.one_of(st.just(0.0), positive), min_size=1, max_size=400)


def tree_of(values: list[float], alpha: float = 0.6) -> PriorityTree:
    tree = PriorityTree(len(values), alpha)
    tree.set(torch.arange(len(values)), torch.tensor(values, dtype=torch.float64))
    return tree


def sums(tree: PriorityTree) -> list[torch.Tensor]:
    return [tree._leaves, tree._within, tree._block_sums, tree._before]


def uniform(n: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, dtype=torch.float64, generator=generator)


@settings(max_examples=60, deadline=None)
@given(priorities)
def test_total_max_and_count_are_those_of_the_list(values: list[float]) -> None:
    tree = tree_of(values)
    powers = [v**0.6 for v in values if v > 0]
    assert float(tree.total) == pytest.approx(sum(powers), rel=1e-12)
    assert float(tree.max()) == max(values)
    assert tree.drawable == len(powers)


@settings(max_examples=60, deadline=None)
@given(priorities.filter(any), st.integers(1, 3000))
def test_marginals_are_exact(values: list[float], grid: int) -> None:
    """Evenly spread numbers hit each slot in proportion to its mass, to one count each side."""
    tree = tree_of(values)
    drawn = tree.draw((torch.arange(grid, dtype=torch.float64) + 0.5) / grid)
    assert bool((drawn[1:] >= drawn[:-1]).all())
    counts = torch.bincount(drawn, minlength=len(values)).double()
    assert float((counts - grid * tree.mass / tree.total).abs().max()) <= 1 + 1e-6


@settings(max_examples=60, deadline=None)
@given(priorities.filter(any))
def test_edges_of_the_unit_interval_draw_a_slot_with_mass(values: list[float]) -> None:
    tree = tree_of(values)
    edges = [0.0, 5e-324, 2**-53, 0.5, 1 - 2**-52, 1 - 2**-53, 1.0]
    drawn = tree.draw(torch.tensor(edges, dtype=torch.float64))
    assert bool((tree.priority[drawn] > 0).all())
    occupied = np.flatnonzero(values)
    assert int(drawn[0]) == occupied[0]
    assert int(drawn[-1]) == occupied[-1]


@pytest.mark.parametrize("size", [1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK + 1])
def test_every_slot_of_a_tree_of_any_size_is_reached(size: int) -> None:
    tree = tree_of([1.0] * size)
    drawn = tree.draw((torch.arange(size, dtype=torch.float64) + 0.5) / size)
    assert drawn.tolist() == list(range(size))


def test_frequencies_agree_with_multinomial() -> None:
    values = [0.0, 0.1, 5.0, 1.0, 0.0, 2.0]
    masses = torch.tensor([v**0.6 if v else 0.0 for v in values], dtype=torch.float64)
    n = 40_000
    drawn = tree_of(values).draw(uniform(n))
    generator = torch.Generator().manual_seed(1)
    reference = torch.multinomial(masses, n, replacement=True, generator=generator)
    expected = masses / masses.sum()
    for counts in (torch.bincount(drawn, minlength=6), torch.bincount(reference, minlength=6)):
        assert torch.allclose(counts.double() / n, expected, atol=0.012)
        assert int(counts[0]) == int(counts[4]) == 0


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(1, 600))
def test_the_tree_is_a_pure_function_of_its_leaves(data: st.DataObject, size: int) -> None:
    """Any history of writes gives the bits that one write of the final priorities gives."""
    tree = PriorityTree(size, 0.6)
    slots = st.lists(st.integers(0, size - 1), min_size=1, max_size=30)
    for index in data.draw(st.lists(slots, max_size=8)):
        value = data.draw(st.lists(positive, min_size=len(index), max_size=len(index)))
        tree.set(torch.tensor(index), torch.tensor(value, dtype=torch.float64))
    other = PriorityTree(size, 0.6)
    other.restore(torch.arange(size), tree.priority, tree.mass)
    assert torch.equal(tree.total, other.total)
    assert tree.drawable == other.drawable
    if tree.drawable:
        assert torch.equal(tree.draw(uniform(50)), other.draw(uniform(50)))
    assert all(torch.equal(one, two) for one, two in zip(sums(tree), sums(other), strict=True))


def test_of_a_repeated_slot_the_last_priority_counts() -> None:
    tree = tree_of([1.0] * 5)
    tree.set(torch.tensor([3, 1, 3, 1, 3]), torch.tensor([9.0, 8.0, 7.0, 6.0, 5.0]))
    assert tree.priority.tolist() == [1.0, 6.0, 1.0, 5.0, 1.0]


def test_under_exponent_zero_all_but_the_zeros_are_equal() -> None:
    tree = tree_of([0.0, 1e-3, 1e3, 0.0], alpha=0.0)
    assert tree.mass.tolist() == [0.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_impossible_priorities_are_refused_and_change_nothing(bad: float) -> None:
    tree = tree_of([1.0, 2.0])
    with pytest.raises(ValueError, match="finite and not negative"):
        tree.set(torch.tensor([0, 1]), torch.tensor([5.0, bad]))
    assert tree.priority.tolist() == [1.0, 2.0]


def test_an_empty_tree_has_nothing_to_draw() -> None:
    with pytest.raises(ValueError, match="every priority is zero"):
        PriorityTree(3, 0.6).draw(uniform(1))


@settings(max_examples=60, deadline=None)
@given(priorities.filter(any), st.data())
def test_without_replacement_slots_are_distinct_and_the_tree_is_put_back(
    values: list[float], data: st.DataObject
) -> None:
    tree = tree_of(values)
    before = [part.clone() for part in sums(tree)]
    n = data.draw(st.integers(1, tree.drawable))
    drawn = tree.draw_without_replacement(n, torch.Generator().manual_seed(0))
    assert len(set(drawn.tolist())) == n
    assert bool((tree.priority[drawn] > 0).all())
    assert tree.drawable == sum(v > 0 for v in values)
    assert all(torch.equal(one, two) for one, two in zip(sums(tree), before, strict=True))


def test_without_replacement_has_the_law_of_one_draw_after_the_other() -> None:
    """P(i, then j) = p_i p_j / (1 - p_i)."""
    masses = [4.0, 2.0, 1.0, 1.0]
    tree = tree_of(masses, alpha=1.0)
    generator = torch.Generator().manual_seed(0)
    n, counts = 4000, np.zeros((4, 4))
    for _ in range(n):
        i, j = tree.draw_without_replacement(2, generator).tolist()
        counts[i, j] += 1
    p = np.array(masses) / 8
    expected = p[:, None] * p[None] / (1 - p[:, None])
    np.fill_diagonal(expected, 0.0)
    assert np.abs(counts / n - expected).max() < 0.03


def test_without_replacement_ends_where_one_slot_holds_nearly_all_mass() -> None:
    tree = tree_of([1e12, 1.0, 1e-6, 1e-12], alpha=1.0)
    drawn = tree.draw_without_replacement(4, torch.Generator().manual_seed(0))
    assert sorted(drawn.tolist()) == [0, 1, 2, 3]


def test_more_distinct_slots_than_there_are_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"3 distinct slots, but only 2"):
        tree_of([1.0, 0.0, 1.0]).draw_without_replacement(3, torch.Generator())


def test_restore_refuses_masses_of_another_exponent() -> None:
    tree = tree_of([1.0, 3.0], alpha=0.6)
    with pytest.raises(ValueError, match=r"alpha=0\.7"):
        PriorityTree(2, 0.7).restore(torch.arange(2), tree.priority, tree.mass)
