"""What the converter scripts share: flags, sources, files that are whole or absent."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from converters.cli import load_source, parse_arguments, random_driver, write_files
from edge.errors import InputError
from edge.spec import KEYPOINTS
from edge.topology import LANDMARKS, LOCAL
from training.checkpoint import save_driver, save_student

ROOT = Path(__file__).parents[1]
SCRIPTS = ("to_onnx", "to_executorch", "to_coreml")


def arguments(*given: str):
    return parse_arguments("onnx", "A student.", precisions=("fp32", "int8"), targets=("cpu", "other"), argv=given)


def test_defaults():
    parsed = arguments()
    assert parsed.precisions == ("fp32", "int8")
    assert parsed.target == "cpu"
    assert parsed.output == Path("onnx")
    assert arguments("--precision", "int8").precisions == ("int8",)


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_same_flags_on_all_scripts(script):
    """As the README types it; the exporter's own library is not needed for help."""
    command = [sys.executable, str(ROOT / "converters" / f"{script}.py"), "--help"]
    told = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    for flag in ("--output", "--precision", "--target", "--tier", "--gflops", "--no-verify", "--force"):
        assert flag in told
    assert "default: random weights" in " ".join(told.split())


def test_a_source_of_random_weights_says_so(capsys):
    source = load_source(arguments("--tier", "nano"))
    assert source.name == "random"
    assert not np.array_equal(source.calibration.keypoints, source.held_out.keypoints)
    told = capsys.readouterr().out
    assert "pictures are not" in told
    assert "GMACs" in told


def test_a_run_folder_its_bundle_and_its_weights_are_one_source(random_student, driving, tmp_path):
    run = tmp_path / "me"
    for name, motion in (("training", driving[1]), ("held_out", driving[2])):
        (run / name).mkdir(parents=True)
        np.save(run / name / "keypoints.npy", motion.keypoints)
        np.save(run / name / "local_landmarks.npy", motion.local_landmarks)
    save_student(run / "student.safetensors", random_student)
    save_driver(run, random_driver())
    (run / "me.avatar").mkdir()
    for path in (run, run / "me.avatar", run / "student.safetensors"):
        source = load_source(arguments(str(path)))
        assert source.name == "me"
        np.testing.assert_array_equal(source.held_out.keypoints, driving[2].keypoints)
        assert torch.equal(source.student.person.layer, random_student.person.layer)
        assert torch.equal(source.driver.keypoints, random_driver().keypoints)


def test_the_random_driver_carries_landmarks():
    landmarks = torch.rand(LANDMARKS, 3)
    moved = landmarks * 1.25 + 0.1
    keypoints = random_driver(landmarks)(moved[None])[0]
    torch.testing.assert_close(keypoints, moved[torch.from_numpy(LOCAL[:KEYPOINTS]), :2], atol=1e-5, rtol=0)


def test_no_checkpoint(tmp_path):
    (tmp_path / "me.avatar").mkdir()
    with pytest.raises(InputError, match="holds no trained weights"):
        load_source(arguments(str(tmp_path / "me.avatar")))
    with pytest.raises(InputError, match="no checkpoint"):
        load_source(arguments(str(tmp_path / "nothing")))


def test_files_are_whole_or_absent(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        with pytest.raises(InputError, match="No space left"):
            write_files(tmp_path / "out", {"a.onnx": b"123"})
    assert os.listdir(tmp_path / "out") == []


def test_what_exists_is_replaced_only_when_asked(tmp_path):
    first = {"a.onnx": b"1", "b.mlpackage/Data/model": b"1", "b.mlpackage/old": b"1"}
    write_files(tmp_path, first)
    with pytest.raises(InputError, match=r"a\.onnx exists and is not overwritten. Add --force"):
        write_files(tmp_path, {"a.onnx": b"2"})
    write_files(tmp_path, {"b.mlpackage/Data/model": b"2"}, force=True)
    files = {path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {"a.onnx": b"1", "b.mlpackage/Data/model": b"2"}
