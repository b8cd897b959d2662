"""Do mouth and eyes move as they should? `python benchmarks/faces.py CLIP… --portraits DIR`.

Trains a student of each portrait as `people.py` does, in the same folder if that is asked for, and lets every clip
drive it: what its frames show of mouth and eyes is held against its teacher's frames of the same motion
(training/measures/face.py), which training never saw. Beside the clips, procedural talking.

    WORK/students/           the students; who is there is not trained again
    WORK/sheets/NAME-CLIP.png    eight frames, teacher above student, mouth and eyes below
    docs/faces.csv           a row a portrait and clip, those of other portraits as they were

    python benchmarks/faces.py a.mp4 b.mp4 c.mp4 --portraits DIR --people x y z --jobs 2
"""

import argparse
import json
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from people import (
    Task,
    add_people,
    add_students,
    material,
    read_rows,
    students_of,
    train_all,
    write_rows,
)
from PIL import Image
from tqdm import tqdm

from edge.__main__ import run_safely
from edge.driving.track import read_driving
from edge.errors import FidelityError, InputError
from edge.judges.bench import machine
from edge.spec import NETWORK
from training.checkpoint import load_student
from training.measures.evaluators import load_lpips
from training.measures.expressions import BOXES, Part, cut_closeup
from training.measures.face import measure_face
from training.student.distill import RenderedTrack, draw_track, render_track, spread

TABLE = Path(__file__).parents[1] / "docs" / "faces.csv"
SECONDS, FRAMES = 10.0, 75
"""Of each clip: its first ten seconds, and frames spread evenly over them."""
PROCEDURAL = "procedural"
SHOWN, TILE = 8, 224
"""Frames of a sheet, and the pixels of a tile."""


def measure(task: Task, clips: dict[str, Path], threads: int) -> list[dict[str, Any]]:
    """A row a clip, and its sheet."""
    torch.set_num_threads(threads)
    ready = material(task.photo, task.frames)
    student, _ = load_student(task.student())
    lpips = load_lpips(torch.device("cpu"))
    rows = []
    for name, clip in {PROCEDURAL: None, **clips}.items():
        if clip is None:
            landmarks = ready.tracks.held_out
        else:
            driving = read_driving(clip, source_landmarks=ready.identity.source_landmarks.numpy())
            landmarks = driving.landmarks[: round(SECONDS * driving.fps)]
        landmarks = landmarks[spread(len(landmarks), FRAMES)]
        track = render_track(ready.identity, ready.teacher, landmarks, task.work / task.name / f"clip-{name}")
        made = list(draw_track(student, track))
        taught = [frame.transpose(1, 2, 0) for frame in track.frames]
        found = measure_face(made, taught, track.local_landmarks, lpips=lpips)
        sheet = task.work / "sheets" / f"{task.tag()}-{name}.png"
        sheet.parent.mkdir(exist_ok=True)
        Image.fromarray(draw_sheet(taught, made, track)).save(sheet)
        figures = {key: "" if np.isnan(value) else round(float(value), 4) for key, value in found._asdict().items()}
        rows.append(
            {"portrait": task.name, "seed": task.config.seed, "steps": task.config.steps, "clip": name} | figures
        )
    return rows


def draw_sheet(taught: list[np.ndarray], made: list[np.ndarray], track: RenderedTrack) -> np.ndarray:
    """Frames of a track, teacher above student; below, the mouths and the eyes of both, enlarged: uint8 [H, W, 3]."""
    rows = spread(len(taught), SHOWN)
    heights: dict[Part | None, int] = {None: TILE, "mouth": TILE // 2, "eyes": TILE // 3}
    sheet = Image.new("RGB", (len(rows) * (TILE + 2), 2 * (sum(heights.values()) + 6)), (32, 32, 32))
    for column, row in enumerate(rows):
        points = (torch.from_numpy(track.local_landmarks[row]) + 1) * ((NETWORK - 1) / 2)
        across = points[torch.cat(BOXES["eyes"]), 0]
        wide = 1.25 * float(across.amax() - across.amin())
        y = 0
        for part, tall in heights.items():
            for frames in (taught, made):
                picture = Image.fromarray(np.ascontiguousarray(frames[row]))
                if part is None:
                    tile = picture.resize((TILE, TILE), Image.Resampling.BICUBIC)
                else:
                    tile = cut_closeup(picture, points, part, wide=wide, size=(TILE, tall))
                sheet.paste(tile, (column * (TILE + 2), y))
                y += tall + 2
    return np.asarray(sheet)


def main() -> int:
    """Train, measure, write the table; exit code 0."""
    parser = argparse.ArgumentParser(
        description=str(__doc__).split("\n")[0], epilog=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clips", nargs="*", type=Path, help="driving clips (videos or tracks)")
    parser.add_argument("--people", nargs="+", default=(), metavar="NAME", help="only these portraits (default: all)")
    add_people(parser, Path("runs/faces"))
    add_students(parser)
    parser.add_argument("--table", type=Path, default=TABLE, help="where rows go (default: docs/faces.csv)")
    arguments = parser.parse_args()
    clips = {clip.stem: clip for clip in arguments.clips}
    if missing := [clip for clip in clips.values() if not clip.is_file()]:
        raise InputError(f"There is no clip {missing[0]}.")
    tasks = students_of(arguments, arguments.people)
    for row, _ in tqdm(train_all(tasks, arguments.work / "people.csv", arguments.jobs), "students", len(tasks)):
        if row.get("died"):
            raise FidelityError(f"{row['name']}: {row['died']}")
    threads = max(1, (os.cpu_count() or 1) // arguments.jobs)
    conditions = {"date": datetime.now(UTC).date().isoformat(), "machine": machine()}
    rows: list[dict[str, Any]] = []
    with ProcessPoolExecutor(arguments.jobs, multiprocessing.get_context("spawn")) as pool:
        try:
            measured = [pool.submit(measure, task, clips, threads) for task in tasks]
            for job in tqdm(measured, desc="measured"):
                rows += [row | conditions for row in job.result()]
        finally:
            pool.shutdown(cancel_futures=True)
    known = {_key(row) for row in rows}
    kept = [row for row in read_rows(arguments.table) if _key(row) not in known]
    write_rows(arguments.table, [*kept, *rows])
    if arguments.json:
        print(json.dumps(rows))
    return 0


def _key(row: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(row[column]) for column in ("portrait", "seed", "steps", "clip"))


if __name__ == "__main__":
    sys.exit(run_safely(main))
