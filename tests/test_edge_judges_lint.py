"""What no avatar's graph asks for is refused before a runtime sees it."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from test_edge_judges_interpreter import CASES, model_of

from edge.bundle import GRAPHS
from edge.errors import BundleError
from edge.judges.interpreter import OPERATIONS, NumpyStudent
from edge.judges.lint import lint
from edge.judges.onnx_graph import parse_graph
from edge.spec import TensorSpec

X, Y = TensorSpec("x", (1, 4), "float32", -1, 1), TensorSpec("y", (1, 4), "float32", -1, 1)


def computed(graph, inputs):
    """Every value of a frame, as the interpreter computes it."""
    values = {**graph.constants, **inputs}
    for node in graph.nodes:
        made = OPERATIONS[node.kind]([values[n] if n else None for n in node.inputs], node.attributes)
        values.update(zip(node.outputs, made, strict=False))
    return values


def test_what_our_converters_write_passes_with_true_shapes(export):
    students, driver = export
    bodies = [("student", student.files[student.path]) for student in students.values()]
    for kind, body in [*bodies, ("driver", driver.files[driver.path])]:
        graph = parse_graph(body, kind)
        told = lint(graph, kind, *GRAPHS[kind])
        random = np.random.default_rng(0)
        inputs = {s.name: random.uniform(-0.5, 0.5, s.shape).astype(np.float32) for s in GRAPHS[kind][0]}
        for name, value in computed(graph, inputs).items():
            assert (told[name].shape, told[name].dtype) == (value.shape, value.dtype), name


@pytest.mark.parametrize("name", CASES)
def test_the_shape_of_each_operation_is_that_of_the_interpreter(name):
    operation, shape, constants = CASES[name]
    model = model_of([operation], shape, constants)
    graph = parse_graph(model.SerializeToString(), name)
    (made,) = NumpyStudent(graph).run(x=np.ones(shape, np.float32))
    inferred = onnx.shape_inference.infer_shapes(model).graph.output[0].type.tensor_type
    assert tuple(size.dim_value for size in inferred.shape.dim) in ((), made.shape)
    door = graph.doors["y"]._replace(shape=made.shape, dtype=made.dtype)
    graph = graph._replace(doors=graph.doors | {"y": door, "x": door._replace(shape=shape, dtype=np.dtype("f4"))})
    specs = [TensorSpec(n, s, str(d), 0, 0) for n, s, d in (("x", shape, "float32"), ("y", made.shape, made.dtype))]
    assert lint(graph, name, specs[:1], specs[1:])["y"].shape == made.shape


def hostile(nodes, constants=None, *, inputs=(X,), outputs=(Y,), domain=""):
    """A model's bytes; its inputs and outputs are named as specs say."""
    graph = helper.make_graph(
        nodes,
        "g",
        *(
            [helper.make_tensor_value_info(s.name, TensorProto.FLOAT, s.shape) for s in specs]
            for specs in (inputs, outputs)
        ),
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("evil", 1)])


def refused(model, match, inputs=(X,), outputs=(Y,)):
    with pytest.raises(BundleError, match=match):
        lint(parse_graph(model.SerializeToString(), "student.onnx"), "student.onnx", inputs, outputs)


def node(kind, *inputs, **attributes):
    return helper.make_node(kind, list(inputs), ["y"], **attributes)


BODY = helper.make_graph([], "body", [], [])
FORBIDDEN = {
    "Loop": node("Loop", "", "", body=BODY),
    "If": node("If", "x", then_branch=BODY, else_branch=BODY),
    "Scan": node("Scan", "x", body=BODY, num_scan_inputs=1),
    "SequenceMap": node("SequenceMap", "x", body=BODY),
    "ConstantOfShape": node("ConstantOfShape", "x"),
    "Range": node("Range", "x", "x", "x"),
    "Tile": node("Tile", "x", "x"),
    "RandomNormal": node("RandomNormal", shape=[9]),
    "Erf": node("Erf", "x"),
}


@pytest.mark.parametrize("kind", FORBIDDEN)
def test_operations_that_no_student_has(kind):
    refused(hostile([FORBIDDEN[kind]]), f"a graph inside a graph|uses {kind}")


