"""The journey as a user takes it: one photo in, a verified avatar out, every verb on it; and the parity ladder on it.

    torch ─ ONNX ─ numpy;  torch ─ ExecuTorch;  torch ─ Core ML;  float ─ 8 bits on each of them

Each rung compares two neighbours on the student that people get, of standard size, and names itself. The rungs below,
operation by operation, are tests/test_edge_judges_ops.py and tests/test_edge_judges_mil.py; those above, random
students on one runtime each, are the converters' tests.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from converters.cli import random_driving
from converters.student_graph import StudentGraph
from edge.bundle import read_manifest
from edge.judges.check import GATES, psnr_db
from edge.runtimes import format_of, installed, load_graph
from training.checkpoint import load_student

ROOT = Path(__file__).parents[1]
FEW = ("--steps", "3", "--frames", "10", "--json")
LOWERED = {"onnx": ("fp32", "int8"), "executorch": ("fp32", "int8"), "coreml": ("fp16", "int8")}
RUNGS = [
    ("onnx", "fp32"), ("numpy", "fp32"), ("executorch", "fp32"), ("coreml", "fp16"),
    ("onnx", "int8"), ("numpy", "int8"), ("executorch", "int8"), ("coreml", "int8"),
]  # fmt: skip

pytestmark = pytest.mark.slow


class Journey(NamedTuple):
    """What `superface make` left, and said in its last line."""

    home: Path
    made: dict
    environment: dict[str, str]

    @property
    def run(self) -> Path:
        return self.home / "runs" / "grace_hopper"

    @property
    def bundle(self) -> Path:
        return self.run / "grace_hopper.avatar"

    def superface(self, *arguments: str) -> str:
        """What a verb prints; in its own process."""
        return superface(*arguments, home=self.home, environment=self.environment)


def superface(*arguments: str, home: Path, environment: dict[str, str]) -> str:
    command = [sys.executable, str(ROOT / "superface.py"), *arguments]
    done = subprocess.run(
        command, cwd=home, env=environment, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def journey(tmp_path_factory, landmark_model):
    home, environment = tmp_path_factory.mktemp("journey"), os.environ | {"SUPERFACE_LANDMARKER": str(landmark_model)}
    said = superface("make", *FEW, "--force", home=home, environment=environment)
    return Journey(home, json.loads(said.splitlines()[-1]), environment)


@pytest.fixture(scope="module")
def drawn(journey):
    """Inputs that training never saw, far from rest, and what torch draws for them."""
    student, _ = load_student(journey.run / "student.safetensors")
    frames = random_driving(student, 2, seed=2).frames()
    graph = StudentGraph(student)
    return frames, [graph(*map(torch.from_numpy, inputs.values()))[0].numpy() for inputs in frames]


def test_a_photo_becomes_a_verified_avatar(journey):
    made = journey.made
    assert made["verified"]
    assert made["gflops"] <= 6.0
    assert any(row["drawn"] < row["floor"] for row in made["expressions"])
    assert list(made["metrics"])[:2] == ["mouth_psnr_db", "eyes_psnr_db"]  # the face first, then whole frames
    assert made["metrics"]["lid_opening"] > 0
    assert made["unfinished"] is None
    assert (journey.run / "expressions.png").is_file()
    assert [(row["runtime"], row["precision"]) for row in made["parity"]] == [
        (runtime, precision) for runtime in LOWERED if installed(runtime) for precision in LOWERED[runtime]
    ]
    page = (journey.run / "report.html").read_text()
    assert page.count("<img") >= 15
    assert not re.findall(r"https?://(?!www\.w3\.org)", page)
    assert (journey.run / "preview.mp4").stat().st_size > 10_000


def test_the_avatar_passes_its_check_and_names_what_it_lacks(journey):
    verdict = json.loads(journey.superface("check", str(journey.bundle), "--json"))
    assert verdict["passed"]
    assert not verdict["skipped"]
    assert "half lids" in verdict["lacking"]
    assert {row["runtime"] for row in verdict["rows"]} == {*filter(installed, LOWERED), "numpy"}


def test_the_avatar_is_timed(journey):
    said = journey.superface("bench", str(journey.bundle), "--frames", "3", "--threads", "1", "--json")
    assert json.loads(said)["rows"]


def test_a_clip_moves_the_avatar_on_every_runtime(journey):
    journey.superface("track", str(journey.run / "preview.mp4"), "-o", "clip.npz")
    for runtime in filter(installed, LOWERED):
        film = f"{runtime}.mp4"
        journey.superface("animate", str(journey.bundle), "--driving", "clip.npz", "-o", film, "--runtime", runtime)
        assert (journey.home / film).stat().st_size > 5_000


@pytest.mark.parametrize(("runtime", "precision"), RUNGS)
def test_rung(journey, drawn, runtime, precision):
    if not installed(runtime):
        pytest.skip(f"{runtime} is not installed")
    path = read_manifest(journey.bundle).graphs["student"].files[format_of(runtime)][precision]
    frames, expected = drawn
    run = load_graph(runtime, journey.bundle / path)
    decibels = [psnr_db(image, run(**inputs)[0], peak=1.0) for image, inputs in zip(expected, frames, strict=True)]
    gate = GATES[precision]
    assert np.mean(decibels) >= gate.mean_db, f"rung torch - {runtime} {precision} is broken: {decibels} dB"
    assert min(decibels) >= gate.worst_db, f"rung torch - {runtime} {precision} is broken: {decibels} dB"


def test_the_numpy_oracle_stands_beside_onnx_runtime(journey, drawn):
    one, other = (load_graph(runtime, journey.bundle / "student.onnx") for runtime in ("onnx", "numpy"))
    inputs = drawn[0][0]
    assert psnr_db(one(**inputs)[0], other(**inputs)[0], peak=1.0) >= 90
