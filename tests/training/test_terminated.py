"""An episode that came to its end is told from one that was cut off."""

import numpy as np
import pytest
import torch

from builders import tiny_config, tiny_model
from difftori.envs.base import ControlEnv, SimStep
from difftori.envs.integrator import Integrator
from difftori.learning.plan_gradient_ways import PlanGradientWay
from difftori.planning.actor import Actor
from difftori.training.collector import Collector
from difftori.training.state import Averages, Counters, OpenEpisode
from difftori.types import EnvSpec, Episode

STEPS = 3


class Ending(Integrator):
    """Ends for good after so many steps."""

    def reset(self, seed: int) -> None:
        super().reset(seed)
        self._steps = 0

    def step(self, action: np.ndarray) -> SimStep:
        self._steps += 1
        return super().step(action)._replace(terminated=self._steps == STEPS)


def act_one_episode(simulator: Integrator, *, interrupt: bool) -> Episode:
    config = tiny_config("mode=default", seed_steps=100)
    spec = EnvSpec("none", "state", (2,), 2, STEPS, 1)
    model = tiny_model(config, spec)

    def env() -> ControlEnv:
        return ControlEnv(simulator, action_repeat=1, pixels=False)

    collector = Collector(
        Actor(model, config),
        model,
        PlanGradientWay(),
        env=env(),
        make_env=env,
        averages=Averages(),
        generator=torch.Generator(),
        run=config.run,
    )
    counters = Counters()
    for _ in range(STEPS - 1):
        assert collector.step(counters) is None
    if interrupt:
        assert collector.open_episode is not None
        collector.open_episode = OpenEpisode.from_state(
            collector.open_episode.state_dict(), torch.device("cpu")
        )
    episode = collector.step(counters)
    assert episode is not None
    return episode.finish(spec)


@pytest.mark.parametrize("interrupt", [False, True])
def test_terminated_is_kept_and_truncated_is_not_terminated(interrupt: bool) -> None:
    ended = act_one_episode(Ending(max_steps=10), interrupt=interrupt)
    cut_off = act_one_episode(Integrator(max_steps=STEPS), interrupt=interrupt)
    assert ended.terminated.tolist() == [False, False, True]
    assert cut_off.terminated.tolist() == [False, False, False]
    assert ended.terminated.dtype == cut_off.terminated.dtype == np.bool_
