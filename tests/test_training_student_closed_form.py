import copy

import numpy as np
import pytest
import torch
from sliding_teacher import SlidingTeacher, sliding_identity, sliding_track

from edge.driving.procedural import procedural_track, train_seed
from edge.spec import FIELD, KEYPOINTS, NETWORK
from edge.topology import LOCAL
from training.config import TIERS
from training.student.blocks import over, warp
from training.student.closed_form import (
    extend_field,
    find_canvas,
    find_inside,
    find_matte,
    fit_closeups,
    fit_codes,
    fit_follow,
    fit_regions,
    moving_cells,
)
from training.student.cost import student_config
from training.student.network import Student
from training.student.person import NEAREST, identity_grid
from training.student.regions import LASHES, REGIONS


@pytest.fixture(scope="module")
def rendered(faces):
    """Identity, landmarks and rendering of a short sliding track."""
    identity = sliding_identity(faces[0])
    landmarks = torch.from_numpy(sliding_track(faces[0], 24, seed=0))
    return identity, landmarks, SlidingTeacher().render(identity, landmarks)


def test_the_inside_of_a_matte_has_no_holes():
    matte = torch.zeros(1, 1, NETWORK, NETWORK)
    matte[..., 100:300, 100:300] = 1
    matte[..., 200:204, 150:250] = 0  # a mouth
    inside = find_inside(matte, 16)
    assert inside[..., 116:284, 116:284].all()
    assert inside.sum() == 168**2


def test_moving_cells_are_the_disc(rendered):
    _, _, rendering = rendered
    moving = moving_cells(rendering.motion_field, rendering.occlusion)
    shift = (rendering.motion_field - identity_grid(FIELD)).norm(dim=-1, keepdim=True)
    assert torch.equal(moving, (shift > 0.6 * 2 / (NETWORK - 1)).float())
    assert 0.1 < moving.mean() < 0.3


def test_extension_carries_the_slide_over_the_whole_plane(rendered):
    _, _, rendering = rendered
    moving = moving_cells(rendering.motion_field, rendering.occlusion)
    extended = extend_field(rendering.motion_field, moving)
    slide = (rendering.motion_field - identity_grid(FIELD)).flatten(1, 2)[:, 32 * FIELD + 32 :][:, :1]
    inside = (rendering.motion_field - identity_grid(FIELD)) * moving
    slide = inside.flatten(1, 2).sum(1) / moving.flatten(1).sum(1, keepdim=True)
    wanted = identity_grid(FIELD) + slide.view(-1, 1, 1, 2)
    torch.testing.assert_close(extended, wanted, atol=2e-3, rtol=0)


def test_fields_without_motion_stay_as_they_are():
    field = identity_grid(FIELD).repeat(2, 1, 1, 1)
    assert torch.equal(extend_field(field, torch.zeros(2, FIELD, FIELD, 1)), field)
    assert torch.equal(find_matte(field, torch.zeros(2, FIELD, FIELD, 1)), torch.ones(1, 1, NETWORK, NETWORK))


def test_matte_and_canvas_tell_disc_from_ground(rendered, faces):
    identity, _, rendering = rendered
    moving = moving_cells(rendering.motion_field, rendering.occlusion)
    matte = find_matte(rendering.motion_field, moving)
    nose = identity.source_landmarks[1, :2]
    away = (identity_grid(NETWORK) - nose).norm(dim=-1)[0]
    assert matte[0, 0][away < 0.45].mean() > 0.9
    assert matte[0, 0][away > 0.6].mean() < 0.1
    frames = (rendering.frames * 255).round().to(torch.uint8).numpy()
    canvas = find_canvas(frames, moving, identity.source_image[None])
    assert (canvas[0][:, away > 0.8] - 0.5).abs().max() < 0.01


