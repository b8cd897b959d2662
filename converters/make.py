"""The journey: one photo in, a verified avatar bundle, a preview and a report out.

    photo → portrait → teacher → frames of training tracks → student → ONNX fp32 and int8 → parity →
    NAME.avatar

Everything a run needs to go on lies in its run folder: kill it at any moment and start it again.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock, Timeout
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from converters.golden import golden_motion
from converters.quantize import in_eight_bits
from converters.report import Sheet, write_report
from converters.student_graph import Driving, StudentGraph
from converters.to_coreml import export_coreml
from converters.to_executorch import export_executorch
from converters.to_onnx import export_onnx
from converters.write_bundle import CONSENT, BundleContents, Lowered, write_bundle
from edge.avatar import Avatar
from edge.bundle import ExpressionRow, Manifest, all_readable, safe_name
from edge.driving.landmarks import Portrait, read_portrait
from edge.driving.procedural import Style, held_out_seed, procedural_track, showcase, train_seed
from edge.driving.track import Track, read_driving
from edge.driving.video import VideoWriter
from edge.errors import BundleError, FidelityError, InputError
from edge.judges.bench import Bench, bench
from edge.judges.check import CheckReport, check, psnr_db
from edge.judges.check import report as explain
from edge.runtimes import Runtime, installed
from edge.spec import FRAME
from edge.topology import LOCAL
from training.checkpoint import write_text
from training.config import TRAINING_FRAMES, DistilConfig
from training.measures.evaluators import load_head_pose, load_lpips, load_perceptual
from training.measures.expressions import draw_closeups, draw_lesson, measure_expressions, shortfalls, teach
from training.measures.face import FaceFidelity, measure_face
from training.measures.metrics import psnr
from training.progress import print_progress
from training.student.census import dying, silence
from training.student.cost import student_config, student_cost
from training.student.distill import DistilResult, RenderedTrack, distil, draw_track, evaluate, render_track, spread
from training.student.driver import Driver
from training.student.network import Student
from training.student.schedule import LOOK_EVERY
from training.teachers import Identity, Teacher
from training.teachers.load import load_teacher

EXAMPLES = {
    "grace_hopper": ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg", "public domain (US Navy)"),
    "astronaut": ("skimage", "data/astronaut.png", "public domain (NASA)"),
}
"""Portraits that installed packages ship, by name: package, path inside it, licence."""

TRAINING_STRIDE = 5
"""Procedural motion that trains is thinned to every fifth frame: neighbours teach the same twice."""
HELD_OUT_SECONDS = 8.0
HELD_OUT_STRIDE = 2
WATCHED_STRIDE = 8
EXTREMES_STRIDE = 4
"""Two tracks measure: a calm speaker, as avatars are used, and the extremes that training covers."""
PREVIEW_SECONDS = 6.0
FPS = 25.0
QUANTISED_FRAMES = 12
"""Held-out frames among which the report looks for the one that 8 bits draw worst."""
FINISHED = "finished.json"
"""File of a run folder whose avatar was made: the same command may train on."""
DRIVING_SHARE = 0.8
"""Of a driving clip, the part that trains; the rest measures."""


@dataclass(frozen=True)
class MakeConfig:
    """What `superface make` may be asked for; the defaults are those of the command line."""

    name: str | None = None
    """Name of the avatar; default: the photo's."""
    driving: Path | None = None
    """A clip or track whose motion is learned beside the procedural one."""
    face: int | None = None
    """Which face of the photo, counted from the left; default: the largest."""
    strict: bool = False
    """Refuse a photo that no good avatar can come of, instead of saying so in a note."""
    teacher: str = "mesh"
    runs: Path = Path("runs")
    """Folder that holds one folder a run."""
    frames: int = TRAINING_FRAMES
    """Frames of procedural motion that train."""
    consent: str | None = None
    """Who agreed to this avatar, and how; written into the bundle."""
    force: bool = False
    """A bundle even of a student that draws too little of its teacher's mouth and eyes; its manifest says so."""
    distil: DistilConfig = field(default_factory=DistilConfig)