HUNGRY = {
    "expand": ([node("Expand", "x", "s")], {"s": np.array([2**20, 4, 4, 4])}),
    "expand to nonsense": ([node("Expand", "x", "s")], {"s": np.array([2**62, 2**62, 4])}),
    "outer product": (
        [helper.make_node("Reshape", ["x", "s"], ["c"]), helper.make_node("Expand", ["c", "t"], ["d"]),
         helper.make_node("Transpose", ["d"], ["e"], perm=[1, 0]), node("MatMul", "d", "e")],
        {"s": np.array([4, 1]), "t": np.array([4, 1])},
    ),
    "resize": (
        [helper.make_node("Reshape", ["x", "s"], ["i"]), node("Resize", "i", "", "", "z", mode="linear")],
        {"s": np.array([1, 1, 2, 2]), "z": np.array([1, 1, 2**15, 2**15])},
    ),
    "pad": ([node("Pad", "x", "p")], {"p": np.array([0, 0, 0, 2**30])}),
    "gather": ([node("Gather", "w", "i")], {"w": np.ones((2, 2**12), "f4"), "i": np.zeros(2**13, np.int64)}),
    "thousand additions": (
        [helper.make_node("Add", ["w", "x"], ["v0"])]
        + [helper.make_node("Add", [f"v{i}", f"v{i}"], [f"v{i + 1}"]) for i in range(200)]
        + [node("ReduceMean", "v200")],
        {"w": np.ones((2**19, 4), "f4")},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HUNGRY)
def test_hunger_is_told_from_shapes(name):
    nodes, constants = HUNGRY[name]
    refused(hostile(nodes, constants), "numbers|fits no shapes|comes out as")


def test_too_much_arithmetic_is_refused():
    nodes = [helper.make_node("MatMul", ["w", "w"], ["a"]), helper.make_node("MatMul", ["a", "w"], ["b"])]
    nodes += [helper.make_node("MatMul", ["b" + "b" * i, "w"], ["b" * (i + 2)]) for i in range(6)]
    refused(hostile([*nodes, node("Add", "x", "x")], {"w": np.ones((2**11, 2**11), "f4")}), "GMACs")


def test_shapes_that_are_computed_are_refused():
    cast = helper.make_node("Cast", ["x"], ["s"], to=TensorProto.INT64)
    refused(hostile([cast, node("Reshape", "x", "s")]), "is computed while it runs")


def test_doors_are_the_manifests():
    relu = node("Relu", "x")
    refused(hostile([relu], inputs=(X._replace(shape=(1, 5)),)), r"x is float32 \[1, 5\], not float32 \[1, 4\]")
    refused(hostile([node("Relu", "z")], inputs=(X._replace(name="z"),)), "inputs are z, not x")
    model = hostile([node("Cast", "x", to=TensorProto.INT8)])
    refused(model, "comes out as int8")
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT8
    refused(model, "y is int8")
    model.graph.output[0].type.Clear()
    refused(model, "y is None of no shape")
    refused(hostile([node("Reshape", "x", "s")], {"s": np.array([4, 1])}), r"comes out as float32 \[4, 1\]")


def test_what_is_not_the_standards_is_refused():
    refused(hostile([helper.make_node("Relu", ["x"], ["y"], domain="evil")]), "of evil, which is not the standard's")
    model = hostile([node("Relu", "x")])
    model.functions.add().name = "Relu"
    refused(model, "functions of its own")
    sparse = hostile([node("Relu", "x")])
    sparse.graph.sparse_initializer.add().dims.append(2**40)
    refused(sparse, "sparse constants")
    external = hostile([node("Add", "x", "w")], {"w": np.ones((1, 4), "f4")})
    tensor = external.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../etc/passwd"
    refused(external, "lie in another file")
    inline = hostile([helper.make_node("Constant", [], ["w"], value=tensor), node("Add", "x", "w")])
    refused(inline, "lie in another file")


WHOLE = hostile(
    [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Reshape", ["m", "s"], ["r"]),
     helper.make_node("Slice", ["r", "a", "b"], ["c"]), helper.make_node("Concat", ["c", "c"], ["d"], axis=0),
     node("Reshape", "d", "t")],
    {"w": np.ones((4, 4), "f4"), "s": np.array([2, 2]), "a": np.array([0]), "b": np.array([1]),
     "t": np.array([1, -1])},
).SerializeToString()  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_a_mutated_graph_is_refused_or_runs(data):
    body = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        graph = parse_graph(bytes(body), "student.onnx")
        lint(graph, "student.onnx", (X,), (Y,))
        (made,) = NumpyStudent(graph).run(x=np.ones((1, 4), np.float32))
    except BundleError:
        return
    assert made.shape == (1, 4)
