"""Does every face get a living painter? `python benchmarks/people.py --portraits DIR`.

Trains a student of each portrait (the two that dependencies ship, and those in DIR) and says of each, beside its PSNR,
what it draws of its teacher's mouth and eyes (training/measures/expressions.py) and which of its units are silent
(training/student/census.py). One portrait proves nothing: whatever is decided about training is decided over several,
with more than one seed.

    WORK/NAME/                 the teacher's frames, rendered once for all seeds
    WORK/students/NAME-SEED-*  the students
    WORK/sheets/NAME-SEED-*    mouth and eyes, teacher above student; the census, layer by layer
    WORK/people.csv            a row a student; what is in it is not trained again

A run that was stopped goes on when the same command is given again.
"""

import argparse
import csv
import io
import json
import multiprocessing
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from tqdm import tqdm

from converters.make import EXAMPLES, MakeConfig, Tracks, example_photo, make_tracks
from edge.__main__ import run_safely
from edge.driving.landmarks import read_portrait
from edge.errors import FidelityError, InputError
from training.checkpoint import write_text
from training.config import TRAINING_FRAMES, DistilConfig
from training.measures.expressions import draw_closeups, draw_lesson, measure_expressions, teach
from training.student.census import census_table
from training.student.distill import DistilResult, distil, render_track
from training.student.network import Student
from training.teachers import Identity, Teacher
from training.teachers.mesh import MeshTeacher

STEPS = 1400
"""About what the default run of nine minutes takes on two cores."""
KEY = ("name", "seed", "steps", "frames", "gflops", "learning_rate", "design")
"""Columns that tell a student from all others."""


class Material(NamedTuple):
    """What all students of a person learn from and are measured on."""

    identity: Identity
    teacher: Teacher
    tracks: Tracks


class Task(NamedTuple):
    """One student to be trained."""

    name: str
    """The person's."""
    photo: Path
    work: Path
    config: DistilConfig
    frames: int = TRAINING_FRAMES
    design: str = ""
    """Tells students of other designs apart."""
    build: Callable[[int], Student] | None = None
    """As in `distil`; None: the shipped design."""

    def row(self) -> dict[str, Any]:
        """The start of its row."""
        taken = self.config
        values = (self.name, taken.seed, taken.steps, self.frames, taken.gflops, taken.learning_rate, self.design)
        return dict(zip(KEY, values, strict=True))

    def tag(self) -> str:
        """The name of its files: person, seed and steps, then whatever is not as it ships."""
        own, shipped = self.row(), Task("", Path(), Path(), DistilConfig()).row()
        return "-".join(str(own[column]) for column in KEY if column in KEY[:3] or own[column] != shipped[column])

    def student(self) -> Path:
        """Where the student is kept."""
        return self.work / "students" / f"{self.tag()}.safetensors"


def people(folder: Path | None, names: Sequence[str] = ()) -> dict[str, Path]:
    """Portraits by name: those that dependencies ship, then those of a folder; all, or those that are named.

    Raises:
        InputError: one that is named is not there.
    """
    found = {name: example_photo(name) for name in EXAMPLES}
    if folder is not None:
        if not folder.is_dir():
            raise InputError(f"There is no folder {folder}.")
        found |= {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in (".jpg", ".png")}
    if unknown := sorted(set(names) - set(found)):
        raise InputError(f"There is no portrait {unknown[0]!r}. There are: {', '.join(found)}.")
    return {name: found[name] for name in names} if names else found


def material(photo: Path, frames: int = TRAINING_FRAMES) -> Material:
    """A portrait and its tracks, as `superface make` takes them."""
    portrait = read_portrait(photo)
    teacher = MeshTeacher()
    image = torch.from_numpy(portrait.image).permute(2, 0, 1).float() / 255
    identity = teacher.prepare(image, torch.from_numpy(portrait.landmarks))
    return Material(identity, teacher, make_tracks(portrait, None, MakeConfig(frames=frames)))


def frames_of(name: str, work: Path, frames: int) -> dict[str, Path]:
    """Where the teacher's frames of a person lie, by track."""
    return {"training": work / name / f"training-{frames}", "held_out": work / name / "held_out"}


def render(task: Task, threads: int) -> None:
    """The teacher's frames for a student, made once for all that learn from as many."""
    torch.set_num_threads(threads)
    ready = material(task.photo, task.frames)
    for track, folder in frames_of(task.name, task.work, task.frames).items():
        render_track(ready.identity, ready.teacher, getattr(ready.tracks, track), folder)


def learn(task: Task, ready: Material) -> tuple[DistilResult, Path]:
    """A student from frames that are rendered, and its run folder."""
    own = task.work / "training" / task.tag()
    own.mkdir(parents=True, exist_ok=True)
    for track, folder in frames_of(task.name, task.work, task.frames).items():
        if not (own / track).exists():
            (own / track).symlink_to(folder.resolve(), target_is_directory=True)
    result = distil(
        ready.identity, ready.teacher, own, training_landmarks=ready.tracks.training,
        held_out_landmarks=ready.tracks.held_out, config=task.config, build=task.build, progress=lambda *told: None,
    )  # fmt: skip
    return result, own


