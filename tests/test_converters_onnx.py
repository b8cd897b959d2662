"""Student → ONNX: the parity ladder's middle rungs, the int8 graph, and refusals."""

import copy
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from converters import to_onnx
from converters.parity import GATES, Parity, compare, require
from converters.quantize import LEVELS, is_packed, pack_tables, quantize
from converters.student_graph import DriverGraph, Driving, StudentGraph
from converters.to_onnx import (
    export_onnx,
    fold_unshuffle,
    hold_resizes,
    lint,
    pack_pictures,
    run_onnx,
    use_fast_warp,
)
from edge.errors import InputError, ParityError
from edge.spec import KEYPOINTS
from edge.topology import LOCAL, STABLE
from training.student.driver import RigidDriver

ROOT = Path(__file__).parents[1]
TABLES = ("place.weight",)


@pytest.fixture(scope="module")
def models(export):
    """The student's graphs by precision."""
    return {precision: student.files[student.path] for precision, student in export[0].items()}


def test_all_precisions_meet_their_gates(export):
    students, driver = export
    assert list(students) == ["fp32", "fp16", "int8"]
    for precision, student in students.items():
        assert student.parity.precision == precision
        assert student.parity.mean_db >= GATES[precision].mean_db
        assert student.parity.worst_db >= GATES[precision].worst_db
    assert len(driver.files["driver.onnx"]) < 40_000


def test_the_graph_is_whole_and_says_nothing_of_this_machine(models):
    for body in models.values():
        model = onnx.load_from_string(body)
        onnx.checker.check_model(model, full_check=True)
        warps = [node for node in model.graph.node if node.op_type == "GridSample"]
        assert len(warps) >= 2
        for warp in warps:  # All in the fast form.
            settings = {attribute.name: helper.get_attribute_value(attribute) for attribute in warp.attribute}
            assert settings["padding_mode"] == b"zeros"
            assert settings["align_corners"] == 0
        assert {opset.version for opset in model.opset_import if not opset.domain} == {20}
        assert b"/student.py" not in body
        assert str(ROOT).encode() not in body


def test_only_int8_is_int8(models):
    def eight_bits(precision):
        graph = onnx.load_from_string(models[precision]).graph
        return {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.INT8 and tensor.dims}

    assert not eight_bits("fp32")
    assert not eight_bits("fp16")
    weights = {name for name in eight_bits("int8") if "weight_quantized" in name}
    assert len(weights) >= 8
    assert all("generator" in name and "colour" not in name and "keep" not in name for name in weights)
    sizes = [len(models[precision]) for precision in ("int8", "fp16", "fp32")]
    assert sizes == sorted(sizes)


def test_pictures_are_kept_in_eight_bits_and_nothing_else_is(models):
    graph = onnx.load_from_string(models["fp32"]).graph
    pictures = [tensor for tensor in graph.initializer if tensor.data_type == TensorProto.UINT8]
    assert [tuple(tensor.dims) for tensor in pictures] == [(1, 4, 512, 512), (1, 3, 512, 512)]
    # Off by a tenth of a level, or beyond white: no picture.
    for values in (np.full((512, 512), 0.5004, np.float32), np.full((512, 512), 2.0, np.float32)):
        model = helper.make_model(helper.make_graph([], "g", [], [], [numpy_helper.from_array(values, "v")]))
        assert pack_pictures(model) == 0


def test_tables_of_the_small_file_are_in_eight_bits(models, random_student):
    whole, small = (onnx.load_from_string(models[precision]).graph for precision in ("fp32", "int8"))
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in small.initializer}
    names = [tensor.name for tensor in whole.initializer if tensor.name.endswith(TABLES)]
    assert len(names) == len(TABLES)
    packed = pack_tables(random_student)
    for name in names:
        assert name not in stored
        table = packed.get_parameter(name.removeprefix("student.")).detach().numpy()
        assert stored[f"{name}_8bit"].dtype == np.int8
        np.testing.assert_array_equal(stored[f"{name}_8bit"], table)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), spread=st.floats(1e-3, 1e3))
@torch.no_grad()
def test_packed_tables_are_right_to_half_a_level_of_each_code(random_student, seed, spread):
    torch.manual_seed(seed)
    student = copy.deepcopy(random_student)
    table = student.person.place.weight
    table.normal_(std=spread)
    table[:, 0] = 0
    before = copy.deepcopy(student.state_dict())
    packed = pack_tables(student)
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    assert is_packed(packed.person.place.weight.numpy())
    x = torch.randn(1, student.person.express.in_features)
    codes = student.person.express(x)
    half = 0.5 * table.abs().amax(0) / LEVELS
    error = (packed.person.place(packed.person.express(x)) - student.person.place(codes)).abs()
    assert error.max() <= 1.01 * (codes.abs() @ half) + 1e-6


