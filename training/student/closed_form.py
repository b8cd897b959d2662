"""A student's start, found in closed form from the teacher's rendered track: layers, and what they follow.

The teacher's field jumps at the head's outline: inside it the photo moves, outside it rests. A coarse field cannot
place that jump, but a matte warped at full resolution can. So the field is extended beyond the outline as if the
whole plane moved with the head (`extend_field`), the matte says which source pixels move (`find_matte`), and
the canvas collects what is seen at rest (`find_canvas`). Where all of a teacher's picture moves, nothing rests and
all of this leaves the field as it is.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from edge.spec import FIELD, KEYPOINTS, NETWORK
from training.student.blocks import over, warp
from training.student.person import Person, identity_grid
from training.student.regions import REGIONS, RIM, Regions, sharpened

REST = 0.6 * 2 / (NETWORK - 1)
"""Displacement below which a cell rests: 0.6 pixels."""
RIDGE = 1e-2
"""Weight of the ridge that holds down how much a cell follows each point."""
SEEN = 0.25
"""Share of the frames that must show a cell of the photo moving, for it to follow as found."""
SPLAT = 256
"""Width and height of the picture whose pixels say where cells of the photo have gone."""
CAVITY_ROUNDS = 3
"""Times that tongue, teeth and the lips' inner sides are told apart."""
CAVITY_FRAMES = 240
"""Frames of the track that do."""
EDGE = 4
"""Rows of an inner side, from its lip on, that are continued from below where they are not seen."""
COVER_BLUR, COVERED, DECIDED = 5, 1e-4, 3.0
"""Texels across which skin covers the frame alike, the squared difference below which it covers it anyway, and how much
it is rather one of both: half of each, a little beside each other, is soft."""
TEETH_FAINT, LASH_FAINT = 0.1, 0.25
"""Opacity that is none; twice as much is all that was found."""
SHARP = (4, 4)
"""Readings, across and down, that take their sharpness from what is laid down and read again, and half a texel of
misplacement."""
MEET = 4
"""Texels beyond the line between a mouth's corners to which upper and lower teeth reach, at first guess."""
TEETH_BLUR = (2, 2)
LASH_BLUR = (0, 1)
RIM_BLUR = (0, 2)
"""Rows and columns to either side that tell of upper teeth, of lashes, or of an inner side, too."""
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
        made = canvas + warp(matte, grid) * (warp(photo, grid) - canvas)
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
    with torch.no_grad():
        person.regions.settle(points, person.asked(points, person.offsets(points)))
        person.regions.take_pictures(photo, person.source_points)


def fit_codes(person: Person, points: torch.Tensor) -> None:
    """Expression codes of unit spread: principal components of the points' offsets over the training track.

    Args:
        person: bound; its `express` is set.
        points: float32 [T, K + M, 2], driving keypoints and local landmarks.
    """
    express = person.express
    with torch.no_grad():
        offsets = person.offsets(points).flatten(1)
        mean = offsets.mean(0)
        _, spread, axes = torch.linalg.svd(offsets - mean, full_matrices=False)
        count = min(len(express.weight), len(spread))
        # Components that hardly move would only amplify the landmarks' noise.
        spread = (spread / math.sqrt(len(offsets))).clamp(min=0.01 * float(spread[0]) / math.sqrt(len(offsets)) + 1e-6)
        express.weight.zero_()
        express.weight[:count] = axes[:count] / spread[:count, None]
        express.bias.copy_(-express.weight @ mean)


