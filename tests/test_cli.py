"""What happens to the command line's words before Hydra reads them."""

import pytest

from difftori import cli


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("task=metaworld-drawer-open", "task=mw-drawer-open"),
        ("task=metaworld-reach,cup-catch,metaworld-push", "task=mw-reach,cup-catch,mw-push"),
        ("task=choice(metaworld-reach,mw-push)", "task=choice(mw-reach,mw-push)"),
        ("++task='metaworld-reach'", "++task='mw-reach'"),
        ("task=mw-reach", "task=mw-reach"),
        ("exp_name=metaworld-reach", "exp_name=metaworld-reach"),
        ("log_dir=logs/task=metaworld-x", "log_dir=logs/task=metaworld-x"),
        ("--help", "--help"),
    ],
)
def test_published_names_of_tasks_are_understood(word: str, meant: str) -> None:
    assert cli.rename_tasks(["seed=1", word]) == ["seed=1", meant]


def test_published_names_are_checked_as_any_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.refuse_unknown_words(cli.rename_tasks(["task=metaworld-drawer-opn"]))
    assert "did you mean mw-drawer-open" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "config_name", "told"),
    [
        (["-m", "run=logs"], "evaluate", "train.py alone"),
        (["exp_name=a=b"], "default", "'exp_name=\"a=b\"'"),
        (["log_dir=ü"], "default", "'log_dir=\"ü\"'"),
        (["-m", "mode=choice(default,nope)"], "default", "mode=nope: choose from"),
        (["-m", "lr=interval(0,1)"], "default", "an interval does not say which runs"),
    ],
)
def test_refused_words_say_what_to_write(
    words: list[str], config_name: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.refuse_unknown_words(words, config_name)
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    "choice", ["glob(*)", "'default',back_plan", "choice('default',back_plan)"]
)
def test_what_hydra_can_read_is_left_to_it(choice: str) -> None:
    cli.refuse_unknown_words(["-m", f"mode={choice}"])


def test_m_may_stand_anywhere() -> None:
    words = ["preset=debug", "-m", "seed=1,2"]
    assert cli.multirun_first(words) == ["-m", "preset=debug", "seed=1,2"]
