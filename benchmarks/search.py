"""Which student draws best at the same cost, and how fast: `python benchmarks/search.py designs|scale`.

    designs   students of other designs, all as wide as 4.8 GFLOPs allow → docs/designs.csv, docs/pictures/designs.png
    scale     GFLOPs, steps and frames against quality (as the paper's Fig. 8) → docs/scale.csv, docs/pictures/scale.png

Every student learns the same portrait (public domain) from the same teacher's frames, with the same steps and seed, and
is measured on motion that it never saw. Latency is ONNX Runtime's, fp32 and int8, on one thread.
What was measured before is not measured again; delete a row to have it anew.
"""

import argparse
import csv
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.peers import Network, measure
from converters.make import EXTREMES_STRIDE, HELD_OUT_SECONDS, HELD_OUT_STRIDE, TRAINING_STRIDE, example_photo
from converters.student_graph import Driving
from converters.to_onnx import export_onnx
from edge.landmarks import read_portrait
from edge.library import held_out_seed, procedural_track, train_seed
from edge.spec import SIZE
from training.config import TIERS, DistilConfig, StudentConfig
from training.distill import DistilResult, distil, evaluate, render_track
from training.flops import student_cost
from training.student import Generator, Motion, Painted, Student, Window, warp
from training.teachers.mesh import MeshTeacher

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
BUDGET = 4.8
"""GFLOPs of every design: what the chosen one takes at the tier `standard`."""
FRAMES = 700
STEPS = 500
COLUMNS = (
    "name", "what", "gmacs", "parameters_m", "steps", "frames", "psnr_db", "ssim", "energy", "extremes_db",
    "seconds", "fp32_ms", "int8_ms", "int8_db",
)  # fmt: skip


class Separable(nn.Module):
    """Depthwise 3×3, then 1×1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.each, self.mix = nn.Conv2d(channels, channels, 3, 1, 1, groups=channels), nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, C, H, W], same out."""
        return self.mix(self.each(x))


class Branches(nn.Module):
    """A 3×3 weight plus a 1×1 one plus the identity: RepVGG's branches, summed in the weight and not in the maps."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.point = nn.Parameter(torch.zeros(channels, channels, 1, 1))
        self.scale = nn.Parameter(torch.zeros(channels))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """[C, C, 3, 3], same out."""
        centre = self.point + torch.diag(self.scale)[:, :, None, None]
        return weight + F.pad(centre, (1, 1, 1, 1))


class SmallLayer(Student):
    """Warps a layer of half the size, and enlarges the draft: a quarter of the pixels to place."""

    def paint(
        self, motion: Motion, features: torch.Tensor, layer: torch.Tensor, window: Window | None = None
    ) -> torch.Tensor:
        """As `Student.paint`."""
        half = SIZE // 2
        warped_features = warp(features, motion.field) * motion.occlusion
        field = F.interpolate(motion.field.permute(0, 3, 1, 2), size=(half, half), mode="bilinear", align_corners=True)
        small, canvas = F.avg_pool2d(layer, 2), F.avg_pool2d(self.canvas, 2)
        warped = warp(small, field.permute(0, 2, 3, 1))
        draft = canvas + (warped[:, 0:3] - canvas) * warped[:, 3:4]
        draft = F.interpolate(draft, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
        hints, fine = motion.hints, SIZE // 4
        if window:
            draft, hints, warped_features = window.of(draft), window.of(hints), window.of(warped_features)
            fine = window.size // 4
        painted = self.generator(warped_features, hints, draft, fine)
        return draft - painted.veil * draft + painted.colour


class NoLayer(Student):
    """Paints every pixel from warped features alone, as the paper's student does."""

    def paint(
        self, motion: Motion, features: torch.Tensor, layer: torch.Tensor, window: Window | None = None
    ) -> torch.Tensor:
        """As `Student.paint`."""
        warped_features, hints = warp(features, motion.field) * motion.occlusion, motion.hints
        draft, fine = self.canvas.expand(len(hints), -1, -1, -1), SIZE // 4
        if window:
            draft, hints, warped_features = window.of(draft), window.of(hints), window.of(warped_features)
            fine = window.size // 4
        painted = self.generator(warped_features, hints, draft, fine)
        return draft - painted.veil * draft + painted.colour


