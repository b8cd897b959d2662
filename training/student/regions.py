"""Mouth and eyes in pictures of their own, laid over the frame: what people look at is a twentieth of its pixels.

A field of 64 × 64 cells cannot place a lid, and a generator that paints whole frames smears what it cannot place. So
each region has a small picture that lies still on the face: it is placed by corners of eyes and mouth, and inside it
curves through the landmarks of lids and lips say what is where, to a fraction of a pixel, for expressions that training
never showed as well as for others:

    skin      a picture of lids or lips, pulled between the curves column by column (the photo's own, so it stays sharp)
    interior  what shows between the curves: an eye's white, which rests; a tongue, which slopes up and back from behind
              the lower teeth, so that a raised head shows little of it, and the throat above
    iris      a disc before the white, which goes with its landmark
    lower     the lower teeth, an arch in the jaw, before the tongue
    teeth     the upper ones and their gums, an arch in the head, before all that
    rim       the lips' inner side and their shade, which go with the lips, before the teeth
    lashes    of shut lids, which hang down from their edge, before all of an eye
    decoder   a small network on the points: shade, lids' skin, teeth, tongue, and what the curves err

    points ─┬─▶ place ──────────────────────────────┐
            ├─▶ curves ─▶ coordinates, opening ─┐    │
            └─▶ decoder ─▶ paint ───────────────┴─▶ atlas (RGBA) ─▶ over the frame

The atlas holds the three pictures as they lie on a face: right eye, left eye, mouth below. Letters: N batch, K
keypoints, M local landmarks, P points of a region, h w texels; R regions of a kind, eyes or mouth, which are computed
together: their first axis is N · R, regions of a frame side by side.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from edge import topology as topo
from edge.spec import KEYPOINTS, LOCAL_LANDMARKS, NETWORK
from training.student.blocks import Rectifier, Residual, Trunk, conv, over, warp

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
SLIPS = 4.0
"""Rows, at most, by which a landmark that slipped aside is told otherwise; real ones need half of that."""
STILL = 13.0
"""Texels above and below the photo's open lids from which skin does not go with them."""
AJAR, SHUTTING = 0.02, 1 / 0.18
"""A lid begins to be the shut lid, pushed together, where it has come down by 0.02 of the photo's opening, and is it
from 0.2 on, smoothly, as the mesh teacher's is."""
COVERS = 1.1
"""Texels by which a shut lid's lashes cover the rim of the lower one."""
SHARPER = 0.12
"""How much of a second difference a bilinear reading is to find beforehand: half of what it takes away on average."""
TEETH = 0.08
"""How far teeth lie behind where the lips meet, in mouth widths."""
ARCHES = (0.75, 1.35)
"""How far upper and lower teeth lie behind their middle ones, in mouth widths, one mouth width to the side."""
LOW, RISES, GAPES = 0.08, 0.45, 0.6
"""A tongue's back lies that much above its tip, and higher by that share of the mouth's gap, up to such a gap, as the
mesh teacher's does; these and the next in mouth widths."""
TIP, BEHIND, BACK = 0.04, 0.09, 0.75
"""How far its tip lies below where the lips meet, and behind the teeth, and its back behind its tip."""
BELOW, TALL = 0.3, 4.8
"""The picture of a tongue and its throat shows so many times a tongue's height, and that much below its tip."""
FLAT_TONGUE = 8.0
"""Rows, at least, that a tongue is taken to be high: of one that hides, a row of the frame would leap over many."""
PUPIL = 0.08
"""How far an iris lies behind the rim of its eye, in eye widths."""
GLANCE = 0.3
"""How far an iris goes to each side, in eye widths, as the mesh teacher's does."""
LIMBUS = 1.12
"""An iris with its soft rim, in its radii."""
EYEBALL = 0.45
"""Radius of an eyeball, in eye widths: an iris that looks away is seen from its side."""
BEYOND = 8
"""Pixels that mouth and eyes may come to beyond where training saw them."""
COARSE = 4
"""The map that says where the frame is read in the atlas has a place for so many pixels, either way."""
Bounds = tuple[int, int, int, int]
"""A part of the frame in pixels: top, left, height, width."""
_IRIS, _LID = -2, -1
"""An eye's last two points: its iris, and where its upper lid rests."""
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
    """Landmarks from corner to corner, curves from the topmost down; the opening is between the middle two. An eye
    has no others: the first and last of its four rest (`STILL`)."""
    iris: int | None = None
    span: tuple[int, int, float] | None = None
    """Two landmarks whose distance measures its height, and the rows between them; None: it is as tall as the pose
    makes it."""

    def points(self) -> list[int]:
        """Rows of its local landmarks, curve by curve, then the iris.

        An eye has one point more, which is no landmark: where its upper lid would be if it moved with the head alone.
        """
        listed = [landmark for curve in self.curves for landmark in curve]
        return [_AT[landmark] for landmark in [*listed, *([] if self.iris is None else [self.iris])]]

    def count(self) -> int:
        """Of all its points."""
        return len(self.points()) + (self.iris is not None)

    def upper_lid(self) -> list[int]:
        """Rows of the local landmarks of an eye's upper lid, without its corners."""
        return [_AT[landmark] for landmark in self.curves[0][1:-1]]

    def middles(self) -> tuple[int, int]:
        """Numbers of the points in the middle of the two curves between which it opens."""
        length, number = len(self.curves[0]), len(self.curves) // 2
        return (number - 1) * length + length // 2, number * length + length // 2

    def ends(self) -> tuple[int, int]:
        """Rows of the landmarks at its corners."""
        return _AT[self.curves[0][0]], _AT[self.curves[0][-1]]

    def wide(self) -> float:
        """Between its corners, in texels."""
        _, first, last = self.corners
        return last - first

    def anchor(self) -> tuple[float, float]:
        """The middle between the corners: x, y."""
        row, first, last = self.corners
        return (first + last) / 2, row


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


