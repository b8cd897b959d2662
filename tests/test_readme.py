"""README: its commands exist as it types them, its pictures and links are there, its first screen is short.

The main command itself is run, with few steps, by tests/test_journey.py; the test command is this run.
"""

import re
import shlex
import tomllib
from pathlib import Path

import pytest

import superface

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = [
    line.split("  #")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.strip()
]


def test_the_two_commands_are_on_the_first_screen():
    assert COMMANDS[0] == 'pip install -e ".[all]" && superface make'
    assert COMMANDS[1] == 'pip install -e ".[all,dev]" && pytest'
    assert README.index(COMMANDS[1]) < 1500


def test_the_gate_installs_as_the_readme_says():
    assert COMMANDS[1].split(" && ")[0].replace("pip install", "pip install -q") in (ROOT / ".ci/run").read_text()


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("superface ")])
def test_a_command_is_understood(command, monkeypatch):
    """Every flag and argument that the README types is parsed; what the verb does is tested elsewhere."""
    seen = []
    monkeypatch.setattr(superface, "run_safely", lambda run: seen.append(run) or 0)
    assert superface.main(shlex.split(command)[1:]) == 0
    assert seen


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("python ")])
def test_a_script_is_there(command):
    assert (ROOT / shlex.split(command)[1]).is_file()


def test_extras_that_the_readme_names_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {name for group in re.findall(r'\.\[([a-z,]+)\]"', README) for name in group.split(",")}
    assert named
    assert named <= set(extras)


def test_links_and_pictures_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
    for target in re.findall(r"`((?:docs|edge|training|converters)/[^`*]+)`", README):
        assert (ROOT / target).exists(), target


def test_pictures_are_small():
    pictures = list((ROOT / "docs" / "pictures").glob("*"))
    assert pictures
    assert sum(path.stat().st_size for path in pictures) < 2_000_000
