"""An ONNX file's operations and constants, read with a small protocol-buffer reader: edge needs no onnx package.

Nothing is executed, and nothing in the file is trusted to be well formed.
"""

import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edge.errors import BundleError

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
