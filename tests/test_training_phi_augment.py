"""SSR, MTM and the equivariance transform: real JPEG, samples that do not touch each other, masks that tell nothing."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from edge import topology as topo
from training.phi.augment import (
    REGIONS,
    Transform,
    degrade,
    filter_each,
    hidden_landmarks,
    jpeg,
    region_mask,
    vary,
)
from training.phi.drawing import mesh_edges


@pytest.fixture(scope="module")
def picture(portraits):
    image = Image.open(portraits["astronaut"]).convert("RGB").crop((96, 0, 352, 256))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255


def psnr(one, other):
    return float(-10 * torch.log10((one - other).square().mean()))


@pytest.mark.parametrize("quality", [15, 40, 80])
def test_jpeg_is_what_a_jpeg_file_is(picture, quality):
    buffer = io.BytesIO()
    Image.fromarray((picture[0].permute(1, 2, 0) * 255).byte().numpy()).save(buffer, "JPEG", quality=quality)
    written = torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1)[None].float() / 255
    ours = jpeg(picture, torch.tensor([float(quality)]))
    assert psnr(ours, written) > psnr(written, picture) + 6
    assert abs(psnr(ours, picture) - psnr(written, picture)) < 0.4


def test_each_image_has_its_own_quality(picture):
    both = jpeg(picture.expand(2, -1, -1, -1), torch.tensor([10.0, 90.0]))
    assert torch.equal(both[:1], jpeg(picture, torch.tensor([10.0])))
    assert psnr(both[1:], picture) > psnr(both[:1], picture) + 4


def test_a_degraded_sample_depends_on_its_own_seed_and_the_step_alone(picture):
    pair = picture.expand(2, -1, -1, -1)
    both = degrade(pair, [7, 8], 3, share=1.0)
    assert torch.equal(degrade(picture, [8], 3, share=1.0)[0], both[1])
    assert not torch.equal(both[0], both[1])
    assert both.min() >= 0
    assert both.max() <= 1
    assert 14 < psnr(both, pair) < 35


def test_a_share_of_samples_is_left_clean(picture):
    made = degrade(picture.expand(16, -1, -1, -1), list(range(16)), 0, share=0.5)
    clean = (made == picture).flatten(1).all(1)
    assert 3 <= int(clean.sum()) <= 13


def test_a_kernel_of_one_point_changes_nothing(picture):
    kernel = torch.zeros(1, 5, 5)
    kernel[0, 2, 2] = 1
    assert torch.allclose(filter_each(picture, kernel), picture, atol=1e-6)


def test_transforms_are_undone_where_faces_are():
    """Where a strong T folds there is no inverse; within the face hardly any does."""
    places = torch.rand(1, 40, 2, generator=torch.Generator().manual_seed(0)) * 1.2 - 0.6
    places = places.expand(500, -1, -1)
    transform = Transform(list(range(500)), places)
    wrong = (transform.points(transform.inverse(places)) - places).norm(dim=-1)
    assert wrong.median() < 1e-5
    assert (wrong < 1e-3).float().mean() > 0.98


def test_no_transform_leads_astray():
    """One in some hundreds folds in a corner: its inverse must not run to infinity, as it once did in a training."""
    places = torch.tensor([[[-0.9, 0.9], [0.95, 0.95], [0.0, 0.0], [-0.95, -0.9]]]).expand(3000, -1, -1)
    found = Transform(list(range(3000)), places).inverse(places)
    assert torch.isfinite(found).all()
    assert found.abs().max() <= 2


def test_a_picture_and_its_points_are_transformed_alike():
    """A bright dot is found where the inverse says that it went."""
    place = torch.tensor([[[0.25, -0.4]]])
    transform = Transform([5], place, affine=0.1, bend=0.01)
    axis = torch.linspace(-1, 1, 128)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    dot = torch.exp(-((x - 0.25) ** 2 + (y + 0.4) ** 2) / 0.002)[None, None]
    moved = transform.image(dot)[0, 0]
    row, column = divmod(int(moved.argmax()), 128)
    found = torch.tensor([axis[column], axis[row]])
    assert torch.allclose(found, transform.inverse(place)[0, 0], atol=0.02)


def test_a_varied_picture_and_its_landmarks_change_alike(faces):
    """Each landmark drawn as a bright dot is found where it is said to be, mirrored or not."""
    seeds = list(range(12))
    landmarks = torch.from_numpy(faces[:1]).repeat(12, 1, 1)
    axis = torch.linspace(-1, 1, 256)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    mirrored = []
    for mark in (topo.RIGHT_EYE_OUTER, topo.LEFT_MOUTH_CORNER):
        place = landmarks[:, mark, :2]
        dots = torch.exp(-((x - place[:, 0, None, None]) ** 2 + (y - place[:, 1, None, None]) ** 2) / 0.002)
        images, moved = vary(dots[:, None].repeat(1, 3, 1, 1), landmarks, seeds)
        bright = images.mean(1).flatten(1).argmax(1)
        found = torch.stack([axis[bright % 256], axis[bright // 256]], -1)
        away = [(moved[:, number, :2] - found).norm(dim=1) for number in (mark, int(topo.MIRROR[mark]))]
        assert (torch.minimum(*away) < 0.02).all()
        mirrored.append((away[1] < away[0]).tolist())
    assert mirrored[0] == mirrored[1]
    assert 0 < sum(mirrored[0]) < 12


def test_a_variation_depends_on_its_own_seed_alone(picture, faces):
    landmarks = torch.from_numpy(faces)
    both = vary(picture.repeat(2, 1, 1, 1), landmarks, [3, 8])
    one = vary(picture, landmarks[1:], [8])
    assert torch.allclose(both[0][1:], one[0], atol=1e-5)
    assert torch.allclose(both[1][1:], one[1], atol=1e-5)


def test_a_landmark_mirrored_twice_is_itself(faces):
    assert np.array_equal(topo.MIRROR[topo.MIRROR], np.arange(topo.LANDMARKS))
    assert np.array_equal(np.flatnonzero(np.arange(topo.LANDMARKS) == topo.MIRROR), topo.MIDLINE)
    assert np.array_equal(topo.MIRROR[topo.RIGHT_UPPER_LID], topo.LEFT_UPPER_LID)
    assert np.array_equal(topo.MIRROR[topo.RIGHT_BROW], topo.LEFT_BROW)
    # A face that looks ahead is its own mirror image, nearly: no point lands far from where its partner was.
    face = faces[0] - faces[0][topo.MIDLINE].mean(0)
    turned = face[topo.MIRROR] * [-1, 1, 1]
    u, _, vt = np.linalg.svd(turned.T @ face)
    assert np.linalg.norm(turned @ u @ vt - face, axis=1).max() < 0.06


def test_the_mouths_mask_covers_the_mouth_and_spares_the_eyes(faces):
    landmarks = torch.from_numpy(faces)
    mask = region_mask(landmarks, 256, ("mouth",))
    for face, hidden in zip(landmarks, mask, strict=True):
        at = ((face[:, :2] + 1) * 127.5).round().long().clamp(0, 255)
        inside = hidden[0, at[:, 1], at[:, 0]]
        assert inside[torch.from_numpy(np.r_[topo.OUTER_UPPER_LIP, topo.OUTER_LOWER_LIP, topo.CHIN])].all()
        assert not inside[torch.from_numpy(np.r_[topo.RIGHT_UPPER_LID, topo.LEFT_UPPER_LID, topo.NOSE_TIP])].any()


def test_the_mouths_mask_does_not_follow_the_lips(faces):
    landmarks = torch.from_numpy(faces)
    open_mouth = landmarks.clone()
    hidden = hidden_landmarks(("mouth",))
    open_mouth[:, hidden] += torch.rand(2, len(hidden), 3) * 0.1
    assert torch.equal(region_mask(landmarks, 64), region_mask(open_mouth, 64))


def test_hidden_landmarks_hold_their_region_and_no_other():
    mouth = set(hidden_landmarks(("mouth",)).tolist())
    assert {*topo.OUTER_LOWER_LIP, *topo.INNER_UPPER_LIP, topo.CHIN, 61, 291} <= mouth
    assert not mouth & {*topo.RIGHT_UPPER_LID, *topo.LEFT_BROW, topo.NOSE_TIP, topo.FOREHEAD_TOP}
    everything = hidden_landmarks(REGIONS)
    assert set(everything.tolist()) > mouth
    assert int(mesh_edges()[0].max()) < topo.LANDMARKS
