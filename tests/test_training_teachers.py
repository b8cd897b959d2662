"""The rasteriser, the cut-out and the mesh teacher, on real portraits."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden import make_frames
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from edge.driving.landmarks import Landmarker, Portrait, read_portrait
from edge.driving.procedural import showcase
from edge.spec import FIELD, KEYPOINTS, NETWORK
from edge.topology import (
    INNER_LOWER_LIP,
    INNER_UPPER_LIP,
    LEFT_FOLD,
    LEFT_IRIS_CENTRE,
    LEFT_LOWER_LID,
    LEFT_UPPER_LID,
    RIGHT_FOLD,
    RIGHT_IRIS_CENTRE,
    RIGHT_LOWER_LID,
    RIGHT_UPPER_LID,
)
from training.teachers import Identity, mesh
from training.teachers.load import load_teacher
from training.teachers.matte import _fill, cut_out
from training.teachers.mesh import VERSION, MeshTeacher
from training.teachers.mouth import paint_mouth
from training.teachers.parts import MARGIN, Pose, to_pixels
from training.teachers.proxy import _blur_px, _continue
from training.teachers.raster import rasterise

SHARED = Path(__file__).parents[1].parent / "shared"


@pytest.fixture(scope="module")
def hopper(portraits: dict[str, Path], landmark_model: Path) -> Portrait:
    with Landmarker(landmark_model) as landmarker:
        return read_portrait(portraits["grace_hopper"], landmarker=landmarker)


@pytest.fixture(scope="module")
def identity(hopper: Portrait) -> Identity:
    image = torch.from_numpy(hopper.image).permute(2, 0, 1).float() / 255
    return MeshTeacher().prepare(image, torch.from_numpy(hopper.landmarks))


def poses(hopper: Portrait, *names: str) -> torch.Tensor:
    known, landmarks = showcase(hopper.landmarks)
    return torch.from_numpy(landmarks[[known.index(name) for name in names]].astype(np.float32))


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(-10 * torch.log10((a - b).square().mean()))


def cross(a: np.ndarray, b: np.ndarray) -> float:
    return float(a[0] * b[1] - a[1] * b[0])


def covers(triangle: np.ndarray, x: float, y: float) -> bool:
    a, b, c = triangle
    area = cross(b - a, c - a)
    u = cross(np.array([x, y]) - a, c - a) / area
    v = cross(b - a, np.array([x, y]) - a) / area
    return bool(u >= 0 and v >= 0 and u + v <= 1)


coordinate = st.floats(-4, 20, width=32)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(coordinate, coordinate), min_size=3, max_size=3))
@example([(0.0, 0.0), (0.0, 2.0), (3.0, 2.220446049250313e-16)])
def test_one_triangle_covers_the_pixels_inside_it(corners):
    triangle = np.array(corners, np.float64)
    if abs(cross(triangle[1] - triangle[0], triangle[2] - triangle[0])) < 0.5:
        return
    vertices = torch.from_numpy(np.concatenate([triangle, np.zeros((3, 1))], 1)).float()
    fragments = rasterise(vertices, torch.tensor([[0, 1, 2]]), height=16, width=16)
    for y in range(16):
        for x in range(16):
            shrunk = triangle.mean(0) + (triangle - triangle.mean(0)) * (1 - 0.02)
            grown = triangle.mean(0) + (triangle - triangle.mean(0)) * (1 + 0.02)
            shown = bool(fragments.covered[y, x])
            if covers(shrunk, x, y):
                assert shown
            if not covers(grown, x, y):
                assert not shown


def test_the_nearer_triangle_wins_whichever_way_it_is_wound():
    square = [[0.0, 0.0], [9.0, 0.0], [0.0, 9.0], [9.0, 9.0]]
    vertices = torch.tensor([[*p, 5.0] for p in square] + [[*p, 1.0] for p in square])
    triangles = torch.tensor([[0, 1, 2], [1, 3, 2], [4, 6, 5], [5, 6, 7]])
    fragments = rasterise(vertices, triangles, height=10, width=10)
    assert fragments.covered.all()
    assert (fragments.triangle >= 2).all()
    assert torch.allclose(fragments.depth, torch.ones(10, 10))


def test_values_are_interpolated_linearly_over_a_triangle():
    vertices = torch.tensor([[0.0, 0.0, 0.0], [15.0, 0.0, 0.0], [0.0, 15.0, 0.0]])
    triangles = torch.tensor([[0, 1, 2]])
    fragments = rasterise(vertices, triangles, height=16, width=16)
    image = fragments.interpolate(triangles, vertices[:, :2].contiguous())
    y, x = fragments.covered.nonzero().T
    assert torch.allclose(image[y, x], torch.stack([x, y], 1).float(), atol=1e-4)
    assert (image[~fragments.covered] == 0).all()


def test_nothing_to_draw_is_an_empty_picture():
    outside = torch.tensor([[-9.0, -9.0, 0.0], [-5.0, -9.0, 0.0], [-9.0, -5.0, 0.0]])
    flat = torch.tensor([[0.0, 0.0, 0.0], [5.0, 5.0, 0.0], [9.0, 9.0, 0.0]])
    for vertices in (outside, flat):
        fragments = rasterise(vertices, torch.tensor([[0, 1, 2]]), height=8, width=8)
        assert not fragments.covered.any()


def test_the_cut_out_holds_the_face_and_leaves_the_corners(hopper):
    points = to_pixels(hopper.landmarks)
    layers = cut_out(hopper.image, points)
    assert layers.matte.shape == (NETWORK, NETWORK)
    assert layers.background.dtype == np.uint8
    centre = points[:468, :2].mean(0).astype(int)
    assert layers.matte[centre[1], centre[0]] == 1
    assert layers.matte[4, 4] == 0
    assert (layers.background[layers.matte == 0] == hopper.image[layers.matte == 0]).mean() > 0.9


def test_long_hair_is_cut_out_with_its_head(landmark_model):
    """What is left of black hair in the background stands there as a black wall when the head moves."""
    path = SHARED / "data" / "portraits" / "lp_d30.jpg"
    if not path.is_file():
        pytest.skip("the portrait with black hair before a grey wall is not at hand")
    with Landmarker(landmark_model) as landmarker:
        portrait = read_portrait(path, landmarker=landmarker)
    layers = cut_out(portrait.image, to_pixels(portrait.landmarks))
    assert (portrait.image.max(-1) < 50).mean() > 0.2
    assert (layers.background.max(-1) < 50).mean() < 0.002


def test_no_eye_stays_behind_when_the_head_moves(hopper, identity):
    """The mesh has holes at eyes and mouth: there the photo's own looked out of the wall when the head had gone."""
    points = to_pixels(hopper.landmarks)
    for middle in (points[RIGHT_IRIS_CENTRE], points[LEFT_IRIS_CENTRE], points[INNER_LOWER_LIP].mean(0)):
        x, y = middle[:2].round().astype(int)
        assert (identity.binding.swept[y - 4 : y + 5, x - 4 : x + 5] > 0.5).all()


