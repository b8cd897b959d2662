"""The ladder on the student that people get, of standard size: each rung compares two neighbours and names itself.

    torch ─ ONNX ─ numpy;  torch ─ ExecuTorch;  torch ─ Core ML;  float ─ 8 bits on each of them

The rungs below it, operation by operation, are tests/test_edge_ops.py and tests/test_edge_mil.py; a whole bundle's are
`superface check`, which tests/test_superface.py runs.
"""

import numpy as np
import pytest
import torch

from converters import make, quantize, to_coreml, to_executorch, to_onnx
from converters.cli import random_driver, random_driving, random_student
from converters.student_graph import StudentGraph
from edge.judges.check import GATES, psnr_db
from edge.runtimes import format_of, installed, load_graph
from training.config import TIERS

FRAMES = 2
RUNGS = [
    ("onnx", "fp32"), ("numpy", "fp32"), ("executorch", "fp32"), ("coreml", "fp16"),
    ("onnx", "int8"), ("numpy", "int8"), ("executorch", "int8"), ("coreml", "int8"),
]  # fmt: skip


@pytest.fixture(scope="module")
def ladder(tmp_path_factory):
    """Files of the standard student by runtime and precision, held-out inputs, and what torch draws for them."""
    student = random_student(TIERS["standard"])
    calibration, held_out = (random_driving(student, 16, seed) for seed in (1, 2))
    with pytest.MonkeyPatch.context() as patch:
        for module in (to_onnx, to_executorch, to_coreml):
            patch.setattr(module, "VERIFIED_FRAMES", 1)
        for module in (to_onnx, quantize):
            patch.setattr(module, "CALIBRATION_FRAMES", 4)
        students, drivers = make.lower_all(student, random_driver(), calibration=calibration, held_out=held_out)
    folder = tmp_path_factory.mktemp("ladder")
    files = {}
    for graph in (*students, *drivers):
        for path, body in graph.files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(body)
    for graph in students:
        files[graph.runtime, graph.precision] = folder / graph.path
    frames = held_out.spread(FRAMES).frames()
    graph = StudentGraph(student)
    return files, frames, [graph(*map(torch.from_numpy, inputs.values()))[0].numpy() for inputs in frames]


@pytest.mark.slow
@pytest.mark.parametrize(("runtime", "precision"), RUNGS)
def test_rung(ladder, runtime, precision):
    if not installed(runtime):
        pytest.skip(f"{runtime} is not installed")
    files, frames, expected = ladder
    run = load_graph(runtime, files[format_of(runtime), precision])
    decibels = [psnr_db(image, run(**inputs)[0], peak=1.0) for image, inputs in zip(expected, frames, strict=True)]
    gate = GATES[precision]
    assert np.mean(decibels) >= gate.mean_db, f"rung torch - {runtime} {precision} is broken: {decibels} dB"
    assert min(decibels) >= gate.worst_db, f"rung torch - {runtime} {precision} is broken: {decibels} dB"


@pytest.mark.slow
def test_the_numpy_oracle_stands_beside_onnx_runtime(ladder):
    files, frames, _ = ladder
    one, other = (load_graph(runtime, files["onnx", "fp32"]) for runtime in ("onnx", "numpy"))
    assert psnr_db(one(**frames[0])[0], other(**frames[0])[0], peak=1.0) >= 90
