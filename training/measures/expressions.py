"""How much of an expression a student draws: its mouth and eyes beside the teacher's, at several head poses.

Parity compares a student with itself, and most of a frame is background: a student that paints nothing passes both.
So what is compared here is a *change*, inside a box around the mouth or an eye: frame with the expression less frame
at rest, both at the same head pose, the student's own against the teacher's own.

    drawn      1 - |made - wanted|² / |wanted|²     1 = all of it, 0 = nothing, or as much wrong as right
    followed   <made, wanted> / |wanted|²           1 = as strong as the teacher's, whatever else is drawn beside it

A lid in shreds follows well and draws badly. No pose here is one of the training track's.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from edge.bundle import ExpressionRow
from edge.driving.procedural import Controls, pose_face
from edge.spec import NETWORK
from edge.topology import LOCAL
from training.student.losses import LEFT_EYE, LIPS, RIGHT_EYE, box_around
from training.teachers import Identity, Teacher

Part = Literal["mouth", "eyes"]
BOXES: dict[Part, tuple[torch.Tensor, ...]] = {"mouth": (LIPS,), "eyes": (RIGHT_EYE, LEFT_EYE)}
"""Rows of the local landmarks that each box of a part is drawn around."""


class Expression(NamedTuple):
    """One thing a face does."""

    part: Part
    floor: float
    """Least that must be drawn of it, as the mean over head poses; below it there is no bundle."""
    controls: dict[str, float]


NO_FLOOR = -1.0
"""Measured, and not yet asked for: most students hardly follow a glance (docs/benchmarks.md)."""

# Floors lie a tenth below the least that any of 26 portraits reached at the default budget (docs/benchmarks.md).
EXPRESSIONS = {
    "wide open": Expression("mouth", 0.65, {"jaw_open": 0.9, "lower_lip_down": 0.3, "upper_lip_up": 0.2}),
    "ah": Expression("mouth", 0.65, {"jaw_open": 0.52, "stretch": 0.1, "lower_lip_down": 0.25, "upper_lip_up": 0.12}),
    "teeth": Expression("mouth", 0.35, {"smile": 1.0, "upper_lip_up": 0.5, "lower_lip_down": 0.5, "jaw_open": 0.08}),
    "blink": Expression("eyes", 0.65, {"blink_right": 1.0, "blink_left": 1.0}),
    "half lids": Expression("eyes", 0.55, {"blink_right": 0.5, "blink_left": 0.5}),
    "glance left": Expression("eyes", NO_FLOOR, {"gaze_x": -1.0}),
    "glance right": Expression("eyes", NO_FLOOR, {"gaze_x": 1.0}),
}
HEADS: tuple[dict[str, float], ...] = (
    {},
    {"yaw_deg": -18.0, "pitch_deg": 6.0, "roll_deg": 4.0},
    {"yaw_deg": 18.0, "pitch_deg": -6.0},
    {"yaw_deg": 6.0, "pitch_deg": 12.0, "roll_deg": -8.0},
)
"""Head poses at which each expression is drawn."""

TILE, TILE_HIGH, CAPTION = 160, 104, 24
"""Pixels of an enlarged mouth or pair of eyes, and of the line above them."""

Draw = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Keypoints [1, K, 2] and local landmarks [1, M, 2] in, a frame [1, 3, 512, 512] in 0..1 out: a student."""


class Lesson(NamedTuple):
    """What a teacher draws of all expressions at all head poses: of each pose first the face at rest."""

    frames: torch.Tensor
    """uint8 [H, 1 + E, 3, 512, 512]."""
    keypoints: torch.Tensor
    """float32 [H, 1 + E, K, 2]."""
    local_landmarks: torch.Tensor
    """float32 [H, 1 + E, M, 2]."""


@torch.no_grad()
def teach(teacher: Teacher, identity: Identity) -> Lesson:
    """The teacher's frames of this person, to hold students against."""
    expressions = [{}, *(expression.controls for expression in EXPRESSIONS.values())]
    poses = [Controls.rest(1, **head, **face) for head in HEADS for face in expressions]
    controls = Controls(*(np.concatenate(column) for column in zip(*poses, strict=True)))
    landmarks = torch.from_numpy(pose_face(identity.source_landmarks.cpu().numpy(), controls))
    frames, keypoints = [], []
    for chunk in landmarks.split(len(expressions)):
        rendering = teacher.render(identity, chunk)
        frames.append((rendering.frames * 255).round().clamp(0, 255).byte().cpu())
        keypoints.append(rendering.keypoints[..., :2].cpu())
    local = landmarks[:, torch.from_numpy(LOCAL), :2].unflatten(0, (len(HEADS), -1))
    return Lesson(torch.stack(frames), torch.stack(keypoints).contiguous(), local.contiguous())


