"""Distillation: a student φ learns one person from a teacher Φ (paper Sec. 3.2). One loop, read `distil` top to bottom.

What the teacher delivers, and the switch of `DistilConfig` that takes it away (paper Table 5):

    frames                 always
    keypoints p_2D         keypoints       the student is driven by the teacher's neural keypoints
    appearance volume      appearance      F_2D is made from it by the distributor
    motion field           motion_field    the motion network learns it before any pixel is compared
    discriminator          pass `discriminator`; a teacher without one delivers none

Perceptual and head pose loss need networks, which are passed likewise.

What it does: renders the tracks once into the run folder; finds in closed form what follows what; teaches the motion
network alone; then trains everything end to end on pixels, until mouth and eyes get no better (`schedule`). A painter
whose units fall silent is noticed, and taken back to where it was healthy. What it does not: landmarks, retargeting,
export.

The run folder holds all that is needed to go on. A killed run continues at its last checkpoint (every 20 s), and
the order of the data depends on the seed and the step alone, so a run of fixed `steps` ends with the same weights
however often it was stopped.
"""

import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from edge.errors import FidelityError, InputError
from edge.spec import FIELD, KEYPOINTS, LOCAL_LANDMARKS, NETWORK
from edge.topology import LANDMARKS, LOCAL
from training.checkpoint import load_tensors, save_driver, save_student, save_tensors, write_text
from training.config import DistilConfig, LossWeights
from training.measures.face import box_psnr
from training.measures.metrics import Fidelity, FidelityMeter, psnr
from training.progress import Progress, print_progress, silent
from training.student.blocks import over, warp
from training.student.census import Layer, dying, silence, take_census
from training.student.closed_form import (
    extend_field,
    find_canvas,
    find_inside,
    find_matte,
    fit_closeups,
    fit_codes,
    fit_follow,
    fit_regions,
    moving_cells,
    refine_layers,
)
from training.student.cost import student_config
from training.student.driver import Driver, fit_driver
from training.student.losses import Discriminator, Features, HeadPose, closeup_loss, motion_loss, student_loss
from training.student.network import Student, flatten_volume
from training.student.person import Window
from training.student.regions import sharpened
from training.student.schedule import LOOK_EVERY, Schedule, State
from training.teachers import Identity, Teacher

CHUNK = 16
"""Frames that the teacher renders at once; a killed run repeats one chunk at most."""
WHOLE_EVERY = 8
"""Steps from one whole frame to the next, where a head pose is compared."""
JUDGED_EVERY = 4
"""Steps from one in which the judges look at the frames to the next. On a CPU such a step takes many times as long as
one on pixels alone."""
REGIONS_RATE = 0.8
"""Of the learning rate, for pictures of mouth and eyes and their decoder."""
CALL = 0.01
"""Weight of the call that wakes silent units (training.student.network.Rectifier)."""
CENSUS_EVERY = 100
"""Steps from one count of the silent units to the next."""
CENSUS_FRAMES = 8
MOST_SETBACKS = 3
"""Times that training goes back to its last healthy state, each at half the rate, before it gives up."""
MARGIN = 16
"""Pixels painted around a training window and not compared."""
BEYOND = 32
"""Pixels by which training windows are drawn beyond the frame."""
CELL_PX = NETWORK // FIELD
SAVE_EVERY_S = 20.0
HISTORY_EVERY_S = 3.0
CLOSEUPS = 8
"""Close-ups of mouth and eyes in a step, beside the frames."""
AGAIN_EVERY = 500
"""Steps after which the drafts under the close-ups are drawn anew: they follow the motion network."""
LOOKED_AT = 24
"""Frames of a track behind each look at mouth and eyes."""


class RenderedTrack(NamedTuple):
    """A track as the teacher rendered it: memory-mapped arrays of T frames."""

    frames: np.ndarray
    """uint8 [T, 3, 512, 512], RGB."""
    keypoints: np.ndarray
    """float32 [T, K, 2]."""
    local_landmarks: np.ndarray
    """float32 [T, M, 2]."""
    motion_field: np.ndarray
    """float32 [T, 64, 64, 2]."""
    occlusion: np.ndarray
    """float32 [T, 1, 64, 64]."""


