"""How fast an avatar should be on named chips, on paper: predicted from published latencies, never measured there.

For each chip, unit and precision, published networks give

    ms = a + GMACs / throughput

by least squares of relative errors, a ≥ 0. How far off this is shows when each published row is predicted from
the others (leave one out). An avatar is not convolutions alone: placing and blending pixels costs about the same in
every student at 512 × 512. On CPUs that part comes from our own students of three sizes on one machine, where the same
fit gives it as GMACs; on NPUs from a published network with the same warp. Either way it multiplies the second term:
the warp factor.
"""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

LATENCIES = Path(__file__).with_name("device_latency.csv")
FAST_FPS, SLOW_FPS = 25.0, 15.0
"""A tier is recommended at the first; the smallest one still at the second."""
OURS = "ours"
"""Source of the rows that were measured here; their models are named as the tiers, from small to large."""
WARPED = "FOMM generator"
"""The published network that warps features as the student does."""
FLOAT_PER_INT8 = 2.0
"""How much longer an NPU takes in 16 bits than in 8 (assumed: the published warp is in 16)."""


class Published(NamedTuple):
    """One row of `device_latency.csv`."""

    device: str
    model: str
    gmacs: float
    precision: str
    runtime: str
    unit: str
    """cpu or npu."""
    threads: str
    latency_ms: float
    source: str


class Line(NamedTuple):
    """ms = base_ms + gmacs * ms_per_gmac."""

    base_ms: float
    ms_per_gmac: float

    def at(self, gmacs: float) -> float:
        """Predicted milliseconds."""
        return self.base_ms + gmacs * self.ms_per_gmac


class Prediction(NamedTuple):
    """One chip; all times are predicted."""

    device: str
    unit: str
    precision: str
    runtime: str
    rows: int
    """Published networks behind it."""
    error: float | None
    """Median relative error of leaving one row out; None where there is one row."""
    frame_ms: dict[str, float]
    """By the avatar's or the tier's name."""
    recommended: str
    """The largest tier at 25 frames a second, else the smallest at 15, else "none"."""


def read_published(path: Path = LATENCIES) -> list[Published]:
    """The table that comes with the package."""
    with path.open(newline="") as file:
        return [
            Published(
                row["device"], row["model"], float(row["gmacs"]), row["precision"], row["runtime"], row["unit"],
                row["threads"], float(row["latency_ms"]), row["source"],
            )
            for row in csv.DictReader(file)
        ]  # fmt: skip


def fit(gmacs: Sequence[float], latency_ms: Sequence[float]) -> Line:
    """The line that fits relative errors best, its base and its slope not below 0; one point gives no base."""
    work, time = np.asarray(gmacs, float), np.asarray(latency_ms, float)
    if len(work) > 1:
        columns = np.stack([1 / time, work / time], 1)
        base, slope = np.linalg.lstsq(columns, np.ones(len(work)), rcond=None)[0]
        if base >= 0 and slope > 0:
            return Line(float(base), float(slope))
    share = work / time
    return Line(0.0, float(share.sum() / np.square(share).sum()))


def _line(rows: Sequence[Published]) -> Line:
    return fit([row.gmacs for row in rows], [row.latency_ms for row in rows])


def leave_one_out(gmacs: Sequence[float], latency_ms: Sequence[float]) -> list[float]:
    """|predicted / published - 1| of each point, predicted from the others; empty where there is one."""
    errors = []
    for out in range(len(gmacs) if len(gmacs) > 1 else 0):
        rest = [index for index in range(len(gmacs)) if index != out]
        line = fit([gmacs[index] for index in rest], [latency_ms[index] for index in rest])
        errors.append(abs(line.at(gmacs[out]) / latency_ms[out] - 1))
    return errors


def tiers(published: Iterable[Published]) -> dict[str, float]:
    """GMACs of our students by tier, from small to large."""
    ours = {row.model: row.gmacs for row in published if row.source == OURS}
    return dict(sorted(ours.items(), key=lambda item: item[1]))


def warp_gmacs(published: Iterable[Published], precision: str) -> float:
    """What our students do beside convolution on a CPU, as GMACs of convolution at that precision in the same time."""
    line = _line([row for row in published if row.source == OURS and row.precision == precision])
    return line.base_ms / line.ms_per_gmac


