"""Faces found: MediaPipe's 478 landmarks for photos and frames, and the portrait that everything starts from.

MediaPipe is imported when a `Landmarker` is made, never before: `edge` runs avatars without it.
"""

import contextlib
import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from edge.driving.models import Progress, find_landmarker, say
from edge.errors import InputError, MissingRuntimeError
from edge.motion import EYES
from edge.preprocess import NEUTRAL, Crop, crop_image, face_crop, face_height, from_crop, load_image, to_crop
from edge.spec import CROP
from edge.topology import (
    CHIN,
    FACE_OVAL,
    FOREHEAD_TOP,
    INNER_LOWER_LIP,
    INNER_UPPER_LIP,
    LANDMARKS,
    LEFT_CHEEK_EDGE,
    LEFT_EYE_OUTER,
    LEFT_INNER_MOUTH_CORNER,
    LEFT_IRIS,
    OUTER_LOWER_LIP,
    OUTER_UPPER_LIP,
    RIGHT_CHEEK_EDGE,
    RIGHT_EYE_OUTER,
    RIGHT_INNER_MOUTH_CORNER,
    RIGHT_IRIS,
)

MIN_FACE_PX = 64
"""Smallest face that carries an avatar, forehead to chin, in pixels of the photo."""

MAX_YAW_DEG = 40.0
"""Farthest turn of a source portrait: beyond it the far cheek and eye are not in the photo."""

DOUBTED_YAW_DEG = 35.0
"""Turn from which the far half of the face is a guess."""

LID_BRIGHTNESS, CLOSED_EYES, NARROW_EYES = 0.76, 0.1, 0.125
"""Brightness of an iris in that of the cheek, over which a lid covers it; openings of closed and of narrow eyes, in
their width. Over 26 portraits: 0.14 to 0.72 and 0.12 to 0.3."""

OPEN_MOUTH = 0.1
"""Distance of the inner lips from which a mouth is open, in face heights; broad smiles reach 0.06."""

DARK_GLASSES = 0.45
"""Brightness under an eye in that of the cheek, below which a lens covers it: 0.47 to 1.35 in 26 portraits."""

MOUTH_LINE = 0.12
"""Least darkness of the line between closed lips: 0.18 to 0.9 in 25 portraits, under 0.1 on a mask or a palm."""

DARK, BRIGHT, BLURRED = 60.0, 240.0, 0.018
"""Grey level that 95 % of a face lie below, and 5 %; and least share of its contrast that is finer than three pixels of
the crop: 0.035 to 0.23 over 26 portraits, 0.006 to 0.02 for the same blurred over four pixels."""

MAX_ROLL_DEG = 45.0
"""Farthest tilt: beyond it the photo itself lies on its side."""

MADE_UP_NOTED = 0.8
"""Share of the crop that the photo covers, under which the user is told."""

SEARCH_SIDE = 1536
"""Longest side of the photo while it is searched as a whole, in pixels."""

MAX_FACES = 8
"""Most faces looked for in one picture."""

COLLECT_EVERY = 50
"""Frames of a clip from one sweep of what MediaPipe leaves behind to the next."""

SURE, UNSURE = 0.5, 0.2
"""Detection confidence: MediaPipe's own default, and that of a second search."""

CUT_REFUSED, CUT_NOTED = 0.10, 0.02
"""How far a face may lie outside the photo, in face heights: refused beyond the first, noted beyond the
second."""


class Portrait(NamedTuple):
    """One person's photo, cropped, with its landmarks."""

    image: NDArray[np.uint8]
    """uint8 [512, 512, 3], RGB: the crop."""
    landmarks: NDArray[np.float32]
    """float32 [478, 3], crop coordinates."""
    crop: Crop
    """Where the crop lies in the photo."""
    notes: tuple[str, ...]
    """What the user should know, as sentences."""
    doubts: tuple[str, ...]
    """Those notes that say why no good avatar can come of it: closed eyes, a wide open mouth, blur, …"""
    name: str
    """The photo's file name without its ending."""


