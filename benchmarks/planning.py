"""Planners against each other on trained models: what they gain, cost and earn.

    python benchmarks/planning.py logs/cheetah-run/state/default/default/1 --out results/planning

For each run and horizon a row for each planner:

    gain       of G over the policy's rollout, as a share of what MPPI's best candidate gains; G is
               computed by its definition, on states that the noisy policy visits, each planner
               carrying on from step to step
    ms         milliseconds of processor time for a plan, on one thread, alone and in a batch of
               ten; medians, planners in turns
    return     of real episodes in which that planner acts with that model; mean and 95 % interval
    zero       share of plans whose derivative is exactly zero
    iterations taken, at most those that the planner's name says
    distance   from stationary: median norm of the gradient of G over the free coordinates

``last-plan`` is ``trust-region`` that begins at the last plan, one step later, as well.
"""

import argparse
import json
import sys
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
import torch
import yaml
from rich.progress import Progress
from torch import Tensor

matplotlib.use("Agg")
from matplotlib import pyplot

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from planners import (
    DEVICE,
    Measured,
    make_planner,
    plan_along,
    planner_keys,
    rows,
    streams,
    trained_agent,
)

from difftori.agent import Agent
from difftori.config import ConfigError
from difftori.training.evaluation import evaluate

PLANNERS = (
    *("policy", "mppi", "mppi-512", "published-5", "published-20", "published-50"),
    *("published-200", "trust-region-4", "trust-region", "trust-region-16", "last-plan"),
)
ACTING = ("policy", "mppi", "published-20", "published-50", "trust-region", "last-plan")


def measure(
    agent: Agent,
    observations: Tensor,
    horizon: int,
    arguments: argparse.Namespace,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Rows of one model and horizon."""
    task = agent.spec.task
    words = (word.partition("=") for word in arguments.keys)
    keys = {key: yaml.safe_load(value) for key, _, value in words}
    planners = {name: make_planner(name, agent, horizon, keys) for name in arguments.planners}
    results = {name: Measured() for name in planners}
    bar = progress.add_task(f"{task} H={horizon}: plans", total=2 * arguments.steps)
    for _ in plan_along(planners, agent, observations, results):
        progress.advance(bar)
    acting = [name for name in planners if name in arguments.acting and arguments.episodes]
    bar = progress.add_task(f"{task} H={horizon}: episodes", total=len(acting))
    for name in acting:
        results[name].returns = real_returns(agent, planners[name], arguments.episodes)
        progress.advance(bar)
    return rows(task, horizon, results)


def real_returns(agent: Agent, planner: Any, episodes: int) -> list[float]:
    with ExitStack() as stack:
        envs = [stack.enter_context(closing(agent.make_control_env())) for _ in range(episodes)]
        scored = evaluate(
            planner,
            envs,
            seeds=[7000 + number for number in range(episodes)],
            agent_step=agent.trained.agent_step,
            update_step=agent.trained.update_step,
            device=DEVICE,
        )
    return list(scored.rewards)


def markdown(table: list[dict[str, Any]]) -> str:
    """One table for each task and horizon; both batch sizes in a line."""
    lines = []
    for task, horizon in dict.fromkeys((row["task"], row["horizon"]) for row in table):
        lines += [f"### {task}, H = {horizon}", ""]
        lines += [
            "| planner | gain | ms alone | ms of ten | return | zero | iterations | distance |"
        ]
        lines += ["| --- " + "| ---: " * 7 + "|"]
        chosen = [row for row in table if (row["task"], row["horizon"]) == (task, horizon)]
        for row, ten in zip(chosen[::2], chosen[1::2], strict=True):
            cells = (
                row["planner"],
                f"{row['gain_share']:.2f}",
                f"{row['ms']:.2f}",
                f"{ten['ms']:.2f}",
                _cell(row["return_mean"], f"{{:.0f}} ± {row['return_interval']:.0f}"),
                _cell(row["zero_gradient_share"], "{:.1%}"),
                _cell(row["iterations"], "{:.1f}"),
                f"{row['distance']:.3f}",
            )
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def _cell(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)


def picture(table: pd.DataFrame, path: Path) -> None:
    """Gain against time, a panel for each task, for the longest horizon."""
    longest = table[(table.horizon == table.horizon.max()) & (table.batch == 10)]
    tasks = longest.task.unique()
    figure, panels = pyplot.subplots(1, len(tasks), figsize=(3.6 * len(tasks), 3.2), squeeze=False)
    for task, panel in zip(tasks, panels[0], strict=True):
        for kind in ("published", "trust-region", "last-plan", "mppi"):
            chosen = longest[(longest.task == task) & longest.planner.str.startswith(kind)]
            chosen = chosen.sort_values("ms")
            panel.plot(chosen.ms, chosen.gain_share, marker="o", label=kind)
        panel.set(title=f"{task}, H = {longest.horizon.iloc[0]}", xscale="log")
        panel.set_xlabel("ms per plan, batch of ten")
    panels[0][0].set_ylabel("gain in G, share of MPPI's")
    panels[0][0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def arguments_of_command() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN", help="a run's folder")
    names = "policy, mppi, mppi-SAMPLES, published-ITERATIONS, trust-region[-N], last-plan[-N]"
    add("--planners", nargs="+", default=PLANNERS, metavar="NAME", help=names)
    add("--acting", nargs="*", default=ACTING, metavar="NAME", help="those for real episodes")
    add("--horizons", nargs="+", type=int, default=[3, 5], metavar="H", help="agent steps")
    add("--steps", type=int, default=16, help="agent steps of each of ten streams")
    add("--episodes", type=int, default=10, help="real episodes; 0: none")
    add("--keys", nargs="*", default=[], metavar="KEY=VALUE", help="of a run, for the planners")
    add("--out", type=Path, metavar="FOLDER", help="write table, rows and picture there")
    arguments = parser.parse_args()
    if "mppi" not in arguments.planners:
        parser.error("--planners needs mppi: gains are shares of its")
    try:
        for name in arguments.planners:
            planner_keys(name)
    except ValueError as error:
        parser.error(str(error))
    return arguments


def main() -> None:
    arguments = arguments_of_command()
    torch.set_num_threads(1)
    try:
        agents = [trained_agent(run) for run in arguments.runs]
    except ConfigError as error:
        sys.exit(f"planning.py: {error}")
    table: list[dict[str, Any]] = []
    with Progress() as progress:
        for agent in agents:
            observations = streams(agent, arguments.steps)
            for horizon in arguments.horizons:
                table += measure(agent, observations, horizon, arguments, progress)
                if arguments.out:
                    save(table, arguments.out)
    print(markdown(table))


def save(table: list[dict[str, Any]], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "planning.md").write_text(markdown(table))
    rows = ",\n".join(json.dumps(row) for row in table)
    (folder / "planning.json").write_text(f"[\n{rows}\n]\n")
    frame = pd.DataFrame(table)
    frame.to_csv(folder / "planning.csv", index=False)
    picture(frame, folder / "planning.png")


if __name__ == "__main__":
    main()
