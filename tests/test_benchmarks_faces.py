"""Rows and sheets of a student that clips drive; its training is benchmarks/people.py's, and tested there."""

import csv
import sys

import faces as benchmark
import numpy as np
import pytest
from people import STEPS, Task, people, write_rows
from PIL import Image

from edge.driving.track import Track, save_track
from training.checkpoint import save_student
from training.config import DistilConfig

NAME = "grace_hopper"


@pytest.fixture
def task(random_student, tmp_path):
    """An untrained student of the bundled portrait, where a trained one would lie."""
    task = Task(NAME, people(None, [NAME])[NAME], tmp_path, DistilConfig(minutes=None, steps=STEPS))
    task.student().parent.mkdir()
    save_student(task.student(), random_student)
    write_rows(tmp_path / "people.csv", [task.row()])
    return task


def test_every_clip_makes_a_row_and_a_sheet(task, driving, landmark_model, tmp_path, monkeypatch):
    monkeypatch.setenv("SUPERFACE_LANDMARKER", str(landmark_model))
    monkeypatch.setattr(benchmark, "FRAMES", 2)
    landmarks = driving[0]
    save_track(Track(landmarks=landmarks, fps=25.0, detected=np.ones(len(landmarks), bool)), tmp_path / "talk.npz")
    rows = benchmark.measure(task, {"talk": tmp_path / "talk.npz"}, threads=2)
    assert [(row["portrait"], row["clip"]) for row in rows] == [(NAME, "procedural"), (NAME, "talk")]
    for row in rows:
        assert row["frames"] == 2
        assert 0 < row["mouth_psnr_db"] < 40  # a student that has learned nothing
        with Image.open(tmp_path / "sheets" / f"{task.tag()}-{row['clip']}.png") as sheet:
            assert sheet.width == 2 * (benchmark.TILE + 2)


def test_rows_of_others_stay(task, tmp_path, monkeypatch):
    """And no process is begun for what is there already but the measuring."""
    table = tmp_path / "faces.csv"
    table.write_text(f"portrait,seed,steps,clip,gaze\nsomeone,0,2500,talk,3\n{NAME},0,{STEPS},talk,1\n")
    monkeypatch.setattr(benchmark, "ProcessPoolExecutor", lambda jobs, context: Here())
    monkeypatch.setattr(benchmark, "measure", lambda task, clips, threads: [
        {"portrait": task.name, "seed": 0, "steps": STEPS, "clip": clip, "gaze": 2} for clip in clips
    ])  # fmt: skip
    clip = tmp_path / "talk.npz"
    clip.touch()
    arguments = [str(clip), "--people", NAME, "--work", str(tmp_path), "--table", str(table)]
    monkeypatch.setattr(sys, "argv", ["faces.py", *arguments])
    assert benchmark.main() == 0
    with table.open(newline="") as file:
        assert [(row["portrait"], row["gaze"]) for row in csv.DictReader(file)] == [("someone", "3"), (NAME, "2")]


class Here:
    """A pool that works at once, and in this process."""

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def submit(self, work, *arguments):
        done = work(*arguments)
        return type("Done", (), {"result": lambda self: done})()

    def shutdown(self, cancel_futures):
        pass
