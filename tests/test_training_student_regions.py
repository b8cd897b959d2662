import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.driving.procedural import Controls, pose_face
from edge.spec import KEYPOINTS, LOCAL_LANDMARKS, NETWORK
from edge.topology import LOCAL
from training.student.blocks import warp
from training.student.closed_form import fit_regions
from training.student.person import Window
from training.student.regions import ATLAS, COARSE, HEAD, JAW, PIXELS, REGIONS, ROOTS, invert, slope, through


def posed(faces, **moved):
    """Keypoints and local landmarks of the first face under controls: [1, K + M, 2]."""
    landmarks = torch.from_numpy(pose_face(faces[0], Controls.rest(1, **moved)))[:, torch.from_numpy(LOCAL), :2]
    return torch.cat([landmarks[:, :KEYPOINTS], landmarks], 1)


@pytest.fixture(scope="module")
def person(random_student, driving):
    """A person of a real face, settled on its motion, whose decoder has learned nothing."""
    person = copy.deepcopy(random_student.person)
    regions = person.regions
    with torch.no_grad():
        for last in (regions.paint, regions.correct):
            last.weight.zero_()
            last.bias.zero_()
    points = torch.cat([torch.from_numpy(part) for part in driving[1]], 1)
    fit_regions(person, points, person.layer[:, :3].detach())
    return person


def closeups(person, points):
    with torch.no_grad():
        return person.closeups(points, person.asked(points, person.offsets(points)))


def test_mouth_and_eyes_of_the_photo_are_the_photo(person):
    atlas, places = closeups(person, person.source_points)
    photo = person.layer[:, :3].detach()
    empty = torch.zeros_like(photo)
    over = person.lay(empty, atlas, places)
    shown = 1 - person.lay(empty + 1, atlas, places) + over  # how much covers
    assert 0.01 < (shown > 0.9).float().mean() < 0.2
    assert (person.lay(photo, atlas, places) - photo).abs().amax() < 0.08
    assert (person.lay(photo, atlas, places) - photo).abs().mean() < 0.002


def test_only_a_part_of_the_frame_is_read(person, faces):
    """A still frame outside of it, and the same picture as a window of the whole inside."""
    atlas, places = closeups(person, posed(faces, yaw_deg=20, jaw_open=0.5))
    frame = torch.rand(1, 3, NETWORK, NETWORK, generator=torch.Generator().manual_seed(0))
    laid = person.lay(frame, atlas, places)
    top, left, height, width = person.regions.held
    assert height * width < 0.6 * NETWORK**2
    changed = (laid != frame).any(1)[0]
    assert changed[top : top + height, left : left + width].any()
    assert changed.sum() == changed[top : top + height, left : left + width].sum()
    window = Window(96, 64, 320)
    torch.testing.assert_close(person.lay(window.of(frame), atlas, places, window), window.of(laid))


