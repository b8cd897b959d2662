"""Training Φ: a tiny one learns a clip, goes on bit by bit after a kill, and is the same in two processes."""

import io
import json
import os
import socket
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sliding_teacher import SlidingTeacher, sliding_identity, sliding_track

from edge.errors import InputError
from training.checkpoint import load_tensors, save_tensors
from training.config import TeacherTraining
from training.phi import train as module
from training.phi.shards import ClipFrames, write_clip, write_shard
from training.phi.train import train_teacher

ROOT = Path(__file__).parents[1]
TINY = TeacherTraining(teacher="teacher_tiny", steps=4, batch=4, gan_from=0.5, discriminator_channels=8)


@pytest.fixture(scope="module")
def shards(faces, tmp_path_factory):
    """One clip: a picture that slides with its face."""
    folder = tmp_path_factory.mktemp("shards")
    identity = sliding_identity(faces[0])
    landmarks = sliding_track(faces[0], 8, seed=1)
    frames = SlidingTeacher().render(identity, torch.from_numpy(landmarks)).frames
    small = torch.nn.functional.interpolate(frames, (64, 64), mode="area").permute(0, 2, 3, 1)
    jpegs = []
    for frame in (small * 255).byte().numpy():
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "JPEG", quality=95)
        jpegs.append(buffer.getvalue())
    with tarfile.open(folder / "clip.part", "w") as tar:
        write_clip(tar, ClipFrames("clip", {"source": "clip.mp4"}, landmarks, jpegs))
    write_shard(folder / "shard-000000.tar", [folder / "clip.part"])
    return folder