def train(task: Task, threads: int) -> tuple[dict[str, Any], str]:
    """One student, kept: its row and its census; its close-ups go to WORK/sheets."""
    torch.set_num_threads(threads)
    ready = material(task.photo, task.frames)
    row, tag = task.row(), task.tag()
    sheets = task.work / "sheets"
    sheets.mkdir(exist_ok=True)
    try:
        result, own = learn(task, ready)
    except FidelityError as error:
        return row | {"died": str(error)}, ""
    table = census_table(result.census)
    write_text(sheets / f"{tag}.txt", table + "\n")
    row |= judge(result, ready, sheets / f"{tag}.png")
    task.student().parent.mkdir(exist_ok=True)
    os.replace(own / "student.safetensors", task.student())
    shutil.rmtree(own)
    return row, table


def judge(result: DistilResult, ready: Material, sheet: Path) -> dict[str, Any]:
    """What a student draws of mouth and eyes, and its silent units; its close-ups go to `sheet`."""
    lesson = teach(ready.teacher, ready.identity)
    made = draw_lesson(result.student, lesson)
    Image.fromarray(draw_closeups(made, lesson)).save(sheet)
    drawn = {row.expression: round(row.drawn, 3) for row in measure_expressions(made, lesson)}
    painter = [layer for layer in result.census if layer.name.startswith("generator")]
    worst = max(painter, key=lambda layer: layer.silent)
    motion = max(layer.silent for layer in result.census if layer.name.startswith("motion_trunk"))
    return {
        "psnr_db": round(result.fidelity.psnr_db, 2), "ssim": round(result.fidelity.ssim, 4), **drawn,
        "painter_silent": round(worst.silent, 3), "most_silent": worst.name,
        "painter_spread": round(min(layer.spread for layer in painter), 5), "motion_silent": round(motion, 3),
        "setbacks": len(result.setbacks), "seconds": round(result.seconds),
    }  # fmt: skip


def train_all(tasks: Sequence[Task], table: Path, jobs: int) -> Iterator[tuple[dict[str, Any], str]]:
    """Rows of all students, those in the table first; then, as each is trained, its row and its census.

    Args:
        tasks: who is to be trained; what the table has a row of is not.
        table: CSV, written anew after each student.
        jobs: students at a time, each with its share of the cores.
    """
    table.parent.mkdir(parents=True, exist_ok=True)
    rows = read_rows(table)
    known = {_key(row): row for row in rows}
    yield from ((known[key], "") for task in tasks if (key := _key(task.row())) in known)
    missing = [task for task in tasks if _key(task.row()) not in known]
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        try:
            render_all(pool, missing, threads)
            for finished in as_completed([pool.submit(train, task, threads) for task in missing]):
                row, census = finished.result()
                rows.append(row)
                write_rows(table, rows)
                yield row, census
        finally:
            pool.shutdown(cancel_futures=True)


def render_all(pool: ProcessPoolExecutor, tasks: Sequence[Task], threads: int) -> None:
    """All frames, before any student: two students of one person would write the same files."""
    once = {(task.name, task.frames): task for task in tasks}.values()
    for task, rendered in [(task, pool.submit(render, task, threads)) for task in once]:
        rendered.result()
        tqdm.write(f"{task.name}: {task.frames} frames of the teacher")


def _key(row: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(row[column]) for column in KEY)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """What was measured before."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """The table, whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def add_people(parser: argparse.ArgumentParser, work: Path) -> None:
    """The arguments that say who learns, and where."""
    parser.add_argument("--portraits", type=Path, metavar="DIR", help="a folder of more photos, one face each")
    parser.add_argument("--jobs", type=int, default=1, help="students at a time (default: %(default)s)")
    parser.add_argument("--work", type=Path, default=work, help="frames, sheets, rows (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="end with the rows as one JSON line")


def add_students(parser: argparse.ArgumentParser) -> None:
    """The arguments that say how many students of the shipped design, and how long they learn."""
    parser.add_argument("--steps", type=int, default=STEPS, help="of each student (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=1, help="students a person (default: %(default)s)")


def students_of(arguments: argparse.Namespace, names: Sequence[str]) -> list[Task]:
    """Every student that the arguments ask for."""
    return [
        Task(name, photo, arguments.work, DistilConfig(minutes=None, steps=arguments.steps, seed=seed))
        for seed in range(arguments.seeds)
        for name, photo in people(arguments.portraits, names).items()
    ]


def main() -> int:
    """Train everybody; exit code 0 if all came out alive."""
    parser = argparse.ArgumentParser(
        description=str(__doc__).split("\n")[0], epilog=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="only these (default: all)")
    add_people(parser, Path("runs/people"))
    add_students(parser)
    arguments = parser.parse_args()
    tasks = students_of(arguments, arguments.names)
    rows = []
    students = train_all(tasks, arguments.work / "people.csv", arguments.jobs)
    for row, census in tqdm(students, total=len(tasks), unit="student"):
        rows.append(row)
        tqdm.write(" ".join(f"{name}={value}" for name, value in row.items() if value != "") + f"\n{census}".rstrip())
    if arguments.json:
        print(json.dumps(rows))
    return 1 if any(row.get("died") for row in rows) else 0


if __name__ == "__main__":
    sys.exit(run_safely(main))
