"""A student's start, found in closed form from the teacher's rendered track: layers, and the basis of their motion.

The teacher's field jumps at the head's outline: inside it the photo moves, outside it rests. A coarse field cannot
place that jump, but a matte warped at full resolution can. So the field is extended beyond the outline as if the
whole plane moved with the head (`extend_field`), the matte says which source pixels move (`find_matte`), and
the canvas collects what is seen at rest (`find_canvas`). Where all of a teacher's picture moves, nothing rests and
all of this leaves the field as it is.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F

from edge.spec import FIELD, KEYPOINTS, NETWORK
from training.student.person import Person, identity_grid, warp

REST = 0.6 * 2 / (NETWORK - 1)
"""Displacement below which a cell rests: 0.6 pixels."""
RIDGE, NARROW = 1e-2, 2.0
"""Weight of the mixer's ridge, and how much narrower its bells are than the median distance of two poses.

Wider bells and a tenth of the ridge err 5 % less on unseen motion, with weights in the thousands that cancel: in fp16
they move the field by 2.5 pixels, these by 0.1 (docs/log.md)."""
MATTE = 128
"""Width and height of the matte's first estimate."""


def moving_cells(field: torch.Tensor, occlusion: torch.Tensor) -> torch.Tensor:
    """Cells that show the source somewhere else than where it was.

    Args:
        field: float32 [N, 64, 64, 2], the teacher's.
        occlusion: float32 [N, 1, 64, 64], 1 = visible in the source.

    Returns:
        float32 [N, 64, 64, 1] of 0 and 1.
    """
    away = (field - identity_grid(FIELD).to(field)).norm(dim=-1, keepdim=True) > REST
    return (away & (occlusion.permute(0, 2, 3, 1) > 0.5)).float()


def extend_field(field: torch.Tensor, moving: torch.Tensor) -> torch.Tensor:
    """The moving part's field [N, 64, 64, 2], carried on over resting and hidden cells.

    Far away it is the affine motion that fits the moving cells best (so that the plane outside the head stays
    outside); near them the difference from it fades over a few cells. `moving` is [N, 64, 64, 1]. Frames with fewer
    than 32 moving cells are returned as they are.
    """
    grid = identity_grid(FIELD).to(field)
    displacement = (field - grid).flatten(1, 2)
    places = torch.cat([grid, torch.ones_like(grid[..., :1])], -1).flatten(1, 2).expand(len(field), -1, -1)
    weight = moving.flatten(1, 2)
    gram = (places * weight).mT @ places + 1e-3 * torch.eye(3).to(field)
    affine = torch.linalg.solve(gram, (places * weight).mT @ displacement)
    far = (places @ affine).view_as(field)
    difference = (((field - grid) - far) * moving).permute(0, 3, 1, 2)
    known = moving.permute(0, 3, 1, 2)
    fade = known.clone()
    for _ in range(10):
        share = F.avg_pool2d(known, 3, 1, 1)
        spread = F.avg_pool2d(difference * known, 3, 1, 1) / share.clamp(min=1e-6)
        fresh = (share > 0).float() * (1 - known)
        difference = difference * known + spread * fresh
        fade = fade + fresh * 0.8 * F.max_pool2d(fade, 3, 1, 1)
        known = known + fresh
    extended = grid + far + (difference * fade).permute(0, 2, 3, 1)
    enough = (moving.flatten(1).sum(1) >= 32).view(-1, 1, 1, 1)
    return torch.where(enough, torch.where(moving > 0, field, extended), field)


def find_matte(field: torch.Tensor, moving: torch.Tensor) -> torch.Tensor:
    """Which source pixels belong to the moving layer: float32 [1, 1, 512, 512] in 0..1.

    A source pixel is moving if cells that move read it more often than cells at rest do. Only frames in which much
    has moved are asked; if there are none, everything is taken to move.
    """
    much = moving.flatten(1).sum(1) >= 32
    shift = (field - identity_grid(FIELD).to(field)).norm(dim=-1, keepdim=True)
    much &= (shift * moving).flatten(1).sum(1) / moving.flatten(1).sum(1).clamp(min=1) > 8 * REST
    if not much.any():
        return field.new_ones(1, 1, NETWORK, NETWORK)
    counts = field.new_zeros(2, MATTE * MATTE)
    for one, mask in zip(field[much].split(32), moving[much].split(32), strict=True):
        fine = F.interpolate(one.permute(0, 3, 1, 2), (MATTE, MATTE), mode="bilinear", align_corners=True)
        moves = F.interpolate(mask.permute(0, 3, 1, 2), (MATTE, MATTE), mode="nearest").flatten()
        x, y = ((fine + 1) * ((MATTE - 1) / 2)).round().clamp(0, MATTE - 1).long().unbind(1)
        still = (fine - identity_grid(MATTE).to(fine).permute(0, 3, 1, 2)).norm(dim=1).flatten() < REST
        place = (y * MATTE + x).flatten()
        counts[0].index_add_(0, place, moves)
        counts[1].index_add_(0, place, still.float() * (1 - moves))
    counts = F.avg_pool2d(counts.view(1, 2, MATTE, MATTE), 3, 1, 1)
    matte = counts[:, 0:1] / (counts.sum(1, keepdim=True) + 1e-3)
    return F.interpolate(matte, (NETWORK, NETWORK), mode="bilinear", align_corners=True).clamp(0, 1)


