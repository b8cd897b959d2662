"""The avatar at its door: frames in every runtime, sentences for wrong input, and its memory."""

import json
import shutil
import time

import numpy as np
import pytest

from edge import Avatar
from edge.errors import BundleError, InputError, SpecError
from edge.judges import sandbox
from edge.judges.check import psnr_db
from edge.spec import KEYPOINTS, LOCAL_LANDMARKS


@pytest.fixture(scope="module")
def avatar(avatar_bundle):
    return Avatar.load(avatar_bundle, threads=1)


def test_a_frame(avatar, driving):
    frame = avatar.animate(driving[0][5])
    assert frame.shape == (512, 512, 3)
    assert frame.dtype == np.uint8
    assert frame.flags.c_contiguous
    assert frame.std() > 5
    np.testing.assert_array_equal(frame, avatar.animate(driving[0][5]))
    assert (frame != avatar.animate(driving[0][25])).any()


def test_driving_in_two_steps_is_the_same(avatar, driving):
    keypoints, local = avatar.drive(driving[0][7])
    assert keypoints.shape == (KEYPOINTS, 2)
    assert local.shape == (LOCAL_LANDMARKS, 2)
    np.testing.assert_array_equal(avatar.animate_keypoints(keypoints, local), avatar.animate(driving[0][7]))


@pytest.mark.parametrize(
    ("runtime", "precision", "least_db"), [("numpy", "fp32", 60), ("numpy", "int8", 45), ("onnx", "int8", 35)]
)
def test_the_runtimes_agree(avatar, avatar_bundle, driving, runtime, precision, least_db):
    other = Avatar.load(avatar_bundle, runtime=runtime, precision=precision)
    reference = avatar if precision == "fp32" or runtime == "onnx" else Avatar.load(avatar_bundle, precision="int8")
    pose = driving[0][9]
    assert psnr_db(reference.animate(pose), other.animate(pose), peak=255) >= least_db


def test_a_user_drives_the_avatar(avatar, faces):
    retarget = avatar.retargeter(faces[1])
    rest = avatar.animate(np.asarray(retarget(faces[1]), np.float32))
    assert psnr_db(avatar.animate(avatar.source_landmarks), rest, peak=255) > 35


@pytest.mark.parametrize(
    ("landmarks", "message"),
    [
        (np.zeros((468, 3)), r"has shape \(468, 3\), this avatar wants \(478, 3\)"),
        (np.zeros((9, 478, 3)), "one frame at a time"),
        (np.full((478, 3), np.nan), "NaN or infinity"),
        (np.full((478, 3), 300.0), "pixels given instead of crop coordinates"),
        (["a"], "array of numbers"),
        ([[1], [1, 2]], "array of numbers"),
    ],
)
def test_wrong_landmarks(avatar, landmarks, message):
    with pytest.raises(SpecError, match=message):
        avatar.animate(landmarks)


def test_wrong_keypoints(avatar):
    with pytest.raises(SpecError, match=r"keypoints has shape \(15, 2\), this avatar wants \(20, 2\)"):
        avatar.animate_keypoints(np.zeros((15, 2)), np.zeros((LOCAL_LANDMARKS, 2)))
    with pytest.raises(SpecError, match="local_landmarks has shape"):
        avatar.animate_keypoints(np.zeros((KEYPOINTS, 2)), np.zeros((LOCAL_LANDMARKS, 3)))


def test_wrong_choices(avatar_bundle):
    with pytest.raises(InputError, match="no runtime 'torch'"):
        Avatar.load(avatar_bundle, runtime="torch")
    with pytest.raises(InputError, match="has no fp16 student for onnx, only fp32, int8"):
        Avatar.load(avatar_bundle, precision="fp16")
    with pytest.raises(InputError, match="has no files for coreml, only for onnx"):
        Avatar.load(avatar_bundle, runtime="coreml")
    with pytest.raises(InputError, match="0 threads"):
        Avatar.load(avatar_bundle, threads=0)


@pytest.mark.parametrize("runtime", ["onnx", "numpy"])
def test_a_graph_that_is_none(avatar_bundle, tmp_path, runtime):
    """Well wrapped rubbish: the manifest is right about a file that no runtime can read."""
    import hashlib

    folder = tmp_path / "rubbish.avatar"
    shutil.copytree(avatar_bundle, folder)
    (folder / "student.onnx").write_bytes(b"rubbish")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["student.onnx"] = {"bytes": 7, "sha256": hashlib.sha256(b"rubbish").hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"student\.onnx"):
        Avatar.load(folder, runtime=runtime)


def test_a_changed_file_is_never_loaded(avatar_bundle, tmp_path):
    folder = tmp_path / "changed.avatar"
    shutil.copytree(avatar_bundle, folder)
    body = bytearray((folder / "student.onnx").read_bytes())
    body[len(body) // 2] ^= 1
    (folder / "student.onnx").write_bytes(body)
    with pytest.raises(BundleError, match=r"student\.onnx was changed"):
        Avatar.load(folder)


def test_the_first_frame_is_as_quick_as_the_others(avatar_bundle, driving):
    avatar = Avatar.load(avatar_bundle, threads=1)
    times = []
    for pose in driving[0][:15]:
        begun = time.perf_counter()
        avatar.animate(pose)
        times.append(time.perf_counter() - begun)
    # A ratio within one run; the slowest warm frame stands for a machine that does other things.
    assert times[0] <= 3 * max(times[1:])


def test_memory_beyond_onnx_runtime(avatar_bundle):
    arguments = [str(avatar_bundle), "onnx", "fp32", 1, 3]
    assert sandbox.call("edge.judges.bench:_measure", arguments, doing="Measuring")["extra_rss_mb"] <= 75
