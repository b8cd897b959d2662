"""MediaPipe's two model files: where they are found, or how they are made.

    face landmarker     478 points of a face; all that looks at photos and clips
    selfie segmenter    which pixels are the person; for the mesh teacher's cut-out

Looked for in this order, the first that works wins:

1. the path given, or the one in SUPERFACE_LANDMARKER or SUPERFACE_SEGMENTER;
2. the user's cache (SUPERFACE_CACHE, else the system's usual place);
3. Google's official download, checked against its sha256;
4. where only a package index can be reached, the older wheel mediapipe 0.10.21: pip fetches it (it is not installed)
   and files are taken out of it. The segmenter is the official one; the landmark model is **assembled**
   (`edge/driving/assembly.py`) from the same face detector and an earlier landmark network with the same 478 points.

All networks are MediaPipe's, Apache-2.0. Over 26 portraits the assembled file's points lie 2.4 % of the distance
between the eyes from the official one's on average. It has no blend shapes; SuperFace uses none.
"""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from edge.driving.assembly import assemble
from edge.errors import InputError, MissingRuntimeError

WHEEL = "mediapipe==0.10.21"
TIMEOUT_S = 8.0
PIP_TIMEOUT_S = 300.0
MAX_DOWNLOAD_BYTES = 32_000_000

Progress = Callable[[str], None]


class Official(NamedTuple):
    """A file as Google publishes it."""

    name: str
    """In the cache."""
    url: str
    sha256: str


class Packed(NamedTuple):
    """A data file inside the wheel, the same in every platform's."""

    path: str
    sha256: str


LANDMARKER = Official(
    "face_landmarker.task",
    "https://storage.googleapis.com/mediapipe-models/face_landmarker/face_landmarker/float16/1/face_landmarker.task",
    "64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff",
)
ASSEMBLED_NAME = "face_landmarker_assembled_1.task"
"""Named after what it is, with a version: a newer assembly does not read an older one."""
DETECTOR = Packed(
    "mediapipe/modules/face_detection/face_detection_short_range.tflite",
    "bbff11cebd1eb27a1e004cae0b0e63ec8c551cbf34a4451148b4908b8db3eca8",
)
MESH = Packed(
    "mediapipe/modules/face_landmark/face_landmark_with_attention.tflite",
    "e06a804e0144f9929eda782122916b35d60c697c3c9344013ca2bbe76a6ce2b4",
)
SEGMENTER = Official(
    "selfie_segmentation.tflite",
    "https://storage.googleapis.com/mediapipe-assets/selfie_segmentation.tflite",
    "9ee168ec7c8f2a16c56fe8e1cfbc514974cbbb7e434051b455635f1bd1462f5c",
)
PACKED_SEGMENTER = Packed("mediapipe/modules/selfie_segmentation/selfie_segmentation.tflite", SEGMENTER.sha256)


def say(line: str) -> None:
    """One line to standard error: the default of `progress`."""
    print(line, file=sys.stderr, flush=True)


def find_landmarker(path: str | Path | None = None, *, progress: Progress = say) -> Path:
    """The landmark model file, fetched or assembled once where it is not there yet.

    Args:
        path: the file to use; without it SUPERFACE_LANDMARKER, then the places this file's head lists.
        progress: told in a sentence what is being fetched; by default printed to standard error.

    Raises:
        InputError: the path given, or that in SUPERFACE_LANDMARKER, is no file.
        MissingRuntimeError: no way led to the file; the message lists all that were tried.
    """
    if named := _named(path, "SUPERFACE_LANDMARKER", "landmark model", LANDMARKER.name):
        return named
    cache = cache_folder()
    official, assembled = cache / LANDMARKER.name, cache / ASSEMBLED_NAME
    if _is_official(official, LANDMARKER):
        return official
    if assembled.is_file() and _is_whole(assembled):
        return assembled

    def make() -> bytes:
        return assemble(*_from_wheel(DETECTOR, MESH))

    ways = (
        _Way("Fetching MediaPipe's face landmark model (4 MB)", official, lambda: _download(LANDMARKER)),
        _Way(f"Assembling the face landmark model from the package {WHEEL} (36 MB)", assembled, make),
    )
    found = _first(ways, "Finding faces needs MediaPipe's landmark model", LANDMARKER, "SUPERFACE_LANDMARKER", progress)
    if found == assembled:  # the official one's digest is known
        _write(_digest_file(found), _sha256(found.read_bytes()).encode())
    return found


def find_segmenter(path: str | Path | None = None, *, progress: Progress = say) -> Path:
    """The segmentation model file, fetched once where it is not there yet; the same bytes from wherever.

    Args:
        path: the file to use; without it SUPERFACE_SEGMENTER, then the places this file's head lists.
        progress: as in `find_landmarker`.

    Raises:
        InputError: the path given, or that in SUPERFACE_SEGMENTER, is not this file.
        MissingRuntimeError: no way led to the file; the message lists all that were tried.
    """
    if named := _named(path, "SUPERFACE_SEGMENTER", "segmentation model", SEGMENTER.name):
        if not _is_official(named, SEGMENTER):
            raise InputError(f"{named} is another file than MediaPipe's {SEGMENTER.name} (wrong sha256).")
        return named
    kept = cache_folder() / SEGMENTER.name
    if _is_official(kept, SEGMENTER):
        return kept
    ways = (
        _Way("Fetching MediaPipe's segmentation model (0.3 MB)", kept, lambda: _download(SEGMENTER)),
        _Way(
            f"Taking the segmentation model from the package {WHEEL} (36 MB)",
            kept,
            lambda: _from_wheel(PACKED_SEGMENTER)[0],
        ),
    )
    purpose = "Cutting a person out of a photo needs MediaPipe's segmentation model"
    return _first(ways, purpose, SEGMENTER, "SUPERFACE_SEGMENTER", progress)


