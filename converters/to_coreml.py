"""Student → Core ML: student.mlpackage (16 bits), student.int8.mlpackage, driver.mlpackage; executed, then written.

    python converters/to_coreml.py               seeded random weights: sizes and speed are valid, pictures are not
    python converters/to_coreml.py runs/me       a run folder of `superface make`, its bundle, or student.safetensors

Five steps, top to bottom in `main`: load, wrap, export, check, write. On macOS Core ML itself does the check; elsewhere
the interpreter of edge/judges/mil.py computes the saved package. The last line is one JSON object.
"""

import hashlib
import importlib
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from converters.cli import conclude, load_source, parse_arguments, run_script
from converters.parity import compare, first_within_gate, require, require_driver
from converters.quantize import QUANTIZED_PARTS, Quantised, importing, in_eight_bits, is_packed, pack_tables, quiet
from converters.student_graph import DriverGraph, Driving, StudentGraph
from converters.write_bundle import SYNTHETIC_MEDIA, Lowered
from edge.errors import InputError
from edge.runtimes import engine, load_graph
from edge.spec import IMAGE_OUT, KEYPOINTS_IN, LANDMARKS_IN, LOCAL_IN, NETWORK, TensorSpec
from training.student.driver import Driver
from training.student.network import Student

TARGETS = ("iOS16", "iOS17", "iOS18")
PRECISIONS = ("fp16", "int8", "fp32", "w8", "palette6", "image")
"""int8: weights and activations of the generator (needs iOS 17); w8: int8 weights of convolutions; palette6: 6-bit
palettes of them; all three with packed tables; image: fp16 whose output is an RGB pixel buffer."""
BUNDLED = ("fp16", "int8")
VERIFIED_FRAMES = 8

NEURAL_ENGINE_OPS = frozenset(
    ["add", "cast", "clip", "concat", "conv", "dequantize", "exp", "expand_dims", "linear", "matmul", "maximum"]
    + ["minimum", "mul", "pixel_shuffle", "pixel_unshuffle", "quantize", "real_div", "reduce_sum", "relu", "reshape"]
    + ["sigmoid", "slice_by_index", "slice_by_size", "softmax", "split", "square", "squeeze", "sub", "transpose"]
    + ["upsample_bilinear", "upsample_nearest_neighbor"]
)
"""What Apple's own converters place on the neural engine. The warp (`resample`) is the one exception that we allow."""
ALLOWED_OPS = NEURAL_ENGINE_OPS | {"resample", "const"}


