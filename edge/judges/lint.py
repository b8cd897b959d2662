"""What an ONNX graph from elsewhere may ask of who runs it, decided before any runtime sees it.

A graph is a program. One of a few hundred bytes can loop for ever, ask for gigabytes, or read other files. An
avatar's graphs need none of that: their operations are those of `edge.judges.interpreter`, none of which holds
another graph, and the shape of every value follows from the file. So each value's shape is worked out here, with
nothing computed, and whatever is unknown, computed while running, or too large is refused in a sentence.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edge.errors import BundleError
from edge.judges.interpreter import OPERATIONS
from edge.judges.onnx_graph import DTYPES, Graph, Node
from edge.spec import TensorSpec

LARGEST_VALUE = 2**24
"""Numbers in one value; the largest of a student is a layer of 4 × 512 × 512."""
LARGEST_FRAME = 2**28
"""Numbers in all values of a frame; the largest tier has some ten million."""
MOST_NODES = 10_000
MOST_GMACS = 50.0
"""Multiply-accumulates of a frame, in billions: eight times the largest tier."""

Value = npt.NDArray[Any]
"""A constant as it is; of what a frame computes the type and shape alone: one zero, seen at every place."""


def lint(graph: Graph, name: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> dict[str, Value]:
    """Refuse a graph that asks for more than an avatar's needs.

    Args:
        graph: as `edge.judges.interpreter.parse_graph` read it.
        name: the file's, for errors.
        inputs: what it must take, by name, shape and type.
        outputs: what it must give.

    Returns:
        The shape and type of every value of a frame, as arrays that take no memory.

    Raises:
        BundleError: when its doors are others, an operation is none of a student's, a shape is not fixed by the
            file, or a frame is too large.
    """
    for side, expected in (("inputs", inputs), ("outputs", outputs)):
        found = graph.inputs if side == "inputs" else graph.outputs
        if sorted(found) != sorted(tensor.name for tensor in expected):
            raise _refused(name, f"its {side} are {', '.join(found)}, not {', '.join(t.name for t in expected)}")
    if len(graph.nodes) > MOST_NODES:
        raise _refused(name, f"it has {len(graph.nodes)} operations, and a frame takes a few hundred")
    for tensor in (*inputs, *outputs):
        dtype, shape = graph.doors[tensor.name]
        if dtype != np.dtype(tensor.dtype) or shape != tensor.shape:
            said = f"{dtype} of no shape" if shape is None else f"{dtype} {list(shape)}"
            raise _refused(name, f"{tensor.name} is {said}, not {tensor.dtype} {list(tensor.shape)}")

    values: dict[str, Value] = {**graph.constants, **{t.name: _ghost(t.shape, np.dtype(t.dtype)) for t in inputs}}
    computed = {tensor.name for tensor in inputs}
    numbers, macs = 0, 0
    for node in graph.nodes:
        what = f"{node.name or 'an operation'} ({node.kind})"
        if node.kind not in OPERATIONS:
            raise _refused(name, f"it uses {node.kind}, which no student does")
        given = [values[part] if part else None for part in node.inputs]
        if node.kind in _SHAPED and any(part in computed for part in node.inputs[1:]):
            raise _refused(name, f"the shape that {what} gives is computed while it runs")
        try:
            results = _infer(node, given)
        except (ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise _refused(name, f"{what} fits no shapes ({error})") from error
        for part, result in zip(node.outputs, results, strict=False):
            if result.size > LARGEST_VALUE:
                raise _refused(name, f"{what} makes {result.size} numbers, and no frame needs so many")
            numbers += result.size
            values[part] = result
            if node.kind != "Constant":
                computed.add(part)
        macs += _macs(node, given, results)
    if numbers > LARGEST_FRAME or macs > MOST_GMACS * 1e9:
        raise _refused(name, f"a frame takes {macs / 1e9:.3g} GMACs and {numbers / 1e6:.3g} million numbers")
    for tensor in outputs:
        made = values[tensor.name]
        if (made.shape, made.dtype) != (tensor.shape, np.dtype(tensor.dtype)):
            raise _refused(name, f"{tensor.name} comes out as {made.dtype} {list(made.shape)}")
    return values


def _refused(name: str, why: str) -> BundleError:
    return BundleError(f"{name} is not run: {why}. Fetch the bundle again, from who made it.")


def _ghost(shape: Sequence[int], dtype: npt.DTypeLike) -> Value:
    """An array of that shape and type that takes no memory."""
    shape = tuple(int(size) for size in shape)
    if min(shape, default=0) < 0:
        raise ValueError(f"shape {list(shape)}")
    if math.prod(shape) > LARGEST_VALUE:
        raise ValueError(f"{math.prod(shape)} numbers, and no frame needs so many")
    return np.broadcast_to(np.zeros((), dtype), shape)


def _infer(node: Node, given: list[Value | None]) -> list[Value]:
    """Ghosts of what an operation gives; those that only look at their input differently are done to ghosts."""
    if node.kind in _VIEWS:
        made = OPERATIONS[node.kind](list(given), node.attributes)
        return [value for value in made if value is not None]
    first = given[0]
    if node.kind == "Constant":
        return [node.attributes["value"]]
    if first is None:
        raise ValueError("its first input is left out")
    shape = _SHAPES.get(node.kind, _as_first)(given, node.attributes)
    dtype: npt.DTypeLike = first.dtype
    if node.kind == "Cast":
        dtype = DTYPES[node.attributes["to"]]
    elif node.kind == "QuantizeLinear":
        dtype = given[2].dtype if len(given) > 2 and given[2] is not None else np.uint8
    elif node.kind == "DequantizeLinear":
        dtype = np.float32
    return [_ghost(shape, dtype)]


Given = Sequence[Any]
Attributes = Mapping[str, Any]


def _as_first(given: Given, attributes: Attributes) -> Sequence[int]:
    return tuple(given[0].shape)


def _broadcast(given: Given, attributes: Attributes) -> Sequence[int]:
    return np.broadcast_shapes(*(value.shape for value in given))


def _concat(given: Given, attributes: Attributes) -> Sequence[int]:
    axis, shape = attributes["axis"], list(given[0].shape)
    for value in given[1:]:
        rest = list(value.shape)
        if len(rest) != len(shape) or any(
            a != b for i, (a, b) in enumerate(zip(shape, rest, strict=True)) if i != axis % len(shape)
        ):
            raise ValueError(f"{shape} beside {rest}")
        shape[axis] += rest[axis]
    return shape


def _window(size: int, kernel: int, stride: int, dilation: int, before: int, after: int) -> int:
    places = (size + before + after - dilation * (kernel - 1) - 1) // stride + 1
    if min(stride, dilation, kernel) < 1 or min(before, after) < 0 or places < 1:
        raise ValueError(f"a window of {kernel} on {size}")
    return places


def _conv(given: Given, attributes: Attributes) -> Sequence[int]:
    (count, channels, *size), (made, seen, *kernel) = given[0].shape, given[1].shape
    if len(size) != 2 or len(kernel) != 2 or channels != seen * attributes.get("group", 1):
        raise ValueError(f"{given[0].shape} through {given[1].shape}")
    pads = attributes.get("pads", [0, 0, 0, 0])
    strides, dilations = attributes.get("strides", [1, 1]), attributes.get("dilations", [1, 1])
    places = map(_window, size, kernel, strides, dilations, pads[:2], pads[2:])
    return (count, made, *places)


def _pool(given: Given, attributes: Attributes) -> Sequence[int]:
    count, channels, *size = given[0].shape
    kernel = attributes["kernel_shape"]
    pads, strides = attributes.get("pads", [0, 0, 0, 0]), attributes.get("strides", [1, 1])
    return (count, channels, *map(_window, size, kernel, strides, [1, 1], pads[:2], pads[2:]))


def _matmul(given: Given, attributes: Attributes) -> Sequence[int]:
    left, right = given[0].shape, given[1].shape
    if len(left) < 2 or len(right) < 2 or left[-1] != right[-2]:
        raise ValueError(f"{left} times {right}")
    return (*np.broadcast_shapes(left[:-2], right[:-2]), left[-2], right[-1])


def _gemm(given: Given, attributes: Attributes) -> Sequence[int]:
    left = given[0].shape[::-1] if attributes.get("transA") else given[0].shape
    right = given[1].shape[::-1] if attributes.get("transB") else given[1].shape
    return _matmul([np.broadcast_to(0, left), np.broadcast_to(0, right)], {})


def _depth_to_space(given: Given, attributes: Attributes) -> Sequence[int]:
    count, channels, height, width = given[0].shape
    times = attributes["blocksize"]
    if times < 1 or channels % times**2:
        raise ValueError(f"{channels} channels in blocks of {times}")
    return count, channels // times**2, height * times, width * times


def _grid_sample(given: Given, attributes: Attributes) -> Sequence[int]:
    (count, channels, _, _), (fields, height, width, two) = given[0].shape, given[1].shape
    if two != 2 or fields != count:
        raise ValueError(f"{given[0].shape} read at {given[1].shape}")
    return count, channels, height, width


def _resize(given: Given, attributes: Attributes) -> Sequence[int]:
    shape = given[0].shape
    if len(given) > 3 and given[3] is not None:
        sizes = [int(size) for size in given[3]]
    else:
        sizes = [int(size * times) for size, times in zip(shape, given[2], strict=True)]
    if len(sizes) != 4 or tuple(sizes[:2]) != shape[:2] or min(sizes) < 1:
        raise ValueError(f"{shape} to {sizes}")
    return sizes


def _gather(given: Given, attributes: Attributes) -> Sequence[int]:
    shape, axis = given[0].shape, attributes.get("axis", 0) % given[0].ndim
    return (*shape[:axis], *given[1].shape, *shape[axis + 1 :])


def _expand(given: Given, attributes: Attributes) -> Sequence[int]:
    return np.broadcast_shapes(given[0].shape, tuple(int(size) for size in given[1]))


def _pad(given: Given, attributes: Attributes) -> Sequence[int]:
    shape, widths = list(given[0].shape), [int(width) for width in given[1]]
    axes = [int(axis) for axis in given[3]] if len(given) > 3 and given[3] is not None else list(range(len(shape)))
    if len(widths) != 2 * len(axes):
        raise ValueError(f"{len(widths)} widths for {len(axes)} axes")
    for axis, before, after in zip(axes, widths[: len(axes)], widths[len(axes) :], strict=True):
        shape[axis] += before + after
    return shape


def _reduce(given: Given, attributes: Attributes) -> Sequence[int]:
    shape = given[0].shape
    axes = attributes.get("axes", range(len(shape)))
    if len(given) > 1 and given[1] is not None:
        axes = given[1]
    gone = {int(axis) % len(shape) for axis in axes}
    kept = attributes.get("keepdims", 1)
    return [1 if at in gone else size for at, size in enumerate(shape) if kept or at not in gone]


def _reshape(given: Given, attributes: Attributes) -> Sequence[int]:
    shape = [int(size) for size in given[1]]
    if not attributes.get("allowzero"):
        shape = [given[0].shape[at] if size == 0 else size for at, size in enumerate(shape)]
    known = math.prod(size for size in shape if size != -1)
    shape = [given[0].size // max(known, 1) if size == -1 else size for size in shape]
    if math.prod(shape) != given[0].size:
        raise ValueError(f"{list(given[0].shape)} to {shape}")
    return shape


_SHAPES: dict[str, Callable[[Given, Attributes], Sequence[int]]] = {
    "AveragePool": _pool,
    "Concat": _concat,
    "Conv": _conv,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "Gather": _gather,
    "Gemm": _gemm,
    "GridSample": _grid_sample,
    "MatMul": _matmul,
    "Pad": _pad,
    "ReduceMean": _reduce,
    "ReduceSum": _reduce,
    "Reshape": _reshape,
    "Resize": _resize,
    **dict.fromkeys(("Add", "Div", "Max", "Min", "Mul", "Pow", "Sub"), _broadcast),
}
"""Shapes by operation; all others keep that of their first input."""
_VIEWS = ("Identity", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze")
"""Operations that numpy does to an array without looking at its numbers."""
_SHAPED = (
    "Expand", "Pad", "ReduceMean", "ReduceSum", "Reshape", "Resize", "Slice", "Split", "Squeeze", "Unsqueeze",
)  # fmt: skip
"""Operations whose further inputs say a shape."""


def _macs(node: Node, given: Given, results: Sequence[Value]) -> int:
    each = 0
    if node.kind == "Conv":
        each = math.prod(given[1].shape[1:])
    elif node.kind in ("Gemm", "MatMul"):
        each = given[0].shape[0 if node.attributes.get("transA") else -1]
    return results[0].size * each
