"""What the rows of ``speed.py`` share: the machine, full-size configs, models and inputs."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import machine
import torch
from torch import Tensor

from difftori.compiling.compiler import Compiler
from difftori.compiling.cuda_graphs import CudaGraphs
from difftori.config import Config, compose
from difftori.model.world_model import WorldModel
from difftori.types import Batch, EnvSpec

EPISODE = 500
"""agent steps of an episode of finger-turn-easy"""
WAYS = {
    "eager": (False, False),
    "compiled": (True, False),
    "captured": (False, True),
    "both": (True, True),
}
"""whether ours is compiled, and recorded as CUDA graphs"""


@dataclass(frozen=True)
class Case:
    name: str
    what: str
    reach: float
    """the ratio to reach on a CPU"""
    reference: Callable[[], Any]
    ours: Callable[[], Any]
    floor_ms: float
    agreement: str
    """how the results of both sides compare"""
    repeats: int = 10
    scale: float = 1.0
    """timed calls in what the row is about"""


@dataclass
class Bench:
    """One machine and one way of ours."""

    way: str
    device: torch.device
    fp32_rate: float = field(init=False)
    bf16_rate: float = field(init=False)
    bandwidth: float = field(init=False)

    def __post_init__(self) -> None:
        model = self.model(self.config())
        self.fp32_rate = machine.product_rate(torch.float32, self.device)
        self.bf16_rate = machine.product_rate(torch.bfloat16, self.device)
        self.bandwidth = machine.weight_bandwidth(machine.plan_weight_bytes(model), self.device)

    @property
    def machine_line(self) -> str:
        if self.device.type == "cpu":
            where = f"{torch.get_num_threads()} threads"
        else:
            where = torch.cuda.get_device_name(self.device)
        return (
            f"{where}: products {self.fp32_rate / 1e9:,.0f} GFLOP/s in float32, "
            f"{self.bf16_rate / 1e9:,.0f} in bf16; weights at {self.bandwidth / 1e9:,.0f} GB/s"
        )

    def config(self, *groups: str, **keys: Any) -> Config:
        """Full size unless a preset is named, without an early stop."""
        task = ("task=finger-turn-easy", "mode=back_plan")
        fixed = {"device": str(self.device), "rel_err_tolerance": 0}
        return compose(*task, *groups, **{**fixed, **keys})

    def model(self, config: Config) -> WorldModel:
        """Random, with last layers that give plans something to gain inside the box.

        They are small enough for the reference: at large gradients its Cholesky loses digits.
        """
        torch.manual_seed(0)
        pixels = config.env.modality == "pixels"
        shape, stack = ((9, 84, 84), 3) if pixels else ((12,), 1)
        spec = EnvSpec("finger-turn-easy", config.env.modality, shape, 2, EPISODE, 2, stack)
        model = WorldModel(spec, config.model)
        for parameter in model.parameters():
            if parameter.ndim == 2 and not parameter.any():
                torch.nn.init.normal_(parameter, std=0.03 if pixels else 0.3)
        return model.to(self.device)

    def compiler(self) -> Compiler:
        compiled, captured = WAYS[self.way]
        return Compiler(compiled, graphs=CudaGraphs(captured))

    def generator(self, seed: int = 0) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(seed)

    def plan_floor_ms(self, model: WorldModel, config: Config, differentiated: int) -> float:
        """Reading the weights; a differentiated iteration reads them three times as often."""
        iterations = config.trajectory.max_iterations + 2 * differentiated
        bytes_read = iterations * machine.iteration_bytes(model, config.learner.horizon)
        return 1e3 * bytes_read / self.bandwidth

    def observations(self, model: WorldModel, count: int) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        if model.obs_ndim == 1:
            return torch.randn(count, 12, generator=generator).to(self.device)
        pixels = torch.randint(0, 256, (count, 9, 84, 84), generator=generator, dtype=torch.uint8)
        return pixels.to(self.device)

    def batch(self, config: Config, size: int) -> Batch:
        generator = torch.Generator().manual_seed(0)
        horizon = config.learner.horizon
        shape = (9, 84, 84) if config.env.modality == "pixels" else (12,)

        def obs(*leading: int) -> Tensor:
            if len(shape) == 1:
                return torch.randn(*leading, *shape, generator=generator).to(self.device)
            drawn = torch.randint(0, 256, (*leading, *shape), generator=generator)
            return drawn.to(self.device, torch.uint8)

        def rand(*size: int) -> Tensor:
            return torch.rand(*size, generator=generator).to(self.device)

        return Batch(
            obs=obs(size),
            next_obs=obs(horizon, size),
            action=2 * rand(horizon, size, 2) - 1,
            reward=rand(horizon, size, 1),
            terminated=torch.zeros(horizon, size, 1, device=self.device),
            weight=rand(size),
            index=torch.arange(size),
        )
