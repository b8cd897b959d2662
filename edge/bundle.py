"""The avatar's folder `NAME.avatar/`: all that a phone needs, and a manifest to check every file against.

    manifest.json        this module's `Manifest` as JSON
    student.onnx         keypoints, local landmarks → image; student.int8.onnx the same in 8 bits
    student.pte          the same for ExecuTorch; student.mlpackage/ for Core ML
    driver.onnx          landmarks → keypoints, local landmarks; driver.pte and driver.mlpackage/ likewise
    identity/            thumbnail.png; landmarks.f32 and keypoints.f32 of the source
    golden/              what a camera sees of a driver, and what becomes of it at every step, as .f32; frames as .png

`.f32` is raw little-endian float32 in C order, its shape in the manifest: a port needs no reader but JSON
and floats. A bundle comes from elsewhere, so nothing in it is believed before it is checked; and it is
written whole or not at all. The checksums guard against damage, not against somebody who means harm: they
are no signature.
"""

import hashlib
import io
import itertools
import json
import math
import os
import re
import unicodedata
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edge.errors import BundleError
from edge.spec import FORMAT_VERSION, FRAME, IMAGE_OUT, KEYPOINTS_IN, LANDMARKS_IN, LOCAL_IN, TensorSpec

MANIFEST = "manifest.json"
LARGEST_MANIFEST = 2**20
"""Bytes. A real manifest has some ten thousand."""
LARGEST_FILE = 256 * 2**20
"""Bytes. A real student has a few million."""
LARGEST_BUNDLE = 2**30
"""Bytes of all files together."""
MOST_FILES = 1000
LARGEST_TENSOR = 2**26
"""Numbers in one tensor."""
LARGEST_COORDINATE = LANDMARKS_IN.high
"""In an array of points; the crop itself reaches from -1 to 1."""
LARGEST_PIXEL = 2.0**15
"""Of a camera's picture."""
CAMERA = ("golden/camera_neutral.f32", "golden/camera_landmarks.f32")
"""Arrays of points in pixels."""
GRAPHS = {
    "driver": ((LANDMARKS_IN,), (KEYPOINTS_IN, LOCAL_IN)),
    "student": ((KEYPOINTS_IN, LOCAL_IN), (IMAGE_OUT,)),
}
"""Inputs and outputs of the per-frame graphs."""

DROPPINGS = {".DS_Store", "Thumbs.db", "desktop.ini"}
"""What file managers leave behind in folders: neither listed nor refused, and never opened."""

Floats = npt.NDArray[np.float32]


class FileEntry(NamedTuple):
    """What the manifest says of one file."""

    bytes: int
    sha256: str


class GraphSpec(NamedTuple):
    """One per-frame graph: the same tensors at every precision."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    files: dict[str, dict[str, str]]
    """By runtime ("onnx", "executorch", "coreml"), then by precision: the file, or for Core ML the folder."""


class ParityRow(NamedTuple):
    """How near a converted student comes to the trained one, in dB of PSNR over held-out frames."""

    runtime: str
    precision: str
    engine: str
    """What ran the graph, with its version."""
    mean_db: float
    worst_db: float
    required_db: float
    frames: int


class ExpressionRow(NamedTuple):
    """How much of one expression of its teacher's the student draws, inside the mouth or eyes; 1 is all of it."""

    expression: str
    part: str
    """ "mouth" or "eyes"."""
    drawn: float
    """Share of the teacher's change that is there, less what else was drawn: the mean over head poses."""
    worst: float
    """At the head pose, and in the eye, where least of it is drawn."""
    followed: float
    """How strong the change is along the teacher's, whatever else was drawn beside it."""
    floor: float
    """Least `drawn` of an avatar that is made without --force."""

    @property
    def passed(self) -> bool:
        """The floor was reached."""
        return self.drawn >= self.floor


class GoldenCamera(NamedTuple):
    """How the golden landmarks were seen: what a port takes `golden/camera_*.f32` through."""

    width: int
    """Of the picture, in pixels."""
    height: int
    x: float
    """Of the crop (`edge.preprocess.face_crop` of the neutral frame), in pixels."""
    y: float
    size: float
    seconds: tuple[float, ...]
    """When each frame was seen, for `edge.motion.LiveFilter`."""


