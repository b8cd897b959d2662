"""Which student draws mouth and eyes best, and how fast: `python benchmarks/search.py designs|scale|rates|cost`.

    designs   students of other designs, each of widths that cost about what the chosen one does, or less
              → docs/designs.csv, docs/pictures/designs.png
    scale     GFLOPs, steps and frames (as the paper's Fig. 8)
              → docs/scale.csv, docs/pictures/scale.png
    rates     learning rates
              → docs/rates.csv
    cost      seconds and memory of one avatar, from a portrait on, against quality
              → docs/cost.csv

All but `cost` train a student of each of several people and seeds, from the same teacher's frames, and tell means of
what each draws of its teacher's mouth and eyes (training/measures/expressions.py), how far two seeds are apart, and
the least that any of them draws: one portrait proves nothing. Designs are lowered as avatars are, and timed in turn
on ONNX Runtime and ExecuTorch.

    python benchmarks/search.py designs --people a b c d --portraits DIR --jobs 2
    python benchmarks/search.py designs --only "wide doors"        the others' rows stay as they are

WORK/students.csv has a row a student: what is in it is not trained again.
"""

import argparse
import itertools
import json
import multiprocessing
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from people import Task, add_people, frames_of, material, people, read_rows, render, train_all, write_rows
from torch import nn
from torch.nn.utils import parametrize
from tqdm import tqdm

from converters.make import example_photo
from converters.student_graph import Driving
from converters.to_executorch import export_executorch
from converters.to_onnx import export_onnx
from edge.__main__ import run_safely
from edge.errors import InputError
from edge.judges.bench import machine, peak_mb
from edge.runtimes import Runtime, load_graph
from edge.spec import FIELD, KEYPOINTS, KEYPOINTS_IN, LOCAL_IN, NETWORK
from training.config import TIERS, TRAINING_FRAMES, DistilConfig, StudentConfig
from training.measures.expressions import EXPRESSIONS, NO_FLOOR
from training.student.blocks import warp
from training.student.cost import count, student_config
from training.student.distill import distil
from training.student.network import (
    FINE,
    SHUFFLE,
    AppearanceDistributor,
    DenseMotionTrunk,
    Generator,
    Painted,
    Student,
    resize,
)
from training.student.person import HEATMAP, POINTS, Person, Pose, Window

matplotlib.use("Agg")
import matplotlib.pyplot as plt

DOCS = Path(__file__).parents[1] / "docs"
PORTRAIT = "grace_hopper"
"""Whose avatar is timed."""
STEPS = 500
SEEDS = 2
TOLERANCE = 1.05
"""A design costs at most this much of what the chosen one does: widths come in steps."""
TIMED: tuple[tuple[Runtime, str, str], ...] = (
    ("onnx", "fp32", "student.onnx"), ("onnx", "int8", "student.int8.onnx"),
    ("executorch", "fp32", "student.pte"), ("executorch", "int8", "student.int8.pte"),
)  # fmt: skip
THREADS = (1, 2)
PARTS = {
    part: tuple(name for name, face in EXPRESSIONS.items() if face.part == part and face.floor != NO_FLOOR)
    for part in ("mouth", "eyes")
}
"""Expressions behind a figure of the mouth or the eyes: their mean."""
FAR = 0.1
"""Below the best mouth: outside of the plot."""
ROUNDS = 12

Build = Callable[[int], Student]


# -- Other designs -------------------------------------------------------------------------------------------


class LateNarrow(Generator):
    """Enlarged first, narrowed then: four times the arithmetic between 64 and 128 px."""

    def forward(self, features: torch.Tensor, hints: torch.Tensor, draft: torch.Tensor, fine: int = FINE) -> Painted:
        """As `Generator.forward`."""
        with self.scope(features):
            x = self.coarse(self.enter(torch.cat([features, hints], 1)))
            x = self.narrow(resize(self.narrowing(x), fine)) + self.look(F.pixel_unshuffle(draft, SHUFFLE))
            x = self.painting(self.fine(x))
            colour, keep = self.colour(x).float(), self.keep(x).float()
        return Painted(F.pixel_shuffle(colour, SHUFFLE), F.pixel_shuffle(keep, SHUFFLE))


