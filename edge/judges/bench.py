"""How fast an avatar is here, how much memory it takes, and what share of the machine's limit it reaches.

Each setting (runtime, precision, threads) is measured in a process of its own, because threads are set once
for a process and peak memory never goes down. In that same process, before and after the frames, a large
fp32 matrix product shows what the machine can do at that moment with as many threads: times from different
moments cannot be compared, and shares can.
"""

import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edge import bundle as bundles
from edge.avatar import MOST_THREADS, Avatar, open_graph, read_linted
from edge.errors import InputError
from edge.judges import sandbox
from edge.runtimes import Precision, Runtime, engine, format_of, installed, onnx_session, prepare
from edge.spec import KEYPOINTS_IN, LANDMARKS_IN, LOCAL_IN

GEMM_SIZE = 1024
GEMM_REPEATS = 6
"""Products before and after the frames; the best one counts."""
MOST_FRAMES = 100_000
WARM_UP = 5
"""Frames that are drawn and not counted."""

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
"""What the BLAS libraries that numpy may come with read their number of threads from."""


class BenchRow(NamedTuple):
    """One setting, measured."""

    runtime: str
    precision: str
    threads: int
    median_ms: float
    """Landmarks to uint8 frame, driver included, as all times here."""
    p90_ms: float
    min_ms: float
    first_ms: float
    """The first frame after `Avatar.load`."""
    load_ms: float
    gflops_per_s: float
    """The frame's arithmetic over its median time, in GFLOP/s."""
    gemm_gflops_per_s: float
    """The machine's fp32 limit in the same minute, with as many threads."""
    share_of_peak: float
    """Of the fp32 limit; int8 may pass 1."""
    peak_rss_mb: float
    """Of the whole process, Python included."""
    extra_rss_mb: float
    """Peak beyond Python with its runtime library at work on a graph of one node."""


