"""The student's forward pass in numpy, straight from `student.onnx`: node by node, each a readable operation.

An avatar's weights exist once, in its ONNX file. This module reads that file with a small protocol-buffer
reader (so that edge needs no onnx package) and walks its nodes with `edge.ops`. It is several times
slower than ONNX Runtime; it exists as an independent judge of the other runtimes, and for ports to compare
layer by layer.
"""

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edge import ops
from edge.errors import BundleError, SpecError

Values = list[npt.NDArray[Any] | None]
"""A node's inputs; None where an optional one is left out."""

LARGEST_GRAPH = 256 * 2**20
"""Bytes; a student has a few million. More than this is not an avatar."""

# TensorProto.DataType → numpy, of the types that a student holds.
DTYPES: dict[int, npt.DTypeLike] = {
    1: "<f4", 2: "u1", 3: "i1", 6: "<i4", 7: "<i8", 9: "?", 10: "<f2", 11: "<f8"
}  # fmt: skip


class Node(NamedTuple):
    """One operation of a graph."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]


class Door(NamedTuple):
    """Type and shape of an input or output, as far as the file says."""

    dtype: np.dtype[Any] | None
    shape: tuple[int | None, ...] | None


class Graph(NamedTuple):
    """What an ONNX file says: operations in order, constants by name, names at the door."""

    nodes: tuple[Node, ...]
    constants: dict[str, npt.NDArray[Any]]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    doors: dict[str, Door]
    """What the file says of each input and output."""


class NumpyStudent:
    """A graph that is ready to run. Made once per avatar, driven once per frame."""

    def __init__(self, graph: Graph, name: str = "The graph"):
        """Take a graph.

        Args:
            graph: as `read_graph` gives it, with operations among those below.
            name: for errors.

        Raises:
            BundleError: when it needs an operation that is not here.
        """
        self.graph = graph
        unknown = sorted({node.kind for node in self.graph.nodes} - OPERATIONS.keys())
        if unknown:
            raise BundleError(
                f"{name} uses {', '.join(unknown)}, which the numpy runtime does not know. "
                'Use runtime="onnx" for this avatar.'
            )
        # The node after which a value is no longer needed: frees the large maps early.
        self._last_use = {name: index for index, node in enumerate(self.graph.nodes) for name in node.inputs}

    def run(self, **inputs: npt.NDArray[np.float32]) -> tuple[npt.NDArray[Any], ...]:
        """The graph's outputs for named inputs.

        Args:
            **inputs: one float32 array for each of the graph's inputs, of the shape it was exported with.

        Returns:
            One array for each of the graph's outputs.

        Raises:
            SpecError: when an input is missing or unknown.
            BundleError: when an operation cannot be computed.
        """
        if set(inputs) != set(self.graph.inputs):
            raise SpecError(f"This graph wants {', '.join(self.graph.inputs)}, and got {', '.join(inputs)}.")
        values: dict[str, npt.NDArray[Any]] = {**self.graph.constants, **inputs}
        for index, node in enumerate(self.graph.nodes):
            given = [values[name] if name else None for name in node.inputs]
            try:
                with np.errstate(all="ignore"):  # An infinity is a result: what becomes of it is for others to judge.
                    results = OPERATIONS[node.kind](given, node.attributes)
            except (ArithmeticError, LookupError, SpecError, TypeError, ValueError) as error:
                raise BundleError(
                    f"{node.name or 'A node'} ({node.kind}) cannot be computed ({error}). Fetch the bundle again."
                ) from error
            values.update({n: r for n, r in zip(node.outputs, results, strict=False) if r is not None})
            for name in node.inputs:
                if self._last_use.get(name) == index and name not in self.graph.outputs:
                    values.pop(name, None)
        return tuple(values[name] for name in self.graph.outputs)


# -- Operations: inputs and attributes in, outputs out
# --------------------------------------------------------------- Names and meanings are those of the ONNX
# standard, opset 18 to 20.


def _conv(values: Values, attributes: Mapping[str, Any]) -> Values:
    strides, dilations = set(attributes.get("strides", [1])), set(attributes.get("dilations", [1]))
    if len(strides) != 1 or len(dilations) != 1 or attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise BundleError("The numpy runtime knows convolutions of equal strides and explicit padding alone.")
    top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0))
    return [
        ops.conv2d(
            _array(values, 0),
            _array(values, 1),
            values[2] if len(values) > 2 else None,
            stride=strides.pop(),
            padding=(top, left, bottom, right),
            dilation=dilations.pop(),
            groups=attributes.get("group", 1),
        )
    ]


def _gemm(values: Values, attributes: Mapping[str, Any]) -> Values:
    left, right = _array(values, 0), _array(values, 1)
    left, right = left.T if attributes.get("transA") else left, right.T if attributes.get("transB") else right
    product = left @ right * np.float32(attributes.get("alpha", 1.0))
    if len(values) > 2:
        product = product + _array(values, 2) * np.float32(attributes.get("beta", 1.0))
    return [product]


def _resize(values: Values, attributes: Mapping[str, Any]) -> Values:
    features = _array(values, 0)
    if len(values) > 3 and values[3] is not None:
        height, width = (int(size) for size in values[3][-2:])
    else:
        height, width = (int(s * f) for s, f in zip(features.shape[-2:], _array(values, 2)[-2:], strict=True))
    mode = attributes.get("mode", b"nearest")
    where = attributes.get("coordinate_transformation_mode", b"half_pixel")
    if mode == b"linear" and where in (b"align_corners", b"half_pixel", b"pytorch_half_pixel"):
        return [ops.resize_bilinear(features, height, width, align_corners=where == b"align_corners")]
    times = height // features.shape[2]
    if mode == b"nearest" and (height, width) == (times * features.shape[2], times * features.shape[3]):
        return [features.repeat(times, 2).repeat(times, 3)]
    raise BundleError(f"The numpy runtime does not know the resize {mode!r} with {where!r}.")


def _grid_sample(values: Values, attributes: Mapping[str, Any]) -> Values:
    mode = attributes.get("mode", b"linear")
    padding = attributes.get("padding_mode", b"zeros")
    if mode not in (b"linear", b"bilinear") or padding not in (b"zeros", b"border"):
        raise BundleError(f"The numpy runtime does not know GridSample with {mode!r} and {padding!r}.")
    corners = bool(attributes.get("align_corners", 0))
    features, grid = _array(values, 0), _array(values, 1)
    return [
        ops.grid_sample(features, grid, padding="border" if padding == b"border" else "zeros", align_corners=corners)
    ]


def _depth_to_space(values: Values, attributes: Mapping[str, Any]) -> Values:
    features, factor = _array(values, 0), attributes["blocksize"]
    if attributes.get("mode", b"DCR") == b"DCR":  # ONNX's other order: the block index is outermost.
        n, channels, height, width = features.shape
        features = features.reshape(n, factor**2, channels // factor**2, height, width).swapaxes(1, 2)
        features = features.reshape(n, channels, height, width)
    return [ops.pixel_shuffle(features, factor)]


def _reshape(values: Values, attributes: Mapping[str, Any]) -> Values:
    data = _array(values, 0)
    shape = [int(size) for size in _array(values, 1)]
    if not attributes.get("allowzero"):
        shape = [data.shape[i] if size == 0 else size for i, size in enumerate(shape)]
    return [data.reshape(shape)]


def _slice(values: Values, attributes: Mapping[str, Any]) -> Values:
    data, starts, ends = _array(values, 0), _array(values, 1), _array(values, 2)
    axes = values[3] if len(values) > 3 and values[3] is not None else np.arange(len(starts))
    steps = values[4] if len(values) > 4 and values[4] is not None else np.ones(len(starts), np.int64)
    cut = [slice(None)] * data.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = data.shape[axis]
        # A backward slice that runs to the front has no end that Python could write as a number.
        stop = None if step < 0 and end < -size else int(end)
        cut[int(axis)] = slice(int(start), stop, int(step))
    return [data[tuple(cut)]]


def _split(values: Values, attributes: Mapping[str, Any]) -> Values:
    data, axis = _array(values, 0), attributes.get("axis", 0)
    if len(values) > 1 and values[1] is not None:
        return list(np.split(data, np.cumsum(values[1])[:-1], axis))
    return list(np.array_split(data, attributes["num_outputs"], axis))


def _axes(values: Values, attributes: Mapping[str, Any]) -> tuple[int, ...] | None:
    """The axes of a reduction: its second input in newer opsets, an attribute in older ones."""
    if len(values) > 1 and values[1] is not None:
        return tuple(int(axis) for axis in values[1])
    return tuple(attributes["axes"]) if "axes" in attributes else None


def _reduce(function: Callable[..., Any]) -> Callable[[Values, Mapping[str, Any]], Values]:
    return lambda values, attributes: [
        function(
            _array(values, 0), axis=_axes(values, attributes), keepdims=bool(attributes.get("keepdims", 1))
        ).astype(_array(values, 0).dtype)
    ]


def _leaky_relu(values: Values, attributes: Mapping[str, Any]) -> Values:
    data = _array(values, 0)
    return [np.where(data < 0, data * np.float32(attributes.get("alpha", 0.01)), data)]


def _clip(values: Values, attributes: Mapping[str, Any]) -> Values:
    low, high = ([*values, None, None])[1:3]
    return [np.clip(_array(values, 0), low, high)]


def _pad(values: Values, attributes: Mapping[str, Any]) -> Values:
    data, widths = _array(values, 0), _array(values, 1)
    axes = list(range(data.ndim))
    if len(values) > 3 and values[3] is not None:
        axes = [int(axis) for axis in values[3]]
    pairs = [(0, 0)] * data.ndim
    for axis, before, after in zip(axes, widths[: len(axes)], widths[len(axes) :], strict=True):
        pairs[axis] = (int(before), int(after))
    mode = attributes.get("mode", b"constant")
    if mode == b"edge" or mode == b"reflect":
        return [np.pad(data, pairs, mode.decode())]
    fill = float(values[2]) if len(values) > 2 and values[2] is not None else 0.0
    return [np.pad(data, pairs, constant_values=fill)]


def _pool(values: Values, attributes: Mapping[str, Any]) -> Values:
    """Means over blocks: pooling whose stride is its kernel."""
    data = _array(values, 0)
    height, width = attributes["kernel_shape"]
    if attributes.get("strides", [1, 1]) != [height, width] or any(attributes.get("pads", [0])):
        raise BundleError("The numpy runtime knows average pooling over whole blocks alone.")
    n, channels, rows, columns = data.shape
    data = data[:, :, : rows // height * height, : columns // width * width]
    blocks = data.reshape(n, channels, rows // height, height, columns // width, width)
    return [blocks.mean((3, 5), dtype=np.float32)]


def _quantize(values: Values, attributes: Mapping[str, Any]) -> Values:
    data, zero = _array(values, 0), _zero_point(values)
    scale, zero_column = _per_channel(data, values, attributes)
    limits = np.iinfo(zero.dtype)
    steps = np.rint(data / scale) + zero_column
    return [np.clip(steps, limits.min, limits.max).astype(zero.dtype)]


def _dequantize(values: Values, attributes: Mapping[str, Any]) -> Values:
    data = _array(values, 0)
    scale, zero_column = _per_channel(data, values, attributes)
    return [((data.astype(np.float32) - zero_column) * scale).astype(np.float32)]


def _zero_point(values: Values) -> npt.NDArray[Any]:
    return values[2] if len(values) > 2 and values[2] is not None else np.zeros((), np.uint8)


def _per_channel(data: npt.NDArray[Any], values: Values, attributes: Mapping[str, Any]) -> tuple[Any, Any]:
    """Scale and zero point, shaped to meet `data` along the quantised axis."""
    shape = [1] * data.ndim
    scale, zero = _array(values, 1), _zero_point(values).astype(np.float32)
    if scale.ndim == 1 and scale.size > 1:
        shape[attributes.get("axis", 1)] = -1
    return (scale.reshape(shape), zero.reshape(shape)) if scale.ndim == 1 else (scale, zero)


def _array(values: Values, index: int) -> npt.NDArray[Any]:
    """An input that the standard says must be there."""
    value = values[index] if index < len(values) else None
    if value is None:
        raise BundleError(f"A node of the graph lacks its input {index}. Fetch the bundle again.")
    return value


def _on_first(function: Callable[..., Any]) -> Callable[[Values, Mapping[str, Any]], Values]:
    return lambda values, attributes: [function(_array(values, 0))]


def _on_both(function: Callable[..., Any]) -> Callable[[Values, Mapping[str, Any]], Values]:
    return lambda values, attributes: [function(_array(values, 0), _array(values, 1))]


def _fold(function: Callable[..., Any]) -> Callable[[Values, Mapping[str, Any]], Values]:
    def over_all(values: Values, attributes: Mapping[str, Any]) -> Values:
        result = _array(values, 0)
        for index in range(1, len(values)):
            result = function(result, _array(values, index))
        return [result]

    return over_all


def _divide(left: npt.NDArray[Any], right: npt.NDArray[Any]) -> npt.NDArray[Any]:
    quotient: npt.NDArray[Any] = left / right if left.dtype.kind == "f" else left // right
    return quotient


OPERATIONS: dict[str, Callable[[Values, Mapping[str, Any]], Values]] = {
    "Add": _on_both(np.add),
    "AveragePool": _pool,
    "Cast": lambda v, a: [_array(v, 0).astype(DTYPES[a["to"]])],
    "Clip": _clip,
    "Concat": lambda v, a: [np.concatenate([_array(v, i) for i in range(len(v))], a["axis"])],
    "Constant": lambda v, a: [a["value"]],
    "Conv": _conv,
    "DepthToSpace": _depth_to_space,
    "DequantizeLinear": _dequantize,
    "Div": _on_both(_divide),
    "Exp": _on_first(np.exp),
    "Expand": lambda v, a: [_array(v, 0) * np.ones(_array(v, 1).astype(int), _array(v, 0).dtype)],
    "Gather": lambda v, a: [np.take(_array(v, 0), _array(v, 1), a.get("axis", 0))],
    "Gemm": _gemm,
    "GridSample": _grid_sample,
    "Identity": _on_first(lambda value: value),
    "LeakyRelu": _leaky_relu,
    "MatMul": _on_both(np.matmul),
    "Max": _fold(np.maximum),
    "Min": _fold(np.minimum),
    "Mul": _on_both(np.multiply),
    "Neg": _on_first(np.negative),
    "Pad": _pad,
    "Pow": lambda v, a: [np.power(_array(v, 0), _array(v, 1)).astype(_array(v, 0).dtype)],
    "QuantizeLinear": _quantize,
    "Reciprocal": _on_first(np.reciprocal),
    "ReduceMean": _reduce(np.mean),
    "ReduceSum": _reduce(np.sum),
    "Relu": _on_first(ops.relu),
    "Reshape": _reshape,
    "Resize": _resize,
    "Sigmoid": _on_first(ops.sigmoid),
    "Slice": _slice,
    "Softmax": lambda v, a: [ops.softmax(_array(v, 0), a.get("axis", -1))],
    "Split": _split,
    "Sqrt": _on_first(np.sqrt),
    "Squeeze": lambda v, a: [np.squeeze(_array(v, 0), _axes(v, a))],
    "Sub": _on_both(np.subtract),
    "Tanh": _on_first(np.tanh),
    "Transpose": lambda v, a: [_array(v, 0).transpose(a.get("perm"))],
    "Unsqueeze": lambda v, a: [np.expand_dims(_array(v, 0), _axes(v, a) or 0)],
}


# -- Reading ONNX
# ----------------------------------------------------------------------------------------------------


def read_graph(path: Path) -> Graph:
    """An ONNX file's operations and constants; see `parse_graph`.

    Raises:
        BundleError: when the file is missing, too large, or not a whole ONNX graph.
    """
    try:
        with path.open("rb") as file:
            body = file.read(LARGEST_GRAPH + 1)
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror}). Is the bundle complete?") from error
    return parse_graph(body, path.name)


def parse_graph(body: bytes, name: str) -> Graph:
    """The operations and constants of an ONNX file. No part of it is executed or trusted to be well formed.

    Args:
        body: the file's bytes, at most `LARGEST_GRAPH`, weights inside.
        name: for errors.

    Raises:
        BundleError: when it is too large, or not a whole ONNX graph of operations of the standard alone.
    """
    if len(body) > LARGEST_GRAPH:
        raise BundleError(f"{name} is larger than any avatar's graph. Fetch the bundle again.")
    try:
        fields = list(_fields(memoryview(body)))
        bodies = [value for field, value in fields if field == 7]
        if len(bodies) != 1:
            raise ValueError(f"{len(bodies)} graphs where one is expected")
        if any(field in (20, 25) for field, _ in fields):
            raise ValueError("it brings functions of its own, or how it is trained")
        return _graph(_bytes(bodies[0]))
    except (ValueError, KeyError, IndexError, TypeError, struct.error, OverflowError) as error:
        message = f"{name} is not a whole ONNX graph ({error}). Fetch the bundle again."
        raise BundleError(message) from error


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """A number of 7 bits a byte, and where the next thing begins."""
    result = 0
    for length in range(10):
        if at + length >= len(data):
            break
        byte = data[at + length]
        result |= (byte & 0x7F) << (7 * length)
        if byte < 0x80:
            return result, at + length + 1
    raise ValueError("a number has no end")


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """A message's fields in order: (number, value); a value is an integer or bytes, never beyond `data`."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if kind == 2:
            size, at = _varint(data, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"field kind {kind}")
        if size > len(data) - at:
            raise ValueError("a field runs past the end of the file")
        yield key >> 3, data[at : at + size]
        at += size


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number stands where bytes belong")
    return value


