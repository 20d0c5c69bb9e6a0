"""Small environments of one's own, registered as users register theirs."""

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, Sequence, Space, Tuple

REWARD_AT_THE_END = 100.0


class Walk(gym.Env[Any, np.ndarray]):
    """A point that the action moves; it shows where it is, and what it was told to do."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 20}
    action_space: Space[Any] = Box(-1.0, 1.0, (1,), np.float32)
    observation_space: Space[Any] = Box(-np.inf, np.inf, (2,), np.float32)

    def __init__(self, render_mode: str | None = None, start: float = 1.0) -> None:
        self.render_mode = render_mode
        self.start = start
        self.x = np.zeros(2)
        self.taken = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.x = self.start * self.np_random.uniform(-1, 1, 2)
        self.taken = 0
        return self.seen(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.taken += 1
        self.x = self.x + 0.1 * float(np.sum(action))
        return self.seen(), -float(self.x @ self.x), False, False, {}

    def seen(self) -> Any:
        return self.x.astype(np.float32)

    def render(self) -> Any:
        """Red on the left half, twice as wide as high."""
        picture = np.zeros((40, 80, 3), np.uint8)
        picture[:, :40, 0] = 255
        return picture


class Asymmetric(Walk):
    """Bounds that are not [-1, 1], in another shape; it fails for actions beyond them."""

    action_space = Box(np.array([[0.0], [-3.0]]), np.array([[0.25], [7.0]]), dtype=np.float64)

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        obs, _, *rest = super().step(action)
        return obs, float(10 * action[0, 0] + action[1, 0]), *rest


class Nested(Walk):
    observation_space = Dict(
        {"place": Box(-9, 9, (2, 2), np.float64), "kind": Discrete(3), "on": MultiBinary(2)}
    )

    def seen(self) -> Any:
        place = np.stack([self.x, -self.x])
        return {"place": place, "kind": np.int64(2), "on": np.array([1, 0], np.int8)}


class NestedAsymmetric(Nested, Asymmetric):
    action_space = Asymmetric.action_space


class Falls(Walk):
    """Ends by itself after three steps, with the largest reward of all."""

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, *_ = super().step(action)
        fallen = self.taken == 3
        return obs, REWARD_AT_THE_END if fallen else 1.0, fallen, False, {"is_success": fallen}


class Costs(Walk):
    """Each step costs the same; if it ends, then by itself and after 2 to 11 steps."""

    def __init__(self, cost: float = 1.0, ends: bool = True) -> None:
        super().__init__()
        self.cost, self.ends = cost, ends

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        obs, info = super().reset(**kwargs)
        self.length = int(self.np_random.integers(2, 12)) if self.ends else 0
        return obs, info

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, *_ = super().step(action)
        return obs, -self.cost, self.taken == self.length, False, {}


class RandomLength(Walk):
    """Cut by the environment itself after 2 to 11 steps."""

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        obs, info = super().reset(**kwargs)
        self.length = int(self.np_random.integers(2, 12))
        return obs, info

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, reward, *_ = super().step(action)
        return obs, reward, False, self.taken == self.length, {"success": self.taken > 6}


class Shrinks(Walk):
    """Cut by the environment itself: the first episode after ten steps, all others after two."""

    length = 0

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        self.length = 2 if self.length else 10
        return super().reset(**kwargs)

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, reward, *_ = super().step(action)
        return obs, reward, False, self.taken == self.length, {}


class Raises(Walk):
    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self.taken == 4 and self.x[0] > 0:
            raise RuntimeError("the cable is loose")
        return super().step(action)


class AlwaysRaises(Walk):
    def step(self, action: np.ndarray) -> Any:
        raise RuntimeError("the cable is loose")


class Unseeded(Walk):
    """Draws from a generator that no seed reaches."""

    def seen(self) -> Any:
        return (self.x + np.random.default_rng().normal(size=2)).astype(np.float32)


class Counting(Walk):
    """Each episode is harder than the one before."""

    episodes = 0

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        self.episodes += 1
        self.start = float(self.episodes)
        return super().reset(**kwargs)


class Wrong(Walk):
    """Says that it shows two numbers, and shows three."""

    def seen(self) -> Any:
        return np.zeros(3, np.float32)


class Blind(Walk):
    """Without pictures, and without the argument that asks for them."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}

    def __init__(self) -> None:
        super().__init__()

    def render(self) -> Any:
        return None


class Undrawn(Walk):
    """Without a render() of its own."""

    render = gym.Env.render


class Floats(Walk):
    """Its pictures are floats in [0, 1], and its rate is none."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": "fast"}

    def render(self) -> Any:
        return np.ones((20, 20, 3))


class Exits(Walk):
    """As some do when their window is closed."""

    def step(self, action: Any) -> Any:
        raise SystemExit(0)


class Paired(Walk):
    observation_space = Tuple((Box(-9, 9, (2,), np.float32), Discrete(3)))

    def seen(self) -> Any:
        return super().seen(), 2


class NoActions(Walk):
    action_space = None


class NoObservations(Walk):
    observation_space = None


class ChoosesAmongThree(Walk):
    action_space = Discrete(3)


class Unbounded(Walk):
    action_space = Box(-np.inf, np.inf, (1,), np.float32)


class Whole(Walk):
    action_space = Box(-3, 3, (1,), np.int64)


class Listing(Walk):
    observation_space = Sequence(Box(0, 1, (2,)))


FAKES = (
    *(
        Walk,
        Costs,
        Asymmetric,
        Nested,
        NestedAsymmetric,
        Falls,
        RandomLength,
        Shrinks,
        Raises,
        AlwaysRaises,
        Unseeded,
        Counting,
    ),
    *(Wrong, Blind, Undrawn, Floats, Exits, Paired, ChoosesAmongThree, Unbounded, Whole, Listing),
    *(NoActions, NoObservations),
)
for fake in FAKES:
    gym.register(f"{fake.__name__}-v0", entry_point=fake, max_episode_steps=20)
gym.register("Endless-v0", entry_point=Walk)