def test_what_follows_what_is_found_in_slides(rendered, faces):
    identity, landmarks, rendering = rendered
    torch.manual_seed(0)
    student = Student.untrained(student_config(TIERS["nano"])).bind(identity)
    moving = moving_cells(rendering.motion_field, rendering.occlusion)
    field = extend_field(rendering.motion_field, moving)

    def points(track):
        keypoints = track[:, torch.from_numpy(LOCAL[2 : 2 + KEYPOINTS]), :2]
        return torch.cat([keypoints, track[:, torch.from_numpy(LOCAL), :2]], 1)

    fit_follow(student.person, points(landmarks), field, moving)
    unseen = torch.from_numpy(sliding_track(faces[0], 4, seed=1))
    wanted = SlidingTeacher().render(identity, unseen)
    asked = points(unseen)
    with torch.no_grad():
        found = student.motion(asked[:, :KEYPOINTS], asked[:, KEYPOINTS:]).field
    moves = moving_cells(wanted.motion_field, wanted.occlusion)
    distance = (found - wanted.motion_field).norm(dim=-1, keepdim=True) * NETWORK / 2
    assert ((distance * moves).sum() / moves.sum()).item() < 1.0  # pixels; at rest it would be tens
    assert np.isfinite(found.numpy()).all()


@torch.no_grad()
def test_a_cell_of_the_frame_finds_what_followed_there(random_student, driving):
    """Going back from a cell of the frame and forward again ends where it began."""
    person = copy.deepcopy(random_student.person)
    points = torch.from_numpy(np.concatenate([driving[1].keypoints, driving[1].local_landmarks], 1))
    smooth = torch.nn.functional.interpolate(torch.randn(1, points.shape[1] + 3, 4, 4), (FIELD, FIELD), mode="bicubic")
    person.follow.weight.copy_(0.05 * smooth[0].flatten(1).T)
    pose = person.pose(points[:, :KEYPOINTS])
    aligned = person.pose.align(points, pose)
    pulls = person.pulls(aligned - person.source_points, pose)
    turned = 0.8 * identity_grid(FIELD).expand(len(points), -1, -1, -1)
    found = person.came_from(pulls, turned, aligned)
    back = person.follow(pulls).view(-1, 2, FIELD, FIELD)
    gone = warp(back, turned + found.permute(0, 2, 3, 1))
    assert found.abs().max() > 0.02
    assert (gone - found).abs().max() < 0.02 * found.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("slide", [0.24, -0.24])
def test_a_nose_before_a_cheek_is_what_a_cell_shows(random_student, slide):
    """A nose slides by one and a half times its half width: three cells of the photo lie where a cheek is."""
    person = copy.deepcopy(random_student.person)
    tip = person.source_points[0, NEAREST]
    grid = identity_grid(FIELD)
    nose = (1 - (grid - tip).norm(dim=-1) / 0.16).clamp(min=0)
    person.follow.weight.zero_()
    person.follow.weight[:, NEAREST] = nose.flatten()
    aligned = person.source_points + torch.zeros(1, len(person.source_points[0]), 2)
    aligned[0, NEAREST, 0] += slide
    pulls = person.pulls(aligned - person.source_points, person.pose(person.source_points[:, :KEYPOINTS]))
    shown = person.came_from(pulls, grid, aligned)[0].permute(1, 2, 0) + grid[0]
    row = int(((tip[1] + 1) * (FIELD - 1) / 2).round())
    places, sign = grid[0, row, :, 0], 1 if slide > 0 else -1
    passed = (places - tip[0]) * sign
    on_the_nose = (passed > 0.03) & (passed < 0.2)
    assert on_the_nose.sum() >= 5
    # The near side alone: from its foot, which lies behind, to its tip; never the far side, never the cheek.
    behind = (tip[0] - shown[row, :, 0]) * sign
    assert (behind[on_the_nose] > 0).all()
    assert (behind[on_the_nose] < 0.16).all()
    beyond = passed > 0.4
    torch.testing.assert_close(shown[row, beyond, 0], places[beyond], atol=1e-3, rtol=0)


def speaking_person(student, faces):
    """A copy of its person whose regions are fitted to talking, and the points of that: [T, K + M, 2]."""
    person = copy.deepcopy(student.person)
    speaking = procedural_track(faces[0], seed=train_seed(3), seconds=16.0, style="training").landmarks[::4]
    local = torch.from_numpy(speaking[:, LOCAL, :2].astype(np.float32))
    points = torch.cat([local[:, :KEYPOINTS], local], 1)
    fit_regions(person, points, person.layer[:, :3])
    return person, points


