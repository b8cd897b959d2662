"""MediaPipe's face landmark model, assembled from networks of an older release.

The older wheel mediapipe 0.10.21 carries the same face detector as `face_landmarker.task` and an earlier landmark
network with the same 478 points. That network gets the outputs that MediaPipe Tasks wants: one tensor of 478 × 3
values and the presence score, instead of seven. For machines that reach a package index alone
(`edge/driving/models.py`).
"""

import io
import zipfile
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge.errors import MissingRuntimeError
from edge.topology import (
    LANDMARKS,
    LEFT_EYE_INNER,
    LEFT_EYE_OUTER,
    LEFT_IRIS,
    LEFT_LOWER_LID,
    LEFT_UPPER_LID,
    RIGHT_EYE_INNER,
    RIGHT_EYE_OUTER,
    RIGHT_IRIS,
    RIGHT_LOWER_LID,
    RIGHT_UPPER_LID,
)


def assemble(detector: bytes, mesh: bytes) -> bytes:
    """A `.task` file that MediaPipe Tasks (1.2) accepts, from the older wheel's two networks.

    Args:
        detector: `face_detection_short_range.tflite`, used as it is.
        mesh: `face_landmark_with_attention.tflite`; its seven outputs become two.

    Returns:
        A zip of both, stored without compression: MediaPipe maps the files in place.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as bundle:
        for name, content in (
            ("face_detector.tflite", detector),
            ("face_landmarks_detector.tflite", _join_outputs(mesh)),
        ):
            # A fixed date: the same input gives the same bytes.
            bundle.writestr(zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0)), content)
    return buffer.getvalue()


# Index facts of the landmark network. Source: MediaPipe 0.10.21, the attention face mesh's graph, Apache-2.0.
# The network emits 468 mesh points (x, y, z), then finer (x, y) for the points below, in this order: pixels
# of its 192×192 input. Finer values replace the mesh's, lips first; z stays the mesh's. An iris lies as deep
# as the mean of its lids and eye corners.

_LIPS = (
    "61 146 91 181 84 17 314 405 321 375 291 185 40 39 37 0 267 269 270 409 78 95 88 178 87 14 317 402 "
    "318 324 308 191 80 81 82 13 312 311 310 415 76 77 90 180 85 16 315 404 320 307 306 184 74 73 72 11 "
    "302 303 304 408 62 96 89 179 86 15 316 403 319 325 292 183 42 41 38 12 268 271 272 407"
)
_RIGHT_EYE = (
    "33 7 163 144 145 153 154 155 133 246 161 160 159 158 157 173 130 25 110 24 23 22 26 112 243 247 30 "
    "29 27 28 56 190 226 31 228 229 230 231 232 233 244 113 225 224 223 222 221 189 35 124 46 53 52 65 "
    "143 111 117 118 119 120 121 128 245 156 70 63 105 66 107 55 193"
)
_LEFT_EYE = (
    "263 249 390 373 374 380 381 382 362 466 388 387 386 385 384 398 359 255 339 254 253 252 256 341 "
    "463 467 260 259 257 258 286 414 446 261 448 449 450 451 452 453 464 342 445 444 443 442 441 413 "
    "265 353 276 283 282 295 372 340 346 347 348 349 350 357 465 383 300 293 334 296 336 285 417"
)


def _indices(text: str) -> NDArray[np.int32]:
    return np.array(text.split(), dtype=np.int32)


class _Refinement(NamedTuple):
    """One output that makes some points finer: 2 values (x, y) for each of `points`."""

    name: bytes
    """Of the output tensor. MediaPipe calls the eye on the image's left "left"; it is the person's right."""
    points: NDArray[np.int32]


_MESH_OUTPUT, _PRESENCE_OUTPUT = b"output_mesh_identity", b"conv_faceflag"
_MESH_POINTS = 468
_REFINEMENTS = (
    _Refinement(b"output_lips", _indices(_LIPS)),
    _Refinement(b"output_left_eye", _indices(_RIGHT_EYE)),
    _Refinement(b"output_right_eye", _indices(_LEFT_EYE)),
    _Refinement(b"output_left_iris", RIGHT_IRIS.astype(np.int32)),
    _Refinement(b"output_right_iris", LEFT_IRIS.astype(np.int32)),
)
_IRISES = (
    (RIGHT_IRIS, np.r_[RIGHT_EYE_OUTER, RIGHT_UPPER_LID, RIGHT_EYE_INNER, RIGHT_LOWER_LID]),
    (LEFT_IRIS, np.r_[LEFT_EYE_OUTER, LEFT_UPPER_LID, LEFT_EYE_INNER, LEFT_LOWER_LID]),
)


def _gather_table() -> NDArray[np.int32]:
    """For each of the 478 × 3 values, its place in the chain mesh, refinements, depth of both irises."""
    table = np.full((LANDMARKS, 3), -1, dtype=np.int32)
    table[:_MESH_POINTS] = np.arange(_MESH_POINTS * 3).reshape(-1, 3)
    start = _MESH_POINTS * 3
    for refinement in _REFINEMENTS:
        count = len(refinement.points)
        table[refinement.points, :2] = start + np.arange(count * 2).reshape(-1, 2)
        start += count * 2
    for number, (iris, _) in enumerate(_IRISES):
        table[iris, 2] = start + number
    return table.reshape(-1)


# A .tflite file is a flatbuffer: tables that point forward to others. Its builder writes from the end to the
# front. So the old file is put in whole, untouched and aligned, as the tail, and a new head before it points
# into it: the old tensors, operators and weights, and ours beside them. Slots and codes are those of
# TensorFlow Lite's schema, version 3.

_MODEL_VERSION, _MODEL_CODES, _MODEL_SUBGRAPHS, _MODEL_DESCRIPTION, _MODEL_BUFFERS = 0, 1, 2, 3, 4
_MODEL_METADATA = 6
_MODEL_SLOTS = 8
_GRAPH_TENSORS, _GRAPH_INPUTS, _GRAPH_OUTPUTS, _GRAPH_OPERATORS, _GRAPH_NAME = 0, 1, 2, 3, 4
_TENSOR_SHAPE, _TENSOR_TYPE, _TENSOR_BUFFER, _TENSOR_NAME = 0, 1, 2, 3
_FLOAT32, _INT32 = 0, 2


class _OpKind(NamedTuple):
    """A built-in operator: its code, the number of its options in their union, and those that are set."""

    code: int
    options: int
    true_slots: tuple[int, ...]


_CONCATENATION = _OpKind(2, 10, ())  # axis 0, nothing fused
_RESHAPE = _OpKind(22, 17, ())  # the new shape is the second input
_GATHER = _OpKind(36, 23, ())  # axis 0
_MEAN = _OpKind(40, 27, (0,))  # keep_dims


def _join_outputs(model: bytes) -> bytes:
    """The landmark network with two outputs, landmarks [1, 1, 1, 1434] and the presence score, not seven."""
    graft = _Graft(model)
    flat = [graft.flatten(_MESH_OUTPUT, _MESH_POINTS * 3)]
    flat += [graft.flatten(r.name, len(r.points) * 2) for r in _REFINEMENTS]
    for number, (_, lids) in enumerate(_IRISES):
        depths = graft.constant(f"iris_{number}_lids", lids * 3 + 2)
        depths = graft.operate(_GATHER, [flat[0], depths], f"iris_{number}_depths", (len(lids),))
        axis = graft.constant(f"iris_{number}_axis", np.zeros(1))
        flat.append(graft.operate(_MEAN, [depths, axis], f"iris_{number}_depth", (1,)))
    length = _MESH_POINTS * 3 + sum(len(r.points) * 2 for r in _REFINEMENTS) + len(_IRISES)
    chain = graft.operate(_CONCATENATION, flat, "chain", (length,))
    table = graft.constant("order", _gather_table())
    points = graft.operate(_GATHER, [chain, table], "points", (LANDMARKS * 3,))
    shape = (1, 1, 1, LANDMARKS * 3)
    landmarks = graft.operate(_RESHAPE, [points, graft.constant("shape", np.array(shape))], "landmarks", shape)
    return graft.finish(outputs=[landmarks, graft.tensor(_PRESENCE_OUTPUT)])


class _Graft:
    """A TensorFlow Lite file to which tensors and operators are added; what is in it stays byte for byte."""

    def __init__(self, model: bytes) -> None:
        try:
            import flatbuffers
            from flatbuffers import number_types
            from flatbuffers.table import Table
        except ImportError as error:
            raise MissingRuntimeError(
                'Assembling the landmark model needs flatbuffers. Run: pip install "superface[landmarks]"'
            ) from error
        self._numbers: Any = number_types
        self._table: Any = Table
        self._old = model + bytes(-len(model) % 16)  # weights in it are aligned to 16 bytes
        self._builder: Any = flatbuffers.Builder(len(self._old) + 65536)
        self._builder.CreateByteVector(self._old)
        self._model = Table(self._old, int.from_bytes(self._old[:4], "little"))
        self._graph = self._children(self._model, _MODEL_SUBGRAPHS)[0]
        self._names = [self._string(t, _TENSOR_NAME) for t in self._children(self._graph, _GRAPH_TENSORS)]
        self._codes: list[int] = []
        self._buffers: list[int] = []
        self._tensors: list[int] = []
        self._operators: list[int] = []
        self._old_codes = len(self._children(self._model, _MODEL_CODES))
        self._old_buffers = len(self._children(self._model, _MODEL_BUFFERS))

    # Reading the old file.

    def _field(self, table: Any, slot: int) -> int:
        """Position of a table's field, 0 where it has none."""
        offset = table.Offset(4 + 2 * slot)
        return int(table.Pos + offset) if offset else 0

    def _children(self, table: Any, slot: int) -> list[Any]:
        """The tables in a vector."""
        offset = table.Offset(4 + 2 * slot)
        if not offset:
            return []
        start, count = table.Vector(offset), table.VectorLen(offset)
        return [self._table(self._old, table.Indirect(start + 4 * n)) for n in range(count)]

    def _string(self, table: Any, slot: int) -> bytes:
        offset = table.Offset(4 + 2 * slot)
        return bytes(table.String(table.Pos + offset)) if offset else b""

    def _reference(self, table: Any, slot: int) -> int:
        """What a field points to, as the builder counts: bytes from the end. 0 where there is nothing."""
        position = self._field(table, slot)
        return len(self._old) - int(table.Indirect(position)) if position else 0

    # Adding to it.

    def tensor(self, name: bytes) -> int:
        """Number of the old tensor of that name."""
        return self._names.index(name)

    def constant(self, name: str, values: NDArray[Any]) -> int:
        """A new int32 tensor with fixed values; returns its number."""
        self._builder.StartVector(1, values.size * 4, 16)
        for byte in reversed(values.astype("<i4").tobytes()):
            self._builder.PrependByte(byte)
        data = self._builder.EndVector()
        self._builder.StartObject(1)
        self._builder.PrependUOffsetTRelativeSlot(0, data, 0)
        self._buffers.append(self._builder.EndObject())
        return self._add_tensor(name, values.shape, _INT32, self._old_buffers + len(self._buffers) - 1)

    def flatten(self, output: bytes, length: int) -> int:
        """An old tensor as one row of values."""
        name = output.decode() + "_flat"
        return self.operate(
            _RESHAPE,
            [self.tensor(output), self.constant(f"{name}_shape", np.array([length]))],
            name,
            (length,),
        )

    def operate(self, kind: _OpKind, inputs: Sequence[int], name: str, shape: Sequence[int]) -> int:
        """A new operator with one float32 output; returns the output's number."""
        output = self._add_tensor(name, shape, _FLOAT32, 0)
        b = self._builder
        b.StartObject(4)
        b.PrependInt8Slot(0, kind.code, 0)  # the field older readers know
        b.PrependInt32Slot(2, 1, 1)
        b.PrependInt32Slot(3, kind.code, 0)
        self._codes.append(b.EndObject())
        b.StartObject(4)
        for slot in kind.true_slots:
            b.PrependBoolSlot(slot, True, False)
        options = b.EndObject()
        ins, outs = self._numbers_vector(inputs), self._numbers_vector([output])
        b.StartObject(5)
        b.PrependUint32Slot(0, self._old_codes + len(self._codes) - 1, 0)
        b.PrependUOffsetTRelativeSlot(1, ins, 0)
        b.PrependUOffsetTRelativeSlot(2, outs, 0)
        b.PrependUint8Slot(3, kind.options, 0)
        b.PrependUOffsetTRelativeSlot(4, options, 0)
        self._operators.append(b.EndObject())
        return output

    def finish(self, *, outputs: Sequence[int]) -> bytes:
        """The extended file, with these tensors as its outputs."""
        b = self._builder
        tensors = self._longer_vector(self._graph, _GRAPH_TENSORS, self._tensors)
        operators = self._longer_vector(self._graph, _GRAPH_OPERATORS, self._operators)
        outs = self._numbers_vector(outputs)
        b.StartObject(5)
        b.PrependUOffsetTRelativeSlot(_GRAPH_TENSORS, tensors, 0)
        b.PrependUOffsetTRelativeSlot(_GRAPH_INPUTS, self._reference(self._graph, _GRAPH_INPUTS), 0)
        b.PrependUOffsetTRelativeSlot(_GRAPH_OUTPUTS, outs, 0)
        b.PrependUOffsetTRelativeSlot(_GRAPH_OPERATORS, operators, 0)
        b.PrependUOffsetTRelativeSlot(_GRAPH_NAME, self._reference(self._graph, _GRAPH_NAME), 0)
        graph = b.EndObject()
        subgraphs = self._offsets_vector([graph])
        codes = self._longer_vector(self._model, _MODEL_CODES, self._codes)
        buffers = self._longer_vector(self._model, _MODEL_BUFFERS, self._buffers)
        b.StartObject(_MODEL_SLOTS)
        b.PrependUint32Slot(_MODEL_VERSION, 3, 0)
        b.PrependUOffsetTRelativeSlot(_MODEL_CODES, codes, 0)
        b.PrependUOffsetTRelativeSlot(_MODEL_SUBGRAPHS, subgraphs, 0)
        description = self._reference(self._model, _MODEL_DESCRIPTION)
        b.PrependUOffsetTRelativeSlot(_MODEL_DESCRIPTION, description, 0)
        b.PrependUOffsetTRelativeSlot(_MODEL_BUFFERS, buffers, 0)
        # The old metadata holds what Tasks asks for: how pixels are normalised (mean 0, deviation 255).
        b.PrependUOffsetTRelativeSlot(_MODEL_METADATA, self._reference(self._model, _MODEL_METADATA), 0)
        b.Finish(b.EndObject(), file_identifier=b"TFL3")
        return bytes(b.Output())

    def _add_tensor(self, name: str, shape: Sequence[int], kind: int, buffer: int) -> int:
        b = self._builder
        title = b.CreateString("superface/" + name)
        sizes = self._numbers_vector(shape)
        b.StartObject(4)
        b.PrependUOffsetTRelativeSlot(_TENSOR_SHAPE, sizes, 0)
        b.PrependInt8Slot(_TENSOR_TYPE, kind, 0)
        b.PrependUint32Slot(_TENSOR_BUFFER, buffer, 0)
        b.PrependUOffsetTRelativeSlot(_TENSOR_NAME, title, 0)
        self._tensors.append(b.EndObject())
        return len(self._names) + len(self._tensors) - 1

    def _numbers_vector(self, values: Sequence[int]) -> int:
        self._builder.StartVector(4, len(values), 4)
        for value in reversed(values):
            self._builder.PrependInt32(int(value))
        return int(self._builder.EndVector())

    def _offsets_vector(self, offsets: Sequence[int]) -> int:
        self._builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self._builder.PrependUOffsetTRelative(offset)
        return int(self._builder.EndVector())

    def _longer_vector(self, table: Any, slot: int, added: Sequence[int]) -> int:
        """The old tables of a vector, then ours."""
        old = [len(self._old) - int(child.Pos) for child in self._children(table, slot)]
        return self._offsets_vector([*old, *added])