def find_inside(matte: torch.Tensor, reach: int = 16) -> torch.Tensor:
    """Where the layer must stay opaque: `reach` pixels and more inside the matte's outline, holes closed.

    A matte that may learn holes learns them along lips and lids, and a turned head shows the background through them.

    Args:
        matte: float32 [1, 1, 512, 512].
        reach: in pixels.

    Returns:
        bool, same shape.
    """
    size = 2 * reach + 1
    closed = F.max_pool2d(matte, size, 1, reach)
    return F.max_pool2d(1 - closed, 2 * size - 1, 1, size - 1) < 0.5


def find_canvas(frames: np.ndarray, moving: torch.Tensor, photo: torch.Tensor, *, count: int = 150) -> torch.Tensor:
    """What is seen where nothing moves: the mean of resting pixels over up to `count` frames, else of all pixels.

    Args:
        frames: uint8 [T, 3, 512, 512].
        moving: float32 [T, 64, 64, 1].
        photo: float32 [1, 3, 512, 512].
        count: frames to look at.

    Returns:
        float32 [1, 3, 512, 512].
    """
    total, weight, everything = (
        torch.zeros_like(photo),
        torch.zeros_like(photo[:, :1]),
        torch.zeros_like(photo),
    )
    rows = np.linspace(0, len(frames) - 1, min(count, len(frames))).astype(int)
    for row in rows:
        near = F.max_pool2d(moving[row].permute(2, 0, 1)[None], 3, 1, 1)
        rests = 1 - F.interpolate(near, (NETWORK, NETWORK), mode="bilinear", align_corners=True)
        frame = torch.from_numpy(np.array(frames[row])).to(photo)[None] / 255
        total += frame * rests
        weight += rests
        everything += frame
    seen = (weight / 3).clamp(max=1)
    return seen * total / weight.clamp(min=1e-3) + (1 - seen) * everything / len(rows)