@dataclass(frozen=True)
class Manifest:
    """All that is known about an avatar, as its folder says. Read with `read_manifest`."""

    name: str
    created_with: str
    graphs: dict[str, GraphSpec]
    """By name: "driver", "student"."""
    arrays: dict[str, tuple[int, ...]]
    """Shapes of the `.f32` files."""
    golden_frames: tuple[str, ...]
    """PNG files: the frames expected for the golden inputs, in order."""
    golden_camera: GoldenCamera
    tables: dict[str, Any]
    """Index tables and numbers of `edge.motion` and `edge.topology`, so that a port retypes none."""
    gmacs: float
    """Multiply-accumulates of one frame, driver included, in billions."""
    gflops: float
    """2 × gmacs."""
    parameters: int
    parity: tuple[ParityRow, ...]
    teacher: str
    training: dict[str, Any]
    """How the student was trained: settings and figures, as plain JSON."""
    metrics: dict[str, float]
    """Quality on a held-out track; the unit is in the name."""
    licences: dict[str, str]
    """What is inside → its licence."""
    consent: str
    synthetic_media: str
    conventions: dict[str, str]
    files: dict[str, FileEntry]
    """Every file but the manifest, by path relative to the bundle, with `/` between folders."""
    expressions: tuple[ExpressionRow, ...] = ()
    """What the student draws of its teacher's mouth and eyes; none in bundles of before it was measured."""
    format_version: int = FORMAT_VERSION


def read_manifest(folder: str | os.PathLike[str]) -> Manifest:
    """The manifest of a bundle, checked in itself; `verify_files` then checks the files against it.

    Args:
        folder: `NAME.avatar`.

    Raises:
        BundleError: when the folder or its manifest is missing, damaged, of another version, or absurd.
    """
    folder = Path(folder)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise BundleError(f"{folder} {what}; an avatar is a folder like NAME.avatar, made by `superface make`.")
    path = folder / MANIFEST
    if not path.is_file() or path.is_symlink():
        raise BundleError(f"{folder} has no {MANIFEST}, so it is no avatar. Avatars are made by `superface make`.")
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST_MANIFEST + 1)
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror}). Check its permissions.") from error
    return parse_manifest(text)


def parse_manifest(text: bytes) -> Manifest:
    """A manifest from its JSON text, whatever that text is.

    Raises:
        BundleError: for every text that is no manifest of this format version.
    """
    if len(text) > LARGEST_MANIFEST:
        raise BundleError(
            f"{MANIFEST} is larger than {LARGEST_MANIFEST} bytes; no manifest is. Fetch the bundle again."
        )
    try:
        data = json.loads(text.decode(), parse_constant=_no_constant, object_pairs_hook=_unique)
        readable = all_readable(data)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{MANIFEST} is not valid JSON ({error}). Fetch the bundle again.") from error
    if not readable:
        raise _wrong("a text holds control characters")
    if not isinstance(data, dict) or "format_version" not in data:
        raise BundleError(f"{MANIFEST} does not say its format_version, so it is no avatar's. Fetch the bundle again.")
    version = data["format_version"]
    if type(version) is not int or version != FORMAT_VERSION:
        raise BundleError(
            f"This avatar has format version {str(version)[:20]}; this program reads {FORMAT_VERSION}. "
            "Use the program that made it, or make the avatar again with superface make."
        )
    manifest = Manifest(
        name=_name(data),
        created_with=_text(data, "created_with"),
        graphs={name: _graph(_dict(data, "graphs"), name) for name in GRAPHS},
        arrays={_path(key): _shape(shape, key) for key, shape in _dict(data, "arrays").items()},
        golden_frames=tuple(_path(path) for path in _list(data, "golden_frames")),
        golden_camera=_camera(_dict(data, "golden_camera")),
        tables=_numbers(_dict(data, "tables")),
        gmacs=_number(data, "gmacs", 0, 1e6),
        gflops=_number(data, "gflops", 0, 1e6),
        parameters=int(_number(data, "parameters", 0, 1e12)),
        parity=tuple(_parity(row) for row in _list(data, "parity")),
        teacher=_text(data, "teacher"),
        training=_dict(data, "training"),
        metrics={key: _number(_dict(data, "metrics"), key, -1e12, 1e12) for key in _dict(data, "metrics")},
        licences={key: _text(_dict(data, "licences"), key) for key in _dict(data, "licences")},
        consent=_text(data, "consent"),
        synthetic_media=_text(data, "synthetic_media"),
        conventions={key: _text(_dict(data, "conventions"), key) for key in _dict(data, "conventions")},
        files=_files(_dict(data, "files")),
        expressions=tuple(_expression(row) for row in _list({"expressions": [], **data}, "expressions")),
    )
    _check_references(manifest)
    return manifest


