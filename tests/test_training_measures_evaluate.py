"""Teachers compared on left-out clips: the mesh teacher gives a nodding portrait back, an untrained Φ does not."""

import io
import json
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from edge.driving.landmarks import read_portrait
from edge.driving.procedural import Controls, pose_face
from edge.errors import InputError
from training.measures.evaluate import degradations, evaluate_teachers, pose_distance, table
from training.phi.shards import ClipFrames, write_clip, write_shard
from training.teachers.mesh import MeshTeacher


class Grey:
    """A teacher that has learned nothing."""

    def prepare(self, image, landmarks):
        return None

    def render(self, identity, landmarks, images=None):
        from training.teachers import Rendering

        return Rendering(torch.full((len(landmarks), 3, 512, 512), 0.5), None, None, None)


@pytest.fixture(scope="module")
def shards(portraits, landmark_model, tmp_path_factory):
    """One clip: a portrait whose head rolls."""
    patch = pytest.MonkeyPatch()
    patch.setenv("SUPERFACE_LANDMARKER", str(landmark_model))
    portrait = read_portrait(portraits["grace_hopper"])
    patch.undo()
    folder = tmp_path_factory.mktemp("clips")
    jpegs, landmarks = [], []
    for degrees in (0.0, 3.0, -4.0, 6.0):
        turn = np.deg2rad(degrees)
        matrix = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        moved = portrait.landmarks.copy()
        moved[:, :2] = portrait.landmarks[:, :2] @ matrix.T
        landmarks.append(moved)
        buffer = io.BytesIO()
        picture = Image.fromarray(portrait.image).rotate(degrees, resample=Image.Resampling.BICUBIC)
        picture.save(buffer, "JPEG", quality=95)
        jpegs.append(buffer.getvalue())
    with tarfile.open(folder / "clip.part", "w") as tar:
        write_clip(tar, ClipFrames("hopper", {"source": "hopper.mp4"}, np.stack(landmarks), jpegs))
    write_shard(folder / "shard-000000.tar", [folder / "clip.part"])
    return folder


@pytest.fixture(scope="module")
def result(shards, landmark_model, tmp_path_factory):
    output = tmp_path_factory.mktemp("evaluation")
    patch = pytest.MonkeyPatch()
    patch.setenv("SUPERFACE_LANDMARKER", str(landmark_model))
    patch.setenv("SUPERFACE_MODELS", str(output / "none"))
    patch.setenv("XDG_CACHE_HOME", str(output / "cache"))
    found = evaluate_teachers({"mesh": MeshTeacher(), "grey": Grey()}, shards, ["hopper"], output, frames=3)
    patch.undo()
    return output, found


def test_a_teacher_that_moves_the_head_is_told_from_one_that_does_not(result):
    mesh, grey = result[1]["same"]["mesh"], result[1]["same"]["grey"]
    assert mesh["lost"] == 0
    assert mesh["akd"] < 4
    assert mesh["hpd"] < 3
    assert mesh["l1"] < 0.6 * grey["l1"]
    assert 0.5 < mesh["energy"] < 1.5
    assert grey["lost"] == 1
    assert "akd" not in grey  # nothing was found to measure
    assert "lpips" not in mesh  # nothing to measure it with


def test_degraded_sources_are_told_apart(result):
    robust = result[1]["robust"]["mesh"]
    assert set(robust) == {"blur", "jpeg 10", "a quarter", "noise"}
    assert robust["blur"]["energy"] < 0.5 < 1.1 < robust["noise"]["energy"]


def test_figures_and_pictures_are_written(result):
    output, found = result
    assert json.loads((output / "evaluation.json").read_text()) == found
    with Image.open(output / "same.png") as picture:
        assert picture.size == (256, 4 * 256)
    assert (output / "cross.png").exists()
    assert (output / "robust.png").exists()
    page = table(found)
    assert "the same person back" in page
    assert "mesh" in page


def test_a_clip_that_is_not_there_is_named(shards, tmp_path):
    with pytest.raises(InputError, match="no clip"):
        evaluate_teachers({}, shards, ["nobody"], tmp_path)
    with pytest.raises(InputError, match="no clip named nobody"):
        evaluate_teachers({}, shards, ["hopper", "nobody"], tmp_path)


def test_degradations_stay_pictures():
    for kind, image in degradations(torch.rand(1, 3, 512, 512)).items():
        assert image.shape == (1, 3, 512, 512), kind
        assert image.min() >= 0
        assert image.max() <= 1


def test_a_jaw_that_drops_turns_no_head(faces):
    said = pose_face(
        faces[0], Controls.rest(4, jaw_open=np.array([0.5, 1.0, 0.0, 0.0]), yaw_deg=np.array([0, 0, 12, 0]))
    )
    found = [pose_distance(face, faces[0]) for face in said]
    assert found[:2] + found[3:] == pytest.approx([0, 0, 0], abs=0.1)
    assert found[2] == pytest.approx(12 / 3, abs=0.6)  # the mean of three angles
