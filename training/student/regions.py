"""Mouth and eyes in pictures of their own, laid over the frame: what people look at is a twentieth of its pixels.

A field of 64 × 64 cells cannot place a lid, and a generator that paints whole frames smears what it cannot place. So
each region has a small picture that lies still on the face: it is placed by corners of eyes and mouth, and inside it
curves through the landmarks of lids and lips say what is where, to a fraction of a pixel, for expressions that training
never showed as well as for others:

    skin      a picture of lids or lips, pulled between the curves column by column (the photo's own, so it stays sharp)
    interior  what shows between the curves: an eye's white and iris, which moves with the iris's landmark; a mouth's
              cavity, which rests in the head
    decoder   a small network on the points: shade, lids' skin, teeth, tongue, and what the curves err

    points ─┬─▶ place ──────────────────────────────┐
            ├─▶ curves ─▶ coordinates, opening ─┐    │
            └─▶ decoder ─▶ paint ───────────────┴─▶ atlas (RGBA) ─▶ over the frame

The atlas holds the three pictures as they lie on a face: right eye, left eye, mouth below. Letters: N batch, K
keypoints, M local landmarks, P points of a region, h w texels.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from edge import topology as topo
from edge.spec import KEYPOINTS, LOCAL_LANDMARKS, NETWORK
from training.student.blocks import Rectifier, Residual, Trunk, conv, warp

ATLAS = (192, 160)
"""Height and width of the atlas, in texels."""
PACKED = 4
"""The decoder works in cells of 4 × 4 texels."""
FEATHER = 0.12
"""Of a region's sides: where it fades into the frame."""
PIXELS = (NETWORK - 1) / 2
"""In a unit of crop coordinates. Turns are told in pixels, since fp16 does not hold their determinants in the other."""
FLAT = 1e-6
"""Squared determinant of a region that has collapsed: points may be anything, and a frame must stay a frame."""
STEEP = 2.5
"""Of an opening's edge: how much of its rise a texel takes."""
STILL = 13.0
"""Texels above and below the photo's open lids from which skin does not go with them."""
AJAR, SHUTTING = 0.75, 2.5
"""A lid begins to be the shut lid, pushed together, where the eye is open by 0.75 of what it is in the photo, and is it
from 0.35 on: eyes that narrow a little keep the photo's skin."""
NARROWEST = 4.0
"""Texels between lids, at their corners, that still count as open."""
BEYOND = 8
"""Pixels that mouth and eyes may come to beyond where training saw them."""
COARSE = 4
"""The map that says where the frame is read in the atlas has a place for so many pixels, either way."""
Bounds = tuple[int, int, int, int]
"""A part of the frame in pixels: top, left, height, width."""
_AT = {int(landmark): row for row, landmark in enumerate(topo.LOCAL)}


class Region(NamedTuple):
    """One region: where it lies in the atlas, and what of the face shapes it."""

    top: int
    left: int
    height: int
    width: int
    corners: tuple[float, float, float]
    """Row of both corners, columns of the two, in texels of the region."""
    curves: tuple[tuple[int, ...], ...]
    """Landmarks from corner to corner, curves from the topmost down; the opening is between the middle two."""
    iris: int | None = None
    span: tuple[int, int, float] | None = None
    """Two landmarks whose distance measures its height, and the rows between them; None: it is as tall as the pose
    makes it."""

    def points(self) -> list[int]:
        """Rows of its local landmarks, curve by curve, then the iris."""
        listed = [landmark for curve in self.curves for landmark in curve]
        return [_AT[landmark] for landmark in [*listed, *([] if self.iris is None else [self.iris])]]


REGIONS = (
    Region(
        0, 0, 64, 80, (36.0, 17.0, 63.0), ((33, 160, 159, 158, 133), (33, 144, 145, 153, 133)),
        iris=topo.RIGHT_IRIS_CENTRE,
    ),
    Region(
        0, 80, 64, 80, (36.0, 17.0, 63.0), ((362, 385, 386, 387, 263), (362, 380, 374, 373, 263)),
        iris=topo.LEFT_IRIS_CENTRE,
    ),
    Region(
        64, 0, 128, 160, (42.0, 34.0, 126.0),
        (
            (61, 40, 37, 0, 267, 270, 291), (78, 80, 82, 13, 312, 310, 308),
            (78, 88, 87, 14, 317, 318, 308), (61, 91, 84, 17, 314, 321, 291),
        ),
        span=(0, 17, 60.0),
    ),
)  # fmt: skip
"""Both eyes and the mouth."""