def fit_follow(person: Person, points: torch.Tensor, field: torch.Tensor, moving: torch.Tensor) -> None:
    """How much each cell of the photo follows each point: ridge regression over the track, both axes together.

    A cell learns from the frames that show it. Cells that hardly any frame shows, or that rest, follow what those
    around them follow, so that the plane goes on beyond the head's outline as it ended there: what led a cell of the
    frame across that outline would show hair twice.

    Args:
        person: bound; its `follow` is set.
        points: float32 [T, K + M, 2], driving keypoints and local landmarks.
        field: float32 [T, 64, 64, 2], extended.
        moving: float32 [T, 64, 64, 1].
    """
    cells, count = person.follow.weight.shape
    products, asked, support = (field.new_zeros(cells, *size) for size in ((count**2,), (count,), ()))
    with torch.no_grad():
        for some, seen, moves in zip(points.split(64), field.split(64), moving.split(64), strict=True):
            pose = person.pose(some[:, :KEYPOINTS])
            pulls = person.pulls(person.pose.align(some, pose) - person.source_points, pose)
            back, shown = _ways_back(person, pose, seen, moves)
            products += shown.T @ torch.einsum("tap,taq->tpq", pulls, pulls).flatten(1)
            asked += torch.einsum("tc,tac,tap->cp", shown, back, pulls)
            support += shown.sum(0)
        grams = products.view(-1, count, count) + RIDGE * torch.eye(count).to(points)
        weights = torch.cat(
            [
                torch.linalg.solve(gram.double(), wanted.double())
                for gram, wanted in zip(grams.split(512), asked.split(512), strict=True)
            ]
        )
        known = (support / len(points)).clamp(max=1) * (support > SEEN * len(points))
        maps = _fill(torch.cat([weights.float().T * known, known[None]]).view(1, -1, FIELD, FIELD))
        person.follow.weight.copy_(maps[0].flatten(1).T)


