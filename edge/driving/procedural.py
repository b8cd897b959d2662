"""Procedural motion: what a face can do, written as code, on the person's own 478 landmarks.

`pose_face` moves one neutral face by named controls: expressions displace the points in the face's own frame
(`edge.driving.muscles`), then the head turns about its neck. `procedural_track` draws seeded controls over time
(head, blinks, speech, brows, gaze); `showcase` is a list of labelled poses for contact sheets. Angles have
the signs of `edge.motion`.
"""

from functools import lru_cache
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge.driving.muscles import STRAYS, Puppet
from edge.errors import InputError, SpecError
from edge.motion import EYES, Array, check_landmarks, head_rotation

if TYPE_CHECKING:
    from edge.driving.track import Track

Style = Literal["training", "speech"]

_SKEWED = ("smile", "stretch", "mouth_frown", "upper_lip_up", "brow_raise", "brow_frown")

STRAY = 0.008
"""How far a point strays from what muscles do, in face heights across and down; twice as far in depth."""

MAX_YAW_DEG, MAX_PITCH_DEG, MAX_ROLL_DEG = 30.0, 20.0, 20.0
"""What procedural tracks reach."""


class Controls(NamedTuple):
    """What a face does over T frames; every field is a float array [T], 0 = as in the photo.

    Angles in degrees relative to the photo (signs: `edge.motion`). Muscles run from 0 (rest) to 1 (a strong,
    still natural extreme); eyelids also take small negative values (wide eyes).
    """

    yaw_deg: Array
    pitch_deg: Array
    roll_deg: Array
    shift_x: Array
    """Crop coordinates, to the right."""
    shift_y: Array
    """Crop coordinates, down."""
    zoom: Array
    """log of the head's size against the photo's."""
    jaw_open: Array
    lips_seal: Array
    """1: the lips meet whatever the jaw does (m, b, p)."""
    lips_press: Array
    """Lips rolled in."""
    lip_tuck: Array
    """Lower lip under the upper teeth (f, v)."""
    pucker: Array
    funnel: Array
    stretch: Array
    smile: Array
    mouth_frown: Array
    upper_lip_up: Array
    lower_lip_down: Array
    mouth_shift: Array
    """-1..1: the mouth, and half as much the chin, to the face's left side (the right of the image)."""
    skew: Array
    """-1..1: smile, frown and brows only on the face's left side (1), only on its right (-1), on both (0)."""
    blink_right: Array
    blink_left: Array
    brow_raise: Array
    brow_frown: Array
    gaze_x: Array
    """-1..1, to the right of the image."""
    gaze_y: Array
    """-1..1, down; the upper lids follow."""

    @classmethod
    def rest(cls, frames: int, **moved: float | Array) -> "Controls":
        """`frames` frames at rest but for the controls named: a number or an array [T] each."""
        unknown = sorted(set(moved) - set(cls._fields))
        if unknown:
            raise SpecError(f"There is no control {unknown[0]!r}. Controls are: {', '.join(cls._fields)}.")
        if frames < 1:
            raise SpecError(f"A motion needs at least 1 frame, got {frames}.")
        try:
            return cls(
                *(np.broadcast_to(np.asarray(moved.get(f, 0.0), np.float64), (frames,)).copy() for f in cls._fields)
            )
        except ValueError as error:
            raise SpecError(f"A control does not have {frames} frames: {error}.") from None


