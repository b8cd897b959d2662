"""The student's losses, one pure function a term (paper Sec. 3.2). Frames: float32 [N, 3, 512, 512] in 0..1.

The paper weighs perceptual 10, GAN 10, head pose 10, reconstruction 1 and local 100, where its local term compares
*features* of the crops. Ours compares pixels, the mean over each eye's and the mouth's box, so that λ_L means the same
whether a face is small or fills the frame: how much a box counts against the whole frame. `DistilConfig.weights` has
what was found here (docs/log.md).
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from edge import topology as topo
from edge.spec import NETWORK
from training.config import LossWeights
from training.student.network import Motion
from training.student.person import Window
from training.teachers import Discriminator


def _rows(*landmarks: Iterable[int]) -> torch.Tensor:
    """Rows of the local landmarks (edge.topology.LOCAL) that are among these."""
    return torch.from_numpy(np.flatnonzero(np.isin(topo.LOCAL, np.concatenate(landmarks))))


RIGHT_EYE = _rows([topo.RIGHT_EYE_OUTER, topo.RIGHT_EYE_INNER], topo.RIGHT_UPPER_LID, topo.RIGHT_LOWER_LID)
LEFT_EYE = _rows([topo.LEFT_EYE_OUTER, topo.LEFT_EYE_INNER], topo.LEFT_UPPER_LID, topo.LEFT_LOWER_LID)
LIPS = _rows([topo.RIGHT_MOUTH_CORNER, topo.LEFT_MOUTH_CORNER], topo.OUTER_UPPER_LIP, topo.OUTER_LOWER_LIP)

Features = Callable[[torch.Tensor], Sequence[torch.Tensor]]
"""Frames in, feature maps of several depths out: the perceptual network, where one is at hand."""
HeadPose = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Whole frames and landmarks in, yaw, pitch and roll in degrees [N, 3] out, where such a network is at hand."""


class Terms(NamedTuple):
    """The student's loss and its terms, each a scalar, unweighted."""

    total: torch.Tensor
    reconstruction: torch.Tensor
    multi_scale: torch.Tensor
    local: torch.Tensor
    sharpness: torch.Tensor
    perceptual: torch.Tensor
    gan: torch.Tensor
    head_pose: torch.Tensor


def box_around(points: torch.Tensor, size: int, *, margin: float = 0.35) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and columns of a box around points [N, P, 2]: bool [N, size] each.

    Grown by `margin` of its longer side on all sides.
    """
    axis = torch.linspace(-1, 1, size, device=points.device)
    low, high = points.amin(1), points.amax(1)
    grow = margin * (high - low).amax(1, keepdim=True)
    low, high = low - grow, high + grow
    across, down = ((axis >= low[:, at : at + 1]) & (axis <= high[:, at : at + 1]) for at in (0, 1))
    return down, across


def local_boxes(
    local_landmarks: torch.Tensor, size: int, *, margin: float = 0.35, window: Window | None = None
) -> torch.Tensor:
    """What each pixel counts in the local term: local landmarks [N, M, 2] → [N, 1, size, size], sum 1 a frame.

    Boxes around both eyes and the mouth have a third each, spread evenly; each is grown by `margin` of its longer
    side on all sides. A box that lies outside the frame counts nothing. With a window of `size` pixels, that part.
    """
    rows, columns = slice(None), slice(None)
    if window:
        rows, columns = (slice(start, start + window.size) for start in (window.top, window.left))
    parts = (RIGHT_EYE, LEFT_EYE, LIPS)
    counts = torch.zeros((), device=local_landmarks.device)
    for part in parts:
        down, across = (inside.float() for inside in box_around(local_landmarks[:, part], size, margin=margin))
        area = (down.sum(1) * across.sum(1)).clamp(min=1).view(-1, 1)
        counts = counts + (down / (len(parts) * area))[:, rows, None] * across[:, None, columns]
    return counts[:, None]


def reconstruction_loss(frames: torch.Tensor, teacher_frames: torch.Tensor) -> torch.Tensor:
    """L_R: mean absolute difference."""
    return F.l1_loss(frames, teacher_frames)


def multi_scale_loss(frames: torch.Tensor, teacher_frames: torch.Tensor, *, levels: int = 3) -> torch.Tensor:
    """L_R on pictures shrunk by 4, 8, 16: broad mistakes of shade and place count beyond their pixels."""
    difference = F.avg_pool2d(frames - teacher_frames, 4)
    total = difference.abs().mean()
    for _ in range(levels - 1):
        difference = F.avg_pool2d(difference, 2)
        total = total + difference.abs().mean()
    return total / levels


def local_loss(frames: torch.Tensor, teacher_frames: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """L_L: difference inside the eye and mouth boxes, |d| + 5 d², with what each pixel counts [N, 1, H, W].

    The absolute difference alone asks for the median, and the median eye is open: the square makes a blink count.
    """
    difference = frames - teacher_frames
    return ((difference.abs() + 5 * difference.square()) * boxes).sum((2, 3)).mean()


def sharpness_loss(frames: torch.Tensor, teacher_frames: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of horizontal and vertical pixel steps: edges and skin as crisp as the teacher's."""
    difference = frames - teacher_frames
    across = (difference[..., 1:] - difference[..., :-1]).abs().mean()
    down = (difference[..., 1:, :] - difference[..., :-1, :]).abs().mean()
    return across + down