def verify_files(folder: str | os.PathLike[str], manifest: Manifest) -> None:
    """Every file that the manifest names is there, byte for byte what was written, and no other one is.

    Raises:
        BundleError: names the first file that is missing, a link, of another length, changed, or not in the manifest.
    """
    folder = Path(folder)
    for name in manifest.files:
        read_file(folder, manifest, name)
    folders = {"/".join(path.split("/")[:depth]) for path in manifest.files for depth in range(1, path.count("/") + 1)}
    _refuse_strangers(folder, "", manifest.files.keys() | {MANIFEST}, folders)


def read_file(folder: str | os.PathLike[str], manifest: Manifest, name: str) -> bytes:
    """A file's content, and surely what the manifest says of it: the very bytes that were checked are returned.

    Raises:
        BundleError: when it is missing, a link, of another length, or changed.
    """
    folder, entry = Path(folder), manifest.files[name]
    path = folder / name
    for part in [path, *path.parents][: name.count("/") + 1]:
        if part.is_symlink():
            raise BundleError(f"{name} is a link in {folder}; a bundle holds its files itself. Copy the file there.")
    if not path.is_file():
        raise BundleError(f"{folder} lacks {name}{_renamed(folder, manifest, entry)}. Fetch the bundle again.")
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size != entry.bytes:
                raise BundleError(
                    f"{name} has {size} bytes where the manifest says {entry.bytes}: it is cut off or "
                    "another file. Fetch the bundle again."
                )
            body = file.read(entry.bytes)
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror}). Check its permissions.") from error
    if hashlib.sha256(body).hexdigest() != entry.sha256:
        raise BundleError(f"{name} was changed since the avatar was made (sha256 differs). Fetch the bundle again.")
    return body


def copy_package(folder: str | os.PathLike[str], manifest: Manifest, name: str, target: Path) -> Path:
    """A folder within the bundle, such as a Core ML package, copied into `target`: its listed files alone.

    Raises:
        BundleError: as `read_file`.
    """
    for path in manifest.files:
        if path.startswith(f"{name}/"):
            copy = target / path
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(read_file(folder, manifest, path))
    return target / name


def read_array(folder: str | os.PathLike[str], manifest: Manifest, name: str) -> Floats:
    """A `.f32` file as an array of the manifest's shape.

    Raises:
        BundleError: when the bundle has no such array, its file is damaged, or it holds what is no coordinate.
    """
    if name not in manifest.arrays:
        raise BundleError(f"This avatar has no array {name}. It was made by another version; make it again.")
    values = np.frombuffer(read_file(folder, manifest, name), "<f4")
    shape = manifest.arrays[name]
    unit, most = ("pixels", LARGEST_PIXEL) if name in CAMERA else ("crop coordinates", LARGEST_COORDINATE)
    # Not finite compares as false, too.
    if values.size != math.prod(shape) or not np.abs(values).max() <= most:
        raise BundleError(f"{name} is no array of shape {shape} in {unit}. Fetch the bundle again.")
    return values.reshape(shape).astype(np.float32)


