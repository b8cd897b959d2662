"""What runs a graph: ONNX Runtime, ExecuTorch, Core ML, or plain numpy; each imported when it is asked for.

A runtime is a function: a graph in, a callable out that takes named arrays and gives the graph's outputs.
Nothing else in `edge` knows which one it is.
"""

import importlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from edge.errors import BundleError, InputError, MissingRuntimeError, SpecError

Runtime = Literal["onnx", "executorch", "coreml", "numpy"]
Precision = Literal["fp32", "fp16", "int8"]
Run = Callable[..., tuple[npt.NDArray[Any], ...]]
"""A graph that is ready: named inputs in, its outputs out."""


def load_graph(runtime: Runtime, source: Path | bytes, threads: int | None = None, *, name: str | None = None) -> Run:
    """A graph that is ready to run. Who does not know where it comes from lints it first (`edge.avatar` does).

    Args:
        runtime: its name.
        source: the file or its content, or for Core ML the package folder; of `format_of(runtime)`'s format.
        name: the file's, for errors, where its content is given.
        threads: for one frame; default: the runtime's own choice. Core ML and numpy have settings of their own;
            ExecuTorch has one for the whole process.

    Raises:
        InputError: when there is no such runtime, or ExecuTorch already runs on other threads.
        MissingRuntimeError: when its package is not installed; the sentence says how to get it.
        BundleError: when the runtime cannot load the file; from the callable, when it cannot run it.
    """
    if runtime not in get_args(Runtime):
        raise InputError(f"There is no runtime {runtime!r}. Choose {', '.join(get_args(Runtime))}.")
    name = name or (source.name if isinstance(source, Path) else "The graph")
    if runtime == "coreml":
        if not isinstance(source, Path):
            raise SpecError("A Core ML package is a folder; give its path.")
        return _coreml(source, name)
    try:
        prepare(runtime)
        body = source.read_bytes() if isinstance(source, Path) else source
    except OSError as error:
        raise BundleError(f"{source!s} cannot be read ({error.strerror}). Is the bundle complete?") from error
    if runtime == "numpy":
        return _numpy(body, name)
    return (_onnx if runtime == "onnx" else _executorch)(body, name, threads)


def prepare(runtime: Runtime) -> None:
    """Import a runtime's package, so that whatever memory is taken after is a graph's.

    Raises:
        MissingRuntimeError: when it is not installed.
    """
    if runtime == "executorch":
        _executorch_modules()
    elif runtime == "coreml" and installed(runtime):
        importlib.import_module("coremltools")
    elif runtime == "onnx":
        importlib.import_module("onnxruntime")


def installed(runtime: Runtime) -> bool:
    """Whether a runtime's package is at hand; nothing is imported."""
    package = {"onnx": "onnxruntime", "executorch": "executorch", "coreml": "coremltools", "numpy": "numpy"}[runtime]
    return importlib.util.find_spec(package) is not None


def format_of(runtime: Runtime) -> str:
    """Whose files a runtime reads: numpy walks the ONNX graph, all others have their own."""
    return "onnx" if runtime == "numpy" else runtime


def engine(runtime: str) -> str:
    """What executes a runtime's graphs here, with its version: never more than is run."""
    from importlib.metadata import version

    if runtime == "coreml":
        tools = f"coremltools {version('coremltools')}"
        return f"Core ML (macOS), {tools}" if sys.platform == "darwin" else f"MIL interpreter (Linux), {tools}"
    package = {"onnx": "onnxruntime", "numpy": "numpy"}.get(runtime, runtime)
    return f"{package} {version(package)}"


def _missing(package: str, extra: str) -> MissingRuntimeError:
    return MissingRuntimeError(f'{package} is not installed. Install it with pip install "superface[{extra}]".')


def _fault(what: str, name: str, error: Exception) -> BundleError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    return BundleError(f"{what} {name} ({reason}). Fetch the bundle again, or make it anew.")


def _numpy(body: bytes, name: str) -> Run:
    from edge.judges.interpreter import NumpyStudent
    from edge.judges.onnx_graph import parse_graph

    return NumpyStudent(parse_graph(body, name), name).run


