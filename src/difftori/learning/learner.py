"""The model update and the policy update on a replayed batch."""

from contextlib import AbstractContextManager, nullcontext
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
        self._model = model
        self.target = model.target_copy()
        self._config = config
        self._generator = generator
        self._model_optimizer = GuardedAdam(model.model_parameters(), config.grad_clip_norm)
        self._policy_optimizer = GuardedAdam(model.policy_parameters(), config.grad_clip_norm)
        self.nonfinite = NonFiniteCounter("the model update's gradient", max_nonfinite)
        self._coefficients = {
            "consistency_loss": config.consistency_coef,
            "reward_loss": config.reward_coef,
            "value_loss": config.value_coef,
            "value_s_loss": config.value_coef,
        }
        if model.episodic:
            self._coefficients["termination_loss"] = config.termination_coef
        self._model_loss = compiler(self._eager_model_loss, "the model update")
        self._policy_loss = compiler(self._eager_policy_loss, "the policy update")

    def update(
        self, batch: Batch, step: int
    ) -> tuple[dict[str, Tensor], Float[Tensor, "B"] | None]:
        """One update of model, policy and, every ``update_freq`` steps, targets.

        Args:
            step: counts agent steps; the schedules' clock.

        Returns:
            the losses by their published names, and the batch's new priorities, on the CPU;
            None where the gradient was not finite and nothing was changed.

        Raises:
            NotFiniteError: for a weight that is not finite, and after ``max_nonfinite`` such
                updates in a row.
        """
        config = self._config
        lr = config.lr(step)
        with self._products():
            with self._autocast():
                loss = self._loss_on(batch)
            gradients = torch.autograd.grad(
                loss.weighted / config.horizon, self._model_optimizer.parameters
            )
            grad_norm = self._model_optimizer.step(gradients, lr)
            alive = None
            if batch.terminated is not None and batch.inside is not None:
                alive = losses.still_running(batch.terminated, batch.inside)
            finite = torch.isfinite(grad_norm)
            pi_loss = self._update_policy(loss.latents, lr, finite, alive)
        metrics = {**loss.terms, "grad_norm": grad_norm, "pi_loss": pi_loss}
        # The one wait for the device: all that must be known here comes in one piece.
        known = torch.cat([loss.priority, torch.stack([grad_norm, pi_loss])]).cpu()
        priority, model_finite, policy_finite = known[:-2], *torch.isfinite(known[-2:]).tolist()
        if not model_finite:
            del metrics["pi_loss"]
            check_weights(self._model)
            check_weights(self.target)
            bad = [name for name, term in loss.terms.items() if not torch.isfinite(term)]
            self.nonfinite.seen(finite=False, where=", ".join(bad))
            return metrics, None
        self.nonfinite.seen(finite=policy_finite, where="pi_loss")
        if step % config.update_freq == 0:
            self._update_target()
        return metrics, priority

    def _loss_on(self, batch: Batch) -> losses.ModelLoss:
        obs, next_obs = self._augment(batch)
        noise = self._policy_noise(batch.action.shape)
        return self._model_loss(
            *(obs, next_obs, batch.action, batch.reward, batch.weight, noise),
            *(batch.terminated, batch.inside),
        )

    def _eager_model_loss(
        self,
        obs: Tensor,
        next_obs: Tensor,
        action: Float[Tensor, "H B A"],
        reward: Float[Tensor, "H B 1"],
        weight: Float[Tensor, "B"],
        noise: Float[Tensor, "H B A"] | None,
        terminated: Float[Tensor, "H B 1"] | None,
        inside: Float[Tensor, "H B 1"] | None,
    ) -> losses.ModelLoss:
        return losses.model_loss(
            self._model,
            self.target,
            obs=obs,
            next_obs=next_obs,
            action=action,
            reward=reward,
            weight=weight,
            policy_noise=noise,
            discount=self._config.discount,
            rho=self._config.rho,
            coefficients=self._coefficients,
            terminated=terminated,
            inside=inside,
        )

    def _eager_policy_loss(
        self,
        latents: Float[Tensor, "H_1 B Z"],
        noise: Float[Tensor, "H_1 B A"] | None,
        alive: Float[Tensor, "H_1 B 1"] | None,
    ) -> Float[Tensor, ""]:
        return losses.policy_loss(self._model, latents, self._config.rho, noise, alive)

    def _update_policy(
        self,
        latents: Float[Tensor, "H_1 B Z"],
        lr: float,
        allowed: Bool[Tensor, ""] | None = None,
        alive: Float[Tensor, "H_1 B 1"] | None = None,
    ) -> Float[Tensor, ""]:
        noise = self._policy_noise((*latents.shape[:2], self._model.action_dim))
        with self._autocast():
            loss = self._policy_loss(latents, noise, alive)
        gradients = torch.autograd.grad(loss, self._policy_optimizer.parameters)
        grad_norm = self._policy_optimizer.step(gradients, lr, allowed)
        return torch.where(torch.isfinite(grad_norm), loss.detach(), grad_norm)

    @torch.no_grad()
    def _update_target(self) -> None:
        target: list[Tensor] = list(self.target.parameters())
        online: list[Tensor] = list(self._model.parameters())
        torch._foreach_lerp_(target, online, self._config.tau)

    def _products(self) -> AbstractContextManager[None]:
        """Fast float32 kernels where they win: for large products."""
        large = self._config.batch_size * self._model.hidden_dim >= LARGE_PRODUCT
        return (
            fast_float32_matmul() if large and self._model.device.type == "cpu" else nullcontext()
        )

    def _autocast(self) -> torch.autocast:
        """Products in bf16 if asked for; weights, losses, gradients and steps stay in float32."""
        enabled = self._config.precision == "bf16"
        return torch.autocast(self._model.device.type, dtype=torch.bfloat16, enabled=enabled)

    def augment(self, obs: Tensor) -> Tensor:
        """Observations ``[B, *O]`` in the model's dtype; each image shifted once."""
        if obs.ndim == 2 or self._config.augmentation == "none":
            return obs.to(self._model.dtype)
        offsets = augment.random_offsets(len(obs), self._generator)
        return augment.SHIFTS[self._config.augmentation](obs, offsets).to(self._model.dtype)

    def _augment(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Each observation shifted once, in the model's dtype; states as they are."""
        together = torch.cat([batch.obs.unsqueeze(0), batch.next_obs])
        augmented = self.augment(together.flatten(0, 1)).view(together.shape)
        return augmented[0], augmented[1:]

    def _policy_noise(self, shape: tuple[int, ...]) -> Tensor | None:
        if self._config.min_std == 0:
            return None
        generator, dtype = self._generator, self._model.dtype
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
