import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sliding_teacher import SlidingTeacher, sliding_identity, sliding_track

from edge.errors import FidelityError, InputError
from edge.spec import FIELD, KEYPOINTS, LOCAL_LANDMARKS, NETWORK
from training.checkpoint import load_student, load_tensors, save_tensors
from training.config import DistilConfig, LossWeights, StudentConfig
from training.student.distill import JUDGED_EVERY, MARGIN, WHOLE_EVERY, _window, distil, render_track, weights_at
from training.student.network import Student

CONFIG = DistilConfig(gflops=1.0, steps=6, motion_share=0.34, batch=1, motion_batch=4)


def quiet(stage, share, note):
    pass


def run(folder, face, config=CONFIG, progress=quiet, frames=8, build=None, watched=None, finished_at=None):
    return distil(
        sliding_identity(face),
        SlidingTeacher(),
        folder,
        training_landmarks=sliding_track(face, frames, seed=0),
        held_out_landmarks=sliding_track(face, 3, seed=1),
        watched_landmarks=watched,
        finished_at=finished_at,
        config=config,
        build=build,
        progress=progress,
    )


@pytest.fixture(scope="module")
def finished(faces, tmp_path_factory):
    """An uninterrupted run: its folder, result, and what it reported."""
    folder = tmp_path_factory.mktemp("run")
    told = []
    return folder, run(folder, faces[0], progress=lambda *told_: told.append(told_)), told


def test_every_term_weighs_as_configured_over_a_cycle():
    """A term of every n-th step counts n times there; head poses and judges never share a step."""
    cycle, weights = JUDGED_EVERY * WHOLE_EVERY, LossWeights()
    steps = [weights_at(step, weights) for step in range(cycle)]
    for name, value in weights.__dict__.items():
        assert sum(getattr(step, name) for step in steps) == pytest.approx(cycle * value), name
    assert not any(step.head_pose and (step.perceptual or step.gan) for step in steps)


def test_result_and_run_folder(finished):
    folder, result, told = finished
    assert result.steps == 6
    assert not result.student.training
    assert result.fidelity.frames == 3
    assert result.fidelity.psnr_db > 20  # a slide is had from the closed-form start
    assert result.training.frames.shape == (8, 3, NETWORK, NETWORK)
    assert result.training.frames.dtype == np.uint8
    assert result.held_out.keypoints.shape == (3, KEYPOINTS, 2)
    assert result.held_out.local_landmarks.shape == (3, LOCAL_LANDMARKS, 2)
    assert result.training.motion_field.shape == (8, FIELD, FIELD, 2)
    assert result.history[0]["stage"] == "motion"
    assert json.loads((folder / "history.json").read_text()) == result.history
    stages = [stage for stage, _, _ in told]
    assert list(dict.fromkeys(stages)) == ["rendering training", "rendering held-out", "layers", "training"]
    assert all(share == 1 for stage, share, _ in (told[-1],))
    student, record = load_student(folder / "student.safetensors")
    assert record["teacher"] == "sliding"
    assert record["fidelity"]["psnr_db"] == pytest.approx(result.fidelity.psnr_db)
    mine, theirs = student.state_dict(), result.student.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_second_start_of_a_finished_run_trains_no_more(finished, faces):
    folder, result, _ = finished
    again = run(folder, faces[0])
    assert again.steps == 6
    assert again.fidelity.psnr_db == pytest.approx(result.fidelity.psnr_db)


def test_killed_run_ends_with_the_same_weights(finished, faces, tmp_path):
    folder = tmp_path / "run"
    script = (
        "import sys, numpy as np, training.student.distill as d; sys.path.insert(0, sys.argv[1]);"
        "from test_training_student_distill import run; d.SAVE_EVERY_S = 0.0;"
        "run(__import__('pathlib').Path(sys.argv[2]), np.load(sys.argv[3], allow_pickle=False))"
    )
    np.save(tmp_path / "face.npy", faces[0])
    here = Path(__file__).parent
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(here), str(folder), str(tmp_path / "face.npy")],
        cwd=here.parent,
        env=os.environ | {"PYTHONPATH": str(here.parent)},
    )
    deadline = time.monotonic() + 120
    while not (folder / "checkpoint.safetensors").exists() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    resumed = run(folder, faces[0])
    assert resumed.steps == 6
    mine, theirs = resumed.student.state_dict(), finished[1].student.state_dict()
    for name in mine:
        torch.testing.assert_close(mine[name], theirs[name], atol=1e-5, rtol=1e-3)
    assert not list(folder.rglob("*.tmp"))


