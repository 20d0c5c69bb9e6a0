"""Every random number of a run comes from its seed and the name of what it is for."""

import random
import zlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


def derive_seed(seed: int, *path: str | int) -> int:
    """A seed below 2³¹ for the purpose that ``path`` names; zeros at its end count for nothing."""
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in path]
    return int(np.random.SeedSequence([seed, *words]).generate_state(1)[0] >> 1)


def generator(device: torch.device | str, seed: int, *path: str | int) -> torch.Generator:
    return torch.Generator(device).manual_seed(derive_seed(seed, *path))


class RandomStreams:
    """The generators of a run: for plans, for updates and for batches.

    Environments have none: each episode is seeded by its number.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self._seed = seed
        self.acting = generator(device, seed, "acting")
        self.learning = generator(device, seed, "learning")
        self.replay = generator("cpu", seed, "replay")
        # The global generators initialise the weights, and serve whatever a library draws.
        torch.manual_seed(derive_seed(seed, "weights"))
        np.random.seed(derive_seed(seed, "numpy"))
        random.seed(derive_seed(seed, "python"))

    def _named(self) -> dict[str, torch.Generator]:
        return {"acting": self.acting, "learning": self.learning, "replay": self.replay}

    def state_dict(self) -> dict[str, Tensor]:
        states = {name: stream.get_state() for name, stream in self._named().items()}
        return states | {"torch": torch.get_rng_state()}

    def load_state_dict(self, states: Mapping[str, Tensor]) -> bool:
        """Go on with the saved numbers; False if some come from another kind of device.

        Those begin anew, with numbers that were not drawn before.
        """
        exact = True
        for name, stream in self._named().items():
            try:
                stream.set_state(states[name])
            except RuntimeError:  # a generator of the GPU cannot go on on the CPU, nor back
                stream.manual_seed(
                    derive_seed(self._seed, name, zlib.crc32(states[name].numpy().tobytes()))
                )
                exact = False
        torch.set_rng_state(states["torch"])
        return exact
