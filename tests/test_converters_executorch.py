"""Student → ExecuTorch: programs that are executed, what backends take and leave, and refusals."""

import copy
import dataclasses
import hashlib
import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mutations import mutated
from torch import nn

pytest.importorskip("executorch", reason="executorch is not installed")

from converters import to_executorch
from converters.cli import random_driver
from converters.parity import GATES, compare
from converters.quantize import QUANTIZED_PARTS, importing, pack_tables, quantize_pt2e
from converters.student_graph import StudentGraph
from converters.to_executorch import (
    Program,
    export_executorch,
    extract_coreml_package,
    lower,
    pack_pictures,
    run_program,
    store_tables,
)
from converters.write_bundle import manifest_text
from edge.avatar import Avatar
from edge.bundle import FileEntry, read_manifest
from edge.errors import BundleError, InputError, MissingRuntimeError, ParityError
from edge.runtimes import installed, load_graph
from edge.spec import KEYPOINTS_IN, LOCAL_IN, NETWORK
from edge.topology import LOCAL
from training.student.person import identity_grid, warp

ROOT = Path(__file__).parents[1]
FRAMES = 4


class Sampler(nn.Module):
    """The student's warp alone."""

    def forward(self, features, field):
        return (warp(features, field),)


class Arctangent(nn.Module):
    def forward(self, x):
        return torch.atan(x)


class Gray:
    """Stands for a student's graph; every frame is gray."""

    example_inputs = staticmethod(tuple)

    def __call__(self, keypoints, local_landmarks):
        return (torch.full((1, 3, NETWORK, NETWORK), 0.5),)


@pytest.fixture(scope="module")
def quantised(random_student, driving):
    return quantize_pt2e(StudentGraph(random_student), driving[1].spread(8))


@pytest.fixture(scope="module")
def programs(random_student, driver, driving, quantised):
    """The random student for XNNPACK by precision, and its driver."""
    students, lowered = export_executorch(
        random_student, driver, calibration=driving[1], held_out=driving[2], quantised=lambda parts: quantised
    )
    return {student.precision: student for student in students}, lowered


def ahead_of_time(random_student, driving, target):
    """The one program for a backend that cannot be run here; no driver comes with it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(to_executorch, "VERIFIED_FRAMES", FRAMES)
        (student,), driver = export_executorch(
            random_student, random_driver(), calibration=driving[1], held_out=driving[2], target=target
        )
    assert driver is None
    return student


def test_both_precisions_are_executed_and_meet_their_gates(programs):
    students, _ = programs
    assert {precision: student.path for precision, student in students.items()} == {
        "fp32": "student.pte",
        "int8": "student.int8.pte",
    }
    for precision, student in students.items():
        assert student.parity[:2] == ("executorch", precision)
        assert student.parity.engine.startswith("executorch ")
        assert student.parity.frames == 16
        assert student.parity.mean_db >= GATES[precision].mean_db
        assert student.parity.worst_db >= GATES[precision].worst_db
    assert students["int8"].parity.mean_db < students["fp32"].parity.mean_db


def test_the_program_computes_what_the_quantised_model_says(programs, quantised, driving):
    """XNNPACK took a graph with quantised `cat` for something else: 33 dB from the torch model it was made of."""
    frames = driving[2].spread(FRAMES).frames()
    with torch.no_grad():
        expected = [quantised(*map(torch.from_numpy, inputs.values()))[0] for inputs in frames]
    _, got = run_program(programs[0]["int8"].files["student.int8.pte"], "xnnpack", frames)
    assert compare(expected, got).worst_db > 55


def test_only_the_generators_convolutions_are_quantised(quantised):
    weights = {
        name for name, tensor in quantised.state_dict().items() if tensor.dtype == torch.int8 and tensor.ndim == 4
    }
    assert len(weights) == 11  # enter, narrow, look; two blocks of two at either size
    quantised_doors = [node for node in quantised.graph.nodes if "quantize_per_tensor" in str(node.target)]
    for node in quantised_doors:
        modules = list(node.meta.get("nn_module_stack", {}).values())
        assert not modules or "generator" in modules[-1][0]


def test_nothing_quantised_is_an_error(random_student, driving):
    with pytest.raises(ParityError, match="No convolution is named like decoder"):
        quantize_pt2e(StudentGraph(random_student), driving[1].spread(1), parts=("decoder",))


def test_xnnpack_leaves_the_warps_and_nothing_else(programs):
    for student in programs[0].values():
        assert student.fallback == ("grid_sampler_2d",) * 20
        assert student.delegated > 100


def test_a_planted_operation_is_named(random_student):
    generator = copy.deepcopy(random_student.network.generator)
    generator.coarse.append(Arctangent())
    config = random_student.config
    maps = [torch.zeros(1, count, 64, 64) for count in (config.feature_channels, config.motion_channels)]
    with pytest.raises(InputError, match=r"xnnpack backend does not take the operation atan \(in coarse\.2\)"):
        lower(generator, (*maps, torch.zeros(1, 3, NETWORK, NETWORK)), "xnnpack")


def test_a_graph_in_parts_is_refused():
    """A bilinear warp with zeros is none of Vulkan's: it takes what is before and after."""

    class Zeros(nn.Module):
        def forward(self, x, field):
            return (torch.nn.functional.grid_sample(x * 2, field, align_corners=True) * 2,)

    with pytest.raises(InputError, match=r"vulkan backend does not take the operation grid_sampler_2d"):
        lower(Zeros(), (torch.zeros(1, 4, 8, 8), torch.zeros(1, 8, 8, 2)), "vulkan")


