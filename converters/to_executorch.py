"""Student → ExecuTorch: student.pte, student.int8.pte and driver.pte, executed, compared with torch, then written.

    python converters/to_executorch.py             seeded random weights: sizes and speed are valid, pictures are not
    python converters/to_executorch.py runs/me     a run folder of `superface make`, its bundle, or student.safetensors

Three targets. XNNPACK runs on every phone's CPU, and on the machine that lowers, which executes it. Vulkan (Android's
GPUs) and Core ML (Apple's neural engine) are lowered ahead of time, with convolutions in fp16; of Core ML, the package
inside is computed by edge/judges/mil.py, of Vulkan nothing can be.

Five steps, top to bottom in `main`: load, wrap, export, check, write. The last line is one JSON object.
"""

import copy
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from converters.cli import conclude, load_source, parse_arguments, run_script
from converters.parity import compare, first_within_gate, require, require_driver
from converters.quantize import QUANTIZED_PARTS, Quantised, importing, in_eight_bits, is_packed, quiet
from converters.student_graph import DriverGraph, Driving, StudentGraph
from converters.write_bundle import Lowered
from edge.errors import BundleError, InputError
from edge.runtimes import Runtime, engine, load_graph
from edge.spec import NETWORK
from training.student.driver import Driver
from training.student.network import Painted, Student

TARGETS = {"xnnpack": ("fp32", "int8"), "vulkan": ("fp16",), "coreml": ("fp16",)}
"""Precisions by backend."""
VERIFIED_FRAMES = 16

LEFT_TO_KERNELS = {
    # No backend of ExecuTorch's for CPUs has a warp; its own kernel is vectorised on ARM.
    "xnnpack": frozenset({"grid_sampler_2d"}),
    "vulkan": frozenset[str](),
    "coreml": frozenset[str](),
}
"""Operations that a backend may leave to ExecuTorch's own kernels. Where none is listed, it takes the graph as one."""


class Program(NamedTuple):
    """A lowered graph."""

    body: bytes
    """The .pte file."""
    delegated: int
    """Operations that the backend takes over."""
    fallback: tuple[str, ...]
    """Operations that it leaves to ExecuTorch's own kernels, once for each call."""


def export_executorch(
    student: Student,
    driver: Driver | None,
    *,
    calibration: Driving,
    held_out: Driving,
    precisions: Sequence[str] | None = None,
    target: str = "xnnpack",
    verify: bool = True,
    quantised: Quantised | None = None,
) -> tuple[list[Lowered], Lowered | None]:
    """A bound student as ExecuTorch programs, which were run and compared where they can be.

    Args:
        student: bound, trained; not changed.
        driver: landmarks → keypoints of this person.
        calibration: motion of the training track, which sets the int8 ranges.
        held_out: motion that neither training nor calibration saw; the parity is measured on it.
        precisions: of `TARGETS[target]`; default: all of them.
        target: the backend.
        verify: compare with torch and hold the result to `GATES`.
        quantised: this student in 8 bits (`in_eight_bits`), where another converter takes it as well.

    Returns:
        The student at each precision; the driver, where there is one, with the target that it runs on: XNNPACK.

    Raises:
        ParityError: when a program misses its gate.
        InputError: when target or precision is unknown, an operation does not lower, or the student is not finite.
        MissingRuntimeError: when ExecuTorch, or for its target coremltools, is not installed.
    """
    if target not in TARGETS:
        raise InputError(f"ExecuTorch export knows the targets {', '.join(TARGETS)}, not {target!r}.")
    if unknown := sorted(set(precisions or ()) - set(TARGETS[target])):
        raise InputError(f"ExecuTorch's {target} takes {' and '.join(TARGETS[target])}, not {unknown[0]}.")
    graph = StudentGraph(student)
    verify = verify and target != "vulkan"  # which only a phone can run
    frames = held_out.spread(VERIFIED_FRAMES).frames()
    expected = [graph(*map(torch.from_numpy, inputs.values()))[0] for inputs in frames] if verify else []

    def lowered(precision: str, module: nn.Module) -> Lowered:
        program = lower(module, graph.example_inputs(), target)
        backend = "" if target == "xnnpack" else f".{target}"
        path = f"student{backend}{'' if precision == 'fp32' else f'.{precision}'}.pte"
        made = _lowered(precision, path, program)
        if target != "xnnpack":
            made = made._replace(note="lowered, not executed here")
        if not verify:
            return made
        runtime, got = run_program(program.body, target, frames)
        return made._replace(parity=require(compare(expected, got), "executorch", precision, engine(runtime)))

    def eight_bits() -> Lowered:
        """As much in 8 bits as the gate allows: the generator first, then without its finest layers."""
        module = quantised or in_eight_bits(student, calibration)
        return first_within_gate(lambda parts: lowered("int8", module(parts)), QUANTIZED_PARTS)

    makers: dict[str, Callable[[], Lowered]] = {
        "fp32": lambda: lowered("fp32", graph),
        "int8": eight_bits,
        "fp16": lambda: lowered("fp16", half_precision(graph)),
    }
    students = [makers[precision]() for precision in TARGETS[target] if precision in (precisions or TARGETS[target])]
    return students, _export_driver(driver) if driver and target == "xnnpack" else None


