"""Does every face get a living painter? `python benchmarks/people.py --portraits DIR`.

Trains a student of each portrait (the two that dependencies ship, and those in DIR) and says of each, beside its
PSNR, what it draws of its teacher's mouth and eyes (training/expressions.py) and which of its units are silent
(training/census.py). One portrait proves nothing: whatever is decided about training is decided over several, with
more than one seed.

    WORK/NAME/               the teacher's frames, rendered once for all seeds
    WORK/NAME-SEED.png       mouth and eyes, teacher above student
    WORK/people.csv          a row a student; what is in it is not trained again

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
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from converters.make import EXAMPLES, EXTREMES_STRIDE, HELD_OUT_SECONDS, HELD_OUT_STRIDE, TRAINING_STRIDE, example_photo
from edge.errors import FidelityError, InputError
from edge.landmarks import read_portrait
from edge.library import Style, held_out_seed, procedural_track, train_seed
from training.checkpoint import write_text
from training.config import TRAINING_FRAMES, DistilConfig
from training.distill import DistilResult, distil
from training.expressions import draw_closeups, draw_lesson, measure_expressions, teach
from training.teachers import Identity, Teacher
from training.teachers.mesh import MeshTeacher

STEPS = 2500
"""About what the default run of six minutes takes on two cores."""


class Material(NamedTuple):
    """What all students of a person learn from and are measured on."""

    identity: Identity
    teacher: Teacher
    training: np.ndarray
    held_out: np.ndarray
    extremes: np.ndarray
    work: Path


def people(folder: Path | None) -> dict[str, Path]:
    """Portraits by name: those that dependencies ship, then those of a folder."""
    found = {name: example_photo(name) for name in EXAMPLES}
    if folder is not None:
        found |= {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in (".jpg", ".png")}
    return found


def material(work: Path, photo: Path) -> Material:
    """A portrait and its tracks, as `superface make` takes them."""
    portrait = read_portrait(photo)
    teacher = MeshTeacher()
    image = torch.from_numpy(portrait.image).permute(2, 0, 1).float() / 255
    identity = teacher.prepare(image, torch.from_numpy(portrait.landmarks))

    def motion(seed: int, seconds: float, style: Style, stride: int) -> np.ndarray:
        return procedural_track(portrait.landmarks, seed=seed, seconds=seconds, style=style).landmarks[::stride]

    return Material(
        identity,
        teacher,
        motion(train_seed(0), TRAINING_FRAMES * TRAINING_STRIDE / 25, "training", TRAINING_STRIDE),
        motion(held_out_seed(10), HELD_OUT_SECONDS, "speech", HELD_OUT_STRIDE),
        motion(held_out_seed(12), HELD_OUT_SECONDS, "training", EXTREMES_STRIDE),
        work,
    )


def judge(result: DistilResult, ready: Material, sheet: Path) -> dict[str, Any]:
    """What a student draws of mouth and eyes, and its silent units; its close-ups go to `sheet`."""
    lesson = teach(ready.teacher, ready.identity)
    made = draw_lesson(result.student, lesson)
    Image.fromarray(draw_closeups(made, lesson)).save(sheet)
    drawn = {row.expression: round(row.drawn, 3) for row in measure_expressions(made, lesson)}
    parts = {"motion_silent": "motion_trunk", "painter_silent": "generator"}
    most = {
        name: max((layer for layer in result.census if layer.name.startswith(part)), key=lambda layer: layer.silent)
        for name, part in parts.items()
    }
    return (
        drawn
        | {name: round(layer.silent, 3) for name, layer in most.items()}
        | {
            "most_silent": most["painter_silent"].name,
            "painter_spread": round(min(x.spread for x in result.census if x.name.startswith("generator")), 5),
            "setbacks": len(result.setbacks),
        }
    )


def train(name: str, photo: Path, work: Path, config: DistilConfig, threads: int) -> dict[str, Any]:
    """One student, in a folder that shares the teacher's frames with those of other seeds; its row."""
    torch.set_num_threads(threads)
    ready = material(work / name, photo)
    own = work / f"{name}-{config.seed}"
    own.mkdir(parents=True, exist_ok=True)
    for track in ("training", "held_out"):
        (ready.work / track).mkdir(parents=True, exist_ok=True)
        if not (own / track).exists():
            (own / track).symlink_to((ready.work / track).resolve(), target_is_directory=True)
    row: dict[str, Any] = {"name": name, "seed": config.seed, "steps": config.steps}
    try:
        result = distil(
            ready.identity, ready.teacher, own, training_landmarks=ready.training, held_out_landmarks=ready.held_out,
            config=config, progress=lambda *told: None,
        )  # fmt: skip
    except FidelityError as error:
        return row | {"most_silent": str(error)}
    row |= {"psnr_db": round(result.fidelity.psnr_db, 2), "ssim": round(result.fidelity.ssim, 4)}
    row |= judge(result, ready, work / f"{name}-{config.seed}.png") | {"seconds": round(result.seconds)}
    shutil.rmtree(own)
    return row


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


def main() -> int:
    """Train everybody; exit code 0 if all came out alive."""
    parser = argparse.ArgumentParser(
        description=str(__doc__).split("\n")[0], epilog=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="only these (default: all)")
    parser.add_argument("--portraits", type=Path, help="a folder of more photos, one face each")
    parser.add_argument("--steps", type=int, default=STEPS, help="of each student (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=1, help="students a person (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="students at a time (default: %(default)s)")
    parser.add_argument("--work", type=Path, default=Path("runs/people"), help="frames and table (%(default)s)")
    parser.add_argument("--json", action="store_true", help="end with the rows as one JSON line")
    arguments = parser.parse_args()
    everybody = people(arguments.portraits)
    if unknown := sorted(set(arguments.names) - set(everybody)):
        raise InputError(f"There is no portrait {unknown[0]!r}. There are: {', '.join(everybody)}.")
    arguments.work.mkdir(parents=True, exist_ok=True)
    table = arguments.work / "people.csv"
    rows = read_rows(table)
    known = {(row["name"], int(row["seed"]), int(row["steps"])) for row in rows}
    threads = max(1, (os.cpu_count() or 1) // arguments.jobs)
    with ProcessPoolExecutor(arguments.jobs, multiprocessing.get_context("spawn")) as pool:
        waiting = [
            pool.submit(train, name, everybody[name], arguments.work, config, threads)
            for seed in range(arguments.seeds)
            for name in arguments.names or everybody
            if (name, seed, arguments.steps) not in known
            for config in [DistilConfig(minutes=None, steps=arguments.steps, seed=seed)]
        ]
        for finished in as_completed(waiting):
            rows.append(finished.result())
            write_rows(table, rows)
            print(" ".join(f"{name}={value}" for name, value in rows[-1].items()), flush=True)
    if arguments.json:
        print(json.dumps(rows))
    return 0 if all(row.get("psnr_db") for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