def _text(value: int | memoryview) -> str:
    return bytes(_bytes(value)).decode()


def _signed(value: int) -> int:
    """Integers travel as 64 bits without a sign."""
    return value - 2**64 if value >= 2**63 else value


def _integers(value: int | memoryview) -> list[int]:
    """A repeated integer field: one number, or many packed together."""
    if isinstance(value, int):
        return [_signed(value)]
    numbers, at = [], 0
    while at < len(value):
        number, at = _varint(value, at)
        numbers.append(_signed(number))
    return numbers


def _graph(data: memoryview) -> Graph:
    nodes: list[Node] = []
    constants: dict[str, npt.NDArray[Any]] = {}
    inputs: list[str] = []
    outputs: list[str] = []
    doors: dict[str, Door] = {}
    for field, value in _fields(data):
        if field == 1:
            nodes.append(_node(_bytes(value)))
        elif field == 5:
            name, tensor = _tensor(_bytes(value))
            constants[name] = tensor
        elif field in (11, 12):
            name, doors_of = _door(_bytes(value))
            (inputs if field == 11 else outputs).append(name)
            doors[name] = doors_of
        elif field == 15:
            raise ValueError("sparse constants")
    known = {*constants, *inputs}
    for node in nodes:
        missing = {name for name in node.inputs if name} - known
        if missing:
            raise ValueError(f"node {node.name} reads {sorted(missing)[0]}, which nothing makes")
        if again := known & {name for name in node.outputs if name}:
            raise ValueError(f"{sorted(again)[0]} is made twice")
        known.update(node.outputs)
    if not outputs or not set(outputs) <= known:
        raise ValueError("the outputs are not made by any node")
    return Graph(tuple(nodes), constants, tuple(n for n in inputs if n not in constants), tuple(outputs), doors)