@dataclass(frozen=True)
class Bench:
    """A bundle's speed on one machine."""

    name: str
    machine: str
    frames: int
    """Counted frames of each row."""
    gmacs: float
    gflops: float
    parameters: int
    file_mb: dict[str, float]
    """Size of the graphs on disk."""
    rows: tuple[BenchRow, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values, rows as objects."""
        return {**self.__dict__, "rows": [row._asdict() for row in self.rows]}


def bench(
    bundle: str | os.PathLike[str],
    *,
    frames: int = 60,
    threads: Sequence[int] = (1, 2),
    runtimes: Sequence[Runtime] | None = None,
) -> Bench:
    """Time an avatar on every runtime and at every precision that it has.

    Args:
        bundle: `NAME.avatar`.
        frames: counted frames of each setting, after the warm-up.
        threads: for one frame, each setting on its own.
        runtimes: default: all that run natively here (`native_runtimes`).

    Raises:
        BundleError: when the bundle is damaged, or a measuring process dies.
        InputError: when a number makes no sense.
    """
    manifest = _checked(bundle, frames, threads)
    rows = [
        _row(bundle, manifest, runtime, precision, count, frames)
        for runtime in (native_runtimes() if runtimes is None else runtimes)
        for precision in manifest.graphs["student"].files.get(format_of(runtime), {})
        for count in threads
    ]
    graphs = [file for graph in manifest.graphs.values() for files in graph.files.values() for file in files.values()]
    return Bench(
        name=manifest.name,
        machine=machine(),
        frames=frames,
        gmacs=manifest.gmacs,
        gflops=manifest.gflops,
        parameters=manifest.parameters,
        file_mb={file: _size_mb(manifest, file) for file in graphs},
        rows=tuple(rows),
    )


def _checked(bundle: str | os.PathLike[str], frames: int, threads: Sequence[int]) -> bundles.Manifest:
    """The manifest of a whole bundle that is to be measured so."""
    if not 3 <= frames <= MOST_FRAMES or not threads or not 1 <= min(threads) <= max(threads) <= MOST_THREADS:
        raise InputError(f"A benchmark wants 3 to {MOST_FRAMES} frames and 1 to {MOST_THREADS} threads.")
    manifest = bundles.read_manifest(bundle)
    bundles.verify_files(bundle, manifest)
    return manifest


def native_runtimes() -> tuple[Runtime, ...]:
    """Runtimes whose speed here says something: installed, and Core ML on macOS alone (elsewhere it is interpreted)."""
    compiled: tuple[Runtime, ...] = ("onnx", "executorch", "coreml")
    return tuple(r for r in compiled if installed(r) and (r != "coreml" or sys.platform == "darwin"))


def _size_mb(manifest: bundles.Manifest, path: str) -> float:
    """Of a file, or of all that lies in a package folder."""
    return sum(e.bytes for name, e in manifest.files.items() if name == path or name.startswith(f"{path}/")) / 1e6


def machine() -> str:
    """The conditions of a measurement in one line: processor, cores, system, versions."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # Not Linux, or an ARM kernel that does not say.
    return (
        f"{model}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}, {', '.join(map(engine, native_runtimes()))}, numpy {np.__version__}"
    )


def table(result: Bench) -> str:
    """A benchmark for reading: one line for each setting."""
    lines = [
        f"{result.name}: {result.gmacs:.2f} GMACs = {result.gflops:.2f} GFLOPs a frame, "
        f"{result.parameters / 1e6:.2f} M parameters",
        ", ".join(f"{file} {size:.2f} MB" for file, size in result.file_mb.items()),
        result.machine,
        f"{result.frames} frames each, after {WARM_UP} to warm up; times in ms, landmarks to frame",
        "",
        f"{'runtime':11}{'precision':>10}{'threads':>9}{'median':>9}{'p90':>8}{'min':>8}{'first':>8}{'fps':>7}"
        f"{'GFLOP/s':>9}{'of GEMM':>9}{'peak MB':>9}{'extra MB':>10}",
    ]
    for row in result.rows:
        lines.append(
            f"{row.runtime:11}{row.precision:>10}{row.threads:>9}{row.median_ms:>9.1f}{row.p90_ms:>8.1f}"
            f"{row.min_ms:>8.1f}{row.first_ms:>8.1f}{1000 / row.median_ms:>7.0f}{row.gflops_per_s:>9.0f}"
            f"{row.share_of_peak:>8.0%} {row.peak_rss_mb:>8.0f}{row.extra_rss_mb:>10.0f}"
        )
    return "\n".join(lines)


class Profile(NamedTuple):
    """Where a frame's time goes in ONNX Runtime."""

    precision: str
    threads: int
    kinds: dict[str, float]
    """Milliseconds a frame by kind of operation, most first: each operation's median, summed."""

    @property
    def outside_convolutions(self) -> float:
        """Share of the time that is no convolution and no matrix product."""
        arithmetic = sum(ms for kind, ms in self.kinds.items() if kind.endswith(_ARITHMETIC))
        return 1 - arithmetic / sum(self.kinds.values())


_ARITHMETIC = ("Conv", "Gemm", "MatMul")
"""How the names of operations end that multiply and accumulate: Conv, FusedConv, QLinearConv, NhwcFusedConv, …"""


def profile(bundle: str | os.PathLike[str], *, frames: int = 60, threads: Sequence[int] = (1,)) -> tuple[Profile, ...]:
    """Time the student's operations in ONNX Runtime, at every precision that the avatar has.

    ONNX Runtime alone: the released packages of ExecuTorch are built without its event tracer.

    Raises:
        BundleError: when the bundle is damaged.
        InputError: when a number makes no sense.
    """
    manifest = _checked(bundle, frames, threads)
    poses = bundles.read_array(bundle, manifest, "golden/landmarks.f32")
    avatar = Avatar.load(bundle, runtime="onnx")
    names = (KEYPOINTS_IN.name, LOCAL_IN.name)
    driving = [dict(zip(names, (part[None] for part in avatar.drive(pose)), strict=True)) for pose in poses]
    return tuple(
        Profile(precision, count, _kinds(read_linted(Path(bundle), manifest, "student", file), driving, frames, count))
        for precision, file in manifest.graphs["student"].files["onnx"].items()
        for count in threads
    )


def _kinds(graph: bytes, driving: Sequence[dict[str, np.ndarray]], frames: int, threads: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        session = onnx_session(graph, "The student", threads, profile=Path(folder, "profile"))
        for index in range(WARM_UP + frames):
            session.run(None, driving[index % len(driving)])
        events = json.loads(Path(session.end_profiling()).read_text())
    times: dict[tuple[str, str], list[float]] = {}
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
            times.setdefault((event["args"]["op_name"], event["name"]), []).append(event["dur"] / 1000)
    kinds: dict[str, float] = {}
    for (kind, _), values in times.items():
        kinds[kind] = kinds.get(kind, 0.0) + float(np.median(values[WARM_UP:]))
    return dict(sorted(kinds.items(), key=lambda item: -item[1]))


def profile_table(profiles: Sequence[Profile]) -> str:
    """Profiles for reading: milliseconds by kind of operation, what takes under a hundredth of the time left out."""
    lines = []
    for one in profiles:
        total = sum(one.kinds.values())
        lines += [
            f"onnx {one.precision}, {one.threads} thread{'s' * (one.threads > 1)}: {total:.1f} ms a frame, "
            f"{one.outside_convolutions:.0%} of it neither convolution nor matrix product",
            *(f"    {kind:22}{ms:8.2f} ms {ms / total:6.0%}" for kind, ms in one.kinds.items() if ms >= 0.01 * total),
        ]
    return "\n".join(lines)


def _row(
    bundle: str | os.PathLike[str],
    manifest: bundles.Manifest,
    runtime: str,
    precision: str,
    threads: int,
    frames: int,
) -> BenchRow:
    """Start a fresh process for one setting and read its figures."""
    figures = sandbox.call(
        "edge.judges.bench:_measure",
        [os.path.abspath(bundle), runtime, precision, threads, frames],
        doing=f"Measuring {runtime} {precision}",
        timeout_s=sandbox.TIMEOUT_S + 2.0 * frames,
        environment=dict.fromkeys(_THREAD_VARIABLES, str(threads)),
    )
    speed = manifest.gflops / figures["median_ms"] * 1000
    return BenchRow(
        runtime,
        precision,
        threads,
        gflops_per_s=speed,
        share_of_peak=speed / figures["gemm_gflops_per_s"],
        **figures,
    )


def _measure(bundle: str, runtime: Runtime, precision: Precision, threads: int, frames: int) -> dict[str, float]:
    """In the fresh process: memory first, then frames between two looks at the machine's limit."""
    prepare(runtime)
    sandbox.limit_memory()
    idle_mb = _runtime_alone_mb(bundle, runtime, threads)
    begun = time.perf_counter()
    avatar = Avatar.load(bundle, runtime=runtime, precision=precision, threads=threads, trusted=True)
    load_ms = (time.perf_counter() - begun) * 1000
    poses = bundles.read_array(bundle, avatar.manifest, "golden/landmarks.f32")
    times_ms = []
    for index in range(1 + WARM_UP + frames):
        begun = time.perf_counter()
        avatar.animate(poses[index % len(poses)])
        times_ms.append((time.perf_counter() - begun) * 1000)
        if index == WARM_UP:
            gemm = _gemm_gflops_per_s()
            # The product's matrices are not the avatar's: its memory was read before them.
        elif index < WARM_UP:
            peak = peak_mb()
    counted = times_ms[1 + WARM_UP :]
    return {
        "median_ms": float(np.median(counted)),
        "p90_ms": float(np.quantile(counted, 0.9)),
        "min_ms": min(counted),
        "first_ms": times_ms[0],
        "load_ms": load_ms,
        "gemm_gflops_per_s": max(gemm, _gemm_gflops_per_s()),
        "peak_rss_mb": peak,
        "extra_rss_mb": peak - idle_mb,
    }


def _runtime_alone_mb(bundle: str, runtime: Runtime, threads: int) -> float:
    """Peak memory of Python, numpy and the runtime at work on the driver, a graph of one small product."""
    manifest = bundles.read_manifest(bundle)
    run = open_graph(Path(bundle), manifest, "driver", runtime, threads=threads)
    run(**{LANDMARKS_IN.name: np.zeros(LANDMARKS_IN.shape, np.float32)})
    return peak_mb()


def peak_mb() -> float:
    """The most memory that this process has held, in MB."""
    try:
        # Linux hands the parent's peak down in ru_maxrss; this field starts anew with the program.
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    except (OSError, StopIteration):
        import resource  # Not on Windows, which has neither.

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (2**20 if sys.platform == "darwin" else 2**10)


def _gemm_gflops_per_s() -> float:
    """What a large fp32 matrix product reaches right now: the nearest thing to the machine's limit."""
    left, right = np.random.default_rng(0).standard_normal((2, GEMM_SIZE, GEMM_SIZE), dtype=np.float32)
    seconds = []
    for _ in range(GEMM_REPEATS):
        begun = time.perf_counter()
        left @ right
        seconds.append(time.perf_counter() - begun)
    return 2 * GEMM_SIZE**3 / 1e9 / min(seconds)