def pose_face(
    source_landmarks: NDArray[np.floating], controls: Controls, strays: Array | None = None
) -> NDArray[np.float32]:
    """The person of the photo doing what the controls say.

    Args:
        source_landmarks: [478, 3], crop coordinates; best with eyes open and lips closed.
        controls: T frames, see `Controls`.
        strays: [T, STRAYS, 3] in face heights: what no control says, smooth over the face (`draw_strays`).

    Returns:
        float32 [T, 478, 3], crop coordinates. Controls at rest give `source_landmarks` back; blink = 1 brings
        the upper lid exactly onto the lower one, lips_seal = 1 the upper lip onto the lower.

    Raises:
        SpecError: wrong shapes; InputError: NaN or infinite values.
    """
    points = check_landmarks(source_landmarks, "source_landmarks")
    values = [np.asarray(value, np.float64) for value in controls]
    frames = values[0].size
    for name, value in zip(Controls._fields, values, strict=True):
        if value.shape != (frames,) or frames == 0:
            raise SpecError(f"Control {name} has shape {value.shape}, expected ({max(frames, 1)},) as the others.")
        if not np.isfinite(value).all():
            raise InputError(f"Control {name} holds NaN or infinite values. Give finite numbers.")
    c = Controls(*values)
    puppet = _puppet(points.tobytes())
    face = np.repeat(puppet.rest[None], frames, axis=0)
    even, skew = np.zeros(frames), np.clip(c.skew, -1.0, 1.0)
    for name in puppet.fields:
        puppet.contract(face, name, getattr(c, name), skew if name in _SKEWED else even)
    if strays is not None:
        puppet.stray(face, strays)
    face = puppet.open_jaw(face, c.jaw_open)
    face = puppet.close_lips(face, np.clip(c.lips_seal, 0.0, 1.0))
    for eye, blink in zip(EYES, (c.blink_right, c.blink_left), strict=True):
        puppet.look(face, eye, np.clip(c.gaze_x, -1.0, 1.0), np.clip(c.gaze_y, -1.0, 1.0))
        puppet.close_eye(face, eye, blink)
    turn = head_rotation(c.yaw_deg, c.pitch_deg, c.roll_deg)
    face = np.exp(c.zoom)[:, None, None] * ((face - puppet.neck) @ np.swapaxes(turn, -1, -2)) + puppet.neck
    placed = face @ puppet.frame.rotation.T + puppet.frame.origin
    placed[..., 0] += c.shift_x[:, None]
    placed[..., 1] += c.shift_y[:, None]
    return placed.astype(np.float32)


@lru_cache(maxsize=8)
def _puppet(points: bytes) -> Puppet:
    """Binding a face costs as much as posing hundreds of frames: the last few faces are kept."""
    return Puppet(np.frombuffer(points, np.float64).reshape(-1, 3))


# ---------------------------------------------------------------------------------------------------- seeds


def train_seed(number: int) -> int:
    """The seed of the n-th training track. Training seeds are even, held-out seeds odd: they never meet."""
    return 2 * _counted(number)


def held_out_seed(number: int) -> int:
    """The seed of the n-th track that training must not see (odd numbers)."""
    return 2 * _counted(number) + 1


def _counted(number: int) -> int:
    if number < 0:
        raise InputError(f"Tracks are numbered from 0, got {number}.")
    return int(number)


# ---------------------------------------------------------------------------------------------------- time

# Mouth targets of speech sounds: vowels open the mouth, consonants shape its way.
_VOWELS: dict[str, dict[str, float]] = {
    "a": {"jaw_open": 0.52, "stretch": 0.10, "lower_lip_down": 0.25, "upper_lip_up": 0.12},
    "ae": {"jaw_open": 0.44, "stretch": 0.40, "lower_lip_down": 0.30, "upper_lip_up": 0.25},
    "e": {"jaw_open": 0.28, "stretch": 0.45, "lower_lip_down": 0.35, "upper_lip_up": 0.20},
    "i": {"jaw_open": 0.12, "stretch": 0.70, "lower_lip_down": 0.40, "upper_lip_up": 0.25, "smile": 0.15},
    "schwa": {"jaw_open": 0.22, "stretch": 0.10, "lower_lip_down": 0.15},
    "o": {"jaw_open": 0.32, "pucker": 0.45, "funnel": 0.45},
    "u": {"jaw_open": 0.12, "pucker": 0.85, "funnel": 0.30},
    "er": {"jaw_open": 0.20, "pucker": 0.30, "funnel": 0.35},
}
_CONSONANTS: dict[str, dict[str, float]] = {
    "m": {"lips_seal": 1.0, "lips_press": 0.35, "jaw_open": 0.05},
    "p": {"lips_seal": 1.0, "lips_press": 0.15, "jaw_open": 0.08},
    "f": {"lip_tuck": 0.9, "lips_seal": 0.75, "upper_lip_up": 0.25, "jaw_open": 0.08},
    "w": {"pucker": 0.9, "funnel": 0.1, "jaw_open": 0.06},
    "sh": {"funnel": 0.75, "pucker": 0.25, "jaw_open": 0.08, "upper_lip_up": 0.15},
    "s": {"stretch": 0.45, "jaw_open": 0.08, "lower_lip_down": 0.45, "upper_lip_up": 0.20},
    "t": {"jaw_open": 0.16, "lower_lip_down": 0.30, "stretch": 0.15},
    "k": {"jaw_open": 0.24, "stretch": 0.10},
}
_CONSONANT_SHARES = np.array([0.07, 0.08, 0.06, 0.08, 0.08, 0.17, 0.28, 0.18])
"""How often each consonant comes, in the order above: roughly English."""

