"""Is this avatar whole, and does it still say what it said when it was made? `superface check NAME.avatar`.

Four questions: are all files as the manifest says; does what ports retype (crop, live filter, retargeting) still turn
a camera's landmarks into the golden ones; does the driver turn those into the golden keypoints; does every runtime and
precision at hand draw the golden frames. Each starts from golden values, so that the first to fail names what is wrong.

The gates stand here, in one table, because this is the lowest place that needs them; the converters hold their output
to the same table.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast, get_args

import numpy as np
import numpy.typing as npt

from edge import bundle as bundles
from edge.avatar import Avatar
from edge.errors import BundleError, InputError, MissingRuntimeError
from edge.judges import sandbox
from edge.motion import LiveFilter, Retargeter
from edge.preprocess import Crop, face_crop, to_crop
from edge.runtimes import Precision, Runtime, engine, format_of, prepare


class Gate(NamedTuple):
    """What a converted student must reach against the trained one."""

    mean_db: float
    worst_db: float
    """Of any single frame."""


GATES = {
    "fp32": Gate(mean_db=60.0, worst_db=60.0),
    "fp16": Gate(mean_db=45.0, worst_db=45.0),
    "int8": Gate(mean_db=35.0, worst_db=33.0),
    "w8": Gate(mean_db=35.0, worst_db=33.0),
    "palette6": Gate(mean_db=35.0, worst_db=33.0),
    "image": Gate(mean_db=45.0, worst_db=45.0),
}
"""PSNR in dB by precision. 35 dB is the floor that Apple sets for its own converters."""

SAME_DB = 160.0
"""What two equal frames count as: float32 cannot say more, and JSON knows no infinity."""

DRIVER_TOLERANCE = 1e-4
"""Crop coordinates: a fortieth of a pixel. Also of each rung before the driver."""


class Rung(NamedTuple):
    """One step between a camera and the driver, from golden values to golden values."""

    step: str
    error: float
    """Largest distance from the golden values; crop coordinates, of the crop itself pixels."""
    passed: bool


class CheckRow(NamedTuple):
    """One runtime at one precision against the golden frames."""

    runtime: str
    precision: str
    engine: str
    """What ran it here, with its version."""
    mean_db: float
    worst_db: float
    required_db: float
    passed: bool


@dataclass(frozen=True)
class CheckReport:
    """The findings of `check`."""

    name: str
    files: int
    """Files that were compared with the manifest, all whole."""
    rungs: tuple[Rung, ...]
    driver_error: float
    """Largest distance of a driven keypoint from the golden one, crop coordinates."""
    rows: tuple[CheckRow, ...]
    skipped: tuple[str, ...] = ()
    """A sentence for each runtime whose files are whole, and which is not installed here to run them."""
    lacking: tuple[str, ...] = ()
    """Expressions that the student draws too little of, by its own manifest: it was made with --force."""

    @property
    def passed(self) -> bool:
        """Every gate was met."""
        return (
            self.driver_error <= DRIVER_TOLERANCE
            and all(rung.passed for rung in self.rungs)
            and all(row.passed for row in self.rows)
        )

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values, rows as objects."""
        parts = {"rungs": [rung._asdict() for rung in self.rungs], "rows": [row._asdict() for row in self.rows]}
        return {**self.__dict__, **parts, "passed": self.passed}


def psnr_db(expected: npt.NDArray[Any], got: npt.NDArray[Any], *, peak: float) -> float:
    """Peak signal to noise ratio of one frame.

    Args:
        expected: any shape.
        got: the same shape.
        peak: the largest value a pixel can have: 1 or 255.

    Returns:
        dB; `SAME_DB` at most, also for equal frames.
    """
    error = np.square(expected.astype(np.float64) - got.astype(np.float64)).mean() / peak**2
    return float(-10 * np.log10(max(error, 10 ** (-SAME_DB / 10))))


def check(
    bundle: str | os.PathLike[str], *, runtimes: Sequence[Runtime] = get_args(Runtime), trusted: bool = False
) -> CheckReport:
    """Verify a bundle's files and redraw its golden frames with every runtime and precision in it.

    Args:
        bundle: `NAME.avatar`.
        runtimes: the ones to ask; default: all. Those that the bundle has no files for are left out, and those that
            are not installed are named in `skipped`.
        trusted: it was made by this very program: its graphs run in this process, which is quicker, instead of one of
            their own.

    Raises:
        BundleError: when a file is missing, changed or not listed, or a graph cannot be run, asks for more than an
            avatar needs, or ends the process it is tried in.
    """
    manifest = bundles.read_manifest(bundle)
    bundles.verify_files(bundle, manifest)
    for name in manifest.golden_frames:
        bundles.read_frame(bundle, manifest, name)
    rungs = climb(bundle, manifest)
    rows: list[CheckRow] = []
    skipped: list[str] = []
    driver_error = 0.0
    for runtime in runtimes:
        precisions = [_known(name) for name in manifest.graphs["student"].files.get(format_of(runtime), {})]
        try:
            if precisions and trusted:
                error, found = _redraw(os.fspath(bundle), runtime, precisions)
            elif precisions:
                arguments = [os.path.abspath(bundle), runtime, precisions]
                error, found = sandbox.call(
                    "edge.judges.check:_redraw_apart", arguments, doing=f"Running the {runtime} files"
                )
            else:
                continue
            driver_error = max(driver_error, error)
            rows += [CheckRow(*row) for row in found]
        except MissingRuntimeError as missing:
            skipped += [f"{runtime} {precision}: whole, NOT executed. {missing}" for precision in precisions]
    lacking = tuple(row.expression for row in manifest.expressions if not row.passed)
    return CheckReport(manifest.name, len(manifest.files), rungs, driver_error, tuple(rows), tuple(skipped), lacking)