def _door(data: memoryview) -> tuple[str, Door]:
    """An input or output: its name, and what ValueInfoProto, TypeProto and TensorShapeProto say of it."""
    fields = list(_fields(data))
    name = next((_text(value) for field, value in fields if field == 1), "")
    dtype, shape = None, None
    for tensor in [inner for kind in _inside(fields, 2) for inner in _inside(_fields(kind), 1)]:
        for field, value in _fields(tensor):
            if field == 1:
                dtype = np.dtype(DTYPES[int(_integers(value)[0])])
            elif field == 2:
                shape = tuple(
                    next((_integers(size)[0] for number, size in _fields(part) if number == 1), None)
                    for part in _inside(_fields(_bytes(value)), 1)
                )
    return name, Door(dtype, shape)


def _inside(fields: Iterable[tuple[int, int | memoryview]], wanted: int) -> list[memoryview]:
    """The messages within a message that stand in one field."""
    return [_bytes(value) for field, value in fields if field == wanted]


def _node(data: memoryview) -> Node:
    kind = name = ""
    inputs: list[str] = []
    outputs: list[str] = []
    attributes: dict[str, Any] = {}
    for field, value in _fields(data):
        if field == 1:
            inputs.append(_text(value))
        elif field == 2:
            outputs.append(_text(value))
        elif field == 3:
            name = _text(value)
        elif field == 4:
            kind = _text(value)
        elif field == 5:
            key, setting = _attribute(_bytes(value))
            attributes[key] = setting
        elif field == 7 and _text(value) not in ("", "ai.onnx"):
            raise ValueError(f"{kind or 'an operation'} of {_text(value)}, which is not the standard's")
    return Node(kind, name, tuple(inputs), tuple(outputs), attributes)


