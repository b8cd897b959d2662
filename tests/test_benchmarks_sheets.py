"""Contact sheets of the bundled portrait: every pose has its tile."""

import sys

import numpy as np
import pytest
import sheets
from people import Task, people
from PIL import Image

from training.checkpoint import save_student
from training.config import DistilConfig

NAME = "grace_hopper"


def test_sheets_of_a_portrait(random_student, landmark_model, tmp_path, monkeypatch):
    monkeypatch.setenv("SUPERFACE_LANDMARKER", str(landmark_model))
    file = Task(NAME, people(None, [NAME])[NAME], tmp_path, DistilConfig(minutes=None, steps=7)).student()
    file.parent.mkdir()
    save_student(file, random_student)
    arguments = ["--people", NAME, "-o", str(tmp_path / "sheets"), "--students", str(tmp_path), "--steps", "7"]
    monkeypatch.setattr(sys, "argv", ["sheets.py", *arguments])
    assert sheets.main() == 0
    with Image.open(tmp_path / "sheets" / f"{NAME}.png") as sheet:
        poses = np.asarray(sheet)
    assert poses.shape == (4 * 2 * 512, 4 * 512, 3)
    tiles = poses.reshape(4, 2 * 512, 4, 512, 3)[:, 64:512].astype(float)  # the teacher's, below their names
    assert all(np.abs(tiles[0, :, 0] - tiles[at // 4, :, at % 4]).max() > 20 for at in range(1, 16))
    with Image.open(tmp_path / "sheets" / f"{NAME}_near.png") as near:
        assert near.width == 4 * 512


def test_a_student_that_is_not_there_is_named(tmp_path, monkeypatch):
    arguments = ["--people", NAME, "--students", str(tmp_path), "-o", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["sheets.py", *arguments])
    with pytest.raises(sheets.InputError, match="There is no student"):
        sheets.main()
