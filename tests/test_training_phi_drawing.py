"""Faces drawn as lines: on the pixels that lie on them, for each face by itself."""

import pytest
import torch

from training.phi.drawing import LOCAL_MAPS, draw, local_edges, local_maps, mesh_edges, mesh_image


def test_a_line_lies_between_its_ends():
    points = torch.tensor([[[-1.0, 0.0], [1.0, 0.0]]])
    picture = draw(points, torch.tensor([[0, 1]]), 33, per_edge=66)[0]
    assert picture[16].min() > 0.4
    assert picture.sum() == picture[16].sum()


def test_a_point_between_pixels_is_shared():
    picture = draw(torch.zeros(1, 1, 2), torch.tensor([[0, 0]]), 4, per_edge=2)[0]
    assert torch.allclose(picture[1:3, 1:3], torch.full((2, 2), 0.25))


def test_what_lies_outside_is_not_drawn():
    points = torch.tensor([[[3.0, 3.0], [4.0, -5.0]]])
    assert draw(points, torch.tensor([[0, 1]]), 16, per_edge=8).sum() == 0


def test_the_topology_is_mediapipes():
    mesh, contours, irises = mesh_edges()
    assert len(mesh) == 1322  # 2556 entries, each edge twice but those of the rim
    assert len(contours) > 100
    assert sorted(set(irises.flatten().tolist())) == [469, 470, 471, 472, 474, 475, 476, 477]


def test_a_mesh_image_shows_each_face_by_itself(faces):
    landmarks = torch.from_numpy(faces)
    both = mesh_image(landmarks, 128)
    assert both.shape == (2, 3, 128, 128)
    assert torch.equal(both[1:], mesh_image(landmarks[1:], 128))
    assert (both.flatten(2).amax(2) > 0.5).all()
    # Contours are edges of the mesh or near them: where they are bright, the mesh is not far.
    near = torch.nn.functional.max_pool2d(both[:, :1], 5, 1, 2)
    assert (near[both[:, 1:2] > 0.8] > 0.2).float().mean() > 0.95


def test_local_maps_follow_the_mouth(faces):
    from edge.topology import LOCAL

    local = torch.from_numpy(faces)[:, torch.from_numpy(LOCAL), :2]
    shut = local_maps(local, 64)
    assert shut.shape == (2, LOCAL_MAPS, 64, 64)
    assert len(local_edges()) == LOCAL_MAPS
    lower = local.clone()
    lips = local_edges()[1].unique()
    lower[:, lips, 1] += 0.2
    moved = local_maps(lower, 64)
    assert not torch.equal(moved[:, 1], shut[:, 1])
    assert torch.equal(moved[:, 2:], shut[:, 2:])


@pytest.mark.parametrize("size", [32, 256])
def test_pictures_are_shares(faces, size):
    picture = mesh_image(torch.from_numpy(faces), size)
    assert picture.min() >= 0
    assert picture.max() <= 1 + 1e-6
