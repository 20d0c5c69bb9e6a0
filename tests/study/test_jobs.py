"""Which runs a study has, and which of them are finished."""

from collections.abc import Callable, Sequence

import pytest
import yaml
from omegaconf import DictConfig, OmegaConf

from builders import tiny_config
from difftori.config import ConfigError
from difftori.monitoring.status import write_status
from difftori.study.jobs import Job, is_finished, mark_queued, read_jobs, unmark_queued


def compose(overrides: Sequence[str]) -> DictConfig:
    """Plain keys only, as if Hydra had done it."""
    flat = {**tiny_config().flat(), **OmegaConf.from_dotlist(list(overrides))}
    return OmegaConf.create(flat)


def test_threads_are_shared_out_unless_the_run_says_how_many() -> None:
    jobs = read_jobs(compose, [["seed=1"], ["seed=2", "threads=3"]], threads=2)
    assert [job.overrides for job in jobs] == [("seed=1", "threads=2"), ("seed=2", "threads=3")]
    assert [job.config.run.threads for job in jobs] == [2, 3]


@pytest.mark.parametrize(("share", "threads"), [(1, 1), (4, 2)])
def test_threads_of_a_preset_are_no_more_than_a_runs_share(share: int, threads: int) -> None:
    def preset(overrides: Sequence[str]) -> DictConfig:
        return compose(["threads=2", *overrides])

    (job,) = read_jobs(preset, [["seed=1"]], threads=share)
    assert job.config.run.threads == threads


def test_a_run_that_cannot_be_run_is_named_before_anything_begins() -> None:
    with pytest.raises(ConfigError, match=r"^horizon=0: .*\(in the run seed=1 horizon=0\)$"):
        read_jobs(compose, [["seed=1"], ["seed=1", "horizon=0"]], threads=1)


def test_runs_that_would_share_a_folder_are_refused() -> None:
    sweep = [["seed=1", "lr=0.001"], ["seed=1", "lr=0.002"]]
    with pytest.raises(ConfigError, match=r"share the folder .* 'exp_name=lr-\$\{lr\}'"):
        read_jobs(compose, sweep, threads=1)
    told_apart = [[*words, f"exp_name={words[1]}"] for words in sweep]
    assert len(read_jobs(compose, told_apart, threads=1)) == 2


def test_a_run_that_is_asked_for_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="asked for twice: seed=1"):
        read_jobs(compose, [["seed=1"], ["seed=1"]], threads=1)


def finish(job: Job) -> None:
    (job.folder / "models").mkdir(parents=True)
    (job.folder / "models" / "model.pt").touch()
    (job.folder / "config.yaml").write_text(yaml.safe_dump(job.config.flat()))
    write_status(job.folder, "done", env_step=job.config.run.train_steps)


def test_a_run_is_finished_for_the_command_that_finished_it(
    make_job: Callable[..., Job],
) -> None:
    job = make_job(1)
    assert not is_finished(job)
    finish(job)
    assert is_finished(job)
    assert is_finished(make_job(1, save_every_minutes=7))
    assert is_finished(make_job(1, max_nonfinite=7))
    younger = {key: value for key, value in job.config.flat().items() if key != "layer_norm"}
    (job.folder / "config.yaml").write_text(yaml.safe_dump(younger))
    assert is_finished(job)
    longer = make_job(1, train_steps=10**6)
    assert not is_finished(longer)
    (job.folder / "config.yaml").write_text(yaml.safe_dump(longer.config.flat()))
    assert not is_finished(longer), "it died before it went on"
    assert not is_finished(make_job(1, lr=0.5))
    assert not is_finished(make_job(1, resume=False))
    write_status(job.folder, "stopped")
    assert not is_finished(job)


@pytest.mark.parametrize("missing", ["models/model.pt", "config.yaml", "status.json"])
def test_a_run_that_lacks_something_is_not_finished(
    make_job: Callable[..., Job], missing: str
) -> None:
    job = make_job(1)
    finish(job)
    (job.folder / missing).unlink()
    assert not is_finished(job)


def test_a_mark_taken_back_leaves_nothing(make_job: Callable[..., Job]) -> None:
    job = make_job(1)
    mark_queued(job)
    assert job.folder.is_dir()
    unmark_queued(job)
    assert not job.folder.exists()
    finish(job)
    mark_queued(job)
    unmark_queued(job)
    assert is_finished(job)
