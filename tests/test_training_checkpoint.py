import json

import pytest
import torch

from edge.errors import InputError
from training.checkpoint import load_student, load_tensors, save_student, save_tensors
from training.config import TIERS
from training.student.cost import student_config
from training.student.network import Student


def test_student_survives_the_disk(tmp_path):
    torch.manual_seed(0)
    student = Student.untrained(student_config(TIERS["nano"]))
    student.person.canvas.data.uniform_()
    save_student(tmp_path / "student.safetensors", student, {"teacher": "none"})
    again, record = load_student(tmp_path / "student.safetensors")
    assert record["teacher"] == "none"
    assert again.config == student.config
    assert not again.training
    mine, theirs = student.state_dict(), again.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert [path.name for path in tmp_path.iterdir()] == ["student.safetensors"]


def test_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.safetensors"
    save_tensors(path, {"x": torch.ones(2)}, {"step": 1})
    with pytest.raises(TypeError):
        save_tensors(path, {"x": torch.zeros(2)}, {"step": object()})
    tensors, record = load_tensors(path)
    assert record == {"step": 1}
    assert tensors["x"].tolist() == [1, 1]
    assert len(list(tmp_path.iterdir())) == 1


def test_bad_files_are_explained(tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(InputError, match="There is no checkpoint"):
        load_tensors(path)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match="cannot be read as a checkpoint"):
        load_tensors(path)
    save_tensors(path, {"x": torch.ones(64)}, {})
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(InputError, match="cannot be read as a checkpoint"):
        load_tensors(path)
    save_tensors(path, {"x": torch.ones(2)}, {"config": {"width": 3}})
    with pytest.raises(InputError, match="no student of this version"):
        load_student(path)


def test_record_is_json_in_the_header(tmp_path):
    path = tmp_path / "a.safetensors"
    save_tensors(path, {"x": torch.ones(2)}, {"steps": 3})
    raw = path.read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    assert json.loads(header["__metadata__"]["record"]) == {"steps": 3}


def test_a_checkpoint_that_cannot_be_written_is_told(tmp_path):
    with pytest.raises(InputError, match="cannot be written"):
        save_tensors(tmp_path / "nowhere" / "a.safetensors", {"a": torch.zeros(2)}, {})
