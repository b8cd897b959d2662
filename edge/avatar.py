"""An avatar that is ready to be driven: bound to its person once, then one frame for each set of landmarks.

    avatar = Avatar.load("me.avatar")
    retarget = avatar.retargeter(driving_neutral)      # the user's own calm face
    frame = avatar.animate(retarget(landmarks))        # every frame

This is the reference for Kotlin and Swift: the two graphs of the bundle and nothing else run for each frame.
"""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from edge import bundle as bundles
from edge.errors import BundleError, InputError, SpecError
from edge.judges import sandbox
from edge.judges.lint import lint
from edge.judges.onnx_graph import parse_graph
from edge.motion import Mouth, Retargeter
from edge.runtimes import Precision, Run, Runtime, format_of, installed, load_graph, prepare
from edge.spec import IMAGE_OUT, KEYPOINTS, KEYPOINTS_IN, LANDMARKS_IN, LOCAL_IN, LOCAL_LANDMARKS, TensorSpec
from edge.topology import LANDMARKS

Floats = npt.NDArray[np.float32]
Frame = npt.NDArray[np.uint8]

MOST_THREADS = 256
"""For one frame; beyond, a runtime may fail to start them."""


class Avatar:
    """One person, bound. Made by `load`; there is no half-loaded state."""

    def __init__(
        self, manifest: bundles.Manifest, precision: Precision, *, driver: Run, student: Run, source_landmarks: Floats
    ):
        """For `load`, which knows how to make the parts."""
        self.manifest = manifest
        self.precision = precision
        self.source_landmarks = source_landmarks
        """float32 [478, 3]: the photo's landmarks, what driving faces are retargeted to."""
        self._driver = driver
        self._student = student

    @classmethod
    def load(
        cls,
        bundle: str | os.PathLike[str],
        *,
        runtime: Runtime = "onnx",
        precision: Precision | None = None,
        threads: int | None = None,
        trusted: bool = False,
    ) -> "Avatar":
        """A bundle checked, loaded and warmed up by one frame, so that the next one comes at full speed.

        Args:
            bundle: the folder `NAME.avatar`.
            runtime: "onnx" is ONNX Runtime; "executorch" and "coreml" run their own files; "numpy" is the readable
                judge, several times slower.
            precision: default: the most exact that the bundle holds for this runtime. "int8" is smaller, faster,
                slightly less exact.
            threads: for one frame; default: as many as the runtime finds sensible. Core ML and numpy have their own
                settings.
            trusted: it is known who made the bundle. Else ExecuTorch and Core ML, whose programs can end a process,
                draw a first frame in a process of their own, which takes seconds; ONNX graphs are linted either way.

        Raises:
            BundleError: when the bundle is damaged, incomplete or of another version, or asks for what no avatar
                needs.
            InputError: when runtime, precision or threads is none that exists.
            MissingRuntimeError: when the runtime's package is not installed.
        """
        if runtime not in get_args(Runtime):
            raise InputError(f"There is no runtime {runtime!r}. Choose {', '.join(get_args(Runtime))}.")
        if threads is not None and not 1 <= threads <= MOST_THREADS:
            raise InputError(f"{threads} threads cannot draw a frame. Give 1 to {MOST_THREADS}, or leave it out.")
        manifest = bundles.read_manifest(bundle)
        bundles.verify_files(bundle, manifest)
        files = manifest.graphs["student"].files.get(format_of(runtime), {})
        if not files:
            raise InputError(
                f"{manifest.name} has no files for {runtime}, only for {', '.join(manifest.graphs['student'].files)}. "
                "Choose one of these, or make the avatar again with that runtime installed."
            )
        precision = precision or next(known for known in get_args(Precision) if known in files)
        if precision not in files:
            raise InputError(
                f"{manifest.name} has no {precision} student for {runtime}, only {', '.join(sorted(files))}. "
                f"Choose one of these, or make the avatar again with that precision."
            )
        folder = Path(bundle)
        if not trusted and runtime in ("executorch", "coreml") and installed(runtime):
            sandbox.call("edge.avatar:_try", [str(folder.resolve()), runtime, precision], doing=f"Trying {runtime}")
        # The driver is one small product, for which threads would only wait; ExecuTorch has one pool for both.
        driver = open_graph(folder, manifest, "driver", runtime, threads=threads if runtime == "executorch" else 1)
        student = open_graph(folder, manifest, "student", runtime, precision, threads)
        source_landmarks = bundles.read_array(folder, manifest, "identity/landmarks.f32")
        avatar = cls(manifest, precision, driver=driver, student=student, source_landmarks=source_landmarks)
        try:
            avatar.animate(avatar.source_landmarks)
        except SpecError as error:
            raise BundleError(f"{manifest.name} cannot draw its own face ({error}). Fetch the bundle again.") from error
        return avatar

    def animate(self, landmarks: npt.ArrayLike) -> Frame:
        """One frame of the person with this pose and expression.

        Args:
            landmarks: float [478, 3], crop coordinates, retargeted to this person (`retargeter`).

        Returns:
            uint8 [512, 512, 3], RGB.

        Raises:
            SpecError: when the landmarks have another shape, hold NaN, or lie far outside the crop.
        """
        return self.animate_keypoints(*self.drive(landmarks))

    def drive(self, landmarks: npt.ArrayLike) -> tuple[Floats, Floats]:
        """What the student is driven with: the driver net alone.

        Args:
            landmarks: float [478, 3], as for `animate`.

        Returns:
            Keypoints float32 [20, 2] and local landmarks float32 [56, 2], crop coordinates.

        Raises:
            SpecError: as for `animate`.
        """
        made = self._driver(landmarks=_checked(landmarks, LANDMARKS_IN, (LANDMARKS, 3)))
        keypoints, local = _promised("driver", made, (KEYPOINTS_IN, LOCAL_IN))
        return keypoints[0], local[0]

    def animate_keypoints(self, keypoints: npt.ArrayLike, local_landmarks: npt.ArrayLike) -> Frame:
        """One frame straight from what the student is driven with; the two may come from different sources.

        Args:
            keypoints: float [20, 2], crop coordinates.
            local_landmarks: float [56, 2], crop coordinates, in the order of `edge.topology.LOCAL`.

        Returns:
            uint8 [512, 512, 3], RGB.

        Raises:
            SpecError: when a shape is another, or a value is NaN or far outside the crop.
        """
        made = self._student(
            keypoints=_checked(keypoints, KEYPOINTS_IN, (KEYPOINTS, 2)),
            local_landmarks=_checked(local_landmarks, LOCAL_IN, (LOCAL_LANDMARKS, 2)),
        )
        (image,) = _promised("student", made, (IMAGE_OUT,))
        with np.errstate(invalid="ignore"):  # A pixel that is no number has any colour.
            image *= 255  # In place: the array is ours, and a second one would cost 3 MB. The graph ends in a clip.
            image += 0.5
            return np.ascontiguousarray(image[0].astype(np.uint8).transpose(1, 2, 0))

    def retargeter(self, driving_neutral: npt.ArrayLike, *, mouth: Mouth = "relative") -> Retargeter:
        """What carries another face's motion over to this person.

        Args:
            driving_neutral: float [478, 3], the driving person's calm face, any crop.
            mouth: see `edge.motion.Retargeter`.

        Returns:
            A callable: driving landmarks [478, 3] or [T, 478, 3] → landmarks for `animate`, same shape.

        Raises:
            SpecError: when the landmarks have another shape or hold NaN.
        """
        neutral = np.asarray(driving_neutral)
        return Retargeter(source_landmarks=self.source_landmarks, driving_neutral=neutral, mouth=mouth)


