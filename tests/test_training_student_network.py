import copy

import pytest
import torch

from edge.errors import InputError
from edge.spec import FIELD, KEYPOINTS, LOCAL_LANDMARKS, NETWORK
from training.config import TIERS
from training.student.blocks import warp
from training.student.cost import student_config
from training.student.network import (
    AppearanceDistributor,
    Motion,
    Student,
    resize,
)
from training.student.person import Person, Window, heatmaps, identity_grid
from training.teachers import Identity


@pytest.fixture(scope="module")
def identity(faces) -> Identity:
    generator = torch.Generator().manual_seed(0)
    photo = resize(torch.rand(1, 3, 32, 32, generator=generator), NETWORK)[0]
    landmarks = torch.from_numpy(faces[0])
    return Identity(photo, landmarks, landmarks[:KEYPOINTS], photo[:, None])


@pytest.fixture(scope="module")
def student(identity) -> Student:
    torch.manual_seed(0)
    return Student.untrained(student_config(TIERS["nano"])).bind(identity).eval()


@pytest.fixture
def pose(student):
    return student.person.source_points[:, :KEYPOINTS], student.person.source_points[:, KEYPOINTS:]


@pytest.mark.parametrize("size", [FIELD, NETWORK])
def test_identity_field_returns_the_features(size):
    features = torch.rand(1, 2, size, size)
    coarse = identity_grid(FIELD).permute(0, 3, 1, 2)
    field = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear", align_corners=True)
    torch.testing.assert_close(warp(features, field.permute(0, 2, 3, 1)), features, atol=2e-4, rtol=0)


def test_heatmaps_peak_at_their_points():
    axis = torch.linspace(-1, 1, 33)
    maps = heatmaps(torch.tensor([[[0.5, -0.25]]]), axis)
    assert maps.shape == (1, 1, 33, 33)
    assert divmod(int(maps.argmax()), 33) == (12, 24)  # row y, column x
    assert maps.max().item() == pytest.approx(1)


def test_fresh_student_at_rest_shows_the_photo(student, identity, pose):
    with torch.no_grad():
        image = student(*pose)
    assert image.shape == (1, 3, NETWORK, NETWORK)
    assert image.dtype == torch.float32
    # To rounding: the grid's coordinates are float32.
    torch.testing.assert_close(image[0], identity.source_image, atol=2e-4, rtol=0)


def test_batches_and_single_frames_agree(student, pose):
    torch.manual_seed(1)
    keypoints = pose[0] + 0.1 * torch.randn(2, KEYPOINTS, 2)
    local = pose[1] + 0.1 * torch.randn(2, LOCAL_LANDMARKS, 2)
    with torch.no_grad():
        both = student.animate(keypoints, local)
        one = student(keypoints[1:], local[1:])
    assert isinstance(both.motion, Motion)
    assert both.motion.field.shape == (2, FIELD, FIELD, 2)
    assert both.motion.occlusion.shape == (2, 1, FIELD, FIELD)
    torch.testing.assert_close(both.image[1:].clamp(0, 1), one, atol=1e-4, rtol=0)


def test_matte_carries_the_layer_over_the_canvas(identity, pose):
    student = Student.untrained(student_config(TIERS["nano"])).bind(identity)
    with torch.no_grad():
        student.person.canvas.fill_(0.25)
        student.person.layer[:, 3, :, : NETWORK // 2] = 0
        image = student(*pose)
    assert (image[..., : NETWORK // 2 - 1] - 0.25).abs().max() < 1e-5
    assert (image[0, :, :, NETWORK // 2 + 8 :] - identity.source_image[:, :, NETWORK // 2 + 8 :]).abs().mean() < 0.02


def test_two_people_share_a_network(student, identity, pose):
    """Each is drawn as by a student of its own, before and after the other."""
    torch.manual_seed(2)
    other = Student(student.network, Person(student.config)).bind(
        identity._replace(source_image=1 - identity.source_image)
    )
    own = copy.deepcopy(other)
    with torch.no_grad():
        first, second = student(*pose), other.eval()(*pose)
        assert torch.equal(own.eval()(*pose), second)
        assert torch.equal(student(*pose), first)
        swapped = Student(own.network, student.person)
        assert torch.equal(swapped(*pose), first)
    assert (first - second).abs().mean() > 0.1
    assert not set(map(id, student.person.parameters())) & set(map(id, other.person.parameters()))


def test_a_person_of_other_widths_is_refused(student):
    with pytest.raises(InputError, match="cannot be drawn by a network of"):
        Student(student.network, Person(student_config(TIERS["low"])))


@pytest.mark.parametrize("shape", [(3, 1, 512, 512), (32, 16, 64, 64)])
def test_distributor_presses_photos_and_volumes(shape):
    channels = shape[0] * shape[1] * (shape[2] // FIELD) ** 2
    features = AppearanceDistributor(channels, 8)(torch.rand(shape))
    assert features.shape == (1, 8, FIELD, FIELD)


def test_half_precision_trunks_stay_near(student, pose):
    keypoints, network = pose[0] + 0.05, student.network
    with torch.no_grad():
        exact = student(keypoints, pose[1])
        network.motion_trunk.precision = network.generator.precision = torch.bfloat16
        short = student(keypoints, pose[1])
        network.motion_trunk.precision = network.generator.precision = None
    assert short.dtype == torch.float32
    assert (short - exact).abs().max() < 0.02


@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch.export's own
def test_graph_holds_only_operations_that_lower(student, pose):
    program = torch.export.export(student, pose, strict=True).run_decompositions({})
    kinds = {
        str(node.target).removeprefix("aten.").split(".")[0]
        for node in program.graph.nodes
        if node.op == "call_function"
    }
    everywhere = {
        "_to_copy", "add", "addmm", "bmm", "cat", "clamp", "convolution", "conv2d", "exp", "expand", "grid_sampler_2d",
        "linear", "mul", "neg", "permute", "pixel_shuffle", "pixel_unshuffle", "pow", "relu", "sigmoid", "slice",
        "softmax", "_softmax", "sub", "t", "transpose", "unsqueeze", "upsample_bilinear2d", "view", "reshape", "clone",
        "_unsafe_view", "square", "flatten", "alias", "div", "matmul", "grid_sampler", "minimum",
            "select",
    }  # fmt: skip
    assert kinds <= everywhere, kinds - everywhere
    assert "index_select" not in kinds


def test_a_window_is_that_part_of_the_whole_frame(random_student, driving):
    """But for a rim where the convolutions' padding reaches, which training does not compare."""
    held_out = driving[-1]
    keypoints = torch.from_numpy(held_out.keypoints[:1])
    local = torch.from_numpy(held_out.local_landmarks[:1])
    window = Window(64, 128, 288)
    with torch.no_grad():
        whole = random_student.animate(keypoints, local)
        part = random_student.animate(keypoints, local, window=window)
    assert part.image.shape == (1, 3, 288, 288)
    assert torch.equal(part.motion.field, whole.motion.field)
    inner = slice(96, -96)
    assert torch.allclose(part.image[..., inner, inner], window.of(whole.image)[..., inner, inner], atol=2e-3)