def lower(module: nn.Module, example: tuple[torch.Tensor, ...], target: str) -> Program:
    """A module as an ExecuTorch program for one backend, held to `LEFT_TO_KERNELS`.

    Args:
        module: takes and gives tensors of fixed shapes.
        example: inputs of those shapes.
        target: a key of `LEFT_TO_KERNELS`; or "driver", which is left to ExecuTorch's own kernels whole: it is a few
            thousand multiplications, no slower there, and XNNPACK takes 16 seconds to lower it.

    Raises:
        InputError: when the backend leaves an operation that it should take; names it.
        MissingRuntimeError: when ExecuTorch, or for its target coremltools, is not installed.
    """
    with importing("executorch"):
        from executorch.exir import to_edge_transform_and_lower
    backends = [] if target == "driver" else [_partitioner(target)]
    with quiet(), torch.no_grad():
        exported = torch.export.export(module, example, strict=False)
        if target != "vulkan":  # What cannot be run here is left as it is.
            packed = store_tables(pack_pictures(exported.module()))
            exported = torch.export.export(packed, example, strict=False)
        rewrite(exported.graph_module, target)
        program = to_edge_transform_and_lower(exported, partitioner=backends)
    delegated, fallback = lint(program.exported_program().graph_module, target) if backends else (0, ())
    with quiet():
        return Program(bytes(program.to_executorch().buffer), delegated, fallback)


