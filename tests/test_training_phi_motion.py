"""MEM and the dense motion network: keypoints compose as the paper says, masks leave no gradient."""

import math

import pytest
import torch

from edge.spec import KEYPOINTS
from edge.topology import LOCAL
from training.config import TEACHERS
from training.phi.augment import hidden_landmarks, region_mask
from training.phi.drawing import mesh_image
from training.phi.motion import DenseMotion, Keypoints, MotionEnhancing, rotation_matrix, volume_grid, warp_volume

CONFIG = TEACHERS["teacher_tiny"]


def keypoints(count=1, *, yaw=0.0, shift=0.0):
    angles = torch.tensor([[yaw, 0.0, 0.0]]).expand(count, -1)
    canonical = torch.rand(1, KEYPOINTS, 3, generator=torch.Generator().manual_seed(0)).expand(count, -1, -1) - 0.5
    none = torch.zeros(count, KEYPOINTS, 3)
    return Keypoints(canonical, rotation_matrix(angles), angles, torch.full((count, 1, 3), shift), none)


def test_points_are_turned_shifted_and_expressed():
    found = keypoints(yaw=math.pi / 2, shift=0.25)._replace(expression=torch.full((1, KEYPOINTS, 3), 0.5))
    x, y, z = found.canonical.unbind(-1)
    assert torch.allclose(found.points, torch.stack([z, y, -x], -1) + 0.75, atol=1e-6)


def test_another_persons_motion_keeps_the_sources_shape():
    source, driving = keypoints(), keypoints(2, yaw=0.3)
    other = driving._replace(canonical=driving.canonical + 1)
    assert torch.allclose(other.of(source).points, driving.points)


@pytest.mark.parametrize("angles", [(0.4, 0, 0), (0, -0.7, 0), (0, 0, 1.2), (0.3, 0.2, -0.5)])
def test_rotations_are_rotations(angles):
    matrix = rotation_matrix(torch.tensor([angles]).float())[0]
    assert torch.allclose(matrix @ matrix.T, torch.eye(3), atol=1e-6)
    assert torch.linalg.det(matrix) == pytest.approx(1, abs=1e-5)


def test_an_identity_field_returns_the_volume():
    volume = torch.rand(2, 3, 4, 8, 8)
    field = volume_grid(4, 8, 8, volume).expand(2, -1, -1, -1, -1)
    assert torch.allclose(warp_volume(volume, field), volume, atol=1e-5)


def test_nothing_of_the_mouth_reaches_the_global_keypoints(faces):
    """MTM's promise, by gradient: image, drawn mesh and landmarks."""
    torch.manual_seed(0)
    network = MotionEnhancing(CONFIG)
    for head in (network.canonical, network.pose, network.expression):
        torch.nn.init.normal_(head.weight)
    landmarks = torch.from_numpy(faces).clone().requires_grad_()
    image = torch.rand(2, 3, 64, 64, requires_grad=True)
    mesh = mesh_image(landmarks, 64).requires_grad_()
    mask, hidden = region_mask(landmarks.detach(), 64), hidden_landmarks()
    network(image, mesh, landmarks, mask=mask, hidden=hidden).points.square().sum().backward()
    inside = mask.expand(-1, 3, -1, -1) > 0
    for inputs in (image, mesh):
        assert inputs.grad[inside].abs().max() == 0
        assert inputs.grad[~inside].abs().max() > 0
    assert landmarks.grad[:, hidden].abs().max() == 0
    assert landmarks.grad.abs().max() > 0


@pytest.mark.parametrize(("early", "late"), [(False, True), (True, False)])
def test_an_infusion_can_be_left_out(faces, early, late):
    from dataclasses import replace

    torch.manual_seed(0)
    network = MotionEnhancing(replace(CONFIG, early_infusion=early, late_infusion=late))
    landmarks = torch.from_numpy(faces[:1]).clone().requires_grad_()
    mesh = mesh_image(landmarks, 64).requires_grad_()
    network(torch.rand(1, 3, 64, 64), mesh, landmarks).points.sum().backward()
    assert (mesh.grad is not None) == early
    assert (landmarks.grad is not None) == late


def dense(faces, source, driving, driving_local=None):
    torch.manual_seed(0)
    network = DenseMotion(CONFIG).eval()
    local = torch.from_numpy(faces[:1])[:, torch.from_numpy(LOCAL), :2]
    side = CONFIG.size // 2**CONFIG.halvings
    volume = torch.rand(1, CONFIG.volume_channels, CONFIG.volume_depth, side, side)
    return network, lambda: network(
        volume,
        source=source,
        driving=driving,
        source_local=local,
        driving_local=local if driving_local is None else driving_local,
    )


def test_equal_keypoints_move_nothing(faces):
    network, run = dense(faces, keypoints(), keypoints())
    torch.nn.init.zeros_(network.correct.weight)
    side = CONFIG.size // 2**CONFIG.halvings
    flow = run()
    assert torch.allclose(flow.field, volume_grid(CONFIG.volume_depth, side, side, flow.field), atol=1e-5)
    assert flow.occlusion.shape == (1, 1, side, side)


def test_a_shifted_head_is_read_from_where_it_was(faces):
    network, run = dense(faces, keypoints(), keypoints(shift=0.2))
    torch.nn.init.zeros_(network.correct.weight)
    with torch.no_grad():
        network.mask.weight.zero_()
        network.mask.bias.copy_(torch.tensor([-30.0] + [0.0] * KEYPOINTS))  # all follow keypoints
    side = CONFIG.size // 2**CONFIG.halvings
    flow = run()
    assert torch.allclose(flow.field, volume_grid(CONFIG.volume_depth, side, side, flow.field) - 0.2, atol=1e-5)


def test_local_landmarks_reach_the_motion(faces):
    local = torch.from_numpy(faces[:1])[:, torch.from_numpy(LOCAL), :2]
    _, run = dense(faces, keypoints(), keypoints())
    _, moved = dense(faces, keypoints(), keypoints(), driving_local=local + 0.1)
    assert not torch.equal(run().hints, moved().hints)