def read_frame(folder: str | os.PathLike[str], manifest: Manifest, name: str) -> npt.NDArray[np.uint8]:
    """A golden frame: uint8 [512, 512, 3].

    Raises:
        BundleError: when its file is damaged, or no PNG of that size.
    """
    from PIL import Image, ImageFile  # Only golden frames need it: 4 MB that driving an avatar goes without.

    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        with Image.open(io.BytesIO(read_file(folder, manifest, name)), formats=("PNG",)) as image:
            if image.size != (FRAME, FRAME):
                raise BundleError(
                    f"{name} is {image.width} × {image.height}, not {FRAME} × {FRAME}. Fetch the bundle again."
                )
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, ArithmeticError, LookupError, Image.DecompressionBombError) as error:
        raise BundleError(f"{name} is not a readable PNG ({error}). Fetch the bundle again.") from error


def safe_name(name: str) -> str:
    """What any text gives of letters, digits, dash and underscore: a file's name on every system, or ""."""
    safe = "".join(c if c.isalnum() or c in "-_" else "_" for c in name).strip("_")[:64].rstrip("_")
    return f"{safe}_" if safe.upper() in _RESERVED else safe


_RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{device}{number}" for device in ("COM", "LPT") for number in range(1, 10))}
"""Windows takes these for devices."""


def printable(text: str) -> str:
    """A text without what moves a terminal's cursor, colours it or turns its writing about; lines stay lines."""
    return "".join(c if _readable(c) or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)


def _readable(char: str) -> bool:
    """No control character, no half of a surrogate pair, nothing that is unassigned or turns writing about."""
    return char.isprintable() or unicodedata.category(char) == "Zs"


def _refuse_strangers(folder: Path, inside: str, files: Set[str], folders: Set[str]) -> None:
    try:
        entries = list(itertools.islice(os.scandir(folder / inside), 2 * MOST_FILES))
    except OSError as error:
        raise BundleError(f"{folder / inside} cannot be read ({error.strerror}). Check its permissions.") from error
    for entry in entries:
        path = f"{inside}/{entry.name}" if inside else entry.name
        if entry.is_dir(follow_symlinks=False) and path in folders:
            _refuse_strangers(folder, path, files, folders)
        elif path not in files and entry.name not in DROPPINGS:
            raise BundleError(
                f"{printable(path)} lies in {folder} and is not in its manifest. A bundle holds what is listed and "
                "nothing else; remove the file if it is yours, or fetch the bundle again."
            )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return data


def all_readable(data: Any) -> bool:
    """Every text of plain JSON, key or value, holds characters to be read and nothing else."""
    if isinstance(data, str):
        return all(map(_readable, data))
    parts = [*data, *data.values()] if isinstance(data, dict) else data if isinstance(data, list) else ()
    return all(map(all_readable, parts))


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _wrong(what: str) -> BundleError:
    return BundleError(f"{MANIFEST} is damaged: {what}. Fetch the bundle again.")


def _text(data: Mapping[str, Any], key: str) -> str:
    value = data.get(key)
    if not isinstance(value, str) or not value:
        raise _wrong(f"{key[:60]!r} must be a text")
    return value


def _name(data: Mapping[str, Any]) -> str:
    name = _text(data, "name")
    if name != safe_name(name):
        raise _wrong(f"{name[:60]!r} is no name for an avatar, which is at most 64 letters, digits, - and _")
    return name