def pack_pictures(exported: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """Keep constants that are pictures, every value k / 255, in 8 bits: the same values in a quarter of the bytes.

    Distillation leaves layer and canvas so, and they are half of a program. The backend takes them apart in each
    frame, in a time that is lost in the noise.

    Args:
        exported: a module of torch.export; changed in place, and returned.
    """
    for node in exported.graph.find_nodes(op="get_attr"):
        picture = attrgetter(node.target)(exported)
        if not isinstance(picture, torch.Tensor) or picture.shape[-2:] != (NETWORK, NETWORK):
            continue
        levels = (picture * 255).round()
        if levels.min() < 0 or levels.max() > 255 or (picture - levels / 255).abs().max() > 1e-6:
            continue
        node.replace_all_uses_with(_unpacked(exported, node, levels - 128, scale=1 / 255, zero=-128))
        exported.graph.erase_node(node)
    exported.recompile()
    return exported


def store_tables(exported: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """Keep tables of whole numbers, as `pack_tables` leaves them, in 8 bits.

    XNNPACK has no product of floats with such a table. So it is unpacked in each frame, and multiplied as a matrix from
    the left, which XNNPACK reads as it lies. Codes in 8 bits, for which it has a product, were hardly faster.

    Args:
        exported: a module of torch.export; changed in place, and returned.
    """
    aten, call = torch.ops.aten, exported.graph.call_function
    for node in exported.graph.find_nodes(op="call_function", target=aten.linear.default):
        table = attrgetter(node.args[1].target)(exported).detach()
        if not is_packed(table.numpy()):
            continue
        codes, weight, bias = node.args
        unpacked = _unpacked(exported, weight, table[None], scale=1.0, zero=0)
        with exported.graph.inserting_before(node):
            column = call(aten.view.default, (codes, [1, table.shape[1], 1]))
            product = call(aten.view.default, (call(aten.bmm.default, (unpacked, column)), [1, table.shape[0]]))
            total = call(aten.add.Tensor, (product, bias))
        node.replace_all_uses_with(total)
        exported.graph.erase_node(node)
    exported.graph.eliminate_dead_code()
    exported.recompile()
    return exported


def _unpacked(
    exported: torch.fx.GraphModule, constant: torch.fx.Node, levels: torch.Tensor, *, scale: float, zero: int
) -> torch.fx.Node:
    """A node, put before a constant's own, that unpacks `levels`: whole numbers of 8 bits, kept beside the constant."""
    path, _, name = str(constant.target).rpartition(".")
    exported.get_submodule(path).register_buffer(f"{name}_levels", levels.to(torch.int8))
    unpack = torch.ops.quantized_decomposed.dequantize_per_tensor.default
    with exported.graph.inserting_before(constant):
        stored = exported.graph.get_attr(f"{constant.target}_levels")
        return exported.graph.call_function(unpack, (stored, scale, zero, -128, 127, torch.int8))


def rewrite(graph_module: torch.fx.GraphModule, target: str) -> None:
    """Write operations in the form that a backend takes, in place: the same numbers.

    XNNPACK knows `unsqueeze` in some places only and no `select`, and each that it leaves cuts the graph in two. It
    knows no warp; of ExecuTorch's own kernels for it, the vectorised one (on ARM) pads with zeros. So the field is
    clamped to the crop, where no padding is met.
    """
    aten, graph = torch.ops.aten, graph_module.graph
    scalars = (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.rsub.Scalar)
    for node in graph.nodes:
        if node.target in scalars:  # Integers would be cast to floats in each frame.
            node.args = tuple(float(value) if isinstance(value, int) else value for value in node.args)
        elif target == "xnnpack" and node.target == aten.unsqueeze.default:
            node.target, node.args = aten.view.default, (node.args[0], list(node.meta["val"].shape))
        elif target == "xnnpack" and node.target == aten.select.int:
            values, axis, at = node.args
            at %= values.meta["val"].shape[axis]
            with graph.inserting_before(node):
                part = graph.call_function(aten.slice.Tensor, (values, axis, at, at + 1))
            part.meta = dict(node.meta, val=values.meta["val"].narrow(axis, at, 1))
            node.target, node.args = aten.view.default, (part, list(node.meta["val"].shape))
        elif target == "xnnpack" and node.target == aten.grid_sampler.default:
            features, field, mode, padding, corners = node.args
            if (padding, corners) != (1, True):
                continue
            with graph.inserting_before(node):
                inside = graph.call_function(aten.clamp.default, (field, -1.0, 1.0))
            inside.meta = dict(field.meta)
            node.args = (features, inside, mode, 0, corners)
    graph_module.recompile()


def lint(lowered: torch.fx.GraphModule, target: str) -> tuple[int, tuple[str, ...]]:
    """Count what the backend took, and refuse what it should not have left.

    Args:
        lowered: the graph after the backend's partitioner.
        target: a key of `LEFT_TO_KERNELS`.

    Returns:
        Operations taken, and the names of those left, once for each call.

    Raises:
        InputError: names an operation that is left, and where in the model it stands.
    """
    allowed, parts, fallback = LEFT_TO_KERNELS[target], [], []
    for node in lowered.graph.nodes:
        if node.op == "get_attr" and hasattr(part := getattr(lowered, str(node.target)), "original_module"):
            parts.append(part.original_module)
        name = _operation(node)
        if not name or name == "executorch_call_delegate":
            continue
        fallback.append(name)
        if name not in allowed:
            modules = list(node.meta.get("nn_module_stack", {}).values())
            place = modules[-1][0] if modules and modules[-1][0] else "the graph itself"
            raise InputError(
                f"The {target} backend does not take the operation {name} (in {place}). Write it with others, in "
                "training/student/network.py or for this backend alone in converters/to_executorch.py."
            )
    if not parts or (not allowed and len(parts) > 1):
        raise InputError(f"The {target} backend takes the graph in {len(parts)} parts where one is wanted.")
    taken = Counter(_operation(node) for part in parts for node in part.graph.nodes)
    # Pairs of quantize and dequantize only say how the operations between them compute.
    return sum(count for name, count in taken.items() if name and "quantize" not in name), tuple(fallback)


def half_precision(graph: StudentGraph) -> StudentGraph:
    """A copy whose convolutions compute in fp16; all that places pixels, and the blending of layers, stays fp32.

    Measured on the worst frame of a trained student: 97 dB like this, 47 dB with fields and warps in fp16 too.
    """
    student = copy.deepcopy(graph.student)
    for owner, name in ((student.person, "place"), (student.network, "motion_trunk"), (student.network, "generator")):
        setattr(owner, name, _Half(getattr(owner, name)))
    return StudentGraph(student)


class _Half(nn.Module):
    """A part of the student in fp16 with fp32 doors."""

    def __init__(self, part: nn.Module):
        super().__init__()
        self.part = part.half()

    def forward(self, *inputs: Any) -> Any:
        maps = self.part(*(value.half() if isinstance(value, torch.Tensor) else value for value in inputs))
        if isinstance(maps, torch.Tensor):
            return maps.float()
        floats = [values.float() for values in maps]
        return Painted(*floats) if isinstance(maps, Painted) else tuple(floats)


def run_program(body: bytes, target: str, frames: Sequence[dict[str, Any]]) -> tuple[Runtime, list[Any]]:
    """The first output of a program for each frame's inputs, and what computed it: ExecuTorch, or Core ML's package.

    Raises:
        BundleError: when it cannot be loaded.
    """
    runtime: Runtime = "coreml" if target == "coreml" else "executorch"
    with tempfile.TemporaryDirectory() as folder:
        path = (extract_coreml_package if target == "coreml" else _written)(body, Path(folder))
        run = load_graph(runtime, path)
        return runtime, [run(**inputs)[0] for inputs in frames]


def extract_coreml_package(pte: bytes, folder: Path) -> Path:
    """The Core ML package inside a program that was lowered to Core ML.

    Args:
        pte: the program.
        folder: where it is unpacked; must exist.

    Returns:
        The `.mlpackage` in that folder.

    Raises:
        BundleError: when there is no such package inside.
        MissingRuntimeError: when ExecuTorch or coremltools is not installed.
    """
    with importing("coreml"):
        from executorch.backends.apple.coreml import executorchcoreml
        from executorch.exir._serialize._program import deserialize_pte_binary
    program = deserialize_pte_binary(pte).program
    for delegate in program.execution_plan[0].delegates:
        if delegate.id == "CoreMLBackend":
            blob = bytes(program.backend_delegate_data[delegate.processed.index].data)
            executorchcoreml.unflatten_directory_contents(blob, str(folder))
    package = next(folder.rglob("*.mlpackage"), None)
    if package is None:
        raise BundleError("This program holds no Core ML package. Lower it with --target coreml.")
    return package


def _partitioner(target: str) -> Any:
    if target == "vulkan":
        with importing("executorch"):
            from executorch.backends.vulkan.partitioner.vulkan_partitioner import VulkanPartitioner
        return VulkanPartitioner()
    if target == "coreml":
        with importing("coreml"):
            import coremltools
            from executorch.backends.apple.coreml.compiler import CoreMLBackend
            from executorch.backends.apple.coreml.partition import CoreMLPartitioner
        specs = CoreMLBackend.generate_compile_specs(
            minimum_deployment_target=coremltools.target.iOS17,
            compute_precision=coremltools.precision.FLOAT32,  # As the graph says; FLOAT16 would halve all of it.
            compute_unit=coremltools.ComputeUnit.CPU_AND_NE,
        )
        return CoreMLPartitioner(compile_specs=specs)
    with importing("executorch"):
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    return XnnpackPartitioner()


def _operation(node: torch.fx.Node) -> str:
    """The short name of what a node calls; empty for what computes nothing."""
    name = getattr(node.target, "__name__", "")
    return "" if node.op != "call_function" or name == "getitem" else name.removeprefix("aten.").split(".")[0]


def _lowered(precision: str, path: str, program: Program) -> Lowered:
    files = {path: program.body}
    return Lowered("executorch", precision, path, files, delegated=program.delegated, fallback=program.fallback)


def _written(body: bytes, folder: Path) -> Path:
    path = folder / "program.pte"
    path.write_bytes(body)
    return path


def _export_driver(driver: Driver) -> Lowered:
    """The teacher's map; raises ParityError when ExecuTorch disagrees with torch by more than rounding."""
    graph = DriverGraph(driver)
    program = lower(graph, graph.example_inputs(), "driver")
    with tempfile.TemporaryDirectory() as folder:
        run = load_graph("executorch", _written(program.body, Path(folder)))
        require_driver(graph, run, "ExecuTorch", 1e-5)
    return _lowered("fp32", "driver.pte", program)._replace(note="torch's to rounding")


def main() -> int:
    """Run the script; the exit code."""
    arguments = parse_arguments(
        "executorch", str(__doc__).split("\n")[0], precisions=("fp32", "int8", "fp16"), targets=tuple(TARGETS)
    )
    begun = time.monotonic()
    # 1. Load.
    source = load_source(arguments)
    # 2. Wrap, 3. export, 4. check: operations left to kernels, and parity of the program with torch.
    students, driver = export_executorch(
        source.student,
        source.driver,
        calibration=source.calibration,
        held_out=source.held_out,
        precisions=None if arguments.precision == "all" else arguments.precisions,
        target=arguments.target,
        verify=not arguments.no_verify,
    )
    # 5. Write.
    return conclude(arguments, source, students, begun=begun, driver=driver, extra={"target": arguments.target})


if __name__ == "__main__":
    run_script(main)