class DistilResult(NamedTuple):
    """A trained person."""

    student: Student
    """Averaged (EMA) weights, bound, in evaluation mode, on the CPU; also in `student.safetensors`."""
    driver: Driver
    """Landmarks → keypoints: the teacher's own, or fitted to the training track; also in `driver.safetensors`."""
    fidelity: Fidelity
    """Against the teacher on the held-out track."""
    history: list[dict[str, Any]]
    """Loss curves, and PSNR of mouth, eyes and frame on the watched track, over time; also in `history.json`."""
    training: RenderedTrack
    held_out: RenderedTrack
    seconds: float
    """Training time, earlier starts included."""
    steps: int
    census: tuple[Layer, ...]
    """Of the student, over held-out frames: which of its units are silent."""
    setbacks: tuple[str, ...]
    """A sentence for each time that training went back to a healthy state."""
    course: State
    """Why training ended, and what mouth and eyes gained on the watched track, look by look."""


def _fingerprint(identity: Identity, teacher: Teacher, landmarks: np.ndarray) -> str:
    digest = hashlib.sha256(f"{teacher.name} {teacher.version}".encode())
    for tensor in (identity.source_image, identity.source_landmarks, torch.from_numpy(landmarks)):
        digest.update(np.ascontiguousarray(tensor.cpu().numpy()).tobytes())
    return digest.hexdigest()


@torch.no_grad()
def render_track(
    identity: Identity,
    teacher: Teacher,
    landmarks: np.ndarray,
    folder: Path,
    *,
    label: str = "rendering",
    progress: Progress = silent,
) -> RenderedTrack:
    """The teacher's frames, keypoints and motion for a track, made once and kept in `folder`.

    Args:
        identity: what `teacher.prepare` gave.
        teacher: who renders.
        landmarks: float32 [T, 478, 3], retargeted to this person, crop coordinates.
        folder: created if need be; a half-rendered track there is continued.
        label: the stage's name in progress reports.
        progress: told after each chunk.

    Raises:
        InputError: when the landmarks are no finite [T, 478, 3], or the disk is too full.
    """
    landmarks = np.ascontiguousarray(landmarks, dtype=np.float32)
    count = len(landmarks)
    if landmarks.shape != (count, LANDMARKS, 3) or not count or not np.isfinite(landmarks).all():
        raise InputError(
            f"A track to render has shape {landmarks.shape}; expected finite landmarks (T, {LANDMARKS}, 3), T ≥ 1."
        )
    folder.mkdir(parents=True, exist_ok=True)
    shapes = {
        "frames": ((count, 3, NETWORK, NETWORK), np.uint8),
        "keypoints": ((count, KEYPOINTS, 2), np.float32),
        "local_landmarks": ((count, LOCAL_LANDMARKS, 2), np.float32),
        "motion_field": ((count, FIELD, FIELD, 2), np.float32),
        "occlusion": ((count, 1, FIELD, FIELD), np.float32),
    }
    state_path = folder / "state.json"
    fingerprint = _fingerprint(identity, teacher, landmarks)
    try:
        state = json.loads(state_path.read_text())
        done = int(state["done"]) if state["fingerprint"] == fingerprint else 0
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r+", allow_pickle=False) for name in shapes}
        if any(arrays[name].shape != shape for name, (shape, _) in shapes.items()):
            done = 0
    except (OSError, ValueError, KeyError, TypeError):
        done = 0
    if not done:
        state_path.unlink(missing_ok=True)
        need = sum(math.prod(shape) * np.dtype(kind).itemsize for shape, kind in shapes.values())
        free = shutil.disk_usage(folder).free
        if free < need + 2**27:
            raise InputError(
                f"{folder} has {free / 1e9:.1f} GB left; the teacher's frames need {need / 1e9:.1f} GB and some room. "
                "Free some space or choose another run folder."
            )
        arrays = {
            name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", kind, shape)
            for name, (shape, kind) in shapes.items()
        }
    for start in range(done, count, CHUNK):
        rows = slice(start, min(start + CHUNK, count))
        chunk = torch.from_numpy(landmarks[rows])
        rendering = teacher.render(identity, chunk)
        frames = rendering.frames.mul(255).round_().clamp_(0, 255).to(torch.uint8)
        arrays["frames"][rows] = frames.cpu().numpy()
        arrays["keypoints"][rows] = rendering.keypoints[..., :2].cpu().numpy()
        arrays["local_landmarks"][rows] = landmarks[rows][:, LOCAL, :2]
        arrays["motion_field"][rows] = rendering.motion_field.cpu().numpy()
        arrays["occlusion"][rows] = rendering.occlusion.cpu().numpy()
        write_text(state_path, json.dumps({"fingerprint": fingerprint, "done": rows.stop}, indent=1))
        progress(label, rows.stop / count, f"{rows.stop}/{count} frames")
    return RenderedTrack(**arrays)


