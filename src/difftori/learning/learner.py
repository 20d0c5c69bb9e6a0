"""The model update and the policy update on a replayed batch."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from difftori.compiling.compiler import EAGER, Compiler
from difftori.compiling.float32_matmul import fast_float32_matmul
from difftori.learning import losses
from difftori.learning.finite import NonFiniteCounter, check_weights
from difftori.learning.optimizer import GuardedAdam
from difftori.model import augment
from difftori.model.world_model import WorldModel
from difftori.sections import LearnerConfig
from difftori.types import Batch

LARGE_PRODUCT = 2**17
"""rows times columns from which oneDNN's float32 products beat MKL's; measured on AVX-512"""


@dataclass(frozen=True)
class UpdateResult:
    """What one update did."""

    losses: Mapping[str, Float[Tensor, ""]]
    """means over the batch by their published names, and the gradient's norm"""
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
        self.nonfinite = NonFiniteCounter("the model update's gradient", max_nonfinite)
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

    def update(self, batch: Batch, step: int) -> UpdateResult:
        """One update of model, policy and, every ``update_freq`` steps, targets.

        ``step`` counts agent steps: the schedules' clock.

        Raises:
            NotFiniteError: for a weight that is not finite, and after ``max_nonfinite`` such
                updates in a row.
        """
        config = self._config
        lr = config.lr(step)
        with self._fast_matmul():
            with self._autocast():
                augmented = self._augmented(batch)
                loss = self._model_loss(augmented, self._policy_noise(batch.action.shape))
            gradients = torch.autograd.grad(
                loss.weighted / config.horizon, self._model_optimizer.parameters
            )
            grad_norm = self._model_optimizer.step(gradients, lr)
            running, allowed = losses.still_running(batch), torch.isfinite(grad_norm)
            pi_loss = self._update_policy(loss.latents, lr, allowed, running)
        # Here, and not before, the device is waited for.
        model_finite, policy_finite = torch.isfinite(torch.stack([grad_norm, pi_loss])).tolist()
        if model_finite:
            self.nonfinite.seen(finite=policy_finite, where="pi_loss")
            if step % config.update_freq == 0:
                self._update_target()
        else:
            check_weights(self.model)
            check_weights(self.target)
            bad = [name for name, term in loss.terms.items() if not torch.isfinite(term)]
            self.nonfinite.seen(finite=False, where=", ".join(bad))
        return UpdateResult(
            losses={**loss.terms, "grad_norm": grad_norm, "pi_loss": pi_loss},
            priority=loss.priority.cpu(),
            finite=model_finite,
        )

    def _update_policy(
        self,
        latents: Float[Tensor, "H_1 B Z"],
        lr: float,
        allowed: Bool[Tensor, ""] | None = None,
        running: Float[Tensor, "H_1 B 1"] | None = None,
    ) -> Float[Tensor, ""]:
        noise = self._policy_noise((*latents.shape[:2], self.model.action_dim))
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

    def _fast_matmul(self) -> AbstractContextManager[None]:
        """The CPU's fast float32 kernels where they win: for large products."""
        large = self._config.batch_size * self.model.hidden_dim >= LARGE_PRODUCT
        on_cpu = self.model.device.type == "cpu"
        return fast_float32_matmul() if large and on_cpu else nullcontext()

    def _autocast(self) -> torch.autocast:
        """Products in bf16 if asked for; weights, losses, gradients and steps stay in float32."""
        enabled = self._config.precision == "bf16"
        return torch.autocast(self.model.device.type, dtype=torch.bfloat16, enabled=enabled)

    def augment(self, obs: Tensor) -> Tensor:
        """Observations ``[B, *O]`` in the model's dtype; each image shifted once."""
        if obs.ndim == 2 or self._config.augmentation == "none":
            return obs.to(self.model.dtype)
        offsets = augment.random_offsets(len(obs), self._generator)
        return augment.SHIFTS[self._config.augmentation](obs, offsets).to(self.model.dtype)

    def _augmented(self, batch: Batch) -> Batch:
        """Each observation shifted once, in the model's dtype; states as they are."""
        together = torch.cat([batch.obs.unsqueeze(0), batch.next_obs])
        augmented = self.augment(together.flatten(0, 1)).view(together.shape)
        return replace(batch, obs=augmented[0], next_obs=augmented[1:])

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
