"""Reading ONNX without its package: what ONNX Runtime computes, and no surprise from a damaged file."""

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edge.errors import BundleError, SpecError
from edge.judges.interpreter import OPERATIONS, NumpyStudent
from edge.judges.onnx_graph import read_graph

RNG = np.random.default_rng(0)


def noise(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def model_of(nodes, shape, constants=(), outputs=("y",)):
    """A model of one float input x."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in dict(constants).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def integers(*values):
    return np.array(values, np.int64)


def node(kind, *inputs, **attributes):
    return helper.make_node(kind, ["x", *inputs], ["y"], **attributes)


MODE = "coordinate_transformation_mode"
CASES = {
    "conv": (
        node("Conv", "w", "b", pads=[1, 1, 1, 1], strides=[2, 2]),
        (1, 4, 9, 8),
        {"w": noise(6, 4, 3, 3), "b": noise(6)},
    ),
    "grouped conv": (node("Conv", "w", group=2, dilations=[2, 2]), (1, 4, 9, 8), {"w": noise(6, 2, 3, 3)}),
    "gemm": (node("Gemm", "w", "b", transB=1, alpha=0.5), (2, 4), {"w": noise(3, 4), "b": noise(3)}),
    "resize corners": (
        node("Resize", "", "", "s", mode="linear", coordinate_transformation_mode="align_corners"),
        (1, 2, 4, 5),
        {"s": integers(1, 2, 9, 10)},
    ),
    "resize pixels": (
        node("Resize", "", "f", mode="linear", coordinate_transformation_mode="half_pixel"),
        (1, 2, 4, 5),
        {"f": np.array([1, 1, 2, 2], np.float32)},
    ),
    "resize nearest": (
        node("Resize", "", "f", mode="nearest", nearest_mode="floor", **{MODE: "asymmetric"}),
        (1, 2, 4, 5),
        {"f": np.array([1, 1, 2, 2], np.float32)},
    ),
    "warp border": (
        node("GridSample", "g", padding_mode="border", align_corners=1),
        (1, 2, 4, 5),
        {"g": noise(1, 3, 6, 2)},
    ),
    "warp zeros": (node("GridSample", "g", padding_mode="zeros"), (1, 2, 4, 5), {"g": noise(1, 3, 6, 2)}),
    "shuffle CRD": (node("DepthToSpace", blocksize=2, mode="CRD"), (1, 8, 3, 2), {}),
    "shuffle DCR": (node("DepthToSpace", blocksize=2, mode="DCR"), (1, 8, 3, 2), {}),
    "reshape": (node("Reshape", "s"), (2, 6), {"s": integers(0, 3, -1)}),
    "slice": (
        node("Slice", "a", "b", "c", "d"),
        (4, 6),
        {"a": integers(1, -1), "b": integers(9, -99), "c": integers(0, 1), "d": integers(2, -2)},
    ),
    "softmax": (node("Softmax", axis=1), (2, 5, 3), {}),
    "sum": (node("ReduceSum", "a", keepdims=0), (2, 5, 3), {"a": integers(1)}),
    "mean": (node("ReduceMean", "a"), (2, 5, 3), {"a": integers(0, 2)}),
    "clip": (node("Clip", "", "h"), (2, 5), {"h": np.float32(0.5)}),
    "pad": (node("Pad", "p", mode="edge"), (2, 3), {"p": integers(1, 0, 0, 2)}),
    "pool": (node("AveragePool", kernel_shape=[2, 2], strides=[2, 2]), (1, 2, 4, 6), {}),
    "gather": (node("Gather", "i", axis=1), (2, 5, 3), {"i": integers(4, 0, 0)}),
    "transpose": (node("Transpose", perm=[2, 0, 1]), (2, 5, 3), {}),
    "expand": (node("Expand", "s"), (1, 3), {"s": integers(2, 4, 3)}),
    "leaky": (node("LeakyRelu", alpha=0.2), (2, 5), {}),
    "squeeze": (node("Squeeze", "a"), (1, 5), {"a": integers(0)}),
    "unsqueeze": (node("Unsqueeze", "a"), (2, 5), {"a": integers(1)}),
    "sigmoid": (node("Sigmoid"), (2, 5), {}),
    "tanh": (node("Tanh"), (2, 5), {}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_each_operation_agrees_with_onnx_runtime(name, tmp_path):
    operation, shape, constants = CASES[name]
    model = model_of([operation], shape, constants)
    onnx.save(model, tmp_path / "m.onnx")
    values = noise(*shape)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"x": values})
    (got,) = NumpyStudent(read_graph(tmp_path / "m.onnx")).run(x=values)
    assert got.dtype == expected.dtype
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, atol=1e-5, rtol=1e-5)


def test_eight_bits_and_back(tmp_path):
    """Per channel and per tensor, with a scale that meets ties to even and saturation."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], axis=1),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["r"], axis=1),
        helper.make_node("QuantizeLinear", ["r", "t", "u"], ["p"]),
        helper.make_node("DequantizeLinear", ["p", "t", "u"], ["y"]),
    ]
    constants = {
        "s": np.array([0.5, 0.01, 0.25], np.float32),
        "z": np.array([0, 5, -5], np.int8),
        "t": np.float32(0.1),
        "u": np.uint8(128),
    }
    model = model_of(nodes, (2, 3, 4), constants)
    onnx.save(model, tmp_path / "m.onnx")
    values = noise(2, 3, 4) * 2
    (expected,) = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(
        None, {"x": values}
    )
    np.testing.assert_allclose(NumpyStudent(read_graph(tmp_path / "m.onnx")).run(x=values)[0], expected, atol=1e-6)


