"""Static int8: 8-bit activations and per-channel weights in the generator's convolutions, float elsewhere.

What places pixels stays float: coordinates, heat-maps, softmax, motion field, warps. A step of 8 bits there
is a step in the picture (measured: 28 dB for the worst frame), and it costs next to nothing, for nearly all
of a frame's time goes into the generator's convolutions. The last convolutions stay float as well: their steps
would show as bands.

The two large tables that place pixels are kept in 8 bits too, but computed with in float (`pack_tables`).

One set of parts, two ways to it: `quantize` rewrites the ONNX graph; `quantize_pt2e` rewrites torch's own, which
ExecuTorch and Core ML both lower. What a way needs is imported when it is taken.
"""

import copy
import gc
import io
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stderr
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.fx.traceback import NodeSource

from converters.student_graph import Driving, StudentGraph
from edge.errors import MissingRuntimeError, ParityError
from training.student.network import Student

if TYPE_CHECKING:
    import onnx

QUANTIZED_PARTS = (
    tuple(f"network.generator.{part}" for part in ("enter", "coarse", "narrow", "look", "fine")),
    tuple(f"network.generator.{part}" for part in ("enter", "coarse")),
)
"""Convolutions to quantise, by the beginning of their weight's name: all but the last; or the 64 px half."""

CALIBRATION_FRAMES = 24
"""Frames, spread over the training track, that set the ranges of a bundle's activations."""

TAIL = 1e-5
"""Share of calibrated values at either end that saturates: better than the full range, which outliers set."""

STRIDE = 7
"""Calibration reads every seventh value of a map; seven divides no map's width."""

LEVELS = 127
"""Of a number in a packed table, to either side of zero."""

SMALLEST_TABLE = 2**16
"""Numbers in a table that is worth packing."""

Quantised = Callable[[tuple[str, ...]], nn.Module]
"""A student with these parts in 8 bits."""

_FOLLOWERS = ("Relu", "Add", "Resize", "Concat")
"""Operations that go 8-bit with the convolutions that feed them."""


@torch.no_grad()
def pack_tables(student: Student) -> Student:
    """The same student with whole numbers of -127..127 in the table of expression maps.

    Converters then store it in 8 bits. A column is a map of its own, so that each code has a scale; it moves into what
    makes the code. Measured on a trained student's worst frame at the extremes: 75 dB.

    Args:
        student: bound, trained; not changed.
    """
    packed = copy.deepcopy(student)
    table, codes = packed.person.place, packed.person.express
    scale = (table.weight.abs().amax(0) / LEVELS).clamp(min=1e-12)
    table.weight.copy_((table.weight / scale).round())
    codes.weight.mul_(scale[:, None])
    codes.bias.mul_(scale)
    return packed


def is_packed(constant: np.ndarray) -> bool:
    """Whether it is what `pack_tables` leaves: a large matrix of whole numbers of -127..127, not all zero."""
    if constant.ndim != 2 or constant.size < SMALLEST_TABLE:
        return False
    return bool(0 < np.abs(constant).max() <= LEVELS and (constant == np.rint(constant)).all())


