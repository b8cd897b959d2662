"""A person φ draws: all of a student that depends on one face, apart from the network that draws it.

    source points ─▶ pose: shift, turn and size of the head, in closed form
    offsets from them ─┬─▶ follow: the motion of all cells, each with the points it hangs on
                       └─▶ express ─▶ maps that tell the network where what moves
    layer (RGBA), canvas: pictures;  F_2D: what the teacher's appearance volume was pressed to
    regions: pictures of mouth and eyes (training/student/regions.py)

A phone that is to show somebody else swaps these; several people can share one network (training/student/network.py).
Letters: N batch, C channels, H W pixels, K keypoints, M local landmarks.
"""

import math
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from edge.spec import FIELD, KEYPOINTS, LOCAL_LANDMARKS, NETWORK
from edge.topology import LOCAL
from training.config import StudentConfig
from training.student.blocks import over, warp
from training.student.regions import Places, Regions
from training.teachers import Identity

HEATMAP = 32
"""Width and height of a heat-map, in cells."""
EXPRESSION_CODES = 16
"""Numbers that carry the points' offsets to maps of the person."""
SIGMA = 0.1
"""Width of a heat-map's bell, in crop coordinates (the crop is 2 wide)."""
POINTS = KEYPOINTS + LOCAL_LANDMARKS
ANCHORS = ((-1.0, -1.0), (1.0, -1.0), (0.0, 1.0))
"""Points of the frame that stay where they are: shoulders hang on them more than on the head. Three give every
affine motion of the frame against the head."""
NEAREST = KEYPOINTS + LOCAL.tolist().index(4)
"""The point nearest to the viewer: the nose's tip."""
ROUNDS, STRETCHES = 8, (0.6, 2.8)
"""Times that a cell looks again where it came from, and how many times as long as in the photo parts of a face get."""


class Window(NamedTuple):
    """A square part of the frame, in pixels; multiples of 8, the size of a cell of the features."""

    top: int
    left: int
    size: int

    def of(self, maps: torch.Tensor) -> torch.Tensor:
        """This part of maps [N, C, S, S] that show the whole frame at any size."""
        cell = NETWORK // maps.shape[-1]
        top, left, size = self.top // cell, self.left // cell, self.size // cell
        return maps[..., top : top + size, left : left + size]


def identity_grid(size: int) -> torch.Tensor:
    """The field that moves nothing: float32 [1, size, size, 2], (x, y) in -1..1."""
    axis = torch.linspace(-1, 1, size)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([x, y], -1)[None]


def enlarge(field: torch.Tensor, window: Window | None = None) -> torch.Tensor:
    """A field [N, 64, 64, 2] at 512 px, or a window of it: [N, S, S, 2]; an identity field stays one.

    Bilinear, corner cells on corner pixels. A window is two products with rows of the weights that interpolate: the
    rest of the frame is not enlarged to be thrown away.
    """
    cells = field.permute(0, 3, 1, 2)
    if window is None:
        pixels = F.interpolate(cells, size=(NETWORK, NETWORK), mode="bilinear", align_corners=True)
    else:
        weights = _pixels_from_cells(field.device)
        down, across = (weights[start : start + window.size] for start in (window.top, window.left))
        pixels = down @ cells @ across.T
    return pixels.permute(0, 2, 3, 1)


@cache
def _pixels_from_cells(device: torch.device) -> torch.Tensor:
    """What each pixel takes of each cell along one axis: [512, 64]."""
    cells = torch.eye(FIELD, device=device)[None]
    return F.interpolate(cells, size=NETWORK, mode="linear", align_corners=True)[0].T


def heatmaps(points: torch.Tensor, axis: torch.Tensor) -> torch.Tensor:
    """A bell at each point: points [N, P, 2], axis [S] of cell centres → [N, P, S, S] in 0..1 (row y, column x)."""
    x = torch.exp((axis - points[:, :, 0:1]).square() * (-0.5 / SIGMA**2))
    y = torch.exp((axis - points[:, :, 1:2]).square() * (-0.5 / SIGMA**2))
    return y.unsqueeze(3) * x.unsqueeze(2)


