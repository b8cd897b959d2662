"""Student → ONNX: student.onnx, student.int8.onnx and driver.onnx, compared with torch, then written.

    python converters/to_onnx.py               seeded random weights: sizes and speed are valid, pictures are not
    python converters/to_onnx.py runs/me       a run folder of `superface make`, its bundle, or student.safetensors

Five steps, top to bottom in `main`: load, wrap, export, check, write. The last line is one JSON object.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper

from converters.cli import conclude, load_source, parse_arguments, run_script
from converters.parity import compare, first_within_gate, require, require_driver
from converters.quantize import CALIBRATION_FRAMES, QUANTIZED_PARTS, is_packed, pack_tables, quantize, quiet
from converters.student_graph import DriverGraph, Driving, StudentGraph
from converters.write_bundle import Lowered
from edge.errors import InputError
from edge.runtimes import engine, load_graph
from edge.spec import IMAGE_OUT, KEYPOINTS_IN, LANDMARKS_IN, LOCAL_IN, NETWORK
from training.student.driver import Driver
from training.student.network import Student

OPSET = 20
"""GridSample is native since 16; 20 is the version in which its modes have their present names."""
SMALLEST_HALVED = 1024
"""Numbers in a constant that is worth halving."""
VERIFIED_FRAMES = 16
PRECISIONS = ("fp32", "fp16", "int8")


def export_onnx(
    student: Student,
    driver: Driver | None,
    *,
    calibration: Driving,
    held_out: Driving,
    precisions: Sequence[str] = PRECISIONS,
    verify: bool = True,
) -> tuple[list[Lowered], Lowered | None]:
    """A bound student as ONNX graphs that were run and compared.

    Args:
        student: bound, trained; not changed.
        driver: landmarks → keypoints of this person.
        calibration: keypoints of the training track, which set the int8 ranges.
        held_out: keypoints that neither training nor calibration saw; the parity is measured on these.
        precisions: of `PRECISIONS`.
        verify: compare with torch and hold the result to `GATES`.

    Returns:
        The student at each precision, and the driver where there is one.

    Raises:
        ParityError: when a graph misses its gate.
        InputError: when a precision is unknown or the student is not finite.
    """
    unknown = sorted(set(precisions) - set(PRECISIONS))
    if unknown:
        raise InputError(f"ONNX export knows {', '.join(PRECISIONS)}, not {unknown[0]}.")
    graph = StudentGraph(student)
    frames = held_out.spread(VERIFIED_FRAMES)
    expected = [graph(*map(torch.from_numpy, inputs.values()))[0] for inputs in frames.frames()] if verify else []

    def exported(graph: StudentGraph) -> bytes:
        return export_graph(graph, (KEYPOINTS_IN.name, LOCAL_IN.name), (IMAGE_OUT.name,))

    @cache
    def whole() -> bytes:
        return exported(graph)  # made once, stored twice

    def lowered(precision: str, model: bytes) -> Lowered:
        lint(onnx.load_from_string(model))
        path = f"student{'' if precision == 'fp32' else f'.{precision}'}.onnx"
        parity = None
        if verify:
            got = [outputs[0] for outputs in run_onnx(model, frames.frames())]
            parity = require(compare(expected, got), "onnx", precision, engine("onnx"))
        return Lowered("onnx", precision, path, {path: model}, parity)

    def quantised() -> Lowered:
        """As much in 8 bits as the gate allows: the generator first, then without its finest layers."""
        packed = exported(StudentGraph(pack_tables(student)))

        def made(parts: tuple[str, ...]) -> Lowered:
            eight_bits = quantize(packed, calibration.spread(CALIBRATION_FRAMES), parts=parts)
            return lowered("int8", halve(eight_bits))  # what stays float is stored in 16 bits

        return first_within_gate(made, QUANTIZED_PARTS)

    makers: dict[str, Callable[[], Lowered]] = {
        "fp32": lambda: lowered("fp32", whole()),
        "fp16": lambda: lowered("fp16", halve(whole())),
        "int8": quantised,
    }
    students = [makers[precision]() for precision in PRECISIONS if precision in precisions]
    if driver is None:
        return students, None
    body = {"driver.onnx": export_driver(driver)}
    return students, Lowered("onnx", "fp32", "driver.onnx", body, note="torch's to rounding")


def lint(model: onnx.ModelProto) -> None:
    """A graph that every ONNX runtime can load: no operation from outside of the standard.

    Raises:
        InputError: names the operation, its domain and the value it makes.
    """
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx"):
            raise InputError(
                f"The graph has the operation {node.op_type} of {node.domain} (it makes {node.output[0]}), which other "
                "runtimes do not have. Write it with standard ones in training/student/network.py."
            )


def halve(model: bytes) -> bytes:
    """The same graph with its large constants in 16 bits, half the size; ONNX Runtime unpacks them when it loads.

    Arithmetic stays fp32: on CPUs ONNX Runtime has few 16-bit kernels, and coordinates are fp32 at every precision.
    """
    halved = onnx.load_from_string(model)
    casts = []
    for tensor in halved.graph.initializer:
        name = tensor.name
        large = tensor.data_type == onnx.TensorProto.FLOAT and np.prod(tensor.dims) >= SMALLEST_HALVED
        if large:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), f"{name}_16bit"))
            casts.append(helper.make_node("Cast", [tensor.name], [name], f"{name}_unpack", to=onnx.TensorProto.FLOAT))
    _set_nodes(halved, [*casts, *halved.graph.node])
    onnx.checker.check_model(halved, full_check=True)
    return bytes(halved.SerializeToString())


def export_driver(driver: Driver) -> bytes:
    """A driver as ONNX: landmarks → keypoints, local landmarks.

    Raises:
        ParityError: when ONNX Runtime disagrees with torch by more than rounding.
    """
    graph = DriverGraph(driver)
    model = export_graph(graph, (LANDMARKS_IN.name,), (KEYPOINTS_IN.name, LOCAL_IN.name))
    require_driver(graph, load_graph("onnx", model), "ONNX", 1e-5)
    return model


def export_graph(module: StudentGraph | DriverGraph, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
    """A wrapped module as a checked ONNX graph with its weights inside, and nothing about this machine."""
    with quiet():
        program = torch.onnx.export(
            module.eval(),
            module.example_inputs(),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=list(outputs),
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned nothing")
    model = program.model_proto
    use_fast_warp(model)
    fold_unshuffle(model)
    hold_resizes(model)
    pack_pictures(model)
    store_tables(model)
    # The exporter notes where each line of source lies on this machine.
    for part in (model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer):
        part.ClearField("metadata_props")
    for value in (*model.graph.input, *model.graph.output):
        value.ClearField("metadata_props")
    for node in model.graph.node:
        node.ClearField("doc_string")
    onnx.checker.check_model(model, full_check=True)
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    return bytes(model.SerializeToString())


def use_fast_warp(model: onnx.ModelProto) -> int:
    """Rewrite each warp to the form of GridSample that ONNX Runtime has a fast kernel for: the same picture.

    The fast kernel wants padding "zeros" and align_corners = 0; ours is "border" and 1, three to nine times
    slower. A place clamped to the crop never leaves it, so the padding no longer matters; and the
    corner-aligned place g is the pixel that the other convention calls g (W - 1) / W.

    Args:
        model: with warps of features of known size; changed in place.

    Returns:
        How many warps were rewritten.
    """
    graph = onnx.shape_inference.infer_shapes(model).graph
    sizes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.value_info, *graph.input):
        sizes[value.name] = tuple(size.dim_value for size in value.type.tensor_type.shape.dim)
    makers = {name: node for node in model.graph.node for name in node.output}
    nodes: list[onnx.NodeProto] = []
    rewritten = 0
    for node in model.graph.node:
        settings = {attribute.name: attribute for attribute in node.attribute}
        nodes.append(node)
        if node.op_type != "GridSample" or settings["padding_mode"].s != b"border":
            continue
        height, width = sizes[node.input[0]][2:]
        if not settings["align_corners"].i:
            continue
        settings["padding_mode"].s, settings["align_corners"].i = b"zeros", 0
        name = f"{node.name}_fast"
        scale = np.array([(width - 1) / width, (height - 1) / height], np.float32)
        if height != width:
            # Places in the pictures of mouth and eyes are held inside them by the student, and those of a whole frame
            # enlarged from fewer: scaled before that.
            resize = _before(makers, node.input[1])
            at, shape = (resize, (1, 2, 1, 1)) if resize else (node, (2,))
            where = 0 if resize else 1
            model.graph.initializer.append(numpy_helper.from_array(scale.reshape(shape), f"{name}_scale"))
            scaled = helper.make_node("Mul", [at.input[where], f"{name}_scale"], [f"{name}_grid"], f"{name}_mul")
            nodes.insert(next(index for index, made in enumerate(nodes) if made is at), scaled)
            at.input[where] = f"{name}_grid"
            rewritten += 1
            continue
        scale = scale[0]
        for suffix, constant in (("scale", scale), ("low", -scale), ("high", scale)):
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(constant), f"{name}_{suffix}"))
        # Scaled first and clamped then, so that both work in place on a map that is already in the cache.
        nodes[-1:] = [
            helper.make_node("Mul", [node.input[1], f"{name}_scale"], [f"{name}_scaled"], f"{name}_mul"),
            helper.make_node(
                "Clip", [f"{name}_scaled", f"{name}_low", f"{name}_high"], [f"{name}_grid"], f"{name}_clip"
            ),
            node,
        ]
        node.input[1] = f"{name}_grid"
        rewritten += 1
    _set_nodes(model, nodes)
    return rewritten


def _before(makers: dict[str, onnx.NodeProto], name: str) -> onnx.NodeProto | None:
    """The Resize that made a map, transposed and reshaped since."""
    node = makers.get(name)
    while node is not None and node.op_type in ("Transpose", "Reshape"):
        node = makers.get(node.input[0])
    return node if node is not None and node.op_type == "Resize" else None


def fold_unshuffle(model: onnx.ModelProto) -> int:
    """Read packed pixels straight from the picture: pixel_unshuffle(r) before k × k is one convolution of rk × rk.

    The products are the same; ONNX Runtime saves the shuffling, a twentieth of a frame's time.

    Args:
        model: changed in place; the weight keeps its name.

    Returns:
        How many convolutions were rewritten.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    readers = Counter(name for node in model.graph.node for name in node.input)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    folded: list[onnx.NodeProto] = []
    for conv in [node for node in model.graph.node if node.op_type == "Conv"]:
        chain = [conv]
        for kind in ("Reshape", "Transpose", "Reshape"):
            node = makers.get(chain[-1].input[0])
            if node is None or node.op_type != kind or readers[node.output[0]] != 1:
                break
            chain.append(node)
        if len(chain) != 4 or list(chain[2].attribute[0].ints) != [0, 1, 3, 5, 2, 4]:
            continue
        _, channels, _, factor, _, _ = numpy_helper.to_array(weights[chain[3].input[1]])
        tensor = weights[conv.input[1]]
        kernel = tensor.dims[-1]
        weight = numpy_helper.to_array(tensor).reshape(-1, channels, factor, factor, kernel, kernel)
        weight = weight.transpose(0, 1, 4, 2, 5, 3).reshape(-1, channels, kernel * factor, kernel * factor)
        weight = np.ascontiguousarray(weight)
        tensor.CopyFrom(numpy_helper.from_array(weight, tensor.name))
        for value in [value for value in model.graph.value_info if value.name == tensor.name]:
            model.graph.value_info.remove(value)  # it tells of the old shape
        conv.input[0] = chain[3].input[0]
        for attribute in conv.attribute:
            if attribute.name in ("pads", "strides", "kernel_shape"):
                attribute.ints[:] = [factor * size for size in attribute.ints]
        folded += chain[1:]
    for node in folded:
        model.graph.node.remove(node)
    return len(folded) // 3