@pytest.mark.parametrize(("channels", "factor", "kernel"), [(3, 4, 1), (3, 4, 3), (1, 2, 3)])
def test_packed_pixels_are_read_straight_from_the_picture(channels, factor, kernel):
    rng = np.random.default_rng(0)
    picture = rng.standard_normal((1, channels, 8 * factor, 8 * factor)).astype(np.float32)
    weight = rng.standard_normal((5, channels * factor**2, kernel, kernel)).astype(np.float32)
    blocks = np.array([1, channels, 8, factor, 8, factor])
    graph = helper.make_graph(
        [
            helper.make_node("Reshape", ["x", "blocks"], ["a"]),
            helper.make_node("Transpose", ["a"], ["b"], perm=[0, 1, 3, 5, 2, 4]),
            helper.make_node("Reshape", ["b", "packed"], ["c"]),
            helper.make_node(
                "Conv", ["c", "w"], ["y"], pads=[kernel // 2] * 4, strides=[1, 1], kernel_shape=[kernel] * 2
            ),
        ],
        "look",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, picture.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 5, 8, 8))],
        [
            numpy_helper.from_array(weight, "w"),
            numpy_helper.from_array(blocks, "blocks"),
            numpy_helper.from_array(np.array([1, channels * factor**2, 8, 8]), "packed"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    (expected,) = run_onnx(model.SerializeToString(), [{"x": picture}])[0]
    assert fold_unshuffle(model) == 1
    assert [node.op_type for node in model.graph.node] == ["Conv"]
    (got,) = run_onnx(model.SerializeToString(), [{"x": picture}])[0]
    np.testing.assert_allclose(got, expected, atol=1e-4)
    torchs = F.conv2d(
        F.pixel_unshuffle(torch.from_numpy(picture), factor), torch.from_numpy(weight), padding=kernel // 2
    )
    np.testing.assert_allclose(got, torchs.numpy(), atol=1e-4)


def test_a_held_resize_gives_the_same_field():
    rng = np.random.default_rng(0)
    field = rng.standard_normal((1, 2, 5, 5)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node(
                "Resize", ["x", "", "", "size"], ["a"], mode="linear", coordinate_transformation_mode="align_corners"
            ),
            helper.make_node("Transpose", ["a"], ["y"], "turn", perm=[0, 2, 3, 1]),
        ],
        "field",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, field.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 17, 17, 2))],
        [numpy_helper.from_array(np.array([1, 2, 17, 17]), "size")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    (expected,) = run_onnx(model.SerializeToString(), [{"x": field}])[0]
    assert hold_resizes(model) == 1
    assert [node.op_type for node in model.graph.node] == ["Resize", "Reshape", "Transpose", "Reshape"]
    (got,) = run_onnx(model.SerializeToString(), [{"x": field}])[0]
    np.testing.assert_array_equal(got, expected)
    assert hold_resizes(model) == 0


def test_lint_names_an_operation_from_elsewhere(models):
    model = onnx.load_from_string(models["int8"])
    lint(model)
    model.graph.node.append(helper.make_node("FusedConv", ["image"], ["more"], domain="com.microsoft"))
    with pytest.raises(InputError, match=r"FusedConv of com\.microsoft \(it makes more\)"):
        lint(model)


def test_the_driver_is_the_teachers(export, driver, driving):
    landmarks = driving[0][11:12]
    keypoints, local = run_onnx(export[1].files["driver.onnx"], [{"landmarks": landmarks}])[0]
    np.testing.assert_allclose(local[0], landmarks[0, LOCAL, :2])
    np.testing.assert_allclose(keypoints[0], driver(torch.from_numpy(landmarks))[0], atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 40), st.integers(1, 9), st.integers(1, 9), st.floats(0.5, 3))
