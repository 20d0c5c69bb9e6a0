"""What the command line tools share: unknown keys, and errors as one line with an exit code."""

import sys
from collections.abc import Callable, Sequence

from omegaconf import DictConfig, OmegaConf

from difftori.config import CONFIG_DIR, ConfigError, config_keys, unknown_key

USAGE_EXIT_CODE = 2
INTERRUPTED_EXIT_CODE = 130


def refuse_unknown_keys(arguments: Sequence[str], config_name: str = "default") -> None:
    """Exit with one line if an override names a key that does not exist.

    Hydra would accept ``+foo=1``, and refuse ``foo=1`` without naming what is near.
    """
    file = CONFIG_DIR / f"{config_name}.yaml"
    known = {str(key) for key in OmegaConf.load(file)} - {"defaults", "hydra"}
    if config_name == "default":
        known |= config_keys() | {path.name for path in CONFIG_DIR.iterdir() if path.is_dir()}
    for argument in arguments:
        if argument.startswith("-") or "=" not in argument:
            continue
        key = argument.partition("=")[0].lstrip("+~").partition("@")[0]
        if key.startswith(("hydra.", "hydra/")) or key in known:
            continue
        fail(unknown_key(key, known, file.name))


def guarded(run: Callable[[DictConfig], int], cfg: DictConfig) -> int:
    """``run(cfg)``'s exit code; a configuration that cannot be run is one line and code 2."""
    try:
        return run(cfg)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE_EXIT_CODE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED_EXIT_CODE


def fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(USAGE_EXIT_CODE)