@torch.no_grad()
def draw_lesson(draw: Draw, lesson: Lesson) -> torch.Tensor:
    """The student's frames of a lesson: uint8, shaped as its frames."""
    made = [
        draw(keypoints[None], local[None])[0]
        for keypoints, local in zip(lesson.keypoints.flatten(0, 1), lesson.local_landmarks.flatten(0, 1), strict=True)
    ]
    return (torch.stack(made) * 255).round().clamp(0, 255).byte().view_as(lesson.frames)


def measure_expressions(made: torch.Tensor, lesson: Lesson) -> tuple[ExpressionRow, ...]:
    """How much of each expression was drawn, as means over head poses and boxes.

    Args:
        made: the student's frames, uint8, shaped as the lesson's (`draw_lesson`).
        lesson: the teacher's.
    """
    rows = []
    for at, (name, expression) in enumerate(EXPRESSIONS.items(), 1):
        drawn, followed = [], []
        for head in range(len(HEADS)):
            for points in BOXES[expression.part]:
                both = lesson.local_landmarks[head, [0, at]][:, points]
                down, across = (inside.any(0) for inside in box_around(both, NETWORK))
                wanted, found = (
                    frames[head, at][:, down][:, :, across].float() - frames[head, 0][:, down][:, :, across].float()
                    for frames in (lesson.frames, made)
                )
                energy = wanted.square().sum().clamp(min=1e-6)
                drawn.append(float(1 - (found - wanted).square().sum() / energy))
                followed.append(float((found * wanted).sum() / energy))
        rows.append(
            ExpressionRow(
                name, expression.part, math.fsum(drawn) / len(drawn), min(drawn),
                math.fsum(followed) / len(followed), expression.floor,
            )
        )  # fmt: skip
    return tuple(rows)


def shortfalls(rows: Sequence[ExpressionRow]) -> list[str]:
    """A sentence for each expression that is drawn below its floor."""
    return [
        f"{row.expression}: {100 * row.drawn:.0f} % of it drawn, {100 * row.floor:.0f} % required"
        for row in rows
        if not row.passed
    ]


def cut_closeup(
    picture: Image.Image, points: torch.Tensor, part: Part, *, wide: float, size: tuple[int, int]
) -> Image.Image:
    """Mouth or eyes of a picture, enlarged.

    Args:
        picture: a frame.
        points: float32 [M, 2], its local landmarks in pixels: the part's middle is the tile's.
        part: what to show.
        wide: pixels of the picture across the tile.
        size: the tile's width and height.
    """
    seen = points[torch.cat(BOXES[part])]
    middle_x, middle_y = ((seen.amax(0) + seen.amin(0)) / 2).tolist()
    high = wide * size[1] / size[0]
    box = (middle_x - wide / 2, middle_y - high / 2, middle_x + wide / 2, middle_y + high / 2)
    return picture.transform(size, Image.Transform.EXTENT, box, Image.Resampling.BICUBIC)


def draw_closeups(made: torch.Tensor, lesson: Lesson) -> np.ndarray:
    """A sheet of mouths and eyes, enlarged: a pair of rows a head pose, teacher above student.

    Args:
        made: the student's frames, uint8, shaped as the lesson's.
        lesson: the teacher's.

    Returns:
        uint8 [H, W, 3]: a caption, then a column for each part at rest and for each expression.
    """
    columns: list[tuple[str, int, Part]] = [("mouth", 0, "mouth"), ("eyes", 0, "eyes")]
    columns += [(name, at, face.part) for at, (name, face) in enumerate(EXPRESSIONS.items(), 1)]
    sheet = Image.new("RGB", (len(columns) * (TILE + 2), CAPTION + len(HEADS) * 2 * (TILE_HIGH + 2)), (32, 32, 32))
    write, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    eyes = torch.cat(BOXES["eyes"])
    for column, (name, at, part) in enumerate(columns):
        x = column * (TILE + 2) + 1
        write.text((x + 4, 4), name, font=font, fill=(220, 220, 220))
        for head in range(len(HEADS)):
            points = (lesson.local_landmarks[head] + 1) * ((NETWORK - 1) / 2)
            # Every tile of a head pose at one scale: a little more than the eyes are apart.
            wide = float(points[0, eyes, 0].amax() - points[0, eyes, 0].amin()) * 1.15
            for row, frames in enumerate((lesson.frames, made)):
                picture = Image.fromarray(frames[head, at].permute(1, 2, 0).numpy())
                tile = cut_closeup(picture, points[at], part, wide=wide, size=(TILE, TILE_HIGH))
                sheet.paste(tile, (x, CAPTION + (2 * head + row) * (TILE_HIGH + 2)))
    return np.asarray(sheet)