def test_the_fast_warp_is_the_same_warp(seed, size, height, width, reach):
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((1, 3, size, size)).astype(np.float32)
    grid = (rng.uniform(-1, 1, (1, height, width, 2)) * reach).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("GridSample", ["f", "x"], ["y"], "warp", padding_mode="border", align_corners=1)],
        "warp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, grid.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 3, height, width))],
        [numpy_helper.from_array(features, "f")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    assert use_fast_warp(model) == 1
    assert use_fast_warp(model) == 0
    (got,) = run_onnx(model.SerializeToString(), [{"x": grid}])[0]
    tensors = torch.from_numpy(features), torch.from_numpy(grid)
    expected = F.grid_sample(*tensors, mode="bilinear", padding_mode="border", align_corners=True).numpy()
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_an_identity_field_returns_its_input_in_the_fast_form():
    from edge.judges.ops import coordinate_grid

    features = np.random.default_rng(0).standard_normal((1, 3, 64, 64)).astype(np.float32)
    grid = coordinate_grid(64, 64)[None] * np.float32(63 / 64)
    got = F.grid_sample(torch.from_numpy(features), torch.from_numpy(grid), padding_mode="zeros", align_corners=False)
    np.testing.assert_allclose(got.numpy(), features, atol=1e-4)


def test_nothing_quantised_is_an_error(models, driving):
    with pytest.raises(ParityError, match="No convolution is named like decoder"):
        quantize(models["fp32"], driving[1].spread(2), parts=("decoder",))


def test_a_missed_gate_is_an_error(random_student, driving, monkeypatch):
    monkeypatch.setattr(to_onnx, "VERIFIED_FRAMES", 2)
    monkeypatch.setattr("converters.parity.GATES", {"fp32": type(GATES["fp32"])(500.0, 500.0)})
    with pytest.raises(ParityError, match="500 and 500 dB are required"):
        export_onnx(random_student, None, calibration=driving[1], held_out=driving[2], precisions=["fp32"])


def test_compare():
    frames = [np.zeros((1, 3, 4, 4), np.float32), np.ones((1, 3, 4, 4), np.float32)]
    parity = compare(frames, [frames[0] + 0.1, frames[1] + np.float32(0.01)])
    assert parity.frames == 2
    assert parity.worst_db == pytest.approx(20, abs=1e-3)
    assert parity.mean_db == pytest.approx(30, abs=1e-3)
    assert parity.largest_error == pytest.approx(0.1)
    with pytest.raises(ParityError, match="NaN"):
        compare(frames[:1], [frames[0] * np.nan])
    with pytest.raises(ParityError, match="no frames"):
        compare([], [])
    with pytest.raises(ParityError, match=r"34\.0 dB on average"):
        require(Parity(34.0, 33.5, 0.1, 8), "onnx", "int8", "a runtime")
    with pytest.raises(ParityError, match=r"32\.0 dB at worst"):
        require(Parity(36.0, 32.0, 0.1, 8), "onnx", "int8", "a runtime")


def test_refusals(random_student, driving):
    with pytest.raises(InputError, match="fp32, fp16, int8, not fp8"):
        export_onnx(random_student, None, calibration=driving[1], held_out=driving[2], precisions=["fp8"])
    for reference, keypoints in ((torch.full((len(STABLE), 3), torch.nan), KEYPOINTS), (torch.zeros(3, 3), 3)):
        with pytest.raises(InputError, match="not a finite map"):
            DriverGraph(RigidDriver(reference, torch.zeros(keypoints, 3)))


def test_a_student_of_nan_is_refused(random_student):
    import copy

    broken = copy.deepcopy(random_student)
    with torch.no_grad():
        next(broken.parameters()).fill_(torch.nan)
    with pytest.raises(InputError, match="NaN or infinity"):
        StudentGraph(broken)


def test_spread():
    driving = Driving(np.arange(10.0)[:, None, None], np.arange(10.0)[:, None, None])
    assert driving.spread(3).keypoints.ravel().tolist() == [0, 4, 9]
    assert len(driving.spread(99).keypoints) == 10


def test_the_script_on_a_random_student(tmp_path, monkeypatch, capsys):
    """Of no face and moved by no face: regions lie anywhere, landmarks leave their places altogether."""
    monkeypatch.setattr(to_onnx, "VERIFIED_FRAMES", 2)
    monkeypatch.setattr(sys, "argv", ["", "--tier", "nano", "--precision", "fp32", "--output", str(tmp_path / "out")])
    assert to_onnx.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert "pictures are not" in lines[0]
    assert json.loads(lines[-1])["verified"] is True
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"driver.onnx", "student.onnx"}


def test_the_script_from_a_run_folder(random_student, driving, tmp_path, monkeypatch, capsys):
    from training.checkpoint import save_student

    run = tmp_path / "run"
    for name, motion in (("training", driving[1]), ("held_out", driving[2])):
        (run / name).mkdir(parents=True)
        np.save(run / name / "keypoints.npy", motion.keypoints)
        np.save(run / name / "local_landmarks.npy", motion.local_landmarks)
    save_student(run / "student.safetensors", random_student)
    monkeypatch.setattr(to_onnx, "VERIFIED_FRAMES", 2)
    monkeypatch.setattr(to_onnx, "CALIBRATION_FRAMES", 2)
    output = tmp_path / "onnx"
    monkeypatch.setattr(sys, "argv", ["", str(run), "--output", str(output), "--precision", "int8"])
    assert to_onnx.main() == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["verified"] is True
    assert [path.name for path in output.iterdir()] == ["student.int8.onnx"]
    session = onnxruntime.InferenceSession(output / "student.int8.onnx", providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == ["keypoints", "local_landmarks"]


def test_help(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["to_onnx.py", "--help"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(str(ROOT / "converters" / "to_onnx.py"), run_name="__main__")
    assert "default: random weights" in " ".join(capsys.readouterr().out.split())
