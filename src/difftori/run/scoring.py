"""Scoring a finished or running run from its files."""

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from pydantic import Field, ValidationError

from difftori.config import Config, ConfigError, from_flat, one_line
from difftori.envs.rendering import prepare_rendering
from difftori.model.world_model import WorldModel
from difftori.planning.actor import Actor
from difftori.run.build import env_factory, resolve_device
from difftori.run.checkpoint import read_latest
from difftori.run.console import ConsoleReporter
from difftori.run.evaluation import FILM_FPS, Evaluation, evaluate
from difftori.run.files import write_bytes
from difftori.run.seeding import derive_seed
from difftori.run.training import read_config
from difftori.run.tree_file import CheckpointError, load_tree
from difftori.run.video import write_mp4
from difftori.run.weights import read_weights
from difftori.sections import Count, CountOrZero, Section

FULLY_TRAINED_STEP = 10**9
"""agent step of weights without counters: every schedule has ended"""


class ScoringConfig(Section):
    run: Path
    checkpoint: Path | None
    eval_episodes: Count
    seed: CountOrZero
    save_video: bool
    video_size: Annotated[int, Field(ge=16, le=480)]
    device: str
    threads: Count | None
    output: Path | None


def score(cfg: DictConfig) -> int:
    """Run the episodes; writes a JSON file and, if asked, an mp4. Returns the exit code.

    Raises:
        ConfigError: an impossible value, or no such run or checkpoint.
    """
    options = _options(cfg)
    flat = read_config(options.run)
    config = from_flat({**flat, "device": options.device, "buffer_device": "cpu"})
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    if options.save_video or config.env.modality == "pixels":
        try:
            prepare_rendering()
        except RuntimeError as error:
            raise ConfigError(str(error)) from error
    weights, agent_step, update_step = _weights(options)
    folder = options.output or options.run / "evaluation"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"output={folder} cannot be written: {error.strerror}") from error
    with ConsoleReporter() as console:
        result = _evaluate(options, config, weights, agent_step, update_step, console)
        _write(options, config, folder, result, agent_step, console)
    return 1 if len(result.errors) == options.eval_episodes else 0


def _options(cfg: DictConfig) -> ScoringConfig:
    flat: Any = OmegaConf.to_container(cfg)
    if OmegaConf.is_missing(cfg, "run"):
        raise ConfigError("run= is missing: a run's folder, logs/task/modality/mode/exp_name/seed")
    try:
        return ScoringConfig.model_validate(flat)
    except ValidationError as error:
        raise ConfigError(one_line(error)) from error


def _weights(options: ScoringConfig) -> tuple[dict[str, torch.Tensor], int, int]:
    """The model's weights, and the agent step and update step that they belong to."""
    path = options.checkpoint
    try:
        if path is None:
            tree = read_latest(options.run)
        elif path.suffix == ".safetensors":
            tree = load_tree(path)
        else:
            return read_weights(path)["model"], FULLY_TRAINED_STEP, FULLY_TRAINED_STEP
    except CheckpointError as error:
        raise ConfigError(str(error)) from error
    counters = tree["counters"]
    return tree["model"], counters["agent_step"], counters["update_step"]


def _evaluate(
    options: ScoringConfig,
    config: Config,
    weights: dict[str, torch.Tensor],
    agent_step: int,
    update_step: int,
    console: ConsoleReporter,
) -> Evaluation:
    device = resolve_device(config.run.device)
    build_env = env_factory(config)
    built = [build_env() for _ in range(options.eval_episodes)]
    spec = built[0][1]
    model = WorldModel(spec, config.model)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ConfigError(f"the weights do not fit the run: {reason}") from error
    console.start(spec.episode_length, "agent steps", 0)
    console.phase("evaluating")
    try:
        return evaluate(
            Actor(model.to(device), config),
            [env for env, _ in built],
            seeds=[derive_seed(options.seed, "score", i) for i in range(options.eval_episodes)],
            agent_step=agent_step,
            update_step=update_step,
            device=device,
            film_size=options.video_size if options.save_video else None,
            on_step=console.advance,
        )
    finally:
        for env, _ in built:
            env.close()


def _write(
    options: ScoringConfig,
    config: Config,
    folder: Path,
    result: Evaluation,
    agent_step: int,
    console: ConsoleReporter,
) -> None:
    known = agent_step < FULLY_TRAINED_STEP
    env_step = agent_step * config.env.action_repeat if known else None
    name = f"step_{env_step:09d}" if env_step is not None else "model"
    rewards = [reward if np.isfinite(reward) else None for reward in result.rewards]
    summary = {
        "run": str(options.run),
        "checkpoint": str(options.checkpoint) if options.checkpoint else "latest",
        "env_step": env_step,
        "seed": options.seed,
        "episode_reward": result.mean_reward if np.isfinite(result.mean_reward) else None,
        "episode_reward_std": float(np.nanstd(result.rewards)),
        "episode_rewards": rewards,
        "episode_success": _mean(result.successes),
        "episode_success_any": _mean(result.successes_any),
        "errors": list(result.errors),
    }
    path = folder / f"{name}.json"
    write_bytes(path, (json.dumps(summary, indent=2) + "\n").encode())
    console.info(
        f"reward {result.mean_reward:.1f} ± {summary['episode_reward_std']:.1f} "
        f"over {options.eval_episodes} episodes; {path}"
    )
    if result.successes:
        console.info(
            f"success {np.mean(result.successes):.2f} at the last step, "
            f"{np.mean(result.successes_any):.2f} at any"
        )
    for error in result.errors:
        console.warn(f"an episode failed: {error}")
    if result.frames:
        video = folder / f"{name}.mp4"
        write_mp4(video, result.frames, fps=FILM_FPS)
        console.info(f"video: {video}")


def _mean(values: tuple[float, ...]) -> float | None:
    return float(np.mean(values)) if values else None
