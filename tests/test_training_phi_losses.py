"""Each term of Eq. 1 on a case whose answer is known."""

import pytest
import torch

from edge.topology import LOCAL
from training.phi.augment import Transform
from training.phi.discriminator import Discriminator, Judgement
from training.phi.losses import (
    TeacherTerms,
    discriminator_loss,
    equivariance_loss,
    expression_loss,
    gan_loss,
    head_pose_loss,
    keypoint_loss,
    local_crops,
    local_loss,
    local_share,
    perceptual_loss,
)
from training.student.losses import reconstruction_loss


def pixels(frames):
    return [frames, frames.mean((2, 3), keepdim=True)]


def judged(realness, feature=0.0):
    return [Judgement(torch.full((2, 1, 4, 4), realness), (torch.full((2, 3, 4, 4), feature),))]


def test_perceptual_is_the_sum_over_maps():
    black, grey = torch.zeros(1, 3, 8, 8), torch.full((1, 3, 8, 8), 0.5)
    assert perceptual_loss(pixels, grey, black) == pytest.approx(2 * 0.5)
    assert perceptual_loss(pixels, grey, grey) == 0


def test_the_generator_wants_to_be_judged_real():
    assert gan_loss(judged(1.0)) == 0
    assert gan_loss(judged(0.25)) == pytest.approx(0.75**2)
    assert gan_loss(judged(1.0, feature=0.5), judged(0.0, feature=0.2)) == pytest.approx(0.3)


def test_the_discriminator_wants_ones_for_real_and_zeros_for_made():
    assert discriminator_loss(judged(0.0), judged(1.0)) == 0
    assert discriminator_loss(judged(0.5), judged(0.5)) == pytest.approx(0.25)


def test_keypoints_are_pushed_apart_only_when_near():
    far = torch.tensor([[[0.0, 0, 0], [1.0, 0, 0], [0, 1.0, 0]]])
    near = torch.tensor([[[0.0, 0, 0], [0.04, 0, 0], [0, 1.0, 0]]])
    assert keypoint_loss(far) == 0
    assert keypoint_loss(near) == pytest.approx(2 * 0.06 / 3)
    points = near.clone().requires_grad_()
    keypoint_loss(points).backward()
    assert points.grad[0, 0, 0] > 0 > points.grad[0, 1, 0]  # downhill is apart
    same = torch.zeros(1, 3, 3, requires_grad=True)
    keypoint_loss(same).backward()
    assert torch.isfinite(same.grad).all()


def test_expression_head_pose_and_reconstruction_are_mean_distances():
    assert expression_loss(torch.tensor([[[0.5, -0.5, 0.0]]])) == pytest.approx(1 / 3)
    assert head_pose_loss(torch.tensor([[3.0, 0, 0]]), torch.tensor([[0.0, 0, 3.0]])) == pytest.approx(2)
    assert reconstruction_loss(torch.zeros(1, 3, 4, 4), torch.full((1, 3, 4, 4), 0.25)) == 0.25


def test_keypoints_that_obey_the_transform_cost_nothing():
    points = torch.rand(2, 10, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    transform = Transform([1, 2], points)
    obeying = torch.cat([transform.inverse(points[..., :2]), points[..., 2:] + 5], -1)  # depth does not count
    assert equivariance_loss(points, obeying, transform) < 1e-3
    assert equivariance_loss(points, points, transform) > 0.005


@pytest.fixture(scope="module")
def local(faces):
    return torch.from_numpy(faces)[:, torch.from_numpy(LOCAL), :2]


def test_crops_show_eyes_and_mouth(local):
    axis = torch.linspace(-1, 1, 256)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    places = torch.stack([x, y, torch.zeros_like(x)])[None].expand(2, -1, -1, -1)
    middles = local_crops(places, local).mean((2, 3))[:, :2].view(3, 2, 2)  # each crop's place
    right_eye, left_eye, mouth = middles[:, 0]
    assert right_eye[0] < mouth[0] < left_eye[0]
    assert mouth[1] > right_eye[1]
    share = local_share(local)
    assert ((share > 0.001) & (share < 0.15)).all()


def test_the_local_term_sees_the_mouth_and_not_the_hair(faces, local):
    frames = torch.full((2, 3, 128, 128), 0.5)
    landmarks = torch.from_numpy(faces)

    def loss(changed):
        return local_loss(pixels, changed, frames, local, landmarks_made=landmarks, landmarks_wanted=landmarks)

    hair = frames.clone()
    hair[..., :10, :] = 1
    assert loss(hair) == 0
    lips = frames.clone()
    x, y = ((local[0, 24:36].mean(0) + 1) * 63.5).long()
    lips[:1, :, y - 3 : y + 3, x - 3 : x + 3] = 1
    assert loss(lips) > 0
    shifted = landmarks + 0.01
    made = local_loss(pixels, frames, frames, local, landmarks_made=shifted, landmarks_wanted=landmarks)
    assert made == pytest.approx(0.01, rel=1e-3)


def test_weights_have_a_name_for_every_term():
    from dataclasses import fields

    from training.config import TeacherLossWeights

    assert [f.name for f in fields(TeacherLossWeights)] == list(TeacherTerms._fields)
    assert list(TeacherLossWeights().__dict__.values()) == [10, 10, 5, 10, 1, 10, 10, 100]


def test_a_discriminator_learns_to_tell_and_sees_every_scale():
    torch.manual_seed(0)
    network = Discriminator(8)
    real, made = torch.rand(4, 3, 64, 64) * 0.2 + 0.7, torch.rand(4, 3, 64, 64) * 0.2
    optimiser = torch.optim.Adam(network.parameters(), 2e-3)
    assert len(network(real)) == 2
    first = last = None
    for _ in range(30):
        loss = discriminator_loss(network(made), network(real))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        first, last = first or loss.item(), loss.item()
    assert last < first / 3
