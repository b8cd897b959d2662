"""A Core ML package run in numpy: what a saved `.mlpackage` computes, on machines that have no Core ML.

Core ML predicts on Apple's systems alone. So that a converter can measure its own result anywhere, this module
reads the package from disk and walks its program (MIL, the Model Intermediate Language) operation by operation
with `edge.judges.ops`, as `edge.judges.interpreter` does with ONNX.

What it judges: the conversion, the compression of weights, and what 16-bit storage costs. Every operation computes
and sums in float32; what it gives is rounded to float16 where the program says so. What it does not judge: the
arithmetic of the neural engine, which may sum in 16 bits too, and Core ML's own reading of compressed weights, which
the reference code of coremltools decodes here.
"""

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from edge.errors import BundleError, MissingRuntimeError, SpecError
from edge.judges import ops

Array = npt.NDArray[Any]
Arguments = Mapping[str, Any]
"""An operation's inputs by name: arrays (floats always in float32), texts, or lists of arrays."""


class Value(NamedTuple):
    """What the program says of an input or of an operation's result."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...] | None
    """None where it is not fixed."""

    def store(self, data: Any) -> Array:
        """The data as this value keeps them: rounded to its type, but halves as float32 for the next operation."""
        array = np.asarray(data).astype(self.dtype, copy=False)
        return array.astype(np.float32) if self.dtype == np.float16 else array


class Reference(NamedTuple):
    """An argument that another operation computes, or the caller gives."""

    name: str


class Step(NamedTuple):
    """One operation of a program."""

    kind: str
    arguments: dict[str, Any]
    """Constants as they are; the rest as `Reference`; or lists of both."""
    results: tuple[Value, ...]

    def reads(self) -> Iterator[str]:
        """The names of what it needs from others."""
        for argument in self.arguments.values():
            parts = argument if isinstance(argument, list) else [argument]
            yield from (part.name for part in parts if isinstance(part, Reference))


class Program(NamedTuple):
    """What a package says: operations in order with their constants, and what goes in and out."""

    steps: tuple[Step, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[str, ...]


class MilProgram:
    """A package that is ready to run. Made once, driven once per frame."""

    def __init__(self, package: Path):
        """Read the package.

        Args:
            package: the folder `NAME.mlpackage`, whose operations are among those below.

        Raises:
            BundleError: when the package is missing, damaged, of a newer specification, or needs an operation that
                is not here.
            MissingRuntimeError: when coremltools is not installed.
        """
        self.program = read_package(Path(package))
        # The step after which a value is no longer needed: frees the large maps early.
        self._last_use = {name: index for index, step in enumerate(self.program.steps) for name in step.reads()}

    @property
    def input_names(self) -> tuple[str, ...]:
        """What `run` wants, in the program's order."""
        return tuple(value.name for value in self.program.inputs)

    @property
    def output_names(self) -> tuple[str, ...]:
        """What `run` returns, in its order."""
        return self.program.outputs

    def run(self, **inputs: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], ...]:
        """The program's outputs for named inputs.

        Args:
            **inputs: one float32 array for each of the program's inputs, of the shape it was converted with. What
                the program takes as float16 is rounded, as an app would have to.

        Returns:
            One float32 array for each of the program's outputs. One that Core ML hands over as an image is
            [1, 3, H, W] in 0..255, as the program computes it: not rounded to whole levels.

        Raises:
            SpecError: when an input is missing, unknown or of another shape.
            BundleError: when an operation cannot be computed.
        """
        if set(inputs) != set(self.input_names):
            got = ", ".join(inputs) or "nothing"
            raise SpecError(f"This program wants {', '.join(self.input_names)}, and got {got}.")
        values: dict[str, Array] = {}
        for value in self.program.inputs:
            given = np.asarray(inputs[value.name])
            if value.shape is not None and given.shape != value.shape:
                raise SpecError(f"{value.name} has shape {given.shape}, this program wants {value.shape}.")
            values[value.name] = value.store(given)
        # An infinity is a result, as it is on the phone: what becomes of it is for the caller to judge.
        with np.errstate(all="ignore"):
            for index, step in enumerate(self.program.steps):
                values.update(_evaluate(step, values))
                for name in step.reads():
                    if self._last_use[name] == index and name not in self.program.outputs:
                        values.pop(name, None)
        # Copies: neither a constant nor the caller's own array is handed out.
        return tuple(np.array(values[name], np.float32) for name in self.program.outputs)


