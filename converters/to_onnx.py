"""Student → ONNX: `student.onnx`, `student.int8.onnx` and `driver.onnx`, compared with torch, then written.

    python converters/to_onnx.py               seeded random weights: sizes and speed are valid, pictures are
    not python converters/to_onnx.py runs/me       a run folder of `superface make`, or a student.safetensors

Five steps, top to bottom in `main`: load, wrap, export, check, write. The last line is one JSON object.
"""

import argparse
import json
import logging
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper

from converters.parity import compare, require
from converters.quantize import QUANTIZED_PARTS, quantize
from converters.student_graph import DriverGraph, Driving, StudentGraph
from edge.bundle import ParityRow
from edge.errors import InputError, ParityError, SuperFaceError
from edge.spec import IMAGE_OUT, KEYPOINTS, KEYPOINTS_IN, LANDMARKS_IN, LOCAL_IN, SIZE
from edge.topology import LANDMARKS, LOCAL
from training.checkpoint import load_student
from training.config import TIERS
from training.flops import student_config, student_cost
from training.student import Student
from training.teachers import Identity

OPSET = 20
"""GridSample is native since 16; 20 is the version in which its modes have their present names."""
CALIBRATION_FRAMES = 24
VERIFIED_FRAMES = 16
PRECISIONS = ("fp32", "int8")


@dataclass(frozen=True)
class ExportedStudent:
    """One precision, as it goes into a bundle."""

    model: bytes
    parity: ParityRow | None
    """None when it was not verified."""


class Export(NamedTuple):
    """All graphs of one person."""

    students: dict[str, ExportedStudent]
    """By precision."""
    driver: bytes
    """Empty where the teacher has no linear driver."""


def export_onnx(
    student: Student,
    driver: tuple[torch.Tensor, torch.Tensor] | None,
    *,
    calibration: Driving,
    held_out: Driving,
    precisions: Sequence[str] = PRECISIONS,
    verify: bool = True,
) -> Export:
    """A bound student as ONNX graphs that were run and compared.

    Args:
        student: bound, trained; not changed.
        driver: the teacher's linear map (`Teacher.driver`).
        calibration: keypoints of the training track, which set the int8 ranges.
        held_out: keypoints that neither training nor calibration saw; the parity is measured on these.
        precisions: of "fp32" and "int8".
        verify: compare with torch and hold the result to `GATES`.

    Raises:
        ParityError: when a graph misses its gate.
        InputError: when a precision is unknown or the student is not finite.
    """
    unknown = sorted(set(precisions) - set(PRECISIONS))
    if unknown:
        raise InputError(f"ONNX export knows {' and '.join(PRECISIONS)}, not {unknown[0]}.")
    graph = StudentGraph(student)
    frames = held_out.spread(VERIFIED_FRAMES)
    expected = [graph(*map(torch.from_numpy, inputs.values()))[0] for inputs in frames.frames()] if verify else []
    fp32 = export_graph(graph, (KEYPOINTS_IN.name, LOCAL_IN.name), (IMAGE_OUT.name,))
    students = {}
    if "fp32" in precisions:
        students["fp32"] = ExportedStudent(fp32, _measure(fp32, frames, expected, "fp32") if verify else None)
    if "int8" in precisions:
        students["int8"] = _quantized(fp32, calibration, frames, expected, verify)
    return Export(students, b"" if driver is None else export_driver(*driver))


