"""What the three converter scripts share: flags, where a student comes from, how files are written, the last line.

python converters/to_onnx.py                 seeded random weights: sizes and speed are valid, pictures are not
python converters/to_onnx.py runs/me         a run folder of `superface make`, or its bundle, or student.safetensors
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from converters.student_graph import Driving
from converters.write_bundle import Lowered
from edge.errors import InputError, SuperFaceError
from edge.spec import KEYPOINTS, NETWORK
from edge.topology import LANDMARKS, LOCAL, STABLE
from training.checkpoint import load_driver, load_student
from training.config import TIERS
from training.student.closed_form import fit_regions
from training.student.cost import student_config, student_cost
from training.student.driver import Driver, RigidDriver
from training.student.network import Student
from training.teachers import Identity

RANDOM_FRAMES = 64
"""Frames of seeded motion for a student of random weights."""


class Source(NamedTuple):
    """What a converter starts from."""

    name: str
    student: Student
    """Bound, in evaluation mode."""
    driver: Driver | None
    calibration: Driving
    """Motion of the training track: sets ranges."""
    held_out: Driving
    """Motion that neither training nor calibration saw: measures parity."""


def parse_arguments(
    runtime: str,
    description: str,
    *,
    precisions: Sequence[str],
    targets: Sequence[str],
    argv: Sequence[str] | None = None,
) -> argparse.Namespace:
    """The flags, the same on all three scripts.

    Args:
        runtime: "onnx", "executorch" or "coreml"; names the output folder.
        description: one sentence.
        precisions: what the script can make; all of them by default.
        targets: backends or systems; the first is the default.
        argv: for tests; default: the process's own.
    """
    parser = argparse.ArgumentParser(prog=f"to_{runtime}", description=description)
    parser.add_argument(
        "checkpoint",
        nargs="?",
        type=Path,
        help="a run folder of superface make, its bundle, or a student.safetensors; default: random weights",
    )
    parser.add_argument(
        "--output", type=Path, default=Path(runtime), help="folder for the files (default: %(default)s)"
    )
    parser.add_argument("--precision", choices=(*precisions, "all"), default="all", help="default: %(default)s")
    parser.add_argument(
        "--target", choices=targets, default=targets[0], help="where it will run (default: %(default)s)"
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--tier", choices=tuple(TIERS), default="standard", help="size of a random student (%(default)s)")
    size.add_argument("--gflops", type=float, help="size of a random student in GFLOPs a frame, instead of --tier")
    parser.add_argument("--no-verify", action="store_true", help="do not compare with torch; the result is marked so")
    parser.add_argument("--force", action="store_true", help="replace files that are there already")
    parsed = parser.parse_args(argv)
    parsed.precisions = tuple(precisions) if parsed.precision == "all" else (parsed.precision,)
    return parsed


def load_source(arguments: argparse.Namespace) -> Source:
    """The student to lower: of a run folder, or of seeded random weights where none is named; says what it costs.

    Raises:
        InputError: when there is no trained student at that place.
    """
    path: Path | None = arguments.checkpoint
    if path is None:
        gflops = arguments.gflops or TIERS[arguments.tier]
        student = random_student(gflops)
        print(f"No checkpoint: random weights, {gflops:g} GFLOPs; speed and sizes are valid, pictures are not.")
        motion = [random_driving(student, RANDOM_FRAMES, seed) for seed in (1, 2)]
        source = Source("random", student, random_driver(), *motion)
    else:
        run = path.parent if path.suffix in (".avatar", ".safetensors") else path
        weights = path if path.suffix == ".safetensors" else run / "student.safetensors"
        if path.suffix == ".avatar" and not weights.exists():
            raise InputError(f"{path} holds no trained weights, and its run folder {run} is not there. Give that one.")
        student, _ = load_student(weights)
        motion = [
            _motion_of(run / name) or random_driving(student, RANDOM_FRAMES, seed)
            for name, seed in (("training", 1), ("held_out", 2))
        ]
        source = Source(run.name, student, load_driver(run), *motion)
    cost = student_cost(source.student.config)
    size = f"{cost.gmacs:.2f} GMACs = {cost.gflops:.2f} GFLOPs a frame, {cost.parameters / 1e6:.2f} M parameters"
    print(f"student: {size}")
    return source


def conclude(
    arguments: argparse.Namespace,
    source: Source,
    lowered: Iterable[Lowered],
    *,
    begun: float,
    driver: Lowered | None = None,
    extra: dict[str, Any] | None = None,
) -> int:
    """Write what was lowered, print a line for each and one JSON object at the end; the exit code.

    Args:
        arguments: of `parse_arguments`.
        source: of `load_source`.
        lowered: the student at each precision.
        begun: `time.monotonic()` at the start.
        driver: the driver net, where there is one.
        extra: more for the JSON object.
    """
    lowered = list(lowered)
    graphs = [*lowered, driver] if driver else lowered
    files = {path: body for graph in graphs for path, body in graph.files.items()}
    write_files(arguments.output, files, force=arguments.force)
    for graph in graphs:
        row = graph.parity
        verdict = f"{row.mean_db:.1f} dB mean, {row.worst_db:.1f} dB worst on {row.engine}" if row else graph.note
        size = sum(len(body) for body in graph.files.values())
        ops = f", {graph.delegated} operations delegated" if graph.delegated else ""
        if graph.fallback:
            ops += f", {len(graph.fallback)} not ({', '.join(sorted(set(graph.fallback)))})"
        print(f"{graph.path}: {size / 1e6:.2f} MB, {verdict}{ops}")
    cost = student_cost(source.student.config)
    result = {
        "output": str(arguments.output),
        "bytes": {path: len(body) for path, body in files.items()},
        "gmacs": cost.gmacs,
        "gflops": cost.gflops,
        "parameters": cost.parameters,
        "verified": all(graph.parity is not None for graph in lowered),
        "parity": [graph.parity._asdict() for graph in lowered if graph.parity],
        "delegated": {graph.path: graph.delegated for graph in lowered},
        "fallback": {graph.path: list(graph.fallback) for graph in lowered},
        "seconds": round(time.monotonic() - begun, 1),
        **(extra or {}),
    }
    print(json.dumps(result))
    return 0


def run_script(main: Callable[[], int]) -> None:
    """Leave the process with the exit code of `main`; a user's mistake is one sentence."""
    try:
        sys.exit(main())
    except SuperFaceError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def write_files(folder: Path, files: dict[str, bytes], *, force: bool = False) -> None:
    """Files in a folder, all whole or none; a file or package that exists is replaced only with `force`.

    Args:
        folder: made if need be.
        files: by path relative to it; what shares a first folder (a Core ML package) is replaced as one.
        force: replace what is there.

    Raises:
        InputError: when the folder cannot be written, or something is in the way.
    """
    tops = sorted({path.split("/")[0] for path in files})
    present = [top for top in tops if (folder / top).exists()]
    if present and not force:
        raise InputError(
            f"{folder / present[0]} exists and is not overwritten. Add --force, or choose another --output."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(dir=folder, prefix=".building.", suffix=".tmp"))
        try:
            for path, body in files.items():
                (building / path).parent.mkdir(parents=True, exist_ok=True)
                (building / path).write_bytes(body)
            for top in tops:
                if (folder / top).is_dir():  # A folder cannot be renamed onto another one that holds files.
                    os.replace(folder / top, building / f".{top}.old")
                os.replace(building / top, folder / top)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror}). Choose another --output.") from error


