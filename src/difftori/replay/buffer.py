"""The prioritized replay buffer: whole episodes in, batches of H-step sequences out."""

from collections import deque
from collections.abc import Iterable
from itertools import islice

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from difftori.devices import upload
from difftori.replay import layout
from difftori.replay.fields import episode_arrays, from_rows, row_width
from difftori.replay.priorities import PriorityTree
from difftori.replay.storage import RowStore
from difftori.types import Batch, EnvSpec, Episode

PRIORITY_FLOOR = 1e-6


class ReplayBuffer:
    """The last ``capacity`` transitions, in whole episodes, drawn by priority.

    An episode of L transitions takes L + 1 consecutive slots of a ring: slot t holds observation t
    and, for t < L, the fields of transition t (see ``fields``). So the next observation is always
    in the next slot. Of stacked observations a slot holds the newest frame only. When the ring or
    the capacity is full the oldest whole episodes go. The ring has one extra slot per
    ``spec.episode_length`` transitions, so it fills up before the capacity does only if episodes
    end early. The last H starts of an episode are never drawn, as published, but for the first of
    them where the episode terminated: its sequence ends in the terminal transition. Of a task whose
    episodes can end by themselves (``spec.can_terminate``) every start is drawn: ``Batch.inside``
    tells what lies beyond the episode's end.

    Frames and fields lie on ``storage_device``; batches are made on ``compute_device``.
    Priorities and other bookkeeping are on the CPU (some 30 MB per million slots): draws then are
    the same on every machine and wait for nothing. All randomness is from ``generator``, on the CPU
    and the caller's; its state is not part of ``priorities_state``.
    """

    def __init__(
        self,
        spec: EnvSpec,
        *,
        capacity: int,
        horizon: int,
        alpha: float,
        beta: float,
        storage_device: torch.device | str,
        compute_device: torch.device | str,
        generator: torch.Generator,
    ) -> None:
        """Raises ValueError for a capacity, horizon, exponent or generator that cannot be.

        ``capacity`` in transitions (agent steps), ``horizon`` H in agent steps. Draws are without
        replacement once an episode has been overwritten, as published, where there are enough
        sequences.
        """
        self.spec = spec
        self.capacity = capacity
        self.horizon = horizon
        self._beta = beta
        self._compute_device = torch.device(compute_device)
        self._generator = generator
        device = torch.device(storage_device)
        self._slots = layout.slots_needed(spec, capacity)
        shape = layout.frame_shape(spec.obs_shape, spec.frame_stack)
        pin = device.type == "cpu" and self._compute_device.type == "cuda"
        self._frames = RowStore(self._slots, shape, spec.obs_dtype, device, pin=pin)
        # all fields side by side, to be gathered at once
        self._fields = RowStore(self._slots, (row_width(spec),), torch.float32, device, pin=pin)
        self._tree = PriorityTree(self._slots, alpha)
        self._step = torch.zeros(self._slots, dtype=torch.int32)
        self._steps_left = torch.zeros(self._slots, dtype=torch.int32)
        """transitions from a slot to its episode's end"""
        self._lengths: deque[int] = deque()
        """transitions of each live episode, oldest first"""
        self._transitions_through: Tensor | None = None
        # Counted since the start and never wrapped; the ring's slot is the remainder.
        self._first_slot = 0
        self._end_slot = 0
        self._episodes_added = 0
        self._num_transitions = 0

    # ---- what is stored

    @property
    def num_transitions(self) -> int:
        """Transitions stored now, those that can never be drawn included."""
        return self._num_transitions

    @property
    def num_episodes_added(self) -> int:
        """Episodes added since the start, overwritten ones included."""
        return self._episodes_added

    @property
    def live_episodes(self) -> range:
        """Running numbers, from 0 since the start, of the episodes stored now."""
        return range(self._episodes_added - len(self._lengths), self._episodes_added)

    @property
    def can_sample(self) -> bool:
        """Whether any stored sequence of H transitions can be drawn."""
        return self._tree.drawable > 0

    def episode(self, number: int) -> Episode:
        """The live episode with that running number. Raises KeyError if it is not stored."""
        if number not in self.live_episodes:
            raise KeyError(f"episode {number} is not stored; stored are {self.live_episodes}")
        position = number - self.live_episodes.start
        length = self._lengths[position]
        start = self._first_slot + sum(islice(self._lengths, position)) + position
        slots = torch.arange(start, start + length + 1) % self._slots
        obs = self._observations(slots, 0)[0]
        parts = from_rows(self._fields.gather(slots[:-1]), self.spec)
        return Episode(obs=obs.cpu().numpy(), **episode_arrays(parts, self.spec))

    # ---- in

    def add(self, episode: Episode) -> None:
        """Store an episode; its drawable transitions get the largest priority now stored, or 1.

        Raises ValueError, and stores nothing, if the episode is empty, longer than the capacity,
        not of the environment's shapes and types, not finite, or not a running stack of frames.
        """
        rows = layout.episode_rows(episode, self.spec, self.capacity)
        largest = float(self._tree.max())
        priority = torch.zeros(len(episode) + 1, dtype=torch.float64)
        # before anything can be drawn the largest priority is zero, and would stay so for ever
        starts = len(episode)
        if not self.spec.can_terminate:
            starts += int(episode.terminated[-1]) - self.horizon
        priority[: max(0, starts)] = largest if largest > 0 else 1.0
        while (
            self._num_transitions + len(episode) > self.capacity
            or self._end_slot - self._first_slot + len(priority) > self._slots
        ):
            self._drop_oldest()
        self._tree.set(self._append(*rows), priority)

    def _append(self, frames: Tensor, fields: Tensor) -> Int[Tensor, "slots"]:
        """Write an episode behind the newest one, where there must be room; returns its slots."""
        slots = torch.arange(self._end_slot, self._end_slot + len(frames)) % self._slots
        self._frames.write(self._end_slot % self._slots, frames)
        self._fields.write(self._end_slot % self._slots, fields)
        self._step[slots] = torch.arange(len(frames), dtype=torch.int32)
        self._steps_left[slots] = torch.arange(len(frames) - 1, -1, -1, dtype=torch.int32)
        self._lengths.append(len(fields))
        self._transitions_through = None
        self._end_slot += len(frames)
        self._num_transitions += len(fields)
        self._episodes_added += 1
        return slots

    def _drop_oldest(self) -> None:
        length = self._lengths.popleft()
        slots = torch.arange(self._first_slot, self._first_slot + length + 1) % self._slots
        self._tree.set(slots, torch.zeros(len(slots), dtype=torch.float64))
        self._transitions_through = None
        self._first_slot += length + 1
        self._num_transitions -= length

    # ---- out

    def sample(self, batch_size: int) -> Batch:
        """A batch of B = ``batch_size`` sequences of H transitions, by priority."""
        return self.gather(*self.draw(batch_size))

    def draw(self, batch_size: int) -> tuple[Int[Tensor, "B"], Float[Tensor, "B"]]:
        """Where the sequences of a batch begin, by priority, and their weights.

        The weights are Schaul et al.'s (N · P(i))^-β over their maximum in the batch. In that
        quotient N and the sum of the masses cancel, and (smallest mass / mass)^β is left.

        Raises ValueError if nothing can be drawn.
        """
        if not self.can_sample:
            raise ValueError(
                f"nothing to sample: none of the {len(self._lengths)} stored episodes is longer "
                f"than the horizon of {self.horizon}; check can_sample first"
            )
        index = self._draw(batch_size)
        mass = self._tree.mass[index]
        return index, ((mass.min() / mass) ** self._beta).float()

    def gather(self, index: Int[Tensor, "B"], weight: Float[Tensor, "B"]) -> Batch:
        """The sequences that begin at ``index``, on the computing device."""
        obs, device = self._observations(index, self.horizon), self._compute_device
        after, left = torch.arange(self.horizon)[:, None], self._steps_left[index]
        steps = (index + torch.minimum(after, left - 1)) % self._slots
        fields = upload(self._fields.gather(steps), device)
        inside = (after < left)[..., None].float() if self.spec.can_terminate else None
        return Batch(
            obs=obs[0],
            next_obs=obs[1:],
            **from_rows(fields, self.spec),
            weight=upload(weight, device),
            index=index,
            inside=None if inside is None else upload(inside, device),
        )

    def uniform_observations(self, n: int) -> Shaped[Tensor, "n ..."]:
        """``[n, *O]`` observations of stored transitions, each equally likely, with replacement.

        Raises ValueError if the buffer is empty.
        """
        if self._num_transitions == 0:
            raise ValueError("no observations to draw: the buffer is empty")
        if self._transitions_through is None:
            self._transitions_through = torch.tensor(self._lengths).cumsum(0)
        drawn = torch.randint(self._num_transitions, (n,), generator=self._generator)
        # each episode before adds the slot of its last observation
        episodes_before = torch.bucketize(drawn, self._transitions_through, right=True)
        slots = (self._first_slot + drawn + episodes_before) % self._slots
        return self._observations(slots, 0)[0]

    def update_priorities(self, index: Int[Tensor, "B"], priority: Float[Tensor, "B"]) -> None:
        """Give the sequences that begin at ``index [B]`` the priorities ``priority [B]`` + 1e-6.

        ``index`` comes from a batch drawn since the last ``add``: a slot that has been overwritten
        in between would take its old sequence's priority unnoticed. Of repeated slots the last one
        counts. Raises ValueError, and changes nothing, if a priority is negative or not finite, or
        if no sequence can be drawn at an index.
        """
        priority = priority.detach().cpu().double()
        bad = ~(torch.isfinite(priority) & (priority >= 0))
        if bool(bad.any()):
            k = int(bad.nonzero()[0])
            raise ValueError(f"priority {float(priority[k])} at slot {int(index[k])}")
        outside = (index < 0) | (index >= self._slots)
        idle = outside | (self._tree.mass[index.clamp(0, self._slots - 1)] == 0)
        if bool(idle.any()):
            raise ValueError(f"no sequence can be drawn at slot {int(index[idle][0])}")
        self._tree.set(index, priority + PRIORITY_FLOOR)

    def _draw(self, n: int) -> Int[Tensor, "n"]:
        wrapped = self.live_episodes.start > 0
        if wrapped and self._tree.drawable >= n:
            return self._tree.draw_without_replacement(n, self._generator)
        return self._tree.draw(torch.rand(n, dtype=torch.float64, generator=self._generator))

    def _observations(self, slots: Tensor, after: int) -> Tensor:
        """``[after + 1, n, *O]`` observations in ``slots [n]`` and the ``after`` next of each."""
        left = self._steps_left[slots] if self.spec.can_terminate else None
        offset = layout.frame_offsets(self.spec.frame_stack, after, self._step[slots], left)
        frames = self._frames.gather((slots + offset) % self._slots)
        # moved to the computing device as single frames, and only there copied into stacks
        return layout.stack_frames(upload(frames, self._compute_device), self.spec.frame_stack)

    # ---- resume

    def priorities_state(self) -> dict[str, Tensor | int]:
        """All that changes apart from the episodes themselves; ``load`` takes it back."""
        slots = torch.arange(self._first_slot, self._end_slot) % self._slots
        return {
            "priority": self._tree.priority[slots],
            "mass": self._tree.mass[slots],
            "first_slot": self._first_slot,
            "slots": self._slots,
            "horizon": self.horizon,
            "first_episode": self.live_episodes.start,
            "episodes_added": self._episodes_added,
        }

    def load(self, episodes: Iterable[Episode], state: dict[str, Tensor | int]) -> None:
        """Fill a new buffer with the live ``episodes``, oldest first, and ``priorities_state()``.

        With its generator set to the same state, it then does bit for bit what the saved one would
        have done. Raises ValueError if this buffer is not new or the parts do not fit together.
        """
        if self._episodes_added:
            raise ValueError("episodes can be loaded into a new buffer only")
        here = {"slots": self._slots, "horizon": self.horizon}
        if any(state[name] != value for name, value in here.items()):
            there = {name: state[name] for name in here}
            raise ValueError(f"the buffer was saved with {there}, and this one has {here}")
        self._first_slot = self._end_slot = int(state["first_slot"])
        self._episodes_added = int(state["first_episode"])
        for episode in episodes:
            self._append(*layout.episode_rows(episode, self.spec, self.capacity))
        priority, mass = torch.as_tensor(state["priority"]), torch.as_tensor(state["mass"])
        slots = torch.arange(self._first_slot, self._end_slot) % self._slots
        found = (self._episodes_added, len(slots))
        if found != (state["episodes_added"], len(priority)):
            saved = (state["episodes_added"], len(priority))
            raise ValueError(f"episodes and slots are {found}, and the saved state has {saved}")
        self._tree.restore(slots, priority, mass)