class _Batch(NamedTuple):
    """Rows of a rendered track as tensors, named as there; frames in 0..1."""

    frames: torch.Tensor
    keypoints: torch.Tensor
    local_landmarks: torch.Tensor
    motion_field: torch.Tensor
    occlusion: torch.Tensor


class _Targets(NamedTuple):
    """What the motion network learns, for all T frames."""

    field: torch.Tensor
    moving: torch.Tensor


def _targets(track: RenderedTrack) -> _Targets:
    fields, masks = [], []
    for start in range(0, len(track.frames), 64):
        field = torch.from_numpy(np.array(track.motion_field[start : start + 64]))
        moving = moving_cells(field, torch.from_numpy(np.array(track.occlusion[start : start + 64])))
        fields.append(extend_field(field, moving))
        masks.append(moving)
    return _Targets(torch.cat(fields), torch.cat(masks))


def _load(track: RenderedTrack, rows: np.ndarray | slice, student: Student, config: DistilConfig) -> _Batch:
    source = student.person.source_points[:, :KEYPOINTS]
    tensors = [torch.from_numpy(np.array(array[rows])).to(source.device) for array in track]
    batch = _Batch(*tensors)
    batch = batch._replace(frames=batch.frames.float() / 255)
    if not config.keypoints:
        batch = batch._replace(keypoints=source.expand_as(batch.keypoints))
    return batch


def _load_motion(track: RenderedTrack, rows: np.ndarray | slice, student: Student, config: DistilConfig) -> _Batch:
    """As `_load`, with a pixel of each frame: for who looks at motion alone."""
    return _load(track._replace(frames=track.frames[:, :, :1, :1]), rows, student, config)


def spread(frames: int, count: int) -> np.ndarray:
    """Rows of so many frames of a track, evenly spread; fewer where it has fewer."""
    return np.unique(np.linspace(0, frames - 1, count).astype(int))


def _census(student: Student, track: RenderedTrack, count: int, config: DistilConfig) -> tuple[Layer, ...]:
    poses = _load_motion(track, spread(len(track.frames), count), student, config)
    return take_census(student, poses.keypoints, poses.local_landmarks)