class Landmarker:
    """Finds the faces of a picture (MediaPipe Tasks FaceLandmarker). A context manager.

    Args:
        model: the model file; without it `edge.driving.models.find_landmarker` looks for one.
        video: frames of one clip follow each other: faces are tracked from frame to frame, faster and calmer.
        max_faces: most faces found at once.
        confidence: least confidence of detection, presence and tracking, 0..1.
        progress: told in a sentence what is fetched, when the model file has to be.

    Raises:
        MissingRuntimeError: MediaPipe or its model file is missing.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        video: bool = False,
        max_faces: int = MAX_FACES,
        confidence: float = SURE,
        progress: Progress = say,
    ) -> None:
        try:
            with _silence():
                import mediapipe
                from mediapipe.tasks.python import BaseOptions, vision
        except ImportError as error:
            raise MissingRuntimeError(
                f"Finding faces needs MediaPipe, which cannot be imported ({error}). "
                'Run: pip install "superface[landmarks]"'
            ) from error
        self.model = find_landmarker(model, progress=progress)
        self.video = video
        self._mediapipe: Any = mediapipe
        self._time_ms = self._frames = 0
        options = vision.FaceLandmarkerOptions(
            # Read here, not by MediaPipe: its C++ side opens no path with non-ASCII letters on Windows.
            base_options=BaseOptions(model_asset_buffer=self.model.read_bytes()),
            running_mode=vision.RunningMode.VIDEO if video else vision.RunningMode.IMAGE,
            num_faces=max_faces,
            min_face_detection_confidence=confidence,
            min_face_presence_confidence=confidence,
            min_tracking_confidence=confidence,
        )
        # A first, empty picture makes MediaPipe print all it prints while nobody listens.
        with _silence():
            try:
                self._graph: Any = vision.FaceLandmarker.create_from_options(options)
            except (RuntimeError, ValueError) as error:
                raise MissingRuntimeError(
                    f"MediaPipe cannot use the landmark model {self.model} ({error}). "
                    "Delete that file, or name another with SUPERFACE_LANDMARKER."
                ) from error
            self.detect(np.full((64, 64, 3), NEUTRAL, dtype=np.uint8))

    def detect(self, image: NDArray[np.uint8], *, step_ms: int | None = None) -> list[NDArray[np.float32]]:
        """The faces of a picture, largest first.

        Args:
            image: uint8 [H, W, 3], RGB.
            step_ms: in video mode, milliseconds since the last frame; without it 40.

        Returns:
            A list of float32 [478, 3], image pixels: (x, y) and depth z in the same unit, smaller is nearer.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise InputError(f"A picture is uint8 [H, W, 3]; got {image.dtype} {list(image.shape)}.")
        height, width = image.shape[:2]
        picture = self._mediapipe.Image(image_format=self._mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(image))
        if self.video:
            self._frames += 1
            if self._frames % COLLECT_EVERY == 0:
                gc.collect(1)  # MediaPipe's results hold their picture in a circle
            self._time_ms += 40 if step_ms is None else max(1, step_ms)
            result = self._graph.detect_for_video(picture, self._time_ms)
        else:
            result = self._graph.detect(picture)
        faces = [
            np.array([(p.x * width, p.y * height, p.z * width) for p in points], dtype=np.float32)
            for points in result.face_landmarks
        ]
        faces = [face for face in faces if face.shape == (LANDMARKS, 3) and np.isfinite(face).all()]
        return sorted(faces, key=face_height, reverse=True)

    def close(self) -> None:
        """Give MediaPipe's threads and memory back."""
        with _silence():
            self._graph.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """No standard error, that of C++ libraries included: MediaPipe's start-up lines cannot be turned off."""
    try:
        sys.stderr.flush()
        saved = os.dup(2)
    except (OSError, ValueError, AttributeError):  # no standard error at all (pythonw, some services)
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def yaw_deg(landmarks: NDArray[np.floating]) -> float:
    """How far the head is turned, in degrees: 0 is frontal, positive turns the nose to the image's right.

    Args:
        landmarks: float [478, 3], any coordinates with z in the unit of x.
    """
    across = (landmarks[LEFT_EYE_OUTER] - landmarks[RIGHT_EYE_OUTER]) + (
        landmarks[LEFT_CHEEK_EDGE] - landmarks[RIGHT_CHEEK_EDGE]
    )
    return float(np.degrees(np.arctan2(across[2], np.hypot(across[0], across[1]))))