KINDS = (slice(0, 2), slice(2, 3))
"""Eyes, and the mouth, among the regions: those of a kind are computed together."""
PLACES, HEAD, JAW = 5, 3, 4
"""The regions, and the mouth twice more: as it would lie if it moved with the head alone, and with the jaw."""
MANDIBLE = (14, 152)
"""Landmarks of lower lip and chin: between them, as far as both leave the head on average, the jaw goes."""
RIM = 10
"""Rows of the picture of either lip's inner side: texels from its edge on, of which `OUTSIDE` lie before it."""
OUTSIDE = 2.0
LASHES, ROOTS = 16, 3.0
"""Rows of the picture of shut lids' lashes, the first and last empty, and the row that lies at the lid's edge."""
CURVES = 4
"""Of a region, from the topmost down; the opening is between the middle two."""


class Places(NamedTuple):
    """Where a frame's regions lie, and last the mouth as the head alone would carry it, and as the jaw would.

    Texel p is at pixel (p - anchor) · turn + centre, and pixel q at texel q · back + shift; pixels from the frame's
    middle.
    """

    turn: torch.Tensor
    """[N · 5, 2, 2]; rows: what a texel to the right and one down is."""
    centre: torch.Tensor
    """[N · 5, 1, 2]."""
    back: torch.Tensor
    """[N · 5, 2, 2]."""
    shift: torch.Tensor
    """[N · 5, 1, 2]."""


class Geometry(NamedTuple):
    """What is where in the atlas; fields of places [N, H, W, 2] that say where pictures are read, -1..1."""

    opening: torch.Tensor
    """What is open: [N, h, w]."""
    skin: torch.Tensor
    """All of the atlas, in its own skin."""
    irises: torch.Tensor
    """Its eyes, in the picture of irises."""
    teeth: torch.Tensor
    """Its mouth, in the picture of upper teeth, which rests in the head."""
    jaw: torch.Tensor
    """Its mouth, in the picture of lower teeth, which go with the jaw."""
    tongue: torch.Tensor
    """Its mouth, in its interior: tongue and throat."""
    rims: torch.Tensor
    """Its mouth, in the picture of the lips' inner sides."""
    lashes: torch.Tensor
    """Its eyes, in the picture of lashes."""
    shut: torch.Tensor
    """How far lids are shut: [N, h, w]; of a mouth it says nothing, whose `shut` is empty."""


