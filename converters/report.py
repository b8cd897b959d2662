"""One self-contained page about a run: pictures, loss curves, parity, latency, cost and sizes."""

import base64
import html
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from edge.bundle import Manifest
from edge.judges.bench import Bench
from edge.judges.check import CheckReport

Frames = npt.NDArray[np.uint8]


class Sheet(NamedTuple):
    """Pictures of a run."""

    poses: tuple[str, ...]
    teacher: Frames
    """uint8 [N, 512, 512, 3], one frame a pose."""
    student: Frames
    """As `teacher`, from the finished bundle."""
    closeups: Frames
    """Mouth and eyes enlarged, teacher above student: uint8 [H, W, 3] (training.measures.expressions.draw_closeups)."""
    worst: tuple[Frames, Frames]
    """The held-out frame that came out worst: teacher's and student's."""
    coarsest: Sequence[tuple[str, Frames, Frames]]
    """For each runtime's 8-bit student the frame it draws worst: a caption, full precision, 8 bits."""


_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881 }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 1100px; padding: 24px }
h1 { font-size: 28px; margin: 0 } h2 { font-size: 19px; margin: 36px 0 10px }
p.lead { margin: 4px 0 20px; opacity: .75 }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 10px }
.figures div { background: var(--soft); border-radius: 10px; padding: 12px 14px }
.figures b { display: block; font-size: 22px } .figures span { font-size: 13px; opacity: .75 }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: 6px 10px; border-bottom: 1px solid var(--line); font-size: 14px }
th:first-child, td:first-child { text-align: left } th { font-weight: 600; opacity: .8 }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(165px, 1fr)); gap: 8px }
figure { margin: 0 } figure img { width: 100%; display: block; border-radius: 6px }
figcaption { font-size: 12.5px; opacity: .75; padding: 3px 0 6px }
.wide { display: grid; grid-template-columns: repeat(3, 1fr); gap: 8px }
svg { width: 100%; height: auto; background: var(--soft); border-radius: 10px }
footer { margin-top: 40px; font-size: 13px; opacity: .75 }
"""


def write_report(
    path: Path,
    manifest: Manifest,
    verdict: CheckReport,
    speed: Bench,
    *,
    history: Sequence[dict[str, Any]],
    sheet: Sheet,
    seconds: float,
    notes: Sequence[str] = (),
) -> None:
    """Write the page.

    Args:
        path: the HTML file; it appears whole or not at all.
        manifest: of the finished bundle.
        verdict: what `edge.judges.check` found.
        speed: what `edge.judges.bench` measured.
        history: of the distillation: loss and, now and then, PSNR of mouth and eyes over time.
        sheet: the pictures.
        seconds: duration of the whole run.
        notes: sentences about the photo, the clip and the training.
    """
    figures = manifest.metrics
    size = sum(entry.bytes for entry in manifest.files.values())
    least = min(manifest.expressions, key=lambda row: row.drawn)
    tiles = [
        (f"{figures['mouth_psnr_db']:.1f} dB", "mouth: PSNR against the teacher, held-out talking motion"),
        (f"{figures['eyes_psnr_db']:.1f} dB", "eyes, likewise"),
        *(
            (f"{100 * figures[f'{part}_followed']:.0f} %", f"of the teacher's motion of {part} followed")
            for part in ("lips", "lids", "gaze")
            if f"{part}_followed" in figures
        ),
        (f"{100 * least.drawn:.0f} %", f"of “{least.expression}” drawn, the least of all expressions"),
        (f"{figures['psnr_db']:.1f} dB", "whole frames, most of them background"),
        (f"{figures['extreme_psnr_db']:.1f} dB", "whole frames at the extremes of pose and expression"),
        (f"{figures['ssim']:.3f}", "SSIM, whole frames"),
        (f"{figures['energy_ratio']:.2f}", "sharpness: energy of student / teacher"),
        (f"{manifest.gflops:.2f} GFLOPs", f"a frame of 512 × 512 ({manifest.gmacs:.2f} GMACs)"),
        (f"{manifest.parameters / 1e6:.2f} M", "parameters"),
        (f"{size / 1e6:.1f} MB", "the whole bundle"),
    ]
    if "driver_psnr_db" in figures:
        tiles.append((f"{figures['driver_psnr_db']:.1f} dB", "frames by the driver against the teacher's keypoints"))
    parts = [
        f"<h1>{html.escape(manifest.name)}</h1>",
        f'<p class="lead">A talking avatar from one photo; teacher: {html.escape(manifest.teacher)}. '
        f"Made in {seconds / 60:.1f} minutes with {html.escape(manifest.created_with)}.</p>",
        '<div class="figures">'
        + "".join(f"<div><b>{value}</b><span>{html.escape(what)}</span></div>" for value, what in tiles)
        + "</div>",
    ]
    if notes:
        parts.append("<ul>" + "".join(f"<li>{html.escape(note)}</li>" for note in notes) + "</ul>")
    parts += ["<h2>Poses: teacher above, student below</h2>", '<div class="sheet">']
    for pose, taught, made in zip(sheet.poses, sheet.teacher, sheet.student, strict=True):
        parts.append(_figure(np.concatenate([_small(taught), _small(made)]), pose))
    parts.append("</div>")
    parts += [
        "<h2>Mouth and eyes: teacher above, student below</h2>",
        _figure(sheet.closeups, "each expression at several head poses, enlarged"),
        "<p>What the student draws of its teacher's change inside the mouth and eyes: 100 % is all of it, at its "
        "place; 0 % is nothing, or as much wrong as right.</p>",
        _table(
            ("expression", "in", "drawn", "at the worst pose", "followed", "floor", "verdict"),
            (
                (
                    row.expression,
                    row.part,
                    *(f"{100 * share:.0f} %" for share in (row.drawn, row.worst, row.followed)),
                    f"{100 * row.floor:.0f} %" if row.floor > 0 else "–",
                    "BELOW ITS FLOOR" if not row.passed else "passed" if row.floor > 0 else "–",
                )
                for row in sorted(manifest.expressions, key=lambda row: row.drawn)
            ),
        ),
    ]
    features = ("lip_opening", "mouth_width", "lid_opening", "gaze")
    off = [f"{name.replace('_', ' ')} {figures[name]:.1f} %" for name in features if name in figures]
    if off:
        parts.append(
            "<p>Held-out talking motion, as landmarks found in the student's frames and in the teacher's: "
            f"{', '.join(off)} of the distance between the eyes apart, on average.</p>"
        )
    captions = ("teacher", "student", "difference × 8")
    parts += ["<h2>The worst of the held-out frames looked at</h2>", '<div class="wide">']
    pictures = (*sheet.worst, _difference(*sheet.worst))
    parts += [_figure(frame, caption) for frame, caption in zip(pictures, captions, strict=True)]
    parts += ["</div>", "<h2>The frames that 8 bits draw worst</h2>"]
    for caption, whole, coarse in sheet.coarsest:
        pictures = (whole, coarse, _difference(whole, coarse))
        captions = ("full precision", caption, "difference × 8")
        shown = [_figure(frame, text) for frame, text in zip(pictures, captions, strict=True)]
        parts += ['<div class="wide">', *shown, "</div>"]
    parts += ["<h2>Training</h2>", _curves(history)]

    parts.append("<h2>Parity with the trained student</h2>")
    parts.append(
        _table(
            ("runtime", "precision", "engine", "mean dB", "worst frame dB", "required dB", "frames"),
            (
                (
                    r.runtime,
                    r.precision,
                    r.engine,
                    f"{r.mean_db:.1f}",
                    f"{r.worst_db:.1f}",
                    f"{r.required_db:.0f}",
                    r.frames,
                )
                for r in manifest.parity
            ),
        )
    )
    parts.append("<p>Golden frames of the finished bundle, read back and drawn again:</p>")
    parts.append(
        _table(
            ("runtime", "precision", "engine", "mean dB", "worst frame dB", "verdict"),
            (
                (
                    r.runtime,
                    r.precision,
                    r.engine,
                    f"{r.mean_db:.1f}",
                    f"{r.worst_db:.1f}",
                    "passed" if r.passed else "FAILED",
                )
                for r in verdict.rows
            ),
        )
    )
    parts.append("<h2>Latency on this machine</h2>")
    parts.append(f"<p>{html.escape(speed.machine)}</p>")
    parts.append(
        _table(
            (
                *("runtime", "precision", "threads", "median ms", "p90 ms", "min ms", "fps"),
                *("GFLOP/s", "of GEMM peak", "peak MB"),
            ),
            (
                (
                    r.runtime,
                    r.precision,
                    r.threads,
                    *(f"{ms:.1f}" for ms in (r.median_ms, r.p90_ms, r.min_ms)),
                    f"{1000 / r.median_ms:.0f}",
                    f"{r.gflops_per_s:.0f}",
                    f"{100 * r.share_of_peak:.0f} %",
                    f"{r.peak_rss_mb:.0f}",
                )
                for r in speed.rows
            ),
        )
    )
    parts.append("<h2>Files</h2>")
    parts.append(
        _table(
            ("file", "kB"),
            ((name, f"{entry.bytes / 1000:.1f}") for name, entry in sorted(manifest.files.items())),
        )
    )
    parts.append(
        f"<footer><p>{html.escape(manifest.synthetic_media)}</p><p>{html.escape(manifest.consent)}</p></footer>"
    )
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(manifest.name)} · SuperFace</title><style>{_STYLE}</style>"
        f"<body>{''.join(parts)}</body></html>"
    )
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(page, encoding="utf-8")
    os.replace(temporary, path)


def _difference(one: Frames, other: Frames) -> Frames:
    """Where two frames differ, eight times as strong."""
    difference: Frames = np.abs(one.astype(np.int16) - other).clip(0, 31).astype(np.uint8) * np.uint8(8)
    return difference


def _small(image: Frames) -> Frames:
    return np.asarray(Image.fromarray(image).resize((256, 256), Image.Resampling.LANCZOS))


def _figure(image: Frames, caption: str) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=88)
    data = base64.b64encode(buffer.getvalue()).decode()
    text = html.escape(caption)
    picture = f'<img alt="{text}" src="data:image/jpeg;base64,{data}">'
    return f"<figure>{picture}<figcaption>{text}</figcaption></figure>"


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    cells = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(value))}</td>" for value in row) + "</tr>" for row in rows)
    return f"<table><tr>{cells}</tr>{body}</table>"


def _curves(history: Sequence[dict[str, Any]]) -> str:
    """Loss of each stage (log scale), and PSNR of mouth and eyes, over training time, as one SVG."""
    width, height, left, bottom, top = 1000, 300, 56, 34, 16
    points = {
        stage: [
            (row["seconds"], row["loss"]) for row in history if row.get("stage") == stage and row.get("loss", 0) > 0
        ]
        for stage in ("motion", "frames")
    }
    looks = {
        part: [(row["seconds"], row[f"{part}_psnr_db"]) for row in history if f"{part}_psnr_db" in row]
        for part in ("mouth", "eyes")
    }
    decibels = [point for values in looks.values() for point in values]
    everything = [point for stage in points.values() for point in stage]
    if len(everything) < 2:
        return "<p>Too short a run for curves.</p>"
    longest = float(max(t for t, _ in everything + decibels))

    def x(seconds: float) -> float:
        return left + (width - left - 56) * seconds / max(longest, 1e-6)

    def line(values: Sequence[tuple[float, float]], colour: str, low: float, high: float) -> str:
        span = max(high - low, 1e-6)
        path = " ".join(f"{x(t):.1f},{top + (height - top - bottom) * (1 - (v - low) / span):.1f}" for t, v in values)
        return f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{path}"/>'

    def text(at_x: float, at_y: float, words: str, colour: str = "currentColor", anchor: str = "start") -> str:
        look = f'font-size="13" fill="{colour}" text-anchor="{anchor}"'
        return f'<text x="{at_x}" y="{at_y}" {look}>{words}</text>'

    parts = [f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="training curves">']
    for (stage, values), colour in zip(points.items(), ("#c2703d", "#3d7ac2"), strict=True):
        if len(values) > 1:
            logs = [(t, float(np.log10(v))) for t, v in values]
            low, high = min(v for _, v in logs), max(v for _, v in logs)
            parts.append(line(logs, colour, low, high))
            middle = x(float(np.mean([t for t, _ in values])))
            parts.append(
                text(
                    middle,
                    top + 14,
                    f"{stage} loss {10**high:.3g} → {10 ** logs[-1][1]:.3g}",
                    colour,
                    "middle",
                )
            )
    if len(decibels) > 2:
        low, high = min(v for _, v in decibels), max(v for _, v in decibels)
        for row, ((part, values), colour) in enumerate(zip(looks.items(), ("#3da35d", "#9a63c9"), strict=True)):
            parts.append(line(values, colour, low, high))
            what = f"{part} {values[0][1]:.1f} → {values[-1][1]:.1f} dB"
            parts.append(text(width - 8, height - bottom - 6 - 18 * row, what, colour, "end"))
    for share in (0, 0.25, 0.5, 0.75, 1):
        parts.append(text(x(share * longest), height - 10, f"{share * longest:.0f} s", anchor="middle"))
    return "".join(parts) + "</svg><p>Each loss on its own logarithmic scale.</p>"
