"""The tables of README.md and docs/benchmarks.md, made from the CSV files beside them: `python scripts/make_tables.py`.

A table stands between `<!-- table NAME -->` and `<!-- end -->`; a test holds every one equal to what this makes.
"""

import csv
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from edge.judges import phones

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
FILES = (ROOT / "README.md", DOCS / "benchmarks.md")
HERE = "2-core x86-64 CPU (AMD EPYC)"


def read(name: str) -> list[dict[str, str]]:
    """Rows of a CSV file in docs."""
    with (DOCS / name).open(newline="") as file:
        return list(csv.DictReader(file))


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines)


def _by_threads(rows: Sequence[dict[str, str]], *same: str) -> list[tuple[dict[str, str], dict[str, str]]]:
    """Each row of one thread with that of two threads which is the same in these columns."""
    one, two = ([row for row in rows if row["threads"] == threads] for threads in "12")
    return [(row, next(other for other in two if all(other[k] == row[k] for k in same))) for row in one]


def speed() -> str:
    """The newest measurement of a default avatar on our machine: a line for each runtime and precision."""
    rows = [row for row in read("benchmarks.csv") if row["device"] == HERE]
    newest = [row for row in rows if (row["date"], row["commit"]) == (rows[-1]["date"], rows[-1]["commit"])]
    table = []
    for one, two in _by_threads(newest, "runtime", "precision"):
        table.append(
            [
                f"{one['runtime']}, {one['precision']}",
                one["file_mb"],
                *(f"{row['latency_ms_p50']} ({row['latency_ms_p90']})" for row in (one, two)),
                f"{float(one['share_of_peak']):.2f}",
                one["extra_mb"],
            ]
        )
    head = (
        "runtime",
        "MB",
        "ms, 1 thread (p90)",
        "ms, 2 threads (p90)",
        "of fp32 GEMM",
        "memory beyond the runtime, MB",
    )
    return _markdown(head, table)


def peers() -> str:
    """Others' networks beside ours."""
    table = []
    for one, two in _by_threads(read("peers.csv"), "network", "precision"):
        table.append(
            [
                f"{one['network']}, {one['precision']}", one["pixels"], one["gmacs"], one["published_gmacs"] or "–",
                one["median_ms"], two["median_ms"], one["times_ours"],
            ]
        )  # fmt: skip
    head = ("network", "pixels", "GMACs, as built", "GMACs, published", "ms, 1 thread", "ms, 2 threads", "× ours")
    return _markdown(head, table)


def devices() -> str:
    """Predictions for named chips."""
    predictions = phones.predict()
    names = list(predictions[0].frame_ms)
    table = []
    for one in predictions:
        error = f"{one.error:.0%}" if one.error is not None else "–"
        times = [f"{one.frame_ms[name]:.1f} ({1000 / one.frame_ms[name]:.0f})" for name in names]
        table.append([one.device, one.unit, one.precision, one.runtime, str(one.rows), error, *times, one.recommended])
    head = ("device", "unit", "weights", "runtime", "rows", "error", *(f"{n}, ms (fps)" for n in names), "recommended")
    return _markdown(head, table)


DRAWN = {
    f"{part}{key}": f"{part}: {what}"
    for part in ("mouth", "eyes")
    for key, what in (("", "mean"), ("_least", "least"), ("_apart", "seeds apart"))
} | {"teeth": "teeth", "psnr_db": "PSNR, dB"}
"""What a sweep's students draw of their teacher's mouth and eyes: columns, and their heads."""


def designs() -> str:
    """Students of other designs."""
    table = []
    for row in read("designs.csv"):
        times = [
            " / ".join(row[f"{runtime}_{precision}_{threads}t_ms"] for precision in ("fp32", "int8"))
            for runtime in ("onnx", "executorch")
            for threads in (1, 2)
        ]
        table.append([f"{row['name']}: {row['what']}", row["gmacs"], *(row[column] for column in DRAWN), *times])
    settings = [f"{runtime}, {threads}" for runtime in ("ONNX", "ExecuTorch") for threads in ("1 thread", "2 threads")]
    head = ("design", "GMACs", *DRAWN.values(), *(f"{one}, ms fp32 / int8" for one in settings))
    return _markdown(head, table)