def test_the_photo_comes_back_in_its_own_pose(hopper, identity):
    rendering = MeshTeacher().render(identity, identity.source_landmarks[None])
    assert psnr(rendering.frames[0], identity.source_image) > 45
    ticks = torch.linspace(-1, 1, FIELD)
    grid = torch.stack(torch.meshgrid(ticks, ticks, indexing="xy"), -1)
    assert (rendering.motion_field[0] - grid).abs().max() < 0.01
    assert rendering.occlusion.mean() > 0.98


def test_shapes_and_ranges_are_as_promised(hopper, identity):
    rendering = MeshTeacher().render(identity, poses(hopper, "yaw +30", "wide open", "blink"))
    assert rendering.frames.shape == (3, 3, NETWORK, NETWORK)
    assert rendering.keypoints.shape == (3, KEYPOINTS, 3)
    assert rendering.motion_field.shape == (3, FIELD, FIELD, 2)
    assert rendering.occlusion.shape == (3, 1, FIELD, FIELD)
    for values in rendering:
        assert values.dtype == torch.float32
        assert torch.isfinite(values).all()
    assert rendering.frames.min() >= 0
    assert rendering.frames.max() <= 1
    assert identity.appearance_volume.shape == (3, 1, NETWORK, NETWORK)


def test_the_motion_field_carries_the_photo_to_the_frame(hopper, identity):
    rendering = MeshTeacher().render(identity, poses(hopper, "yaw -15", "smile"))
    field = F.interpolate(
        rendering.motion_field.permute(0, 3, 1, 2), size=(NETWORK, NETWORK), mode="bilinear", align_corners=True
    )
    photo = identity.source_image[None].expand(2, -1, -1, -1)
    warped = F.grid_sample(photo, field.permute(0, 2, 3, 1), padding_mode="border", align_corners=True)
    seen = F.interpolate(rendering.occlusion, size=(NETWORK, NETWORK), mode="bilinear", align_corners=True) > 0.9
    for index in range(2):
        mask = seen[index].expand(3, -1, -1)
        assert psnr(warped[index][mask], rendering.frames[index][mask]) > 30


