from dataclasses import replace
from pathlib import Path

import pytest
import torch

from builders import tiny_config, tiny_model, tiny_spec
from difftori import machine
from difftori.config import ConfigError
from difftori.machine import available_memory
from difftori.training.resources import announce


@pytest.mark.parametrize(("free_bytes", "fits"), [(10**6, False), (10**12, True)])
def test_a_buffer_on_the_gpu_has_to_fit_its_free_memory(
    monkeypatch: pytest.MonkeyPatch, free_bytes: int, fits: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free_bytes, 10**12))
    config = tiny_config("mode=default", "modality=pixels")
    run = config.run.model_copy(update={"buffer_device": "cuda:1"})
    config = config.model_copy(update={"run": run})

    def check() -> None:
        announce(config, tiny_spec("pixels"), torch.device("cuda"), tiny_model(config))

    if fits:
        check()
    else:
        with pytest.raises(
            ConfigError, match=r"and cuda:1 has 1\.0 MB free; lower max_buffer_size"
        ):
            check()


def test_what_others_in_the_container_use_is_not_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that are cached can make room."""
    monkeypatch.setattr(machine, "CONTAINER", tmp_path)
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("700000\n")
    (tmp_path / "memory.stat").write_text("anon 500000\ninactive_file 200000\n")
    assert available_memory(torch.device("cpu")) == 500_000
    (tmp_path / "memory.max").write_text("max\n")
    without = available_memory(torch.device("cpu"))
    assert without is None or without > 1_000_000


@pytest.mark.parametrize(("can_terminate", "fits"), [(True, True), (False, False)])
def test_a_short_episode_can_be_drawn_if_it_may_end(can_terminate: bool, fits: bool) -> None:
    config = tiny_config("mode=default", max_buffer_size=100, batch_size=4)
    spec = replace(tiny_spec(), episode_length=config.learner.horizon, can_terminate=can_terminate)

    def check() -> None:
        announce(config, spec, torch.device("cpu"), tiny_model(config))

    if fits:
        check()
    else:
        with pytest.raises(ConfigError, match="max_buffer_size=100 is too small"):
            check()


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        ({"seed_steps": 64}, "nothing will be learned: seed_steps=64 agent steps"),
        (
            {"seed_steps": 8, "theseus_start_step": 64},
            "no trajectory will be optimized: theseus_start_step=64",
        ),
        ({"seed_steps": 8, "theseus_start_step": 16}, None),
        ({"seed_steps": 64, "seed_until_reward": True, "theseus_start_step": 16}, None),
    ],
)
def test_what_would_begin_after_the_end_is_said(
    changes: dict[str, int], warning: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny_config("mode=back_plan", train_steps=64 * tiny_spec().action_repeat, **changes)
    announce(config, tiny_spec(), torch.device("cpu"), tiny_model(config))
    warnings = [r.message for r in caplog.records if r.levelname == "WARNING"]
    assert len(warnings) == (warning is not None)
    assert warning is None or warning in warnings[0]