class Code(NamedTuple):
    """Driving points taken apart into the head's pose and what is left, as this person's network hears them."""

    points: torch.Tensor
    """Driving keypoints and local landmarks: [N, K + M, 2]."""
    heat: torch.Tensor
    """Heat-maps of the points in the source's frame, less the source's own: [N, K + M, 32, 32]."""
    offsets: torch.Tensor
    """The points' distance from the source's, in the source's frame: [N, K + M, 2]."""
    place: torch.Tensor
    """Learned maps of the expression, where it matters: [N, C, 32, 32]."""
    asked: torch.Tensor
    """What the regions hear of all that: [N, inputs]."""
    base: torch.Tensor
    """Where each cell of the driving frame came from, in the source's frame, beside `turned`: [N, 2, 64, 64]."""
    turned: torch.Tensor
    """The field of the pose alone: cells of the driving frame in the source's frame, [N, 64, 64, 2]."""


class Pose(nn.Module):
    """Driving coordinates → source coordinates: the similarity that fits the keypoints best (Umeyama 1991, in 2-D).

    Everything but one division is linear in the driving keypoints, because the source's are constants.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(1, 1, 2))
        self.register_buffer("fit", torch.zeros(2 * KEYPOINTS, 2))
        ones = torch.eye(2).repeat(KEYPOINTS, 1)
        self.register_buffer("mean", ones / KEYPOINTS, persistent=False)
        self.register_buffer("centring", torch.eye(2 * KEYPOINTS) - ones @ ones.T / KEYPOINTS, persistent=False)
        self.register_buffer("total", torch.ones(2 * KEYPOINTS, 1), persistent=False)

    @torch.no_grad()
    def bind(self, source_keypoints: torch.Tensor) -> None:
        """Store the source's keypoints [1, K, 2]."""
        self.centre.copy_(source_keypoints.mean(1, keepdim=True))
        x, y = (source_keypoints - self.centre)[0].unbind(-1)
        turn = torch.stack([torch.stack([x, y], -1), torch.stack([y, -x], -1)], -1)
        self.fit.copy_(turn.flatten(0, 1))

    def forward(self, keypoints: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Driving keypoints [N, K, 2] → their centre [N, 1, 2] and the matrix [N, 2, 2] that turns rows."""
        flat = keypoints.flatten(1)
        spread = torch.matmul(torch.matmul(flat, self.centring).square(), self.total)
        turn = torch.matmul(flat, self.fit) / spread
        cosine, sine = turn[:, 0:1], turn[:, 1:2]
        matrix = torch.cat([cosine, sine, -sine, cosine], 1).reshape(-1, 2, 2)
        return torch.matmul(flat, self.mean).unsqueeze(1), matrix

    def align(self, points: torch.Tensor, pose: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Points [N or 1, P, 2] of the driving frame in the source's frame: [N, P, 2]."""
        driving_centre, matrix = pose
        return torch.bmm(points - driving_centre, matrix) + self.centre


class Person(nn.Module):
    """What a student knows of one face: where its points are, how it moves, what it looks like.

    `bind` takes it from the teacher's identity; `training.student.closed_form` finds what follows what, and better
    starts of pictures and codes; distillation finds the rest.
    """

    source_points: torch.Tensor
    """Keypoints and local landmarks of the photo: [1, K + M, 2]."""
    source_heat: torch.Tensor
    """Their heat-maps."""
    appearance_features: torch.Tensor
    """F_2D: [1, C, 64, 64]."""
    axis: torch.Tensor
    cells: torch.Tensor
    grid: torch.Tensor
    anchors: torch.Tensor

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        self.config = config
        self.pose = Pose()
        # How much each cell of the photo follows each point, for both axes alike: linear blend skinning. A rigid head
        # and a face between its landmarks move just so, in poses that no track has shown, too.
        self.follow = nn.Linear(POINTS + len(ANCHORS), FIELD * FIELD, bias=False)
        # A heat-map says roughly where a point is, and a lid that falls by eight pixels hardly changes it. So the
        # offsets also go straight to where they matter: through a handful of codes to learned maps.
        self.express = nn.Linear(2 * POINTS, EXPRESSION_CODES)
        self.place = nn.Linear(EXPRESSION_CODES, config.motion_channels * HEATMAP * HEATMAP)
        self.regions = Regions(config.fine_channels, 2 * POINTS + 2 * KEYPOINTS)
        self.layer = nn.Parameter(torch.zeros(1, 4, NETWORK, NETWORK))
        self.canvas = nn.Parameter(torch.zeros(1, 3, NETWORK, NETWORK))
        nn.init.normal_(self.follow.weight, std=1e-3)
        nn.init.zeros_(self.express.bias)
        nn.init.normal_(self.place.weight, std=0.1)
        nn.init.zeros_(self.place.bias)

        self.register_buffer("source_points", torch.zeros(1, POINTS, 2))
        self.register_buffer("source_heat", torch.zeros(1, POINTS, HEATMAP, HEATMAP))
        self.register_buffer("appearance_features", torch.zeros(1, config.feature_channels, FIELD, FIELD))
        self.register_buffer("axis", torch.linspace(-1, 1, HEATMAP), persistent=False)
        self.register_buffer("cells", torch.linspace(-1, 1, FIELD), persistent=False)
        self.register_buffer("grid", identity_grid(FIELD).flatten(1, 2), persistent=False)
        self.register_buffer("anchors", torch.tensor(ANCHORS)[None], persistent=False)

    @torch.no_grad()
    def bind(self, identity: Identity) -> "Person":
        """Store photo, source keypoints and landmarks; layer and canvas start as the photo. Returns itself."""
        local = identity.source_landmarks[torch.from_numpy(LOCAL), :2]
        points = torch.cat([identity.keypoints[:, :2], local])[None].to(self.canvas)
        self.canvas.copy_(identity.source_image[None])
        self.layer.copy_(torch.cat([self.canvas, torch.ones_like(self.canvas[:, :1])], 1))
        self.source_points.copy_(points)
        self.pose.bind(points[:, :KEYPOINTS])
        self.source_heat.copy_(heatmaps(points, self.axis))
        self.regions.bind(points, identity.keypoints[:, 2], identity.source_landmarks)
        return self

    def offsets(self, points: torch.Tensor) -> torch.Tensor:
        """How far points [N, K + M, 2] are from the source's, in the source's frame: same shape."""
        return self.pose.align(points, self.pose(points[:, :KEYPOINTS])) - self.source_points

    def asked(self, points: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        """What the regions hear of points [N, K + M, 2]: their offsets, and where the keypoints stand, [N, inputs]."""
        posed = (points - self.source_points)[:, :KEYPOINTS]
        return torch.cat([offsets.flatten(1), posed.flatten(1)], 1)

    def code(self, keypoints: torch.Tensor, local_landmarks: torch.Tensor) -> Code:
        """Driving keypoints [N, K, 2] and local landmarks [N, M, 2] taken apart into pose and expression."""
        points = torch.cat([keypoints, local_landmarks], 1)
        pose = self.pose(keypoints)
        aligned = self.pose.align(points, pose)
        offsets = aligned - self.source_points
        turned = self.pose.align(self.grid, pose).reshape(-1, FIELD, FIELD, 2)
        base = self.came_from(self.pulls(offsets, pose), turned, aligned)
        # The bias tells each cell where it is: the person, and so the meaning of a cell, never changes.
        place = self.place(self.express(offsets.flatten(1))).reshape(-1, self.config.motion_channels, HEATMAP, HEATMAP)
        heat = heatmaps(aligned, self.axis) - self.source_heat
        return Code(points, heat, offsets, place, self.asked(points, offsets), base, turned)

    def pulls(self, offsets: torch.Tensor, pose: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """What `follow` hears: how far points [N, K + M, 2] and anchors have to go to be back, [N, 2, K + M + A]."""
        anchors = self.pose.align(self.anchors, pose) - self.anchors
        return -torch.cat([offsets, anchors], 1).transpose(1, 2)

    def came_from(self, pulls: torch.Tensor, turned: torch.Tensor, aligned: torch.Tensor) -> torch.Tensor:
        """Where cells of the driving frame came from in the source's, beside `turned` [N, 64, 64, 2].

        `follow` knows where a cell of the *photo* has gone, and so which way back. A cell of the frame first asks what
        now lies beneath it, goes that way, and asks again there. A head that turns folds: a cell may have come from the
        nose or from the cheek behind it. So cells around the nose's tip, which is at `aligned` [N, K + M, 2], first go
        as it does, which ends at what lies nearer. And what a round finds is taken in part only, or it would leap to
        and fro between both sides of a nose (Chebyshev's steps).
        """
        back = self.follow(pulls).reshape(-1, 2, FIELD, FIELD)
        found, tip = warp(back, turned), slice(NEAREST, NEAREST + 1)
        found = found + (pulls[:, :, tip].unsqueeze(3) - found) * heatmaps(aligned[:, tip], self.cells)
        for share in _chebyshev(ROUNDS, *STRETCHES):
            found = found + (warp(back, turned + found.permute(0, 2, 3, 1)) - found) * share
        return found

    def draft(self, field: torch.Tensor, window: Window | None = None) -> torch.Tensor:
        """The layer, moved, over the canvas: field [N, 64, 64, 2] → [N, 3, 512, 512], or a window of it."""
        field = enlarge(field, window)
        canvas = window.of(self.canvas) if window else self.canvas
        if self.training:
            # The layer's photo is not learned: told apart, the two warps take a third of the time of one.
            moved, matte = warp(self.layer[:, 0:3].detach(), field), warp(self.layer[:, 3:4], field)
        else:
            warped = warp(self.layer, field)
            moved, matte = warped[:, 0:3], warped[:, 3:4]
        return canvas + (moved - canvas) * matte

    def closeups(self, points: torch.Tensor, asked: torch.Tensor) -> tuple[torch.Tensor, Places]:
        """The pictures of mouth and eyes [N, 4, h, w] (`Regions.forward`), and where they lie in the frame."""
        places = self.regions.places(points)
        return self.regions(points, asked, places), places

    def lay(
        self, frame: torch.Tensor, atlas: torch.Tensor, places: Places, window: Window | None = None
    ) -> torch.Tensor:
        """A frame [N, 3, 512, 512], or a window of it, with mouth and eyes over it."""
        closeups, (top, left, height, width) = self.regions.over(atlas, places)
        if window:
            closeups = F.pad(closeups, (left, NETWORK - left - width, top, NETWORK - top - height))
            return over(window.of(closeups), frame)
        # Only a part of the frame is read, so only a part is computed with; the rest is put around it.
        above, rows, below = _cut(frame, 2, top, height)
        before, part, after = _cut(rows, 3, left, width)
        return _joined([above, _joined([before, over(closeups, part), after], 3), below], 2)


def _chebyshev(count: int, low: float, high: float) -> list[float]:
    """Steps that end soonest where a step of one takes `low` to `high` times the error away (Richardson)."""
    middle, half = (high + low) / 2, (high - low) / 2
    return [1 / (middle + half * math.cos(math.pi * (number + 0.5) / count)) for number in range(count)]


def _cut(maps: torch.Tensor, axis: int, start: int, size: int) -> list[torch.Tensor]:
    """Maps before, from and after a part of an axis; what is whole stays as it is, and no slice of the graph."""
    sizes = [start, size, maps.shape[axis] - start - size]
    if size == maps.shape[axis]:
        return [maps.narrow(axis, 0, 0), maps, maps.narrow(axis, 0, 0)]
    return [maps.narrow(axis, sum(sizes[:index]), sizes[index]) for index in range(3)]


def _joined(parts: list[torch.Tensor], axis: int) -> torch.Tensor:
    """Parts that hold anything, joined."""
    parts = [part for part in parts if part.numel()]
    return parts[0] if len(parts) == 1 else torch.cat(parts, axis)