def quantize(model: bytes, calibration: Driving, *, parts: tuple[str, ...] = QUANTIZED_PARTS[0]) -> bytes:
    """The same graph with int8 convolutions, as QuantizeLinear and DequantizeLinear pairs (QDQ).

    Args:
        model: fp32 ONNX with inferred shapes; its convolution weights carry the names of the student's
            modules.
        calibration: the frames that set the ranges of the activations, all of them used.
        parts: which convolutions, by the beginning of their weight's name.

    Raises:
        ParityError: when no convolution matches: a graph must not be called int8 and be float.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorData, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    proto = onnx.load_from_string(model)
    chosen = _chosen(proto.graph, parts)
    if not any(node.op_type == "Conv" for node in chosen):
        raise ParityError(f"No convolution is named like {', '.join(parts)}, so nothing was quantised.")
    constants = {tensor.name for tensor in proto.graph.initializer}
    maps = sorted({name for node in chosen for name in (*node.input, *node.output) if name} - constants)
    ranges = {
        name: TensorData(lowest=low, highest=high) for name, (low, high) in _ranges(proto, maps, calibration).items()
    }
    quantizer = QDQQuantizer(
        proto,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, ranges),
        nodes_to_quantize=[node.name for node in chosen],
        nodes_to_exclude=[],
        op_types_to_quantize=["Conv", *_FOLLOWERS],
        extra_options={},
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    quantized = quantizer.model.model
    if not any(tensor.data_type == onnx.TensorProto.INT8 for tensor in quantized.graph.initializer):
        raise ParityError("The quantised graph holds no 8-bit weights. Is onnxruntime newer than this program?")
    onnx.checker.check_model(quantized, full_check=True)
    return bytes(quantized.SerializeToString())


def _chosen(graph: "onnx.GraphProto", parts: tuple[str, ...]) -> "list[onnx.NodeProto]":
    """The convolutions of `parts`, and what stands between them."""
    constants = {tensor.name for tensor in graph.initializer}
    chosen: list[onnx.NodeProto] = []
    made_by_chosen: set[str] = set()
    for node in graph.node:  # In topological order, as ONNX demands.
        fed = [name for name in node.input if name and name not in constants]
        is_part = node.op_type == "Conv" and node.input[1].removeprefix("student.").startswith(parts)
        if is_part or (node.op_type in _FOLLOWERS and fed and made_by_chosen.issuperset(fed)):
            chosen.append(node)
            made_by_chosen.update(node.output)
    return chosen


def _ranges(
    model: "onnx.ModelProto", maps: Iterable[str], calibration: Driving
) -> dict[str, tuple[np.float32, np.float32]]:
    """The range of each map over the calibration frames, without its tails."""
    import onnx
    import onnxruntime

    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    doors = {value.name for value in (*watched.graph.input, *watched.graph.output)}
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in maps if name not in doors)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
    samples: dict[str, list[Any]] = {name: [] for name in maps}
    for inputs in calibration.frames():
        for name, values in zip(samples, session.run(list(samples), inputs), strict=True):
            samples[name].append(values.ravel()[::STRIDE].copy())
    ranges = {}
    for name, values in samples.items():
        low, high = np.quantile(np.concatenate(values), (TAIL, 1 - TAIL))
        ranges[name] = (np.float32(low), np.float32(high))
    return ranges


# -- torch's own graph (PT2E), for ExecuTorch and Core ML ------------------------------------------------------


def quantize_pt2e(
    graph: StudentGraph, calibration: Driving, *, parts: tuple[str, ...] = QUANTIZED_PARTS[0]
) -> nn.Module:
    """The student with int8 convolutions, as an exported module that computes as if quantised ("fake-quantised").

    Its tables are those of `pack_tables`. XNNPACK and Core ML both lower it: it holds quantize and dequantize pairs
    around float operations, and int8 weights. Its pictures in torch are those to expect of them.

    Args:
        graph: the student in float; not changed.
        calibration: the frames that set the ranges of the activations, all of them used.
        parts: which convolutions, by the beginning of their module's name in the student.

    Returns:
        keypoints [1, K, 2], local landmarks [1, M, 2] → (image [1, 3, 512, 512],), as `graph`.

    Raises:
        ParityError: when no convolution matches: a graph must not be called int8 and be float.
        MissingRuntimeError: when ExecuTorch or torchao is not installed.
    """
    with importing("executorch"):
        from executorch.backends.xnnpack.quantizer import xnnpack_quantizer
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    def is_chosen(node: torch.fx.Node) -> bool:
        # Weights are nobody's; the operation that reads them decides.
        if node.op == "get_attr":
            return True
        modules = list(node.meta.get("nn_module_stack", {}).values())
        return bool(modules) and modules[-1][0].rpartition("student.")[2].startswith(parts)

    # Its ranges come from histograms: those that lose least in sum of squares. Worst of 16 unseen frames of a trained
    # student: 60.7 dB; 59.6 dB with the full range, 49.8 dB where 1e-4 of the values saturate, 40.0 dB with 1e-3.
    setting = xnnpack_quantizer.get_symmetric_quantization_config(is_per_channel=True)
    quantizer = xnnpack_quantizer.XNNPACKQuantizer().set_global(setting).set_filter_function(is_chosen)
    # The rule for `cat` asks no filter: it would quantise coordinates, and XNNPACK then computes something else.
    quantizer.SUPPORTED_PATTERNS = [pattern for pattern in quantizer.SUPPORTED_PATTERNS if pattern.name != "cat"]
    with quiet(), torch.no_grad():
        packed = StudentGraph(pack_tables(graph.student))
        exported = torch.export.export(packed, graph.example_inputs(), strict=False).module()
        observed = prepare_pt2e(exported, quantizer)
        for inputs in calibration.frames():
            observed(*map(torch.from_numpy, inputs.values()))
        converted: nn.Module = convert_pt2e(observed)
    if not any(tensor.dtype == torch.int8 for tensor in converted.state_dict().values()):
        raise ParityError(f"No convolution is named like {', '.join(parts)}, so nothing was quantised.")
    return converted


def in_eight_bits(student: Student, calibration: Driving) -> Quantised:
    """A student by `quantize_pt2e`: for each choice of parts made once, as calibrating takes longer than lowering.

    Args:
        student: bound, trained.
        calibration: motion of the training track.
    """
    graph, frames = StudentGraph(student), calibration.spread(CALIBRATION_FRAMES)
    return cache(lambda parts: quantize_pt2e(graph, frames, parts=parts))


@contextmanager
def importing(extra: str) -> Iterator[None]:
    """Imports of an optional library, in silence; where it is missing, the sentence that says how to get it.

    Args:
        extra: the name under which pip installs it with this program.

    Raises:
        MissingRuntimeError: when a module is not there.
    """
    try:
        with quiet():
            yield
    except ModuleNotFoundError as error:
        package = (error.name or extra).split(".")[0]
        raise MissingRuntimeError(
            f'{package} is not installed. Install it with pip install "superface[{extra}]".'
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Without what libraries say about themselves: warnings, log lines, and progress bars, which know no switch.

    And without two things that take a fifth of the time of a lowering: the garbage collector, and copies of each node's
    history, which torch.fx makes with every pass and nobody changes.
    """
    disabled, collecting = logging.root.manager.disable, gc.isenabled()
    outermost = not hasattr(NodeSource, "__deepcopy__")
    logging.disable(logging.WARNING)
    gc.disable()
    NodeSource.__deepcopy__ = lambda source, memo: source  # type: ignore[attr-defined]
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        if collecting:
            gc.enable()
        if outermost:
            del NodeSource.__deepcopy__  # type: ignore[attr-defined]