def export_coreml(
    student: Student,
    driver: Driver | None,
    *,
    calibration: Driving,
    held_out: Driving,
    precisions: Sequence[str] = BUNDLED,
    target: str = TARGETS[0],
    verify: bool = True,
    quantised: Quantised | None = None,
) -> tuple[list[Lowered], Lowered | None]:
    """A bound student as Core ML packages that were run and compared.

    Args:
        student: bound, trained; not changed.
        driver: landmarks → keypoints of this person.
        calibration: motion of the training track, which sets the int8 ranges.
        held_out: motion that neither training nor calibration saw; the parity is measured on it.
        precisions: of `PRECISIONS`.
        target: the oldest system that must run it, of `TARGETS`.
        verify: run each saved package, compare with torch and hold the result to `GATES`.
        quantised: this student in 8 bits (`in_eight_bits`), where another converter takes it as well.

    Returns:
        The student at each precision, and the driver where there is one.

    Raises:
        ParityError: when a package misses its gate.
        InputError: when a precision is unknown, an operation is not allowed, or the student is not finite.
        MissingRuntimeError: when coremltools is not installed.
    """
    unknown = sorted(set(precisions) - set(PRECISIONS))
    if unknown:
        raise InputError(f"Core ML export knows {', '.join(PRECISIONS)}, not {unknown[0]}.")
    tools = _coremltools()
    graph = StudentGraph(student)
    doors = (KEYPOINTS_IN, LOCAL_IN)
    frames = held_out.spread(VERIFIED_FRAMES).frames()
    expected = [graph(*map(torch.from_numpy, inputs.values()))[0] for inputs in frames] if verify else []
    digest = _digest(student)

    def half(graph: StudentGraph) -> Any:
        return pack_constants(convert(graph, doors, (IMAGE_OUT.name,), target, "fp16"))

    @cache
    def small() -> Any:
        return half(StudentGraph(pack_tables(student)))  # made once, compressed twice

    def lowered(precision: str, model: Any) -> Lowered:
        path = f"student{'' if precision == 'fp16' else f'.{precision}'}.mlpackage"
        operations = lint(model)
        describe(model, digest, precision)
        with tempfile.TemporaryDirectory() as folder:
            package = Path(folder) / path
            with quiet():
                model.save(str(package))
            parity = None
            if verify:
                run = load_graph("coreml", package)
                scale = 255 if precision == "image" else 1
                got = [run(**inputs)[0] / scale for inputs in frames]
                parity = require(compare(expected, got), "coreml", precision, engine("coreml"))
            return Lowered("coreml", precision, path, read_package(package), parity, delegated=sum(operations.values()))

    def weights(kind: str) -> Any:
        optimize = importlib.import_module("coremltools.optimize.coreml")
        # Only convolutions: the person's own constants (photo, fields) must not be coarsened more.
        if kind == "w8":
            setting = optimize.OpLinearQuantizerConfig(mode="linear_symmetric", weight_threshold=512)
            compress = optimize.linear_quantize_weights
        else:
            setting = optimize.OpPalettizerConfig(mode="kmeans", nbits=6, weight_threshold=512)
            compress = optimize.palettize_weights
        with quiet():
            return compress(small(), optimize.OptimizationConfig(op_type_configs={"conv": setting}))

    def eight_bits() -> Lowered:
        """As much in 8 bits as the gate allows, as for the other runtimes."""
        least = "iOS17" if target == "iOS16" else target  # Activations in 8 bits came with iOS 17.
        module = quantised or in_eight_bits(student, calibration)

        def made(parts: tuple[str, ...]) -> Lowered:
            return lowered("int8", pack_constants(convert(module(parts), doors, (IMAGE_OUT.name,), least, "fp16")))

        return first_within_gate(made, QUANTIZED_PARTS)

    makers: dict[str, Callable[[], Lowered]] = {
        "fp16": lambda: lowered("fp16", half(graph)),
        "int8": eight_bits,
        "fp32": lambda: lowered("fp32", convert(graph, doors, (IMAGE_OUT.name,), target, "fp32")),
        "w8": lambda: lowered("w8", weights("w8")),
        "palette6": lambda: lowered("palette6", weights("palette6")),
        "image": lambda: lowered(
            "image", pack_constants(convert(PixelGraph(graph), doors, tools.ImageType, target, "fp16"))
        ),
    }
    students = [makers[precision]() for precision in PRECISIONS if precision in precisions]
    return students, None if driver is None else _export_driver(driver, target)


def convert(module: nn.Module, inputs: Sequence[TensorSpec], outputs: Any, target: str, precision: str) -> Any:
    """A module as an ML Program, not yet saved.

    Coordinates and warps stay fp32 at every precision (docs/conventions.md): half a step of fp16 at the border of the
    crop is a sixteenth of a pixel.

    Args:
        module: eval mode, takes and gives tensors of fixed shapes.
        inputs: what it takes.
        outputs: names of what it gives, or coremltools' ImageType for an RGB pixel buffer.
        target: of `TARGETS`.
        precision: "fp16" or "fp32".
    """
    tools = _coremltools()
    example = tuple(torch.zeros(door.shape) for door in inputs)
    if precision == "fp16":
        computed = tools.transform.FP16ComputePrecision(op_selector=_may_be_half)
    else:
        computed = tools.precision.FLOAT32
    if isinstance(outputs, tuple):
        given = [tools.TensorType(name=name, dtype=np.float32) for name in outputs]
    else:
        given = [outputs(name=IMAGE_OUT.name, color_layout=tools.colorlayout.RGB)]
    with quiet(), torch.no_grad():
        program = torch.export.export(module, example, strict=False).run_decompositions({})
        return tools.convert(
            program,
            convert_to="mlprogram",
            minimum_deployment_target=getattr(tools.target, target),
            compute_precision=computed,
            inputs=[tools.TensorType(name=door.name, shape=door.shape, dtype=np.float32) for door in inputs],
            outputs=given,
        )


def _may_be_half(operation: Any) -> bool:
    """Whether an operation may compute in fp16: feature maps [N, C, H, W] may, what places pixels may not.

    Measured on a trained student: 73 dB like this, 50 dB for the worst frame with matrices of motion in fp16 too.
    """
    shapes = [tuple(value.shape or ()) for value in operation.outputs]
    return operation.op_type != "resample" and all(len(shape) == 4 and 2 not in shape for shape in shapes)


def lint(model: Any) -> dict[str, int]:
    """How often each operation occurs in an ML Program.

    Raises:
        InputError: names an operation that the neural engine is not documented to take, and the value it makes.
    """
    counts: dict[str, int] = {}
    for block in model.get_spec().mlProgram.functions["main"].block_specializations.values():
        for operation in block.operations:
            if operation.type not in ALLOWED_OPS and not operation.type.startswith("constexpr_"):
                made = operation.outputs[0].name if operation.outputs else "nothing"
                raise InputError(
                    f"The graph has the operation {operation.type} (it makes {made}), which the neural engine is not "
                    "documented to take. Write it with others in training/student/network.py."
                )
            if operation.type != "const":
                counts[operation.type] = counts.get(operation.type, 0) + 1
    return counts