@dataclass(frozen=True)
class Made:
    """Where everything is, and the figures."""

    run: Path
    bundle: Path
    preview: Path
    report: Path
    manifest: Manifest
    check: CheckReport
    bench: Bench
    seconds: float
    unfinished: str | None = None
    """Says that training ran out of minutes, and how to go on."""

    def summary(self) -> dict[str, Any]:
        """The figures as plain JSON."""
        manifest = self.manifest
        return {
            "bundle": str(self.bundle),
            "preview": str(self.preview),
            "report": str(self.report),
            "gmacs": manifest.gmacs,
            "gflops": manifest.gflops,
            "parameters": manifest.parameters,
            "bytes": sum(entry.bytes for entry in manifest.files.values()),
            "metrics": manifest.metrics,
            "expressions": [row._asdict() for row in manifest.expressions],
            "parity": [row._asdict() for row in manifest.parity],
            "verified": self.check.passed,
            "seconds": round(self.seconds, 1),
            "unfinished": self.unfinished,
        }


def example_photo(name: str) -> Path:
    """The file of a portrait that a dependency ships.

    Raises:
        InputError: there is no such example, or its package is not installed.
    """
    package, inside, _ = EXAMPLES[name]
    spec = find_spec(package)
    path = Path(spec.origin).parent / inside if spec and spec.origin else None
    if path is None or not path.is_file():
        raise InputError(
            f'The example portrait {name} comes with {package}. Install it with pip install "superface[examples]".'
        )
    return path


def make(photo: str | Path | None = None, config: MakeConfig | None = None) -> Made:
    """An avatar from a photo.

    Args:
        photo: an image file, or the name of an example ("grace_hopper", the default, or "astronaut").
        config: see `MakeConfig`.

    Returns:
        Made; its bundle was written, read back and checked.

    Raises:
        InputError: the photo, the clip or a setting cannot be used.
        FidelityError: the painter died in training, or draws too little of mouth and eyes; no bundle is written.
        ParityError: a converted student misses its gate; no bundle is written.
        MissingRuntimeError: MediaPipe or its model is missing.
    """
    config = config or MakeConfig()
    student_config(config.distil.gflops)  # what no student fits is said before anything is made
    if not all_readable(config.consent):
        raise InputError("The consent holds line breaks or control characters. Say it in one line.")
    started = time.monotonic()
    example = str(photo or "grace_hopper")
    is_example = example in EXAMPLES and not Path(example).exists()
    path = example_photo(example) if is_example else Path(example)
    name = safe_name(config.name or path.stem)
    if not name:
        raise InputError(f"{config.name or path.stem!r} is no name for an avatar. Give one of letters with --name.")
    run = config.runs / name
    if config.runs.exists() and not config.runs.is_dir():
        raise InputError(f"--runs {config.runs} is no folder. Choose another.")

    say(f"Reading {path.name}")
    portrait = read_portrait(path, face=config.face, strict=config.strict)
    for note in portrait.notes:
        say(f"  note: {note}")
    driving = read_driving(config.driving, source_landmarks=portrait.landmarks) if config.driving else None
    for note in driving.notes if driving else ():
        say(f"  note: {note}")
    licence = EXAMPLES[example][2] if is_example else "the photo's own; whoever made the avatar answers for it"
    with _claimed(run, portrait, config):
        return _make(name, run, portrait, driving, licence, is_example, config, started)


