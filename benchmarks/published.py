"""The published way, written plainly: what ``speed.py`` compares with.

Per plan a new Theseus layer with an autodiff cost, in which the observation is encoded again for
each evaluation, and Cholesky; the model update step by step, with every network called where the
formula names it; draws by the direct formula. The networks are this project's, so that both
sides compute on the same weights.
"""

import numpy as np
import theseus as th
import torch
from torch import Tensor, nn
from torch.nn import functional

from difftori.config import Config
from difftori.model.world_model import WorldModel
from difftori.sections import MppiConfig
from difftori.types import Batch


def plan_return(model: WorldModel, z: Tensor, actions: Tensor, discount: float) -> Tensor:
    """G of actions ``[H, B, A]`` from z, one step after the other."""
    total, weight = z.new_zeros(len(z), 1), 1.0
    for action in actions:
        reward, z = model.reward(z, action), model.next_latent(z, action)
        total = total + weight * reward
        weight *= discount
    return total + weight * torch.minimum(*model.q(z, model.policy(z)))


class Planner:
    """Levenberg–Marquardt by Theseus's own parts, built anew for each plan."""

    def __init__(self, model: WorldModel, config: Config, *, horizon: int) -> None:
        self.model, self.horizon = model, horizon
        self.config = config.trajectory
        self.iterations = 0

    def plan(self, obs: Tensor, *, differentiate: bool) -> tuple[Tensor, Tensor]:
        """The first actions ``[1, A]`` of the best and of the last iterate."""
        model, config = self.model, self.config
        obs = obs.float()
        first_guess = self._first_guess(obs)

        def residual(optim_vars: list[th.Vector], aux_vars: list[th.Variable]) -> Tensor:
            flat = optim_vars[0].tensor.clamp(-1, 1)
            actions = flat.view(len(flat), self.horizon, -1).transpose(0, 1)
            z = model.encode(aux_vars[0].tensor)
            return config.value_offset - plan_return(model, z, actions, config.discount)

        objective = th.Objective()
        objective.add(
            th.AutoDiffCostFunction(
                [th.Vector(tensor=torch.zeros_like(first_guess), name="actions")],
                residual,
                1,
                aux_vars=[th.Variable(tensor=torch.zeros_like(obs), name="obs")],
            )
        )
        tolerance = config.rel_err_tolerance
        optimizer = th.LevenbergMarquardt(
            objective,
            th.CholeskyDenseSolver,
            max_iterations=config.max_iterations,
            step_size=config.step_size,
            abs_err_tolerance=1e-10 if tolerance else 0.0,
            rel_err_tolerance=tolerance,
        )
        layer = th.TheseusLayer(optimizer).to(obs.device)
        with torch.set_grad_enabled(differentiate):
            values, info = layer.forward(
                {"actions": first_guess, "obs": obs},
                optimizer_kwargs={
                    "damping": config.damping,
                    "track_best_solution": True,
                    "track_err_history": True,
                    "backward_mode": "truncated",
                    "backward_num_iterations": config.backward_num_iterations,
                },
            )
        # the errors before each iteration and after the last one, or -1 where none was
        self.iterations = int((info.err_history >= 0).sum()) - 1
        actions = model.action_dim
        best = info.best_solution["actions"].to(obs.device)  # Theseus keeps it on the CPU
        return best[:, :actions], values["actions"][:, :actions]

    @torch.no_grad()
    def _first_guess(self, obs: Tensor) -> Tensor:
        z, actions = self.model.encode(obs), []
        for _ in range(self.horizon):
            actions.append(self.model.policy(z))
            z = self.model.next_latent(z, actions[-1])
        return torch.stack(actions, dim=1).flatten(1)