def _dict(data: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = data.get(key)
    if not isinstance(value, dict):
        raise _wrong(f"{key[:60]!r} must be an object")
    return value


def _list(data: Mapping[str, Any], key: str) -> list[Any]:
    value = data.get(key)
    if not isinstance(value, list) or len(value) > MOST_FILES:
        raise _wrong(f"{key[:60]!r} must be a list of at most {MOST_FILES}")
    return value


def _number(data: Mapping[str, Any], key: str, low: float, high: float) -> float:
    value = data.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise _wrong(f"{key[:60]!r} must be a number from {low:g} to {high:g}")
    return value


def _shape(value: Any, name: str) -> tuple[int, ...]:
    if (
        not isinstance(value, list)
        or not 1 <= len(value) <= 8
        or not all(type(size) is int and 1 <= size <= LARGEST_TENSOR for size in value)
        or math.prod(value) > LARGEST_TENSOR
    ):
        raise _wrong(f"the shape of {name[:60]!r} must be 1 to 8 sizes of at most {LARGEST_TENSOR} numbers in all")
    return tuple(value)


def _path(value: Any) -> str:
    """A path that stays inside the bundle on every system."""
    if (
        not isinstance(value, str)
        or len(value) > 200
        or not re.fullmatch(r"[\w.-]+(/[\w.-]+){0,7}", value, re.ASCII)
        or any(set(part) == {"."} for part in value.split("/"))
        or value.lower() == MANIFEST
    ):
        raise _wrong(f"{str(value)[:60]!r} is no path inside the bundle")
    return value


def _files(data: Mapping[str, Any]) -> dict[str, FileEntry]:
    if not 0 < len(data) <= MOST_FILES:
        raise _wrong(f"it names {len(data)} files")
    entries = {}
    for path in data:
        entry = _dict(data, path)
        size = entry.get("bytes")
        if type(size) is not int or not 0 <= size <= LARGEST_FILE:
            raise _wrong(f"the size of {path[:60]!r} must be 0 to {LARGEST_FILE} bytes")
        sha256 = entry.get("sha256")
        if not isinstance(sha256, str) or not re.fullmatch("[0-9a-f]{64}", sha256):
            raise _wrong(f"the sha256 of {path[:60]!r} must be 64 hexadecimal digits")
        entries[_path(path)] = FileEntry(size, sha256)
    if len({path.lower() for path in entries}) != len(entries):
        raise _wrong("two files differ in upper and lower case alone")
    if sum(entry.bytes for entry in entries.values()) > LARGEST_BUNDLE:
        raise _wrong(f"its files have more than {LARGEST_BUNDLE} bytes together")
    return entries


def _graph(graphs: Mapping[str, Any], name: str) -> GraphSpec:
    data = _dict(graphs, name)
    doors = []
    for side, expected in zip(("inputs", "outputs"), GRAPHS[name], strict=True):
        tensors = tuple(_tensor(tensor) for tensor in _list(data, side))
        if [tensor[:3] for tensor in tensors] != [tensor[:3] for tensor in expected]:
            found = ", ".join(f"{tensor.name}{list(tensor.shape)}" for tensor in tensors) or "nothing"
            wanted = ", ".join(f"{tensor.name}{list(tensor.shape)}" for tensor in expected)
            raise BundleError(
                f"The avatar's {name} has the {side} {found}; this program wants {wanted}. "
                "Make the avatar again with this version."
            )
        doors.append(tensors)
    by_runtime = _dict(data, "files")
    files = {
        runtime: {precision: _path(path) for precision, path in _dict(by_runtime, runtime).items()}
        for runtime in by_runtime
    }
    if "fp32" not in files.get("onnx", {}):
        raise _wrong(f"graph {name!r} has no ONNX file in fp32")
    for runtime, by_precision in files.items():
        if not by_precision or (name == "driver" and len(by_precision) > 1):
            raise _wrong(f"graph {name!r} has {len(by_precision)} files for {runtime[:60]!r}")
    return GraphSpec(doors[0], doors[1], files)


def _tensor(data: Any) -> TensorSpec:
    if not isinstance(data, dict):
        raise _wrong("a tensor must be an object")
    name = _text(data, "name")
    low, high = _number(data, "low", -1e6, 1e6), _number(data, "high", -1e6, 1e6)
    return TensorSpec(name, _shape(data.get("shape"), name), _text(data, "dtype"), low, high)


def _camera(data: Mapping[str, Any]) -> GoldenCamera:
    seconds = tuple(_number({"seconds": value}, "seconds", 0, 1e6) for value in _list(data, "seconds"))
    if any(later <= earlier for earlier, later in itertools.pairwise(seconds)):
        raise _wrong("the golden camera's clock does not run forward")
    width, height = (int(_number(data, side, 1, LARGEST_PIXEL)) for side in ("width", "height"))
    x, y = (_number(data, corner, -LARGEST_PIXEL, LARGEST_PIXEL) for corner in ("x", "y"))
    return GoldenCamera(width, height, x, y, _number(data, "size", 1, LARGEST_PIXEL), seconds)


def _numbers(table: Any) -> Any:
    """A table as it is, if it holds numbers and nothing else, in lists and by name."""
    if isinstance(table, dict):
        return {key: _numbers(inner) for key, inner in table.items()}
    if isinstance(table, list):
        return [_numbers(inner) for inner in table]
    return _number({"tables": table}, "tables", -1e12, 1e12)


def _parity(data: Any) -> ParityRow:
    if not isinstance(data, dict):
        raise _wrong("a parity row must be an object")
    decibels = [_number(data, key, -1e3, 1e3) for key in ("mean_db", "worst_db", "required_db")]
    frames = int(_number(data, "frames", 0, 1e9))
    names = [_text(data, key) for key in ("runtime", "precision", "engine")]
    return ParityRow(names[0], names[1], names[2], decibels[0], decibels[1], decibels[2], frames)


def _expression(data: Any) -> ExpressionRow:
    if not isinstance(data, dict):
        raise _wrong("a row of expressions must be an object")
    names = [_text(data, key) for key in ("expression", "part")]
    shares = [_number(data, key, -1e9, 1e9) for key in ("drawn", "worst", "followed", "floor")]
    return ExpressionRow(names[0], names[1], *shares)


def _check_references(manifest: Manifest) -> None:
    """All parts of the manifest speak of the same files, and none against another."""
    if not math.isclose(manifest.gflops, 2 * manifest.gmacs, rel_tol=1e-3, abs_tol=1e-9):
        raise _wrong(f"{manifest.gmacs:g} GMACs are not {manifest.gflops:g} GFLOPs, which count 2 for each")
    folders = {path.split("/")[0] for path in manifest.files if "/" in path}
    for path in [*manifest.arrays, *manifest.golden_frames]:
        if path not in manifest.files:
            raise _wrong(f"{path!r} is used but not among the files")
    for graph in manifest.graphs.values():
        for by_precision in graph.files.values():
            for path in by_precision.values():
                if path not in manifest.files and path not in folders:
                    raise _wrong(f"{path!r} is used but not among the files")
    for path, shape in manifest.arrays.items():
        if manifest.files[path].bytes != 4 * math.prod(shape):
            raise _wrong(f"{path!r} of shape {list(shape)} cannot have {manifest.files[path].bytes} bytes")
    frames = len(manifest.golden_frames)
    for path, shape in array_shapes(frames).items():
        if not frames or manifest.arrays.get(path) != shape:
            raise _wrong(f"{path!r} must be of shape {list(shape)}, for at least one golden frame")
    if len(manifest.golden_camera.seconds) != frames:
        raise _wrong(f"{len(manifest.golden_camera.seconds)} golden frames were seen, and {frames} drawn")
    if unknown := set(manifest.graphs["student"].files) - set(manifest.graphs["driver"].files):
        raise _wrong(f"{min(unknown)} has a student and no driver")


def array_shapes(frames: int) -> dict[str, tuple[int, ...]]:
    """The arrays of a bundle with so many golden frames."""
    return {
        "identity/landmarks.f32": LANDMARKS_IN.shape[1:],
        "identity/keypoints.f32": (KEYPOINTS_IN.shape[1], 3),
        "golden/camera_neutral.f32": LANDMARKS_IN.shape[1:],
        "golden/camera_landmarks.f32": (frames, *LANDMARKS_IN.shape[1:]),
        "golden/live_landmarks.f32": (frames, *LANDMARKS_IN.shape[1:]),
        "golden/landmarks.f32": (frames, *LANDMARKS_IN.shape[1:]),
        "golden/keypoints.f32": (frames, *KEYPOINTS_IN.shape[1:]),
        "golden/local_landmarks.f32": (frames, *LOCAL_IN.shape[1:]),
    }


def _renamed(folder: Path, manifest: Manifest, entry: FileEntry) -> str:
    """A hint where a file of the same length lies under a name that the manifest does not know."""
    for path in itertools.islice(folder.rglob("*"), MOST_FILES):
        name = path.relative_to(folder).as_posix()
        if name not in manifest.files and path.is_file() and path.stat().st_size == entry.bytes:
            return f", but {name} has its length and may be it, renamed"
    return ""