def _make(
    name: str, run: Path, portrait: Portrait, driving: Track | None, licence: str, is_example: bool,
    config: MakeConfig, started: float,
) -> Made:  # fmt: skip
    """What `make` does once it knows whom and where."""
    teacher = load_teacher(config.teacher)
    source_landmarks = torch.from_numpy(portrait.landmarks)
    source_image = torch.from_numpy(portrait.image).permute(2, 0, 1).float() / 255
    identity = teacher.prepare(source_image, source_landmarks)
    tracks = make_tracks(portrait, driving, config)
    say(f"Learning {name} from the {teacher.name} teacher: {len(tracks.training)} frames")
    result = distil(
        identity,
        teacher,
        run,
        training_landmarks=tracks.training,
        held_out_landmarks=tracks.held_out,
        watched_landmarks=tracks.watched,
        finished_at=_finished_at(run),
        config=config.distil,
        **_judges(teacher),
    )
    progress = print_progress()
    extremes = render_track(
        identity, teacher, tracks.extremes, run / "extremes", label="rendering extremes", progress=progress
    )
    hardest = evaluate(result.student, extremes, config.distil)
    fidelity = result.fidelity
    driven = _driver_fidelity(result, tracks.held_out) if teacher.driver(identity) is None else {}
    face = _measure_face(result)
    say(f"Student against teacher, held-out talking motion: {tell_face(face.known())}")
    say(
        f"  whole frames: {fidelity.psnr_db:.1f} dB PSNR, SSIM {fidelity.ssim:.3f}; at the extremes "
        f"{hardest.psnr_db:.1f} dB, {hardest.ssim:.3f}"
    )
    unfinished = _unfinished(result, config.distil)
    if unfinished:
        say(f"  note: {unfinished}")
    lesson = teach(teacher, identity)
    drawn = draw_lesson(result.student, lesson)
    expressions = measure_expressions(drawn, lesson)
    say(
        "  of the teacher's mouth and eyes it draws: "
        + ", ".join(f"{r.expression} {100 * r.drawn:.0f} %" for r in expressions)
    )
    closeups = draw_closeups(drawn, lesson)
    Image.fromarray(closeups).save(run / "expressions.png")
    missed = shortfalls(expressions) + [f"{layer.name}: {silence(layer)}" for layer in dying(result.census)]
    _require(missed, run / "expressions.png", force=config.force)

    say("Lowering to every runtime, and comparing what each executes with the trained student")
    bundle = run / f"{name}.avatar"
    contents = _contents(
        name, portrait, identity, teacher, result,
        face.known()
        | {key: float(value) for key, value in fidelity._asdict().items()}
        | {f"extreme_{key}": float(value) for key, value in hardest._asdict().items()}
        | driven,
        expressions, config, licence, is_example,
    )  # fmt: skip
    manifest = write_bundle(bundle, contents)
    verdict = check(bundle, trusted=True)
    if not verdict.passed:
        raise BundleError(f"{bundle} was written but fails its own check:\n{explain(verdict)}")
    say("Measuring")
    speed = bench(bundle)

    avatar = Avatar.load(bundle)
    preview_file = run / "preview.mp4"
    _film(avatar, teacher, identity, portrait.image, tracks.preview, preview_file)
    sheet = _sheet(avatar, teacher, identity, portrait, result, _coarsest(bundle, avatar, result.held_out), closeups)
    report = run / "report.html"
    seconds = time.monotonic() - started
    write_report(
        report, manifest, verdict, speed, history=result.history, sheet=sheet, seconds=seconds,
        notes=portrait.notes
        + (driving.notes if driving else ())
        + tuple(f"Training went back to a healthy state once ({setback})." for setback in result.setbacks)
        + ((unfinished,) if unfinished else ()),
    )  # fmt: skip
    write_text(run / FINISHED, json.dumps({"steps": result.steps}))
    return Made(run, bundle, preview_file, report, manifest, verdict, speed, seconds, unfinished)