class Blind(Generator):
    """A generator that does not see the draft."""

    def forward(self, features: torch.Tensor, hints: torch.Tensor, draft: torch.Tensor, fine: int = 128) -> Painted:
        """As `Generator.forward`."""
        return super().forward(features, hints, torch.zeros_like(draft), fine)


class Design(NamedTuple):
    """One way to spend the budget."""

    what: str
    change: Callable[[StudentConfig], StudentConfig] = lambda config: config
    student: type[Student] = Student
    rebuild: Callable[[Student], None] = lambda student: None
    """Takes the student apart after it is made."""
    finish: Callable[[Student], None] = lambda student: None
    """Puts it together for export."""


def _each_residual(student: Student) -> list[nn.Module]:
    return [block for blocks in (student.generator.coarse, student.generator.fine) for block in blocks]


def _separate(student: Student) -> None:
    for block in _each_residual(student):
        block.first, block.second = (Separable(block.first.in_channels) for _ in range(2))
        nn.init.zeros_(block.second.mix.weight)
        nn.init.zeros_(block.second.mix.bias)


def _branch(student: Student) -> None:
    for block in _each_residual(student):
        for conv in (block.first, block.second):
            parametrize.register_parametrization(conv, "weight", Branches(conv.in_channels))


def _join(student: Student) -> None:
    for block in _each_residual(student):
        for conv in (block.first, block.second):
            parametrize.remove_parametrizations(conv, "weight")


def _blind(student: Student) -> None:
    student.generator.__class__ = Blind


DESIGNS = {
    "chosen": Design("plain 3×3 at 64 and 128 px, the photo warped at 512 px"),
    "more coarse": Design("six blocks at 64 px, two at 128", lambda c: replace(c, coarse_blocks=6)),
    "more fine": Design("two blocks at 64 px, six at 128", lambda c: replace(c, fine_blocks=6)),
    "coarse only": Design("two blocks at 64 px, none at 128", lambda c: replace(c, fine_blocks=0)),
    "separable": Design("depthwise-separable blocks", rebuild=_separate),
    "branched": Design("3×3, 1×1 and identity, fused at export", rebuild=_branch, finish=_join),
    "layer 256": Design("the photo warped at 256 px and enlarged", student=SmallLayer),
    "no layer": Design("no warped photo: learned features alone, as in the paper", student=NoLayer),
    "blind": Design("the generator does not see the warped photo", rebuild=_blind),
    "64 features": Design("F_2D of 64 channels instead of 32", lambda c: replace(c, feature_channels=64)),
}
SCALE_GFLOPS = tuple(TIERS.values())
SCALE_STEPS = (125, 250, 500, 1000)
SCALE_FRAMES = (90, 175, 350, 700)