def roll_deg(landmarks: NDArray[np.floating]) -> float:
    """How far the head is tilted, in degrees: 0 is upright, positive lowers the eye on the image's right.

    Args:
        landmarks: float [478, 2 or 3], y down.
    """
    eyes = landmarks[LEFT_EYE_OUTER] - landmarks[RIGHT_EYE_OUTER]
    return float(np.degrees(np.arctan2(eyes[1], eyes[0])))


def read_portrait(
    path: str | Path,
    *,
    face: int | None = None,
    strict: bool = False,
    landmarker: Landmarker | None = None,
) -> Portrait:
    """A photo as the portrait of one person: cropped, with landmarks, checked for what an avatar needs.

    The whole photo is searched first; where nothing is found, the photo with a border around it (a face that
    fills the frame), its parts enlarged (a small face), and all that again with less confidence. Each face is
    then looked at in five views of its own crop: their mean is more precise than one look, and a face that
    does not stay in its place between views is none.

    Args:
        path: the photo.
        face: which face, counted from the left of the photo, from 1; the largest without it.
        strict: refuse a photo that no good avatar can come of, instead of saying so in `doubts`.
        landmarker: one in image mode to use; else one is made.

    Raises:
        InputError: unreadable photo, no face, no such face, or a face too small, cut off, or turned away.
        MissingRuntimeError: MediaPipe or its model file is missing.
    """
    path = Path(path)
    image = load_image(path)
    with contextlib.ExitStack() as stack:
        finder = landmarker or stack.enter_context(Landmarker())
        faces = [_look_closer(image, found, finder) for found in find_faces(image, finder)]
        if not any(f.plausible for f in faces):
            finder = stack.enter_context(Landmarker(finder.model, confidence=UNSURE))
            faces += [_look_closer(image, found, finder) for found in find_faces(image, finder)]
    faces = [f for f in faces if f.plausible]
    if not faces:
        raise InputError(_NO_FACE.format(path))
    chosen, notes = _choose(faces, face, path)
    if not chosen.sure:
        notes.append("The face is not certain; drawings, animals and hidden faces animate badly.")
    cropped = crop_image(image, chosen.crop)
    own, doubts = _checked(chosen, image, path)
    doubts += _doubts(cropped, chosen.landmarks)
    if strict and doubts:
        raise InputError(f"{path} is refused: {' '.join(doubts)}")
    return Portrait(cropped, chosen.landmarks, chosen.crop, (*notes, *own, *doubts), tuple(doubts), path.stem)


_NO_FACE = "No face was found in {}. Give a photo of one face from the front, sharp and well lit."


class _Face(NamedTuple):
    """A face after a closer look."""

    crop: Crop
    landmarks: NDArray[np.float32]
    """float32 [478, 3], crop coordinates: the mean over the views."""
    views: int
    """How many of the five views show it."""
    spread: float
    """Standard deviation of a landmark between views, in face heights: under 0.006 for each of 26 portraits,
    0.02 to 0.2 for what MediaPipe sees in cells, colour charts and motorcycles."""

    @property
    def sure(self) -> bool:
        """Whether it is a face beyond doubt."""
        return self.views >= 4 and self.spread <= 0.012

    @property
    def plausible(self) -> bool:
        """Whether it may be one: drawings and animals end here, textures do not.

        A head turned far is seen in every view, and its far side where each view guesses it.
        """
        turned = abs(yaw_deg(self.landmarks)) > MAX_YAW_DEG
        return self.views >= 2 and self.spread <= (0.08 if turned and self.views == len(_VIEWS) else 0.025)


def _choose(faces: list[_Face], face: int | None, path: Path) -> tuple[_Face, list[str]]:
    """The face that the user means, and what to say about the others."""
    centres = [from_crop(f.landmarks, f.crop)[:, 0].mean() for f in faces]
    from_left = sorted(range(len(faces)), key=lambda n: float(centres[n]))
    if face is not None:
        if not 1 <= face <= len(faces):
            raise InputError(f"There is no face {face} in {path}: {len(faces)} found. Count from the left, from 1.")
        return faces[from_left[face - 1]], []
    largest = max(range(len(faces)), key=lambda n: faces[n].crop.size)
    notes = []
    if len(faces) > 1:
        notes.append(
            f"{len(faces)} faces were found; the largest is taken, number {from_left.index(largest) + 1} "
            "from the left. --face N picks another."
        )
    return faces[largest], notes


