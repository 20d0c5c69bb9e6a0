"""What the pages say: their links, keys and commands."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from difftori.cli import rename_tasks
from difftori.config import CONFIG_DIR, config_keys, from_hydra

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(path for glob in ("*.md", "docs/*.md", "results/*/*.md") for path in ROOT.glob(glob))
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def anchors(page: Path) -> set[str]:
    """The names of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"", page.read_text()):
        path, _, anchor = "".join(link).partition("#")
        if path.startswith("http"):
            continue
        target = page.parent / path if path else page
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), f"{path}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_keys_that_a_page_names_exist(page: Path) -> None:
    files = [
        yaml.safe_load((CONFIG_DIR / f"{name}.yaml").read_text()) for name in ("evaluate", "watch")
    ]
    known = config_keys().union(*files) | {"preset", "agent"}
    named = set(re.findall(r"`(?:[a-z.=_0-9-]+ )*([a-z_]+)=", page.read_text()))
    assert named - known == set()


def commands(page: Path) -> list[list[str]]:
    """The arguments of ``src/train.py`` in a page's blocks, as a shell reads them.

    The shell gets these lines and assignments of one letter alone, and prints what it would start.
    """
    blocks = "".join(re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL))
    lines = blocks.replace("\\\n", " ").splitlines()
    wanted = [line for line in lines if re.match(r"[A-Z]=[^`(]*$|python \S*src/train\.py ", line)]
    script = "\n".join(["set -f", 'python() { printf "%s\\t" "$@"; echo; }', *wanted])
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    return [line.split("\t")[1:-1] for line in done.stdout.splitlines()]


def first_of_sweep(word: str) -> str:
    override = OverridesParser.create().parse_override(word)
    if not override.is_sweep_override():
        return word
    return f"{override.key_or_group}={next(override.sweep_string_iterator())}"


@pytest.mark.parametrize(
    "name", [name for name in NAMES if "\npython src/train.py" in (ROOT / name).read_text()]
)
def test_each_training_command_can_be_run(name: str) -> None:
    found = commands(ROOT / name)
    assert found
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        for command in found:
            words = rename_tasks([word for word in command if word != "-m"])
            cfg = compose("default", [first_of_sweep(word) for word in words])
            OmegaConf.resolve(cfg)
            from_hydra(cfg, check_devices=False)