def _evaluate(step: Step, values: Mapping[str, Array]) -> dict[str, Array]:
    """The results of one operation by name, rounded to their types."""

    def resolve(argument: Any) -> Any:
        if isinstance(argument, list):
            return [resolve(part) for part in argument]
        return values[argument.name] if isinstance(argument, Reference) else argument

    try:
        made = OPERATIONS[step.kind]({name: resolve(argument) for name, argument in step.arguments.items()})
    except (SpecError, ValueError, IndexError, KeyError, TypeError) as error:
        name = step.results[0].name
        raise BundleError(f"{name} ({step.kind}) cannot be computed ({error}). Write the model otherwise.") from error
    results = {}
    for value, data in zip(step.results, made if isinstance(made, list) else [made], strict=True):
        results[value.name] = stored = value.store(data)
        if value.shape is not None and stored.shape != value.shape:
            raise BundleError(
                f"{value.name} ({step.kind}) came out as {stored.shape} where the package says {value.shape}. "
                "Convert the model again; if that does not help, it is a fault of this interpreter."
            )
    return results


# -- Operations: arguments in, one array or a list of arrays out
# ----------------------------------------------------------------------------------------------------
# Names and meanings are those of MIL, iOS 15 to 18; coremltools has put in the defaults of what a file leaves out.
# A ValueError is for a form that our converters never write.


def _slice_by_index(a: Arguments) -> Any:
    data = a["x"]
    strides = a.get("stride", [1] * data.ndim)
    masks = [a.get(f"{name}_mask", [False] * data.ndim) for name in ("begin", "end", "squeeze")]
    cut: list[slice | int] = []
    for begin, end, stride, all_before, all_after, single in zip(a["begin"], a["end"], strides, *masks, strict=True):
        start = None if all_before else int(begin)
        cut.append(start or 0 if single else slice(start, None if all_after else int(end), int(stride)))
    return data[tuple(cut)]


def _slice_by_size(a: Arguments) -> Any:
    starts = [int(begin) % size for begin, size in zip(a["begin"], a["x"].shape, strict=True)]
    ends = [None if size < 0 else start + int(size) for start, size in zip(starts, a["size"], strict=True)]
    return a["x"][tuple(map(slice, starts, ends))]


def _reshape(a: Arguments) -> Any:
    return a["x"].reshape([a["x"].shape[index] if size == 0 else int(size) for index, size in enumerate(a["shape"])])


def _squeeze(a: Arguments) -> Any:
    """Axes of another size than 1 may be named; they stay."""
    axes = a.get("axes", range(a["x"].ndim))
    return np.squeeze(a["x"], tuple(int(axis) for axis in axes if a["x"].shape[axis] == 1))


def _concat(a: Arguments) -> Any:
    if a.get("interleave"):
        raise ValueError("interleaving is not known")
    return np.concatenate(a["values"], int(a["axis"]))


def _split(a: Arguments) -> Any:
    parts = np.cumsum(a["split_sizes"])[:-1] if "split_sizes" in a else int(a["num_splits"])
    return np.split(a["x"], parts, int(a["axis"]))


def _gather(a: Arguments) -> Any:
    if a.get("batch_dims"):
        raise ValueError("batch_dims is not known")
    return np.take(a["x"], a["indices"], int(a["axis"]))


def _pad(a: Arguments) -> Any:
    """For the last axes; those before them stay."""
    given = a["pad"].reshape(-1, 2)
    pairs = np.concatenate([np.zeros((a["x"].ndim - len(given), 2), given.dtype), given])
    if a["mode"] == "constant":
        return np.pad(a["x"], pairs, constant_values=a["constant_val"])
    return np.pad(a["x"], pairs, "edge" if a["mode"] == "replicate" else "reflect")


def _reduce(function: Callable[..., Any]) -> Callable[[Arguments], Any]:
    def over_axes(a: Arguments) -> Any:
        axes = tuple(map(int, a["axes"])) if "axes" in a else None
        return function(a["x"], axis=axes, keepdims=bool(a["keep_dims"]))

    return over_axes


def _matmul(a: Arguments) -> Any:
    left = a["x"].swapaxes(-1, -2) if a["transpose_x"] else a["x"]
    right = a["y"].swapaxes(-1, -2) if a["transpose_y"] else a["y"]
    return left @ right