def test_every_pixel_is_compared_and_none_beside_padding():
    """Windows reach the frame's border, where padding is the frame's own; elsewhere a margin is painted around them."""
    seen = np.zeros((NETWORK, NETWORK), bool)
    for step in range(400):
        window, around = _window(step, DistilConfig())
        for start, outer in ((window.top, around.top), (window.left, around.left)):
            before, after = start - outer, outer + around.size - start - window.size
            assert before >= MARGIN or outer == 0
            assert after >= MARGIN or outer + around.size == NETWORK
        seen[window.top : window.top + window.size, window.left : window.left + window.size] = True
    assert seen.all()


MINUTES = DistilConfig(gflops=1.0, minutes=0.04, motion_share=0.2, batch=1, motion_batch=2)


def test_a_run_that_ran_out_of_minutes_goes_on(faces, tmp_path):
    """Where it had begun to settle, with all its minutes anew."""
    first = run(tmp_path, faces[0], MINUTES, frames=2)
    assert first.course.why == "bound"
    _, record = load_tensors(tmp_path / "settling.safetensors")
    assert record["step"] == first.course.settle_from < first.steps
    again = run(tmp_path, faces[0], MINUTES, frames=2)  # it was killed, say, before an avatar was made of it
    assert again.steps == first.steps
    second = run(tmp_path, faces[0], MINUTES, frames=2, finished_at=first.steps)
    assert second.course.settle_from > first.course.settle_from
    assert second.course.motion_until == first.course.motion_until
    assert second.seconds > first.seconds + 0.5 * 60 * MINUTES.minutes


def test_a_run_ends_when_mouth_and_eyes_get_no_better(faces, tmp_path, monkeypatch):
    monkeypatch.setattr("training.student.distill.LOOK_EVERY", 2)
    monkeypatch.setattr("training.student.schedule.EARLIEST", 0)
    monkeypatch.setattr("training.student.schedule.GOAL_DB", 99.0)
    monkeypatch.setattr("training.student.schedule.GAIN_DB", 99.0)  # a gain that nobody makes
    config = replace(MINUTES, minutes=60.0, motion_field=False)
    result = run(tmp_path, faces[0], config, frames=2, watched=sliding_track(faces[0], 2, seed=2))
    assert (result.course.why, len(result.course.looks)) == ("plateau", 3)
    looks = [row for row in result.history if "mouth_psnr_db" in row]
    assert [(row["mouth_psnr_db"] + row["eyes_psnr_db"]) / 2 for row in looks[:3]] == pytest.approx(result.course.looks)
    assert result.steps == 8  # three looks, two steps apart, and a quarter to settle
    again = run(tmp_path, faces[0], config, frames=2, watched=sliding_track(faces[0], 2, seed=2))
    assert again.steps == result.steps


def test_a_checkpoint_of_another_design_starts_over(finished, faces, tmp_path):
    folder = shutil.copytree(finished[0], tmp_path / "run")
    tensors, record = load_tensors(folder / "checkpoint.safetensors")
    tensors["student/network.generator.widen.weight"] = tensors.pop("student/network.generator.narrow.weight")
    save_tensors(folder / "checkpoint.safetensors", tensors, record | {"step": 3})
    assert run(folder, faces[0]).steps == 6


@pytest.fixture
def fragile(monkeypatch):
    """Censuses every second step; `kill` silences the painter at given steps, as one large step would."""
    monkeypatch.setattr("training.student.distill.CENSUS_EVERY", 2)
    monkeypatch.setattr("training.student.distill.CALL", 0.0)  # nothing wakes it but the guard
    monkeypatch.setattr("training.student.census.MOST_SILENT", 0.9)  # a few steps of a sliding disc wake few
    rates = []

    def kill(*steps):
        taken = []
        own = torch.optim.Adam.step

        def step(optimiser, *args, **kwargs):
            done = own(optimiser, *args, **kwargs)
            taken.append(1)
            rates.append(optimiser.param_groups[0]["lr"])
            if len(taken) in steps:
                biases = [p for group in optimiser.param_groups for p in group["params"] if p.shape == (16,)]
                with torch.no_grad():
                    for bias in biases:
                        bias.fill_(-1e4)
            return done

        monkeypatch.setattr(torch.optim.Adam, "step", step)
        return rates

    return kill