def find_faces(image: NDArray[np.uint8], landmarker: Landmarker) -> list[NDArray[np.float32]]:
    """Faces of a photo, small ones too: the first way of looking that finds any.

    MediaPipe's detector looks at 128×128 pixels: a face must fill neither all of them nor next to none. So
    the photo is searched as it is, then with a border around it, then in parts that overlap.

    Args:
        image: uint8 [H, W, 3], RGB.
        landmarker: one in image mode.

    Returns:
        A list of float32 [478, 3], image pixels, largest first.
    """
    height, width = image.shape[:2]
    # Both first looks are coarse: a photo of 50 megapixels need not be handled whole.
    shrink = min(1.0, SEARCH_SIDE / max(height, width))
    small = image
    if shrink < 1:
        size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
        small = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))
    faces = landmarker.detect(small)
    if not faces:
        side = float(max(small.shape[:2]))
        middle = Crop(small.shape[1] / 2 - side, small.shape[0] / 2 - side, 2 * side)
        faces = _detect_in(small, middle, landmarker)
    if faces:
        return [np.asarray(face / shrink, dtype=np.float32) for face in faces]
    for part in (1, 2, 4):
        window = min(height, width) / part
        if window < MIN_FACE_PX:
            break
        found: list[NDArray[np.float32]] = []
        for y in _starts(height, window):
            for x in _starts(width, window):
                found += _detect_in(image, Crop(x, y, window), landmarker)
        if found:
            return _distinct(found)
    return []


def _starts(side: float, window: float) -> NDArray[np.float64]:
    """Starts of windows that overlap by half and cover a side."""
    count = int(np.ceil((side - window) / (window / 2))) + 1
    return np.linspace(0.0, side - window, min(count, 32))


def _detect_in(image: NDArray[np.uint8], crop: Crop, landmarker: Landmarker) -> list[NDArray[np.float32]]:
    """Faces inside a square of the image, in image pixels."""
    return [
        from_crop(to_crop(face, Crop(0.0, 0.0, float(CROP))), crop)
        for face in landmarker.detect(crop_image(image, crop))
    ]


