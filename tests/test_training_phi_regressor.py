"""The landmark regressor and the pose of its landmarks."""

import numpy as np
import pytest
import torch

from edge.motion import head_angles, head_rotation
from training.phi.regressor import LandmarkRegressor, pose_of_landmarks


def test_it_starts_at_its_mean_face(faces):
    network = LandmarkRegressor(8)
    with torch.no_grad():
        network.mean.copy_(torch.from_numpy(faces[0]))
    made = network(torch.rand(2, 3, 96, 96))
    assert made.shape == (2, 478, 3)
    assert (made - torch.from_numpy(faces[0])).abs().max() < 0.1


@pytest.mark.parametrize("size", [64, 128, 256])
def test_it_takes_frames_of_any_size_and_passes_gradients(size):
    frames = torch.rand(1, 3, size, size, requires_grad=True)
    LandmarkRegressor(8)(frames).sum().backward()
    assert frames.grad.abs().sum() > 0


@pytest.mark.parametrize("angles", [(20, 0, 0), (0, 15, 0), (0, 0, 25), (-15, 10, -20)])
def test_differences_of_pose_are_those_of_the_head(faces, angles):
    """Turned by known angles, the pose found differs by what edge's own convention calls them."""
    rotation = np.asarray(head_rotation(*angles))
    face = faces[0].astype(np.float64)
    centre = face.mean(0)
    turned = torch.from_numpy((face - centre) @ rotation.T + centre).float()[None]
    found = (pose_of_landmarks(turned) - pose_of_landmarks(torch.from_numpy(faces[:1])))[0]
    wanted = head_angles(rotation)
    assert found.tolist() == pytest.approx([float(angle) for angle in wanted], abs=6)
