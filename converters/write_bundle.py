"""Writing an avatar's folder `NAME.avatar/`, whole or not at all; `edge.bundle` says what lies in it and reads it."""

import errno
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from converters.golden import GoldenMotion
from edge.bundle import (
    GRAPHS,
    MANIFEST,
    ExpressionRow,
    FileEntry,
    Floats,
    GraphSpec,
    Manifest,
    ParityRow,
    array_shapes,
    parse_manifest,
    safe_name,
    verify_files,
)
from edge.errors import InputError, SpecError
from edge.motion import port_tables
from edge.spec import FRAME

CONVENTIONS = {
    "image": "RGB; the graph's image is float32 NCHW in 0..1",
    "coordinates": "(x, y, z), y down; -1 and +1 are the centres of the crop's first and last pixel (of 512)",
    "z": "in the unit of x; smaller is nearer to the camera",
    "landmarks": "MediaPipe FaceLandmarker, 478 points, after retargeting to this avatar",
    "left_right": "the person's own: the right eye is on the left of the image",
    "warp": "backward, bilinear, border padding, align_corners=True",
    "f32": "raw little-endian float32, C order",
}

SYNTHETIC_MEDIA = (
    "Frames made with this avatar are synthetic media. Whoever shows them to others says so, and does not "
    "use them to deceive."
)
CONSENT = (
    "The person in the source photo, or whoever may speak for them, has agreed to this avatar and to its "
    "use, or the photo is in the public domain. Whoever made the avatar vouches for that."
)


class Lowered(NamedTuple):
    """A graph in one runtime's own format, ready to be written."""

    runtime: str
    precision: str
    path: str
    """Its file in the bundle, or for Core ML its folder."""
    files: dict[str, bytes]
    """By path in the bundle; one file, or all of the folder's."""
    parity: ParityRow | None = None
    note: str = "converted, NOT verified"
    """Said where there is no parity."""
    delegated: int = 0
    """Operations that the backend takes over."""
    fallback: tuple[str, ...] = ()
    """Operations that it leaves to the runtime's own kernels."""


@dataclass(frozen=True)
class BundleContents:
    """What `write_bundle` needs. Arrays are float32 unless said otherwise; T golden frames."""

    name: str
    students: Sequence[Lowered]
    """One for each runtime and precision; ONNX in fp32 must be there."""
    drivers: Sequence[Lowered]
    """One for each runtime; ONNX in fp32 must be there."""
    thumbnail: npt.NDArray[np.uint8]
    """[H, W, 3], RGB."""
    source_landmarks: Floats
    """[478, 3], crop coordinates."""
    source_keypoints: Floats
    """[20, 3]."""
    golden: GoldenMotion
    """What is driven with, step by step."""
    golden_keypoints: Floats
    """[T, 20, 2]."""
    golden_local_landmarks: Floats
    """[T, M, 2]."""
    golden_frames: npt.NDArray[np.uint8]
    """[T, 512, 512, 3], RGB: what the trained student itself makes of the golden inputs."""
    gmacs: float
    parameters: int
    created_with: str
    teacher: str
    training: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    licences: Mapping[str, str] = field(default_factory=dict)
    consent: str = CONSENT
    expressions: Sequence[ExpressionRow] = ()


def write_bundle(folder: str | os.PathLike[str], contents: BundleContents) -> Manifest:
    """The avatar's folder, whole or not at all: built beside its place, verified, then moved there.

    An older bundle in that place is replaced; anything else in that place is not.

    Args:
        folder: `NAME.avatar`; its parent is made if needed.
        contents: what goes in.

    Returns:
        The manifest as written.

    Raises:
        InputError: when the place is taken by something that is no bundle, or the disk is full or read-only.
        SpecError: when an array of `contents` has another shape than documented, or holds NaN.
    """
    target = Path(os.path.abspath(folder))
    _check_contents(contents)
    if target.is_symlink() or (target.exists() and not _replaceable(target)):
        raise InputError(f"{folder} exists and is no avatar, so it is not overwritten. Choose another output.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp"))
        try:
            manifest = _fill(building, contents)
            verify_files(building, manifest)
            building.chmod(0o755)
            _move(building, target)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    except OSError as error:
        reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror
        raise InputError(
            f"{folder} could not be written: {reason}. Nothing was left there; make room and repeat."
        ) from error
    return manifest


def _replaceable(target: Path) -> bool:
    return target.is_dir() and ((target / MANIFEST).is_file() or not any(target.iterdir()))


def _by_runtime(graphs: Sequence[Lowered]) -> dict[str, dict[str, str]]:
    files: dict[str, dict[str, str]] = {}
    for graph in graphs:
        files.setdefault(graph.runtime, {})[graph.precision] = graph.path
    return files