def hold_resizes(model: onnx.ModelProto) -> int:
    """Keep a Resize before the Transpose that follows it: the same numbers, moved as a matrix.

    ONNX Runtime's optimiser moves a Transpose across a Resize, and enlarges the field with its two channels last in
    three times the time; across a Reshape it moves none.

    Args:
        model: with Resizes to sizes that are constants; changed in place.

    Returns:
        How many Resizes are held.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes, held = [], 0
    for node in model.graph.node:
        nodes.append(node)
        enlarged = makers.get(node.input[0]) if node.op_type == "Transpose" else None
        if enlarged is None or enlarged.op_type != "Resize" or list(node.attribute[0].ints) != [0, 2, 3, 1]:
            continue
        count, channels, height, width = numpy_helper.to_array(constants[enlarged.input[3]])
        name = f"{node.name}_held"
        for suffix, shape in (("rows", (count, channels, height * width)), ("maps", (count, height, width, channels))):
            model.graph.initializer.append(numpy_helper.from_array(np.array(shape, np.int64), f"{name}_{suffix}"))
        nodes[-1:] = [
            helper.make_node("Reshape", [node.input[0], f"{name}_rows"], [f"{name}_flat"], f"{name}_flatten"),
            helper.make_node("Transpose", [f"{name}_flat"], [f"{name}_turned"], name, perm=[0, 2, 1]),
            helper.make_node("Reshape", [f"{name}_turned", f"{name}_maps"], list(node.output), f"{name}_unflatten"),
        ]
        held += 1
    _set_nodes(model, nodes)
    return held


def pack_pictures(model: onnx.ModelProto) -> int:
    """Store constants that are pictures, every value k / 255, in 8 bits: the same values in a quarter of the bytes.

    Distillation leaves layer and canvas so. ONNX Runtime takes them apart in each frame, for less than a
    millisecond, and holds the 8 bits alone in between.

    Args:
        model: changed in place.

    Returns:
        How many constants were packed.
    """
    packed = []
    for tensor in model.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or np.prod(tensor.dims) < NETWORK * NETWORK:
            continue
        values = numpy_helper.to_array(tensor)
        levels = np.rint(values * 255)
        if levels.min() < 0 or levels.max() > 255 or np.abs(values - levels / 255).max() > 1e-6:
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(levels.astype(np.uint8), f"{name}_8bit"))
        packed.append(helper.make_node("DequantizeLinear", [tensor.name, "picture_scale"], [name], f"{name}_unpack"))
    if packed:
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(1 / 255, np.float32), "picture_scale"))
        _set_nodes(model, [*packed, *model.graph.node])
    return len(packed)


def store_tables(model: onnx.ModelProto) -> int:
    """Store tables of whole numbers, as `pack_tables` leaves them, in 8 bits; ONNX Runtime unpacks them when it loads.

    Args:
        model: changed in place.

    Returns:
        How many tables were stored so.
    """
    unpacking = []
    for tensor in model.graph.initializer:
        name, table = tensor.name, numpy_helper.to_array(tensor)
        if not is_packed(table):
            continue
        tensor.CopyFrom(numpy_helper.from_array(table.astype(np.int8), f"{name}_8bit"))
        unpacking.append(helper.make_node("Cast", [tensor.name], [name], f"{name}_unpack", to=onnx.TensorProto.FLOAT))
    _set_nodes(model, [*unpacking, *model.graph.node])
    return len(unpacking)


def _set_nodes(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> None:
    """These nodes in this order, and no others."""
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def run_onnx(model: bytes, frames: Sequence[dict[str, Any]]) -> list[list[Any]]:
    """The outputs of a graph for each frame's inputs, by ONNX Runtime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return [session.run(None, inputs) for inputs in frames]


# -- The script ----------------------------------------------------------------------------------------------


def main() -> int:
    """Run the script; the exit code."""
    arguments = parse_arguments("onnx", str(__doc__).split("\n")[0], precisions=PRECISIONS, targets=("cpu",))
    begun = time.monotonic()
    # 1. Load.
    source = load_source(arguments)
    # 2. Wrap, 3. export, 4. check: graph, shapes, and parity with torch.
    students, driver = export_onnx(
        source.student,
        source.driver,
        calibration=source.calibration,
        held_out=source.held_out,
        precisions=arguments.precisions,
        verify=not arguments.no_verify,
    )
    # 5. Write.
    return conclude(arguments, source, students, begun=begun, driver=driver, extra={"opset": OPSET})


if __name__ == "__main__":
    run_script(main)