def export_driver(weight: torch.Tensor, bias: torch.Tensor) -> bytes:
    """The teacher's linear map [K * 2, 478 * 3], [K * 2] as ONNX: landmarks → keypoints, local landmarks.

    Raises:
        ParityError: when ONNX Runtime disagrees with torch by more than rounding.
    """
    graph = DriverGraph(weight, bias)
    model = export_graph(graph, (LANDMARKS_IN.name,), (KEYPOINTS_IN.name, LOCAL_IN.name))
    landmarks = torch.rand(LANDMARKS_IN.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for expected, got in zip(
        graph(landmarks), run_onnx(model, [{LANDMARKS_IN.name: landmarks.numpy()}])[0], strict=True
    ):
        if np.abs(expected.numpy() - got).max() > 1e-5:
            raise ParityError("The driver in ONNX differs from the teacher's map. Nothing was written.")
    return model


def export_graph(module: StudentGraph | DriverGraph, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
    """A wrapped module as a checked ONNX graph with its weights inside, and nothing about this machine."""
    # The exporter warns of its own internals, and that torchvision, which we do not use, is missing.
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            module.example_inputs(),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=list(outputs),
            verbose=False,
        )
    logger.setLevel(level)
    if program is None:
        raise RuntimeError("torch.onnx.export returned nothing")
    model = program.model_proto
    use_fast_warp(model)
    pack_pictures(model)
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
        model: with warps of square features of known size; changed in place.

    Returns:
        How many warps were rewritten.
    """
    graph = onnx.shape_inference.infer_shapes(model).graph
    sizes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.value_info, *graph.input):
        sizes[value.name] = tuple(size.dim_value for size in value.type.tensor_type.shape.dim)
    nodes, rewritten = [], 0
    for node in model.graph.node:
        settings = {attribute.name: attribute for attribute in node.attribute}
        nodes.append(node)
        if node.op_type != "GridSample" or settings["padding_mode"].s != b"border":
            continue
        height, width = sizes[node.input[0]][2:]
        if height != width or not settings["align_corners"].i:
            continue
        settings["padding_mode"].s, settings["align_corners"].i = b"zeros", 0
        scale, name = np.float32((width - 1) / width), f"{node.name}_fast"
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
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return rewritten


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
        if tensor.data_type != onnx.TensorProto.FLOAT or np.prod(tensor.dims) < SIZE * SIZE:
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
        nodes = [*packed, *model.graph.node]
        del model.graph.node[:]
        model.graph.node.extend(nodes)
    return len(packed)


def run_onnx(model: bytes, frames: Sequence[dict[str, Any]]) -> list[list[Any]]:
    """The outputs of a graph for each frame's inputs, by ONNX Runtime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return [session.run(None, inputs) for inputs in frames]


def _measure(model: bytes, held_out: Driving, expected: list[torch.Tensor], precision: str) -> ParityRow:
    got = [outputs[0] for outputs in run_onnx(model, held_out.frames())]
    return require(compare(expected, got), precision, f"onnxruntime {version('onnxruntime')}")


def _quantized(
    fp32: bytes, calibration: Driving, held_out: Driving, expected: list[torch.Tensor], verify: bool
) -> ExportedStudent:
    """As much in 8 bits as the gate allows: the generator first, then without its finest layers."""
    error: ParityError | None = None
    for parts in QUANTIZED_PARTS:
        model = quantize(fp32, calibration.spread(CALIBRATION_FRAMES), parts=parts)
        if not verify:
            return ExportedStudent(model, None)
        try:
            return ExportedStudent(model, _measure(model, held_out, expected, "int8"))
        except ParityError as missed:
            error = missed
    raise error or RuntimeError("nothing to quantise")


# -- The script ----------------------------------------------------------------------------------------------


def random_student(gflops: float, *, seed: int = 0, landmarks: torch.Tensor | None = None) -> Student:
    """A student of seeded random weights, bound to a seeded blur: for speed and sizes before any training.

    Args:
        gflops: the most that a frame may cost.
        seed: of everything random.
        landmarks: float32 [478, 3], the face; default: random points, which no motion library can move.
    """
    torch.manual_seed(seed)
    photo = torch.nn.functional.interpolate(torch.rand(1, 3, 16, 16), (SIZE, SIZE), mode="bicubic")[0].clamp(0, 1)
    photo = (photo * 255).round() / 255
    if landmarks is None:
        landmarks = torch.rand(LANDMARKS, 3) * 1.2 - 0.6
    keypoints = landmarks[torch.from_numpy(LOCAL[:KEYPOINTS])]
    student = Student(student_config(gflops)).bind(Identity(photo, landmarks, keypoints, photo[:, None]))
    with torch.no_grad():  # Layers that start at zero would be folded away, and animate nothing.
        for parameter in student.parameters():
            if not parameter.any():
                parameter.normal_(std=0.02)
    return student.eval()


def random_driver() -> tuple[torch.Tensor, torch.Tensor]:
    """A driver of the right form for `random_student`: its keypoints are landmarks."""
    weight = torch.zeros(KEYPOINTS, 2, LANDMARKS, 3)
    for index, landmark in enumerate(LOCAL[:KEYPOINTS]):
        weight[index, [0, 1], int(landmark), [0, 1]] = 1
    return weight.reshape(2 * KEYPOINTS, -1), torch.zeros(2 * KEYPOINTS)


def random_driving(student: Student, frames: int, seed: int) -> Driving:
    """Smooth seeded motion around a student's own keypoints."""
    source = student.get_buffer("source_points")[0].numpy()
    waves = np.random.default_rng(seed).normal(size=(3, *source.shape))
    time_axis = np.arange(frames)[:, None, None] / 8
    points = source + 0.03 * sum(np.sin(time_axis * (i + 1) + 6 * wave) for i, wave in enumerate(waves))
    points = points.astype(np.float32)
    return Driving(points[:, :KEYPOINTS], points[:, KEYPOINTS:])


def _driving_of(folder: Path, name: str) -> Driving | None:
    """A track that distillation left in its run folder."""
    track = folder / name
    try:
        arrays = [np.load(track / f"{part}.npy", allow_pickle=False) for part in ("keypoints", "local_landmarks")]
    except (OSError, ValueError):
        return None
    return Driving(*arrays)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="to_onnx", description="A student as ONNX, verified against torch.")
    parser.add_argument(
        "checkpoint",
        nargs="?",
        type=Path,
        help="student.safetensors or its run folder; default: random weights",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("onnx"), help="folder for the graphs (default: %(default)s)"
    )
    parser.add_argument("--precision", choices=(*PRECISIONS, "all"), default="all", help="default: %(default)s")
    parser.add_argument(
        "--tier",
        choices=tuple(TIERS),
        default="standard",
        help="size of a random student (default: %(default)s)",
    )
    parser.add_argument("--gflops", type=float, help="size of a random student in GFLOPs per frame, instead of --tier")
    parser.add_argument("--no-verify", action="store_true", help="do not compare with torch; the result is marked so")
    return parser.parse_args()