@pytest.mark.parametrize("size", [64, NETWORK])
def test_an_identity_field_returns_its_input(size):
    features, field = torch.rand(1, 4, size, size), identity_grid(size)
    program = lower(Sampler(), (features, field), "xnnpack")
    _, (got,) = run_program(program.body, "xnnpack", [{"features": features.numpy(), "field": field.numpy()}])
    np.testing.assert_allclose(got, features.numpy(), atol=2e-4)


def test_the_warp_that_is_fast_on_arm_is_the_same_warp():
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(1, 5, 16, 16, generator=generator)
    field = torch.randn(1, 9, 7, 2, generator=generator)  # much of it outside
    program = lower(Sampler(), (features, field), "xnnpack")
    _, (got,) = run_program(program.body, "xnnpack", [{"features": features.numpy(), "field": field.numpy()}])
    np.testing.assert_allclose(got, warp(features, field).numpy(), atol=1e-5)


def test_pictures_lie_in_eight_bits(programs):
    class Constants(nn.Module):
        def __init__(self):
            super().__init__()
            photo = torch.randint(256, (1, 3, NETWORK, NETWORK)) / 255
            self.register_buffer("photo", photo)
            self.register_buffer("noise", photo + 1e-3)
            self.register_buffer("small", photo[..., :8, :8].clone())

        def forward(self, x):
            return x + self.photo, x + self.noise, x[..., :8, :8] + self.small

    example = (torch.rand(1, 3, NETWORK, NETWORK),)
    packed = pack_pictures(torch.export.export(Constants(), example).module())
    (name,) = (name for name, tensor in packed.named_buffers() if tensor.dtype == torch.int8)
    assert name == "photo_levels"
    for got, expected in zip(packed(*example), Constants.forward(packed, *example), strict=True):
        torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)
    pictures = 7 * NETWORK * NETWORK
    assert len(programs[0]["fp32"].files["student.pte"]) < 4 * pictures + 4_500_000  # 16 MB with floats


