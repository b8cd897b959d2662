"""The verdict on a bundle, and the measure behind it."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from edge.bundle import manifest_text, read_manifest
from edge.check import GATES, SAME_DB, check, psnr_db, report
from edge.errors import BundleError


def test_psnr():
    frame = np.zeros((4, 4, 3), np.uint8)
    assert psnr_db(frame, frame, peak=255) == pytest.approx(SAME_DB)
    assert psnr_db(frame, frame + 255, peak=255) == pytest.approx(0)
    assert psnr_db(frame.astype(float), frame + 0.1, peak=1) == pytest.approx(20)


def test_int8_may_differ_and_fp32_may_not():
    assert GATES["fp32"].mean_db == 60
    assert GATES["int8"] == (35, 33)


def test_a_good_avatar_passes(avatar_bundle):
    result = check(avatar_bundle)
    assert result.passed
    assert {(row.runtime, row.precision) for row in result.rows} == {
        (runtime, precision) for runtime in ("onnx", "numpy") for precision in ("fp32", "int8")
    }
    assert result.driver_error < 1e-6
    assert json.loads(json.dumps(result.as_json()))["passed"] is True
    assert report(result).endswith("passed")


def disturbed(bundle, folder, name, body):
    """A copy with another file in it, and a manifest that vouches for it."""
    import hashlib

    shutil.copytree(bundle, folder)
    (folder / name).write_bytes(body)
    manifest = read_manifest(folder)
    files = manifest.files | {name: (len(body), hashlib.sha256(body).hexdigest())}
    files = {path: type(manifest.files[name])(*entry) for path, entry in files.items()}
    (folder / "manifest.json").write_bytes(manifest_text(dataclasses.replace(manifest, files=files)))
    return folder


def test_other_frames_fail(avatar_bundle, tmp_path):
    other = (avatar_bundle / "golden/frame_1.png").read_bytes()
    result = check(disturbed(avatar_bundle, tmp_path / "a.avatar", "golden/frame_0.png", other), runtimes=["onnx"])
    assert not result.passed
    assert "FAILED" in report(result)


def test_a_driver_that_is_off_fails(avatar_bundle, tmp_path):
    points = np.frombuffer((avatar_bundle / "golden/keypoints.f32").read_bytes(), "<f4") + np.float32(1e-3)
    folder = disturbed(avatar_bundle, tmp_path / "a.avatar", "golden/keypoints.f32", points.tobytes())
    result = check(folder, runtimes=["onnx"])
    assert result.driver_error == pytest.approx(1e-3, rel=0.01)
    assert not result.passed


def test_a_golden_frame_of_another_size(avatar_bundle, tmp_path):
    thumbnail = (avatar_bundle / "identity/thumbnail.png").read_bytes()
    with pytest.raises(BundleError, match="is 32 × 32, not 512 × 512"):
        check(disturbed(avatar_bundle, tmp_path / "a.avatar", "golden/frame_0.png", thumbnail))
