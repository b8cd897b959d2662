"""Who may import whom: edge runs without torch, and converters → training → edge is never turned."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED = {
    "edge": {"edge"},
    "training": {"training", "edge"},
    "converters": {"converters", "training", "edge"},
}
HEAVY = ("torch", "mediapipe", "cv2", "av", "onnx", "matplotlib", "training", "converters")
EDGE = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "edge").rglob("*.py")
    if not path.stem.startswith("__")
)


def loaded_after(statement):
    """The modules of a fresh process after an import."""
    code = f"import json, sys\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_edge_is_light():
    loaded = loaded_after("import edge")
    assert not loaded.intersection({*HEAVY, "PIL", "onnxruntime"})


def test_no_module_of_edge_needs_torch():
    imports = "\n".join(f"import {name}" for name in EDGE)
    assert not loaded_after(imports).intersection({"torch", "training", "converters", "mediapipe"})


def test_running_an_avatar_needs_no_torch(avatar_bundle):
    loaded = loaded_after(
        f"import numpy\nfrom edge import Avatar\navatar = Avatar.load({str(avatar_bundle)!r})\n"
        "avatar.animate(avatar.source_landmarks)"
    )
    assert "onnxruntime" in loaded
    assert not loaded.intersection(HEAVY)


@pytest.mark.parametrize("package", ALLOWED)
def test_the_arrow(package):
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path} imports relatively"
                names = [node.module or ""]
            ours = {name.split(".")[0] for name in names} & {*ALLOWED, "superface"}
            assert ours <= ALLOWED[package], f"{path} imports {ours - ALLOWED[package]}"


def imports_of(path, modules):
    """Which of our modules a file imports, anywhere in it: lazily counts too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= inner & modules or {node.module}
    return names & modules


def test_no_module_imports_itself_by_a_detour():
    modules = {}
    for package in ALLOWED:
        for path in (ROOT / package).rglob("*.py"):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            modules[name] = path
    graph = {name: sorted(imports_of(path, modules.keys())) for name, path in modules.items()}
    done = set()

    def walk(name, way):
        assert name not in way, f"a circle: {' -> '.join([*way[way.index(name) :], name])}"
        if name not in done:
            for other in graph[name]:
                walk(other, [*way, name])
            done.add(name)

    for name in graph:
        walk(name, [])