def test_packed_tables_lie_in_eight_bits(random_student):
    graph = StudentGraph(pack_tables(random_student))
    example = tuple(torch.randn(shape) * 0.1 for shape in (KEYPOINTS_IN.shape, LOCAL_IN.shape))
    with torch.no_grad():
        stored = store_tables(torch.export.export(graph, example, strict=False).module())
        levels = {name for name, tensor in stored.named_buffers() if tensor.dtype == torch.int8}
        assert {name.removesuffix("_levels").rpartition("student.")[2] for name in levels} == {"person.place.weight"}
        torch.testing.assert_close(stored(*example), graph(*example), atol=1e-4, rtol=0)
        plain = torch.export.export(StudentGraph(random_student), example, strict=False).module()
        assert not any(tensor.dtype == torch.int8 for tensor in store_tables(plain).buffers())


def test_the_driver_is_the_teachers(programs, driver, driving, tmp_path):
    lowered = programs[1]
    (tmp_path / lowered.path).write_bytes(lowered.files["driver.pte"])
    landmarks = driving[0][11:12]
    keypoints, local = load_graph("executorch", tmp_path / lowered.path)(landmarks=landmarks)
    np.testing.assert_allclose(local[0], landmarks[0, LOCAL, :2])
    np.testing.assert_allclose(keypoints[0], driver(torch.from_numpy(landmarks))[0], atol=1e-6)


def test_vulkan_takes_the_graph_whole(random_student, driving):
    student = ahead_of_time(random_student, driving, "vulkan")
    assert (student.path, student.precision) == ("student.vulkan.fp16.pte", "fp16")
    assert student.note == "lowered, not executed here"
    assert student.parity is None
    assert student.fallback == ()
    assert student.delegated > 100


@pytest.mark.skipif(not installed("coreml"), reason="coremltools is not installed")
def test_core_ml_takes_the_graph_whole(random_student, driving, programs, tmp_path):
    student = ahead_of_time(random_student, driving, "coreml")
    assert (student.path, student.precision) == ("student.coreml.fp16.pte", "fp16")
    assert student.note == "lowered, not executed here"
    assert student.fallback == ()
    # Above the gate by far, because motion stays in fp32.
    assert student.parity.worst_db >= 60
    assert sys.platform == "darwin" or student.parity.engine.startswith("MIL interpreter (Linux)")
    package = extract_coreml_package(student.files[student.path], tmp_path)
    assert (package / "Manifest.json").is_file()
    (tmp_path / "other").mkdir()
    with pytest.raises(BundleError, match="no Core ML package"):
        extract_coreml_package(programs[1].files["driver.pte"], tmp_path / "other")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_program_is_a_sentence(programs, tmp_path, share):
    body = programs[0]["int8"].files["student.int8.pte"]
    path = tmp_path / "student.int8.pte"
    path.write_bytes(body[: int(share * len(body))])
    with pytest.raises(BundleError, match=r"ExecuTorch cannot load student\.int8\.pte"):
        load_graph("executorch", path)


def test_mutated_programs_are_a_sentence_or_sound(programs, avatar_bundle, tmp_path):
    """Programs changed at random, and vouched for: what they do to their process, they do not to this one."""
    students, driver = programs
    bodies = {"student.pte": students["fp32"].files["student.pte"], "driver.pte": driver.files["driver.pte"]}
    manifest, rng = read_manifest(avatar_bundle), np.random.default_rng(0)
    graphs = {
        name: graph._replace(files=graph.files | {"executorch": {"fp32": f"{name}.pte"}})
        for name, graph in manifest.graphs.items()
    }
    folder = tmp_path / "programs.avatar"
    shutil.copytree(avatar_bundle, folder)
    for damaged in (None, *bodies):
        files = dict(manifest.files)
        for name, body in bodies.items():
            written = mutated(body, rng) if name == damaged else body
            (folder / name).write_bytes(written)
            files[name] = FileEntry(len(written), hashlib.sha256(written).hexdigest())
        (folder / "manifest.json").write_bytes(manifest_text(dataclasses.replace(manifest, graphs=graphs, files=files)))
        try:
            Avatar.load(folder, runtime="executorch")
        except BundleError:
            assert damaged