class Place(NamedTuple):
    """Where a region lies in the frame: texel p is at (p - anchor) · turn + centre."""

    turn: torch.Tensor
    """[N, 2, 2]; rows: what a texel to the right and one down is, in pixels."""
    centre: torch.Tensor
    """[N, 1, 2], in pixels from the frame's middle."""


class _Own(nn.Module):
    """What a region knows of its person, and its texels."""

    rest: torch.Tensor
    """Mean landmarks over the training track, in texels; of the iris, where the photo has it: [1, P, 2]."""
    weights: torch.Tensor
    """From the rows of a curve's landmarks to its rows, column by column: [curves · points, curves · w], one
    product for all of them."""
    rows: torch.Tensor
    """Of the mean curves: [curves, 1, w]."""
    still: torch.Tensor
    """Rows above and below an eye beyond which skin stays where it is: [2, 1, w]."""
    narrow: torch.Tensor
    """1 / how far the photo's eye is open: [1, 1, w]; 0 in a mouth."""
    across: torch.Tensor
    """1 between the corners: [1, 1, w]; 0 until a person is known, so that nothing opens."""
    from_cells: torch.Tensor
    """[w / 4, w]."""
    texels: torch.Tensor
    """(x, y): [1, h, w, 2]."""
    x: torch.Tensor
    y: torch.Tensor
    """The same as planes: [1, h, w]."""
    anchor: torch.Tensor
    """The middle between the corners: [1, 1, 2]."""

    def __init__(self, region: Region) -> None:
        super().__init__()
        count, length = len(region.curves), len(region.curves[0])
        self.register_buffer("rest", torch.zeros(1, len(region.points()), 2))
        self.register_buffer("weights", torch.zeros(count * length, count * region.width))
        self.register_buffer("rows", torch.ones(count, 1, region.width))
        self.register_buffer("across", torch.zeros(1, 1, region.width))
        self.register_buffer("still", torch.zeros(2, 1, region.width))
        self.register_buffer("narrow", torch.zeros(1, 1, region.width))
        y, x = torch.meshgrid(
            torch.arange(region.height, dtype=torch.float32),
            torch.arange(region.width, dtype=torch.float32),
            indexing="ij",
        )
        # From cells to texels of a row, linearly.
        cells = torch.eye(region.width // PACKED)[None]
        from_cells = F.interpolate(cells, size=region.width, mode="linear", align_corners=False)[0]
        self.register_buffer("from_cells", from_cells, persistent=False)
        self.register_buffer("texels", torch.stack([x, y], -1)[None], persistent=False)
        self.register_buffer("x", x[None].clone(), persistent=False)
        self.register_buffer("y", y[None].clone(), persistent=False)
        row, first, last = region.corners
        self.register_buffer("anchor", torch.tensor([[[(first + last) / 2, row]]]), persistent=False)

    def curves(self, points: torch.Tensor) -> list[torch.Tensor]:
        """Rows of the curves through landmarks [N, P, 2], column by column: [N, 1, w] each."""
        rows = points[:, : len(self.weights), 1:2].flatten(1)
        curves = torch.matmul(rows, self.weights).reshape(-1, len(self.rows), self.rows.shape[2])
        return [curves[:, curve : curve + 1] for curve in range(len(self.rows))]

    def mean_curves(self) -> list[torch.Tensor]:
        """Their means: [1, 1, w] each."""
        return [self.rows[curve : curve + 1] for curve in range(len(self.rows))]

    def between_still(self, curves: list[torch.Tensor]) -> list[torch.Tensor]:
        """An eye's curves between rows that stay where they are: brow and cheek do not go with the lids."""
        return [self.still[0:1], *curves, self.still[1:2]]


def invert(matrix: torch.Tensor) -> torch.Tensor:
    """Inverses of [N, 2, 2], by hand: no runtime has a solver. Of what is flat, something finite."""
    a, b, c, d = (matrix[:, row : row + 1, column : column + 1] for row in (0, 1) for column in (0, 1))
    determinant = a * d - b * c
    return torch.cat([torch.cat([d, -b], 2), torch.cat([-c, a], 2)], 1) * (determinant / (determinant.square() + FLAT))


def _times(rows: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Rows [N, R, C] times one matrix [C, D]: [N, R, D], as one product, which no backend takes for a batch of them."""
    product = torch.matmul(rows.reshape(-1, rows.shape[2]), matrix)
    return product.reshape(-1, rows.shape[1], matrix.shape[1])


def through(x: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Weights [columns, P] of a smooth curve through values at x [P], level beyond its ends.

    The straight line between its ends, and a Gaussian process on what is left.
    """
    columns = columns.clamp(float(x[0]), float(x[-1])).double()
    x = x.double()
    width = (x[-1] - x[0]) / 2

    def line(at: torch.Tensor) -> torch.Tensor:
        share = ((at - x[0]) / (x[-1] - x[0]))[:, None]
        return torch.cat([1 - share, torch.zeros(len(at), len(x) - 2).to(x), share], 1)

    def near(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return torch.exp(-0.5 * ((one[:, None] - other) / width).square())

    hold = torch.linalg.inv(near(x, x) + 1e-4 * torch.eye(len(x)).to(x))
    return (line(columns) + near(columns, x) @ hold @ (torch.eye(len(x)).to(x) - line(x))).float()


class Regions(Trunk):
    """A person's mouth and eyes. `fit_regions` finds its pictures; `training.student.distill` teaches the decoder."""

    skin: torch.Tensor
    shut: torch.Tensor
    affine: torch.Tensor
    upright: torch.Tensor
    mean: torch.Tensor
    scale: torch.Tensor
    window: torch.Tensor
    photo_turn: torch.Tensor
    photo_shift: torch.Tensor
    bounds: torch.Tensor
    frame_x: torch.Tensor
    frame_y: torch.Tensor
    atlas_x: torch.Tensor

    def __init__(self, channels: int, inputs: int, hidden: int = 128) -> None:
        super().__init__()
        height, width = ATLAS[0] // PACKED, ATLAS[1] // PACKED
        middle = channels + 16
        points = 2 * sum(len(region.points()) for region in REGIONS)
        self.hear = nn.Linear(points + inputs, hidden)
        self.understand = nn.Linear(hidden, hidden)
        self.sketch = nn.Linear(hidden, 16 * (height // 4) * (width // 4))
        self.enter = conv(16, middle)
        self.place_coarse = nn.Parameter(0.3 * torch.randn(1, middle, height // 2, width // 2))
        self.entered = Rectifier(middle)
        self.grow = conv(middle, channels)
        self.place_fine = nn.Parameter(0.3 * torch.randn(1, channels, height, width))
        self.blocks = nn.Sequential(Residual(channels), Residual(channels))
        self.painting = Rectifier(channels)
        # Skin, how much it covers, and the interior.
        self.paint = conv(channels, 7 * PACKED**2)
        # Rows that the curves of the openings err by, cell by cell, and where the irises really are.
        self.correct = nn.Linear(hidden, sum(2 * region.width // PACKED for region in REGIONS) + 4)
        for last in (self.paint, self.correct):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        # Skin is the photo's, and a shut lid's the track's (less the photo's), and neither is learned: to learn them is
        # to average misplacements into soft skin.
        self.register_buffer("skin", torch.zeros(1, 3, *ATLAS))
        self.register_buffer("shut", torch.zeros(1, 3, *ATLAS))
        self.cover = nn.Parameter(torch.zeros(1, 1, *ATLAS))
        self.interior = nn.Parameter(torch.zeros(1, 3, *ATLAS))

        self.register_buffer("affine", torch.zeros(KEYPOINTS, 3))
        self.register_buffer("upright", torch.zeros(1, 2, 2))
        self.register_buffer("mean", torch.zeros(points + inputs))
        self.register_buffer("scale", torch.ones(points + inputs))
        # From the photo's places to the mouth's texels there.
        self.register_buffer("photo_turn", torch.eye(2))
        self.register_buffer("photo_shift", torch.zeros(1, 1, 2))
        self.own = nn.ModuleList(_Own(region) for region in REGIONS)
        across = torch.arange(ATLAS[1], dtype=torch.float32).expand(1, *ATLAS)
        self.register_buffer("atlas_x", _unit(across, ATLAS[1]).contiguous(), persistent=False)
        window = torch.zeros(1, 1, *ATLAS)
        for region in REGIONS:
            sides = [_faded(size) for size in (region.height, region.width)]
            window[0, 0, region.top : region.top + region.height, region.left : region.left + region.width] = (
                sides[0][:, None] * sides[1]
            )
        self.register_buffer("window", window, persistent=False)
        # Where mouth and eyes come while the person moves: the rest of a frame is not read for them.
        self.register_buffer("bounds", torch.tensor([0, 0, NETWORK, NETWORK]))
        self.held: Bounds = (0, 0, NETWORK, NETWORK)
        x, y = _coarse(*self.held)
        self.register_buffer("frame_x", x, persistent=False)
        self.register_buffer("frame_y", y, persistent=False)

    # -- places --------------------------------------------------------------------------------------------------

    def _pose(self, keypoints: torch.Tensor) -> torch.Tensor:
        """The affine map that fits the keypoints best: the photo's x, y and 1 to the frame's x and y, [N, 3, 2]."""
        return _times(keypoints.transpose(1, 2), self.affine).transpose(1, 2)

    def places(self, keypoints: torch.Tensor, local: torch.Tensor) -> list[Place]:
        """Where the regions lie, for keypoints [N, K, 2] and local landmarks [N, M, 2]."""
        pose = self._pose(keypoints)
        found = []
        for number, region in enumerate(REGIONS):
            _, first, last = region.corners
            ends = [_AT[region.curves[0][end]] for end in (0, -1)]
            one, other = (local[:, row : row + 1] for row in ends)
            if region.span:
                above, below, rows = region.span
                down = (local[:, _AT[below] : _AT[below] + 1] - local[:, _AT[above] : _AT[above] + 1]) / rows
            else:
                across, down = self.upright[:, number : number + 1, 0:1], self.upright[:, number : number + 1, 1:2]
                down = across * pose[:, 0:1] + down * pose[:, 1:2]
            turn = torch.cat([(other - one) / (last - first), down], 1)
            found.append(Place(turn * PIXELS, (one + other) * (PIXELS / 2)))
        return found

    def spots(self, places: list[Place]) -> torch.Tensor:
        """Frame coordinates of the atlas's texels: [N, h, w, 2]."""
        parts = []
        for region, own, place in zip(REGIONS, self.own, places, strict=True):
            texels = own.texels.flatten(1, 2) - own.anchor
            spots = (texels @ place.turn + place.centre) / PIXELS
            parts.append(spots.reshape(-1, region.height, region.width, 2))
        return torch.cat([torch.cat(parts[:2], 2), parts[2]], 1)

    def reading(self, places: list[Place], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Where the frame's places are read in the atlas: [N, 2, H, W], -1..1; x, y [1, H, W] in its pixels.

        Outside a region it is read at the region's side, where the atlas is empty; right and left eye, eyes and mouth
        meet there.
        """
        inside = []
        for own, place in zip(self.own, places, strict=True):
            turn = invert(place.turn)
            shift = own.anchor - torch.bmm(place.centre, turn)
            inside.append([_along(x, y, turn[:, :, axis : axis + 1], shift[:, :, axis : axis + 1]) for axis in (0, 1)])
        (right_x, right_y), (left_x, left_y), (mouth_x, mouth_y) = inside
        eye, mouth = REGIONS[0], REGIONS[2]
        to_left = (left_x * 0.125 + 1.0).clamp(0, 1)
        eyes_x = right_x.clamp(0, eye.width) + left_x.clamp(0, eye.width - 1)
        eyes_y = (right_y + to_left * (left_y - right_y)).clamp(0, eye.height)
        to_mouth = (mouth_y * 0.125 + 1.0).clamp(0, 1)
        across = eyes_x + to_mouth * (mouth_x.clamp(0, mouth.width - 1) - eyes_x)
        down = eyes_y + mouth_y.clamp(0, mouth.height - 1)
        return torch.cat([_unit(across, ATLAS[1]).unsqueeze(1), _unit(down, ATLAS[0]).unsqueeze(1)], 1)

    def hold(self) -> None:
        """Make the part of the frame that mouth and eyes may come to, `bounds`, a part of the graph."""
        bounds = (0, 0, NETWORK, NETWORK) if self.bounds.is_meta else tuple(self.bounds.tolist())
        if bounds != self.held:
            self.held = bounds
            self.frame_x, self.frame_y = (plane.to(self.frame_x) for plane in _coarse(*bounds))

    def over(self, atlas: torch.Tensor, places: list[Place]) -> tuple[torch.Tensor, Bounds]:
        """The atlas [N, 4, h, w] as it lies in the frame, RGBA: [N, 4, H, W], and what part of the frame that is."""
        if not torch.compiler.is_compiling():
            self.hold()
        where = self.reading(places, self.frame_x, self.frame_y)
        where = F.interpolate(where, size=self.held[2:], mode="bilinear", align_corners=True)
        return warp(atlas, where.permute(0, 2, 3, 1)), self.held

    # -- pictures ------------------------------------------------------------------------------------------------

    def registered(self, places: list[Place], local: torch.Tensor) -> list[torch.Tensor]:
        """Each region's landmarks in its own texels: [N, P, 2]."""
        found = []
        for region, own, place in zip(REGIONS, self.own, places, strict=True):
            points = torch.cat([local[:, row : row + 1] for row in region.points()], 1)
            found.append(torch.bmm(points * PIXELS - place.centre, invert(place.turn)) + own.anchor)
        return found

    def heard(self, registered: list[torch.Tensor], asked: torch.Tensor) -> torch.Tensor:
        """What the decoder hears, before it is scaled: [N, inputs]."""
        return torch.cat([*(points.flatten(1) for points in registered), asked], 1)

    def forward(
        self, keypoints: torch.Tensor, local: torch.Tensor, asked: torch.Tensor, places: list[Place]
    ) -> torch.Tensor:
        """The regions' pictures: RGB times opacity, and opacity, [N, 4, h, w].

        Args:
            keypoints: [N, K, 2].
            local: [N, M, 2].
            asked: what `Person.asked` makes of them.
            places: of these.
        """
        registered = self.registered(places, local)
        heard = (self.heard(registered, asked) - self.mean) * self.scale
        height, width = ATLAS[0] // PACKED, ATLAS[1] // PACKED
        with self.scope(heard):
            code = F.relu(self.understand(F.relu(self.hear(heard))))
            correct = self.correct(code)
            x = self.sketch(code).reshape(-1, 16, height // 4, width // 4)
            x = self.entered(self.enter(_twice(x)) + self.place_coarse)
            x = self.grow(_twice(x)) + self.place_fine
            painted = self.paint(self.painting(self.blocks(x)))
        if self.precision:
            painted, correct = painted.float(), correct.float()
        painted = F.pixel_shuffle(painted, PACKED)
        opening, skins, insides, closed = self._geometry(keypoints, places, registered, correct)
        if self.training:  # only the cover is learned: told apart, the two warps take half the time of one
            skin, cover = warp(torch.cat([self.skin, self.shut], 1), skins), warp(self.cover, skins)
        else:
            skin = warp(torch.cat([self.skin, self.shut, self.cover], 1), skins)
            cover = skin[:, 6:7]
        opacity = (cover + painted[:, 3:4]) * self.window
        shown = skin[:, 0:3] + skin[:, 3:6] * closed.unsqueeze(1)
        colour = shown * opacity + painted[:, 0:3] * self.window
        opening = opening.unsqueeze(1) * self.window
        interior = warp(self.interior + painted[:, 4:7], insides)
        colour = colour + (interior - colour) * opening
        return torch.cat([colour, opacity + opening - opacity * opening], 1)

    def _geometry(
        self, keypoints: torch.Tensor, places: list[Place], registered: list[torch.Tensor], correct: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Four maps of the atlas.

        What is open [N, h, w]; where skin and where the interior is read in the atlas, -1..1 [N, h, w, 2]; how far
        lids are shut [N, h, w] (of a mouth it says nothing, whose `shut` is empty).
        """
        parts, at = [], 0
        for number, (region, own, points) in enumerate(zip(REGIONS, self.own, registered, strict=True)):
            cells = region.width // PACKED
            shifts = correct[:, at : at + 2 * cells].reshape(-1, 2, cells) * 4
            at += 2 * cells
            shifts = _times(shifts, own.from_cells)
            curves = own.curves(points)
            middle = len(curves) // 2
            upper = curves[middle - 1] = curves[middle - 1] + shifts[:, 0:1]
            lower = curves[middle] = curves[middle] + shifts[:, 1:2]
            opening = torch.sigmoid((own.y - upper) * STEEP) * torch.sigmoid((lower - own.y) * STEEP) * own.across
            shut = (((upper - lower) * own.narrow + AJAR) * SHUTTING).clamp(0, 1)
            rest = own.mean_curves()
            if region.iris is not None:
                curves, rest = own.between_still(curves), own.between_still(rest)
                start = correct.shape[1] - 4 + 2 * number
                iris = points[:, -1:] - own.rest[:, -1:] + 4 * correct[:, start : start + 2].unsqueeze(1)
                inside = own.x - iris[:, :, 0:1] + 0 * own.y, own.y - iris[:, :, 1:2] + 0 * own.x
            else:
                inside = self._in_the_head(keypoints, places[number], own)
            skin = _pulled(own.y, curves, rest)
            parts.append(
                [
                    opening,
                    skin.clamp(0, region.height - 1) + float(region.top),
                    inside[0].clamp(0, region.width - 1) + float(region.left),
                    inside[1].clamp(0, region.height - 1) + float(region.top),
                    shut + 0 * own.y,
                ]
            )
        right, left, mouth = parts
        opening, skin, inside_x, inside_y, shut = (
            torch.cat([torch.cat([right[what], left[what]], 2), mouth[what]], 1) for what in range(5)
        )
        skin = _unit(skin, ATLAS[0])
        atlas_x = self.atlas_x if len(skin) == 1 else self.atlas_x.expand(len(skin), -1, -1)
        return opening, _pair(atlas_x, skin), _pair(_unit(inside_x, ATLAS[1]), _unit(inside_y, ATLAS[0])), shut

    def _in_the_head(self, keypoints: torch.Tensor, place: Place, own: _Own) -> tuple[torch.Tensor, ...]:
        """Where a region's texels were in the photo if they moved with the head alone: x, y [N, h, w], in texels."""
        pose = self._pose(keypoints)
        to_photo = invert(pose[:, :2])
        turn = _times(torch.bmm(place.turn * (1 / PIXELS), to_photo), self.photo_turn)
        shift = torch.bmm(place.centre * (1 / PIXELS) - pose[:, 2:], to_photo)
        shift = _times(shift, self.photo_turn) + self.photo_shift
        shift = shift - torch.bmm(own.anchor.expand(len(turn), -1, -1) if len(turn) > 1 else own.anchor, turn)
        return tuple(_along(own.x, own.y, turn[:, :, axis : axis + 1], shift[:, :, axis : axis + 1]) for axis in (0, 1))

    # -- a person's own ------------------------------------------------------------------------------------------

    @torch.no_grad()
    def bind(self, points: torch.Tensor, depths: torch.Tensor, teeth: float) -> None:
        """Store where a person's keypoints and local landmarks are in the photo.

        Args:
            points: [1, K + M, 2].
            depths: of the keypoints, [K].
            teeth: their depth. What lies deeper goes another way when the head turns: the pose is taken there.
        """
        keypoints, local = points.split([KEYPOINTS, LOCAL_LANDMARKS], 1)
        depths = depths.to(points)[:, None] - teeth
        affine = torch.linalg.pinv(torch.cat([keypoints[0], torch.ones_like(depths), depths], 1), rtol=1e-3)
        self.affine.copy_(affine[:3].T)
        for number, region in enumerate(REGIONS[:2]):
            one, other = (local[0, _AT[region.curves[0][end]]] for end in (0, -1))
            _, first, last = region.corners
            along = (other - one) / (last - first)
            self.upright[0, number] = torch.stack([-along[1], along[0]])
        mouth = self.places(keypoints, local)[2]
        self.photo_turn.copy_(torch.linalg.inv(mouth.turn / PIXELS)[0])
        self.photo_shift.copy_(self.own[2].anchor - mouth.centre / PIXELS @ self.photo_turn)

    @torch.no_grad()
    def settle(self, keypoints: torch.Tensor, local: torch.Tensor, asked: torch.Tensor) -> None:
        """Take means, spreads, mean curves and bounds from a track of T poses."""
        places = self.places(keypoints, local)
        registered = self.registered(places, local)
        heard = self.heard(registered, asked)
        spread = heard.std(0)
        halves = torch.arange(len(spread), device=spread.device) < heard.shape[1] - asked.shape[1]
        for half in (halves, ~halves):  # texels, and crop coordinates
            spread[half] = spread[half].clamp(min=0.03 * float(spread[half].max()) + 1e-6)
        self.mean.copy_(heard.mean(0))
        self.scale.copy_(1 / spread)
        for region, own, points in zip(REGIONS, self.own, registered, strict=True):
            own.rest.copy_(points.mean(0, keepdim=True))
            columns, length = own.texels[0, 0, :, 0], len(region.curves[0])
            for number in range(len(region.curves)):
                curve = slice(number * length, (number + 1) * length)
                x = torch.cummax(own.rest[0, curve, 0] + 1e-3 * torch.arange(length).to(columns), 0).values
                own.weights[curve, number * region.width : (number + 1) * region.width] = through(x, columns).T
            own.rows.copy_(torch.cat(own.curves(own.rest)))
            _, first, last = region.corners
            own.across.copy_(torch.sigmoid(columns - first) * torch.sigmoid(last - columns))
        pixels = (self.spots(places)[:, self.window[0, 0] > 0.05] + 1) * PIXELS
        low, high = pixels.flatten(0, 1).amin(0), pixels.flatten(0, 1).amax(0)
        low = (((low - BEYOND) / 8).floor() * 8).clamp(0, NETWORK - 64)
        high = torch.maximum((((high + BEYOND) / 8).ceil() * 8).clamp(0, NETWORK), low + 64)
        self.bounds.copy_(torch.stack([low[1], low[0], (high - low)[1], (high - low)[0]]).long())

    @torch.no_grad()
    def take_pictures(self, photo: torch.Tensor, points: torch.Tensor) -> None:
        """Skin and eyes from the photo [1, 3, 512, 512], whose points are [1, K + M, 2]; irises rest where they are."""
        keypoints, local = points.split([KEYPOINTS, LOCAL_LANDMARKS], 1)
        places = self.places(keypoints, local)
        crops = F.grid_sample(photo, self.spots(places), padding_mode="border", align_corners=True)
        self.interior.copy_(crops)
        # The photo's curves are pulled to where the mean ones are.
        parts = []
        for region, own, shown in zip(REGIONS, self.own, self.registered(places, local), strict=True):
            curves, rest = own.curves(shown), own.mean_curves()
            if region.iris is not None:
                own.rest[:, -1] = shown[:, -1]
                upper, lower = curves
                own.still.copy_(torch.cat([(upper - STILL).clamp(min=2), (lower + STILL).clamp(max=region.height - 3)]))
                own.narrow.copy_(1 / (lower - upper).clamp(min=NARROWEST))
                curves, rest = own.between_still(curves), own.between_still(rest)
            parts.append(_pulled(own.y, rest, curves) + region.top)
        rows = torch.cat([torch.cat(parts[:2], 2), parts[2]], 1)
        self.skin.copy_(warp(crops, _pair(self.atlas_x, _unit(rows, ATLAS[0]))))
        self.cover.fill_(1)

    def lids(self) -> torch.Tensor:
        """What of both eyes' skin is the upper lid, 0..1: [1, 1, h, w], h rows of eyes."""
        parts = []
        for own in self.own[:2]:
            upper, lower = own.mean_curves()
            middle = (upper + lower) / 2
            parts.append(((own.y - own.still[0:1]) / 4).clamp(0, 1) * ((middle - own.y) / 2 + 0.5).clamp(0, 1))
        return torch.cat(parts, 2)[None]

    def geometry(self, keypoints: torch.Tensor, local: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What `_geometry` finds for these keypoints [N, K, 2] and local landmarks [N, M, 2] alone."""
        places = self.places(keypoints, local)
        nothing = self.correct.bias.new_zeros(len(local), len(self.correct.bias))
        return self._geometry(keypoints, places, self.registered(places, local), nothing)


def _faded(size: int) -> torch.Tensor:
    """1 inside, 0 at both ends: [size]."""
    at = torch.arange(size)
    return (torch.minimum(at, size - 1 - at) / (FEATHER * size)).clamp(max=1)


def _twice(x: torch.Tensor) -> torch.Tensor:
    return F.interpolate(x, size=(2 * x.shape[2], 2 * x.shape[3]), mode="bilinear", align_corners=False)


def _unit(texels: torch.Tensor, size: int) -> torch.Tensor:
    """Texels of a side of `size` as -1..1."""
    return texels * (2 / (size - 1)) - 1.0


def _along(x: torch.Tensor, y: torch.Tensor, turn: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """One coordinate of turned planes x, y [1, h, w]: turn [N, 2, 1], shift [N, 1, 1] → [N, h, w]."""
    return x * turn[:, 0:1] + y * turn[:, 1:2] + shift


def _pair(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Planes [N, h, w] as places [N, h, w, 2]."""
    return torch.cat([x.unsqueeze(3), y.unsqueeze(3)], 3)


def _coarse(top: int, left: int, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels of a part of the frame, from its middle, one in `COARSE`, corners on the part's corners: [1, H, W]."""
    y = torch.linspace(top - PIXELS, top + height - 1 - PIXELS, height // COARSE)
    x = torch.linspace(left - PIXELS, left + width - 1 - PIXELS, width // COARSE)
    y, x = torch.meshgrid(y, x, indexing="ij")
    return x[None].contiguous(), y[None].contiguous()


def _some(rows: torch.Tensor) -> torch.Tensor:
    """Half a row at least; a clamp without an upper end would be a clamp to what fp16 does not hold."""
    return F.relu(rows - 0.5) + 0.5


def _pulled(y: torch.Tensor, curves: list[torch.Tensor], rest: list[torch.Tensor]) -> torch.Tensor:
    """Rows at which a picture is read whose curves lie at `rest`, so that they come to lie at `curves`.

    Linear from one curve to the next; inside the opening, the nearer rim. y [1, h, w], curves [N, 1, w] → [N, h, w].
    """
    middle, last = len(curves) // 2, y.shape[1] - 1.0

    def pull(y: torch.Tensor, curves: list[torch.Tensor], rest: list[torch.Tensor]) -> torch.Tensor:
        first, first_rest = curves[0], rest[0]
        rows = torch.minimum(y, first) * (first_rest / _some(first))
        for (here, there), (here_rest, there_rest) in zip(pairwise(curves), pairwise(rest), strict=True):
            slope = (there_rest - here_rest) / _some(there - here)
            rows = rows + F.relu(torch.minimum(y, there) - here) * slope
        return rows

    def turned(curves: list[torch.Tensor]) -> list[torch.Tensor]:
        return [last + curve * -1 for curve in reversed(curves)]

    above = pull(y, curves[:middle], rest[:middle])
    below = last + pull(last + y * -1, turned(curves[middle:]), turned(rest[middle:])) * -1
    under = ((y - (curves[middle - 1] + curves[middle]) / 2) * 4 + 0.5).clamp(0, 1)
    return above + under * (below - above)