def open_graph(
    folder: Path,
    manifest: bundles.Manifest,
    graph: str,
    runtime: Runtime,
    precision: str | None = None,
    threads: int | None = None,
) -> Run:
    """One of a bundle's graphs, from the very bytes that the manifest vouches for; ONNX is linted before.

    Args:
        folder: `NAME.avatar`.
        manifest: its manifest.
        graph: "driver" or "student".
        runtime: that has files in the bundle.
        precision: default: the only one.
        threads: as in `load_graph`.

    Raises:
        BundleError: as `Avatar.load`.
        MissingRuntimeError: as `load_graph`.
    """
    files = manifest.graphs[graph].files[format_of(runtime)]
    path = files[precision] if precision else next(iter(files.values()))
    if runtime == "coreml":
        copy = tempfile.TemporaryDirectory(prefix="superface-")
        run = load_graph(runtime, bundles.copy_package(folder, manifest, path, Path(copy.name)))

        def keeping(**inputs: Floats) -> tuple[npt.NDArray[np.generic], ...]:
            return run(**inputs)

        keeping.copy = copy  # type: ignore[attr-defined]  # it goes with the graph
        return keeping
    if path not in manifest.files:
        raise BundleError(f"{path} is a folder where a file belongs. Fetch the bundle again.")
    if format_of(runtime) == "onnx":
        body = read_linted(folder, manifest, graph, path)
    else:
        body = bundles.read_file(folder, manifest, path)
    return load_graph(runtime, body, threads, name=path)


def read_linted(folder: Path, manifest: bundles.Manifest, graph: str, path: str) -> bytes:
    """An ONNX file of a graph ("driver" or "student"), as the manifest vouches for it, after lint.

    Raises:
        BundleError: when the file is another, or asks for more than an avatar's graph needs.
    """
    body = bundles.read_file(folder, manifest, path)
    lint(parse_graph(body, path), path, *bundles.GRAPHS[graph])
    return body


def _try(bundle: str, runtime: Runtime, precision: Precision) -> None:
    """In a process of its own: load, and draw a frame."""
    prepare(runtime)
    sandbox.limit_memory()
    Avatar.load(bundle, runtime=runtime, precision=precision, trusted=True)


def _promised(graph: str, made: Sequence[npt.NDArray[Any]], specs: Sequence[TensorSpec]) -> Sequence[Floats]:
    """What a graph gave, if it is what the manifest says."""
    found = [f"{value.dtype}{list(value.shape)}" for value in made]
    if found != (wanted := [f"{spec.dtype}{list(spec.shape)}" for spec in specs]):
        raise BundleError(f"The {graph} gave {', '.join(found)}, not {', '.join(wanted)}. Make the avatar again.")
    return made


def _checked(values: npt.ArrayLike, spec: TensorSpec, shape: tuple[int, ...]) -> Floats:
    """An input as the graph wants it, with its batch of one."""
    try:
        array = np.asarray(values, np.float32)
    except (TypeError, ValueError) as error:
        raise SpecError(f"{spec.name} must be an array of numbers of shape {shape} ({error}).") from error
    if array.shape != shape:
        hint = " Give one frame at a time." if array.ndim == len(shape) + 1 else " Was it made by another version?"
        raise SpecError(f"{spec.name} has shape {array.shape}, this avatar wants {shape}.{hint}")
    if not np.isfinite(array).all():
        raise SpecError(f"{spec.name} holds NaN or infinity. Skip frames without a face, or interpolate them.")
    if array.min() < spec.low or array.max() > spec.high:
        raise SpecError(
            f"{spec.name} reaches from {array.min():.3g} to {array.max():.3g}; crop coordinates stay within "
            f"{spec.low:g} and {spec.high:g}. Were pixels given instead of crop coordinates?"
        )
    return np.ascontiguousarray(array[None])