def fit_closeups(person: Person, points: torch.Tensor, shown: torch.Tensor, drafts: torch.Tensor) -> None:
    """What lies behind lids and lips, shut lids, and how much of the frame they cover, as the track shows them.

    Teeth rest in the head, irises go with their landmarks, a lid is a picture that its curves pull: in places of their
    own a mean over the track has teeth, pupils and lashes.

    Args:
        person: its `regions` are fitted; their `interior`, `iris`, `lower`, `teeth`, `rim`, `shut`, `cover`, `lashes`
            are set.
        points: float32 [T, K + M, 2], driving keypoints and local landmarks.
        shown: uint8 [T, 3, h, w], the teacher's frames as they lie in the atlas.
        drafts: as `shown`, what the frame has there without regions.
    """
    regions, top = person.regions, REGIONS[2].top
    discs = regions.iris[:, 3:]

    def pictures(channels: int, like: torch.Tensor) -> torch.Tensor:
        return points.new_zeros(1, channels, *like.shape[2:])

    with torch.no_grad():
        shut, ajar = (pictures(4, regions.skin) for _ in range(2))
        white, irises = (pictures(4, regions.iris) for _ in range(2))
        mouths = []
        for some, frames in zip(points.split(32), shown.split(32), strict=True):
            where, colours = regions.geometry(some), frames / 255
            opening, eyes = where.opening[:, None], torch.cat([colours, torch.ones_like(colours[:, :1])], 1)[:, :, :top]
            skin, closed = (1 - opening[:, :, :top] * 10).clamp(0, 1), where.shut[:, None, :top]
            open_ = (opening[:, :, :top] * 10 - 9).clamp(0, 1)
            iris = open_ * warp(discs, where.irises).round()
            shut += _lay_down(eyes, skin * (closed * 10 - 9).clamp(0, 1), where.skin[:, :top], shut)
            ajar += _lay_down(eyes, skin * (1 - closed * 10).clamp(0, 1), where.skin[:, :top], ajar)
            irises += _lay_down(eyes, iris, where.irises, irises)
            white += (eyes * (open_ - iris)).sum(0)
            few = slice(None, None, max(1, len(points) // CAVITY_FRAMES))
            fields = where.jaw[few], where.tongue[few], where.teeth[few], where.rims[few]
            mouths.append(_Mouths(colours[few, :, top:], opening[few, :, top:], *fields))
        regions.interior[:, :, :top] = _fill(white / 16)
        regions.iris[:, :3] = sharpened(_fill(irises / 16), SHARP).clamp(0, 1)
        # A lid is its mean. Around it two means, as blurred as each other, tell what shuts, and the skin stays sharp.
        known, seen = ((sums[:, 3:, :top] / 8 - 1).clamp(0, 1) for sums in (shut, ajar))
        means = [sums[:, :3, :top] / sums[:, 3:, :top].clamp(min=1) for sums in (shut, ajar)]
        rest = regions.skin[:, :, :top]
        regions.shut[:, :, :top] = known * (means[0] - rest - (1 - regions.lids()) * seen * (means[1] - rest))

        _tell_mouths(regions, mouths)
        regions.cover.copy_(_cover(person, points, shown, drafts))
        regions.lashes.copy_(_lashes(person, points, shown[:, :, :top], drafts[:, :, :top]))


def _cover(person: Person, points: torch.Tensor, shown: torch.Tensor, drafts: torch.Tensor) -> torch.Tensor:
    """How much skin covers the frame below, [1, 1, h, w]: where that shows less. Brows rest in the skin and move there.

    Least squares, texel by texel; the arguments are those of `fit_closeups`.
    """
    regions = person.regions
    sums = points.new_zeros(1, 2, *regions.skin.shape[2:])
    for some, frames, below in zip(points.split(32), shown.split(32), drafts.split(32), strict=True):
        where, draft = regions.geometry(some), below / 255
        skin = warp(torch.cat([regions.skin, regions.shut], 1), where.skin)
        gained = skin[:, :3] + skin[:, 3:] * where.shut[:, None] - draft
        seen = torch.stack([(gained * (frames / 255 - draft)).sum(1), gained.square().sum(1)], 1)
        sums += _lay_down(seen, (1 - where.opening[:, None] * 10).clamp(0, 1), where.skin, sums)
    wanted, gained = F.avg_pool2d(sums / len(points), COVER_BLUR, 1, COVER_BLUR // 2).split(1, 1)
    share = (wanted + COVERED) / (gained + COVERED)
    return (0.5 + DECIDED * (share - 0.5)).clamp(0, 1)


def _lashes(person: Person, points: torch.Tensor, shown: torch.Tensor, drafts: torch.Tensor) -> torch.Tensor:
    """Lashes of shut lids [1, 4, h, w], RGB times opacity and opacity, before all that regions draw so far.

    The arguments are those of `fit_closeups`, of eyes alone.
    """
    regions, top = person.regions, shown.shape[2]
    sums = points.new_zeros(1, 9, *regions.lashes.shape[2:])
    for some, frames, below in zip(points.split(32), shown.split(32), drafts.split(32), strict=True):
        where, draft = regions.geometry(some), below / 255
        atlas = person.closeups(some, person.asked(some, person.offsets(some)))[0][:, :, :top]
        drawn = over(atlas, draft)
        closed = (where.shut[:, None, :top] * 10 - 9).clamp(0, 1)
        sums += _lay_down(_moments(drawn, frames / 255), closed, where.lashes, sums)
    lashes, known = _regress(sums, LASH_BLUR)
    lashes = sharpened(known * _without(LASH_FAINT, lashes), SHARP).clamp(0, 1)
    lashes[:, :, [0, -1]] = 0  # what is read beyond them
    return lashes


class _Mouths(NamedTuple):
    """Mouths of some frames: colours [N, 3, h, w] in 0..1, openings [N, 1, h, w], and fields of `Geometry`."""

    colours: torch.Tensor
    opening: torch.Tensor
    jaw: torch.Tensor
    tongue: torch.Tensor
    teeth: torch.Tensor
    rims: torch.Tensor


def _tell_mouths(regions: Regions, mouths: list[_Mouths]) -> None:
    """Tongue and throat, lower teeth, upper teeth and the lips' inner sides, each before the last: told apart by turns.

    At first all above where lips meet counts as upper teeth, all below as lower ones. Then each picture is what the
    others leave.
    """
    tongue = regions.interior[:, :, REGIONS[2].top :]
    _, row = REGIONS[2].anchor()
    for picture, rows in (
        (regions.teeth, slice(0, round(row) + MEET)),
        (regions.lower, slice(round(row) - MEET, None)),
    ):
        picture.zero_()
        picture[:, 3, rows] = 1
    layers = (regions.lower, "jaw"), (regions.teeth, "teeth"), (regions.rim, "rims")

    def behind(mouth: _Mouths, last: int) -> torch.Tensor:
        """What is drawn before that layer: RGB."""
        drawn = warp(tongue, mouth.tongue)
        for picture, field in layers[:last]:
            drawn = over(warp(picture, getattr(mouth, field)), drawn)
        return drawn

    def left(mouth: _Mouths, first: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Colours that layers from that one on, which lie before all others, leave to these, and how clear they are."""
        drawn = mouth.colours.new_zeros(1, 4, 1, 1)
        for picture, field in layers[first:]:
            read = warp(picture, getattr(mouth, field))
            drawn = read + drawn * (1 - read[:, 3:4])
        clear = 1 - drawn[:, 3:4]
        return (mouth.colours - drawn[:, :3]) / clear.clamp(min=0.1), clear

    for _ in range(CAVITY_ROUNDS):
        sums = tongue.new_zeros(1, 4, *tongue.shape[2:])
        for mouth in mouths:
            colours, clear = left(mouth, 0)
            weight = (mouth.opening * 10 - 9).clamp(0, 1) * clear.square()
            sums += _lay_down(torch.cat([colours, torch.ones_like(clear)], 1), weight, mouth.tongue, sums)
        # Rows of a mouth stand open by more than a row of the jaw: two readings of smoothing close what they leave.
        sums = F.avg_pool2d(F.avg_pool2d(F.pad(sums, (0, 0, 1, 1)), (2, 1), 1), (2, 1), 1)
        tongue.copy_(_fill(sums / 16))  # what two frames show counts as seen
        for number, (picture, field) in enumerate(layers[:-1]):
            sums = tongue.new_zeros(1, 9, *picture.shape[2:])
            for mouth in mouths:
                colours, clear = left(mouth, number + 1)
                weight = (mouth.opening * 10 - 9).clamp(0, 1) * clear.square()
                sums += _lay_down(_moments(behind(mouth, number), colours), weight, getattr(mouth, field), sums)
            teeth, known = _regress(sums, TEETH_BLUR, clear=0.0)
            picture.copy_(known * _without(TEETH_FAINT, teeth))
        sums = tongue.new_zeros(1, 9, *regions.rim.shape[2:])
        for mouth in mouths:
            moments = _moments(behind(mouth, len(layers) - 1), mouth.colours)
            sums += _lay_down(moments, (mouth.opening * 2 - 1).clamp(0, 1), mouth.rims, sums)
        regions.rim.copy_(_rims(sums))
    tongue.copy_(sharpened(tongue, (SHARP[0], SHARP[1] + 2)).clamp(0, 1))
    for picture in (regions.lower, regions.teeth):
        picture.copy_(sharpened(picture, SHARP).clamp(0, 1))


def _moments(behind: torch.Tensor, colours: torch.Tensor) -> torch.Tensor:
    """What `_regress` takes the sums of, frames' colours and what lies behind, each [N, 3, h, w]: [N, 9, h, w]."""
    products = torch.cat([behind * behind, behind * colours], 1).unflatten(1, (2, 3)).sum(2)
    return torch.cat([torch.ones_like(behind[:, :1]), behind, colours, products], 1)


def _regress(sums: torch.Tensor, around: tuple[int, int], clear: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """A picture [1, 4, h, w], RGB times opacity and opacity, out of what was seen, and how well it is known, 0..1.

    Colours are (1 - opacity) · what lies behind + opacity · the picture's own: a regression on what lies behind, over
    all frames. Opacity is that of all texels around, for steadiness; colours are each texel's own.

    Args:
        sums: [1, 9, h, w], of `_moments`, over frames: weight, what lies behind (3), colours (3), products over
            channels of what lies behind with itself and with the colours.
        around: rows and columns to either side.
        clear: how clear the picture is, 0..1, where what lies behind never changes.
    """
    weight = sums[:, :1]
    behind, colours, squares, products = (sums[:, 1:] / weight.clamp(min=1e-3)).split([3, 3, 1, 1], 1)
    spread = (squares - behind.square().sum(1, keepdim=True)).clamp(min=0)
    together = products - (behind * colours).sum(1, keepdim=True)
    size = tuple(2 * texels + 1 for texels in around)
    weight, spread, together = (
        F.avg_pool2d(part, size, 1, around) for part in (weight, spread * weight, together * weight)
    )
    clear = ((together + clear * 1e-3 * weight) / (spread + 1e-3 * weight).clamp(min=1e-6)).clamp(0, 1)
    return torch.cat([(colours - clear * behind).clamp(min=0), 1 - clear], 1), (weight / 4 - 1).clamp(0, 1)


def _without(faint: float, picture: torch.Tensor) -> torch.Tensor:
    """A picture [1, 4, h, w], RGB times opacity and opacity, of which that much opacity is none, and twice it all."""
    return picture * ((picture[:, 3:] - faint) / faint).clamp(0, 1)


def _rims(sums: torch.Tensor) -> torch.Tensor:
    """Inner sides of lips [1, 4, h, w], RGB times opacity and opacity, out of sums as in `_regress`."""
    rim, known = _regress(sums, RIM_BLUR)
    deep = torch.arange(sums.shape[2], device=sums.device)
    deep = torch.minimum(deep, deep.flip(0))[:, None]
    # Where the opening begins, little is clearly open. Deep inside are teeth, which a regression softens.
    rim = torch.where(deep < EDGE, _fill(torch.cat([rim * known, known], 1)), rim * known)
    return rim * ((RIM - 1 - deep) / (RIM - EDGE - 1)).clamp(0, 1)


def _lay_down(values: torch.Tensor, weight: torch.Tensor, field: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Weighted values [N, C, h, w] laid down where a field [N, h, w, 2] has read them: sums [1, C, H, W] over frames.

    Args:
        values: what a frame shows.
        weight: [N, 1, h, w]; where it is 0, which is most of a frame, nothing is computed.
        field: -1..1.
        like: [1, any, H, W].
    """
    height, width = like.shape[2:]
    frames, rows, columns = weight[:, 0].nonzero(as_tuple=True)
    values = values[frames, :, rows, columns] * weight[frames, :, rows, columns]
    places = (field[frames, rows, columns] + 1) * ((torch.tensor([width, height]).to(values) - 1) / 2)
    total = values.new_zeros(height * width, values.shape[1])
    for cell, share in _nearest(places[:, 0:1], places[:, 1:2], (height, width)):
        total.index_add_(0, cell[:, 0], values * share)
    return total.T.reshape(1, -1, height, width)


def _ways_back(
    person: Person, pose: tuple[torch.Tensor, torch.Tensor], field: torch.Tensor, moving: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Which way cells of the photo have to go to be back, in the source's frame, and which are seen: [N, 2 or 1, 4096].

    A field says where pixels of the frame came from; here each is laid down at the cell of the photo that it came
    from.
    """
    fine = F.interpolate(field.permute(0, 3, 1, 2), (SPLAT, SPLAT), mode="bilinear", align_corners=True)
    weight = F.interpolate(moving.permute(0, 3, 1, 2), (SPLAT, SPLAT), mode="nearest").flatten(2)
    came_from = fine.flatten(2)
    there = person.pose.align(identity_grid(SPLAT).to(field).flatten(1, 2), pose).mT
    cells = (came_from + 1) * ((FIELD - 1) / 2)
    total = _splat(torch.cat([(came_from - there) * weight, weight], 1), cells, (FIELD, FIELD)).flatten(2)
    back, weight = total[:, :2], total[:, 2]
    return back / weight[:, None].clamp(min=1e-6), (weight * (FIELD / SPLAT) ** 2).clamp(max=1)


def _splat(values: torch.Tensor, places: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Values [N, C, P] laid down at places (x, y) [N, 2, P], shared by the four nearest cells: sums [N, C, *size]."""
    total = values.new_zeros(*values.shape[:2], size[0] * size[1])
    for cell, share in _nearest(places[:, 0:1], places[:, 1:2], size):
        total.scatter_add_(2, cell.expand_as(values), values * share)
    return total.view(*values.shape[:2], *size)


def _nearest(x: torch.Tensor, y: torch.Tensor, size: tuple[int, int]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The four cells nearest to places x, y (any shape): each one's number in a map of that size, and its share."""
    height, width = size
    left, top = x.floor(), y.floor()
    for right in (0, 1):
        for below in (0, 1):
            column, row = left + right, top + below
            within = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            share = (1 - right - (x - left)).abs() * (1 - below - (y - top)).abs() * within
            yield (row * width + column).clamp(0, height * width - 1).long(), share


def _fill(maps: torch.Tensor) -> torch.Tensor:
    """Maps [1, C + 1, h, w], the last how well a cell is known and the others times that: [1, C, h, w], gaps filled.

    From what is around them, near before far.
    """
    levels = [maps]
    while min(levels[-1].shape[2:]) > 1:
        levels.append(F.avg_pool2d(levels[-1], 2))
    filled = levels[-1][:, :-1] / levels[-1][:, -1:].clamp(min=1e-6)
    for level in reversed(levels[:-1]):
        around = F.interpolate(filled, level.shape[2:], mode="bilinear", align_corners=False)
        own, known = level[:, :-1] / level[:, -1:].clamp(min=1e-6), (8 * level[:, -1:]).clamp(max=1)
        filled = known * own + (1 - known) * around
    return filled
