"""The command line: help that works everywhere, mistakes answered in a sentence, nothing left behind."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import superface

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "verb", [[], ["make"], ["animate"], ["track"], ["bench"], ["check"], ["prepare"], ["train"], ["evaluate"]]
)
def test_help_teaches(verb, capsys):
    with pytest.raises(SystemExit) as leave:
        superface.main([*verb, "--help"])
    assert leave.value.code == 0
    assert "usage: superface" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["make", "no_such_photo.jpg"], "no_such_photo.jpg"),
        (["make", "--minutes", "0"], "--minutes 0 is not possible"),
        (["make", "--frames", "-3"], "--frames -3 is not possible"),
        (["make", "--gflops", "1e-9"], "No student fits 1e-09 GFLOPs"),
        (["make", "--consent", "yes\x1b[2J"], "control characters"),
        (["make", "--name", "../.."], "is no name for an avatar"),
        (["animate", "no_such.avatar"], "no_such.avatar"),
        (["bench", "no_such.avatar"], "no_such.avatar"),
        (["check", "no_such.avatar"], "no_such.avatar"),
        (["track", "no_such.mp4"], "no_such.mp4"),
        (["prepare", "nowhere", "-o", "out"], "no video or folder"),
        (["prepare", ".", "-o", "out", "--size", "100"], "multiple of 16"),
        (["train", "nowhere", "-o", "run"], "no clip to train on"),
        (["train", "nowhere", "-o", "run", "--steps", "0"], "above zero"),
        (["evaluate", "nowhere", "--clips", "a", "--teachers", "oracle", "-o", "out"], "no teacher 'oracle'"),
        (["evaluate", "nowhere", "--clips", "a", "--teachers", "mesh", "-o", "out"], "no clip"),
    ],
)
def test_a_mistake_is_one_sentence_and_code_two(arguments, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert superface.main(arguments) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert "Traceback" not in error
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_a_photo_without_a_face_leaves_no_run_folder(tmp_path, monkeypatch, capsys, landmark_model):
    monkeypatch.setenv("SUPERFACE_LANDMARKER", str(landmark_model))
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(0).integers(0, 255, (300, 300, 3), dtype=np.uint8)
    Image.fromarray(noise).save("wall.png")
    assert superface.main(["make", "wall.png"]) == 2
    assert "No face was found" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["wall.png"]


def test_the_command_needs_no_torch_for_help_or_playback():
    code = (
        "import sys, superface\n"
        "try:\n    superface.main(['--help'])\nexcept SystemExit:\n    pass\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_runs_folder_that_cannot_be_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    assert superface.main(["make", "--runs", "notes.txt"]) == 2
    assert "notes.txt is no folder" in capsys.readouterr().err
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_one_run_folder_one_process(tmp_path):
    from converters.make import MakeConfig, _claimed
    from edge.driving.landmarks import Portrait
    from edge.errors import InputError
    from edge.preprocess import Crop

    portrait = Portrait(np.zeros((4, 4, 3), np.uint8), np.zeros((478, 3), np.float32), Crop(0, 0, 4), (), (), "me")
    with _claimed(tmp_path / "me", portrait, MakeConfig()):
        with (
            pytest.raises(InputError, match="Another superface make is at work"),
            _claimed(tmp_path / "me", portrait, MakeConfig()),
        ):
            pass
        with _claimed(tmp_path / "other", portrait, MakeConfig()):
            pass
    with _claimed(tmp_path / "me", portrait, MakeConfig()):
        pass
    other = portrait._replace(image=np.ones((4, 4, 3), np.uint8))
    with pytest.raises(InputError, match="another photo of that name"), _claimed(tmp_path / "me", other, MakeConfig()):
        pass


def test_a_student_that_draws_too_little_is_refused(capsys):
    from converters.make import _require
    from edge.errors import FidelityError

    missed = ["half lids: 12 % of it drawn, 60 % required"]
    with pytest.raises(FidelityError, match=r"half lids: 12 %.* No bundle was written"):
        _require(missed, Path("expressions.png"), force=False)
    _require(missed, Path("expressions.png"), force=True)
    assert "The bundle is written all the same" in "".join(capsys.readouterr())
    _require([], Path("expressions.png"), force=False)


def test_figures_of_the_face_in_a_line():
    from converters.make import tell_face

    figures = {"mouth_psnr_db": 31.24, "eyes_psnr_db": 30.0, "lips_followed": 0.964, "gaze_followed": 0.3}
    told = "mouth 31.2 dB, eyes 30.0 dB; of the teacher's motion it follows: lips 96 %, gaze 30 %"
    assert tell_face(figures) == told
    assert tell_face({"mouth_psnr_db": 31.24, "eyes_psnr_db": 30.0}) == "mouth 31.2 dB, eyes 30.0 dB"


@pytest.mark.parametrize(
    ("why", "looks", "sentence"),
    [
        ("plateau", [30.0, 31.0], None),
        ("steps", [], None),
        ("bound", [30.0, 31.0, 31.46], "mouth and eyes gained 0.5 dB in the last 250 steps"),
        ("bound", [30.0], "too few to tell"),
    ],
)
def test_a_run_that_its_bound_cut_short_is_told_of(why, looks, sentence):
    from types import SimpleNamespace

    from converters.make import _unfinished
    from training.config import DistilConfig

    told = _unfinished(
        SimpleNamespace(course=SimpleNamespace(why=why, looks=looks), steps=900), DistilConfig(minutes=2)
    )
    if sentence is None:
        assert told is None
    else:
        assert "ran out of its 2 minutes after 900 steps" in told
        assert sentence in told
        assert told.endswith("The same command goes on from there.")