_SPEECH = (
    "jaw_open", "lips_seal", "lips_press", "lip_tuck", "pucker", "funnel", "stretch", "smile", "upper_lip_up",
    "lower_lip_down",
)  # fmt: skip


def _minimum_jerk(times: Array, values: Array, at: Array) -> Array:
    """A path through (times, values) that starts and stops at rest in every key: the way people move."""
    segment = np.clip(np.searchsorted(times, at, side="right") - 1, 0, len(times) - 2)
    span = np.maximum(times[segment + 1] - times[segment], 1e-9)
    u = np.clip((at - times[segment]) / span, 0.0, 1.0).reshape(-1, *[1] * (values.ndim - 1))
    ease = u**3 * (10.0 - 15.0 * u + 6.0 * u**2)
    return np.asarray(values[segment] + (values[segment + 1] - values[segment]) * ease)


def _key_times(rng: np.random.Generator, seconds: float, shortest: float, longest: float) -> Array:
    count = int(seconds / shortest) + 2
    times = np.concatenate([[0.0], np.cumsum(rng.uniform(shortest, longest, count))])
    return times[: int(np.searchsorted(times, seconds)) + 1]


def _stratified(rng: np.random.Generator, count: int) -> Array:
    """`count` numbers in -1..1, one from each of `count` equal strata, shuffled: extremes are always met."""
    return np.asarray((rng.permutation(count) + rng.uniform(0.0, 1.0, count)) / count * 2.0 - 1.0)


def _speech(rng: np.random.Generator, at: Array) -> dict[str, Array]:
    """Mouth controls of babble: syllables of about 4.5 a second in phrases with pauses, co-articulated.

    Every sound has a target and a bell of dominance in time; the mouth is the dominance-weighted mean of the
    sounds near it (Cohen and Massaro 1993), so neighbours colour each other. Closures dominate: an m closes.
    """
    columns = {name: at_ for at_, name in enumerate(_SPEECH)}
    centres, widths, strengths, targets = [], [], [], []
    vowels, consonants = list(_VOWELS.values()), list(_CONSONANTS.items())
    time, end = 0.25, at[-1] - 0.2
    while time < end:
        effort = rng.uniform(0.6, 1.35)
        for _ in range(int(rng.integers(3, 11))):
            length = 1.0 / rng.uniform(3.4, 5.8)
            name, shape = consonants[int(rng.choice(len(consonants), p=_CONSONANT_SHARES))]
            lips = name in ("m", "p", "f")
            sounds = [(0.22, shape, 1.0, 0.052 if lips else 0.045, 4.0 if lips else 1.0)]
            sounds.append((0.62, vowels[int(rng.integers(len(vowels)))], effort * rng.uniform(0.75, 1.2), 0.085, 1.0))
            for offset, sound, gain, width, strength in sounds:
                row = np.zeros(len(_SPEECH))
                for control, value in sound.items():
                    row[columns[control]] = value * gain
                centres.append(time + offset * length)
                widths.append(width * length / 0.22)
                strengths.append(strength)
                targets.append(row)
            time += length
        time += rng.uniform(0.25, 1.1)
    if not centres:  # too short to say anything
        return {name: np.zeros_like(at) for name in _SPEECH}
    bell = np.array(strengths) * np.exp(-0.5 * ((at[:, None] - np.array(centres)) / np.array(widths)) ** 2)
    mouth = bell @ np.array(targets) / (bell.sum(axis=1, keepdims=True) + 0.12)
    seal = np.clip((mouth[:, columns["lips_seal"]] - 0.2) / 0.5, 0.0, 1.0)
    mouth[:, columns["lips_seal"]] = seal**2 * (3.0 - 2.0 * seal)
    return {name: np.clip(mouth[:, column], 0.0, 1.0) for name, column in columns.items()}