def test_the_driver_is_the_same_map_as_the_teachers_keypoints(hopper, identity):
    teacher = MeshTeacher()
    landmarks = poses(hopper, "yaw +30", "pitch -20", "pucker")
    keypoints = teacher.driver(identity)(landmarks)
    assert torch.allclose(keypoints, teacher.render(identity, landmarks).keypoints[..., :2], atol=1e-5)


def test_keypoints_turn_rigidly_with_the_head(hopper, identity):
    still = MeshTeacher().render(identity, identity.source_landmarks[None]).keypoints[0]
    moved = MeshTeacher().render(identity, poses(hopper, "yaw +30")).keypoints[0]
    before, after = torch.cdist(still, still), torch.cdist(moved, moved)
    assert (before - after).abs().max() < 0.02


def test_a_blink_hides_the_iris_and_spares_the_forehead(hopper, identity):
    blink = MeshTeacher().render(identity, poses(hopper, "blink")).frames[0]
    points = to_pixels(hopper.landmarks)
    x, y = points[LEFT_IRIS_CENTRE, :2].round().astype(int)
    iris = (slice(None), slice(y - 2, y + 3), slice(x - 2, x + 3))
    assert blink[iris].mean() > identity.source_image[iris].mean() + 0.15
    assert psnr(blink[:, :120], identity.source_image[:, :120]) > 45


def test_a_closed_lid_is_skin_and_ends_in_no_edge(hopper, identity):
    """Lids were flat coins with the open eye's outline around them."""
    shut = poses(hopper, "blink")
    blink = MeshTeacher().render(identity, shut).frames[0].mean(0)
    points, meeting = (to_pixels(landmarks)[:, :2] for landmarks in (hopper.landmarks, shut[0].numpy()))
    photo = identity.source_image.mean(0)
    for upper, lower, fold in (
        (RIGHT_UPPER_LID, RIGHT_LOWER_LID, RIGHT_FOLD),
        (LEFT_UPPER_LID, LEFT_LOWER_LID, LEFT_FOLD),
    ):
        column = points[upper[3], 0].round().astype(int)
        top, low = points[fold[3], 1].round().astype(int), meeting[lower[3], 1].round().astype(int)
        lid = blink[top + 4 : low - 5, column - 6 : column + 7].mean(1)  # below the rim of her glasses
        assert lid.diff().abs().max() < 0.04  # no step on the way to the lashes
        assert lid.std() > 0.01  # and no flat patch
        # Above the fold it is the photo's own skin.
        assert (blink - photo)[top - 12 : top - 8, column - 6 : column + 7].abs().mean() < 0.02


@given(yaw=st.floats(-40, 40), pitch=st.floats(-25, 25), depth=st.floats(-40, 40), guess=st.floats(-60, 60))
def test_what_is_seen_at_a_depth_is_seen_where_its_landmark_is(yaw, pitch, depth, guess):
    """However deep the landmark is said to lie."""
    turned, nodded = np.radians([yaw, pitch])
    around_y = np.array([[np.cos(turned), 0, np.sin(turned)], [0, 1, 0], [-np.sin(turned), 0, np.cos(turned)]])
    around_x = np.array([[1, 0, 0], [0, np.cos(nodded), -np.sin(nodded)], [0, np.sin(nodded), np.cos(nodded)]])
    pose = Pose(0.8, (around_x @ around_y).astype(np.float32), np.array([40, 30, 5], np.float32))
    landmark = np.array([[210.0, 180.0, guess]], np.float32)
    found = pose.seen_at(landmark, depth)
    back = pose.forward(np.concatenate([found, [[depth]]], 1).astype(np.float32))
    np.testing.assert_allclose(back[:, :2], landmark[:, :2], atol=0.01)