def _rows(step: int, batch: int, count: int, seed: int) -> np.ndarray:
    """The frames of a step: shuffled rounds through the track, a function of seed and step alone."""
    places = np.arange(step * batch, (step + 1) * batch)
    rounds = {int(r): np.random.default_rng([seed, int(r)]).permutation(count) for r in np.unique(places // count)}
    return np.array([rounds[int(p) // count][p % count] for p in places])


def _window(step: int, config: DistilConfig) -> tuple[Window, Window]:
    """Where frames are compared in this step, and the larger part that is painted for it.

    A quarter of the pixels costs a quarter of the time, so four times as many poses are seen. The margin keeps
    the convolutions' padding, which a whole frame has at its border alone, out of the comparison; a window at the
    frame's border has none there.
    """
    if config.window >= NETWORK:
        whole = Window(0, 0, NETWORK)
        return whole, whole
    rng = np.random.default_rng((config.seed, 1, step))
    most = NETWORK - config.window
    # Drawn a little beyond the frame and brought back, so that its corners are not seen once in a thousand steps.
    drawn = CELL_PX * rng.integers(-BEYOND // CELL_PX, (most + BEYOND) // CELL_PX + 1, 2)
    top, left = (int(place) for place in drawn.clip(0, most))
    size = min(config.window + 2 * MARGIN, NETWORK)
    above, before = (min(max(start - MARGIN, 0), NETWORK - size) for start in (top, left))
    return Window(top, left, config.window), Window(above, before, size)


def weights_at(step: int, weights: LossWeights) -> LossWeights:
    """What each term counts in a step: 0 where it is left out, and where it is not, as much more as it is seldom.

    The judges look at windows in one step of `JUDGED_EVERY`, head poses at whole frames in one of `WHOLE_EVERY`; never
    both in one.
    """
    judged = JUDGED_EVERY * (step % JUDGED_EVERY == JUDGED_EVERY // 2)
    whole = WHOLE_EVERY * (step % WHOLE_EVERY == 0)
    return replace(
        weights,
        perceptual=judged * weights.perceptual,
        gan=judged * weights.gan,
        head_pose=whole * weights.head_pose,
    )


def _precision(device: torch.device) -> torch.dtype | None:
    """bfloat16 where the machine multiplies it faster than float32, else None."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else None
    return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else None


@contextmanager
def _averaged(student: Student, average: dict[str, torch.Tensor]) -> Iterator[None]:
    """The student with its averaged weights, and F_2D made from them, for the length of a block."""
    own = {name: p.detach().clone() for name, p in student.named_parameters()}
    with torch.no_grad():
        for name, p in student.named_parameters():
            p.copy_(average[name])
    try:
        yield
    finally:
        with torch.no_grad():
            for name, p in student.named_parameters():
                p.copy_(own[name])


@torch.no_grad()
def evaluate(student: Student, track: RenderedTrack, config: DistilConfig, rows: np.ndarray | None = None) -> Fidelity:
    """The bound student against the teacher's frames, on all frames of a track or the given rows."""
    meter = FidelityMeter()
    rows = np.arange(len(track.frames)) if rows is None else rows
    for start in range(0, len(rows), 4):
        batch = _load(track, rows[start : start + 4], student, config)
        made = student.animate(batch.keypoints, batch.local_landmarks)
        meter.add(made.image.clamp(0, 1), batch.frames)
    return meter.result()


@torch.no_grad()
def draw_track(student: Student, track: RenderedTrack) -> Iterator[np.ndarray]:
    """A bound student's frame for each pose of a track, one after another: uint8 [512, 512, 3]."""
    for keypoints, local in zip(track.keypoints, track.local_landmarks, strict=True):
        frame = student(torch.from_numpy(np.array(keypoints))[None], torch.from_numpy(np.array(local))[None])[0]
        yield (frame * 255).round().byte().permute(1, 2, 0).numpy()


@torch.no_grad()
def _shown(student: Student, track: RenderedTrack) -> torch.Tensor:
    """Mouth and eyes of the teacher's frames as they lie in the atlas: uint8 [T, 3, h, w].

    A frame was read for them, and a frame will read them; they are to show in it as they were.
    """
    parts = []
    for rows, _, _, spots in _in_the_atlas(student, track):
        frames = torch.from_numpy(np.array(track.frames[rows])).to(spots.device).float()
        parts.append(sharpened(warp(frames, spots), (2, 2)).round().clamp(0, 255).byte())
    return torch.cat(parts)


@torch.no_grad()
def _drafts(student: Student, track: RenderedTrack) -> torch.Tensor:
    """What the student's layer and canvas show there, as sharp as `_shown`: uint8 [T, 3, h, w]."""
    person, parts = student.person, []
    for _, keypoints, local, spots in _in_the_atlas(student, track):
        field = warp(student.motion(keypoints, local).field.permute(0, 3, 1, 2), spots).permute(0, 2, 3, 1)
        moved, canvas = warp(person.layer, field), warp(person.canvas, spots)
        drafts = canvas + (moved[:, :3] - canvas) * moved[:, 3:]
        parts.append((sharpened(drafts, (2, 2)).clamp(0, 1) * 255).round().byte())
    return torch.cat(parts)


def _in_the_atlas(
    student: Student, track: RenderedTrack
) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Rows of a track, their keypoints and local landmarks, and the atlas's texels in their frames."""
    regions, device = student.person.regions, student.person.canvas.device
    for start in range(0, len(track.frames), CHUNK):
        rows = slice(start, start + CHUNK)
        keypoints, local = (torch.from_numpy(np.array(track[part][rows])).to(device) for part in (1, 2))
        yield rows, keypoints, local, regions.spots(regions.places(torch.cat([keypoints, local], 1)))


def _closeup_loss(student: Student, batch: _Batch, shown: torch.Tensor, drafts: torch.Tensor) -> torch.Tensor:
    """What the pictures of mouth and eyes err, over uint8 drafts, from what the teacher has shown: all of it box."""
    person = student.person
    with torch.no_grad():
        points = torch.cat([batch.keypoints, batch.local_landmarks], 1)
        asked = person.asked(points, person.offsets(points))
    atlas, _ = person.closeups(points, asked)
    wanted, draft = (part.to(atlas).float() / 255 for part in (shown, drafts))
    return closeup_loss(over(atlas, draft), wanted, person.regions.window)


@torch.no_grad()
def _look(student: Student, track: RenderedTrack, config: DistilConfig) -> dict[str, float]:
    """PSNR in dB of mouth, eyes and whole frames, over a few frames of a track."""
    decibels = []
    for row in spread(len(track.frames), LOOKED_AT):
        pose = _load(track, np.array([row]), student, config)
        made = student.animate(pose.keypoints, pose.local_landmarks).image.clamp(0, 1)
        decibels.append((*box_psnr(made[0], pose.frames[0], pose.local_landmarks[0]), float(psnr(made, pose.frames))))
    named = zip(("mouth_psnr_db", "eyes_psnr_db", "psnr_db"), np.mean(decibels, 0), strict=True)
    return {name: round(float(value), 3) for name, value in named}


def distil(
    identity: Identity,
    teacher: Teacher,
    run_folder: Path,
    *,
    training_landmarks: np.ndarray,
    held_out_landmarks: np.ndarray,
    watched_landmarks: np.ndarray | None = None,
    finished_at: int | None = None,
    config: DistilConfig | None = None,
    perceptual: Features | None = None,
    discriminator: Discriminator | None = None,
    head_pose: HeadPose | None = None,
    build: Callable[[int], Student] | None = None,
    progress: Progress | None = None,
) -> DistilResult:
    """A student of this person, taught by this teacher on these tracks.

    Args:
        identity: what `teacher.prepare` gave.
        teacher: renders both tracks once.
        run_folder: everything to resume; created if need be. One person and teacher per folder: where it holds
            another's frames, they are rendered anew and training starts over.
        training_landmarks: float32 [T, 478, 3], retargeted to this person; varied poses teach more than many.
        held_out_landmarks: float32 [T, 478, 3], a track of other motion; it measures and never trains.
        watched_landmarks: float32 [T, 478, 3], motion of a third kind: where mouth and eyes get no better on it, a run
            of minutes ends before its bound. Without it, and without steps, it takes all its minutes.
        finished_at: step at which an earlier run in this folder ended and all was done with it: where it had run out of
            minutes, training goes on.
        config: sizes, time and switches.
        perceptual: feature maps for L_P, where a network is at hand; weighed by `config.weights.perceptual`.
        discriminator: for L_G, where the teacher delivers one.
        head_pose: for L_H, where a network is at hand; then every eighth step paints whole frames.
        build: makes a student of another design for an appearance volume of so many channels at 64 px; default: the
            one that `config.gflops` allows.
        progress: default: a bar on a terminal, plain lines elsewhere.

    Returns:
        The student with its figures on the held-out track.

    Raises:
        InputError: tracks that cannot be rendered, a full disk, a damaged checkpoint.
        FidelityError: units fell silent again and again, at ever lower rates.
    """
    config = config or DistilConfig()
    progress = progress or print_progress()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tracks = {}
    asked = {"training": training_landmarks, "held_out": held_out_landmarks}
    if watched_landmarks is not None:
        asked["watched"] = watched_landmarks
    for name, landmarks in asked.items():
        label = f"rendering {name.replace('_', '-')}"
        tracks[name] = render_track(identity, teacher, landmarks, run_folder / name, label=label, progress=progress)
    training, held_out = tracks["training"], tracks["held_out"]

    torch.manual_seed(config.seed)
    volume = identity.appearance_volume if config.appearance else torch.zeros_like(identity.appearance_volume)
    channels = volume.shape[0] * volume.shape[1] * (volume.shape[-1] // FIELD) ** 2
    student = build(channels) if build else Student.untrained(student_config(config.gflops, volume_channels=channels))
    student.bind(identity._replace(appearance_volume=volume))
    # Pixels beyond 64 px folded into channels once, not in each step.
    volume = flatten_volume(volume.to(device))[0, :, None]
    student.to(device).train()
    network, person = student.network, student.person
    trunks = (*network.trunks(), person.regions)
    for trunk in trunks:
        trunk.to(memory_format=torch.channels_last)
    # Learning rates follow the size of what is learned: what cells follow, and textures, are right from the start.
    groups = [
        ([*network.motion_trunk.parameters(), *person.express.parameters(), *person.place.parameters()], 0.5),
        (person.follow.parameters(), 0.01),
        # Large steps kill a rectified trunk: at 0.5 nine units in ten never woke again.
        (network.generator.parameters(), 0.25),
        (network.distributor.parameters(), 0.25),
        (person.regions.parameters(), REGIONS_RATE),
        ([person.layer, person.canvas], 1.0),
    ]
    optimiser = torch.optim.Adam([{"params": list(p), "scale": f} for p, f in groups], betas=(0.9, 0.99), fused=True)
    average = {name: p.detach().clone() for name, p in student.named_parameters()}
    history: list[dict[str, Any]] = []
    step, seconds = 0, 0.0
    setbacks: list[str] = []
    ailing = False

    checkpoint, healthy, settling, drafted = (
        run_folder / f"{name}.safetensors" for name in ("checkpoint", "healthy", "settling", "drafts")
    )
    bounds = dict.fromkeys(("minutes", "steps", "until_no_better"))
    # As it comes back from a file: tuples are lists there.
    made_by = json.loads(json.dumps(asdict(config) | bounds | {"frames": _track_id(run_folder)}))
    targets = _targets(training)
    matte = find_matte(torch.from_numpy(np.array(training.motion_field)), targets.moving)
    inside = find_inside(matte)
    # The photo in the layer stays itself: to learn it is to average misplacements into soft skin. Nor gets it holes.
    learned = torch.cat([torch.zeros(1, 3, NETWORK, NETWORK), (~inside).float()], 1).to(device)
    shown: torch.Tensor | None = None
    drafts: torch.Tensor | None = None
    resumed = _resume(checkpoint, made_by, student, optimiser, average)
    if resumed:
        step, seconds, history = resumed["step"], resumed["seconds"], resumed["history"]
        setbacks, ailing = resumed["setbacks"], resumed["ailing"]
        schedule = Schedule(config, resumed["schedule"], step)
        goes_on = config.steps is not None or step == finished_at
        if schedule.resettles and goes_on and (before := _resume(settling, made_by, student, optimiser, average)):
            step = before["step"]
            schedule.resume(before["schedule"], step, seconds)
            tqdm.write(f"  note: training goes on from step {step}, where it had begun to settle")
    else:
        schedule = Schedule(config)
        for path in (healthy, settling):
            path.unlink(missing_ok=True)
    if not resumed and config.motion_field:
        progress("layers", 0.0, "")
        begun = time.monotonic()
        everything = _load_motion(training, slice(None), student, config)
        points = torch.cat([everything.keypoints, everything.local_landmarks], 1)
        fit_codes(person, points)
        fit_follow(person, points, targets.field.to(device), targets.moving.to(device))
        fit_regions(person, points, identity.source_image[None].to(device).float())
        with torch.no_grad():
            person.layer[:, 3:] = matte
            photo = identity.source_image[None].cpu().float()
            person.canvas.copy_(find_canvas(training.frames, targets.moving, photo))
        progress("layers", 0.3, "outline")
        refine_layers(person, training.frames, targets.field, inside)
        shown = _shown(student, training)
        fit_closeups(person, points, shown, _drafts(student, training))
        seconds += time.monotonic() - begun
        for name, p in student.named_parameters():
            average[name].copy_(p)
        progress("layers", 1.0, "")
    for trunk in trunks:
        trunk.precision = _precision(device)

    def save(path: Path) -> None:
        record = {"made_by": made_by, "step": step, "seconds": seconds, "history": history}
        record |= {"setbacks": setbacks, "ailing": ailing, "schedule": schedule.record()}
        save_tensors(path, _training_state(student, optimiser, average), record)

    started = time.monotonic() - seconds
    saved = noted = seconds
    while not schedule.over(step):
        learns_motion = schedule.learns_motion(step, seconds)
        stage = "motion" if learns_motion else "frames"
        if schedule.settles(step, seconds):
            save(settling)
        rate = config.learning_rate * 0.5 ** len(setbacks) * schedule.rate(step, seconds)
        for group in optimiser.param_groups:
            group["lr"] = rate * group["scale"]

        size = config.motion_batch if learns_motion else config.batch
        rows = _rows(step, size, len(training.frames), config.seed)
        optimiser.zero_grad(set_to_none=True)
        if not learns_motion and not healthy.exists():
            save(healthy)
        if learns_motion:
            batch = _load_motion(training, rows, student, config)
            motion = student.motion(batch.keypoints, batch.local_landmarks)
            loss = motion_loss(motion, targets.field[rows].to(device), batch.occlusion, targets.moving[rows].to(device))
            note: dict[str, float] = {}
        else:
            whole = head_pose is not None and step % WHOLE_EVERY == 0
            window, around = _window(step, replace(config, window=NETWORK) if whole else config)
            batch = _load(training._replace(frames=window.of(training.frames)), rows, student, config)
            features = network.distributor(volume)
            rows_in, columns_in = (
                slice(start, start + window.size) for start in (window.top - around.top, window.left - around.left)
            )
            made = student.animate(batch.keypoints, batch.local_landmarks, features, around)
            weights = weights_at(step, config.weights)
            terms = student_loss(
                made.image[..., rows_in, columns_in],
                batch.frames,
                batch.local_landmarks,
                weights,
                window=None if whole else window,
                perceptual=perceptual if weights.perceptual else None,
                discriminator=discriminator if weights.gan else None,
                head_pose=head_pose,
            )
            # The delivered field keeps holding the motion network while pixels pull at it.
            loss = terms.total
            if config.motion_field:
                loss = loss + 0.01 * motion_loss(
                    made.motion,
                    targets.field[rows].to(device),
                    batch.occlusion,
                    targets.moving[rows].to(device),
                )
            if shown is None:
                shown = _shown(student, training)
            last = max(schedule.state.motion_until or 0, step - step % AGAIN_EVERY)
            if drafts is None and step != last and drafted.exists():
                stored, record = load_tensors(drafted)
                if (record["step"], record["made_by"]) == (last, made_by):
                    drafts = stored["drafts"]
            if drafts is None or step == last:
                save(checkpoint)  # killed between the two, a run draws the same drafts again
                drafts = _drafts(student, training)
                save_tensors(drafted, {"drafts": drafts}, {"step": last, "made_by": made_by})
            again = _rows(step, CLOSEUPS, len(training.frames), config.seed + 1)
            poses = _load_motion(training, again, student, config)
            near = _closeup_loss(student, poses, shown[again], drafts[again])
            loss = loss + near
            note = {name: round(value.item(), 5) for name, value in terms._asdict().items() if value.item()}
            note["closeups"] = round(near.item(), 5)
        (loss + CALL * student.call()).backward()
        if person.layer.grad is not None:
            person.layer.grad *= learned
        optimiser.step()
        decay = min(config.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.values()), list(student.parameters()), 1 - decay)

        step += 1
        seconds = time.monotonic() - started
        if seconds - noted > HISTORY_EVERY_S or step == 1:
            noted = seconds
            history.append({"step": step, "seconds": round(seconds, 2), "stage": stage, "loss": loss.item()} | note)
            progress("training", schedule.share(step, seconds), f"step {step}, {stage}, loss {loss.item():.4f}")
        if not learns_motion and step % LOOK_EVERY == 0 and "watched" in tracks:
            with _averaged(student, average):
                student.distribute(volume)
                look = _look(student, tracks["watched"], config)
            history.append({"step": step, "seconds": round(seconds, 2), "stage": stage} | look)
            schedule.look(step, look["mouth_psnr_db"], look["eyes_psnr_db"])
        if not learns_motion and step % CENSUS_EVERY == 0:
            student.distribute(volume)
            sick = dying(_census(student, training, CENSUS_FRAMES, config))
            if sick and ailing:  # not a passing thing
                worst = max(sick, key=lambda layer: layer.silent)
                what = f"{worst.name}: {silence(worst)} at step {step}"
                if len(setbacks) == MOST_SETBACKS:
                    raise FidelityError(
                        f"The student died in training {MOST_SETBACKS + 1} times ({'; '.join([*setbacks, what])}). "
                        "No avatar can be made of that; try another photo of this person."
                    )
                restored = _resume(healthy, made_by, student, optimiser, average)
                if restored is None:
                    raise InputError(f"{healthy} cannot be gone back to. Delete {run_folder} and start again.")
                step, ailing = restored["step"], False
                setbacks.append(what)
                history.append({"step": step, "seconds": round(seconds, 2), "stage": stage, "setback": what})
                tqdm.write(f"  note: training went wrong ({what}); on from step {step} at half the rate")
            else:
                ailing = bool(sick)
                if not sick:
                    save(healthy)
        if seconds - saved > SAVE_EVERY_S:
            saved = seconds
            save(checkpoint)
    save(checkpoint)
    progress("training", 1.0, f"step {step}")

    with torch.no_grad():
        for name, p in student.named_parameters():
            p.copy_(average[name])
        # Pictures are kept in 8 bits, as the photo came: a quarter of the size on the phone.
        for picture in (person.layer, person.canvas):
            picture.copy_((picture * 255).round().clamp(0, 255) / 255)
    for trunk in trunks:
        trunk.precision = None
    student.distribute(volume)
    student = student.cpu().to(memory_format=torch.contiguous_format).eval()
    fidelity = evaluate(student, held_out, config)
    census = _census(student, held_out, 2 * CENSUS_FRAMES, config)
    write_text(run_folder / "history.json", json.dumps(history, indent=1))
    driver = teacher.driver(identity)
    if driver is None:
        tracked = torch.from_numpy(np.array(training_landmarks, dtype=np.float32))
        driver = fit_driver(tracked, torch.from_numpy(np.array(training.keypoints)))
    save_driver(run_folder, driver)
    save_student(
        run_folder / "student.safetensors",
        student,
        {
            "teacher": teacher.name,
            "distil": asdict(config),
            "fidelity": fidelity._asdict(),
            "steps": step,
            "census": [layer._asdict() for layer in census],
            "setbacks": setbacks,
        },
    )
    return DistilResult(
        student, driver, fidelity, history, training, held_out, seconds, step, census, tuple(setbacks), schedule.state
    )


def _track_id(run_folder: Path) -> str:
    return json.loads((run_folder / "training" / "state.json").read_text())["fingerprint"]


def _training_state(
    student: Student, optimiser: torch.optim.Optimizer, average: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Weights and constants, the weights' average and Adam's moments, under flat names."""
    state = {f"student/{name}": tensor for name, tensor in student.state_dict().items()}
    state |= {f"average/{name}": p for name, p in average.items()}
    for name, p in student.named_parameters():
        for key, value in optimiser.state.get(p, {}).items():
            state[f"adam/{key}/{name}"] = value
    return state


def _resume(
    checkpoint: Path,
    made_by: dict[str, Any],
    student: Student,
    optimiser: torch.optim.Optimizer,
    average: dict[str, torch.Tensor],
) -> dict[str, Any] | None:
    """Put a checkpoint's state in place and return its record; None where there is none of this very run and design."""
    if not checkpoint.exists():
        return None
    tensors, record = load_tensors(checkpoint)
    if record["made_by"] != made_by:
        return None
    own = student.state_dict()
    stored = {name: tensors[f"student/{name}"] for name in own if f"student/{name}" in tensors}
    if {name: tensor.shape for name, tensor in stored.items()} != {name: tensor.shape for name, tensor in own.items()}:
        return None  # a student of another design, from an older program
    student.load_state_dict(stored)
    with torch.no_grad():
        for name, p in student.named_parameters():
            average[name].copy_(tensors[f"average/{name}"])
            moments = {
                key: tensors[f"adam/{key}/{name}"]
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"adam/{key}/{name}" in tensors
            }
            # Adam's fused step walks memory: moments must lie as their parameter does (channels last).
            for key in moments.keys() - {"step"}:
                moments[key] = torch.empty_like(p).copy_(moments[key])
            if moments:
                optimiser.state[p] = moments
    return record
