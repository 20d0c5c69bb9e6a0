"""The model update and the policy update on a replayed batch."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from difftori.compiling.compiler import EAGER, Compiler
from difftori.compiling.float32_matmul import fast_large_products
from difftori.devices import download
from difftori.learning import losses
from difftori.learning.finite import NonFiniteCounter, check_weights
from difftori.learning.optimizer import GuardedAdam
from difftori.model import augment
from difftori.model.world_model import WorldModel
from difftori.sections import LearnerConfig
from difftori.types import Batch


@dataclass(frozen=True)
class UpdateResult:
    """What one update did."""

    losses: Mapping[str, Float[Tensor, ""]]
    """means over the batch by their published names, and the gradient's norm; on the CPU"""
    priority: Float[Tensor, "B"]
    """of the batch's sequences, on the CPU"""
    finite: bool
    """False where the gradient was not finite: nothing was changed, and no number here counts"""


class Learner:
    """Owns the target networks and the optimizers of model and policy."""

    def __init__(
        self,
        model: WorldModel,
        config: LearnerConfig,
        *,
        generator: torch.Generator,
        max_nonfinite: int,
        compiler: Compiler = EAGER,
    ) -> None:
        """``generator`` lies on the model's device; it draws augmentations and policy noise."""
        self.model = model
        self.target = model.target_copy()
        self._config = config
        self._generator = generator
        self._model_optimizer = GuardedAdam(model.model_parameters(), config.grad_clip_norm)
        self._policy_optimizer = GuardedAdam(model.policy_parameters(), config.grad_clip_norm)
        self.nonfinite = NonFiniteCounter("an update's gradient", max_nonfinite)
        coefficients = {
            "consistency_loss": config.consistency_coef,
            "reward_loss": config.reward_coef,
            "value_loss": config.value_coef,
            "value_s_loss": config.value_coef,
        }
        if model.episodic:
            coefficients["termination_loss"] = config.termination_coef
        model_loss = partial(
            losses.model_loss,
            model,
            self.target,
            discount=config.discount,
            rho=config.rho,
            coefficients=coefficients,
            target_spread=config.target_spread,
        )
        policy_loss = partial(losses.policy_loss, model, rho=config.rho)
        self._model_loss = compiler(model_loss, "the model update")
        self._policy_loss = compiler(policy_loss, "the policy update")
        self._recorded_step = compiler.graphs(self._step, "the update")

    def update(self, batch: Batch, step: int) -> UpdateResult:
        """One update of model, policy and, every ``update_freq`` steps, targets.

        ``step`` counts agent steps: the schedules' clock.

        Raises:
            NotFiniteError: for a weight that is not finite, and after ``max_nonfinite`` such
                updates in a row.
        """
        config = self._config
        shape = batch.action.shape
        batch = self._augmented(batch)
        noise = self._policy_noise(shape)
        policy_noise = self._policy_noise((shape[0] + 1, *shape[1:]))
        with fast_large_products(config.batch_size, self.model.hidden_dim, self.model.device):
            names, numbers, priority = self._recorded_step(
                batch, noise, policy_noise, self._step_size(step)
            )
        # Here, and not before, the device is waited for.
        numbers, priority = download(numbers, priority)
        result = dict(zip(names, numbers.unbind(), strict=True))
        model_finite, policy_finite = (
            bool(torch.isfinite(result[name])) for name in ("grad_norm", "pi_loss")
        )
        if model_finite:
            self.nonfinite.seen(finite=policy_finite, where="pi_loss")
            if step % config.update_freq == 0:
                self._update_target()
        else:
            check_weights(self.model)
            check_weights(self.target)
            terms = [name for name in names if name not in ("grad_norm", "pi_loss")]
            bad = [name for name in terms if not torch.isfinite(result[name])]
            self.nonfinite.seen(finite=False, where=", ".join(bad))
        return UpdateResult(losses=result, priority=priority, finite=model_finite)

    def _step(
        self,
        batch: Batch,
        noise: Float[Tensor, "H B A"] | None,
        policy_noise: Float[Tensor, "H_1 B A"] | None,
        lr: float | Float[Tensor, ""],
    ) -> tuple[tuple[str, ...], Float[Tensor, "numbers"], Float[Tensor, "B"]]:
        """One step of model and policy: names and values for the log, and the priorities.

        Nothing in it depends on a value on the CPU: a GPU does it as one CUDA graph.
        """
        dtype = self.model.dtype
        batch = replace(batch, obs=batch.obs.to(dtype), next_obs=batch.next_obs.to(dtype))
        with self._autocast():
            loss = self._model_loss(batch, noise)
        gradients = torch.autograd.grad(
            loss.weighted / self._config.horizon, self._model_optimizer.parameters
        )
        grad_norm = self._model_optimizer.step(gradients, lr)
        running, allowed = losses.still_running(batch), torch.isfinite(grad_norm)
        pi_loss = self._update_policy(loss.latents, policy_noise, lr, allowed, running)
        numbers = {**loss.terms, "grad_norm": grad_norm, "pi_loss": pi_loss}
        return tuple(numbers), torch.stack(list(numbers.values())), loss.priority

    def _update_policy(
        self,
        latents: Float[Tensor, "H_1 B Z"],
        noise: Float[Tensor, "H_1 B A"] | None,
        lr: float | Float[Tensor, ""],
        allowed: Bool[Tensor, ""] | None = None,
        running: Float[Tensor, "H_1 B 1"] | None = None,
    ) -> Float[Tensor, ""]:
        with self._autocast():
            loss = self._policy_loss(latents, noise, running)
        gradients = torch.autograd.grad(loss, self._policy_optimizer.parameters)
        grad_norm = self._policy_optimizer.step(gradients, lr, allowed)
        return torch.where(torch.isfinite(grad_norm), loss.detach(), grad_norm)

    @torch.no_grad()
    def _update_target(self) -> None:
        target: list[Tensor] = list(self.target.parameters())
        online: list[Tensor] = list(self.model.parameters())
        torch._foreach_lerp_(target, online, self._config.tau)

    def _autocast(self) -> torch.autocast:
        """Products in bf16 if asked for; weights, losses, gradients and steps stay in float32."""
        enabled = self._config.precision == "bf16"
        return torch.autocast(self.model.device.type, dtype=torch.bfloat16, enabled=enabled)

    def augment(self, obs: Tensor) -> Tensor:
        """Observations ``[B, *O]``, each image shifted once; states as they are."""
        kind = self._config.augmentation
        if obs.ndim == 2 or kind == "none":
            return obs
        return augment.SHIFTS[kind](obs, augment.random_offsets(len(obs), self._generator))

    def _augmented(self, batch: Batch) -> Batch:
        """Not part of a recording: kornia reads where to crop on the CPU."""
        together = torch.cat([batch.obs.unsqueeze(0), batch.next_obs])
        augmented = self.augment(together.flatten(0, 1)).view(together.shape)
        return replace(batch, obs=augmented[0], next_obs=augmented[1:])

    def _step_size(self, step: int) -> float | Float[Tensor, ""]:
        lr, device = self._config.lr(step), self.model.device
        return torch.full((), lr, device=device) if device.type == "cuda" else lr

    def _policy_noise(self, shape: tuple[int, ...]) -> Tensor | None:
        if self._config.min_std == 0:
            return None
        generator, dtype = self._generator, self.model.dtype
        draws = torch.randn(*shape, generator=generator, device=generator.device, dtype=dtype)
        return self._config.min_std * draws

    def state_dict(self) -> dict[str, Any]:
        return {
            "target": dict(self.target.state_dict()),
            "model_optimizer": self._model_optimizer.state_dict(),
            "policy_optimizer": self._policy_optimizer.state_dict(),
            "nonfinite": self.nonfinite.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.target.load_state_dict(state["target"])
        self._model_optimizer.load_state_dict(state["model_optimizer"])
        self._policy_optimizer.load_state_dict(state["policy_optimizer"])
        self.nonfinite.load_state_dict(state["nonfinite"])
