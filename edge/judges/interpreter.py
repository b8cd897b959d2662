"""The student's forward pass in numpy, straight from `student.onnx`: node by node, each a readable operation.

An avatar's weights exist once, in its ONNX file. This module walks the file's nodes with `edge.judges.ops`. It is
several times slower than ONNX Runtime; it exists as an independent judge of the other runtimes, and for ports to
compare layer by layer.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edge.errors import BundleError, SpecError
from edge.judges import ops
from edge.judges.onnx_graph import DTYPES, Graph

Values = list[npt.NDArray[Any] | None]
"""A node's inputs; None where an optional one is left out."""


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


# Operations: inputs and attributes in, outputs out. Names and meanings are those of the ONNX standard, opset 18 to 20.


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
