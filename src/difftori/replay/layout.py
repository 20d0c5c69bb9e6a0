"""How episodes are laid out in slots, what that takes, and frames out of and into stacks."""

import numpy as np
import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from difftori.replay.fields import row_width, to_rows, transition_fields
from difftori.types import EnvSpec, Episode


def slots_needed(spec: EnvSpec, capacity: int) -> int:
    """Slots for ``capacity`` transitions of whole episodes: one more per episode, its last obs."""
    return capacity + -(-capacity // spec.episode_length)


def memory_bytes(spec: EnvSpec, capacity: int, stored: int) -> int:
    """Bytes that a buffer for ``capacity`` transitions takes once it holds ``stored`` of them.

    A GPU's memory is taken in segments, of which the last may be up to 2 GiB too long.
    """
    steps, priority, mass_and_its_sum = 8, 8, 16  # taken at once, before anything is stored
    filled, all_slots = slots_needed(spec, stored), slots_needed(spec, capacity)
    return filled * slot_bytes(spec) + all_slots * (steps + priority + mass_and_its_sum)


def slot_bytes(spec: EnvSpec) -> int:
    """Of what one slot stores: a frame and a transition's fields."""
    frame = int(np.prod(frame_shape(spec.obs_shape, spec.frame_stack))) * spec.obs_dtype.itemsize
    return frame + 4 * row_width(spec)


def frame_shape(obs_shape: tuple[int, ...], stack: int) -> tuple[int, ...]:
    """The shape of one of the ``stack`` frames of an observation; frames lie along the first axis.

    Raises ValueError if the first axis does not divide by ``stack``.
    """
    if stack < 1 or obs_shape[0] % stack:
        raise ValueError(f"an observation of shape {obs_shape} is no stack of {stack} frames")
    return (obs_shape[0] // stack, *obs_shape[1:])


def newest_frames(obs: np.ndarray, stack: int) -> np.ndarray:
    """``[T, *frame]``: the newest, that is the last, frame of each observation ``[T, *O]``.

    Raises ValueError unless ``stack_frames`` gives back ``obs``: the first observation must repeat
    its frame, and each later one must be the one before, moved on by a frame.
    """
    channels = obs.shape[1] // stack
    if stack > 1:
        frames = obs[:, -channels:]
        if not (obs[0].reshape(stack, *frames.shape[1:]) == frames[0]).all():
            raise ValueError("an episode's first observation must repeat its first frame")
        moved = (obs[1:, :-channels] == obs[:-1, channels:]).reshape(len(obs) - 1, -1).all(1)
        if not moved.all():
            step = int(np.argmin(moved)) + 1
            raise ValueError(f"observation {step} does not continue the frame stack before it")
        return frames
    return obs


def stack_frames(
    frames: Shaped[Tensor, "frames n ..."], stack: int
) -> Shaped[Tensor, "steps n ..."]:
    """Observations ``[T, n, *O]`` from consecutive frames ``[T+stack-1, n, *frame]``."""
    if stack == 1:
        return frames
    steps = len(frames) - stack + 1
    return torch.cat([frames[k : k + steps] for k in range(stack)], dim=2)


def frame_offsets(
    stack: int, after: int, step: Int[Tensor, "n"], steps_left: Int[Tensor, "n"] | None
) -> Int[Tensor, "frames n_or_1"]:
    """Slots from an observation's own to those of the frames of it and of the ``after`` next.

    Args:
        step: of the observation in its episode.
        steps_left: transitions to its episode's end; None where no frame can lie beyond.
    """
    offset = torch.arange(1 - stack, after + 1)[:, None]
    if stack > 1:
        # before an episode's first frame there is only that frame again
        offset = torch.maximum(offset, -step.long())
    # beyond an episode's last observation there is only that one again
    return offset if steps_left is None else torch.minimum(offset, steps_left.long())


def episode_rows(episode: Episode, spec: EnvSpec, longest: int) -> tuple[Tensor, Tensor]:
    """Frames ``[L+1, *frame]`` and the transitions' fields ``[L, W]``, as slots hold them.

    Raises ValueError if the episode is empty, longer than ``longest`` transitions, not of the
    environment's shapes and dtypes, not finite, not a running stack of frames, or goes on after
    it terminated.
    """
    length = len(episode)
    if not 1 <= length <= longest:
        raise ValueError(f"an episode needs 1 to {longest} transitions, got {length}")
    obs_dtype = np.uint8 if spec.obs_dtype == torch.uint8 else np.float32
    _check("obs", episode.obs, (length + 1, *spec.obs_shape), obs_dtype)
    for field in transition_fields(spec):
        _check(field.name, getattr(episode, field.name), (length, *field.shape), field.dtype)
    if episode.terminated[:-1].any():
        step = int(np.argmax(episode.terminated))
        raise ValueError(f"the episode terminated at step {step} and has {length} transitions")
    frames = newest_frames(episode.obs, spec.frame_stack)
    return torch.tensor(frames), to_rows(episode, spec)


def _check(name: str, value: np.ndarray, shape: tuple[int, ...], dtype: type[np.generic]) -> None:
    if value.shape != shape or value.dtype != dtype:
        wanted = f"{np.dtype(dtype)} of shape {shape}"
        raise ValueError(f"{name} must be {wanted}, got {value.dtype} of {value.shape}")
    if dtype is np.float32 and not np.isfinite(value).all():
        raise ValueError(f"{name} is not finite at {np.argwhere(~np.isfinite(value))[0]}")
