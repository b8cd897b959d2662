"""What people look at: mouth and eyes of a student's frames beside its teacher's, over a track.

Whole-frame PSNR is mostly background, and tells nothing of a mouth that stays shut. Two kinds of figures:

    pixels      PSNR and LPIPS inside the mouth's box and the eyes' boxes
    features    lip opening, mouth width, lid opening and gaze, as MediaPipe finds them in the student's frame and in
                the teacher's: how far they are apart, and how much of their motion over the track the student follows

Both frames are looked at by the same eyes, so what MediaPipe itself errs in a face cancels. What it trembles does not:
in a frame that is shifted by a pixel it finds an iris up to a percent of the distance between the eyes further, as far
as a calm speaker's gaze moves at all. So each frame is looked at in several places, and motion is held against motion
that other looks found: an instrumental variable, by which trembling averages out instead of hiding what is followed.
"""

from collections.abc import Iterable
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from edge.driving.landmarks import Landmarker
from edge.motion import EYES
from edge.topology import INNER_LOWER_LIP, INNER_UPPER_LIP, LEFT_MOUTH_CORNER, RIGHT_MOUTH_CORNER
from training.measures.metrics import psnr
from training.student.losses import LEFT_EYE, LIPS, RIGHT_EYE, box_around

Picture = npt.NDArray[np.uint8]
Points = npt.NDArray[np.float64]

BOX = 128
"""Width and height to which a box is brought before LPIPS looks at it."""
OPEN = 0.1
"""Opening of an eye, in its width, under which it shows no iris to find a gaze by."""
VIEWS = (((0, 0), (5, 3)), ((2, 7), (9, 6)))
"""Pixels right and down by which a picture is shifted for each look: two groups, which tremble independently."""
STILL = 0.5
"""Motion of a feature over the track, its standard deviation in percent of the distance between the eyes, below which
there is nothing to follow."""


class FaceFidelity(NamedTuple):
    """A student's mouth and eyes against its teacher's on one track; NaN where nothing could be measured."""

    mouth_psnr_db: float
    """Inside the mouth's box: mean over frames."""
    eyes_psnr_db: float
    """Inside the boxes of both eyes."""
    mouth_lpips: float
    """LPIPS (AlexNet), smaller is nearer; NaN without that network."""
    eyes_lpips: float
    lip_opening: float
    """Mean distance between student's and teacher's, in percent of the distance between the eyes; so all four."""
    mouth_width: float
    lid_opening: float
    gaze: float
    """Of the iris within its eye, while the teacher's eye is open."""
    lips_followed: float
    """Of the teacher's motion over the track, how much the student makes: the slope of its lip opening and mouth width
    over the teacher's. 1 = as far, 0 = not at all; NaN where the teacher hardly moves."""
    lids_followed: float
    gaze_followed: float
    lost: float
    """Share of frames in which MediaPipe finds a face in the teacher's picture and none in the student's."""
    frames: int

    def known(self) -> dict[str, float]:
        """The figures that could be measured."""
        return {name: float(value) for name, value in self._asdict().items() if not np.isnan(value)}


class Finder(Protocol):
    """An `edge.driving.landmarks.Landmarker`, or what stands in for it."""

    def detect(self, image: Picture) -> list[npt.NDArray[np.float32]]:
        """Faces of a picture, largest first: float32 [478, 3] in pixels."""
        ...


