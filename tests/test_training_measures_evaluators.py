"""Judges: found by name, run as their publishers run them, differentiable; absent ones are None and no error."""

import numpy as np
import pytest
import torch
from conftest import SHARED

from edge.errors import InputError
from training.measures import evaluators
from training.measures.evaluators import (
    FaceIdentity,
    OnnxNetwork,
    Vgg19,
    find_network,
    load_head_pose,
    load_identity,
    load_lpips,
    load_perceptual,
    read_box,
)

CPU = torch.device("cpu")


@pytest.fixture
def models(monkeypatch):
    folder = SHARED / "models"
    if not (folder / "headpose").is_dir():
        pytest.skip("the shared evaluator networks are not at hand")
    monkeypatch.setenv("SUPERFACE_MODELS", str(folder))
    monkeypatch.setattr(evaluators, "_download_vgg", lambda: None)
    return folder


@pytest.fixture
def nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("SUPERFACE_MODELS", str(tmp_path / "none"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def test_what_is_absent_is_none(nothing):
    assert load_perceptual(CPU, download=False) is None
    assert load_head_pose(CPU) is None
    assert load_identity(CPU) is None
    assert load_lpips(CPU) is None


def test_a_download_that_is_not_it_is_not_kept(nothing, monkeypatch):
    import io

    monkeypatch.setattr(evaluators.urllib.request, "urlopen", lambda *_, **__: io.BytesIO(b"a sign-in page"))
    assert evaluators._download_vgg() is None
    assert not [path for path in nothing.rglob("*") if path.is_file()]


def test_vgg_has_torchvisions_names_and_taps():
    names = list(Vgg19().state_dict())
    assert names[0] == "features.0.weight"
    assert names[-1] == "features.28.bias"
    maps = Vgg19()(torch.rand(1, 3, 32, 32))
    assert [m.shape[1] for m in maps] == [64, 128, 256, 512, 512]
    assert [m.shape[2] for m in maps] == [32, 16, 8, 4, 2]


def test_vgg_is_used_where_it_is_found(nothing, monkeypatch):
    folder = nothing / "models"
    folder.mkdir()
    monkeypatch.setenv("SUPERFACE_MODELS", str(folder))
    state = Vgg19().state_dict() | {"classifier.0.weight": torch.zeros(2)}
    torch.save(state, folder / evaluators.VGG_NAME)
    found = load_perceptual(CPU, download=False)
    assert "torchvision" in found.card
    assert len(found.maps(torch.rand(1, 3, 64, 64))) == 10  # 64 and 32 px


def test_a_pickle_in_disguise_is_refused(nothing, monkeypatch):
    import pickle

    folder = nothing / "models"
    folder.mkdir()
    monkeypatch.setenv("SUPERFACE_MODELS", str(folder))
    (folder / evaluators.VGG_NAME).write_bytes(pickle.dumps(print))
    with pytest.raises(InputError, match="cannot be read as weights"):
        load_perceptual(CPU, download=False)


def test_smaller_networks_stand_in(models):
    found = load_perceptual(CPU, download=False)
    assert "normalised" in found.card
    frames = torch.rand(1, 3, 64, 64, requires_grad=True)
    maps = found.maps(frames)
    assert len(maps) == 20  # 3 + 7 maps at 64 and 32 px
    sum(m.sum() for m in maps).backward()
    assert frames.grad.abs().sum() > 0


def test_lpips_grows_with_damage(models):
    network = load_lpips(CPU)
    frames = torch.rand(1, 3, 16, 16)
    frames = torch.nn.functional.interpolate(frames, (128, 128), mode="bicubic").clamp(0, 1)
    noisy = [(frames + s * torch.randn(1, 3, 128, 128)).clamp(0, 1) for s in (0.0, 0.05, 0.2)]
    none, some, much = (float(network.distance(n, frames)) for n in noisy)
    assert none == pytest.approx(0, abs=1e-6)
    assert some < much


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("fsanet-1x1-iter-688590.onnx", (1, 3, 64, 64)),
        ("fsanet-var-iter-688590.onnx", (1, 3, 64, 64)),
        ("mobilefacenet_y1.onnx", (2, 3, 112, 112)),
    ],
)
def test_onnx_networks_say_what_onnx_runtime_says(models, name, shape):
    import onnxruntime

    path = find_network(name)
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    wanted = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    x.requires_grad_()
    got = OnnxNetwork(path)(x)
    assert np.abs(got.detach().numpy() - wanted).max() < 1e-3 * max(1, np.abs(wanted).max())
    got.sum().backward()
    assert x.grad.abs().sum() > 0


@pytest.fixture(scope="module")
def portrait(portraits, landmark_model):
    from edge.driving.landmarks import Landmarker, read_portrait

    with Landmarker(landmark_model) as landmarker:
        del landmarker
    found = read_portrait(portraits["astronaut"])
    image = torch.from_numpy(found.image.copy()).permute(2, 0, 1)[None].float() / 255
    return image, torch.from_numpy(found.landmarks)[None]


def test_head_pose_follows_roll(models, portrait):
    image, landmarks = portrait
    network = load_head_pose(CPU)
    straight = network(image, landmarks)
    turn = torch.tensor(np.deg2rad(20.0)).float()
    matrix = torch.tensor([[turn.cos(), turn.sin(), 0], [-turn.sin(), turn.cos(), 0]])[None]
    rolled = torch.nn.functional.grid_sample(
        image, torch.nn.functional.affine_grid(matrix, list(image.shape), align_corners=True), align_corners=True
    )
    moved = landmarks.clone()
    moved[..., :2] = landmarks[..., :2] @ matrix[0, :, :2]
    change = (network(rolled, moved) - straight)[0]
    assert abs(change[2]) == pytest.approx(20, abs=8)


def test_one_face_is_itself_and_no_other(models, portrait, portraits):
    from edge.driving.landmarks import read_portrait

    network = load_identity(CPU)
    assert isinstance(network, FaceIdentity)
    image, landmarks = portrait
    smaller = torch.nn.functional.interpolate(image, (300, 300), mode="area")
    other = read_portrait(portraits["grace_hopper"])
    theirs = torch.from_numpy(other.image.copy()).permute(2, 0, 1)[None].float() / 255
    one, again = network(image, landmarks)[0], network(smaller, landmarks)[0]
    else_ = network(theirs, torch.from_numpy(other.landmarks)[None])[0]
    assert one @ again > 0.9
    assert one @ else_ < 0.4


def test_a_box_is_read_where_it_lies():
    axis = torch.linspace(-1, 1, 200)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    places = torch.stack([x, y])[None]
    box = read_box(places, torch.tensor([[0.25, -0.25]]), torch.tensor([[0.2, 0.1]]), 16)
    assert box.mean((2, 3)).flatten().tolist() == pytest.approx([0.25, -0.25], abs=1e-3)
    assert float(box[0, 0].max()) == pytest.approx(0.45, abs=0.03)
    assert float(box[0, 1].min()) == pytest.approx(-0.35, abs=0.02)