@settings(max_examples=20, deadline=None)
@given(yaw=st.floats(-30, 30), roll=st.floats(-20, 20), jaw=st.floats(0, 1), blink=st.floats(0, 1))
def test_the_frame_is_read_where_texels_lie(person, faces, yaw, roll, jaw, blink):
    regions = person.regions
    places = regions.places(posed(faces, yaw_deg=yaw, roll_deg=roll, jaw_open=jaw, blink_right=blink))
    axis = PIXELS * torch.linspace(-1, 1, NETWORK // COARSE)
    spots, reading = regions.spots(places), regions.reading(places, axis[None, None], axis[None, :, None])
    found = warp(reading, spots).permute(0, 2, 3, 1)
    y, x = torch.meshgrid(torch.linspace(-1, 1, ATLAS[0]), torch.linspace(-1, 1, ATLAS[1]), indexing="ij")
    wrong = (found - torch.stack([x, y], -1)).abs() * torch.tensor([ATLAS[1], ATLAS[0]]) / 2
    within = (regions.window[0, 0] > 0.99) & (spots.abs() < 0.98).all(-1)[0]
    assert wrong[0][within].amax() < 0.5


def test_lids_that_meet_show_no_eye_and_lips_that_part_a_mouth(person, faces):
    def opened(**moved):
        openings = person.regions.geometry(posed(faces, **moved)).opening
        return [
            float(openings[0, part.top : part.top + part.height, part.left : part.left + part.width].sum())
            for part in REGIONS
        ]

    right, left, mouth = opened()
    winked = opened(blink_right=1.0)
    assert winked[0] < 0.25 * right
    assert winked[1] == pytest.approx(left, rel=0.1)
    assert opened(jaw_open=0.8)[2] > 5 * mouth


def test_lids_shut_and_leave_brow_and_cheek_alone(person, faces):
    regions = person.regions
    rests, winks = (regions.geometry(posed(faces, blink_right=shut)) for shut in (0.0, 1.0))
    eyes = regions.own[0]
    middle = 40
    assert rests.shut[0, 30, middle] < 0.2
    assert winks.shut[0, 30, middle] == 1
    assert winks.shut[0, 30, 80 + middle] < 0.2
    rows = (winks.skin[0, :64, middle, 1] + 1) / 2 * (ATLAS[0] - 1)
    above, below = int(eyes.still[0, 0, middle]), int(eyes.still[0, 3, middle]) + 2
    own = torch.arange(64.0)
    torch.testing.assert_close(rows[:above], own[:above], atol=0.1, rtol=0)
    torch.testing.assert_close(rows[below:], own[below:], atol=0.1, rtol=0)
    assert (rows - own)[above + 2 : below - 2].abs().max() > 2
    lids = regions.lids()[0, 0, :, [middle, 80 + middle]]
    assert lids.shape == (64, 2)
    assert (lids[:above] == 0).all()
    assert (lids.amax(0) == 1).all()
    assert (eyes.gap > 3).all()


def test_irises_follow_their_landmarks(person, faces):
    points = posed(faces)
    aside = points.clone()
    aside[:, KEYPOINTS : KEYPOINTS + 2, 0] += 6 * 2 / (NETWORK - 1)  # the two irises come first
    regions = person.regions
    straight, moved = (regions.geometry(some).irises for some in (points, aside))
    rows, columns = slice(24, 44), slice(30, 50)
    shift = (straight - moved)[0, rows, columns].mean((0, 1)) * torch.tensor([ATLAS[1] - 1, REGIONS[0].height - 1]) / 2
    assert shift[0] > 3
    assert abs(shift[1]) < 0.5 * shift[0]


def test_an_iris_that_looks_away_is_narrower(person, faces):
    def seen(**moved):
        discs = warp(person.regions.iris[:, 3:], person.regions.geometry(posed(faces, **moved)).irises)
        return float(discs[..., :80].sum())

    assert 0.7 * seen() < seen(gaze_x=1) < 0.98 * seen()


def test_an_iris_lies_behind_the_landmark_that_it_goes_with(person, faces):
    """Where the head turns, by as much as the depth between them turns."""
    regions = person.regions

    def behind(yaw):
        points = posed(faces, yaw_deg=yaw)
        places = regions.places(points)
        told = (points[0, KEYPOINTS] * PIXELS - places.centre[0, 0]) @ places.back[0] + regions.anchors[0, 0]
        return float((regions.registered(places, points)[0][0, -2] - told)[0])

    assert behind(20) * behind(-20) < 0
    assert 0.3 < abs(behind(20)) < 4
    assert abs(behind(0)) < 0.3


def test_a_lid_that_comes_down_is_told_from_a_cheek_that_rises(person, faces):
    """As in the mesh teacher: what the upper lid leaves of its place in the head, whichever way the head is turned."""
    regions = person.regions
    upper = [KEYPOINTS + row for row in REGIONS[0].upper_lid()]
    lower = [KEYPOINTS + REGIONS[0].points()[at] for at in (6, 7, 8)]

    def closed(rows, yaw, down):
        points = posed(faces, yaw_deg=yaw)
        points[:, rows, 1] += down * 2 / (NETWORK - 1)
        return float(regions._closed(regions.registered(regions.places(points), points)[0])[0, 0, 0])

    for yaw in (-20, 0, 20):
        rests = closed(upper, yaw, 0)
        assert abs(rests) < 0.2
        assert closed(upper, yaw, 4) > rests + 0.2
        assert closed(lower, yaw, -4) == pytest.approx(rests, abs=0.02)


def test_lower_teeth_go_with_the_jaw_and_upper_ones_with_the_head(person, faces):
    regions = person.regions

    def at(place, **moved):
        """Frame pixels of the middle of the upper or lower teeth's picture."""
        places = regions.places(posed(faces, **moved))
        return places.centre.unflatten(0, (-1, 5))[0, place, 0]

    rests = at(HEAD)
    torch.testing.assert_close(at(JAW), rests, atol=0.5, rtol=0)
    torch.testing.assert_close(at(HEAD, jaw_open=0.8), rests, atol=0.5, rtol=0)
    assert (at(JAW, jaw_open=0.8) - rests)[1] > 8
    assert (at(HEAD, yaw_deg=20) - rests)[0].abs() > 8


def test_teeth_stand_in_arches_and_a_tongue_lies_behind_them(person, faces):
    """What lies deeper lags behind a head that turns; a head that is raised shows less of its tongue."""

    def read(field, column, row=48, **moved):
        """Where a picture is read in the frame's mouth, in its texels: x, y."""
        where = getattr(person.regions.geometry(posed(faces, jaw_open=0.3, **moved)), field)[0, row, column]
        return (where + 1) / 2 * torch.tensor([159.0, 127.0])

    for field in ("teeth", "jaw"):
        right, middle, left = ((read(field, at, yaw_deg=20) - read(field, at))[0] for at in (50, 80, 110))
        assert right - middle > 1
        assert left - middle > 1
    assert (read("tongue", 80, yaw_deg=20) - read("jaw", 80, yaw_deg=20))[0] > 5
    raised, level, lowered = (
        read("tongue", 80, row=60, pitch_deg=pitch)[1] - read("tongue", 80, row=54, pitch_deg=pitch)[1]
        for pitch in (-8, 0, 8)
    )
    assert raised > 1.2 * level > 1.2 * 1.2 * lowered > 0


def test_sides_of_a_picture_are_empty_whatever_is_in_it(person, faces):
    """Beyond them the frame reads them, far out to its own sides."""
    person = copy.deepcopy(person)
    regions = person.regions
    for picture in (regions.lashes, regions.rim, regions.teeth, regions.iris, regions.cover, regions.shut):
        picture.data.fill_(1)
    atlas, _ = closeups(person, posed(faces, blink_right=1.0, blink_left=1.0, jaw_open=0.4))
    for region in REGIONS:
        part = atlas[..., region.top : region.top + region.height, region.left : region.left + region.width]
        assert part[:, 3].max() > 0.99
        for side in (part[..., 0, :], part[..., -1, :], part[..., :, 0], part[..., :, -1]):
            assert side.abs().max() == 0


def test_lashes_hang_from_the_edge_of_the_lid(person, faces):
    geometry = person.regions.geometry(posed(faces, blink_right=0.5))
    column = 40
    rows = (geometry.lashes[0, :, column, 1] + 1) / 2 * 15
    edge = int((geometry.opening[0, :64, column] > 0.5).nonzero()[0, 0])
    assert rows[edge] == pytest.approx(ROOTS, abs=1.0)
    assert (rows[:10] == 0).all()  # where the picture is empty
    assert (rows[60:] == 15).all()


@given(st.lists(st.floats(-3, 3), min_size=4, max_size=4))
def test_inverses(values):
    matrix = torch.tensor(values).reshape(1, 2, 2) + 8 * torch.eye(2)
    torch.testing.assert_close(invert(matrix) @ matrix, torch.eye(2)[None], atol=1e-5, rtol=0)


def test_a_face_that_has_collapsed_is_a_frame_all_the_same(person):
    keypoints, local = person.source_points.split([KEYPOINTS, LOCAL_LANDMARKS], 1)
    for fallen in (torch.zeros_like(local), local * torch.tensor([-1.0, 1.0]), local * torch.tensor([1.0, 0.0])):
        atlas, places = closeups(person, torch.cat([keypoints, fallen], 1))
        assert person.lay(torch.zeros(1, 3, NETWORK, NETWORK), atlas, places).isfinite().all()


def test_a_curve_goes_through_its_points_and_stays_level_beyond():
    x = torch.tensor([10.0, 20.0, 33.0, 41.0, 60.0])
    weights = through(x, torch.arange(80.0))
    values = torch.tensor([5.0, 2.0, 1.0, 2.5, 6.0])
    curve = weights @ values
    assert curve[x.long()] == pytest.approx(values, abs=0.05)
    assert curve[0] == pytest.approx(curve[10])
    assert curve[79] == pytest.approx(curve[60])
    torch.testing.assert_close(weights.sum(1), torch.ones(80), atol=1e-3, rtol=0)  # a shift of all shifts the curve


def test_a_landmark_that_slips_along_its_curve_leaves_it_as_it_is():
    x = torch.tensor([10.0, 20.0, 33.0, 41.0, 60.0])
    values = torch.tensor([5.0, 2.0, 1.0, 2.5, 6.0])
    slipped = x + torch.tensor([0.0, 1.0, -1.0, 0.5, 0.0])
    told = through(x, slipped) @ values
    assert (told - values).abs().max() > 0.2
    brought_back = told - slope(x) @ told * (slipped - x)
    assert (brought_back - values).abs().max() < 0.1
    assert slope(x) @ torch.ones(5) == pytest.approx(torch.zeros(5), abs=1e-2)