def widest(design: Design, volume_channels: int, budget: float = BUDGET) -> StudentConfig:
    """The widest student of a design that keeps the budget."""
    best = None
    for width in range(16, 385, 8):
        config = design.change(
            StudentConfig(
                motion_channels=max(16, min(width, 128) // 2 // 16 * 16),
                coarse_channels=width,
                fine_channels=max(8, width // 2 // 4 * 4),
                volume_channels=volume_channels,
            )
        )
        if _gflops(design, config) > budget:
            break
        best = config
    assert best is not None
    return best


def _gflops(design: Design, config: StudentConfig) -> float:
    """What a frame costs: the plain student's count, its blocks replaced by the design's."""
    cost = student_cost(config).gflops
    if design.rebuild is _separate:
        for channels, size, blocks in (
            (config.coarse_channels, 64, config.coarse_blocks), (config.fine_channels, 128, config.fine_blocks),
        ):  # fmt: skip
            pixels = 2 * blocks * 2 * size**2 / 1e9
            cost += pixels * (channels * (9 + channels) - 9 * channels**2)
    return cost


class Material(NamedTuple):
    """What all students learn from."""

    identity: Any
    teacher: Any
    training: np.ndarray
    held_out: np.ndarray
    extremes: np.ndarray


def material() -> Material:
    """The portrait and its tracks, as `superface make` takes them."""
    portrait = read_portrait(example_photo("grace_hopper"))
    teacher = MeshTeacher()
    image = torch.from_numpy(portrait.image).permute(2, 0, 1).float() / 255
    identity = teacher.prepare(image, torch.from_numpy(portrait.landmarks))

    def motion(seed: int, seconds: float, style: Any, stride: int) -> np.ndarray:
        return procedural_track(portrait.landmarks, seed=seed, seconds=seconds, style=style).landmarks[::stride]

    return Material(
        identity,
        teacher,
        motion(train_seed(0), FRAMES * TRAINING_STRIDE / 25, "training", TRAINING_STRIDE),
        motion(held_out_seed(10), HELD_OUT_SECONDS, "speech", HELD_OUT_STRIDE),
        motion(held_out_seed(12), HELD_OUT_SECONDS, "training", EXTREMES_STRIDE),
    )


def learn(
    material: Material, work: Path, config: DistilConfig, frames: int, build: Callable[[int], Student] | None
) -> DistilResult:
    """One student; the teacher's frames are rendered once for all that take as many."""
    run = work / f"frames-{frames}"
    (run / "checkpoint.safetensors").unlink(missing_ok=True)
    rows = np.linspace(0, len(material.training) - 1, frames).round().astype(int)
    return distil(
        material.identity, material.teacher, run, training_landmarks=material.training[rows],
        held_out_landmarks=material.held_out, config=config, build=build,
    )  # fmt: skip


def row_of(name: str, what: str, material: Material, work: Path, result: DistilResult, frames: int) -> dict[str, Any]:
    """Quality of a student."""
    extremes = render_track(material.identity, material.teacher, material.extremes, work / "extremes")
    hardest = evaluate(result.student, extremes, DistilConfig())
    calm = result.fidelity
    return {
        "name": name, "what": what, "parameters_m": round(student_cost(result.student.config).parameters / 1e6, 2),
        "steps": result.steps, "frames": frames, "psnr_db": round(calm.psnr_db, 2), "ssim": round(calm.ssim, 4),
        "energy": round(calm.energy_ratio, 3), "extremes_db": round(hardest.psnr_db, 2),
        "seconds": round(result.seconds, 1),
    }  # fmt: skip


def graphs_of(name: str, result: DistilResult, gmacs: float) -> list[Network]:
    """A student's ONNX graphs, fp32 and int8, for timing."""
    motion = [Driving(np.array(track.keypoints), np.array(track.local_landmarks)) for track in result[4:6]]
    lowered, _ = export_onnx(
        result.student, result.driver, calibration=motion[0], held_out=motion[1], precisions=("fp32", "int8"),
        verify=False,
    )  # fmt: skip
    inputs = {"keypoints": motion[1].keypoints[:1], "local_landmarks": motion[1].local_landmarks[:1]}
    return [
        Network(name, SIZE, precision, gmacs, None, next(iter(graph.files.values())), inputs)
        for precision, graph in zip(("fp32", "int8"), lowered, strict=True)
    ]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """What was measured before."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """The table."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def int8_db(networks: list[Network], material: Material, result: DistilResult) -> float:
    """PSNR of the int8 frames against the fp32 frames, mean over held-out motion."""
    import onnxruntime

    sessions = [onnxruntime.InferenceSession(network.model, providers=["CPUExecutionProvider"]) for network in networks]
    values = []
    for index in range(0, len(result.held_out.keypoints), 8):
        inputs = {
            "keypoints": result.held_out.keypoints[index : index + 1],
            "local_landmarks": result.held_out.local_landmarks[index : index + 1],
        }
        one, other = (session.run(None, inputs)[0] for session in sessions)
        values.append(-10 * np.log10(np.square(one - other).mean()))
    return float(np.mean(values))


def run_designs(work: Path, steps: int) -> None:
    """All designs."""
    table = DOCS / "designs.csv"
    rows, ready = read_rows(table), material()
    first: list[Network] | None = None
    for name, design in DESIGNS.items():
        if any(row["name"] == name for row in rows) and not (first is None and name == "chosen"):
            continue

        def build(channels: int, design: Design = design) -> Student:
            config = widest(design, channels)
            student = design.student(config)
            design.rebuild(student)
            return student

        print(f"\n{name}: {design.what}", flush=True)
        result = learn(ready, work, DistilConfig(minutes=None, steps=steps), FRAMES, build)
        design.finish(result.student)
        gmacs = round(_gflops(design, result.student.config) / 2, 3)
        row = row_of(name, design.what, ready, work, result, FRAMES) | {"gmacs": gmacs}
        networks = graphs_of(name, result, gmacs)
        first = first or networks
        times = measure([*first, *networks], 1, 5)
        own = [float(np.median(values)) for values in times[2:]]
        row |= {"fp32_ms": round(own[0], 1), "int8_ms": round(own[1], 1)}
        row["int8_db"] = round(int8_db(networks, ready, result), 1)
        rows = [other for other in rows if other["name"] != name] + [row]
        write_rows(table, rows)
        print(row, flush=True)
    draw_designs(rows)


def run_scale(work: Path) -> None:
    """GFLOPs, steps, frames: one is varied, the others stay."""
    table = DOCS / "scale.csv"
    rows, ready = read_rows(table), material()
    settings = [(f"{g:g} GFLOPs", g, STEPS, FRAMES) for g in SCALE_GFLOPS]
    settings += [(f"{s} steps", TIERS["standard"], s, FRAMES) for s in SCALE_STEPS]
    settings += [(f"{f} frames", TIERS["standard"], STEPS, f) for f in SCALE_FRAMES]
    for name, gflops, steps, frames in settings:
        if any(row["name"] == name for row in rows):
            continue
        print(f"\n{name}", flush=True)
        config = DistilConfig(gflops=gflops, minutes=None, steps=steps)
        result = learn(ready, work, config, frames, None)
        row = row_of(name, f"{gflops:g} GFLOPs, {steps} steps, {frames} frames", ready, work, result, frames)
        row["gmacs"] = round(student_cost(result.student.config).gmacs, 3)
        rows.append(row)
        write_rows(table, rows)
        print(row, flush=True)
    draw_scale(rows)


def draw_designs(rows: list[dict[str, Any]]) -> None:
    """Quality over latency."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained", sharey=True)
    for axis, key in zip(axes, ("fp32_ms", "int8_ms"), strict=True):
        for row in rows:
            chosen = row["name"] == "chosen"
            axis.plot(float(row[key]), float(row["extremes_db"]), "o", color="tab:red" if chosen else "tab:blue")
            axis.annotate(
                row["name"], (float(row[key]), float(row["extremes_db"])), xytext=(5, 3), textcoords="offset points"
            )
        axis.set(xlabel=f"ms a frame, {key[:-3]}, one thread", xlim=(0, None))
        axis.margins(x=0.2)
    axes[0].set(ylabel="PSNR at the extremes, dB")
    figure.savefig(DOCS / "pictures" / "designs.png", dpi=90)


def draw_scale(rows: list[dict[str, Any]]) -> None:
    """Quality over each of the three."""
    figure, axes = plt.subplots(1, 3, figsize=(10, 3), layout="constrained", sharey=True)
    for axis, unit in zip(axes, ("GFLOPs", "steps", "frames"), strict=True):
        own = [row for row in rows if row["name"].endswith(unit)]
        at = [float(row["name"].split()[0]) for row in own]
        order = np.argsort(at)
        for key, label in (("psnr_db", "calm speaker"), ("extremes_db", "extremes")):
            axis.plot(np.array(at)[order], np.array([float(row[key]) for row in own])[order], "o-", label=label)
        axis.set(xlabel=unit, xscale="log")
        axis.set_xticks(at, [f"{value:g}" for value in at])
        axis.minorticks_off()
    axes[0].set(ylabel="PSNR, dB")
    axes[0].legend()
    figure.savefig(DOCS / "pictures" / "scale.png", dpi=90)


def main() -> int:
    """Run a sweep; the exit code."""
    parser = argparse.ArgumentParser(
        description=str(__doc__).split("\n")[0], epilog=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sweep", choices=("designs", "scale"))
    parser.add_argument("--work", type=Path, default=Path("runs/search"), help="the teacher's frames (%(default)s)")
    parser.add_argument("--steps", type=int, default=STEPS, help="of each design (%(default)s)")
    arguments = parser.parse_args()
    begun = time.monotonic()
    if arguments.sweep == "designs":
        run_designs(arguments.work, arguments.steps)
    else:
        run_scale(arguments.work)
    print(f"{(time.monotonic() - begun) / 60:.1f} minutes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
