"""What is tried once, as a run starts, on an environment that nobody here knows."""

import warnings
from collections.abc import Callable
from itertools import chain

import numpy as np
from gymnasium.utils.env_checker import check_env

from difftori.envs.gymnasium_suite import GymnasiumSimulator, never_exiting, sentence

SEEDS = (1, 2)
STEPS = 20
"""environment steps of an episode that is compared, at most"""
ATTEMPTS = 3
STYLE_ONLY = ("infinity", "symmetric and normalized", "unwrapped version")
"""words of those remarks of Gymnasium's that change nothing here"""


def examine(make: Callable[[], GymnasiumSimulator]) -> list[str]:
    """Try an environment in instances of its own; returns what the user should know.

    Raises:
        ValueError: it cannot be reset, or takes no step.
    """
    first, second = make(), make()
    try:
        _refuse_broken(first)
        remarks = [f"Gymnasium's check_env says: {remark}" for remark in _api_remarks(first)]
        # in another order too: an episode must not depend on those before it
        played = {seed: _play(first, seed) for seed in SEEDS}
        again = {seed: _play(first, seed) for seed in reversed(SEEDS)}
        elsewhere = {seed: _play(second, seed) for seed in reversed(SEEDS)}
    finally:
        first.close()
        second.close()
    if not played == again == elsewhere:
        remarks.append(
            "the same seed and actions do not give the same episode; runs work, but a resumed one "
            "does not end in the same bytes"
        )
    return [f"env_id={first.env_id}: {remark}" for remark in remarks]


def _refuse_broken(simulator: GymnasiumSimulator) -> None:
    """An environment may fail now and then, but not always."""
    for attempt in range(ATTEMPTS):
        try:
            simulator.reset(attempt)
            simulator.step(_actions(simulator.action_dim, attempt)[0])
            return
        except Exception as error:  # an environment may raise anything
            reason = error
    raise ValueError(
        f"env_id={simulator.env_id}: its reset(seed=…) and first step fail with "
        f"{type(reason).__name__}: {sentence(reason)} Gymnasium's check_env says more"
    ) from reason


def _api_remarks(simulator: GymnasiumSimulator) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with never_exiting():
                check_env(simulator.unwrapped, skip_render_check=True, skip_close_check=True)
            failure = []
        except Exception as error:  # an environment may raise anything
            failure = [f"{type(error).__name__}: {sentence(error)}"]
    said = (sentence(w.message).removeprefix("WARN: ") for w in caught)
    serious = (text for text in said if not any(words in text for words in STYLE_ONLY))
    return list(dict.fromkeys(chain(serious, failure)))


def _play(simulator: GymnasiumSimulator, seed: int) -> list[object]:
    """Everything that an episode of random actions shows, to the bit; its failure too."""
    shown: list[object] = []
    try:
        simulator.reset(seed)
        shown.append(simulator.state().tobytes())
        for action in _actions(simulator.action_dim, seed):
            step = simulator.step(action)
            shown += [repr(step), simulator.state().tobytes()]
            if step.terminated or step.truncated:
                break
    except Exception as error:  # an environment may raise anything
        shown.append(repr(error))
    return shown


def _actions(action_dim: int, seed: int) -> np.ndarray:
    """``[STEPS, A]``"""
    return np.random.RandomState(seed).uniform(-1, 1, (STEPS, action_dim))