def test_loose_numbers_are_read(tmp_path):
    """Tensors may hold their numbers in typed fields instead of raw bytes."""
    model = model_of([node("Mul", "w")], (2, 2))
    model.graph.initializer.append(helper.make_tensor("w", TensorProto.FLOAT, (2, 2), [1, 2, 3, -4]))
    model.graph.initializer.append(helper.make_tensor("i", TensorProto.INT64, (2,), [7, -7]))
    onnx.save(model, tmp_path / "m.onnx")
    graph = read_graph(tmp_path / "m.onnx")
    np.testing.assert_array_equal(graph.constants["w"], [[1, 2], [3, -4]])
    np.testing.assert_array_equal(graph.constants["i"], [7, -7])
    assert graph.inputs == ("x",)
    assert graph.outputs == ("y",)


def test_the_exported_student_uses_nothing_unknown(export, tmp_path):
    for precision, student in export[0].items():
        body = student.files[student.path]
        (tmp_path / f"{precision}.onnx").write_bytes(body)
        graph = read_graph(tmp_path / f"{precision}.onnx")
        theirs = onnx.load_from_string(body).graph
        assert [n.kind for n in graph.nodes] == [n.op_type for n in theirs.node]
        assert {n.kind for n in graph.nodes} <= OPERATIONS.keys()
        for tensor in theirs.initializer:
            np.testing.assert_array_equal(graph.constants[tensor.name], numpy_helper.to_array(tensor))


def test_wrong_inputs_and_unknown_operations(tmp_path):
    onnx.save(model_of([node("Relu")], (2,)), tmp_path / "m.onnx")
    with pytest.raises(SpecError, match="wants x, and got z"):
        NumpyStudent(read_graph(tmp_path / "m.onnx")).run(z=noise(2))
    onnx.save(model_of([node("Erf")], (2,)), tmp_path / "erf.onnx")
    with pytest.raises(BundleError, match=r'uses Erf.*runtime="onnx"'):
        NumpyStudent(read_graph(tmp_path / "erf.onnx"))
    with pytest.raises(BundleError, match="cannot be read"):
        read_graph(tmp_path / "none.onnx")


def test_weights_in_another_file_are_refused(tmp_path):
    model = model_of([node("Mul", "w")], (2,), {"w": noise(2)})
    model.graph.initializer[0].ClearField("raw_data")
    onnx.external_data_helper.set_external_data(_with_raw(model.graph.initializer[0]), "../../etc/passwd")
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(BundleError, match="lie in another file"):
        read_graph(tmp_path / "m.onnx")


def _with_raw(tensor):
    tensor.raw_data = b"\0" * 8
    return tensor


SMALL = model_of(
    [node("Conv", "w", "b", pads=[1, 1, 1, 1])], (1, 2, 4, 4), {"w": noise(3, 2, 3, 3), "b": noise(3)}
).SerializeToString()


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_file_raises_nothing_but_bundle_errors(tmp_path_factory, data):
    body = bytearray(SMALL)
    for _ in range(data.draw(st.integers(0, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.onnx"
    path.write_bytes(bytes(body[: data.draw(st.integers(0, len(body)))]))
    try:
        read_graph(path)
    except BundleError:
        return