def _blinks(rng: np.random.Generator, at: Array, interval: float) -> Array:
    """Lid closure 0..1: quick down, slower up, 100 to 400 ms, now and then only half."""
    closure = np.zeros_like(at)
    time = rng.uniform(0.3, interval)
    while time < at[-1]:
        down, shut, up = rng.uniform(0.05, 0.12), rng.uniform(0.0, 0.08), rng.uniform(0.08, 0.2)
        depth = rng.uniform(0.35, 0.85) if rng.uniform() < 0.2 else 1.0
        keys = time + np.array([0.0, down, down + shut + 0.04, down + shut + 0.04 + up])
        blink = _minimum_jerk(keys, np.array([0.0, depth, depth, 0.0]), at)
        closure = np.maximum(closure, np.where((at >= keys[0]) & (at <= keys[-1]), blink, 0.0))
        time = keys[-1] + 0.2 + rng.exponential(interval)
    return closure


def _saccades(rng: np.random.Generator, at: Array, reach: float, power: float) -> tuple[Array, Array]:
    """Gaze that jumps (40 to 60 ms) and rests: the higher `power`, the nearer to the camera."""
    starts = _key_times(rng, float(at[-1]), 0.35, 1.9)
    times = np.sort(np.concatenate([starts, starts[1:] - 0.05]))
    count = len(starts)
    size = reach * rng.uniform(0.0, 1.0, count) ** power
    angle = rng.uniform(0.0, 2.0 * np.pi, count)
    held = np.repeat(np.arange(count), 2)[: len(times)]  # rest until just before the next jump
    x, y = (size * np.cos(angle))[held], (0.8 * size * np.sin(angle))[held]
    return _minimum_jerk(times, x, at), _minimum_jerk(times, y, at)


