"""README: a line for every file of the three packages, and none for files that are gone."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_module_has_its_line_in_the_readme():
    tree = re.search(r"```text\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert tree, "README.md has no ```text tree"
    listed, folder = set(), ""
    for line in tree.group(1).splitlines():
        if match := re.match(r"(\S+)/\s", line + " "):
            folder = match.group(1)
        elif match := re.match(r"\s+(\S+\.py|\S+/)\s", line + " "):
            listed.add(f"{folder}/{match.group(1)}")
    packages = ("edge", "training", "training/teachers", "converters")
    present = {
        f"{package}/{path.name}"
        for package in packages
        for path in (ROOT / package).glob("*.py")
        if path.name != "__init__.py"
    }
    assert listed == present