# -- A student before any training ---------------------------------------------------------------------------


def random_student(gflops: float, *, seed: int = 0, landmarks: torch.Tensor | None = None) -> Student:
    """A student of seeded random weights, bound to a seeded blur: for speed and sizes before any training.

    Args:
        gflops: the most that a frame may cost.
        seed: of everything random.
        landmarks: float32 [478, 3], the face; default: random points, which no motion library can move.
    """
    torch.manual_seed(seed)
    photo = torch.nn.functional.interpolate(torch.rand(1, 3, 16, 16), (NETWORK, NETWORK), mode="bicubic")[0].clamp(0, 1)
    photo = (photo * 255).round() / 255
    if landmarks is None:
        landmarks = torch.rand(LANDMARKS, 3) * 1.2 - 0.6
    keypoints = landmarks[torch.from_numpy(LOCAL[:KEYPOINTS])]
    student = Student.untrained(student_config(gflops)).bind(Identity(photo, landmarks, keypoints, photo[:, None]))
    driving = random_driving(student, 64, seed)
    points = torch.cat([torch.from_numpy(driving.keypoints), torch.from_numpy(driving.local_landmarks)], 1)
    fit_regions(student.person, points, photo[None])
    with torch.no_grad():  # Layers that start at zero would be folded away, and animate nothing.
        for parameter in student.parameters():
            if not parameter.any():
                parameter.normal_(std=0.02)
    return student.eval()


def random_driver(landmarks: torch.Tensor | None = None) -> Driver:
    """A driver of the right form for a random student of these landmarks [478, 3]: it carries its keypoints along."""
    if landmarks is None:
        landmarks = torch.rand(LANDMARKS, 3, generator=torch.Generator().manual_seed(0)) * 1.2 - 0.6
    return RigidDriver(landmarks[torch.from_numpy(STABLE)], landmarks[torch.from_numpy(LOCAL[:KEYPOINTS])])


def random_driving(student: Student, frames: int, seed: int) -> Driving:
    """Smooth seeded motion around a student's own keypoints."""
    source = student.person.source_points[0].numpy()
    waves = np.random.default_rng(seed).normal(size=(3, *source.shape))
    time_axis = np.arange(frames)[:, None, None] / 8
    points = source + 0.03 * sum(np.sin(time_axis * (i + 1) + 6 * wave) for i, wave in enumerate(waves))
    points = points.astype(np.float32)
    return Driving(points[:, :KEYPOINTS], points[:, KEYPOINTS:])


def _motion_of(track: Path) -> Driving | None:
    """A track that distillation left in its run folder."""
    try:
        arrays = [np.load(track / f"{part}.npy", allow_pickle=False) for part in ("keypoints", "local_landmarks")]
    except (OSError, ValueError):
        return None
    return Driving(*arrays)