def draw_controls(*, seed: int, seconds: float, fps: float = 25.0, style: Style = "training") -> Controls:
    """Seeded controls over time: the same numbers for every person. See `procedural_track`."""
    if not np.isfinite(seconds) or not np.isfinite(fps) or fps <= 0 or seconds * fps < 3:
        raise InputError(f"A track needs at least 3 frames, got {seconds} seconds at {fps} frames per second.")
    if style not in ("training", "speech"):
        raise InputError(f"There is no motion style {style!r}. Choose: training, speech.")
    if seed < 0:
        raise InputError(f"A seed is a whole number from 0, got {seed}.")
    rng = np.random.default_rng(seed)
    at = np.arange(round(seconds * fps)) / fps
    training = style == "training"

    def wander(reach: float, shortest: float, longest: float, power: float) -> Array:
        """Moves between targets in -reach..reach; the higher `power`, the rarer the extremes."""
        times = _key_times(rng, float(at[-1]), shortest, longest)
        level = _stratified(rng, len(times))
        return _minimum_jerk(times, reach * np.sign(level) * np.abs(level) ** power, at)

    def excite(reach: float, share: float, shortest: float = 0.4, longest: float = 1.4) -> Array:
        """A muscle that contracts now and then: at rest for 1 - share of the targets, else up to `reach`."""
        times = _key_times(rng, float(at[-1]), shortest, longest)
        level = (_stratified(rng, len(times)) + 1.0) / 2.0
        return _minimum_jerk(times, reach * np.clip((level - 1.0 + share) / share, 0.0, 1.0) ** 0.7, at)

    wide = 1.0 if training else 0.4
    # Large moves with rests between, and the small ones of a head that is alive.
    moved: dict[str, Array] = {
        "yaw_deg": wander(MAX_YAW_DEG * wide, 0.5, 1.6, 1.5) + wander(1.2, 0.15, 0.5, 1.0),
        "pitch_deg": wander(MAX_PITCH_DEG * wide, 0.4, 1.4, 1.5) + wander(1.5, 0.15, 0.4, 1.0),
        "roll_deg": wander(MAX_ROLL_DEG * wide, 0.6, 1.8, 1.6) + wander(0.8, 0.2, 0.6, 1.0),
        "shift_x": wander(0.10 * wide, 0.6, 1.8, 1.4),
        "shift_y": wander(0.08 * wide, 0.6, 1.8, 1.4),
        "zoom": wander(0.10 * wide, 0.8, 2.0, 1.4),
        "brow_raise": excite(1.0 if training else 0.7, 0.4),
        "brow_frown": excite(1.0 if training else 0.5, 0.3),
        "smile": excite(1.0 if training else 0.45, 0.4, 0.6, 2.0),
    }
    moved.update({name: value + moved.get(name, 0.0) for name, value in _speech(rng, at).items()})
    if not training:
        moved["skew"] = wander(0.3, 1.0, 3.0, 1.0)
    blink = _blinks(rng, at, 0.9 if training else 2.8)
    moved["blink_right"], moved["blink_left"] = blink.copy(), blink.copy()
    # Evenly over all that eyes can reach, so that no glance of a driver is a surprise.
    moved["gaze_x"], moved["gaze_y"] = _saccades(rng, at, 1.2, 0.5) if training else _saccades(rng, at, 0.5, 1.5)
    if training:
        # Beyond speech: the strong and the odd, so that the student has seen what a driver may do.
        for name, reach, share in (
            ("jaw_open", 1.0, 0.25), ("pucker", 1.0, 0.2), ("funnel", 1.0, 0.15), ("stretch", 1.0, 0.2),
            ("mouth_frown", 1.0, 0.2), ("upper_lip_up", 1.0, 0.15), ("lower_lip_down", 1.0, 0.15),
            ("lips_press", 1.0, 0.15),
        ):  # fmt: skip
            moved[name] = moved.get(name, np.zeros_like(at)) + excite(reach, share)
        # Broad smiles that show teeth: recorded mouths widen to 1.35 times their width, and the single muscles above
        # seldom meet.
        grin = excite(1.0, 0.2, 0.6, 1.6)
        for name, share in (("smile", 1.0), ("stretch", 0.3), ("upper_lip_up", 0.5), ("lower_lip_down", 0.5)):
            moved[name] = moved[name] + share * grin
        moved["blink_right"] = np.maximum(moved["blink_right"], excite(1.0, 0.12))
        moved["blink_left"] = np.maximum(moved["blink_left"], excite(1.0, 0.12))
        # Faces are never even: half of the recorded drivers draw the mouth aside at times.
        moved["skew"] = wander(1.0, 0.5, 1.6, 1.5)
        moved["mouth_shift"] = wander(1.2, 0.4, 1.5, 2.0)
        wide_eyes, squint = excite(0.5, 0.2), excite(0.8, 0.15)
        for name in ("blink_right", "blink_left"):
            # Both eyes go wide only as far as nothing closes them: no jump where a blink sets in.
            closing = np.maximum(moved[name], squint)
            moved[name] = closing - wide_eyes * (1.0 - closing)
    moved = {name: _within_reach(name, value) for name, value in moved.items()}
    # One shape at a time: corners cannot go out and in together.
    rounded = np.maximum(moved["pucker"], moved["funnel"])
    for name in ("smile", "stretch"):
        moved[name] = moved[name] * (1.0 - 0.8 * rounded)
    ease = _ease(at)
    return Controls.rest(len(at), **{name: value * ease for name, value in moved.items()})


def _ease(at: Array) -> Array:
    """1, and 0 at both ends of a track: it starts and ends at rest."""
    ease = np.clip(np.minimum(at, at[::-1]) / min(0.4, float(at[-1]) / 3.0), 0.0, 1.0)
    return np.asarray(ease**3 * (10.0 - 15.0 * ease + 6.0 * ease**2))


def draw_strays(*, seed: int, frames: int, fps: float = 25.0) -> Array:
    """Seeded deformations over time: float64 [T, STRAYS, 3], in face heights.

    Recorded faces leave the few dimensions that muscles span by 1 to 2 % of a face's height: lips and lids of other
    shapes, trackers that err about depth at a turned head. A student that has seen none of that smears mouths and
    eyes of every real driver (docs/log.md).
    """
    rng = np.random.default_rng([seed, 1])
    at = np.arange(frames) / fps
    times = _key_times(rng, float(at[-1]), 0.3, 1.0)
    size = STRAY * rng.uniform(0.0, 2.0, (len(times), 1, 1)) * np.array([1.0, 1.0, 2.0])
    levels = size * rng.standard_normal((len(times), STRAYS, 3))
    strayed = _minimum_jerk(times, levels.reshape(len(times), -1), at) * _ease(at)[:, None]
    return strayed.reshape(frames, STRAYS, 3)


