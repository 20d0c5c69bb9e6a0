"""The words of a command line, before Hydra reads them: unknown ones are one line."""

import difflib
import re
from collections.abc import Callable, Sequence

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from difftori.config import CONFIG_DIR, ConfigError, config_keys, unknown_key
from difftori.process import fail


def refuse_unknown_words(arguments: Sequence[str], config_name: str = "default") -> None:
    """Exit with one line if an override names a key, or chooses a file, that does not exist.

    Hydra would accept ``+foo=1``, refuse ``foo=1`` without naming what is near, and print a page
    about a group's missing file or a list without ``-m``.
    """
    keys = {str(key) for key in OmegaConf.load(CONFIG_DIR / f"{config_name}.yaml")}
    groups: dict[str, list[str]] = {}
    if config_name == "default":
        for path in CONFIG_DIR.glob("**/*/"):
            group = str(path.relative_to(CONFIG_DIR))
            groups[group] = sorted(file.stem for file in path.glob("*.yaml"))
        keys |= config_keys() | groups.keys()
    options, more = get_args_parser().parse_known_args(arguments)
    if options.multirun and config_name != "default":
        fail("-m makes many runs, which is for train.py alone")
    for argument in [*options.overrides, *more]:
        word, equals, value = argument.partition("=")
        key = word.lstrip("+").partition("@")[0]
        if not equals or word.startswith("~"):
            fail(f"expected KEY=VALUE, got '{argument}'")
        if key not in keys - {"defaults", "hydra"} and not key.startswith("hydra."):
            fail(unknown_key(key, keys, f"{config_name}.yaml"))
        override = _parse(argument)
        _refuse_unreadable_sweep(argument, override, multirun=options.multirun)
        if key in groups:
            _refuse_unknown_choice(key, value, override, groups[key])


def _refuse_unreadable_sweep(argument: str, override: Override, *, multirun: bool) -> None:
    if override.is_sweep_override() and not multirun:
        fail(f"{argument} is a list, and each value makes a run: many runs need -m")
    if override.is_interval_sweep():
        fail(f"{argument}: an interval does not say which runs; choice(a, b) and range do")


def _refuse_unknown_choice(key: str, value: str, override: Override, known: list[str]) -> None:
    if "(" not in value:
        choices = value.split(",")
    elif override.value_type is ValueType.CHOICE_SWEEP:
        choices = list(override.sweep_string_iterator())
    else:  # other functions, such as glob(*), are Hydra's to read
        return
    for choice in choices:
        if choice.strip("'\" ") not in known:
            near = difflib.get_close_matches(choice, known, n=3, cutoff=0.6)
            hint = f"did you mean {', '.join(near)}? " if near else ""
            fail(f"{key}={choice}: {hint}choose from {', '.join(known)}")


def _parse(argument: str) -> Override:
    """As Hydra reads it; exit with one line if it cannot."""
    try:
        return OverridesParser.create().parse_override(argument)
    except HydraException as error:
        reason = str(error).splitlines()[0].rstrip(".:")
        schedule = "linear(" in argument or "_schedule" in argument
        key, _, value = argument.partition("=")
        hint = ""
        if schedule:
            hint = "; a schedule takes two pairs of quotes: 'KEY=\"linear(START, END, STEPS)\"'"
        elif "=" in value or not value.isascii():
            hint = f"; such a value takes two pairs of quotes: '{key}=\"{value}\"'"
        fail(f"cannot read {argument}: {reason}{hint}")


def rename_tasks(arguments: Sequence[str]) -> list[str]:
    """The words with ``task=metaworld-NAME``, as DiffTORI publishes it, turned to ``mw-NAME``.

    Hydra chooses a task's file by its name, so this comes before Hydra reads them.
    """
    return [
        re.sub(r"\bmetaworld-", "mw-", word) if re.match(r"\+*task=", word) else word
        for word in arguments
    ]


def multirun_first(arguments: Sequence[str]) -> list[str]:
    """The words with ``-m`` before the overrides: Hydra reads none that follow it elsewhere."""
    return sorted(arguments, key=lambda word: word not in ("-m", "--multirun"))


def guarded(run: Callable[[DictConfig], int], cfg: DictConfig) -> int:
    """``run(cfg)``'s exit code; a configuration that cannot be run is one line and code 2."""
    try:
        return run(cfg)
    except ConfigError as error:
        fail(str(error))