def test_programs_say_nothing_of_this_machine(programs):
    for student in programs[0].values():
        assert b"student.py" not in student.files[student.path]
        assert str(ROOT).encode() not in student.files[student.path]


def test_as_much_in_eight_bits_as_the_gate_allows(random_student, driving, monkeypatch):
    """Where the generator misses the gate, its finest layers stay float; where they do too, there is no program."""
    kept, quality = [], {}

    def quantised(parts):
        kept.append(parts)
        return quality[parts]

    def run(body, target, frames):
        return "executorch", [np.full((1, 3, NETWORK, NETWORK), body, np.float32) for _ in frames]

    monkeypatch.setattr(to_executorch, "StudentGraph", lambda _: Gray())
    monkeypatch.setattr(to_executorch, "lower", lambda module, *_: Program(module, 1, ()))
    monkeypatch.setattr(to_executorch, "run_program", run)
    asked = {"calibration": driving[1], "held_out": driving[2], "precisions": ["int8"], "quantised": quantised}
    quality.update(dict(zip(QUANTIZED_PARTS, (0.4, 0.501), strict=True)))
    (student,), _ = export_executorch(random_student, None, **asked)
    assert kept == list(QUANTIZED_PARTS)
    assert student.parity.mean_db == pytest.approx(60, abs=0.1)
    quality[QUANTIZED_PARTS[1]] = 0.4
    with pytest.raises(ParityError, match="int8 student reaches 20"):
        export_executorch(random_student, None, **asked)


def test_refusals(random_student, driving):
    motion = {"calibration": driving[1], "held_out": driving[2]}
    with pytest.raises(InputError, match=r"vulkan takes fp16, not int8"):
        export_executorch(random_student, None, **motion, precisions=["int8"], target="vulkan")
    with pytest.raises(InputError, match="xnnpack, vulkan, coreml, not 'qnn'"):
        export_executorch(random_student, None, **motion, target="qnn")


def test_a_missing_package_says_how_to_get_it():
    sentence = r'no_such_thing is not installed.*pip install "superface\[coreml\]"'
    with pytest.raises(MissingRuntimeError, match=sentence), importing("coreml"):
        import no_such_thing.inside  # noqa: F401


def test_what_a_way_needs_is_imported_when_it_is_taken():
    code = "import sys, converters.to_executorch, converters.quantize\nprint(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"executorch", "torchao", "coremltools", "onnx", "onnxruntime"} & set(
        json.loads(done.stdout.replace("'", '"'))
    )


def test_the_script(programs, tmp_path, monkeypatch, capsys):
    """All of it but the lowering, which `programs` has done."""
    output = tmp_path / "out"
    monkeypatch.setattr(to_executorch, "export_executorch", lambda *_, **__: ([programs[0]["fp32"]], programs[1]))
    monkeypatch.setattr(
        sys, "argv", ["", "--tier", "nano", "--precision", "fp32", "--target", "xnnpack", "--output", str(output)]
    )
    assert to_executorch.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert "student.pte: " in lines[-3]
    assert "20 not (grid_sampler_2d)" in lines[-3]
    result = json.loads(lines[-1])
    assert result["verified"] is True
    assert result["target"] == "xnnpack"
    assert result["bytes"] == {path.name: path.stat().st_size for path in output.iterdir()}
    assert set(result["bytes"]) == {"student.pte", "driver.pte"}

    # A second time, with what is made already: nothing is replaced unasked.
    (output / "driver.pte").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"driver\.pte exists and is not overwritten"):
        to_executorch.main()
    assert (output / "driver.pte").read_bytes() == b"mine"
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--force"])
    assert to_executorch.main() == 0
    assert (output / "driver.pte").read_bytes() == programs[1].files["driver.pte"]


def test_help(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["to_executorch.py", "--help"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(str(ROOT / "converters" / "to_executorch.py"), run_name="__main__")
    said = " ".join(capsys.readouterr().out.split())
    assert "{xnnpack,vulkan,coreml}" in said
    assert "default: random weights" in said