def _distinct(faces: list[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    """Faces that overlapping windows found twice, once; largest first."""
    kept: list[NDArray[np.float32]] = []
    for face in sorted(faces, key=face_height, reverse=True):
        centre = face[:, :2].mean(axis=0)
        apart = [float(np.linalg.norm(centre - other[:, :2].mean(axis=0))) for other in kept]
        if all(gap > 0.5 * face_height(other) for gap, other in zip(apart, kept, strict=True)):
            kept.append(face)
    return kept


def confirmed(image: NDArray[np.uint8], face: NDArray[np.float32], landmarker: Landmarker) -> bool:
    """Whether a face found in an image (float32 [478, 3], image pixels) is one beyond doubt."""
    return _look_closer(image, face, landmarker).sure


def unsteady(image: NDArray[np.uint8], turns: int, landmarker: Landmarker) -> float:
    """How far the largest face of a picture differs from view to view, in face heights; 1 where there is none.

    Args:
        image: uint8 [H, W, 3], RGB.
        turns: quarter turns counter-clockwise that the picture is given first.
        landmarker: one in image mode.
    """
    turned = np.ascontiguousarray(np.rot90(image, turns))
    faces = [_look_closer(turned, face, landmarker) for face in find_faces(turned, landmarker)[:1]]
    return min((face.spread for face in faces if face.views == len(_VIEWS)), default=1.0)


def _look_closer(image: NDArray[np.uint8], face: NDArray[np.float32], landmarker: Landmarker) -> _Face:
    """A face (image pixels) found again in its own crop.

    The mean over five views halves the trembling of a single look, from 0.7 % to 0.35 % of the distance
    between the eyes (measured over 14 portraits).
    """
    size = (image.shape[1], image.shape[0])
    again = _same_face(image, face_crop(face, size), face, landmarker)
    face = face if again is None else again
    crop = face_crop(face, size)
    views = [_same_face(image, _view(crop, *shift), face, landmarker) for shift in _VIEWS]
    seen = [view for view in views if view is not None]
    if not seen:
        return _Face(crop, to_crop(face, crop), 0, 1.0)
    spread = np.linalg.norm(np.std(seen, axis=0)[:, :2], axis=1).mean() / max(face_height(face), 1.0)
    return _Face(crop, to_crop(np.mean(seen, axis=0), crop), len(seen), float(spread))


_VIEWS = ((0.0, 0.0, 1.0), (0.0, 0.0, 0.85), (0.06, 0.04, 1.0), (-0.05, 0.06, 1.12), (0.05, -0.06, 0.92))
"""Shift (x, y) and scale of each view, in crop sides."""


def _view(crop: Crop, x: float, y: float, scale: float) -> Crop:
    """A crop shifted and scaled about its centre."""
    rim = (1 - scale) / 2
    return Crop(crop.x + (x + rim) * crop.size, crop.y + (y + rim) * crop.size, scale * crop.size)


def _same_face(
    image: NDArray[np.uint8], crop: Crop, face: NDArray[np.float32], landmarker: Landmarker
) -> NDArray[np.float32] | None:
    """The face, found inside a crop, that lies where this one lies; image pixels."""
    if crop.size < 2:
        return None
    centre, height = face[:, :2].mean(axis=0), face_height(face)
    for found in _detect_in(image, crop, landmarker):
        if np.linalg.norm(found[:, :2].mean(axis=0) - centre) < 0.3 * height:
            return found
    return None


def _checked(face: _Face, image: NDArray[np.uint8], path: Path) -> tuple[list[str], list[str]]:
    """Notes about how a face lies in its photo, and doubts.

    Raises:
        InputError: it is too small, cut off, or turned too far; or what is cut off is no face beyond doubt.
    """
    landmarks_px = from_crop(face.landmarks, face.crop)
    height, width = image.shape[:2]
    tall = face_height(landmarks_px)
    oval = landmarks_px[FACE_OVAL, :2]
    beyond = max(-float(oval.min()), float(oval[:, 0].max()) - width, float(oval[:, 1].max()) - height) / tall
    if beyond > CUT_REFUSED and (face.views < 3 or face.spread > 0.02):  # a cup, a knot in wood
        raise InputError(_NO_FACE.format(path))
    if beyond > CUT_REFUSED:
        raise InputError(
            f"The face in {path} is cut off by the photo's border. Give a photo that shows the whole head."
        )
    roll = roll_deg(landmarks_px)
    if abs(roll) > MAX_ROLL_DEG:
        raise InputError(
            f"The head in {path} lies on its side or upside down ({abs(roll):.0f} degrees). "
            "Turn the photo upright first."
        )
    yaw = yaw_deg(landmarks_px)
    if abs(yaw) > MAX_YAW_DEG:
        raise InputError(
            f"The head in {path} is turned by {abs(yaw):.0f} degrees; up to {MAX_YAW_DEG:.0f} can be "
            "animated. Give a photo taken more from the front."
        )
    if tall < MIN_FACE_PX:
        raise InputError(
            f"The face in {path} is {tall:.0f} pixels high; at least {MIN_FACE_PX} are needed. "
            "Give a larger version of the photo, or one taken from nearer."
        )
    notes, doubts = [], []
    if abs(yaw) > DOUBTED_YAW_DEG:
        doubts.append(f"The head is turned by {abs(yaw):.0f} degrees: the far half of the face will be guessed.")
    if beyond > CUT_NOTED:
        notes.append("The photo's border touches the face; what lies beyond it is made up.")
    x, y, size = face.crop
    inside = max(0.0, min(x + size, width) - max(x, 0.0)) * max(0.0, min(y + size, height) - max(y, 0.0))
    if inside < MADE_UP_NOTED * size**2:
        (doubts if inside < size**2 / 2 else notes).append(
            f"The photo ends close to the face: {1 - inside / size**2:.0%} of the picture is made up."
        )
    if tall < 2 * MIN_FACE_PX:
        notes.append(f"The face is only {tall:.0f} pixels high: the avatar will look soft.")
    return notes, doubts


def _doubts(image: NDArray[np.uint8], landmarks: NDArray[np.float32]) -> list[str]:
    """Why no good avatar can come of a portrait, as it looks in its crop.

    A closed eye cannot be told from landmarks alone: they guess one behind the lid, as wide as the small eyes of some
    people. Its pixels tell: over 26 portraits the iris is 0.14 to 0.72 times as bright as the cheek below it, and
    where a lid lies over it 0.8.

    Args:
        image: uint8 [512, 512, 3].
        landmarks: float [478, 3], crop coordinates.
    """
    grey = np.asarray(Image.fromarray(image).convert("L"), dtype=np.float64)
    points = (landmarks[:, :2] + 1) * ((CROP - 1) / 2)
    y, x = np.mgrid[:CROP, :CROP]

    def around(centre: NDArray[np.floating], radius: float) -> float:
        inside = grey[(x - centre[0]) ** 2 + (y - centre[1]) ** 2 <= max(radius, 1.0) ** 2]
        return float(np.median(inside)) if inside.size else 0.0

    covered, openings, shaded = [], [], []
    for iris, eye in zip((RIGHT_IRIS, LEFT_IRIS), EYES, strict=True):
        corners = points[eye.corners]
        width = float(np.linalg.norm(corners[1] - corners[0]))
        openings.append(float(np.linalg.norm(points[eye.lower] - points[eye.upper], axis=1).mean()) / max(width, 1e-6))
        centre = points[iris].mean(axis=0)
        radius = float(np.linalg.norm(points[iris] - centre, axis=1).max())
        down = (points[CHIN] - points[FOREHEAD_TOP]) / face_height(points) * width
        middle = corners.mean(axis=0)
        below = middle + 0.55 * down
        shaded.append(around(middle + 0.42 * down, 0.15 * width) / max(around(middle + 1.15 * down, 0.2 * width), 1.0))
        covered.append(around(centre, 0.6 * radius) / max(around(below, 0.2 * width), 1.0))
    doubts = []
    if min(covered) > LID_BRIGHTNESS or max(openings) < CLOSED_EYES:
        doubts.append("The eyes look closed: they will never open. Give a photo with open eyes.")
    elif max(shaded) < DARK_GLASSES:
        doubts.append("Dark glasses seem to hide the eyes: lids and glances will be guessed. Give a photo without.")
    elif max(openings) < NARROW_EYES:
        doubts.append("The eyes are narrow or half closed: they will never open further.")
    lips = np.linalg.norm(points[INNER_LOWER_LIP] - points[INNER_UPPER_LIP], axis=-1).mean() / face_height(points)
    line = _mouth_line(image, points)
    if lips > OPEN_MOUTH:
        doubts.append("The mouth is open: its inside will stay when the lips close. Give a photo with closed lips.")
    low, high = (points[FACE_OVAL].min(axis=0), points[FACE_OVAL].max(axis=0))
    left, top, right, bottom = np.clip([*low, *high], 0, CROP - 1).astype(int)
    face = Image.fromarray(image).convert("L").crop((left, top, right + 1, bottom + 1))
    values, soft = (np.asarray(p, dtype=np.float64) for p in (face, face.filter(ImageFilter.GaussianBlur(1.5))))
    if np.percentile(values, 95) < DARK:
        doubts.append("The face is very dark. Give a photo with more light.")
    elif np.percentile(values, 5) > BRIGHT:
        doubts.append("The face is overexposed: most of it is white. Give a photo with less light.")
    elif (values - soft).std() < BLURRED * max(float(values.std()), 1.0):
        doubts.append("The face is blurred. Give a sharper or larger photo.")
    elif lips <= OPEN_MOUTH and line < MOUTH_LINE:
        doubts.append("The mouth looks covered: what covers it would open with the lips. Give a photo that shows it.")
    return doubts


def _mouth_line(image: NDArray[np.uint8], points: NDArray[np.floating]) -> float:
    """How much darker than the skin and lips around it the line between the lips is, 0..1: the median along it."""
    right, left = points[RIGHT_INNER_MOUTH_CORNER], points[LEFT_INNER_MOUTH_CORNER]
    smooth = ImageFilter.GaussianBlur(max(1.0, 0.012 * float(np.linalg.norm(left - right))))
    grey = np.asarray(Image.fromarray(image).convert("L").filter(smooth), dtype=np.float64)
    across = right + np.linspace(0.2, 0.8, 13)[:, None, None] * (left - right)
    down = np.linspace(-0.45, 0.45, 19)[:, None] * (points[OUTER_LOWER_LIP] - points[OUTER_UPPER_LIP])[4]
    x, y = np.moveaxis(np.clip((across + down).round().astype(int), 0, CROP - 1), -1, 0)
    profiles = grey[y, x]
    around = np.median(profiles, axis=1)
    return float(np.median((around - profiles[:, 4:15].min(axis=1)) / np.maximum(around, 1.0)))