def _within_reach(name: str, value: Array) -> Array:
    limits = {"yaw_deg": MAX_YAW_DEG, "pitch_deg": MAX_PITCH_DEG, "roll_deg": MAX_ROLL_DEG}
    if name in limits:
        return np.clip(value, -limits[name], limits[name])
    if name in ("shift_x", "shift_y", "zoom", "gaze_x", "gaze_y", "mouth_shift", "skew"):
        return np.clip(value, -1.0, 1.0)
    return np.clip(value, -0.5 if name.startswith("blink") else 0.0, 1.0)


def procedural_track(
    source_landmarks: NDArray[np.floating],
    *,
    seed: int,
    seconds: float,
    fps: float = 25.0,
    style: Style = "training",
) -> "Track":
    """A person's procedural motion: head turns on all axes, speech, blinks, brows, smiles and gaze.

    Starts and ends exactly in the photo's own pose; the same seed gives the same track.

    Args:
        source_landmarks: [478, 3], crop coordinates.
        seed: from `train_seed` or `held_out_seed`.
        seconds: length, at least three frames.
        fps: frames per second.
        style: "training" covers the extremes of every control; "speech" is a calm speaker for previews.

    Raises:
        InputError: a length, seed or style that cannot be; SpecError: wrong landmarks.
    """
    from edge.driving.track import Track

    controls = draw_controls(seed=seed, seconds=seconds, fps=fps, style=style)
    frames = len(controls.yaw_deg)
    strays = draw_strays(seed=seed, frames=frames, fps=fps) if style == "training" else None
    landmarks = pose_face(source_landmarks, controls, strays)
    return Track(landmarks=landmarks, fps=fps, detected=np.ones(len(landmarks), dtype=bool))


_SHOWCASE: tuple[tuple[str, dict[str, float]], ...] = (
    ("neutral", {}),
    ("yaw -30", {"yaw_deg": -30}),
    ("yaw -15", {"yaw_deg": -15}),
    ("yaw +15", {"yaw_deg": 15}),
    ("yaw +30", {"yaw_deg": 30}),
    ("pitch -20", {"pitch_deg": -20}),
    ("pitch +20", {"pitch_deg": 20}),
    ("roll -20", {"roll_deg": -20}),
    ("roll +20", {"roll_deg": 20}),
    ("blink", {"blink_right": 1, "blink_left": 1}),
    ("half lids", {"blink_right": 0.5, "blink_left": 0.5}),
    ("wink right", {"blink_right": 1}),
    ("wide open", {"jaw_open": 1, "lower_lip_down": 0.3, "upper_lip_up": 0.2}),
    ("jaw half", {"jaw_open": 0.5}),
    ("smile", {"smile": 1}),
    ("smile, teeth", {"smile": 1, "upper_lip_up": 0.5, "lower_lip_down": 0.5, "jaw_open": 0.08}),
    ("pucker", {"pucker": 1}),
    ("ah", _VOWELS["a"]),
    ("eh", _VOWELS["ae"]),
    ("ee", _VOWELS["i"]),
    ("oh", _VOWELS["o"]),
    ("oo", _VOWELS["u"]),
    ("m", _CONSONANTS["m"]),
    ("f", _CONSONANTS["f"]),
    ("sh", _CONSONANTS["sh"]),
    ("mouth aside", {"mouth_shift": 1}),
    ("smirk", {"smile": 0.8, "skew": 0.9}),
    ("brows up", {"brow_raise": 1}),
    ("frown", {"brow_frown": 1, "mouth_frown": 0.6}),
    ("gaze left", {"gaze_x": -1}),
    ("gaze right", {"gaze_x": 1}),
    ("gaze up", {"gaze_y": -1}),
    ("gaze down", {"gaze_y": 1}),
    ("yaw +30, open", {"yaw_deg": 30, "jaw_open": 0.8}),
)


def showcase(source_landmarks: NDArray[np.floating]) -> tuple[list[str], NDArray[np.float32]]:
    """Labelled poses for a contact sheet: T names and float32 [T, 478, 3].

    Gaze is named by the image's sides, the wink by the person's own right eye.
    """
    poses = [Controls.rest(1, **pose) for _, pose in _SHOWCASE]
    controls = Controls(*(np.concatenate(column) for column in zip(*poses, strict=True)))
    return [name for name, _ in _SHOWCASE], pose_face(source_landmarks, controls)