@torch.no_grad()
def sample_plan(
    model: WorldModel, config: MppiConfig, obs: Tensor, horizon: int, generator: torch.Generator
) -> Tensor:
    """The first action ``[1, A]`` of TD-MPC's sampling planner, without exploration."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=obs.device)

    samples, policies, actions = config.num_samples, config.num_policy_samples, model.action_dim
    z = model.encode(obs).repeat(policies, 1)
    noise, rollout = config.min_std * normal(horizon, policies, actions), []
    for t in range(horizon):
        rollout.append(model.policy(z, noise[t]))
        z = model.next_latent(z, rollout[-1])
    z = model.encode(obs).repeat(samples + policies, 1)
    mean = z.new_zeros(horizon, actions)
    std = torch.full_like(mean, 2.0)
    for _ in range(config.iterations):
        drawn = mean.unsqueeze(1) + std.unsqueeze(1) * normal(horizon, samples, actions)
        candidates = torch.cat([drawn.clamp(-1, 1), torch.stack(rollout)], dim=1)
        value, at, weight = 0.0, z, 1.0
        for action in candidates:
            reward, at = model.reward(at, action), model.next_latent(at, action)
            value, weight = value + weight * reward, weight * config.discount
        last = model.policy(at, config.min_std * normal(samples + policies, actions))
        value = (value + weight * torch.minimum(*model.q(at, last))).squeeze(1).nan_to_num(0)
        best = value.topk(config.num_elites).indices
        elites, values = candidates[:, best], value[best]
        score = torch.exp(config.temperature * (values - values.max()))
        score = (score / score.sum())[:, None]
        elite_mean = (score * elites).sum(dim=1)
        deviation = (score * (elites - elite_mean.unsqueeze(1)).square()).sum(dim=1).sqrt()
        std = deviation.clamp(config.min_std, 2.0)
        mean = config.momentum * mean + (1 - config.momentum) * elite_mean
    chosen = torch.multinomial(score.squeeze(1), 1, generator=generator)
    return elites[0, chosen]


class Agent:
    """The model update, and the policy-gradient loss through the plan."""

    def __init__(self, model: WorldModel, config: Config) -> None:
        self.model, self.config = model, config.learner
        self.target = model.target_copy()
        lr = self.config.lr(0)
        self.model_optimizer = torch.optim.Adam(model.model_parameters(), lr=lr)
        self.policy_optimizer = torch.optim.Adam(model.policy_parameters(), lr=lr)

    def plan_loss(self, obs: Tensor, planned_action: Tensor) -> float:
        """Adds the loss's gradient to the parameters' ``grad``."""
        loss = -torch.minimum(*self.model.q_obs(obs, planned_action)).mean()
        loss.backward()
        return loss.item()

    def update(self, batch: Batch, step: int) -> tuple[dict[str, float], Tensor]:
        model, target, config = self.model, self.target, self.config
        self.model_optimizer.zero_grad(set_to_none=True)
        obs = self._augmented(batch.obs)
        z = model.encode(obs)
        latents = [z.detach()]
        names = ("consistency_loss", "reward_loss", "value_loss", "value_s_loss")
        losses = {name: z.new_zeros(len(z), 1) for name in names}
        priority = z.new_zeros(len(z), 1)
        for t, (action, reward) in enumerate(zip(batch.action, batch.reward, strict=True)):
            rho = config.rho**t
            q = model.q(z, action)
            q_obs = model.q_obs(obs, action)
            predicted, z = model.reward(z, action), model.next_latent(z, action)
            with torch.no_grad():
                next_obs = self._augmented(batch.next_obs[t])
                next_z = target.encode(next_obs)
                y = self._td_target(next_obs, reward)
                y_obs = self._td_target_obs(next_obs, reward)
            latents.append(z.detach())
            mse = functional.mse_loss
            losses["consistency_loss"] = losses["consistency_loss"] + rho * mse(
                z, next_z, reduction="none"
            ).mean(dim=1, keepdim=True)
            losses["reward_loss"] = losses["reward_loss"] + rho * (predicted - reward).square()
            for value in q:
                losses["value_loss"] = losses["value_loss"] + rho * (value - y).square()
                priority = priority + rho * (value - y).abs().detach()
            for value in q_obs:
                losses["value_s_loss"] = losses["value_s_loss"] + rho * (value - y_obs).square()
            obs = next_obs
        coefficients = (config.consistency_coef, config.reward_coef)
        coefficients += (config.value_coef, config.value_coef)
        total = z.new_zeros(len(z), 1)
        for coefficient, loss in zip(coefficients, losses.values(), strict=True):
            total = total + coefficient * loss.clamp(max=1e4)
        weighted = (total.squeeze(1) * batch.weight).mean()
        weighted.register_hook(lambda gradient: gradient / config.horizon)
        weighted.backward()
        parameters = model.model_parameters()
        norm = nn.utils.clip_grad_norm_(parameters, config.grad_clip_norm)
        self.model_optimizer.step()
        policy_loss = self._update_policy(latents)
        if step % config.update_freq == 0:
            with torch.no_grad():
                for old, new in zip(target.parameters(), model.parameters(), strict=True):
                    old.lerp_(new, config.tau)
        metrics = {name: loss.mean().item() for name, loss in losses.items()}
        metrics |= {"total_loss": total.mean().item(), "weighted_loss": weighted.item()}
        metrics |= {"pi_loss": policy_loss, "grad_norm": norm.item()}
        return metrics, priority.squeeze(1).clamp(max=1e4)

    def _update_policy(self, latents: list[Tensor]) -> float:
        model, config = self.model, self.config
        self.policy_optimizer.zero_grad(set_to_none=True)
        critics = [*model._Q1.parameters(), *model._Q2.parameters()]
        for parameter in critics:
            parameter.requires_grad_(False)
        loss = latents[0].new_zeros(())
        for t, z in enumerate(latents):
            action = model.policy(z, self._noise(z))
            loss = loss - config.rho**t * torch.minimum(*model.q(z, action)).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(model.policy_parameters(), config.grad_clip_norm)
        self.policy_optimizer.step()
        for parameter in critics:
            parameter.requires_grad_(True)
        return loss.item()

    def _td_target(self, next_obs: Tensor, reward: Tensor) -> Tensor:
        z = self.model.encode(next_obs)
        action = self.model.policy(z, self._noise(z))
        return reward + self.config.discount * torch.minimum(*self.target.q(z, action))

    def _td_target_obs(self, next_obs: Tensor, reward: Tensor) -> Tensor:
        z = self.model.encode(next_obs)
        action = self.model.policy(z, self._noise(z))
        return reward + self.config.discount * torch.minimum(*self.target.q_obs(next_obs, action))

    def _noise(self, z: Tensor) -> Tensor | None:
        std = self.config.min_std
        return std * torch.randn(len(z), self.model.action_dim, device=z.device) if std else None

    def _augmented(self, obs: Tensor) -> Tensor:
        """DrQ's random shift: one bilinear sample of the padded images."""
        obs = obs.float()
        if obs.ndim == 2 or self.config.augmentation == "none":
            return obs
        pad, size = 4, obs.shape[-1]
        padded = functional.pad(obs, (pad, pad, pad, pad), mode="replicate")
        step = 2.0 / (size + 2 * pad)
        ends, device = (-1 + step / 2, 1 - step / 2), obs.device
        line = torch.linspace(*ends, size + 2 * pad, device=device)[:size]
        grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1)
        offsets = torch.randint(0, 2 * pad + 1, (len(obs), 1, 1, 2), device=device) * step
        return functional.grid_sample(padded, grid + offsets, align_corners=False)


class DirectReplay:
    """A full buffer of states, drawn by the formula p^α / Σ p^α over all of it."""

    def __init__(self, size: int, obs_dim: int, action_dim: int, *, horizon: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.horizon = horizon
        self.obs = torch.randn(size + horizon + 1, obs_dim, generator=generator)
        self.action = torch.rand(size + horizon + 1, action_dim, generator=generator)
        self.reward = torch.rand(size + horizon + 1, 1, generator=generator)
        self.priority = torch.rand(size, generator=generator)

    def sample(self, batch_size: int, alpha: float = 0.6, beta: float = 0.4) -> tuple[Tensor, ...]:
        probability = self.priority**alpha
        probability /= probability.sum()
        count, p = len(probability), probability.numpy()
        index = torch.from_numpy(np.random.choice(count, batch_size, p=p, replace=False))
        weight = (count * probability[index]) ** -beta
        weight /= weight.max()
        steps = [index + t for t in range(self.horizon)]
        return (
            self.obs[index],
            torch.stack([self.obs[step + 1] for step in steps]),
            torch.stack([self.action[step] for step in steps]),
            torch.stack([self.reward[step] for step in steps]),
            weight,
            index,
        )