@torch.no_grad()
def test_what_is_inside_mouths_and_eyes_is_found_though_only_some_texels_are_ever_seen(random_student, driving, faces):
    """Red between lips and lids, blue irises before it, green elsewhere."""
    person, points = speaking_person(random_student, faces)
    regions, eyes = person.regions, slice(0, REGIONS[2].top)
    where = regions.geometry(points)
    opening = where.opening
    blue = torch.zeros_like(opening)
    blue[:, eyes] = warp(regions.iris[:, 3:], where.irises)[:, 0]
    shown = torch.stack([opening * (1 - blue), 1 - opening, opening * blue], 1).mul(255).round().byte()
    fit_closeups(person, points, shown, torch.zeros_like(shown))
    discs = regions.iris[0, 3] == 1
    for inside, colour in ((regions.interior[0], 0), (regions.iris[0, :3, discs], 2)):
        wanted = torch.eye(3)[colour].view(3, *[1] * (inside.dim() - 1))
        assert (inside - wanted).abs().mean() < 0.02


@torch.no_grad()
def test_skin_covers_what_the_frame_shows_worse_and_lashes_hang_over_it(random_student, driving, faces):
    """Brows that only the frame shows, and black under the edges of shut lids."""
    person, points = speaking_person(random_student, faces)
    for last in (person.regions.paint, person.regions.correct):
        last.weight.zero_()
        last.bias.zero_()
    regions = person.regions
    where = regions.geometry(points)
    shown = warp(regions.skin, where.skin)
    brows, eyes = slice(0, 6), slice(0, REGIONS[2].top)
    shown[:, :, brows] = 1 - shown[:, :, brows]
    drafts = torch.zeros_like(shown)
    drafts[:, :, brows] = shown[:, :, brows]
    row = (where.lashes[..., 1] + 1) / 2 * (LASHES - 1)
    hanging = (where.shut[:, eyes] == 1) & (row > 5) & (row < 9)
    shown[:, :, eyes] = torch.where(hanging[:, None], 0.0, shown[:, :, eyes])
    fit_closeups(person, points, *(part.mul(255).round().byte() for part in (shown, drafts)))
    assert regions.cover[0, 0, :4, 20:60].mean() < 0.1
    assert regions.cover[0, 0, 10:20, 30:50].mean() > 0.9
    assert regions.lashes[0, 3, 6:9, 30:50].mean() > 0.6
    assert regions.lashes[0, :3, 6:9, 30:50].mean() < 0.1
    assert regions.lashes[0, :, [0, -1]].abs().max() == 0


@torch.no_grad()
def test_lower_teeth_are_told_from_the_tongue_behind_them(random_student, driving, faces):
    """White teeth in the jaw before a red tongue, as heads turn and mouths open."""
    person, points = speaking_person(random_student, faces)
    regions, mouth = person.regions, slice(REGIONS[2].top, None)
    where = regions.geometry(points)
    white, red = regions.lower.new_zeros(1, 4, *regions.lower.shape[2:]), torch.zeros(1, 3, *regions.lower.shape[2:])
    white[:, :, 44:60, 60:100], red[:, 0] = 1, 0.6
    shown = torch.zeros(len(points), 3, *where.opening.shape[1:])
    shown[:, :, mouth] = over(warp(white, where.jaw), red.expand(len(points), -1, -1, -1))
    fit_closeups(person, points, shown.mul(255).round().byte(), torch.zeros_like(shown).byte())
    drawn = over(warp(regions.lower, where.jaw), warp(regions.interior[:, :, mouth], where.tongue))
    inside = (where.opening[:, None, mouth] > 0.95).float()
    error = ((drawn - shown[:, :, mouth]).abs() * inside).sum() / (3 * inside.sum())
    assert error < 0.03
    assert regions.lower[0, :3, 48:56, 70:90].mean() > 0.9


def test_codes_have_unit_spread_over_the_track(random_student, driving):
    points = torch.from_numpy(np.concatenate([driving[1].keypoints, driving[1].local_landmarks], 1))
    person = copy.deepcopy(random_student.person)
    fit_codes(person, points)
    with torch.no_grad():
        offsets = person.code(points[:, :KEYPOINTS], points[:, KEYPOINTS:]).offsets.flatten(1)
        codes = person.express(offsets)
    assert codes.mean(0).abs().max() < 1e-2
    assert codes.std(0)[0] == pytest.approx(1, rel=0.05)
    assert codes.std(0).max() < 1.1
