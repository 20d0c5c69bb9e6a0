"""Where a run stands: everything about the loop itself that a checkpoint must hold."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from difftori.replay.fields import transition_fields
from difftori.types import EnvSpec, Episode

Phase = Literal["acting", "updating", "evaluating"]


@dataclass
class Counters:
    phase: Phase = "acting"
    agent_step: int = 0
    """actions taken in the environment, the open episode's included"""
    env_step: int = 0
    """steps of the simulator that they took"""
    acted: int = 0
    """as ``agent_step``, with the steps of dropped episodes: it never falls"""
    episode: int = 0
    """episodes finished"""
    episode_start_step: int = 0
    """agent step at which the present (or the last) episode began"""
    episode_start_env_step: int = 0
    update: int = 0
    """model updates done"""
    update_step: int = 0
    """step of the last model update, as schedules count it"""
    updates_planned: int = 0
    """of the present block of updates"""
    updates_left: int = 0
    learned_through: int = 0
    """last agent step with updates while its episode went on; a redone episode has them once"""
    seed_block_done: bool = False
    """whether the long block of updates after the seed steps has been planned"""
    evaluated_through: int = 0
    """whole multiples of eval_freq that have been evaluated"""
    best_reward: float | None = None
    """of all evaluations"""
    episodes_dropped: int = 0
    dropped_in_a_row: int = 0

    @property
    def progress_number(self) -> int:
        """Grows with every agent step and every update; numbers the checkpoints."""
        return self.acted + self.update

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class OpenEpisode:
    """An episode that is being acted; enough to go on in the middle of it.

    A simulator's state is not the whole of it (targets live in the model, tasks keep attributes),
    but a seed and the actions since make it again exactly.
    """

    seed: int
    obs: list[np.ndarray]
    steps: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))
    """of each field of a transition, by its name in ``replay.fields``, its values so far"""
    carry: Tensor | None = None
    """what the planner wants back at the next step"""
    success: float | None = None
    """1 or 0 after the last step; None where the suite knows no success"""
    success_any: float | None = None
    """after any step"""

    def __len__(self) -> int:
        return len(self.obs) - 1

    def add(self, next_obs: np.ndarray, **transition: Any) -> None:
        """One agent step: the observation after it, and each field of the transition."""
        self.obs.append(next_obs)
        for name, value in transition.items():
            self.steps[name].append(value)

    def outcome(self) -> dict[str, float | None]:
        """What a record says of the episode: its return, and success where the suite knows it."""
        reward = float(np.sum(self.steps["reward"]))
        return {"reward": reward, "success": self.success, "success_any": self.success_any}

    def finish(self, spec: EnvSpec) -> Episode:
        fields = {f.name: np.asarray(self.steps[f.name], f.dtype) for f in transition_fields(spec)}
        return Episode(obs=np.stack(self.obs), **fields)

    def state_dict(self) -> dict[str, Any]:
        steps = {name: torch.from_numpy(np.asarray(values)) for name, values in self.steps.items()}
        return {
            "seed": self.seed,
            "obs": torch.from_numpy(np.stack(self.obs)),
            "steps": steps,
            "carry": self.carry,
            "success": self.success,
            "success_any": self.success_any,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any], device: torch.device) -> "OpenEpisode":
        carry = state["carry"]
        episode = cls(
            seed=state["seed"],
            obs=list(state["obs"].numpy()),
            carry=None if carry is None else carry.to(device),
            success=state["success"],
            success_any=state["success_any"],
        )
        episode.steps.update({name: list(t.numpy()) for name, t in state["steps"].items()})
        return episode


class Averages:
    """Means of named numbers on the CPU since the last ``pop``, of those that are finite."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: Mapping[str, Tensor] | Mapping[str, float]) -> None:
        for name, value in values.items():
            mean = torch.as_tensor(value).detach().double().mean()
            if not torch.isfinite(mean):
                continue
            self._sums[name] = self._sums[name] + mean if name in self._sums else mean
            self._counts[name] = self._counts.get(name, 0) + 1

    def pop(self) -> dict[str, float]:
        # Sorted, because a resumed run does not know in which order the names came.
        names = sorted(self._sums)
        means = {name: float(self._sums[name]) / self._counts[name] for name in names}
        self._sums, self._counts = {}, {}
        return means

    def state_dict(self) -> dict[str, Any]:
        return {"sums": dict(self._sums), "counts": dict(self._counts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._sums = dict(state["sums"])
        self._counts = dict(state["counts"])