def _check_contents(contents: BundleContents) -> None:
    frames = len(contents.golden_frames)
    if contents.name != safe_name(contents.name):
        raise SpecError(f"{contents.name!r} is no name for an avatar; `safe_name` makes one of any text.")
    arrays = {path: (array, array_shapes(frames)[path]) for path, array in _arrays(contents).items()}
    everything: dict[str, tuple[npt.NDArray[Any], tuple[int, ...]]] = {
        **arrays,
        "golden_frames": (contents.golden_frames, (frames, FRAME, FRAME, 3)),
    }
    for name, (array, shape) in everything.items():
        if array.shape != shape or not np.isfinite(array).all():
            raise SpecError(f"{name} has shape {array.shape} or holds NaN; a bundle wants finite {shape}.")
    for graphs in (contents.students, contents.drivers):
        if ("onnx", "fp32") not in [graph[:2] for graph in graphs] or not frames:
            raise SpecError("A bundle wants student and driver as ONNX in fp32 and at least one golden frame.")


def _arrays(contents: BundleContents) -> dict[str, Floats]:
    return {
        "identity/landmarks.f32": contents.source_landmarks,
        "identity/keypoints.f32": contents.source_keypoints,
        "golden/camera_neutral.f32": contents.golden.camera_neutral,
        "golden/camera_landmarks.f32": contents.golden.camera_landmarks,
        "golden/live_landmarks.f32": contents.golden.live_landmarks,
        "golden/landmarks.f32": contents.golden.landmarks,
        "golden/keypoints.f32": contents.golden_keypoints,
        "golden/local_landmarks.f32": contents.golden_local_landmarks,
    }


def _fill(folder: Path, contents: BundleContents) -> Manifest:
    """Write all files, then the manifest that describes them."""
    arrays = _arrays(contents)
    golden = tuple(f"golden/frame_{index}.png" for index in range(len(contents.golden_frames)))
    data = {
        **{path: body for graph in (*contents.drivers, *contents.students) for path, body in graph.files.items()},
        **{path: np.ascontiguousarray(array, "<f4").tobytes() for path, array in arrays.items()},
        "identity/thumbnail.png": _png(contents.thumbnail),
        **{path: _png(frame) for path, frame in zip(golden, contents.golden_frames, strict=True)},
    }
    manifest = Manifest(
        name=contents.name,
        created_with=contents.created_with,
        graphs={
            "driver": GraphSpec(*GRAPHS["driver"], _by_runtime(contents.drivers)),
            "student": GraphSpec(*GRAPHS["student"], _by_runtime(contents.students)),
        },
        arrays={path: array.shape for path, array in arrays.items()},
        golden_frames=golden,
        golden_camera=contents.golden.camera,
        tables=port_tables(),
        gmacs=contents.gmacs,
        gflops=2 * contents.gmacs,
        parameters=contents.parameters,
        parity=tuple(graph.parity for graph in contents.students if graph.parity),
        teacher=contents.teacher,
        training=dict(contents.training),
        metrics=dict(contents.metrics),
        licences=dict(contents.licences),
        consent=contents.consent,
        synthetic_media=SYNTHETIC_MEDIA,
        conventions=CONVENTIONS,
        expressions=tuple(contents.expressions),
        files={path: FileEntry(len(body), hashlib.sha256(body).hexdigest()) for path, body in data.items()},
    )
    data[MANIFEST] = manifest_text(manifest)
    for path, body in data.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        with (folder / path).open("wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
    return parse_manifest(data[MANIFEST])


def manifest_text(manifest: Manifest) -> bytes:
    """A manifest as JSON, the form that `parse_manifest` reads.

    Raises:
        SpecError: when a figure in it is not finite, or not plain JSON.
    """

    def plain(value: Any) -> Any:
        """Named tuples become objects, so that a port reads names and not positions."""
        if isinstance(value, tuple) and hasattr(value, "_asdict"):
            value = value._asdict()
        if isinstance(value, Mapping):
            return {key: plain(inner) for key, inner in value.items()}
        return [plain(inner) for inner in value] if isinstance(value, tuple | list) else value

    fields = {key: plain(getattr(manifest, key)) for key in manifest.__dataclass_fields__}
    ordered = {"format_version": fields.pop("format_version"), **fields}
    try:
        return (json.dumps(ordered, indent=1, allow_nan=False) + "\n").encode()
    except (TypeError, ValueError) as error:
        raise SpecError(f"The manifest cannot be written as JSON ({error}). Give plain, finite figures.") from error


def _png(image: npt.NDArray[np.uint8]) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def _move(building: Path, target: Path) -> None:
    """Put the finished folder in place; an older one is there until the new one is."""
    if not target.exists():
        building.rename(target)
        return
    aside = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".old"))
    target.rename(aside / target.name)
    try:
        building.rename(target)
    except BaseException:
        (aside / target.name).rename(target)
        aside.rmdir()
        raise
    shutil.rmtree(aside, ignore_errors=True)