def _around(a: Arguments, reach: tuple[int, int]) -> list[tuple[int, int]]:
    """What is laid around an image before windows of that reach slide over it: (top, bottom), (left, right)."""
    if a["pad_type"] == "valid":
        return [(0, 0), (0, 0)]
    if a["pad_type"] == "custom":
        return [(int(before), int(after)) for before, after in a["pad"].reshape(-1, 2)]
    pairs = []
    for size, stride, window in zip(a["x"].shape[2:], a["strides"], reach, strict=True):
        total = max(0, int((-(-size // stride) - 1) * stride + window - size))
        pairs.append((total // 2, total - total // 2))
    return [pair[::-1] for pair in pairs] if a["pad_type"] == "same_lower" else pairs


def _conv(a: Arguments) -> Any:
    strides, dilations = set(map(int, a["strides"])), set(map(int, a["dilations"]))
    if a["x"].ndim != 4 or len(strides) != 1 or len(dilations) != 1:
        raise ValueError("only 2-D convolutions of equal strides and dilations are known")
    stride, dilation = strides.pop(), dilations.pop()
    rows, columns = a["weight"].shape[2:]
    (top, bottom), (left, right) = _around(a, (dilation * (rows - 1) + 1, dilation * (columns - 1) + 1))
    shape = {"stride": stride, "dilation": dilation, "groups": int(a["groups"])}
    return ops.conv2d(a["x"], a["weight"], a.get("bias"), padding=(top, left, bottom, right), **shape)


def _avg_pool(a: Arguments) -> Any:
    if a["x"].ndim != 4 or a.get("ceil_mode"):
        raise ValueError("only 2-D pooling without ceil_mode is known")
    rows, columns = map(int, a["kernel_sizes"])
    around = [(0, 0), (0, 0), *_around(a, (rows, columns))]

    def totals(image: Any) -> Any:
        windows: Any = sliding_window_view(np.pad(image, around), (1, 1, rows, columns))
        return windows[:, :, :: int(a["strides"][0]), :: int(a["strides"][1])].sum((4, 5, 6, 7))

    inside = totals(np.ones_like(a["x"])) if a["exclude_padding_from_average"] else np.float32(rows * columns)
    return totals(a["x"]) / inside


def _resample(a: Arguments) -> Any:
    """Torch's grid_sample, in the forms that its converter writes for bilinear reading."""
    known: dict[str, ops.Padding] = {"border": "border", "constant": "zeros"}
    mode, padding = (a["sampling_mode"], a["coordinates_mode"]), a["padding_mode"]
    if mode != ("bilinear", "normalized_minus_one_to_one") or padding not in known or a["padding_value"] != 0:
        raise ValueError(f"resampling by {mode} with padding {padding} is not known")
    return ops.grid_sample(a["x"], a["coordinates"], padding=known[padding], align_corners=bool(a["align_corners"]))


def _scaled(a: Arguments) -> tuple[int, int]:
    height, width = a["x"].shape[-2:]
    return int(np.floor(a["scale_factor_height"] * height)), int(np.floor(a["scale_factor_width"] * width))


def _upsample_bilinear(a: Arguments) -> Any:
    corners = bool(a["align_corners"])
    if bool(a.get("half_pixel_centers", not corners)) == corners:
        raise ValueError("half_pixel_centers beside align_corners is not known")
    return ops.resize_bilinear(a["x"], *_scaled(a), align_corners=corners)


def _resize_bilinear(a: Arguments) -> Any:
    return _bilinear(a["x"], int(a["target_size_height"]), int(a["target_size_width"]), a["sampling_mode"])


def _resize(a: Arguments) -> Any:
    """The one of iOS 17, for the last two axes; a size of 0 means: as it is."""
    mode, sampling = a["interpolation_mode"], a["sampling_mode"]
    height, width = (int(new) or old for new, old in zip(a["shape"][-2:], a["x"].shape[-2:], strict=True))
    if a["resized_dims"] == 2 and mode == "LINEAR":
        return _bilinear(a["x"], height, width, sampling)
    if a["resized_dims"] == 2 and sampling in ("DEFAULT", "UNALIGN_CORNERS"):
        return _nearest(a["x"], height, width)
    raise ValueError(f"the resize {mode} with {sampling} of {a['resized_dims']} axes is not known")


def _bilinear(data: Array, height: int, width: int, sampling: str) -> Any:
    # ALIGN_CORNERS differs from the strict one where a row or column is all that is left.
    strict = sampling == "STRICT_ALIGN_CORNERS" or (sampling == "ALIGN_CORNERS" and min(height, width) > 1)
    if not strict and sampling != "UNALIGN_CORNERS":
        raise ValueError(f"the bilinear resize {sampling} to {height} × {width} is not known")
    return ops.resize_bilinear(data, height, width, align_corners=strict)


def _nearest(data: Array, height: int, width: int) -> Any:
    rows, columns = height // data.shape[-2], width // data.shape[-1]
    if (height, width) != (rows * data.shape[-2], columns * data.shape[-1]):
        raise ValueError("the nearest neighbour is known for whole factors alone")
    return data.repeat(rows, -2).repeat(columns, -1)


def _quantize(a: Arguments) -> Any:
    scale, zero = _per_channel(a)
    limits = np.iinfo(a["output_dtype"])
    return np.clip(np.rint(a["input"] / scale) + zero, limits.min, limits.max)


def _dequantize(a: Arguments) -> Any:
    scale, zero = _per_channel(a)
    return (a["input"].astype(np.float32) - zero) * scale


def _per_channel(a: Arguments) -> list[Array]:
    """Scale and zero point, shaped to meet the input along the quantised axis."""
    shape = [1] * a["input"].ndim
    if "axis" in a:
        shape[int(a["axis"])] = -1
    pair = np.broadcast_arrays(np.asarray(a["scale"], np.float32), np.asarray(a.get("zero_point", 0), np.float32))
    return [part.reshape(shape) for part in pair]


OPERATIONS: dict[str, Callable[[Arguments], Any]] = {
    "abs": lambda a: np.abs(a["x"]),
    "add": lambda a: a["x"] + a["y"],
    "avg_pool": _avg_pool,
    "cast": lambda a: a["x"],  # The type of the result does it.
    "clip": lambda a: np.clip(a["x"], a["alpha"], a["beta"]),
    "concat": _concat,
    "conv": _conv,
    "dequantize": _dequantize,
    "exp": lambda a: np.exp(a["x"]),
    "expand_dims": lambda a: np.expand_dims(a["x"], tuple(map(int, a["axes"]))),
    "gather": _gather,
    "gather_along_axis": lambda a: np.take_along_axis(a["x"], a["indices"], int(a["axis"])),
    "identity": lambda a: a["x"],
    "inverse": lambda a: 1 / (a["x"] + a["epsilon"]),
    "leaky_relu": lambda a: np.where(a["x"] < 0, a["x"] * a["alpha"], a["x"]),
    "linear": lambda a: a["x"] @ a["weight"].T + a["bias"],
    "matmul": _matmul,
    "maximum": lambda a: np.maximum(a["x"], a["y"]),
    "minimum": lambda a: np.minimum(a["x"], a["y"]),
    "mul": lambda a: a["x"] * a["y"],
    "pad": _pad,
    "pixel_shuffle": lambda a: ops.pixel_shuffle(a["x"], int(a["upscale_factor"])),
    "pixel_unshuffle": lambda a: ops.pixel_unshuffle(a["x"], int(a["downscale_factor"])),
    "pow": lambda a: np.power(a["x"], a["y"]),
    "quantize": _quantize,
    "real_div": lambda a: a["x"] / a["y"],
    "reduce_max": _reduce(np.max),
    "reduce_mean": _reduce(np.mean),
    "reduce_min": _reduce(np.min),
    "reduce_sum": _reduce(np.sum),
    "relu": lambda a: ops.relu(a["x"]),
    "resample": _resample,
    "reshape": _reshape,
    "resize": _resize,
    "resize_bilinear": _resize_bilinear,
    "rsqrt": lambda a: 1 / np.sqrt(a["x"] + a["epsilon"]),
    "sigmoid": lambda a: ops.sigmoid(a["x"]),
    "slice_by_index": _slice_by_index,
    "slice_by_size": _slice_by_size,
    "softmax": lambda a: ops.softmax(a["x"], int(a["axis"])),
    "split": _split,
    "sqrt": lambda a: np.sqrt(a["x"]),
    "square": lambda a: np.square(a["x"]),
    "squeeze": _squeeze,
    "stack": lambda a: np.stack(a["values"], int(a["axis"])),
    "sub": lambda a: a["x"] - a["y"],
    "tanh": lambda a: np.tanh(a["x"]),
    "tile": lambda a: np.tile(a["x"], a["reps"]),
    "transpose": lambda a: a["x"].transpose(a["perm"]),
    "upsample_bilinear": _upsample_bilinear,
    "upsample_nearest_neighbor": lambda a: _nearest(a["x"], *_scaled(a)),
}

CONSTANTS = {
    "const", "constexpr_affine_dequantize", "constexpr_blockwise_shift_scale", "constexpr_cast",
    "constexpr_lut_to_dense", "constexpr_sparse_to_dense",
}  # fmt: skip
"""What is the same in every frame, and decoded once."""


# -- Reading a package
# ----------------------------------------------------------------------------------------------------

AGAIN = "Copy the package again, or convert the model again."


def read_package(package: Path) -> Program:
    """A package's operations and decoded constants; for its errors see `MilProgram`."""
    try:
        manifest = json.loads((package / "Manifest.json").read_bytes())
        model = package / "Data" / manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"]
        if not model.resolve().is_relative_to(package.resolve()):
            raise ValueError("its model lies outside of it")
        body = model.read_bytes()
    except OSError as error:
        raise BundleError(f"{error.filename} cannot be read ({error.strerror}). {AGAIN}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(f"The manifest of {package.name} is not that of a Core ML package. {AGAIN}") from error
    with _quiet():
        try:
            from coremltools import proto
            from coremltools.converters.mil._deployment_compatibility import AvailableTarget
            from coremltools.converters.mil.frontend.milproto.load import load
        except ImportError as error:
            raise MissingRuntimeError(
                f'{package.name} is read with coremltools, which is missing. Run: pip install "superface[coreml]".'
            ) from error

    # Protocol buffers, coremltools and its storage reader raise what comes, which shares no base but Exception.
    try:
        spec = proto.Model_pb2.Model.FromString(body)
    except Exception as error:
        raise BundleError(f"{package.name} is damaged: {model.name} is cut short or altered. {AGAIN}") from error
    newest = max(map(int, AvailableTarget))
    if spec.specificationVersion > newest:
        raise BundleError(
            f"{package.name} is of Core ML specification {spec.specificationVersion}; the coremltools installed here "
            f"reads up to {newest}. Update coremltools, or convert for an older iOS."
        )
    if spec.WhichOneof("Type") != "mlProgram" or "main" not in spec.mlProgram.functions:
        raise BundleError(f"{package.name} holds no ML Program with a function `main`. {AGAIN}")
    blocks = spec.mlProgram.functions["main"].block_specializations.values()
    unknown = {operation.type for block in blocks for operation in block.operations} - OPERATIONS.keys() - CONSTANTS
    if unknown:
        raise BundleError(
            f"{package.name} uses {', '.join(sorted(unknown))}, which the Core ML interpreter does not know. "
            "Write the model without, or compare it on a Mac."
        )
    try:
        with _quiet():
            # What the program calls "@model_path/weights".
            return _program(load(spec, spec.specificationVersion, str(model.parent / "weights")).functions["main"])
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise BundleError(f"{package.name} cannot be loaded ({reason}). Are its weights complete? {AGAIN}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of coremltools: of newer libraries than it was tried with, of parts that only macOS has."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _program(function: Any) -> Program:
    """The steps of a function that coremltools has read, free of its objects."""
    from coremltools.converters.mil.mil import types

    constants: dict[Any, Any] = {}

    def is_constant(variable: Any) -> bool:
        return variable.op is not None and variable.op.op_type in CONSTANTS

    def constant(variable: Any) -> Any:
        if variable not in constants:
            made_by = variable.op
            if any(part.op.op_type != "const" for part in made_by.inputs.values() if part is not None):
                raise ValueError(f"{variable.name} is compressed twice over, which is not known")
            value = variable.val if made_by.op_type == "const" else made_by.materialized_val_inference()
            # Halves become floats once, not in every frame.
            floats = not isinstance(value, str) and np.asarray(value).dtype.kind == "f"
            constants[variable] = np.asarray(value, np.float32) if floats else value
        return constants[variable]

    def argument(given: Any) -> Any:
        if isinstance(given, list | tuple):
            return [argument(part) for part in given]
        return constant(given) if is_constant(given) else Reference(given.name)

    def described(variable: Any) -> Value:
        fixed = all(isinstance(size, int | np.integer) for size in variable.shape)
        shape = tuple(map(int, variable.shape)) if fixed else None
        return Value(variable.name, np.dtype(types.nptype_from_builtin(variable.dtype)), shape)

    steps = []
    for operation in function.operations:
        if operation.op_type not in CONSTANTS:
            arguments = {name: argument(given) for name, given in operation.inputs.items() if given is not None}
            steps.append(Step(operation.op_type, arguments, tuple(map(described, operation.outputs))))
    for output in filter(is_constant, function.outputs):
        steps.append(Step("identity", {"x": constant(output)}, (described(output),)))
    inputs = tuple(map(described, function.inputs.values()))
    return Program(tuple(steps), inputs, tuple(output.name for output in function.outputs))