def refine_layers(
    person: Person,
    frames: np.ndarray,
    field: torch.Tensor,
    inside: torch.Tensor,
    *,
    steps: int | None = None,
    batch: int = 3,
) -> None:
    """Matte and canvas sharpened to the pixel, with the teacher's own motion and nothing else in play.

    The outline is where most of a young student's error lies, and with the motion given it takes two warps a step
    to find it: seconds instead of minutes.

    Args:
        person: its `layer`'s matte and its `canvas` are set.
        frames: uint8 [T, 3, 512, 512], the teacher's.
        field: float32 [T, 64, 64, 2], extended.
        inside: bool [1, 1, 512, 512], where the matte is 1 (`find_inside`).
        steps: default: one for three frames, 200 at most.
        batch: frames a step.
    """
    steps = steps or min(200, max(1, len(frames) // 3))
    device = person.canvas.device
    photo = person.layer[:, :3].detach()
    inside = inside.to(device).float()
    matte = torch.maximum(person.layer[:, 3:].detach(), inside).requires_grad_()
    canvas = person.canvas.detach().clone().requires_grad_()
    # A large epsilon leaves pixels alone that hardly show.
    optimiser = torch.optim.Adam([matte, canvas], lr=0.03, betas=(0.8, 0.99), eps=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    choose = np.random.default_rng(0)
    for _ in range(steps):
        rows = choose.choice(len(frames), min(batch, len(frames)), replace=False)
        wanted = torch.from_numpy(np.array(frames[rows])).to(device).float() / 255
        grid = F.interpolate(
            field[rows].to(device).permute(0, 3, 1, 2), (NETWORK, NETWORK), mode="bilinear", align_corners=True
        ).permute(0, 2, 3, 1)
        shape = (len(rows), -1, -1, -1)
        moved = warp(photo.expand(shape), grid)
        made = canvas + warp(matte.expand(shape), grid) * (moved - canvas)
        optimiser.zero_grad(set_to_none=True)
        ((made - wanted).abs() + 2 * (made - wanted).square()).sum().backward()
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            matte.copy_(torch.maximum(matte.clamp(0, 1), inside))
            canvas.clamp_(0, 1)
    with torch.no_grad():
        person.layer[:, 3:] = matte
        person.canvas.copy_(canvas)


def fit_regions(person: Person, points: torch.Tensor, photo: torch.Tensor) -> None:
    """The regions' mean curves, and their pictures out of the photo.

    Args:
        person: bound; its `regions` are set.
        points: float32 [T, K + M, 2], driving keypoints and local landmarks.
        photo: float32 [1, 3, 512, 512].
    """
    keypoints, local = points[:, :KEYPOINTS], points[:, KEYPOINTS:]
    with torch.no_grad():
        offsets = person.pose.align(points, person.pose(keypoints)) - person.source_points
        person.regions.settle(keypoints, local, person.asked(points, offsets))
        person.regions.take_pictures(photo, person.source_points)


def fit_codes(person: Person, points: torch.Tensor) -> None:
    """Expression codes of unit spread: principal components of the points' offsets over the training track.

    Args:
        person: bound; its `express` is set.
        points: float32 [T, K + M, 2], driving keypoints and local landmarks.
    """
    express = person.express
    with torch.no_grad():
        offsets = (person.pose.align(points, person.pose(points[:, :KEYPOINTS])) - person.source_points).flatten(1)
        mean = offsets.mean(0)
        _, spread, axes = torch.linalg.svd(offsets - mean, full_matrices=False)
        count = min(len(express.weight), len(spread))
        # Components that hardly move would only amplify the landmarks' noise.
        spread = (spread / math.sqrt(len(offsets))).clamp(min=0.01 * float(spread[0]) / math.sqrt(len(offsets)) + 1e-6)
        express.weight.zero_()
        express.weight[:count] = axes[:count] / spread[:count, None]
        express.bias.copy_(-express.weight @ mean)


def fit_basis(
    person: Person,
    points: torch.Tensor,
    field: torch.Tensor,
    moving: torch.Tensor,
) -> None:
    """Basis fields, and the mixer that finds their shares from keypoints and landmarks, both in closed form.

    The basis is the principal components of what the pose leaves over, in the source's frame; cells that move often
    count most. The mixer is the kernel ridge regression of the components' coefficients.

    Args:
        person: bound; its `basis` and `mixer` are set.
        points: float32 [T, K + M, 2], driving keypoints and local landmarks.
        field: float32 [T, 64, 64, 2], extended.
        moving: float32 [T, 64, 64, 1].
    """
    with torch.no_grad():
        pose = person.pose(points[:, :KEYPOINTS])
        inputs = person.asked(points, person.pose.align(points, pose) - person.source_points)
        # Each cell of the source's frame asks the driving frame, at its posed place, where it was read from.
        driving_centre, matrix = pose
        asked = (person.grid - person.pose.centre) @ torch.linalg.inv(matrix) + driving_centre
        asked = asked.view(-1, FIELD, FIELD, 2)
        turned = person.pose.align(person.grid, pose).view(-1, FIELD, FIELD, 2)
        seen = warp(torch.cat([field - turned, moving], -1).permute(0, 3, 1, 2), asked)
        often = (seen[:, 2].mean(0) + 0.02).sqrt()[..., None].expand(FIELD, FIELD, 2).flatten()
        displacement = seen[:, :2].permute(0, 2, 3, 1).flatten(1)
    mean = displacement.mean(0)
    # T frames are fewer than 8192 numbers, so the eigenvectors of the T × T Gram matrix give the components.
    centred = ((displacement - mean) * often).double()
    values, vectors = torch.linalg.eigh(centred @ centred.T)
    size = min(person.config.code_size, len(field))
    values, vectors = values.flip(0)[:size].clamp(min=1e-9), vectors.flip(1)[:, :size]
    spread = (values / len(field)).sqrt()
    components = (vectors / values.sqrt()).T @ centred * spread[:, None]
    with torch.no_grad():
        person.basis.bias.copy_(mean)
        person.basis.weight.zero_()
        person.basis.weight[:, :size] = (components / often).T.float()
    wanted = vectors * math.sqrt(len(field))
    mixer = person.mixer
    with torch.no_grad():
        # Examples spread over the track are the bells' centres; unused ones lie where no pose comes.
        count = mixer.centres.shape[1]
        chosen = torch.linspace(0, len(inputs) - 1, min(count, len(inputs))).long()
        centres = inputs[chosen.to(inputs.device)]
        mixer.scale.fill_(NARROW / float(torch.cdist(centres, centres).median().clamp(min=1e-3)))
        mixer.centres.fill_(4.0).narrow(1, 0, len(centres)).copy_((centres * mixer.scale).T)
        mixer.square.copy_(mixer.centres.square().sum(0, keepdim=True))
        features = mixer.features(inputs).double()
        features = torch.cat([features, torch.ones_like(features[:, :1])], 1)
        # Ridge: the bells are held by their kernel matrix, the linear part by its size.
        hold = 10 * torch.eye(features.shape[1]).to(features)
        hold[:count, :count] = mixer.features(mixer.centres.T / mixer.scale)[:, :count].double()
        hold[:count, :count] += 1e-6 * torch.eye(count).to(hold)
        solution = torch.linalg.solve(features.T @ features + RIDGE * hold, features.T @ wanted)
        mixer.shares.weight.zero_()
        mixer.shares.bias.zero_()
        mixer.shares.weight[:size] = solution[:-1].T.float()
        mixer.shares.bias[:size] = solution[-1].float()