class Distance(Protocol):
    """LPIPS (`training.measures.evaluators.load_lpips`)."""

    def distance(self, frames: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """Of each frame: [N]."""
        ...


class _Look(NamedTuple):
    """What MediaPipe finds in one frame, in pixels: the means of one group of views."""

    lips: Points
    """Opening at the middle, and width: [2]."""
    lids: Points
    """Opening of each eye, [2]."""
    gaze: Points
    """Iris from the middle of the eye's corners, (x, y) of each eye: [2, 2]."""
    open: npt.NDArray[np.bool_]
    """Which eyes show an iris: [2]."""
    apart: float
    """Distance between the eyes' middles."""


def _look(faces: list[npt.NDArray[np.floating]]) -> _Look:
    points = np.mean(faces, 0, dtype=np.float64)
    inner = np.linalg.norm(points[INNER_LOWER_LIP] - points[INNER_UPPER_LIP], axis=-1)
    middle = inner[len(inner) // 4 : len(inner) - len(inner) // 4]
    width = np.linalg.norm(points[LEFT_MOUTH_CORNER] - points[RIGHT_MOUTH_CORNER])
    lids = np.array([np.linalg.norm(points[eye.lower] - points[eye.upper], axis=-1).mean() for eye in EYES])
    corners = np.array([points[eye.corners] for eye in EYES])
    irises = np.array([points[eye.iris].mean(0) for eye in EYES])
    wide = np.linalg.norm(corners[:, 1] - corners[:, 0], axis=-1)
    middles = corners.mean(1)
    apart = float(np.linalg.norm(middles[1] - middles[0]))
    return _Look(np.array([middle.mean(), width]), lids, irises - middles, lids > OPEN * wide, apart)


def _looks(picture: Picture, finder: Finder) -> list[_Look]:
    """A look of each group of views at the largest face; nothing unless every group finds one."""
    looks = []
    for group in VIEWS:
        found = [
            faces[0][:, :2] - (right, down)
            for right, down in group
            if (faces := finder.detect(_shifted(picture, right, down)))
        ]
        if not found:
            return []
        looks.append(_look(found))
    return looks


def _shifted(picture: Picture, right: int, down: int) -> Picture:
    height, width = picture.shape[:2]
    return np.ascontiguousarray(np.pad(picture, ((down, 0), (right, 0), (0, 0)), "edge")[:height, :width])


def box_psnr(made: torch.Tensor, wanted: torch.Tensor, local_landmarks: torch.Tensor) -> tuple[float, float]:
    """PSNR in dB inside the mouth's box, and inside the eyes' boxes together, of one frame.

    Args:
        made: float32 [3, H, H] in 0..1.
        wanted: as `made`.
        local_landmarks: float32 [M, 2], where the boxes are.
    """
    return _decibels(*_boxes(made, wanted, local_landmarks))


Boxes = list[torch.Tensor]
"""Mouth, right eye and left eye of a picture."""


def _decibels(mine: Boxes, theirs: Boxes) -> tuple[float, float]:
    eyes = (torch.cat([eye.flatten() for eye in own[1:]])[None] for own in (mine, theirs))
    return float(psnr(mine[0][None], theirs[0][None])), float(psnr(*eyes))


def _boxes(made: torch.Tensor, wanted: torch.Tensor, local_landmarks: torch.Tensor) -> tuple[Boxes, Boxes]:
    """Mouth, right eye and left eye, cut out of both pictures."""
    cut: tuple[Boxes, Boxes] = ([], [])
    for part in (LIPS, RIGHT_EYE, LEFT_EYE):
        down, across = (inside[0] for inside in box_around(local_landmarks[None, part], made.shape[-1]))
        for own, picture in zip(cut, (made, wanted), strict=True):
            own.append(picture[:, down][:, :, across])
    return cut


def measure_face(
    made: Iterable[Picture],
    wanted: Iterable[Picture],
    local_landmarks: npt.NDArray[np.floating],
    finder: Finder | None = None,
    lpips: Distance | None = None,
) -> FaceFidelity:
    """Mouth and eyes of a student's frames beside its teacher's.

    Args:
        made: T pictures of the student, uint8 [512, 512, 3], RGB; looked at one after another.
        wanted: the teacher's for the same poses.
        local_landmarks: float [T, M, 2], crop coordinates: where mouth and eyes were asked to be.
        finder: finds landmarks; default: MediaPipe.
        lpips: without it, no LPIPS.

    Raises:
        MissingRuntimeError: MediaPipe or its model is missing.
    """
    if finder is None:
        with Landmarker(max_faces=1) as landmarker:
            return measure_face(made, wanted, local_landmarks, landmarker, lpips)
    decibels: list[tuple[float, float]] = []
    likeness: list[tuple[float, float]] = []
    pairs: list[tuple[list[_Look], list[_Look]]] = []
    seen = 0
    for mine, theirs, local in zip(made, wanted, torch.from_numpy(np.asarray(local_landmarks)).float(), strict=True):
        frames = [torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255 for picture in (mine, theirs)]
        boxes = _boxes(frames[0], frames[1], local)
        decibels.append(_decibels(*boxes))
        if lpips:
            shown = [
                torch.stack([F.interpolate(box[None], (BOX, BOX), mode="bilinear", antialias=True)[0] for box in own])
                for own in boxes
            ]
            with torch.no_grad():
                mouth, *eyes = lpips.distance(*shown).tolist()
            likeness.append((mouth, float(np.mean(eyes))))
        if reference := _looks(theirs, finder):
            seen += 1
            if found := _looks(mine, finder):
                pairs.append((found, reference))
    mouth_db, eyes_db = np.mean(decibels, 0) if decibels else (np.nan, np.nan)
    mouth_lpips, eyes_lpips = np.mean(likeness, 0) if likeness else (np.nan, np.nan)
    features = _compare(pairs) if pairs else (np.nan,) * 7
    return FaceFidelity(
        float(mouth_db), float(eyes_db), float(mouth_lpips), float(eyes_lpips), *features,
        lost=1 - len(pairs) / seen if seen else np.nan, frames=len(decibels),
    )  # fmt: skip


def _compare(pairs: list[tuple[list[_Look], list[_Look]]]) -> tuple[float, ...]:
    """Errors of lip opening, mouth width, lid opening and gaze; then what is followed of lips, lids and gaze."""
    percent = 100 / float(np.median([look.apart for _, theirs in pairs for look in theirs]))
    lips, lids, gaze = (
        np.array([[[getattr(look, name) for look in looks] for looks in pair] for pair in pairs]) * percent
        for name in ("lips", "lids", "gaze")
    )  # each [T, student | teacher, group of views, …]
    # A shut eye's iris is a guess: only eyes that are open in both pictures have a gaze.
    both_open = np.array([np.all([look.open for looks in pair for look in looks], 0) for pair in pairs])
    error = np.abs(lips[:, 0].mean(1) - lips[:, 1].mean(1)).mean(0)
    looks = np.linalg.norm(gaze[:, 0].mean(1) - gaze[:, 1].mean(1), axis=-1)[both_open]
    glances = [gaze[both_open[:, eye], ..., eye, :] for eye in range(2)]
    return (
        float(error[0]), float(error[1]), float(np.abs(lids[:, 0].mean(1) - lids[:, 1].mean(1)).mean()),
        float(looks.mean()) if looks.size else np.nan,
        followed([lips]), followed([lids]), followed(glances),
    )  # fmt: skip


def followed(series: list[npt.NDArray[np.floating]]) -> float:
    """The slope of the student's motion over the teacher's, each about its own mean: 1 = as far, 0 = not at all.

    Args:
        series: arrays [T, 2, 2, …]: student and teacher, each by two groups of views; the motion about its own mean
            counts of each. What one group finds is only held against what the other does.

    Returns:
        NaN where the teacher hardly moves.
    """
    own = theirs = 0.0
    count = 0
    for values in series:
        if len(values) > 1:
            (mine, mine_again), (taught, taught_again) = np.moveaxis(values - values.mean(0, keepdims=True), 0, 2)
            own += float((mine * taught_again + mine_again * taught).sum()) / 2
            theirs += float((taught * taught_again).sum())
            count += taught.size
    return own / theirs if count and theirs > STILL**2 * count else float("nan")
