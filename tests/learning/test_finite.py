import pytest

from difftori.learning.finite import NonFiniteCounter, NotFiniteError


def test_raises_after_the_limit_in_a_row_and_says_what() -> None:
    counter = NonFiniteCounter("the gradient", limit=3)
    for finite in (False, False, True, False, False):
        counter.seen(finite=finite)
    with pytest.raises(NotFiniteError, match=r"the gradient was not finite 3 times.*: reward_loss"):
        counter.seen(finite=False, where="reward_loss")
    assert counter.total == 5


def test_counts_survive_a_round_trip() -> None:
    counter = NonFiniteCounter("x", limit=3)
    counter.seen(finite=False)
    counter.seen(finite=False)
    other = NonFiniteCounter("x", limit=3)
    other.load_state_dict(counter.state_dict())
    assert (other.total, other.in_a_row) == (2, 2)
    with pytest.raises(NotFiniteError):
        other.seen(finite=False)
