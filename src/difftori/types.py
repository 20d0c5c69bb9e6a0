"""What passes between the packages.

Symbols of the shapes, everywhere in the project:

    B  batch                      A  action dimension
    H  planning horizon           Z  latent dimension
    L  episode length             O  observation shape: [D] float32, or [3·stack, 84, 84] uint8
    N  candidates of one plan
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class EnvSpec:
    """Facts about an environment; nothing else tells the rest of the code about it."""

    task: str
    modality: str
    """``state`` or ``pixels``"""
    obs_shape: tuple[int, ...]
    action_dim: int
    episode_length: int
    """agent steps in a whole episode"""
    action_repeat: int
    """environment steps per agent step"""
    frame_stack: int = 1
    """frames in one observation; 1 from state"""
    can_terminate: bool = False
    """whether episodes may end by themselves, before their time is up"""

    @property
    def obs_dtype(self) -> torch.dtype:
        return torch.uint8 if self.modality == "pixels" else torch.float32


@dataclass(frozen=True)
class Episode:
    """One finished episode, as the replay buffer takes it."""

    obs: np.ndarray
    """``[L+1, *O]`` every observation, the last one included; uint8 pixels or float32"""
    action: np.ndarray
    """``[L, A]`` float32, as executed, in [-1, 1]"""
    reward: np.ndarray
    """``[L]`` float32, summed over the action repeat"""
    terminated: np.ndarray
    """``[L]`` bool; True at the last step of an episode that came to its end, where nothing is to
    be had any more, and not of one that was cut off"""

    def __len__(self) -> int:
        return len(self.reward)


@dataclass(frozen=True)
class Batch:
    """A prioritized batch of H-step sequences, on the computing device."""

    obs: Tensor
    """``[B, *O]`` first observation, stored dtype"""
    next_obs: Tensor
    """``[H, B, *O]`` the observation after each action"""
    action: Float[Tensor, "H B A"]
    reward: Float[Tensor, "H B 1"]
    terminated: Float[Tensor, "H B 1"]
    """1 where the transition ended its episode for good, else 0"""
    weight: Float[Tensor, "B"]
    """importance weights, at most 1"""
    index: Int[Tensor, "B"]
    """where the sequences begin in the buffer, for ``update_priorities``; on the CPU"""
    inside: Float[Tensor, "H B 1"] | None = None
    """0 where a sequence has gone beyond its episode's last step: that step is repeated there, and
    nothing is learned from it; None where no sequence does"""


@dataclass(frozen=True)
class Plan:
    """What a planner decided for B observations."""

    action: Float[Tensor, "B A"]
    """first action to execute, detached"""
    finite: Bool[Tensor, "B"]
    """False where the plan was not finite and ``action`` is a fallback"""
    actions: Float[Tensor, "H B A"]
    """the whole plan, detached and unclipped: the optimizer's best iterate, or the sampling
    planner's mean"""
    first_guess: Float[Tensor, "H B A"]
    """where the planner began: the policy's actions, or the mean carried over"""
    carry: Float[Tensor, "B *C"] | None = None
    """what the planner wants back at the next step of the same episode, in a form of its own"""
    differentiable_action: Float[Tensor, "B A"] | None = None
    """first action of the last iterate, unclipped, with its graph"""
    stats: Mapping[str, Float[Tensor, "B"]] = field(default_factory=dict)
    """numbers worth a log line, by name"""