def test_a_painter_that_dies_is_taken_back_to_health(faces, tmp_path, fragile):
    rates = fragile(9)
    config = DistilConfig(gflops=1.0, steps=16, motion_share=0.2, batch=1, motion_batch=4)
    result = run(tmp_path, faces[0], config)
    assert result.steps == 16
    assert len(result.setbacks) == 1
    assert "silent at step" in result.setbacks[0]
    assert [row["setback"] for row in result.history if "setback" in row] == list(result.setbacks)
    assert all(layer.silent < 0.9 for layer in result.census)
    assert len(rates) > 16  # some steps were taken again, at half the rate
    assert load_student(tmp_path / "student.safetensors")[1]["setbacks"] == list(result.setbacks)


def test_a_painter_that_cannot_live_ends_the_run(faces, tmp_path, fragile):
    fragile(*range(7, 100))
    config = DistilConfig(gflops=1.0, steps=16, motion_share=0.2, batch=1, motion_batch=4)
    with pytest.raises(FidelityError, match="died in training 4 times"):
        run(tmp_path, faces[0], config)
    assert not (tmp_path / "student.safetensors").exists()


def test_rendering_goes_on_where_it_was_killed(faces, tmp_path):
    class Mortal(SlidingTeacher):
        def __init__(self, chunks):
            self.chunks = chunks

        def render(self, identity, landmarks, images=None):
            self.chunks -= 1
            if self.chunks < 0:
                raise KeyboardInterrupt
            return super().render(identity, landmarks)

    identity, track = sliding_identity(faces[0]), sliding_track(faces[0], 36, seed=0)
    with pytest.raises(KeyboardInterrupt):
        render_track(identity, Mortal(2), track, tmp_path)
    half = render_track(identity, Mortal(1), track, tmp_path)
    (tmp_path / "whole").mkdir()
    whole = render_track(identity, Mortal(3), track, tmp_path / "whole")
    assert all(np.array_equal(a, b) for a, b in zip(half, whole, strict=True))
    # Another track in the same folder is another run.
    with pytest.raises(KeyboardInterrupt):
        render_track(identity, Mortal(0), track[::-1], tmp_path)


@pytest.mark.parametrize("switch", ["keypoints", "appearance", "motion_field"])
def test_each_delivery_can_be_taken_away(faces, tmp_path, switch):
    config = DistilConfig(gflops=1.0, steps=2, motion_share=0.5, batch=1, motion_batch=2, **{switch: False})
    result = run(tmp_path, faces[0], config, frames=2)
    assert np.isfinite(result.fidelity.psnr_db)
    assert ("motion" in {row["stage"] for row in result.history}) == (switch != "motion_field")


def test_a_student_of_another_design_is_taught(faces, tmp_path):
    config = DistilConfig(steps=2, motion_share=0.5, batch=1, motion_batch=2)
    made = []

    def build(channels):
        made.append(Student.untrained(StudentConfig(16, 16, 16, coarse_blocks=1, volume_channels=channels)))
        return made[-1]

    result = run(tmp_path, faces[0], config, frames=2, build=build)
    assert result.student is made[0]
    assert len(result.student.network.generator.coarse) == 1
    assert np.isfinite(result.fidelity.psnr_db)


def test_bad_tracks_and_full_disks_are_explained(faces, tmp_path, monkeypatch):
    identity = sliding_identity(faces[0])
    with pytest.raises(InputError, match="expected finite landmarks"):
        render_track(identity, SlidingTeacher(), np.zeros((3, 68, 3)), tmp_path)
    with pytest.raises(InputError, match="expected finite landmarks"):
        render_track(identity, SlidingTeacher(), np.full((3, 478, 3), np.nan), tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 2**20}))
    with pytest.raises(InputError, match="Free some space"):
        render_track(identity, SlidingTeacher(), sliding_track(faces[0], 3, seed=0), tmp_path)
