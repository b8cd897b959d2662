"""The teacher's losses, one pure function a term, in the order of Eq. 1 (paper Sec. 3.4).

Weights are in `TeacherLossWeights`; L_R is that of training/student/losses.py.
Frames: float32 [N, 3, S, S] in 0..1. Letters: N batch, K keypoints.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F

from edge.topology import LOCAL
from training.measures.evaluators import read_box
from training.phi.augment import Transform
from training.phi.discriminator import Judgement
from training.student.losses import LEFT_EYE, LIPS, RIGHT_EYE, Features

NEAREST = 0.1
"""Distance in crop coordinates under which two keypoints are too near (the paper names no value)."""
CROPS = 4
"""Crops of eyes and mouth are compared at this part of the frame's size, and at 32 pixels at least."""
CROP_MARGIN = 0.35
"""Of a crop's box on each side, in its longer sides."""


def perceptual_loss(features: Features, made: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """L_P: mean absolute difference of each feature map, summed over depths and scales, as FOMM and face-vid2vid do.

    The λ of 10 belongs to that sum. Averaged over the 15 maps of VGG-19 it is 15 times weaker, and Φ stays soft
    (docs/log.md).
    """
    with torch.no_grad():
        aims = features(wanted)
    return torch.stack([F.l1_loss(mine, aim) for mine, aim in zip(features(made), aims, strict=True)]).sum()


def gan_loss(made: Sequence[Judgement], real: Sequence[Judgement] | None = None) -> torch.Tensor:
    """L_G: made frames should be judged 1 (least squares), and with `real` look the same to every layer of the judge.

    Both are means over scales; features are compared by mean absolute difference (feature matching).
    """
    loss = torch.stack([(judgement.realness - 1).square().mean() for judgement in made]).mean()
    if real is None:
        return loss
    pairs = [
        pair
        for mine, theirs in zip(made, real, strict=True)
        for pair in zip(mine.features, theirs.features, strict=True)
    ]
    return loss + torch.stack([F.l1_loss(mine.float(), theirs.detach().float()) for mine, theirs in pairs]).mean()


def discriminator_loss(made: Sequence[Judgement], real: Sequence[Judgement]) -> torch.Tensor:
    """The judge's side of the least-squares game: 1 for real frames, 0 for made ones."""
    scales = [
        (yes.realness - 1).square().mean() + no.realness.square().mean() for no, yes in zip(made, real, strict=True)
    ]
    return torch.stack(scales).mean() / 2


def keypoint_loss(points: torch.Tensor, *, nearest: float = NEAREST) -> torch.Tensor:
    """L_K: for each keypoint, how far others reach into `nearest`, summed; mean over keypoints. Points [N, K, 3]."""
    distance = (points[:, :, None] - points[:, None]).square().sum(-1).clamp(min=1e-12).sqrt()
    itself = torch.eye(points.shape[1], device=points.device, dtype=torch.bool)
    return F.relu(nearest - distance).masked_fill(itself, 0).sum(-1).mean()


def expression_loss(expression: torch.Tensor) -> torch.Tensor:
    """L_Exp: mean absolute value of δ [N, K, 3]."""
    return expression.abs().mean()


def head_pose_loss(made: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """L_H: mean absolute difference of yaw, pitch and roll [N, 3], in degrees."""
    return (made - wanted).abs().mean()


def equivariance_loss(points: torch.Tensor, transformed: torch.Tensor, transform: Transform) -> torch.Tensor:
    """L_Equ: keypoints of I_s against those of T(I_s) taken back through T; both [N, K, 2 or 3], x and y compared."""
    return (points[..., :2] - transform.points(transformed[..., :2])).abs().mean()


def _local_boxes(local_landmarks: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Squares around both eyes and the mouth: centre [N, 2] and half a side [N, 1] of each, crop coordinates."""
    boxes = []
    for rows in (RIGHT_EYE, LEFT_EYE, LIPS):
        points = local_landmarks[:, rows, :2]
        low, high = points.amin(1), points.amax(1)
        boxes.append(((low + high) / 2, (high - low).amax(1, keepdim=True) * (0.5 + CROP_MARGIN)))
    return boxes


def local_crops(frames: torch.Tensor, local_landmarks: torch.Tensor) -> torch.Tensor:
    """Both eyes and the mouth of each frame: float32 [3 N, 3, S / 4, S / 4].

    Args:
        frames: float32 [N, 3, S, S].
        local_landmarks: float32 [N, M, 2], of the driving frame.
    """
    size = max(32, frames.shape[-1] // CROPS)
    boxes = _local_boxes(local_landmarks)
    return torch.cat([read_box(frames, centre, half.expand(-1, 2), size) for centre, half in boxes])


def local_share(local_landmarks: torch.Tensor) -> torch.Tensor:
    """The part of a frame that `local_crops` shows: [3 N], in the same order."""
    return torch.cat([half[:, 0].square() for _, half in _local_boxes(local_landmarks)]).clamp(max=1)


def local_loss(
    maps: Features,
    frames: torch.Tensor,
    driving: torch.Tensor,
    local_landmarks: torch.Tensor,
    *,
    landmarks_made: torch.Tensor,
    landmarks_wanted: torch.Tensor,
) -> torch.Tensor:
    """L_L: perceptual loss on crops of eyes and mouth, each by its share of the frame, and distance of local landmarks.

    By its share, so that λ_L says how much more a pixel of an eye counts than λ_P lets any pixel count.

    Args:
        maps: the perceptual network.
        frames: y.
        driving: I_d.
        local_landmarks: float32 [N, M, 2], where the crops lie.
        landmarks_made: float32 [N, 478, 3], found in y by a differentiable network.
        landmarks_wanted: the same of I_d.
    """
    share = local_share(local_landmarks)
    with torch.no_grad():
        wanted = maps(local_crops(driving, local_landmarks))
    made = maps(local_crops(frames, local_landmarks))
    each = [(mine - theirs).abs().flatten(1).mean(1) for mine, theirs in zip(made, wanted, strict=True)]
    seen = (torch.stack(each).mean(0) * share).sum() / len(frames)
    rows = torch.from_numpy(LOCAL).to(landmarks_made.device)
    return seen + (landmarks_made - landmarks_wanted)[:, rows, :2].abs().mean()


class TeacherTerms(NamedTuple):
    """The terms of Eq. 1, each a scalar, unweighted; named as the weights."""

    perceptual: torch.Tensor
    gan: torch.Tensor
    keypoint: torch.Tensor
    expression: torch.Tensor
    head_pose: torch.Tensor
    equivariance: torch.Tensor
    reconstruction: torch.Tensor
    local: torch.Tensor