def test_the_iris_goes_where_the_gaze_does_and_stays_round(hopper, identity):
    """It used to be pushed by a warp that dragged the white of the eye along."""
    for gaze, sign in (("gaze left", -1), ("gaze right", 1)):
        landmarks = poses(hopper, gaze)
        frame = MeshTeacher().render(identity, landmarks).frames[0].mean(0)
        for centre in (RIGHT_IRIS_CENTRE, LEFT_IRIS_CENTRE):
            x, y = to_pixels(landmarks[0].numpy())[centre, :2].round().astype(int)
            was = to_pixels(hopper.landmarks)[centre, :2].round().astype(int)
            assert sign * (x - was[0]) > 4
            here, there = frame[y - 2 : y + 3, x - 1 : x + 2].mean(), frame[was[1] - 2 : was[1] + 3, was[0] - sign * 3]
            assert here < there.mean() - 0.1


def test_a_smile_shows_teeth(hopper, identity):
    landmarks = poses(hopper, "smile, teeth")
    frame = MeshTeacher().render(identity, landmarks).frames[0]
    points = to_pixels(landmarks[0].numpy())
    x, y = ((points[13, :2] + points[14, :2]) / 2).round().astype(int)
    teeth = frame[:, y - 2 : y + 1, x - 8 : x + 9].mean((1, 2))
    lips = frame[:, ((points[14, 1] + points[17, 1]) / 2).round().astype(int), x - 8 : x + 9].mean(1)
    assert teeth[2] / teeth[0] > lips[2] / lips[0] + 0.08  # enamel, and not lips


def test_outlines_are_even(hopper, identity, monkeypatch):
    """Where a cheek hides what lies behind, pixels have a share of both; elsewhere nothing changes."""
    landmarks = poses(hopper, "yaw +30")
    even = MeshTeacher().render(identity, landmarks).frames[0]
    monkeypatch.setattr(mesh, "_STEP_PX", 1e9)
    stairs = MeshTeacher().render(identity, landmarks).frames[0]
    changed = (even - stairs).abs().amax(0) > 1 / 255
    assert 50 < changed.sum() < 0.02 * changed.numel()
    around = F.max_pool2d(changed.float()[None], 3, 1, 1)[0] > 0
    rough = [(frame[:, 1:] - frame[:, :-1]).square().mean(0)[around[1:]].mean() for frame in (even, stairs)]
    assert rough[0] < 0.9 * rough[1]


def test_the_rim_of_a_hole_has_a_share_of_both():
    """What a slanted rim covers of pixels is its area, in quarters; away from holes a rim stays as it is."""
    vertices, triangles = (
        torch.tensor([[100.0, 80.0, 0.0], [100.0, 380.0, 0.0], [160.0, 380.0, 0.0]]),
        torch.tensor([[0, 1, 2]]),
    )
    front = rasterise(vertices, triangles, height=NETWORK, width=NETWORK)
    proxy = SimpleNamespace(atlas=torch.ones(1, 4, NETWORK, NETWORK))
    holes = torch.zeros(NETWORK, NETWORK, dtype=torch.bool)
    holes[:230] = True
    painted = front.covered.float().expand(4, -1, -1)
    whole, cover = mesh._even_edges(proxy, front, vertices, triangles, vertices[:, :2], painted, holes)
    rows = torch.arange(120, 220)
    torch.testing.assert_close(cover[rows].sum(1), (rows - 80) / 5, atol=0.26, rtol=0)
    assert set(cover[rows].unique().tolist()) <= {0, 0.25, 0.5, 0.75, 1}
    assert (whole[:, cover > 0] == 1).all()  # its colour where it covers anything
    assert (cover[240:] == front.covered[240:]).all()