def pack_constants(model: Any) -> Any:
    """The same model with pictures and packed tables in 8 bits, which hold them; nothing else is coarsened.

    Pictures (layer, canvas) are k / 255 and span 0..1 in most photos; tables, where `pack_tables` made them, are whole
    numbers up to 127. So the 8 bits are exact; Core ML unpacks them once.
    """
    optimize = importlib.import_module("coremltools.optimize.coreml")
    setting = partial(optimize.OpLinearQuantizerConfig, granularity="per_tensor", weight_threshold=0)
    picture, table = setting(mode="linear", dtype="uint8"), setting(mode="linear_symmetric", dtype="int8")
    settings = {}
    for operation in model._mil_program.functions["main"].find_ops(op_type="const"):
        values = np.asarray(operation.val.val)
        if values.shape[-2:] == (NETWORK, NETWORK):
            settings[operation.name] = picture
        elif is_packed(values):
            settings[operation.name] = table
    if not settings:
        return model
    with quiet():
        return optimize.linear_quantize_weights(model, optimize.OptimizationConfig(op_name_configs=settings))


def describe(model: Any, digest: str, precision: str) -> None:
    """Put into a model who made it, from what, and what its doors mean."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        made_with = version("superface")
    except PackageNotFoundError:
        made_with = "0"
    model.author = "SuperFace"
    model.license = "The photo's own; the software is Apache-2.0"
    model.short_description = f"A talking avatar: keypoints in, a frame out. {SYNTHETIC_MEDIA}"
    model.version = made_with
    doors = {
        KEYPOINTS_IN.name: "20 keypoints (x, y), -1 and 1 at the centres of the crop's first and last pixel",
        LOCAL_IN.name: "56 local landmarks (x, y) in the same coordinates",
        LANDMARKS_IN.name: "478 landmarks of MediaPipe (x, y, z), retargeted to this avatar",
    }
    for door in model.get_spec().description.input:
        model.input_description[door.name] = doors[door.name]
    model.user_defined_metadata["superface.student_sha256"] = digest
    model.user_defined_metadata["superface.precision"] = precision


def read_package(package: Path) -> dict[str, bytes]:
    """All files of a saved package, by path from its parent folder."""
    files = sorted(path for path in package.rglob("*") if path.is_file())
    return {path.relative_to(package.parent).as_posix(): path.read_bytes() for path in files}


class PixelGraph(nn.Module):
    """The student for a pixel buffer: its image in 0..255."""

    def __init__(self, graph: StudentGraph):
        """Wrap a student's graph."""
        super().__init__()
        self.inner = graph

    def forward(self, keypoints: torch.Tensor, local_landmarks: torch.Tensor) -> tuple[torch.Tensor]:
        """One frame."""
        return (self.inner(keypoints, local_landmarks)[0] * 255,)


def _export_driver(driver: Driver, target: str) -> Lowered:
    graph = DriverGraph(driver)
    model = convert(graph, (LANDMARKS_IN,), (KEYPOINTS_IN.name, LOCAL_IN.name), target, "fp32")
    describe(model, "", "fp32")
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "driver.mlpackage"
        with quiet():
            model.save(str(package))
        require_driver(graph, load_graph("coreml", package), "Core ML", 1e-4)
        body = read_package(package)
        return Lowered("coreml", "fp32", "driver.mlpackage", body, note="torch's to rounding")


def _digest(student: Student) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(student.state_dict().items()):
        digest.update(name.encode() + np.ascontiguousarray(tensor.cpu().numpy()).tobytes())
    return digest.hexdigest()


def _coremltools() -> Any:
    """The package, whose import takes several seconds."""
    with importing("coreml"):
        import coremltools
    return coremltools


def main() -> int:
    """Run the script; the exit code."""
    arguments = parse_arguments("coreml", str(__doc__).split("\n")[0], precisions=PRECISIONS, targets=TARGETS)
    begun = time.monotonic()
    # 1. Load.
    source = load_source(arguments)
    # 2. Wrap, 3. export, 4. check: operations, and parity of the saved package with torch.
    students, driver = export_coreml(
        source.student,
        source.driver,
        calibration=source.calibration,
        held_out=source.held_out,
        precisions=arguments.precisions,
        target=arguments.target,
        verify=not arguments.no_verify,
    )
    # 5. Write.
    return conclude(arguments, source, students, begun=begun, driver=driver, extra={"target": arguments.target})


if __name__ == "__main__":
    run_script(main)