def follow(
    neutral: bundles.Floats, seen: bundles.Floats, crop: Crop, seconds: Sequence[float], source: bundles.Floats
) -> tuple[bundles.Floats, bundles.Floats]:
    """What a port makes of a camera's landmarks.

    Args:
        neutral: float32 [478, 3], pixels: the driver at rest.
        seen: float32 [T, 478, 3], pixels.
        crop: the driver's, in that picture.
        seconds: T times at which they were seen.
        source: float32 [478, 3], the avatar's own, crop coordinates.

    Returns:
        float32 [T, 478, 3] each, crop coordinates: filtered as they come; and retargeted to the avatar, unfiltered.
    """
    driving, calm = to_crop(seen, crop), LiveFilter()
    live = np.stack([calm(face, second) for face, second in zip(driving, seconds, strict=True)])
    return live, Retargeter(source_landmarks=source, driving_neutral=to_crop(neutral, crop))(driving)


def climb(bundle: str | os.PathLike[str], manifest: bundles.Manifest) -> tuple[Rung, ...]:
    """What a port does before the driver, one step after the other, each from golden values.

    Raises:
        BundleError: when the golden values are damaged, or none that a camera sees.
    """

    def golden(name: str) -> npt.NDArray[np.float32]:
        return bundles.read_array(bundle, manifest, f"golden/{name}.f32")

    camera, neutral, seen = manifest.golden_camera, golden("camera_neutral"), golden("camera_landmarks")
    crop = Crop(camera.x, camera.y, camera.size)
    source = bundles.read_array(bundle, manifest, "identity/landmarks.f32")
    try:
        found = face_crop(neutral, (camera.width, camera.height))
        live, moved = follow(neutral, seen, crop, camera.seconds, source)
    except InputError as error:
        raise BundleError(f"The golden landmarks of {manifest.name} are no face ({error}).") from error
    errors = {
        "crop": (np.abs(np.subtract(found, crop)).max(), 0.01),
        "live filter": (np.abs(live - golden("live_landmarks")).max(), DRIVER_TOLERANCE),
        "retargeting": (np.abs(moved - golden("landmarks")).max(), DRIVER_TOLERANCE),
    }
    return tuple(Rung(step, float(error), bool(error <= most)) for step, (error, most) in errors.items())


def _redraw_apart(bundle: str, runtime: Runtime, precisions: Sequence[Precision]) -> tuple[float, list[CheckRow]]:
    """`_redraw` in a process of its own."""
    prepare(runtime)
    sandbox.limit_memory()
    return _redraw(bundle, runtime, precisions)


def _redraw(bundle: str, runtime: Runtime, precisions: Sequence[Precision]) -> tuple[float, list[CheckRow]]:
    """The driver's error, and a row for each precision of a runtime."""
    manifest = bundles.read_manifest(bundle)
    golden = {
        name: bundles.read_array(bundle, manifest, f"golden/{name}.f32")
        for name in ("landmarks", "keypoints", "local_landmarks")
    }
    frames = [bundles.read_frame(bundle, manifest, name) for name in manifest.golden_frames]
    rows, driver_error = [], 0.0
    for precision in precisions:
        avatar = Avatar.load(bundle, runtime=runtime, precision=precision, trusted=True)
        decibels = []
        for index, frame in enumerate(frames):
            keypoints, local = avatar.drive(golden["landmarks"][index])
            driver_error = max(
                driver_error,
                float(np.abs(keypoints - golden["keypoints"][index]).max()),
                float(np.abs(local - golden["local_landmarks"][index]).max()),
            )
            drawn = avatar.animate_keypoints(golden["keypoints"][index], golden["local_landmarks"][index])
            decibels.append(psnr_db(frame, drawn, peak=255))
        mean_db, worst_db, gate = float(np.mean(decibels)), min(decibels), GATES[precision]
        passed = mean_db >= gate.mean_db and worst_db >= gate.worst_db
        rows.append(CheckRow(runtime, precision, engine(runtime), mean_db, worst_db, gate.mean_db, passed))
    return driver_error, rows


def report(result: CheckReport) -> str:
    """The findings for reading, the verdict last."""
    lines = [f"{result.name}: {result.files} files, all as the manifest says"]
    for rung in result.rungs:
        lines.append(f"{rung.step}: {'agrees' if rung.passed else 'FAILED'}, largest error {rung.error:.1e}")
    close = "agrees" if result.driver_error <= DRIVER_TOLERANCE else "FAILED"
    lines.append(f"driver: {close}, largest error {result.driver_error:.1e} of the crop's half")
    for row in result.rows:
        verdict = "passed" if row.passed else "FAILED"
        lines.append(
            f"{row.runtime:10} {row.precision}: {row.mean_db:.1f} dB mean, {row.worst_db:.1f} dB worst, "
            f"{row.required_db:.0f} dB required on {row.engine}: {verdict}"
        )
    lines += result.skipped
    if result.lacking:
        lines.append(f"note: made with --force; it draws too little of its teacher's {', '.join(result.lacking)}")
    return "\n".join([*lines, "passed" if result.passed else "FAILED: do not ship this avatar; make it again."])


def _known(precision: str) -> Precision:
    if precision in get_args(Precision):
        return cast(Precision, precision)
    raise BundleError(
        f"This program cannot run the precision {precision!r}; it knows {', '.join(get_args(Precision))}."
    )