def onnx_session(body: bytes, name: str, threads: int | None, *, profile: Path | None = None) -> Any:
    """ONNX Runtime's session as every frame is drawn in; `profile` begins the name of a file for its operations' times.

    Raises:
        BundleError: when the file cannot be loaded.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    # One arena plan for all of a frame's maps costs 16 MB more than taking them as they come, at the same
    # speed.
    options.enable_mem_pattern = False
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    try:
        return onnxruntime.InferenceSession(body, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises its own types, which share no base but this.
        raise _fault("ONNX Runtime cannot load", name, error) from error


def _onnx(body: bytes, name: str, threads: int | None) -> Run:
    session = onnx_session(body, name, threads)

    def run(**inputs: npt.NDArray[np.float32]) -> tuple[npt.NDArray[Any], ...]:
        try:
            return tuple(session.run(None, inputs))
        except Exception as error:
            raise _fault("ONNX Runtime cannot run", name, error) from error

    return run


def _executorch(body: bytes, name: str, threads: int | None) -> Run:
    """ExecuTorch's Python runtime takes and gives torch tensors, and so brings torch along; a phone's does not."""
    runtime, pool, torch = _executorch_modules()
    _set_pool(pool, threads)
    try:
        program = runtime.Runtime.get().load_program(body)
        method = program.load_method("forward")
        if method is None:
            raise ValueError("it has no forward method")
        names = [method.metadata.input_tensor_meta(index) for index in range(method.metadata.num_inputs())]
    except Exception as error:  # Errors of ExecuTorch are plain RuntimeErrors and ValueErrors.
        raise _fault("ExecuTorch cannot load", name, error) from error

    def run(**inputs: npt.NDArray[np.float32]) -> tuple[npt.NDArray[Any], ...]:
        if len(inputs) != len(names):
            raise SpecError(f"{name} wants {len(names)} inputs and got {', '.join(inputs)}.")
        # A .pte knows its inputs by their order alone: that of edge.spec, which keyword arguments keep.
        try:
            outputs = method.execute([torch.from_numpy(np.ascontiguousarray(value)) for value in inputs.values()])
            return tuple(output.numpy().copy() for output in outputs)
        except Exception as error:
            raise _fault("ExecuTorch cannot run", name, error) from error

    run.keep = program, body  # type: ignore[attr-defined]  # a method dies with its program, and that with its bytes
    return run


def _executorch_modules() -> tuple[Any, Any, Any]:
    try:
        with warnings.catch_warnings(), _mute():  # of its own use of old names, and of what it looks for in vain
            warnings.simplefilter("ignore")
            names = ("executorch.runtime", "executorch.extension.pybindings.portable_lib", "torch")
            runtime, pool, torch = map(importlib.import_module, names)
    except ModuleNotFoundError as error:
        raise _missing("ExecuTorch", "executorch") from error
    return runtime, pool, torch


_pool_threads: int | None = None


def _set_pool(pool: Any, threads: int | None) -> None:
    """Threads of ExecuTorch's one pool: set before its first program, which keeps a pointer to it, and never again."""
    global _pool_threads
    if _pool_threads is None:
        _pool_threads = threads or os.cpu_count() or 1
        with _mute():  # It tells of each look at the processor.
            if pool._threadpool_get_thread_count() != _pool_threads:
                pool._unsafe_reset_threadpool(_pool_threads)
    elif threads not in (None, _pool_threads):
        raise InputError(
            f"ExecuTorch runs on {_pool_threads} threads since this process loaded its first program, and cannot "
            f"change to {threads}. Start another process for that."
        )


@contextmanager
def _mute() -> Iterator[None]:
    """Without what a library in C++ writes to the process's standard error, past Python."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _coreml(package: Path, name: str) -> Run:
    """Core ML itself on macOS; elsewhere the interpreter, which computes the same program in numpy."""
    if sys.platform != "darwin":
        from edge.judges.mil import MilProgram

        return MilProgram(package).run
    try:
        models = importlib.import_module("coremltools.models")
    except ModuleNotFoundError as error:
        raise _missing("coremltools", "coreml") from error
    try:
        model = models.MLModel(str(package))
        outputs = [value.name for value in model.get_spec().description.output]
    except Exception as error:  # coremltools raises plain RuntimeErrors.
        raise _fault("Core ML cannot load", name, error) from error

    def run(**inputs: npt.NDArray[np.float32]) -> tuple[npt.NDArray[Any], ...]:
        try:
            made = model.predict(inputs)
            return tuple(np.asarray(made[output], np.float32) for output in outputs)
        except Exception as error:
            raise _fault("Core ML cannot run", name, error) from error

    return run
