"""docs/architecture.md has a line for every file of the three packages, README one for every folder."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("edge", "training", "converters")


def test_every_module_has_its_line():
    tree = re.search(r"```text\n(.*?)```", (ROOT / "docs" / "architecture.md").read_text(), re.DOTALL)
    assert tree, "docs/architecture.md has no ```text tree"
    listed, folder = set(), ""
    for line in tree.group(1).splitlines():
        if match := re.match(r"(\S+)/\s", line + " "):
            folder = match.group(1)
        elif match := re.match(r"\s+(\S+\.py)\s", line):
            listed.add(f"{folder}/{match.group(1)}")
    present = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if path.name != "__init__.py"
    }
    assert listed == present


def test_every_folder_has_its_line_in_the_readme():
    tree = re.search(r"```text\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert tree, "README.md has no ```text tree"
    listed, package = set(), ""
    for line in tree.group(1).splitlines():
        if match := re.match(r"( *)(\S+)/ ", line):
            package = match.group(2) if not match.group(1) else package
            listed.add(match.group(2) if not match.group(1) else f"{package}/{match.group(2)}")
    folders = {path.parent.relative_to(ROOT).as_posix() for name in PACKAGES for path in (ROOT / name).rglob("*.py")}
    assert {name for name in listed if name.split("/")[0] in PACKAGES} == folders