@pytest.fixture(autouse=True)
def no_judges(monkeypatch, tmp_path):
    """No pretrained network, wherever the tests run: the discriminator's features serve."""
    monkeypatch.setenv("SUPERFACE_MODELS", str(tmp_path / "none"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("training.measures.evaluators._download_vgg", lambda: None)


def train(shards, run, config=TINY, **how):
    return train_teacher(shards, run, config, workers=0, progress=lambda *_: None, precision="no", **how)


@pytest.fixture(scope="module")
def trained(shards, tmp_path_factory):
    """A run of four steps, and its weights."""
    patch = pytest.MonkeyPatch()
    run = tmp_path_factory.mktemp("run")
    patch.setenv("SUPERFACE_MODELS", str(run / "none"))
    patch.setenv("XDG_CACHE_HOME", str(run / "cache"))
    patch.setattr("training.measures.evaluators._download_vgg", lambda: None)
    teacher = train(shards, run, validate_every=2)
    patch.undo()
    return run, teacher.state_dict()


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_leaves_what_one_looks_for(trained):
    run, state = trained
    tensors, card = load_tensors(run / "teacher.safetensors")
    assert same({f"teacher/{name}": value for name, value in state.items()}, tensors)
    assert any(name.startswith("discriminator/") for name in tensors)
    assert card["step"] == 4
    assert "discriminator" in card["judges"]["perceptual"]
    assert [path.name for path in sorted((run / "validation").glob("*.png"))] == ["0000002.png", "0000004.png"]
    with Image.open(run / "validation" / "0000004.png") as picture:
        assert picture.size == (6 * 64, 4 * 64)
    last = json.loads((run / "history.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 4
    assert last["discriminator"] > 0
    assert {"perceptual", "gan", "keypoint", "expression", "head_pose", "equivariance", "local"} < set(last)


def test_a_killed_run_ends_with_the_same_weights(trained, shards, tmp_path, monkeypatch):
    calls = []
    real = module.make_step

    def killed(*given):
        calls.append(given)
        if len(calls) == 4:  # one for validation, two steps, and then
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(module, "make_step", killed)
    with pytest.raises(KeyboardInterrupt):
        train(shards, tmp_path / "run", save_every_s=0)
    monkeypatch.setattr(module, "make_step", real)
    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert kept == ["step-0000001", "step-0000002"]
    assert same(train(shards, tmp_path / "run").state_dict(), trained[1])
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert steps == [1, 4]


def test_a_batch_in_parts_is_the_batch(shards, tmp_path):
    """Accumulated gradients: the same step, but for what a part draws by its own number."""
    config = replace(TINY, steps=1, ssr=False)
    one = train(shards, tmp_path / "one", config).state_dict()
    two = train(shards, tmp_path / "two", config, parts=2).state_dict()
    # Adam's first step is a sign: a gradient near zero may fall on either side.
    assert np.mean([float((one[name] - two[name]).abs().mean()) for name in one]) < 1e-5


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
def test_two_processes_are_one(shards, tmp_path):
    """The same loss curve over two CPU processes (gloo) as in one, at the same batch over both."""
    code = (
        "import sys, training.measures.evaluators\n"
        "training.measures.evaluators._download_vgg = lambda: None\n"
        "from pathlib import Path\n"
        "from training.config import TeacherTraining\n"
        "from training.phi.train import train_teacher\n"
        "config = TeacherTraining(teacher='teacher_tiny', steps=3, batch=4, gan_from=0.5, discriminator_channels=8)\n"
        "run = Path(sys.argv[2])\n"
        "train_teacher(Path(sys.argv[1]), run, config, workers=0, progress=lambda *_: None, precision='no')\n"
    )
    curves = []
    for count in (1, 2):
        run = tmp_path / f"run{count}"
        ports = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(count)}
        ports |= {"GLOO_SOCKET_IFNAME": "lo"}
        environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        running = [
            subprocess.Popen(
                [sys.executable, "-c", code, str(shards), str(run)],
                env=environment | ({**ports, "RANK": str(rank), "LOCAL_RANK": str(rank)} if count > 1 else {}),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank in range(count)
        ]
        for process in running:
            said, _ = process.communicate(timeout=240)
            assert process.returncode == 0, said
        tensors, _ = load_tensors(run / "teacher.safetensors")
        curves.append(tensors)
    one, two = curves
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 2e-3


@pytest.mark.slow
def test_a_tiny_teacher_learns_a_clip(shards, tmp_path):
    """Reconstruction error falls by 40 % and more within a minute."""
    config = replace(TINY, steps=120, gan_from=1.0, fall_from=1.0, learning_rate=1e-3, ssr=False, vary=False)
    train(shards, tmp_path / "run", config)
    lines = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert lines[0]["step"] == 1
    assert lines[-1]["reconstruction"] < 0.6 * lines[0]["reconstruction"]


def test_a_loss_that_is_no_number_stops_the_run(shards, tmp_path, monkeypatch):
    train(shards, tmp_path / "run", replace(TINY, steps=4), save_every_s=0)
    monkeypatch.setattr(module, "expression_loss", lambda values: values.sum() * float("nan"))
    with pytest.raises(InputError, match=r"Step 5: not a finite number: expression, .*checkpoint"):
        train(shards, tmp_path / "run", replace(TINY, steps=6))
    assert (tmp_path / "run" / "checkpoints" / "step-0000004" / "weights.safetensors").exists()


def test_a_run_begins_from_weights_of_another(trained, shards, tmp_path):
    run, state = trained
    config = replace(TINY, steps=1, learning_rate=1e-9)
    begun = train(shards, tmp_path / "run", config, start_from=run / "teacher.safetensors").state_dict()
    assert all(torch.allclose(begun[name], state[name], atol=1e-5) for name in state)
    with pytest.raises(InputError, match="does not fit this teacher"):
        train(shards, tmp_path / "other", replace(config, late_infusion=False), start_from=run / "teacher.safetensors")


def test_the_rate_rises_stays_and_falls():
    config = TeacherTraining(steps=1000, learning_rate=2.0, fall_from=0.5)
    assert [module.learning_rate(step, config) for step in (0, 99, 500)] == pytest.approx([0.02, 2.0, 2.0])
    assert module.learning_rate(750, config) == pytest.approx(2 * (1 - 0.95 / 2))
    assert module.learning_rate(1000, config) == pytest.approx(0.1)


def test_a_checkpoint_of_other_settings_is_refused(trained, shards):
    with pytest.raises(InputError, match=r"other settings .*batch"):
        train(shards, trained[0], replace(TINY, batch=8, steps=8))


def test_a_checkpoint_from_a_newer_version_is_refused(trained, shards, tmp_path):
    import shutil

    shutil.copytree(trained[0], tmp_path / "run")
    path = sorted((tmp_path / "run" / "checkpoints").glob("*"))[-1] / "weights.safetensors"
    tensors, record = load_tensors(path)
    save_tensors(path, tensors, record | {"version": 99})
    with pytest.raises(InputError, match="newer version"):
        train(shards, tmp_path / "run", replace(TINY, steps=6))


def test_frames_that_are_too_small_are_refused(shards, tmp_path):
    with pytest.raises(InputError, match="64 px, and teacher_small draws 128 px"):
        train(shards, tmp_path / "run", replace(TINY, teacher="teacher_small"))


def test_a_batch_that_cannot_be_split_is_refused(shards, tmp_path):
    with pytest.raises(InputError, match="cannot be split"):
        train(shards, tmp_path / "run", replace(TINY, batch=3), parts=2)


@pytest.mark.parametrize("switch", ["early_infusion", "late_infusion", "ssr"])
def test_an_ablation_trains(shards, tmp_path, switch):
    train(shards, tmp_path / "run", replace(TINY, steps=1, gan_from=1.0, **{switch: False}))
    _, card = load_tensors(tmp_path / "run" / "teacher.safetensors")
    assert card["training"][switch] is False


def test_nothing_is_left_on_another_device():
    """A whole step on the meta device, which computes nothing and refuses tensors from elsewhere: as a GPU would."""
    from training.phi.augment import Transform, filter_each, jpeg
    from training.phi.discriminator import Discriminator
    from training.phi.network import SuperFace, make_face
    from training.phi.regressor import LandmarkRegressor
    from training.phi.train import Judges, Networks, Step, teacher_config, teacher_terms

    device = torch.device("meta")
    parts = (SuperFace(teacher_config(TINY)), Discriminator(8), LandmarkRegressor(8))
    networks = Networks(*(part.to(device) for part in parts))
    landmarks, image = torch.zeros(2, 478, 3, device=device), torch.zeros(2, 3, 64, 64, device=device)
    jpeg(filter_each(image, torch.zeros(2, 5, 5, device=device)), torch.ones(2, device=device))
    transform = Transform([1, 2], image)
    moved = torch.cat([transform.inverse(landmarks[..., :2]), landmarks[..., 2:]], -1)
    face, turned = make_face(image, landmarks, ("mouth",)), make_face(transform.image(image), moved, ("mouth",))
    made = networks.teacher(source=face, driving=face, appearance=image, transformed=turned)
    step = Step(face, face, image, turned, transform, [1, 2])
    terms = teacher_terms(made, step, networks, Judges(None, None), gan=True)
    sum(terms).backward()
    assert {value.device.type for value in terms} == {"meta"}
