import pytest
import torch

from edge import topology as topo
from edge.spec import FIELD
from edge.topology import LOCAL
from training.config import LossWeights
from training.student.losses import (
    gan_loss,
    local_boxes,
    local_loss,
    motion_loss,
    multi_scale_loss,
    sharpness_loss,
    student_loss,
)
from training.student.network import Motion
from training.student.person import identity_grid


@pytest.fixture(scope="module")
def local(faces) -> torch.Tensor:
    return torch.from_numpy(faces[:1, LOCAL, :2].copy())


def test_boxes_hold_eyes_and_mouth_and_nothing_else(local, faces):
    boxes = local_boxes(local, 128)
    assert boxes.shape == (1, 1, 128, 128)
    assert boxes.sum().item() == pytest.approx(1)

    def counts(landmarks) -> list[float]:
        places = ((faces[0, landmarks, :2] + 1) * 63.5).round().astype(int)
        return [boxes[0, 0, y, x].item() for x, y in places]

    for part in (topo.RIGHT_UPPER_LID, topo.LEFT_LOWER_LID, topo.OUTER_UPPER_LIP, topo.OUTER_LOWER_LIP):
        assert min(counts(part)) > 0
    assert counts([topo.NOSE_BRIDGE, topo.NOSE_TIP, topo.CHIN, topo.FOREHEAD_TOP]) == [0, 0, 0, 0]
    # A third of the weight each, though the mouth is larger than an eye.
    assert boxes[:, :, : int((faces[0, topo.NOSE_TIP, 1] + 1) * 63.5)].sum().item() == pytest.approx(2 / 3)


def test_local_loss_sees_the_boxes_alone_and_large_errors_most(local):
    boxes = local_boxes(local, 64)
    black, inside = torch.zeros(1, 3, 64, 64), (boxes > 0).float()
    assert local_loss(black + (1 - inside), black, boxes) == 0
    assert local_loss(black + inside, black, boxes).item() == pytest.approx(6)
    assert local_loss(black + 0.1 * inside, black, boxes).item() == pytest.approx(0.15)


def test_multi_scale_forgives_fine_noise_that_sharpness_sees():
    black = torch.zeros(1, 3, 64, 64)
    places = torch.arange(64)
    board = ((places[:, None] + places) % 2).float().expand(1, 3, 64, 64) - 0.5
    assert multi_scale_loss(black + board, black).item() == pytest.approx(0, abs=1e-6)
    assert sharpness_loss(black + board, black).item() == pytest.approx(2)
    assert multi_scale_loss(black + 0.5, black).item() == pytest.approx(0.5)
    assert sharpness_loss(black + 0.5, black).item() == pytest.approx(0)


def test_motion_loss_counts_pixels_where_things_move():
    field = identity_grid(FIELD)
    seen = torch.ones(1, 1, FIELD, FIELD)
    moving = torch.ones(1, FIELD, FIELD, 1)
    motion = Motion(field + torch.tensor([2 / 256, 0.0]), seen, seen)
    certain = motion_loss(motion._replace(field=field), field, seen, moving).item()
    assert certain < 0.01
    assert motion_loss(motion, field, seen, moving).item() - certain == pytest.approx(2, abs=1e-3)
    assert motion_loss(motion, field, seen, 0 * moving).item() - certain == pytest.approx(0.1, abs=1e-3)


def test_terms_are_weighed_and_optional_networks_take_part(local):
    torch.manual_seed(0)
    frames = torch.rand(1, 3, 512, 512, requires_grad=True)
    teacher = torch.rand(1, 3, 512, 512)
    weights = LossWeights()
    plain = student_loss(frames, teacher, local, weights)
    assert plain.perceptual == plain.gan == 0
    wanted = plain.reconstruction + plain.multi_scale + 100 * plain.local
    torch.testing.assert_close(plain.total, wanted)

    full = student_loss(
        frames,
        teacher,
        local,
        weights,
        perceptual=lambda x: [x[..., ::8, ::8], x.mean((2, 3))],
        discriminator=lambda x: x.mean((1, 2, 3)),
    )
    torch.testing.assert_close(full.total, wanted + 10 * full.perceptual + 10 * full.gan)
    full.total.backward()
    assert frames.grad.isfinite().all()


def test_a_frame_should_be_as_real_as_the_teachers_and_no_more():
    def judge(frames):
        return frames.mean((1, 2))

    teacher = torch.full((2, 3, 8, 8), 0.25)
    assert gan_loss(judge, teacher, teacher) == 0
    assert gan_loss(judge, torch.ones_like(teacher), teacher) == pytest.approx(0.75**2)
    assert gan_loss(judge, torch.zeros_like(teacher), teacher) == pytest.approx(0.25**2)