def closeup_loss(made: torch.Tensor, wanted: torch.Tensor, window: torch.Tensor) -> torch.Tensor:
    """Close-ups of mouth and eyes [N, 3, h, w]: |d| + 5 d² four times, as the local term, and pixel steps.

    Pixels count as they show: `window` [1, 1, h, w] fades towards the regions' sides.
    """
    difference = made - wanted
    pixels = (difference.abs() + 5 * difference.square()) * (0.3 + 0.7 * window)
    return 4 * pixels.mean() + sharpness_loss(made, wanted)


def perceptual_loss(features: Features, frames: torch.Tensor, teacher_frames: torch.Tensor) -> torch.Tensor:
    """L_P: mean absolute difference of feature maps, averaged over depths."""
    with torch.no_grad():
        wanted = features(teacher_frames)
    pairs = zip(features(frames), wanted, strict=True)
    return torch.stack([F.l1_loss(mine, theirs) for mine, theirs in pairs]).mean()


def gan_loss(discriminator: Discriminator, frames: torch.Tensor, teacher_frames: torch.Tensor) -> torch.Tensor:
    """L_G: the delivered discriminator should find a frame as real as the teacher's, patch by patch (least squares).

    Not real without limit: a discriminator that no longer learns is fooled by patterns that no eye takes for skin.
    """
    with torch.no_grad():
        wanted = discriminator(teacher_frames)
    return (discriminator(frames) - wanted).square().mean()


def head_pose_loss(
    head_pose: HeadPose, frames: torch.Tensor, teacher_frames: torch.Tensor, local_landmarks: torch.Tensor
) -> torch.Tensor:
    """L_H: mean absolute difference of the pose seen in whole frames, in degrees."""
    with torch.no_grad():
        wanted = head_pose(teacher_frames, local_landmarks)
    return (head_pose(frames, local_landmarks) - wanted).abs().mean()


def motion_loss(motion: Motion, field: torch.Tensor, occlusion: torch.Tensor, moving: torch.Tensor) -> torch.Tensor:
    """Delivered motion, in pixels of the frame.

    Args:
        motion: the student's.
        field: float32 [N, 64, 64, 2], the teacher's, extended over cells at rest (`extend_field`).
        occlusion: float32 [N, 1, 64, 64], the teacher's.
        moving: float32 [N, 64, 64, 1]; cells that move count twenty times as much as the others.
    """
    distance = (motion.field - field).abs().sum(-1, keepdim=True)
    seen = F.binary_cross_entropy(motion.occlusion.clamp(1e-4, 1 - 1e-4), occlusion)
    return NETWORK / 2 * (distance * (0.05 + 0.95 * moving)).mean() + 0.5 * seen


def student_loss(
    frames: torch.Tensor,
    teacher_frames: torch.Tensor,
    local_landmarks: torch.Tensor,
    weights: LossWeights,
    *,
    window: Window | None = None,
    perceptual: Features | None = None,
    discriminator: Discriminator | None = None,
    head_pose: HeadPose | None = None,
) -> Terms:
    """All terms of a batch; those that need a network are zero where none is given.

    With a window, both `frames` and `teacher_frames` show that part alone, and no head pose is compared.
    """
    boxes = local_boxes(local_landmarks, NETWORK, window=window)
    none = frames.new_zeros(())
    reconstruction = reconstruction_loss(frames, teacher_frames)
    multi_scale = multi_scale_loss(frames, teacher_frames)
    local = local_loss(frames, teacher_frames, boxes)
    sharpness = sharpness_loss(frames, teacher_frames)
    seen = perceptual_loss(perceptual, frames, teacher_frames) if perceptual else none
    real = gan_loss(discriminator, frames, teacher_frames) if discriminator else none
    turned = head_pose_loss(head_pose, frames, teacher_frames, local_landmarks) if head_pose and not window else none
    total = (
        weights.reconstruction * (reconstruction + multi_scale)
        + weights.local * local
        + weights.sharpness * sharpness
        + weights.perceptual * seen
        + weights.gan * real
        + weights.head_pose * turned
    )
    return Terms(total, reconstruction, multi_scale, local, sharpness, seen, real, turned)