def npu_warp_factor(published: Sequence[Published]) -> float:
    """How much longer a network with a warp takes on an NPU than its convolutions would: median over chips."""
    factors = []
    for row in published:
        if row.model == WARPED:
            group = [
                other
                for other in published
                if (other.device, other.unit, other.precision) == (row.device, row.unit, "int8")
            ]
            if len(group) > 1:
                line = _line(group)
                factors.append((row.latency_ms - line.base_ms) / (row.gmacs * line.ms_per_gmac * FLOAT_PER_INT8))
    return float(np.median(factors))


def predict(
    published: Sequence[Published] | None = None, *, avatar: tuple[str, float] | None = None
) -> list[Prediction]:
    """A prediction for each chip, unit and precision in the table, the slowest first.

    Args:
        published: default: the table that comes with the package.
        avatar: name and GMACs of one avatar to predict beside the tiers.
    """
    published = read_published() if published is None else published
    sizes = tiers(published)
    wanted = sizes | ({avatar[0]: avatar[1]} if avatar else {})
    on_npu = npu_warp_factor(published)
    groups: dict[tuple[str, str, str, str], list[Published]] = {}
    for row in published:
        if row.source != OURS and row.model != WARPED:
            groups.setdefault((row.device, row.unit, row.precision, row.runtime), []).append(row)
    lines = {key: _line(rows) for key, rows in groups.items()}
    beside = {precision: warp_gmacs(published, precision) for precision in ("fp32", "int8")}
    predictions = []
    for (device, unit, precision, runtime), rows in groups.items():
        line = lines[device, unit, precision, runtime]
        errors = leave_one_out([row.gmacs for row in rows], [row.latency_ms for row in rows])
        if unit == "cpu":
            # The warp is in 32 bits whatever the weights are, so a chip's own fp32 rows say best what it takes.
            floats = next((line for key, line in lines.items() if key[:3] == (device, "cpu", "fp32")), None)
            kind, slope = ("fp32", floats.ms_per_gmac) if floats else (precision, line.ms_per_gmac)
            frame_ms = {name: line.at(gmacs) + beside[kind] * slope for name, gmacs in wanted.items()}
        else:
            frame_ms = {name: line.at(gmacs * on_npu) for name, gmacs in wanted.items()}
        error = float(np.median(errors)) if errors else None
        best = _recommend({name: frame_ms[name] for name in sizes})
        predictions.append(Prediction(device, unit, precision, runtime, len(rows), error, frame_ms, best))
    return sorted(predictions, key=lambda one: -max(one.frame_ms.values()))


def _recommend(frame_ms: dict[str, float]) -> str:
    """Tiers from small to large."""
    names = list(frame_ms)
    fast = [name for name in names if 1000 / frame_ms[name] >= FAST_FPS]
    if fast:
        return fast[-1]
    return names[0] if 1000 / frame_ms[names[0]] >= SLOW_FPS else "none"


def table(predictions: Sequence[Prediction], published: Sequence[Published] | None = None) -> str:
    """Predictions for reading."""
    published = read_published() if published is None else published
    names = list(predictions[0].frame_ms)
    sizes = tiers(published)
    floats, eights = (warp_gmacs(published, precision) for precision in ("fp32", "int8"))
    factors = [
        f"{name} {(gmacs + floats) / gmacs:.1f} (int8 {(gmacs + eights) / gmacs:.1f})" for name, gmacs in sizes.items()
    ]
    lines = [
        "PREDICTED from published latencies of other networks; not measured on these devices.",
        "tiers: " + ", ".join(f"{name} {gmacs:.2f} GMACs" for name, gmacs in sizes.items()),
        f"warp factor: on CPUs {', '.join(factors)}; on NPUs {npu_warp_factor(published):.1f}",
        "error: median of predicting each published network from the others of that line",
        "",
        f"{'device':32}{'unit':5}{'weights':8}{'runtime':12}{'rows':>4}{'error':>7}"
        + "".join(f"{name + ' ms':>14}{'fps':>6}" for name in names)
        + "  recommended",
    ]
    for one in predictions:
        error = f"{one.error:.0%}" if one.error is not None else "–"
        times = "".join(f"{one.frame_ms[name]:>14.1f}{1000 / one.frame_ms[name]:>6.0f}" for name in names)
        lines.append(
            f"{one.device:32}{one.unit:5}{one.precision:8}{one.runtime:12}{one.rows:>4}{error:>7}{times}"
            f"  {one.recommended}"
        )
    return "\n".join(lines)


def as_json(predictions: Sequence[Prediction]) -> dict[str, Any]:
    """Plain JSON values."""
    return {"kind": "predicted", "devices": [one._asdict() for one in predictions]}