def test_what_a_head_bares_goes_on_as_its_surroundings():
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[(np.arange(512) // 6) % 2 == 0] = 200
    y, x = np.mgrid[:512, :512]
    outside = (x - 256) ** 2 + (y - 256) ** 2 > 120**2
    person = np.where(outside[..., None], stripes, np.uint8([250, 10, 10]))
    filled = _fill(person, outside)
    assert (filled[outside] == stripes[outside]).all()
    near = ~outside & ((x - 256) ** 2 + (y - 256) ** 2 > 85**2) & (np.abs(y - 256) < 80)
    assert np.abs(filled.astype(int) - stripes)[near].mean() < 12
    assert (filled[..., 0].astype(int) - filled[..., 1])[~outside].max() < 40  # nothing of the person


def test_hair_that_the_frame_cuts_off_goes_on_to_a_crown(hopper):
    cut = np.zeros((NETWORK, NETWORK, 4), np.float32)
    cut[:, 150:350] = 255
    whole = _continue(cut, to_pixels(hopper.landmarks))[..., 3]
    assert whole.shape == (MARGIN + NETWORK, NETWORK + 2 * MARGIN)
    middle, side = whole[:MARGIN, MARGIN + 250], whole[:MARGIN, MARGIN + 155]
    assert middle[-10:].min() > 250
    assert middle.sum() > 2 * side.sum() > 0
    cut[:20] = 0
    assert _continue(cut, to_pixels(hopper.landmarks))[:MARGIN, :, 3].max() == 0  # a head that ends below the edge


def test_an_open_mouth_is_a_cavity_and_not_stretched_lips(hopper, identity):
    landmarks = poses(hopper, "wide open")
    frame = MeshTeacher().render(identity, landmarks)
    points = to_pixels(landmarks[0].numpy())
    low, high = points[INNER_LOWER_LIP, :2].mean(0), points[INNER_UPPER_LIP, :2].mean(0)
    x, y = (0.6 * low + 0.4 * high).round().astype(int)
    inside = frame.frames[0, :, y - 3 : y + 4, x - 3 : x + 4].mean()
    chin = frame.frames[0, :, int(low[1]) + 20, x].mean()
    assert inside < 0.6 * chin
    cell = (round(y * (FIELD - 1) / (NETWORK - 1)), round(x * (FIELD - 1) / (NETWORK - 1)))
    assert frame.occlusion[0, 0, cell[0], cell[1]] < 0.5


def test_the_far_side_does_not_fold(hopper, identity):
    """At yaw 30 the field never reads backwards along a row, but for the one step over the face's edge."""
    for name in ("yaw +30", "yaw -30"):
        rendering = MeshTeacher().render(identity, poses(hopper, name))
        rows = rendering.motion_field[0, 26:40, :, 0]
        backwards = (rows.diff(dim=1) < -0.02).float().sum(1)
        assert backwards.max() <= 4


def test_another_picture_is_another_version(landmark_model):
    """Frames kept on disk are used again while the version is the same."""
    kept = make_frames.HERE / f"mesh_{VERSION}.png"
    assert kept.is_file(), "A new version of the mesh teacher: run tests/golden/make_frames.py, look at its picture."
    frames, motion = make_frames.draw()
    apart = np.abs(frames.astype(float) - np.asarray(Image.open(kept))).reshape(8, 16, 24, 16, 3).mean((1, 3, 4))
    wanted = np.fromfile(kept.with_suffix(".f32"), "<f4")
    sentence = "The mesh teacher draws otherwise: count VERSION up in training/teachers/mesh.py."
    assert apart.max() < 0.5, sentence
    assert np.abs(motion - wanted).max() < 0.01, sentence


def test_an_unknown_teacher_is_named():
    with pytest.raises(ValueError, match="no teacher 'nobody'"):
        load_teacher("nobody")


def test_a_mouth_is_painted_as_the_photo_is():
    """Grey stays grey, dark stays dark, soft stays soft; most photos get a red one; own teeth lend their colour."""
    warm, grey, dark = (np.array(rgb, np.float32) for rgb in ([0.8, 0.6, 0.5], [0.6, 0.6, 0.6], [0.04, 0.03, 0.025]))
    (teeth, red), (_, plain), (_, night) = (paint_mouth(skin, None, 0.0) for skin in (warm, grey, dark))
    assert (red[30:90, :, 0] > red[30:90, :, 1] + 20).all()
    assert np.ptp(plain[..., :3], axis=-1).max() < 1e-3
    assert night[..., :3].max() < 25
    steps = np.abs(np.diff(teeth[30:56, :, 0], axis=1))
    soft = np.abs(np.diff(paint_mouth(warm, None, 6.0)[0][30:56, :, 0], axis=1))
    assert soft.max() < 0.5 * steps.max()
    blue = paint_mouth(warm, np.array([0.2, 0.2, 0.9], np.float32), 0.0)[0][40, :, :3].mean(0)
    assert blue[2] > 3 * blue[0]


def test_blur_is_measured(hopper: Portrait):
    points = to_pixels(hopper.landmarks)
    found = [
        _blur_px(np.array(Image.fromarray(hopper.image).filter(ImageFilter.GaussianBlur(sigma))), points)
        for sigma in (0, 2, 4, 8)
    ]
    assert found[0] == 0
    assert found == sorted(found)
    assert found[3] > 2