def scale() -> str:
    """GFLOPs, steps and frames, one varied at a time."""
    columns = ("name", "gmacs", "steps", "frames", *DRAWN)
    head = ("varied", "GMACs", "steps", "frames", *DRAWN.values())
    return _markdown(head, [[row[column] for column in columns] for row in read("scale.csv")])


def people() -> str:
    """Students of many portraits, the one that draws least of its teacher's face first."""
    parts = ("wide open", "ah", "teeth", "blink", "half lids", "glance left", "glance right")
    rows = sorted(read("people.csv"), key=lambda row: min(float(row[name]) for name in parts[:5]))

    def percent(row: dict[str, str], *names: str) -> list[str]:
        return [f"{100 * float(row[name]):.0f}" for name in names]

    table = [
        [
            row["name"],
            row["seed"],
            *percent(row, *parts, "painter_silent", "motion_silent"),
            row["setbacks"],
            row["psnr_db"],
        ]
        for row in rows
    ]
    silent = ("silent, most of a layer: generator, %", "motion, %", "setbacks", "PSNR, dB")
    return _markdown(("portrait", "seed", *(f"{name}, %" for name in parts), *silent), table)


def faces() -> str:
    """Mouth and eyes of students that clips drive: means over clips, the worst mouth first."""
    by_portrait: dict[str, list[dict[str, str]]] = {}
    for row in read("faces.csv"):
        by_portrait.setdefault(row["portrait"], []).append(row)
    figures = {
        "mouth_psnr_db": ("mouth, dB", 1, 1), "eyes_psnr_db": ("eyes, dB", 1, 1),
        "mouth_lpips": ("LPIPS: mouth", 1, 3), "eyes_lpips": ("eyes", 1, 3),
        "lip_opening": ("off, % of eye distance: lip opening", 1, 1), "mouth_width": ("mouth width", 1, 1),
        "lid_opening": ("lid opening", 1, 1), "gaze": ("gaze", 1, 1),
        "lips_followed": ("followed, %: lips", 100, 0), "lids_followed": ("lids", 100, 0),
        "gaze_followed": ("gaze", 100, 0), "lost": ("faces lost, %", 100, 0),
    }  # fmt: skip

    def mean(rows: Sequence[dict[str, str]], name: str) -> float:
        values = [float(row[name]) for row in rows if row[name]]
        return sum(values) / len(values) if values else float("nan")

    def line(name: str, rows: Sequence[dict[str, str]]) -> list[str]:
        return [name, *(f"{scale * mean(rows, key):.{digits}f}" for key, (_, scale, digits) in figures.items())]

    table = [line(name, rows) for name, rows in by_portrait.items()]
    table.sort(key=lambda row: float(row[1]))
    table.append(line("all", [row for rows in by_portrait.values() for row in rows]))
    return _markdown(("portrait", *(head for head, _, _ in figures.values())), table)


def rates() -> str:
    """Learning rates, by mouth and eyes."""
    rows = [[row[column] for column in ("name", "what", *DRAWN)] for row in read("rates.csv")]
    return _markdown(("rate", "is", *DRAWN.values()), rows)


def cost() -> str:
    """One avatar, from its portrait to the student."""
    columns = ("steps", "frames", "seconds", "of_training", "peak_mb", "psnr_db")
    head = ("steps", "frames", "seconds in all", "of training", "peak memory, MB", "PSNR, calm speaker")
    return _markdown(head, [[row[column] for column in columns] for row in read("cost.csv")])


TABLES: dict[str, Callable[[], str]] = {
    "speed": speed,
    "peers": peers,
    "devices": devices,
    "designs": designs,
    "people": people,
    "faces": faces,
    "rates": rates,
    "scale": scale,
    "cost": cost,
}


def filled(text: str) -> str:
    """A document with its tables made anew."""

    def fill(match: re.Match[str]) -> str:
        return f"<!-- table {match[1]} -->\n\n{TABLES[match[1]]()}\n\n<!-- end -->"

    return re.sub(r"<!-- table (\w+) -->.*?<!-- end -->", fill, text, flags=re.DOTALL)


def main() -> None:
    """Write both documents."""
    for path in FILES:
        path.write_text(filled(path.read_text()))


if __name__ == "__main__":
    main()