def cache_folder() -> Path:
    """Where fetched model files are kept between runs."""
    if named := os.environ.get("SUPERFACE_CACHE"):
        return Path(named)
    if named := os.environ.get("XDG_CACHE_HOME"):
        return Path(named) / "superface"
    if sys.platform == "win32" and (local := os.environ.get("LOCALAPPDATA")):
        return Path(local) / "superface" / "cache"
    return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "superface"


class _Way(NamedTuple):
    """One way to a model file."""

    what: str
    """Is being done, said while it is."""
    target: Path
    make: Callable[[], bytes]


class _Unavailable(Exception):
    """One way to a model file is closed; the message says why."""


def _named(path: str | Path | None, variable: str, what: str, name: str) -> Path | None:
    """The file that somebody named, if somebody did."""
    named = path or os.environ.get(variable)
    if named and not Path(named).is_file():
        raise InputError(f"The {what} {'given' if path else f'in {variable}'} is no file: {named}. Give {name} itself.")
    return Path(named) if named else None


def _first(ways: tuple[_Way, ...], purpose: str, official: Official, variable: str, progress: Progress) -> Path:
    """The target of the first way that is open, written."""
    for broken in dict.fromkeys(way.target for way in ways if way.target.is_file()):
        progress(f"{broken} is not as it was written; it is made anew.")
    tried = [f"cache {ways[0].target.parent}: not there, or broken"]
    for what, target, make in ways:
        progress(f"{what} …")
        try:
            content = make()
        except _Unavailable as error:
            tried.append(f"{what[0].lower()}{what[1:]}: {error}")
            progress(f"  not possible: {error}")
            continue
        _write(target, content)
        progress(f"  done, kept in {target}")
        return target
    raise MissingRuntimeError(
        f"{purpose}, and no way led to it. Tried:\n  "
        + "\n  ".join(tried)
        + f"\nConnect once, or download {official.url} elsewhere and name the file in {variable}."
    )


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _is_official(path: Path, official: Official) -> bool:
    return path.is_file() and _sha256(path.read_bytes()) == official.sha256


def _is_whole(task: Path) -> bool:
    """Whether an assembled file is as it was written, by the digest beside it."""
    try:
        return _digest_file(task).read_text().strip() == _sha256(task.read_bytes())
    except (OSError, ValueError):
        return False


def _digest_file(task: Path) -> Path:
    return task.with_name(f"{task.name}.sha256")


def _write(target: Path, content: bytes) -> None:
    """Write whole or not at all."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=target.name, delete=False) as file:
            try:
                file.write(content)
                file.close()
                os.replace(file.name, target)
            except BaseException:
                file.close()
                Path(file.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise MissingRuntimeError(
            f"{target.name} cannot be kept in {target.parent} ({error}). "
            "Name a folder that can be written in SUPERFACE_CACHE."
        ) from error


def _download(official: Official) -> bytes:
    try:
        with urllib.request.urlopen(official.url, timeout=TIMEOUT_S) as reply:
            content: bytes = reply.read(MAX_DOWNLOAD_BYTES)
    except (OSError, urllib.error.URLError, ValueError) as error:
        raise _Unavailable(f"no answer ({error})") from error
    if _sha256(content) != official.sha256:
        raise _Unavailable("what came back is not the file (wrong sha256)")
    return content


def _from_wheel(*files: Packed) -> list[bytes]:
    """Files of the older wheel, which pip fetches without installing it."""
    # -P: a module of the working directory is none of ours.
    pip = [sys.executable, "-P", "-m", "pip"] if importlib.util.find_spec("pip") else [shutil.which("pip") or ""]
    if not pip[0]:
        raise _Unavailable("pip is not installed; python -m ensurepip installs it")
    with tempfile.TemporaryDirectory(prefix="superface-") as folder:
        # Only data files are taken: any platform's wheel does, so this one is asked for everywhere.
        command = [
            *pip, "download", WHEEL, "--no-deps", "--only-binary=:all:", "--dest", folder, "--quiet",
            "--platform", "manylinux_2_28_x86_64", "--implementation", "cp", "--python-version", "311",
            "--disable-pip-version-check", "--no-input", "--retries", "1", "--timeout", "15",
        ]  # fmt: skip
        try:
            run = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=PIP_TIMEOUT_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise _Unavailable(f"pip failed ({error})") from error
        wheels = sorted(Path(folder).glob("mediapipe-*.whl"))
        if run.returncode or not wheels:
            reason = next((line for line in run.stderr.splitlines() if line.startswith("ERROR")), "no reason given")
            raise _Unavailable(f"pip cannot fetch {WHEEL} ({reason})")
        try:
            with zipfile.ZipFile(wheels[0]) as wheel:
                contents = [wheel.read(file.path) for file in files]
        except (KeyError, zipfile.BadZipFile, OSError) as error:
            raise _Unavailable(f"the wheel {wheels[0].name} is not as expected ({error})") from error
    if any(_sha256(content) != file.sha256 for content, file in zip(contents, files, strict=True)):
        raise _Unavailable(f"the wheel {wheels[0].name} holds other networks than expected (wrong sha256)")
    return contents