def _finished_at(run: Path) -> int | None:
    """Steps of the student that the last run in this folder made an avatar of; None where none was made yet."""
    try:
        return int(json.loads((run / FINISHED).read_text())["steps"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def lower_all(
    student: Student, driver: Driver, *, calibration: Driving, held_out: Driving
) -> tuple[list[Lowered], list[Lowered]]:
    """Student and driver for ONNX Runtime, ExecuTorch and Core ML: those whose packages are installed.

    Args:
        student: bound, trained.
        driver: landmarks → keypoints of this person.
        calibration: motion of the training track.
        held_out: motion that nobody saw.

    Returns:
        All students, then all drivers.

    Raises:
        ParityError: when one of them misses its gate.
    """
    onnx, onnx_driver = export_onnx(
        student, driver, calibration=calibration, held_out=held_out, precisions=("fp32", "int8")
    )
    students, drivers = list(onnx), [onnx_driver]
    quantised = in_eight_bits(student, calibration)  # one for both
    exporters: dict[Runtime, Any] = {"executorch": export_executorch, "coreml": export_coreml}
    for runtime, export in exporters.items():
        if not installed(runtime):
            say(f'  note: no files for {runtime}, which is not installed (pip install "superface[{runtime}]")')
            continue
        more, its_driver = export(student, driver, calibration=calibration, held_out=held_out, quantised=quantised)
        students += more
        drivers.append(its_driver)
    for graph in students:
        if graph.parity:
            say(f"  {graph.path}: {graph.parity.mean_db:.1f} dB, worst frame {graph.parity.worst_db:.1f} dB")
    return students, [made for made in drivers if made]


def say(line: str) -> None:
    """One line of what is happening, beside any progress bar."""
    tqdm.write(line)


@contextmanager
def _claimed(run: Path, portrait: Portrait, config: MakeConfig) -> Iterator[None]:
    """The run folder, for this photo and this process alone: whoever else is at work there is not mixed in."""
    try:
        run.mkdir(parents=True, exist_ok=True)
        lock = FileLock(run / ".lock", timeout=0)
        lock.acquire()
    except Timeout as error:
        raise InputError(
            f"Another superface make is at work in {run}. Wait until it is done, or give this one a --name."
        ) from error
    except OSError as error:
        raise InputError(f"{run} cannot be made ({error.strerror}). Choose another folder with --runs.") from error
    try:
        _sign(run, portrait, config)
        yield
    finally:
        lock.release()


def _sign(run: Path, portrait: Portrait, config: MakeConfig) -> None:
    """Whose run it is, and nobody else's: another photo of the same name is refused."""
    digest = hashlib.sha256(portrait.image.tobytes() + portrait.landmarks.tobytes()).hexdigest()
    record = run / "run.json"
    if record.exists():
        try:
            known = json.loads(record.read_text())["photo_sha256"]
        except (OSError, ValueError, KeyError, TypeError):
            known = None
        if known not in (None, digest):
            raise InputError(
                f"{run} holds the run of another photo of that name. Give this one another name with --name, "
                f"or delete the folder."
            )
    write_text(record, json.dumps({"photo_sha256": digest, "teacher": config.teacher}, indent=1))


class Tracks(NamedTuple):
    """Landmarks float32 [T, 478, 3] of this person: what trains, what measures, what tells when training is over."""

    training: npt.NDArray[np.float32]
    held_out: npt.NDArray[np.float32]
    watched: npt.NDArray[np.float32]
    extremes: npt.NDArray[np.float32]
    preview: Track


def make_tracks(portrait: Portrait, driving: Track | None, config: MakeConfig) -> Tracks:
    """What trains and what measures; no seed and no part of a clip does both."""
    frames, source = config.frames, portrait.landmarks
    held_out_seconds = min(HELD_OUT_SECONDS, frames / FPS)

    def motion(seed: int, seconds: float, style: Style) -> Track:
        return procedural_track(source, seed=seed, seconds=seconds, fps=FPS, style=style)

    training = [motion(train_seed(0), frames * TRAINING_STRIDE / FPS, "training").landmarks[::TRAINING_STRIDE]]
    held_out = [motion(held_out_seed(10), held_out_seconds, "speech").landmarks[::HELD_OUT_STRIDE]]
    preview = motion(held_out_seed(11), min(PREVIEW_SECONDS, frames / FPS), "speech")
    watched = motion(held_out_seed(13), held_out_seconds, "speech").landmarks[::WATCHED_STRIDE]
    extremes = motion(held_out_seed(12), held_out_seconds, "training").landmarks[::EXTREMES_STRIDE]
    if driving is not None:
        cut = max(1, int(DRIVING_SHARE * len(driving)))
        training.append(driving.landmarks[:cut])
        held_out.append(driving.landmarks[cut::HELD_OUT_STRIDE])
        last = driving.landmarks[cut:][: round(PREVIEW_SECONDS * driving.fps)]
        if len(last) >= driving.fps:
            preview = Track(landmarks=last, fps=driving.fps, detected=np.ones(len(last), bool))
    return Tracks(np.concatenate(training), np.concatenate(held_out), watched, extremes, preview)


def _driving(track: RenderedTrack) -> Driving:
    return Driving(np.asarray(track.keypoints), np.asarray(track.local_landmarks))


def _contents(
    name: str, portrait: Portrait, identity: Identity, teacher: Teacher, result: DistilResult,
    metrics: dict[str, float], expressions: tuple[ExpressionRow, ...], config: MakeConfig, licence: str,
    is_example: bool,
) -> BundleContents:  # fmt: skip
    """Everything that goes into the bundle; raises ParityError when a gate is missed."""
    students, drivers = lower_all(
        result.student, result.driver, calibration=_driving(result.training), held_out=_driving(result.held_out)
    )
    motion = golden_motion(portrait.landmarks)
    landmarks = motion.landmarks
    keypoints = result.driver(torch.from_numpy(landmarks))
    local = torch.from_numpy(landmarks[:, LOCAL, :2])
    graph = StudentGraph(result.student)
    with torch.no_grad():
        frames = [graph(keypoints[i : i + 1], local[i : i + 1])[0][0] for i in range(len(landmarks))]
    golden = (torch.stack(frames).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    cost = student_cost(result.student.config)
    return BundleContents(
        name=name,
        students=students,
        drivers=drivers,
        thumbnail=np.asarray(Image.fromarray(portrait.image).resize((128, 128), Image.Resampling.LANCZOS)),
        source_landmarks=portrait.landmarks,
        source_keypoints=identity.keypoints.numpy(),
        golden=motion,
        golden_keypoints=keypoints.numpy(),
        golden_local_landmarks=local.numpy(),
        golden_frames=golden,
        gmacs=cost.gmacs,
        parameters=cost.parameters,
        created_with=f"superface {_version()}",
        teacher=teacher.name,
        training={
            "seconds": round(result.seconds, 1),
            "steps": result.steps,
            "ended_by": result.course.why,
            "training_frames": len(result.training.frames),
            "held_out_frames": len(result.held_out.frames),
            "driving": config.driving.name if config.driving else "procedural",
            "setbacks": list(result.setbacks),
            "silent_units": {layer.name: round(layer.silent, 4) for layer in result.census},
        },
        metrics=metrics,
        expressions=expressions,
        licences={"photo": licence, "graphs": "those of the photo; the software is Apache-2.0"},
        consent="The photo is in the public domain." if is_example else (config.consent or CONSENT),
    )


def _judges(teacher: Teacher) -> dict[str, Any]:
    """What a trained teacher delivers beside frames: its discriminator, and the networks behind L_P and L_H."""
    if teacher.discriminator is None:
        return {}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    perceptual, head_pose = load_perceptual(device), load_head_pose(device)
    seen = perceptual.card if perceptual else "none at hand"
    say(f"  judges: its discriminator; perceptual: {seen}; head pose: {'FSA-Net' if head_pose else 'none at hand'}")
    maps = perceptual.maps if perceptual else None
    return {"discriminator": teacher.discriminator, "perceptual": maps, "head_pose": head_pose}


def _measure_face(result: DistilResult) -> FaceFidelity:
    """Mouth and eyes of the student over the held-out track."""
    track = result.held_out
    return measure_face(
        draw_track(result.student, track),
        (frame.transpose(1, 2, 0) for frame in track.frames),
        track.local_landmarks,
        lpips=load_lpips(torch.device("cpu")),
    )


def tell_face(figures: Mapping[str, float]) -> str:
    """The measures of the face in a line."""
    told = [f"{part} {figures[f'{part}_psnr_db']:.1f} dB" for part in ("mouth", "eyes")]
    followed = [
        f"{part} {100 * figures[f'{part}_followed']:.0f} %"
        for part in ("lips", "lids", "gaze")
        if f"{part}_followed" in figures
    ]
    return ", ".join(told) + (f"; of the teacher's motion it follows: {', '.join(followed)}" if followed else "")


def _unfinished(result: DistilResult, config: DistilConfig) -> str | None:
    """A sentence where training ran out of minutes, and nothing where it learned all that it could."""
    if result.course.why != "bound":
        return None
    looks = result.course.looks
    gained = (
        f"mouth and eyes gained {looks[-1] - looks[-2]:.1f} dB in the last {LOOK_EVERY} steps"
        if len(looks) > 1
        else "too few to tell whether mouth and eyes still get better"
    )
    return (
        f"Training ran out of its {config.minutes:g} minutes after {result.steps} steps; {gained}. "
        "The same command goes on from there."
    )


@torch.no_grad()
def _driver_fidelity(result: DistilResult, landmarks: npt.NDArray[np.float32]) -> dict[str, float]:
    """How far the fitted driver is from the teacher's keypoints on held-out motion, in keypoints and in frames."""
    wanted = torch.from_numpy(np.array(result.held_out.keypoints))
    found = result.driver(torch.from_numpy(np.array(landmarks, dtype=np.float32)))
    local = torch.from_numpy(np.array(result.held_out.local_landmarks))
    rows = np.linspace(0, len(wanted) - 1, 16).astype(int)
    pairs = [
        psnr(result.student(found[i : i + 1], local[i : i + 1]), result.student(wanted[i : i + 1], local[i : i + 1]))
        for i in rows
    ]
    error, psnr_db = float((found - wanted).norm(dim=-1).mean()), float(torch.cat(pairs).mean())
    say(f"  driver against the teacher: {error * FRAME / 2:.2f} pixels a keypoint, {psnr_db:.1f} dB in frames")
    return {"driver_error": error, "driver_psnr_db": psnr_db}


def _require(missed: Sequence[str], picture: Path, *, force: bool) -> None:
    """Say what is drawn too little of; without `force` that ends the journey."""
    if not missed:
        return
    what = f"The student draws too little of its teacher's face ({'; '.join(missed)}); {picture} shows it."
    if not force:
        raise FidelityError(
            f"{what} No bundle was written. Train longer (--minutes), or take a photo in which eyes and mouth are "
            "larger; --force writes the bundle as it is, and its manifest says what it lacks."
        )
    say(f"  note: {what} The bundle is written all the same, and its manifest says so.")


def _version() -> str:
    try:
        return version("superface")
    except PackageNotFoundError:
        return "(not installed)"


def _labelled(image: npt.NDArray[np.uint8], text: str) -> npt.NDArray[np.uint8]:
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(18)
    draw.text((11, 11), text, font=font, fill=(0, 0, 0))
    draw.text((10, 10), text, font=font, fill=(255, 255, 255))
    return np.asarray(picture)


def _teach(teacher: Teacher, identity: Identity, landmarks: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """The teacher's frames: uint8 [N, 512, 512, 3]."""
    frames = teacher.render(identity, torch.from_numpy(np.ascontiguousarray(landmarks))).frames
    return (frames * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def _film(
    avatar: Avatar,
    teacher: Teacher,
    identity: Identity,
    photo: npt.NDArray[np.uint8],
    track: Track,
    path: Path,
) -> None:
    """Source, teacher and student side by side; the student's frames come from the finished bundle."""
    still = _labelled(photo, "source")
    with VideoWriter(path, track.fps) as video:
        for start in tqdm(range(0, len(track), 8), desc="preview", leave=False, disable=None):
            landmarks = track.landmarks[start : start + 8]
            for frame, taught in zip(landmarks, _teach(teacher, identity, landmarks), strict=True):
                made = _labelled(avatar.animate(frame), "student")
                video.write(np.concatenate([still, _labelled(taught, "teacher"), made], 1))


def _coarsest(
    bundle: Path, avatar: Avatar, held_out: RenderedTrack
) -> list[tuple[str, npt.NDArray[np.uint8], npt.NDArray[np.uint8]]]:
    """For each runtime's 8-bit student: a caption, the frame that it draws worst, and that frame in full precision."""
    rows = spread(len(held_out.frames), QUANTISED_FRAMES)
    driving = [(held_out.keypoints[row], held_out.local_landmarks[row]) for row in rows]
    whole = [avatar.animate_keypoints(*pose) for pose in driving]
    worst = []
    for runtime, files in avatar.manifest.graphs["student"].files.items():
        if "int8" in files:
            coarse = Avatar.load(bundle, runtime=cast(Runtime, runtime), precision="int8")
            drawn = [coarse.animate_keypoints(*pose) for pose in driving]
            decibels = [psnr_db(*pair, peak=255) for pair in zip(whole, drawn, strict=True)]
            at = int(np.argmin(decibels))
            worst.append((f"{runtime} int8, {decibels[at]:.1f} dB", whole[at], drawn[at]))
    return worst


def _sheet(
    avatar: Avatar,
    teacher: Teacher,
    identity: Identity,
    portrait: Portrait,
    result: DistilResult,
    coarsest: list[tuple[str, npt.NDArray[np.uint8], npt.NDArray[np.uint8]]],
    closeups: npt.NDArray[np.uint8],
) -> Sheet:
    """The pictures of the report: fixed poses, and the held-out frame that came out worst."""
    poses = (
        "neutral", "yaw -30", "yaw +30", "pitch -20", "pitch +20", "roll +20",
        "blink", "wide open", "smile", "smile, teeth", "pucker", "gaze left",
    )  # fmt: skip
    names, landmarks = showcase(portrait.landmarks)
    chosen = landmarks[[names.index(pose) for pose in poses]].astype(np.float32)
    taught = _teach(teacher, identity, chosen)
    made = np.stack([avatar.animate(frame) for frame in chosen])
    held_out = result.held_out
    rows = np.linspace(0, len(held_out.frames) - 1, min(40, len(held_out.frames))).astype(int)
    worst, worst_error, worst_made = int(rows[0]), -1.0, made[0]
    for row in rows:
        frame = avatar.animate_keypoints(held_out.keypoints[row], held_out.local_landmarks[row])
        error = float(np.square(frame.astype(np.float32) - held_out.frames[row].transpose(1, 2, 0)).mean())
        if error > worst_error:
            worst, worst_error, worst_made = int(row), error, frame
    reference = np.ascontiguousarray(held_out.frames[worst].transpose(1, 2, 0))
    return Sheet(poses, taught, made, closeups, (reference, worst_made), coarsest)