class _Own(nn.Module):
    """What regions of one kind know of their person, and their texels."""

    rest: torch.Tensor
    """Mean landmarks over the training track, in texels; of the iris, where the photo has it: [R, P, 2]."""
    weights: torch.Tensor
    """From the rows of a curve's landmarks to its rows, column by column: [R, points, 4 · w], one product for all."""
    steep: torch.Tensor
    """From the rows of a curve's landmarks to how steep it is at each: [R, points, points]."""
    still: torch.Tensor
    """Rows of curves that rest, 0 for the others: [R, 4, w]."""
    rows: torch.Tensor
    """Of the mean curves: [R, 4, w]."""
    radius: torch.Tensor
    """Of an iris, in eye widths: [R, 1, 1]; of a mouth, nothing."""
    gap: torch.Tensor
    """Between a photo's lids, in texels: [R, 1, 1]."""
    across: torch.Tensor
    """1 between the corners: [R, 1, w]; 0 until a person is known, so that nothing opens."""
    from_cells: torch.Tensor
    """[w / 4, w]."""
    x: torch.Tensor
    """Columns of its texels: [1, 1, w]."""
    y: torch.Tensor
    """Rows of its texels, from above and from below, region by region: [R · 2, h, 1]."""
    tall: torch.Tensor
    """Ones, [1, h, 1]: what takes a row to a plane."""
    left: torch.Tensor
    """Where the regions begin in the atlas: [R, 1, 1]."""

    def __init__(self, regions: tuple[Region, ...]) -> None:
        super().__init__()
        self.region = region = regions[0]
        count, length = len(regions), len(region.curves) * len(region.curves[0])
        self.count = count
        self.register_buffer("rest", torch.zeros(count, region.count(), 2))
        self.register_buffer("weights", torch.zeros(count, length, CURVES * region.width))
        self.register_buffer("steep", torch.zeros(count, length, length))
        self.register_buffer("still", torch.zeros(count, CURVES, region.width))
        self.register_buffer("rows", torch.ones(count, CURVES, region.width))
        self.register_buffer("across", torch.zeros(count, 1, region.width))
        self.register_buffer("gap", torch.ones(count, 1, 1))
        self.register_buffer("radius", torch.zeros(count, 1, 1))
        # From cells to texels of a row, linearly.
        cells = torch.eye(region.width // PACKED)[None]
        down = torch.arange(region.height, dtype=torch.float32)
        derived = {
            "from_cells": F.interpolate(cells, size=region.width, mode="linear", align_corners=False)[0],
            "x": torch.arange(region.width, dtype=torch.float32)[None, None],
            "y": torch.stack([down, down.flip(0)]).repeat(count, 1)[:, :, None],
            "tall": torch.ones(1, region.height, 1),
            "left": torch.tensor([[[float(region.left)]] for region in regions]),
        }
        for name, part in derived.items():
            self.register_buffer(name, part, persistent=False)

    def curves(self, points: torch.Tensor) -> torch.Tensor:
        """Rows of the curves through landmarks [N · R, P, 2], column by column: [N · R, 4, w].

        A landmark that slipped aside is first brought back to its mean column, along its curve.
        """
        length = self.weights.shape[1]
        columns, rows = (
            points[:, :length, axis].reshape(-1, self.count, length).transpose(0, 1) for axis in (0, 1)
        )  # each [R, N, points]
        slipped = columns - self.rest[:, :length, 0].unsqueeze(1)
        rows = rows - (torch.bmm(rows, self.steep) * slipped).clamp(-SLIPS, SLIPS)
        curves = torch.bmm(rows, self.weights).transpose(0, 1).reshape(-1, CURVES, self.rows.shape[2])
        return curves + _each(self.still, len(curves))

    def pulled(self, curves: torch.Tensor, rest: torch.Tensor) -> torch.Tensor:
        """Rows at which pictures are read whose curves lie at `rest`, so that they come to lie at `curves`.

        Linear from one curve to the next; inside the opening, the nearer rim. Both [N · R, 4, w] → [N · R, h, w].
        """
        height = self.region.height
        y = _each(self.y, 2 * len(curves))
        (first, second), (first_rest, second_rest) = (_from_both_sides(some, height - 1.0) for some in (curves, rest))
        rows = torch.minimum(y, first) * (first_rest / _some(first))
        rows = rows + F.relu(torch.minimum(y, second) - first) * ((second_rest - first_rest) / _some(second - first))
        rows = rows.reshape(-1, 2, height, curves.shape[2])
        above, below = rows[:, 0], (height - 1.0) + rows[:, 1] * -1
        return _at_the_nearer(self.y[0:1], curves[:, 1:2], curves[:, 2:3], above, below)


def invert(matrix: torch.Tensor) -> torch.Tensor:
    """Inverses of [N, 2, 2], by hand: no runtime has a solver. Of what is flat, something finite."""
    a, b, c, d = (matrix[:, row : row + 1, column : column + 1] for row in (0, 1) for column in (0, 1))
    determinant = a * d - b * c
    return torch.cat([torch.cat([d, -b], 2), torch.cat([-c, a], 2)], 1) * (determinant / (determinant.square() + FLAT))


def _times(rows: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Rows [N, R, C] times one matrix [C, D]: [N, R, D], as one product, which no backend takes for a batch of them."""
    product = torch.matmul(rows.reshape(-1, rows.shape[2]), matrix)
    return product.reshape(-1, rows.shape[1], matrix.shape[1])


def _each(parts: torch.Tensor, count: int) -> torch.Tensor:
    """Parts [P, …] again and again, until there are `count`; of one frame, as they are."""
    return parts if len(parts) == count else parts.repeat(count // len(parts), *[1] * (parts.dim() - 1))


def _parts(planes: torch.Tensor, count: int) -> list[torch.Tensor]:
    """Planes [count · N, …] as so many parts [N, …]."""
    size = len(planes) // count
    return [planes[number * size : (number + 1) * size] for number in range(count)]


def _at_the_nearer(
    y: torch.Tensor, upper: torch.Tensor, lower: torch.Tensor, above: torch.Tensor, below: torch.Tensor
) -> torch.Tensor:
    """What is told from above where rows y [1, h, 1] are nearer to the upper curve [N, 1, w], and from below else."""
    under = ((y - (upper + lower) / 2) * 4 + 0.5).clamp(0, 1)
    return above + under * (below - above)


def _from_both_sides(curves: torch.Tensor, last: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The first and the second of four curves [N, 4, w], from above and from below: [2 · N, 1, w] each."""
    upper, lower = curves[:, 0:2], last + curves[:, 2:4] * -1
    first = torch.cat([upper[:, 0:1], lower[:, 1:2]], 1)
    second = torch.cat([upper[:, 1:2], lower[:, 0:1]], 1)
    return first.reshape(-1, 1, curves.shape[2]), second.reshape(-1, 1, curves.shape[2])


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


def slope(x: torch.Tensor) -> torch.Tensor:
    """From values at x [P] to how steep that curve is at each, [P, P], rows of weights; beyond its ends it goes on."""
    ahead, behind = (through(x, x + step) for step in (0.25, -0.25))
    width = torch.full_like(x, 0.5)
    width[0] = width[-1] = 0.25  # level beyond
    return (ahead - behind) / width[:, None]


class Regions(Trunk):
    """A person's mouth and eyes. `fit_regions` finds its pictures; `training.student.distill` teaches the decoder."""

    skin: torch.Tensor
    shut: torch.Tensor
    placing: torch.Tensor
    """From keypoints and local landmarks to what a texel to the right, one down and the middle are: [K + M, 5 · 3]."""
    chosen: torch.Tensor
    """From these to the regions' landmarks in pixels, as a product, which every backend takes: [K + M, 5 · P]. Irises
    are where they lie, which is behind where landmarks are told."""
    iris: torch.Tensor
    """Both irises where they rest, RGBA: [1, 4, h, w], h rows of eyes."""
    teeth: torch.Tensor
    """The upper ones, RGB times opacity and opacity: [1, 4, h, w], h rows of a mouth."""
    lower: torch.Tensor
    """The lower ones, likewise."""
    depth: torch.Tensor
    """From keypoints to where something lies in the frame that is a mouth width farther away: [K + M, 1]."""
    tip: torch.Tensor
    """The row of the tongue's tip in the photo, if it were as deep as teeth are: [1, 1, 1]."""
    rim: torch.Tensor
    """Inner sides of both lips, RGB times opacity and opacity, from the upper lip down and on to the lower one's edge:
    [1, 4, 20, w]."""
    lashes: torch.Tensor
    """Of both eyes' shut lids, RGB times opacity and opacity, from a little above a lid's edge down: [1, 4, 16, w]."""
    anchors: torch.Tensor
    """The middle between the corners: [5, 1, 2]."""
    mean: torch.Tensor
    scale: torch.Tensor
    window: torch.Tensor
    bounds: torch.Tensor
    frame_x: torch.Tensor
    frame_y: torch.Tensor
    atlas_x: torch.Tensor

    def __init__(self, channels: int, inputs: int, hidden: int = 128) -> None:
        super().__init__()
        height, width = ATLAS[0] // PACKED, ATLAS[1] // PACKED
        middle = channels + 16
        points = 2 * sum(region.count() for region in REGIONS)
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
        self.register_buffer("iris", torch.zeros(1, 4, REGIONS[2].top, ATLAS[1]))
        self.register_buffer("teeth", torch.zeros(1, 4, REGIONS[2].height, ATLAS[1]))
        self.register_buffer("lower", torch.zeros(1, 4, REGIONS[2].height, ATLAS[1]))
        self.register_buffer("tip", torch.zeros(1, 1, 1))
        self.register_buffer("rim", torch.zeros(1, 4, 2 * RIM, ATLAS[1]))
        self.register_buffer("lashes", torch.zeros(1, 4, LASHES, ATLAS[1]))
        self.cover = nn.Parameter(torch.zeros(1, 1, *ATLAS))
        self.interior = nn.Parameter(torch.zeros(1, 3, *ATLAS))

        self.own = nn.ModuleList(_Own(REGIONS[kind]) for kind in KINDS)
        most = max(region.count() for region in REGIONS)
        chosen = torch.zeros(KEYPOINTS + LOCAL_LANDMARKS, PLACES, most)
        self.register_buffer("placing", torch.zeros(KEYPOINTS + LOCAL_LANDMARKS, PLACES * 3))
        for number, region in enumerate(REGIONS):
            chosen[[KEYPOINTS + row for row in region.points()], number, range(len(region.points()))] = PIXELS
        self.register_buffer("chosen", chosen.flatten(1))
        self.register_buffer("mean", torch.zeros(points + inputs))
        self.register_buffer("scale", torch.ones(points + inputs))
        self.register_buffer("depth", torch.zeros(KEYPOINTS + LOCAL_LANDMARKS, 1))
        window = torch.zeros(1, 1, *ATLAS)
        for region in REGIONS:
            sides = [_faded(size) for size in (region.height, region.width)]
            window[0, 0, region.top : region.top + region.height, region.left : region.left + region.width] = (
                sides[0][:, None] * sides[1]
            )
        derived = {
            "anchors": torch.tensor([[region.anchor()] for region in (*REGIONS, REGIONS[2], REGIONS[2])]),
            "window": window,
            "atlas_x": _unit(torch.arange(ATLAS[1], dtype=torch.float32), ATLAS[1]).repeat(1, ATLAS[0], 1),
        }
        for name, part in derived.items():
            self.register_buffer(name, part, persistent=False)
        # Where mouth and eyes come while the person moves: the rest of a frame is not read for them.
        self.register_buffer("bounds", torch.tensor([0, 0, NETWORK, NETWORK]))
        self.held: Bounds = (0, 0, NETWORK, NETWORK)
        x, y = _coarse(*self.held)
        self.register_buffer("frame_x", x, persistent=False)
        self.register_buffer("frame_y", y, persistent=False)

    # -- places --------------------------------------------------------------------------------------------------

    def places(self, points: torch.Tensor) -> Places:
        """Where the regions lie, for keypoints and local landmarks [N, K + M, 2]."""
        axes = _times(points.transpose(1, 2), self.placing).reshape(-1, 2, PLACES, 3)
        axes = axes.permute(0, 2, 3, 1).reshape(-1, 3, 2)
        turn, centre = axes[:, 0:2], axes[:, 2:3]
        back = invert(turn)
        return Places(turn, centre, back, _each(self.anchors, len(back)) - torch.bmm(centre, back))

    def spots(self, places: Places) -> torch.Tensor:
        """Frame coordinates of the atlas's texels: [N, h, w, 2]."""
        turn, centre = (part.unflatten(0, (-1, PLACES)) for part in (places.turn, places.centre))
        parts = []
        for kind, own in zip(KINDS, self.own, strict=True):
            region = own.region
            texels = torch.cartesian_prod(own.y[0, :, 0], own.x[0, 0]).flip(1) - self.anchors[kind]
            spots = (texels @ turn[:, kind] + centre[:, kind]) / PIXELS
            spots = spots.unflatten(2, (region.height, region.width)).transpose(1, 2)
            parts.append(spots.flatten(2, 3))
        return torch.cat(parts, 1)

    def reading(self, places: Places, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Where the frame's places are read in the atlas: [N, 2, H, W], -1..1; x [1, 1, W], y [1, H, 1] in its pixels.

        Outside a region it is read at the region's side, where the atlas is empty; right and left eye, eyes and mouth
        meet there.
        """
        count = len(REGIONS)
        turn = places.back.reshape(-1, PLACES, 2, 2)[:, :count].permute(2, 1, 3, 0).reshape(2, -1, 1, 1)
        shift = places.shift.reshape(-1, PLACES, 2)[:, :count].permute(1, 2, 0).reshape(-1, 1, 1)
        inside = x * turn[0] + (y * turn[1] + shift)
        right_x, right_y, left_x, left_y, mouth_x, mouth_y = _parts(inside, 2 * count)
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
            self.frame_x, self.frame_y = (axis.to(self.frame_x) for axis in _coarse(*bounds))

    def over(self, atlas: torch.Tensor, places: Places) -> tuple[torch.Tensor, Bounds]:
        """The atlas [N, 4, h, w] as it lies in the frame, RGBA: [N, 4, H, W], and what part of the frame that is."""
        if not torch.compiler.is_compiling():
            self.hold()
        where = self.reading(places, self.frame_x, self.frame_y)
        where = F.interpolate(where, size=self.held[2:], mode="bilinear", align_corners=True)
        return warp(atlas, where.permute(0, 2, 3, 1)), self.held

    # -- pictures ------------------------------------------------------------------------------------------------

    def registered(self, places: Places, points: torch.Tensor) -> list[torch.Tensor]:
        """The landmarks of regions in their own texels, kind by kind: [N · R, P, 2]."""
        pixels = _times(points.transpose(1, 2), self.chosen).reshape(-1, 2, PLACES, self.chosen.shape[1] // PLACES)
        texels = torch.bmm(pixels.permute(0, 2, 3, 1).reshape(len(places.back), -1, 2), places.back) + places.shift
        texels = texels.reshape(-1, PLACES, texels.shape[1], 2)
        return [texels[:, kind, : own.rest.shape[1]].flatten(0, 1) for kind, own in zip(KINDS, self.own, strict=True)]

    def heard(self, registered: list[torch.Tensor], asked: torch.Tensor) -> torch.Tensor:
        """What the decoder hears, before it is scaled: [N, inputs]."""
        return torch.cat([*(points.reshape(len(asked), -1) for points in registered), asked], 1)

    def forward(self, points: torch.Tensor, asked: torch.Tensor, places: Places) -> torch.Tensor:
        """The regions' pictures: RGB times opacity, and opacity, [N, 4, h, w].

        Args:
            points: keypoints and local landmarks, [N, K + M, 2].
            asked: what `Person.asked` makes of them.
            places: of these.
        """
        registered = self.registered(places, points)
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
        where = self._geometry(points, places, registered, correct)
        if self.training:  # only the cover is learned: told apart, the two warps take half the time of one
            skin, cover = warp(torch.cat([self.skin, self.shut], 1), where.skin), warp(self.cover, where.skin)
        else:
            skin = warp(torch.cat([self.skin, self.shut, self.cover], 1), where.skin)
            cover = skin[:, 6:7]
        opacity = (cover + painted[:, 3:4]) * self.window
        shown = skin[:, 0:3] + skin[:, 3:6] * where.shut.unsqueeze(1)
        colour = shown * opacity + painted[:, 0:3] * self.window
        opening = where.opening.unsqueeze(1) * self.window
        eyes, mouth = (slice(REGIONS[number].top, REGIONS[number].top + REGIONS[number].height) for number in (0, 2))
        iris, white = warp(self.iris, where.irises), self.interior[:, :, eyes]
        eyeball = white + (iris[:, 0:3] - white) * iris[:, 3:4] + painted[:, 4:7, eyes]
        teeth = torch.cat([self.teeth[:, :3] + painted[:, 4:7, mouth], _each(self.teeth[:, 3:], len(painted))], 1)
        tongue = over(warp(self.lower, where.jaw), warp(self.interior[:, :, mouth], where.tongue))
        cavity = over(warp(teeth, where.teeth), tongue)
        interior = torch.cat([eyeball, over(warp(self.rim, where.rims), cavity)], 2)
        atlas = torch.cat([colour + (interior - colour) * opening, opacity + opening - opacity * opening], 1)
        lashes = warp(self.lashes, where.lashes) * (where.shut[:, eyes].unsqueeze(1) * self.window[:, :, eyes])
        lid = atlas[:, :, eyes] - atlas[:, :, eyes] * lashes[:, 3:4] + lashes
        return torch.cat([lid, atlas[:, :, mouth]], 2)

    def _geometry(
        self, points: torch.Tensor, places: Places, registered: list[torch.Tensor], correct: torch.Tensor
    ) -> Geometry:
        parts, edges, at = [], [], 0
        for own, shown in zip(self.own, registered, strict=True):
            region, y = own.region, own.y[0:1]
            cells = own.count * 2 * len(own.from_cells)
            shifts = _times(correct[:, at : at + cells].reshape(-1, 2, len(own.from_cells)) * 4, own.from_cells)
            at += cells
            curves = own.curves(shown)
            opened, shut = curves[:, 1:3] + shifts, 0 * curves[:, 0:1]
            if region.iris is not None:
                closed = self._closed(shown)
                opened = torch.cat([opened[:, 0:1] + closed.clamp(0, 1) * COVERS, opened[:, 1:2]], 1)
                begun = ((closed - AJAR) * SHUTTING).clamp(0, 1)
                shut = begun * begun * (begun * -2 + 3.0) + shut
            curves = torch.cat([curves[:, 0:1], opened, curves[:, 3:4]], 1)
            upper, lower = opened[:, 0:1], opened[:, 1:2]
            across, rows = (_each(part, len(curves)) for part in (own.across, own.rows))
            opening = torch.sigmoid((y - upper) * STEEP) * torch.sigmoid((lower - y) * STEEP) * across
            skin = own.pulled(curves, rows).clamp(0, region.height - 1) + float(region.top)
            parts.append(torch.cat([opening, skin, shut * own.tall]))
            edges.append(upper)
        lashes, rims = self._lashes(edges[0]), self._rims(upper, lower)  # the mouth's, which comes last
        opening, skin, shut = _parts(_as_they_lie(*parts), 3)
        skin = _pair(_each(self.atlas_x, len(skin)), _unit(skin, ATLAS[0]))
        irises, inside = self._irises(registered[0], correct), self._in_the_mouth(points, places, registered[1])
        return Geometry(opening, skin, irises, *inside, rims, lashes, shut)

    def _closed(self, points: torch.Tensor) -> torch.Tensor:
        """How far upper lids came down, of the photo's opening, for eyes' points [N · 2, P, 2]: [N · 2, 1, 1]."""
        own = self.own[0]
        lid = range(1, len(own.region.curves[0]) - 1)
        come = sum(points[:, at : at + 1, 1:2] for at in lid) * (1 / len(lid)) - points[:, _LID:, 1:2]
        return come / _each(own.gap, len(points))

    def _irises(self, points: torch.Tensor, correct: torch.Tensor) -> torch.Tensor:
        """Where both irises are read in their picture, for the eyes' points [N · 2, P, 2]: [N, h, w, 2], -1..1."""
        own = self.own[0]
        rest, left = _each(own.rest[:, _IRIS:_LID], len(points)), _each(own.left, len(points))
        wide = own.region.wide()
        far = GLANCE * wide
        moved = (points[:, _IRIS:_LID] - rest).clamp(-far, far) + 4 * correct[:, -4:].reshape(-1, 1, 2)
        aside = moved[:, :, 0:1]
        narrowed = aside * aside * (0.5 / (EYEBALL * wide) ** 2) + 1.0
        rest_x = rest[:, :, 0:1]
        x = (((own.x - rest_x - aside) * narrowed + rest_x).clamp(0, own.region.width - 1) + left) * own.tall
        y = own.y[0:1] - moved[:, :, 1:2] + 0 * own.x
        x, y = _parts(_side_by_side(torch.cat([x, y])), 2)
        return _pair(_unit(x, ATLAS[1]), _unit(y, own.region.height))

    def _lashes(self, upper: torch.Tensor) -> torch.Tensor:
        """Where eyes are read in the picture of lashes, for the edges of lids [N · 2, 1, w]: [N, h, w, 2], -1..1."""
        rows = _side_by_side((self.own[0].y[0:1] - upper + ROOTS).clamp(0.0, LASHES - 1.0))
        return _pair(_each(self.atlas_x[:, : rows.shape[1]], len(rows)), _unit(rows, LASHES))

    def _rims(self, upper: torch.Tensor, lower: torch.Tensor) -> torch.Tensor:
        """Where a mouth is read in the picture of the lips' inner sides, at the nearer lip: [N, h, w, 2], -1..1."""
        mouth = self.own[1]
        y, last = mouth.y[0:1], RIM - 1.0
        above = (y - (upper - OUTSIDE)).clamp(0.0, last)
        below = (2 * RIM - 1.0) + (lower + OUTSIDE - y).clamp(0.0, last) * -1
        rows = _at_the_nearer(y, upper, lower, above, below)
        x = _unit(mouth.x * mouth.tall, ATLAS[1])
        return _pair(_each(x, len(rows)), _unit(rows, 2 * RIM))

    def _in_the_mouth(
        self, points: torch.Tensor, places: Places, shown: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Where a mouth is read in its pictures of upper teeth, of lower teeth, and of tongue and throat.

        Args:
            points: keypoints and local landmarks, [N, K + M, 2].
            places: of these.
            shown: the mouth's landmarks in its texels, [N, P, 2].

        Returns:
            Three fields [N, h, w, 2], -1..1.
        """
        turn, centre, back, _ = (part.reshape(-1, PLACES, *part.shape[1:]) for part in places)
        turned = torch.bmm(turn[:, 2], back[:, HEAD]).transpose(1, 2)  # rows: x, y
        own, (x, y) = self.own[1], REGIONS[2].anchor()
        right, down = own.x - x, own.y[0:1] - y
        height, width = own.region.height, own.region.width
        wide = own.region.wide()
        # Where something a mouth width farther away is seen, in texels of the head.
        deeper = torch.bmm(_times(points.transpose(1, 2), self.depth).transpose(1, 2), back[:, HEAD]).transpose(1, 2)
        aside, sunk = deeper[:, 0:1], deeper[:, 1:2]
        arches = []
        for place, arch in zip((HEAD, JAW), ARCHES, strict=True):
            shift = (torch.bmm(centre[:, 2] - centre[:, place], back[:, HEAD]) + self.anchors[2:3]).transpose(1, 2)
            columns, rows = (
                right * turned[:, axis : axis + 1, 0:1]
                + (down * turned[:, axis : axis + 1, 1:2] + shift[:, axis : axis + 1])
                for axis in (0, 1)
            )
            bent, across = deeper * (arch / wide**2), (columns - x).clamp(-wide, wide)
            # Newton's step from where a tooth is seen to where it stands in a flat row.
            steep = (across * bent[:, 0:1] * 2 + 1.0).clamp(0.5, 2.0)
            across = across - across * across * bent[:, 0:1] / steep
            stands = _unit(across + x, width), _unit(rows - across * across * bent[:, 1:2], height)
            arches.append(_pair(*stands).clamp(-1.0, 1.0))
        upper, lower = own.region.middles()
        gap = torch.bmm(turned[:, 1:2], (shown[:, lower : lower + 1] - shown[:, upper : upper + 1]).transpose(1, 2))
        # Columns and rows are those of the jaw, which came last.
        return arches[0], arches[1], self._on_the_tongue(columns, rows, aside, sunk, gap)

    def _on_the_tongue(
        self, columns: torch.Tensor, rows: torch.Tensor, aside: torch.Tensor, sunk: torch.Tensor, gap: torch.Tensor
    ) -> torch.Tensor:
        """Where a mouth is read in its picture of tongue and throat: [N, h, w, 2], -1..1.

        Args:
            columns: of the jaw, at the mouth's texels, [N, h, w].
            rows: likewise.
            aside: columns of the head by which something a mouth width farther away is seen elsewhere, [N, 1, 1].
            sunk: rows by which it is.
            gap: rows between the lips' middles.
        """
        region = self.own[1].region
        wide = region.wide()
        rise, drop = gap.clamp(0.0, GAPES * wide) * RISES + LOW * wide, sunk * BACK
        # From the side it is rise · sin(pi / 2 · t) high, t from tip to back; this is the highest that is seen of it.
        seen = (drop / (rise * 2)).clamp(0, 1) * -1 + 1.0
        tall = (rise * seen * seen + F.relu(drop * -1)).clamp(FLAT_TONGUE, float(region.height))
        along = (self.tip + sunk * BEHIND - rows) / tall
        columns = columns - aside * (along.clamp(0, 1) * BACK + BEHIND)
        return _pair(_unit(columns, region.width), (along + BELOW) * (-2 / TALL) + 1.0).clamp(-1.0, 1.0)

    # -- a person's own ------------------------------------------------------------------------------------------

    @torch.no_grad()
    def bind(self, points: torch.Tensor, depths: torch.Tensor, landmarks: torch.Tensor) -> None:
        """Store where a person's keypoints and local landmarks are in the photo.

        What lies deeper than the points that place it goes another way when the head turns: teeth and irises.

        Args:
            points: [1, K + M, 2].
            depths: of the keypoints, [K].
            landmarks: the photo's, [478, 3].
        """
        keypoints, local = points[0].split([KEYPOINTS, LOCAL_LANDMARKS])
        landmarks = landmarks.to(points)
        lips = landmarks[[13, 14], 2].mean()
        wide = (landmarks[topo.LEFT_MOUTH_CORNER] - landmarks[topo.RIGHT_MOUTH_CORNER]).norm()
        reference = lips + TEETH * wide
        behind = depths.to(points)[:, None] - reference
        # The affine map that fits the keypoints best takes the photo's x, y, 1 and depth to the frame's x and y.
        pose = torch.linalg.pinv(torch.cat([keypoints, torch.ones_like(behind), behind], 1), rtol=1e-3).T

        def carried(where: torch.Tensor, depth: torch.Tensor) -> torch.Tensor:
            """From keypoints to where the head alone would carry a place of the photo [2] that lies so deep: [K]."""
            return pose[:, :2] @ where + pose[:, 2] + pose[:, 3] * (depth - reference)

        placing = points.new_zeros(KEYPOINTS + LOCAL_LANDMARKS, PLACES, 3)
        of_pose, of_local = placing.split([KEYPOINTS, LOCAL_LANDMARKS])
        for number, region in enumerate(REGIONS):
            one, other = region.ends()
            of_local[[one, other], number, 0] = points.new_tensor([-1, 1]) / region.wide()
            of_local[[one, other], number, 2] = 0.5
            if region.span:
                above, below, rows = region.span
                of_local[[_AT[above], _AT[below]], number, 1] = points.new_tensor([-1, 1]) / rows
            else:
                along = (local[other] - local[one]) / region.wide()
                of_pose[:, number, 1] = pose[:, 1] * along[0] - pose[:, 0] * along[1]
        turn, centre = (local.T @ of_local[:, 2]).T.split([2, 1])
        mouth = REGIONS[2]
        meet = local[[mouth.points()[at] for at in mouth.middles()]].mean(0) - centre[0]
        _, row = mouth.anchor()
        self.tip.fill_(row + float(torch.linalg.solve(turn.T, meet)[1]) + TIP * mouth.wide())
        for place in (HEAD, JAW):
            of_pose[:, place, :2] = pose[:, :2] @ turn.T
            of_pose[:, place, 2] = carried(centre[0], reference)
        # The jaw goes as far as the lower lip and the chin leave the head, on average.
        for landmark in MANDIBLE:
            of_local[_AT[landmark], JAW, 2] += 1 / len(MANDIBLE)
            of_pose[:, JAW, 2] -= carried(local[_AT[landmark]], landmarks[landmark, 2]) / len(MANDIBLE)
        self.placing.copy_(placing.flatten(1) * PIXELS)
        self.depth[:KEYPOINTS, 0] = pose[:, 3] * wide * PIXELS
        chosen = self.chosen.unflatten(1, (PLACES, -1))
        for number, region in enumerate(REGIONS[:2]):
            assert region.iris is not None
            rim = landmarks[[landmark for curve in region.curves for landmark in curve]]
            eye = (rim[0] - rim[len(region.curves[0]) - 1])[:2].norm()
            deeper = rim[:, 2].mean() + PUPIL * eye - landmarks[region.iris, 2]
            chosen[:KEYPOINTS, number, len(region.points()) - 1] = pose[:, 3] * deeper * PIXELS
            depth = landmarks[list(region.curves[0][1:-1]), 2].mean()
            lid = carried(local[region.upper_lid()].mean(0), depth)
            chosen[:KEYPOINTS, number, len(region.points())] = lid * PIXELS
            ring = landmarks[region.iris + 1 : region.iris + 5, :2] - landmarks[region.iris, :2]
            self.own[0].radius[number] = (ring.norm(dim=1).mean() / eye).clamp(min=0.12)

    @torch.no_grad()
    def settle(self, points: torch.Tensor, asked: torch.Tensor) -> None:
        """Take means, spreads, mean curves and bounds from a track of T poses [T, K + M, 2]."""
        places = self.places(points)
        registered = self.registered(places, points)
        heard = self.heard(registered, asked)
        spread = heard.std(0)
        halves = torch.arange(len(spread), device=spread.device) < heard.shape[1] - asked.shape[1]
        for half in (halves, ~halves):  # texels, and crop coordinates
            spread[half] = spread[half].clamp(min=0.03 * float(spread[half].max()) + 1e-6)
        self.mean.copy_(heard.mean(0))
        self.scale.copy_(1 / spread)
        for own, shown in zip(self.own, registered, strict=True):
            own.still.zero_()  # the photo says where (`take_pictures`)
            region, columns = own.region, own.x[0, 0]
            own.rest.copy_(shown.unflatten(0, (-1, own.count)).mean(0))
            length = len(region.curves[0])
            weights = own.weights.unflatten(2, (CURVES, region.width))
            for row, rest in enumerate(own.rest):
                for number in range(len(region.curves)):
                    curve = slice(number * length, (number + 1) * length)
                    x = torch.cummax(rest[curve, 0] + 1e-3 * torch.arange(length).to(columns), 0).values
                    place = number + (CURVES - len(region.curves)) // 2
                    weights[row, curve, place] = through(x, columns).T
                    own.steep[row, curve, curve] = slope(x).T
            own.rows.copy_(own.curves(own.rest))
            _, first, last = region.corners
            own.across.copy_((torch.sigmoid(columns - first) * torch.sigmoid(last - columns)).expand_as(own.across))
        pixels = (self.spots(places)[:, self.window[0, 0] > 0.05] + 1) * PIXELS
        low, high = pixels.flatten(0, 1).amin(0), pixels.flatten(0, 1).amax(0)
        low = (((low - BEYOND) / 8).floor() * 8).clamp(0, NETWORK - 64)
        high = torch.maximum((((high + BEYOND) / 8).ceil() * 8).clamp(0, NETWORK), low + 64)
        self.bounds.copy_(torch.stack([low[1], low[0], (high - low)[1], (high - low)[0]]).long())

    @torch.no_grad()
    def take_pictures(self, photo: torch.Tensor, points: torch.Tensor) -> None:
        """Skin and eyes from the photo [1, 3, 512, 512], whose points are [1, K + M, 2]; irises rest where they are."""
        places = self.places(points)
        spots = self.spots(places)
        crops = F.grid_sample(photo, spots, padding_mode="border", align_corners=True)
        self.interior.copy_(crops)
        self.iris[:, :3], self.lower[:, :3] = crops.split([REGIONS[2].top, REGIONS[2].height], 2)
        self.lower[:, 3] = 1
        # The photo's curves are pulled to where the mean ones are.
        parts = []
        for own, shown in zip(self.own, self.registered(places, points), strict=True):
            curves = own.curves(shown)
            if own.region.iris is not None:
                own.rest[:, _IRIS] = shown[:, _IRIS]
                upper, lower = curves[:, 1], curves[:, 2]
                own.still[:, 0] = (upper - STILL).clamp(min=2)
                own.still[:, -1] = (lower + STILL).clamp(max=own.region.height - 3)
                length = len(own.region.curves[0])
                gaps = shown[:, length + 1 : 2 * length - 1, 1] - shown[:, 1 : length - 1, 1]
                own.gap.copy_(gaps.mean(1).clamp(min=1)[:, None, None])
                for some in (curves, own.rows):
                    some += own.still
            parts.append(own.pulled(own.rows, curves) + own.region.top)
        pulled = _pair(self.atlas_x, _unit(_as_they_lie(*parts), ATLAS[0]))
        read = warp(spots.permute(0, 3, 1, 2), pulled).permute(0, 2, 3, 1)
        skin = F.grid_sample(photo, read, mode="bicubic", padding_mode="border", align_corners=True)
        self.skin.copy_(sharpened(skin, (1, 2)).clamp(0, 1))
        self.cover.fill_(1)
        eyes = self.own[0]
        away = torch.hypot(eyes.x - eyes.rest[:, _IRIS:_LID, 0:1], eyes.y[0:1] - eyes.rest[:, _IRIS:_LID, 1:2])
        discs = (LIMBUS * eyes.region.wide() * eyes.radius - away + 0.5).clamp(0, 1)
        self.iris[:, 3] = _side_by_side(discs)

    def lids(self) -> torch.Tensor:
        """What of both eyes' skin is the upper lid, 0..1: [1, 1, h, w], h rows of eyes."""
        eyes = self.own[0]
        y, upper, lower = eyes.y[0:1], eyes.rows[:, 1:2], eyes.rows[:, 2:3]
        lids = ((y - eyes.still[:, 0:1]) / 4).clamp(0, 1) * (((upper + lower) / 2 - y) / 2 + 0.5).clamp(0, 1)
        return _side_by_side(lids)[None]

    def geometry(self, points: torch.Tensor) -> Geometry:
        """What `_geometry` finds for keypoints and local landmarks [N, K + M, 2] alone."""
        places = self.places(points)
        nothing = self.correct.bias.new_zeros(len(points), len(self.correct.bias))
        return self._geometry(points, places, self.registered(places, points), nothing)


def _faded(size: int) -> torch.Tensor:
    """1 inside, 0 at both ends: [size]."""
    at = torch.arange(size)
    return (torch.minimum(at, size - 1 - at) / (FEATHER * size)).clamp(max=1)


def sharpened(pictures: torch.Tensor, readings: tuple[int, int]) -> torch.Tensor:
    """Pictures [N, C, h, w] that lose no sharpness when they are read bilinearly so many times, across and down."""
    across, down = (torch.tensor([-0.5, 1.0, -0.5]) * SHARPER * count for count in readings)
    across[1], down[1] = across[1] + 1, down[1] + 1
    channels = pictures.shape[1]
    kernel = torch.outer(down, across).to(pictures).expand(channels, 1, -1, -1)
    return F.conv2d(F.pad(pictures, (1, 1, 1, 1), mode="replicate"), kernel, groups=channels)


def _twice(x: torch.Tensor) -> torch.Tensor:
    return F.interpolate(x, size=(2 * x.shape[2], 2 * x.shape[3]), mode="bilinear", align_corners=False)


def _unit(texels: torch.Tensor, size: int) -> torch.Tensor:
    """Texels of a side of `size` as -1..1."""
    return texels * (2 / (size - 1)) - 1.0


def _pair(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Planes [N, h, w] as places [N, h, w, 2]."""
    return torch.cat([x.unsqueeze(3), y.unsqueeze(3)], 3)


def _side_by_side(eyes: torch.Tensor) -> torch.Tensor:
    """Planes of two eyes, [N · 2, h, w] → [N, h, 2 · w]."""
    eyes = eyes.reshape(-1, 2, *eyes.shape[1:]).transpose(1, 2)
    return eyes.reshape(len(eyes), eyes.shape[1], -1)


def _as_they_lie(eyes: torch.Tensor, mouth: torch.Tensor) -> torch.Tensor:
    """Planes of eyes [N · 2, h, w] side by side, those of mouths [N, h, w] below: [N, h, w] of the atlas."""
    return torch.cat([_side_by_side(eyes), mouth], 1)


def _coarse(top: int, left: int, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels of a part of the frame, from its middle, one in `COARSE`, corners on the part's corners.

    Columns [1, 1, W] and rows [1, H, 1].
    """
    x = torch.linspace(left - PIXELS, left + width - 1 - PIXELS, width // COARSE)
    y = torch.linspace(top - PIXELS, top + height - 1 - PIXELS, height // COARSE)
    return x[None, None], y[None, :, None]


def _some(rows: torch.Tensor) -> torch.Tensor:
    """Half a row at least; a clamp without an upper end would be a clamp to what fp16 does not hold."""
    return F.relu(rows - 0.5) + 0.5