def _attribute(data: memoryview) -> tuple[str, Any]:
    name, setting, integers, floats = "", None, [], []
    for field, value in _fields(data):
        if field == 1:
            name = _text(value)
        elif field == 2:
            (setting,) = struct.unpack("<f", _bytes(value))
        elif field == 3:
            (setting,) = _integers(value)
        elif field == 4:
            setting = bytes(_bytes(value))
        elif field == 5:
            setting = _tensor(_bytes(value))[1]
        elif field == 7:
            floats += np.frombuffer(_bytes(value), "<f4").tolist()
        elif field == 8:
            integers += _integers(value)
        elif field in (6, 11):
            raise ValueError("a graph inside a graph")
    return name, integers or floats if setting is None else setting


def _tensor(data: memoryview) -> tuple[str, npt.NDArray[Any]]:
    name, shape, kind, raw = "", [], 0, None
    loose: list[npt.NDArray[Any]] = []
    for field, value in _fields(data):
        if field == 1:
            shape += _integers(value)
        elif field == 2:
            (kind,) = _integers(value)
        elif field == 4:
            loose.append(np.frombuffer(_bytes(value), "<f4"))
        elif field in (5, 7):
            loose.append(np.array(_integers(value)))
        elif field == 8:
            name = _text(value)
        elif field == 9:
            raw = _bytes(value)
        elif field in (13, 14) and value not in (0, b""):
            raise ValueError(f"the weights of {name} lie in another file")
    if kind not in DTYPES:
        raise ValueError(f"tensor {name} has the unknown type {kind}")
    if raw is not None:
        flat: npt.NDArray[Any] = np.frombuffer(raw, DTYPES[kind])
    else:
        flat = np.concatenate([np.zeros(0), *loose]).astype(DTYPES[kind])
    if min(shape, default=0) < 0 or flat.size != np.prod(shape, dtype=object):
        raise ValueError(f"tensor {name} of shape {shape} holds {flat.size} numbers")
    return name, flat.reshape(shape)
