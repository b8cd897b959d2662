"""Φ behind the Teacher protocol: bound once, driven by landmarks, judged by its own discriminator."""

from dataclasses import asdict

import pytest
import torch

from edge.errors import InputError
from edge.spec import FIELD, KEYPOINTS, NETWORK
from training.checkpoint import save_tensors
from training.config import TEACHERS, TeacherTraining
from training.phi.discriminator import Discriminator
from training.phi.network import SuperFace
from training.teachers.load import load_teacher
from training.teachers.superface import VERSION, SuperFaceTeacher


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """An untrained tiny Φ, as training writes it."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "teacher.safetensors"
    network, judge = SuperFace(TEACHERS["teacher_tiny"]), Discriminator(8)
    tensors = {f"teacher/{name}": value for name, value in network.state_dict().items()}
    tensors |= {f"discriminator/{name}": value for name, value in judge.state_dict().items()}
    training = asdict(TeacherTraining(teacher="teacher_tiny", discriminator_channels=8))
    save_tensors(path, tensors, {"version": 1, "config": asdict(TEACHERS["teacher_tiny"]), "training": training})
    return path


@pytest.fixture(scope="module")
def bound(weights, faces):
    teacher = SuperFaceTeacher(weights)
    image = torch.nn.functional.interpolate(
        torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)), (NETWORK, NETWORK), mode="bilinear"
    )[0]
    return teacher, teacher.prepare(image, torch.from_numpy(faces[0]))


def test_an_identity_is_what_the_student_needs(bound):
    _, identity = bound
    assert identity.keypoints.shape == (KEYPOINTS, 3)
    channels, depth, height, width = identity.appearance_volume.shape
    assert (channels * depth, height, width) == (32, FIELD, FIELD)


def test_landmarks_alone_drive_it(bound, faces):
    teacher, identity = bound
    landmarks = torch.from_numpy(faces[:1]).repeat(5, 1, 1)
    landmarks[1:, :, 0] += 0.1
    made = teacher.render(identity, landmarks)
    assert made.frames.shape == (5, 3, NETWORK, NETWORK)
    assert made.keypoints.shape == (5, KEYPOINTS, 3)
    assert made.motion_field.shape == (5, FIELD, FIELD, 2)
    assert made.occlusion.shape == (5, 1, FIELD, FIELD)
    assert torch.allclose(made.frames[1], made.frames[4], atol=1e-4)  # chunks do not touch each other
    assert not torch.equal(made.keypoints[0], made.keypoints[1])


def test_the_same_weights_draw_the_same(bound, faces):
    """Else VERSION in training/teachers/superface.py is to be counted up, and these figures are to be read anew."""
    teacher, identity = bound
    landmarks = torch.from_numpy(faces[:1]).repeat(3, 1, 1)
    landmarks[:, :, 0] += torch.tensor([0.0, 0.1, -0.2])[:, None]
    made = teacher.render(identity, landmarks)
    parts = (made.frames, made.keypoints, made.motion_field, made.occlusion)
    assert VERSION == 1
    figures = [float(value) for part in parts for value in (part.mean(), part.std())]
    wanted = [0.5242, 0.1106, -0.0816, 0.2602, -0.0001, 0.5864, 0.8821, 0.0006]
    assert figures == pytest.approx(wanted, abs=2e-3)


def test_its_own_image_moves_nothing(bound):
    teacher, identity = bound
    made = teacher.render(identity, identity.source_landmarks[None], identity.source_image[None])
    assert torch.allclose(made.keypoints[0], identity.keypoints, atol=1e-5)


def test_its_discriminator_judges_windows_of_frames(bound):
    teacher, _ = bound
    frames = torch.rand(2, 3, 256, 256, requires_grad=True)
    realness = teacher.discriminator(frames)
    assert realness.shape[0] == 2
    realness.sum().backward()
    assert frames.grad.abs().sum() > 0


def test_its_version_follows_the_weights(bound, weights, tmp_path):
    other = tmp_path / "teacher.safetensors"
    other.write_bytes(weights.read_bytes())
    assert SuperFaceTeacher(other).version == bound[0].version
    from training.checkpoint import load_tensors

    tensors, card = load_tensors(weights)
    name = next(iter(tensors))
    save_tensors(other, tensors | {name: tensors[name] + 1}, card)
    assert SuperFaceTeacher(other).version != bound[0].version


def test_what_is_no_teacher_is_refused(weights, tmp_path, monkeypatch):
    from training.checkpoint import load_tensors

    tensors, card = load_tensors(weights)
    path = tmp_path / "t.safetensors"
    save_tensors(path, tensors, card | {"version": 99})
    with pytest.raises(InputError, match="newer version"):
        SuperFaceTeacher(path)
    save_tensors(path, {"a": torch.zeros(1)}, card)
    with pytest.raises(InputError, match="no teacher of this version"):
        SuperFaceTeacher(path)
    monkeypatch.delenv("SUPERFACE_TEACHER", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(InputError, match="superface train"):
        load_teacher("superface")
    monkeypatch.setenv("SUPERFACE_TEACHER", str(weights))
    assert load_teacher("superface").name == "superface"


def test_a_student_is_distilled_from_it(bound, faces, tmp_path, monkeypatch):
    """Frames, keypoints, features, discriminator and head pose all reach the student, and a driver is fitted."""
    import json

    from edge.driving.procedural import procedural_track, train_seed
    from training.config import TIERS, DistilConfig, LossWeights
    from training.student.distill import distil

    monkeypatch.setattr("training.student.distill.HISTORY_EVERY_S", 0)
    teacher, identity = bound
    landmarks = procedural_track(faces[0], seed=train_seed(2), seconds=2.0, style="training").landmarks[::5]
    landmarks = landmarks.astype("float32")
    asked = []

    def head_pose(frames, points):
        asked.append(frames.shape)
        return frames.mean((2, 3)) * 90

    result = distil(
        identity,
        teacher,
        tmp_path,
        training_landmarks=landmarks[:8],
        held_out_landmarks=landmarks[8:],
        config=DistilConfig(gflops=TIERS["nano"], steps=12, batch=2, weights=LossWeights(local=4.0)),
        discriminator=teacher.discriminator,
        head_pose=head_pose,
        progress=lambda *_: None,
    )
    assert result.driver.inner is not None
    error = (result.driver(torch.from_numpy(landmarks[:8])) - torch.from_numpy(result.training.keypoints)).norm(dim=-1)
    assert error.mean() < 0.02
    assert asked
    assert set(asked) == {torch.Size([2, 3, NETWORK, NETWORK])}
    notes = [json.dumps(entry) for entry in result.history]
    assert any('"gan"' in note for note in notes)