def main() -> int:
    """Run the script; the exit code."""
    arguments, begun = _arguments(), time.monotonic()

    # 1. Load.
    if arguments.checkpoint is None:
        gflops = arguments.gflops or TIERS[arguments.tier]
        student = random_student(gflops)
        print(f"No checkpoint: random weights, {gflops:g} GFLOPs; speed and sizes are valid, pictures are not.")
        calibration, held_out = (random_driving(student, 64, seed) for seed in (1, 2))
        driver: tuple[torch.Tensor, torch.Tensor] | None = random_driver()
    else:
        path = arguments.checkpoint
        folder = path if path.is_dir() else path.parent
        student, _ = load_student(folder / "student.safetensors" if path.is_dir() else path)
        calibration = _driving_of(folder, "training") or random_driving(student, 64, 1)
        held_out = _driving_of(folder, "held_out") or random_driving(student, 64, 2)
        driver = None
    cost = student_cost(student.config)
    print(
        f"student: {cost.gmacs:.2f} GMACs = {cost.gflops:.2f} GFLOPs a frame, {cost.parameters / 1e6:.2f} M parameters"
    )

    # 2. Wrap and 3. export; 4. check: graph, shapes, and parity with torch.
    precisions = PRECISIONS if arguments.precision == "all" else (arguments.precision,)
    export = export_onnx(
        student,
        driver,
        calibration=calibration,
        held_out=held_out,
        precisions=precisions,
        verify=not arguments.no_verify,
    )
    for precision, exported in export.students.items():
        row = exported.parity
        verdict = f"{row.mean_db:.1f} dB mean, {row.worst_db:.1f} dB worst" if row else "converted, NOT verified"
        print(f"{precision}: {len(exported.model) / 1e6:.2f} MB, {verdict}")

    # 5. Write.
    files = {f"student{'' if p == 'fp32' else '.' + p}.onnx": s.model for p, s in export.students.items()}
    if export.driver:
        files["driver.onnx"] = export.driver
    write_files(arguments.output, files)
    result = {
        "output": str(arguments.output),
        "bytes": {name: len(body) for name, body in files.items()},
        "gmacs": cost.gmacs,
        "gflops": cost.gflops,
        "parameters": cost.parameters,
        "opset": OPSET,
        "verified": not arguments.no_verify,
        "parity": [s.parity._asdict() for s in export.students.values() if s.parity],
        "seconds": round(time.monotonic() - begun, 1),
    }
    print(json.dumps(result))
    return 0


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    """Files in a folder, each whole or not at all.

    Raises:
        InputError: when the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, body in files.items():
            handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{name}.", suffix=".tmp")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(body)
                os.chmod(temporary, 0o644)
                os.replace(temporary, folder / name)
            finally:
                Path(temporary).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror}). Choose another --output.") from error


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SuperFaceError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
