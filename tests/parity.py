"""Replay reference cases through this project's planners and learner.

    python tests/parity.py DIR

Each case is NAME.json (hyper-parameters), NAME.pt (weights in the published format) and
NAME.npz (inputs, and the numbers that the published DiffTORI code computes from them). Prints
the largest deviation of each quantity; exits 1 if any exceeds its tolerance.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from difftori.compiling.compiler import Compiler
from difftori.compiling.cuda_graphs import CudaGraphs
from difftori.config import Config, compose
from difftori.learning.learner import Learner
from difftori.learning.plan_gradient import PlanGradient
from difftori.model.world_model import WorldModel
from difftori.planning.actor import Actor
from difftori.planning.returns import plan_return
from difftori.types import Batch, EnvSpec

ABSOLUTE = 1e-4
"""of actions, losses and network outputs"""
GRADIENT = 1e-3
"""of gradients: norm of the difference over norm"""
PARAMETER = 2e-4
"""absolute, of parameters after optimizer steps"""
OUTLIER_SHARE = 1e-3
"""of a case's parameter entries may differ by up to twice the learning rate: Adam's first
steps have the learning rate's size whatever the gradient, also where it is rounding noise"""
FULL_HORIZON_STEP = 10**9
"""an agent step at which every schedule has ended"""


class StrictCompiler(Compiler):
    """Has no eager fallback: numbers of the eager code would say nothing of the compiled one."""

    @classmethod
    def of(cls, config: Config) -> "StrictCompiler":
        """On a GPU a case's first plans and updates run as they are; the last are recordings."""
        return cls(config.run.compile, graphs=CudaGraphs(config.run.cuda_graphs))

    def _give_up(self, name: str, error: Exception) -> None:
        raise error


@dataclass(frozen=True)
class Deviation:
    quantity: str
    value: float
    tolerance: float
    note: str = ""

    @property
    def ok(self) -> bool:
        return self.value <= self.tolerance


@dataclass(frozen=True)
class Case:
    name: str
    hyper: dict[str, Any]
    weights: dict[str, dict[str, Tensor]]
    data: dict[str, Tensor]
    overrides: Sequence[str] = ()
    """keys of the command line, such as ``compile=true``"""
    device: str = "cpu"
    """where everything is computed; the numbers to compare with lie there too"""

    @classmethod
    def load(cls, json_path: Path, overrides: Sequence[str] = (), device: str = "cpu") -> "Case":
        with np.load(json_path.with_suffix(".npz")) as arrays:
            data = {key: torch.from_numpy(arrays[key]).to(device) for key in arrays.files}
        return cls(
            name=json_path.stem,
            hyper=json.loads(json_path.read_text()),
            weights=torch.load(json_path.with_suffix(".pt"), weights_only=True),
            data=data,
            overrides=overrides,
            device=device,
        )

    def config(self, mode: str) -> Config:
        known = {k: v for k, v in self.hyper.items() if k not in ("obs_shape", "action_dim")}
        known |= {"device": self.device, "augmentation": "none", "clip_actions": False}
        known |= {"theseus_start_step": 0, "seed_steps": 0}
        modality = known.pop("modality")
        return compose(f"mode={mode}", f"modality={modality}", *self.overrides, **known)

    def model(self, config: Config) -> WorldModel:
        shape = tuple(self.hyper["obs_shape"])
        spec = EnvSpec("case", self.hyper["modality"], shape, self.hyper["action_dim"], 1000, 1)
        model = WorldModel(spec, config.model)
        model.load_state_dict(self.weights["model"])
        return model.to(self.device)


def absolute(quantity: str, ours: Tensor, theirs: Tensor, tolerance: float = ABSOLUTE) -> Deviation:
    difference = (ours.detach().to(theirs.device).reshape(theirs.shape) - theirs).abs()
    return Deviation(quantity, float(difference.max()), tolerance)


def check_networks(case: Case) -> Iterator[Deviation]:
    config, data = case.config("theseus_forward"), case.data
    model = case.model(config)
    obs, action = data["plan/obs"], data["value/actions"][0]
    z = model.encode(obs)
    outputs = {"z": z, "next_z": model.next_latent(z, action), "reward": model.reward(z, action)}
    outputs |= {"pi": model.policy(z)}
    outputs |= dict(zip(("q1", "q2"), model.q(z, action), strict=True))
    outputs |= dict(zip(("qs1", "qs2"), model.q_obs(obs, action), strict=True))
    for name, output in outputs.items():
        yield absolute(f"nets/{name}", output, data[f"nets/{name}"])
    G = plan_return(model, data["value/z"], data["value/actions"], config.learner.discount)
    yield absolute("value/G", G, data["value/G"])


def act(actor: Actor, obs: Tensor, differentiate: bool) -> Any:
    return actor.act(
        obs.unsqueeze(0),
        episode_start_step=FULL_HORIZON_STEP,
        update_step=FULL_HORIZON_STEP,
        carry=None,
        explore=True,
        generators=[torch.Generator(obs.device)],
        differentiate=differentiate,
    )


def check_theseus_forward(case: Case) -> Iterator[Deviation]:
    config = case.config("theseus_forward")
    actor = Actor(case.model(config), config, StrictCompiler.of(config))
    actions = torch.cat([act(actor, obs, False).action for obs in case.data["plan/obs"]])
    yield absolute("theseus_forward/action", actions, case.data["theseus_forward/action"])