class Blind(Generator):
    """Does not see the draft that it paints on."""

    def forward(self, features: torch.Tensor, hints: torch.Tensor, draft: torch.Tensor, fine: int = FINE) -> Painted:
        """As `Generator.forward`."""
        with self.scope(features):
            x = self.coarse(self.enter(torch.cat([features, hints], 1)))
            x = self.painting(self.fine(resize(self.narrow(self.narrowing(x)), fine)))
            colour, keep = self.colour(x).float(), self.keep(x).float()
        return Painted(F.pixel_shuffle(colour, SHUFFLE), F.pixel_shuffle(keep, SHUFFLE))


class WideTrunk(DenseMotionTrunk):
    """Its last maps at 64 px instead of 32."""

    def forward(self, heat: torch.Tensor, place: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As `DenseMotionTrunk.forward`, both at 64 px."""
        with self.scope(heat):
            skip = self.entered(self.enter(heat))
            x = self.upper(self.up(resize(self.deepest(self.deep(self.down(skip))), HEATMAP)) + skip)
            x = self.hinting(self.wide(resize(x + place, FIELD)))
            return x.float(), self.heads(x).float()


class FewPoints(Pose):
    """Every second keypoint counts for the pose, and lies where it is in the source otherwise."""

    def align(self, points: torch.Tensor, pose: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """As `Pose.align`."""
        aligned = super().align(points, pose)
        return self.rest + (aligned - self.rest) * self.heard if points.shape[1] == POINTS else aligned


def _few_keypoints(student: Student) -> None:
    """Every second keypoint alone moves anything but the head's pose."""
    heard = torch.ones(1, POINTS, 2)
    heard[:, 1:KEYPOINTS:2] = 0
    person = student.person
    person.pose.__class__ = FewPoints
    person.pose.register_buffer("heard", heard, persistent=False)
    person.pose.register_buffer("rest", person.source_points, persistent=False)  # what `bind` fills


class SmallLayer(Person):
    """Warps a layer of half the size, and enlarges the draft: a quarter of the pixels to place."""

    small: tuple[torch.Tensor, torch.Tensor] | None = None
    """Layer and canvas at half the size, once learning is over."""

    def draft(self, field: torch.Tensor, window: Window | None = None) -> torch.Tensor:
        """As `Person.draft`."""
        half = NETWORK // 2
        field = F.interpolate(field.permute(0, 3, 1, 2), (half, half), mode="bilinear", align_corners=True)
        layer, canvas = self.small or (F.avg_pool2d(self.layer, 2), F.avg_pool2d(self.canvas, 2))
        warped = warp(layer.expand(len(field), -1, -1, -1), field.permute(0, 2, 3, 1))
        draft = resize(canvas + (warped[:, 0:3] - canvas) * warped[:, 3:4], NETWORK)
        return window.of(draft) if window else draft


class NoLayer(Person):
    """A canvas at rest, and no photo that is warped, as in the paper's student: every pixel is painted over it."""

    def draft(self, field: torch.Tensor, window: Window | None = None) -> torch.Tensor:
        """As `Person.draft`."""
        draft = self.canvas + 0.0 * field[:, 0:1, 0:1, 0:1]
        return window.of(draft) if window else draft


class PackedPhoto(AppearanceDistributor):
    """F_2D is the photo itself, 8 × 8 pixels packed in a cell, instead of learned features."""

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        """As `AppearanceDistributor.forward`, with the volume's channels."""
        return F.pixel_unshuffle(volume.flatten(0, 1)[None], volume.shape[-1] // FIELD)


class Separable(nn.Module):
    """Depthwise 3 × 3, then 1 × 1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.each, self.mix = nn.Conv2d(channels, channels, 3, 1, 1, groups=channels), nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, C, H, W], same out."""
        return self.mix(self.each(x))


class Branches(nn.Module):
    """A 3 × 3 weight plus a 1 × 1 one plus the identity: RepVGG's branches, summed in the weight, not in the maps."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.point = nn.Parameter(torch.zeros(channels, channels, 1, 1))
        self.scale = nn.Parameter(torch.zeros(channels))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """[C, C, 3, 3], same out."""
        centre = self.point + torch.diag(self.scale)[:, :, None, None]
        return weight + F.pad(centre, (1, 1, 1, 1))


def _blocks(student: Student) -> list[Any]:
    return [block for blocks in (student.network.generator.coarse, student.network.generator.fine) for block in blocks]


def _separate(student: Student) -> None:
    for block in _blocks(student):
        block.first, block.second = (Separable(block.first.in_channels) for _ in range(2))
        nn.init.zeros_(block.second.mix.weight)
        nn.init.zeros_(block.second.mix.bias)


def _branch(student: Student) -> None:
    for block in _blocks(student):
        for conv in (block.first, block.second):
            parametrize.register_parametrization(conv, "weight", Branches(conv.in_channels))


def _join(student: Student) -> None:
    for block in _blocks(student):
        for conv in (block.first, block.second):
            parametrize.remove_parametrizations(conv, "weight")


@torch.no_grad()
def _shrink(student: Student) -> None:
    person = student.person
    person.small = F.avg_pool2d(person.layer, 2), F.avg_pool2d(person.canvas, 2)  # type: ignore[assignment]


def _wide_doors(student: Student) -> None:
    generator, fine = student.network.generator, student.config.fine_channels
    generator.look = nn.Conv2d(3 * SHUFFLE**2, fine, 3, 1, 1)
    for name in ("colour", "keep"):
        door = getattr(generator, name)
        wide = nn.Conv2d(fine, door.out_channels, 3, 1, 1)
        nn.init.zeros_(wide.weight)
        wide.bias = door.bias
        setattr(generator, name, wide)


def _becomes(part: str, kind: type[nn.Module]) -> Callable[[Student], None]:
    """A part of the student, say `network.generator`, keeps its weights and computes as another class does."""

    def change(student: Student) -> None:
        student.get_submodule(part).__class__ = kind

    return change


def _pixels_for_features(config: StudentConfig) -> StudentConfig:
    return replace(config, feature_channels=config.volume_channels)


class Design(NamedTuple):
    """One way to spend the budget."""

    what: str
    settings: Callable[[StudentConfig], StudentConfig] = lambda config: config
    rebuild: tuple[Callable[[Student], None], ...] = ()
    """Changes the student's parts after it is made."""
    finish: Callable[[Student], None] = lambda student: None
    """Puts them together for export."""

    def of(self, config: StudentConfig) -> Student:
        """A student of this design and these widths."""
        student = Student.untrained(self.settings(config))
        for change in self.rebuild:
            change(student)
        return student

    def dearest(self, volume_channels: int, gflops: float) -> Student:
        """The one that costs most and no more than that, of widths that are multiples of 16."""
        costs = {}
        for coarse, fine in itertools.product(range(16, 161, 16), range(16, 81, 16)):
            if fine <= coarse <= 4 * fine:
                config = StudentConfig(32, coarse, fine, volume_channels=volume_channels)
                costs[config] = count(lambda config=config: self.of(config)).gflops  # type: ignore[misc]
        return self.of(max((config for config in costs if costs[config] <= gflops), key=costs.__getitem__))


DESIGNS = {
    "chosen": Design("plain 3 × 3 at 64 and 128 px; the photo warped at 512 px; candidates at 32 px; doors 1 × 1"),
    "wide doors": Design("packed pixels read and written by 3 × 3", rebuild=(_wide_doors,)),
    "late narrow": Design(
        "enlarged to 128 px before it is narrowed", rebuild=(_becomes("network.generator", LateNarrow),)
    ),
    "motion at 64": Design(
        "candidate motions chosen at 64 px",
        rebuild=(_becomes("network.motion_trunk", WideTrunk),),
    ),
    "more coarse": Design("four blocks at 64 px, one at 128", lambda c: replace(c, coarse_blocks=4, fine_blocks=1)),
    "more fine": Design("one block at 64 px, four at 128", lambda c: replace(c, coarse_blocks=1, fine_blocks=4)),
    "separable": Design("depthwise-separable blocks", rebuild=(_separate,)),
    "branched": Design("3 × 3, 1 × 1 and identity, fused at export", rebuild=(_branch,), finish=_join),
    "64 features": Design("F_2D of 64 channels instead of 32", lambda c: replace(c, feature_channels=64)),
    "packed photo": Design(
        "F_2D is the photo, 8 × 8 pixels a cell",
        _pixels_for_features,
        (_becomes("network.distributor", PackedPhoto),),
    ),
    "10 keypoints": Design("every second keypoint", rebuild=(_few_keypoints,)),
    "blind": Design("the generator does not see the warped photo", rebuild=(_becomes("network.generator", Blind),)),
    "layer 256": Design(
        "the photo warped at 256 px and enlarged", rebuild=(_becomes("person", SmallLayer),), finish=_shrink
    ),
    "no layer": Design("no warped photo: learned features alone", rebuild=(_becomes("person", NoLayer),)),
    "packed alone": Design(
        "no warped photo but the packed one",
        _pixels_for_features,
        (_becomes("person", NoLayer), _becomes("network.distributor", PackedPhoto)),
    ),
}
SCALE_GFLOPS = (0.75, *sorted(TIERS.values()))
SCALE_STEPS = (125, 250, 500, 1000, 2500)
SCALE_FRAMES = (88, 175, 350, 700)
RATES = (0.25, 0.5, 1.0, 2.0)
"""Times the default."""
COST = {1: 350, 125: 350, 500: 350, 1500: 520}
"""Steps → frames, about as many as `superface make` renders for a training that long."""


# -- Learning and measuring ----------------------------------------------------------------------------------


class Variant(NamedTuple):
    """What one row of a sweep trains, once a person and seed."""

    what: str = ""
    config: DistilConfig = DistilConfig(minutes=None, steps=STEPS)
    frames: int = TRAINING_FRAMES
    design: str = ""


def build_design(name: str, channels: int) -> Student:
    """A student of a design by its name, for an appearance volume of so many channels."""
    return DESIGNS[name].dearest(channels, TOLERANCE * count(lambda: Student.untrained(student_config())).gflops)


def sweep(variants: dict[str, Variant], table: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Train all variants' students; the table's rows in the order of `variants`, those not asked for as they were."""
    everybody = people(arguments.portraits, arguments.people)
    asked = arguments.only or list(variants)
    if unknown := sorted(set(asked) - set(variants)):
        raise InputError(f"There is no {unknown[0]!r} in this sweep. There are: {', '.join(variants)}.")
    tasks = {
        name: [
            Task(
                person, photo, arguments.work, replace(variants[name].config, seed=seed), variants[name].frames,
                design := variants[name].design, partial(build_design, design) if design else None,
            )
            for seed in range(arguments.seeds)
            for person, photo in everybody.items()
        ]
        for name in asked
    }  # fmt: skip
    every = list({tuple(task.row().values()): task for own in tasks.values() for task in own}.values())
    students = []
    for row, _ in tqdm(train_all(every, arguments.work / "students.csv", arguments.jobs), total=len(every)):
        students.append(row)
    rows = {row["name"]: row for row in read_rows(table) if row["name"] in variants}
    for name, own in tasks.items():
        keys = [[str(value) for value in task.row().values()] for task in own]
        found = [row for row in students if [str(row[column]) for column in own[0].row()] in keys]
        # Times, which another step adds, stay.
        rows[name] = rows.get(name, {}) | {"name": name} | _means(variants[name], found)
    ordered = [rows[name] for name in variants if name in rows]
    write_rows(table, ordered)
    return ordered


def _means(variant: Variant, students: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One row of a sweep from those of its students."""
    cost = count(
        partial(build_design, variant.design, 192)
        if variant.design
        else lambda: Student.untrained(student_config(variant.config.gflops))
    )
    alive = [row for row in students if not row.get("died")]
    row: dict[str, Any] = {
        "what": variant.what, "gmacs": round(cost.gmacs, 3), "parameters_m": round(cost.parameters / 1e6, 2),
        "steps": variant.config.steps, "frames": variant.frames, "people": len({row["name"] for row in students}),
        "seeds": len({row["seed"] for row in students}), "died": len(students) - len(alive),
    }  # fmt: skip
    if not alive:
        return row
    for part, expressions in PARTS.items():
        drawn = [(row["name"], statistics.fmean(float(row[name]) for name in expressions)) for row in alive]
        apart = [
            max(own) - min(own)
            for person in {name for name, _ in drawn}
            for own in [[value for name, value in drawn if name == person]]
        ]
        values = [value for _, value in drawn]
        figures = {"": statistics.fmean(values), "_least": min(values), "_apart": statistics.fmean(apart)}
        row |= {part + name: round(value, 3) for name, value in figures.items()}
    row |= {name: round(statistics.fmean(float(row[name]) for row in alive), 3) for name in ("teeth", "psnr_db")}
    return row | {"painter_silent": max(float(row["painter_silent"]) for row in alive)}


def lower(folder: Path, design: str, task: Task) -> None:
    """An untrained student's graphs for all of `TIMED`, and the frames to time them on."""
    ready = material(task.photo)
    torch.manual_seed(0)
    volume = ready.identity.appearance_volume
    student = build_design(design, volume.shape[0] * volume.shape[1] * (volume.shape[-1] // FIELD) ** 2)
    with torch.no_grad():
        for parameter in student.parameters():
            if not parameter.any():
                parameter.normal_(std=0.02)  # what starts as nothing may be left out of a graph
    student = student.bind(ready.identity).eval()
    DESIGNS[design].finish(student)
    tracks = frames_of(task.name, task.work, task.frames)
    calibration, held_out = (
        Driving(*(np.load(tracks[track] / f"{part}.npy") for part in ("keypoints", "local_landmarks")))
        for track in ("training", "held_out")
    )
    folder.mkdir(parents=True, exist_ok=True)
    for export, precisions in ((export_onnx, ("fp32", "int8")), (export_executorch, ("fp32", "int8"))):
        lowered, _ = export(  # type: ignore[operator]
            student, None, calibration=calibration, held_out=held_out, precisions=precisions, verify=False
        )
        for graph in lowered:
            for name, body in graph.files.items():
                (folder / name).write_bytes(body)
    np.savez(folder / "driving.npz", **{KEYPOINTS_IN.name: held_out.keypoints, LOCAL_IN.name: held_out.local_landmarks})


def time_graphs(folders: list[Path], runtime: Runtime, file: str, threads: int) -> list[float]:
    """Median milliseconds of each folder's graph, all in turn, in a process of its own: threads are set once for it."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_time_graphs, folders, runtime, file, threads).result()


def _time_graphs(folders: list[Path], runtime: Runtime, file: str, threads: int) -> list[float]:
    torch.set_num_threads(threads)
    runs, times = [], [[] for _ in folders]  # type: ignore[var-annotated]
    for folder in folders:
        with np.load(folder / "driving.npz", allow_pickle=False) as stored:
            driving = {name: stored[name] for name in (KEYPOINTS_IN.name, LOCAL_IN.name)}
        runs.append((load_graph(runtime, folder / file, threads), driving))
    for turn in range(ROUNDS + 1):
        for (run, driving), own in zip(runs, times, strict=True):
            for frame in range(4):
                row = slice(index := (4 * turn + frame) % len(driving[KEYPOINTS_IN.name]), index + 1)
                begun = time.perf_counter()
                run(**{name: values[row] for name, values in driving.items()})
                if turn and frame:  # the first frame of a turn finds another graph's data in the cache
                    own.append(1000 * (time.perf_counter() - begun))
    return [round(statistics.median(own), 1) for own in times]


# -- The sweeps ----------------------------------------------------------------------------------------------


def run_designs(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Train, lower and time designs."""
    table = DOCS / "designs.csv"
    config = DistilConfig(minutes=None, steps=arguments.steps)
    rows = sweep(
        {
            name: Variant(design.what, config, design="" if name == "chosen" else name)
            for name, design in DESIGNS.items()
        },
        table,
        arguments,
    )
    one = Task(PORTRAIT, example_photo(PORTRAIT), arguments.work, config)
    render(one, threads=max(THREADS))
    folders = [arguments.work / "graphs" / row["name"].replace(" ", "_") for row in rows]
    for row, folder in zip(rows, folders, strict=True):
        if not (folder / "driving.npz").exists():
            lower(folder, row["name"], one)
    for runtime, precision, file in TIMED:
        for threads in THREADS:
            times = time_graphs(folders, runtime, file, threads)
            for row, value in zip(rows, times, strict=True):
                row[f"{runtime}_{precision}_{threads}t_ms"] = value
    for row in rows:
        row["machine"] = machine()
    write_rows(table, rows)
    draw_designs(rows)
    return rows


def run_scale(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """GFLOPs, steps, frames: one is varied, the others stay."""
    config = DistilConfig(minutes=None, steps=arguments.steps)
    variants = {f"{gflops:g} GFLOPs": Variant(config=replace(config, gflops=gflops)) for gflops in SCALE_GFLOPS}
    variants |= {f"{steps} steps": Variant(config=replace(config, steps=steps)) for steps in SCALE_STEPS}
    variants |= {f"{frames} frames": Variant(config=config, frames=frames) for frames in SCALE_FRAMES}
    rows = sweep(variants, DOCS / "scale.csv", arguments)
    draw_scale(rows)
    return rows


def run_rates(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Learning rates, as times the default one."""
    config = DistilConfig(minutes=None, steps=arguments.steps)
    rates = {f"{times:g} ×": times * config.learning_rate for times in RATES}
    variants = {name: Variant(f"{rate:g}", replace(config, learning_rate=rate)) for name, rate in rates.items()}
    return sweep(variants, DOCS / "rates.csv", arguments)


def run_cost(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """One avatar from its portrait on, with more and more steps, each in a fresh process."""
    rows = []
    for steps, frames in COST.items():
        folder = arguments.work / "cost"
        shutil.rmtree(folder, ignore_errors=True)
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            row = {"steps": steps, "frames": frames} | pool.submit(_cost, folder, steps, frames).result()
        rows.append(row | {"machine": machine()})
        write_rows(DOCS / "cost.csv", rows)
        print(rows[-1], flush=True)
    return rows


def _cost(folder: Path, steps: int, frames: int) -> dict[str, Any]:
    """Seconds of all that `superface make` does up to the student, and the most memory it held."""
    begun = time.monotonic()
    ready = material(example_photo(PORTRAIT), frames)
    result = distil(
        ready.identity, ready.teacher, folder, training_landmarks=ready.tracks.training,
        held_out_landmarks=ready.tracks.held_out, config=DistilConfig(minutes=None, steps=steps),
    )  # fmt: skip
    return {
        "seconds": round(time.monotonic() - begun), "of_training": round(result.seconds),
        "peak_mb": round(peak_mb()), "psnr_db": round(result.fidelity.psnr_db, 2),
    }  # fmt: skip


def draw_designs(rows: Iterable[dict[str, Any]]) -> None:
    """Mouths over latency, a number a design; what lies far below the best is told at the bottom of each plot."""
    rows = list(rows)
    figure, axes = plt.subplots(2, 2, figsize=(10, 7), layout="constrained", sharey=True)
    best = max(float(row["mouth"]) for row in rows)
    for axis, (runtime, precision, _) in zip(axes.flat, TIMED, strict=True):
        below = []
        for number, row in enumerate(rows, 1):
            ms, quality = float(row[f"{runtime}_{precision}_1t_ms"]), float(row["mouth"])
            if quality < best - FAR:
                below.append(f"{number}: {ms:g} ms, {100 * quality:.0f} %")
                continue
            colour = "tab:red" if row["name"] == "chosen" else "tab:blue"
            axis.plot(ms, 100 * quality, "o", color=colour, markersize=15, alpha=0.6, markeredgewidth=0)
            axis.text(ms, 100 * quality, str(number), ha="center", va="center_baseline", fontsize=8)
        axis.text(0.02, 0.03, "\n".join(below), transform=axis.transAxes, fontsize=8, color="0.4")
        axis.set(xlabel=f"ms a frame, one thread: {runtime}, {precision}", ylabel="of the teacher's mouth drawn, %")
        axis.margins(x=0.1, y=0.3)
    names = "\n".join(f"{number}  {row['name']}" for number, row in enumerate(rows, 1))
    figure.legend([plt.Line2D([], [], linestyle="")], [names], loc="outside right upper", handlelength=0, frameon=False)
    figure.savefig(DOCS / "pictures" / "designs.png", dpi=90)


def draw_scale(rows: Iterable[dict[str, Any]]) -> None:
    """Mouth and eyes over each of the three."""
    rows = list(rows)
    figure, axes = plt.subplots(1, 3, figsize=(10, 3), layout="constrained", sharey=True)
    for axis, unit in zip(axes, ("GFLOPs", "steps", "frames"), strict=True):
        own = [row for row in rows if row["name"].endswith(unit)]
        at = [2 * float(row["gmacs"]) if unit == "GFLOPs" else float(row["name"].split()[0]) for row in own]
        order = np.argsort(at)
        for key in ("mouth", "eyes", "teeth"):
            axis.plot(np.array(at)[order], 100 * np.array([float(row[key]) for row in own])[order], "o-", label=key)
        axis.set(xlabel=unit, xscale="log")
        axis.set_xticks(at, [f"{value:.1f}" if unit == "GFLOPs" else f"{value:g}" for value in at], fontsize=8)
        axis.minorticks_off()
    axes[0].set(ylabel="of the teacher's drawn, %")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=3, frameon=False)
    figure.savefig(DOCS / "pictures" / "scale.png", dpi=90)


SWEEPS = {"designs": run_designs, "scale": run_scale, "rates": run_rates, "cost": run_cost}


def main() -> int:
    """Run a sweep; the exit code."""
    parser = argparse.ArgumentParser(
        description=str(__doc__).split("\n")[0], epilog=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sweep", choices=SWEEPS)
    parser.add_argument("--people", nargs="+", default=(), metavar="NAME", help="only these portraits (default: all)")
    parser.add_argument("--only", nargs="+", metavar="VARIANT", help="rows of the sweep's table (default: all)")
    add_people(parser, Path("runs/search"))
    parser.add_argument("--steps", type=int, default=STEPS, help="of each student (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="students a person (default: %(default)s)")
    arguments = parser.parse_args()
    rows = SWEEPS[arguments.sweep](arguments)
    if arguments.json:
        print(json.dumps(rows))
    return 0


if __name__ == "__main__":
    sys.exit(run_safely(main))