def check_back_plan(case: Case) -> Iterator[Deviation]:
    config, data = case.config("back_plan"), case.data
    model = case.model(config)
    actor = Actor(model, config, StrictCompiler.of(config))
    learning = config.plan_gradient
    plan_gradient = PlanGradient(
        model, lr=learning.lr, max_norm=learning.grad_clip_norm_a, max_nonfinite=1
    )
    actions, losses = [], []
    for obs in data["plan/obs"]:
        plan = act(actor, obs, True)
        actions.append(plan.action)
        losses.append(plan_gradient.accumulate(obs.unsqueeze(0), plan.differentiable_action))
    yield absolute("back_plan/action", torch.cat(actions), data["back_plan/action"])
    yield absolute("back_plan/a_loss", torch.cat(losses), data["back_plan/a_loss"])
    gradient = dict(plan_gradient.gradient)
    prefix = "back_plan/grad/"
    theirs = {key.removeprefix(prefix): value for key, value in data.items() if prefix in key}
    yield gradient_deviation(gradient, theirs)
    applied = plan_gradient.apply(0)
    total = torch.tensor(applied["total_a_loss"])
    yield absolute("back_plan/total_a_loss", total, data["back_plan/total_a_loss"])
    norm, their_norm = applied["grad_norm_a"], float(data["back_plan/grad_norm"])
    relative = abs(norm - their_norm) / their_norm if their_norm else abs(norm)
    yield Deviation("back_plan/grad_norm", relative, GRADIENT, "relative")
    yield from parameter_deviations("back_plan/after/", model, data, config.learner.lr(0))


def gradient_deviation(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> Deviation:
    """Over all parameters as one vector; a parameter that is not ours has gradient zero."""
    difference = sum(
        float((ours.get(name, torch.zeros_like(g)) - g).square().sum())
        for name, g in theirs.items()
    )
    norm = sum(float(g.square().sum()) for g in theirs.values()) ** 0.5
    return Deviation(
        "back_plan/grad", difference**0.5 / norm if norm else difference**0.5, GRADIENT, "relative"
    )


def check_update(case: Case) -> Iterator[Deviation]:
    config, data = case.config("default"), case.data
    model = case.model(config)
    learner = Learner(
        model,
        config.learner,
        generator=torch.Generator(case.device),
        max_nonfinite=1,
        compiler=StrictCompiler.of(config),
    )
    learner.target.load_state_dict(case.weights["model_target"])
    horizon = config.learner.horizon
    batch = Batch(
        obs=data["update/obs"],
        next_obs=data["update/next_obs"][:horizon],
        action=data["update/action"][:horizon],
        reward=data["update/reward"][:horizon],
        terminated=torch.zeros_like(data["update/reward"][:horizon]),
        weight=data["update/weights"],
        index=torch.arange(len(data["update/obs"])),
    )
    infos: dict[str, list[float]] = {}
    priorities = []
    for step in range(len(data["update/priorities"])):
        result = learner.update(batch, step)
        for name, value in result.losses.items():
            infos.setdefault(name, []).append(float(value))
        priorities.append(result.priority)
    for key, theirs in data.items():
        if key.startswith("update/info/"):
            ours = torch.tensor(infos[key.rpartition("/")[2]], device=case.device)
            scale = theirs.abs().clamp(min=1)
            yield absolute(key, ours / scale, theirs / scale)
    ours = torch.stack(priorities)
    yield absolute("update/priorities", ours, data["update/priorities"])
    lr = config.learner.lr(0)
    yield from parameter_deviations("update/after/model/", model, data, lr)
    yield from parameter_deviations("update/after/target/", learner.target, data, lr)


def parameter_deviations(
    prefix: str, model: WorldModel, data: dict[str, Tensor], lr: float
) -> Iterator[Deviation]:
    ours = model.state_dict()
    theirs = {k.removeprefix(prefix): v for k, v in data.items() if k.startswith(prefix)}
    missing = theirs.keys() ^ ours.keys()
    assert not missing, f"{prefix}: names differ: {sorted(missing)}"
    differences = torch.cat([(ours[name] - theirs[name]).abs().flatten() for name in theirs])
    outliers = differences > PARAMETER
    inliers = differences[~outliers]
    note = f"{int(outliers.sum())} of {len(differences)} entries apart"
    yield Deviation(prefix + "*", float(inliers.max()) if len(inliers) else 0.0, PARAMETER, note)
    yield Deviation(prefix + "* outlier share", float(outliers.float().mean()), OUTLIER_SHARE)
    yield Deviation(prefix + "* largest", float(differences.max()), 2 * lr)


CHECKS = (check_networks, check_theseus_forward, check_back_plan, check_update)


def run_case(case: Case) -> list[Deviation]:
    return [deviation for check in CHECKS for deviation in check(case)]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of reference cases")
    text = "keys for every case, e.g. compile=true solver=published"
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=text)
    arguments = parser.parse_args(argv)
    folder = arguments.folder
    cases = sorted(folder.glob("*.json"))
    if not cases:
        print(f"no reference cases (NAME.json) in {folder}", file=sys.stderr)
        return 2
    failed = 0
    for path in cases:
        print(f"{path.stem}")
        for deviation in run_case(Case.load(path, arguments.overrides, arguments.device)):
            mark = "ok  " if deviation.ok else "FAIL"
            failed += not deviation.ok
            note = f"  ({deviation.note})" if deviation.note else ""
            line = f"  {mark} {deviation.quantity:36} {deviation.value:9.2e}"
            print(f"{line} of {deviation.tolerance:.0e}{note}")
    print(f"{len(cases)} cases, {failed} deviations too large")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
