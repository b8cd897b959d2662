"""Clips → training shards: one fixed face crop a clip, landmarks, JPEG frames, and a card of what was kept and why.

Every clip is prepared by itself into a small file of its own, in as many processes as asked for; shards are put
together from these in the order of the input. Whatever is whole when the command is killed is used when it is given
again. Memory does not grow with the number of clips.
"""

import csv
import hashlib
import io
import json
import multiprocessing
import os
import re
import shutil
import sys
import tarfile
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from tqdm import tqdm

from edge.driving.landmarks import Landmarker, read_portrait
from edge.driving.procedural import procedural_track, train_seed
from edge.driving.track import MOST_FACES, track_clip
from edge.driving.video import Clip, read_video
from edge.errors import InputError, SuperFaceError
from edge.preprocess import Crop, crop_image
from edge.spec import CROP
from training.checkpoint import write_text
from training.phi.shards import ClipFrames, write_clip, write_shard

ENDINGS = {".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v"}
PICTURES = {".jpg", ".jpeg", ".png", ".webp"}
POSES = 60
"""Most frames of a photo that the mesh teacher poses."""
SHARD_BYTES = 48 * 2**20
SHORTEST_FRAMES = 15
MOST_ENLARGED = 1.7
"""A crop that must be enlarged by more than this is too small."""
LEAST_SEEN = 0.9
"""Share of frames in which the face was found."""
LEAST_DETAIL = 3.0
"""Mean absolute Laplacian of the face in grey levels at 256 px, under which a clip is blurred."""


class Source(NamedTuple):
    """One clip to prepare."""

    path: Path
    key: str
    span: tuple[float, float] | None = None
    """Seconds from and to."""
    box: tuple[float, float, float, float] | None = None
    """Top, bottom, left and right as shares of the picture."""
    licence: str = "not stated"
    photo: bool = False
    """A photo, which the mesh teacher poses."""


class Verdict(NamedTuple):
    """What became of a clip."""

    key: str
    source: str
    licence: str
    frames: int = 0
    """0: rejected."""
    reason: str = ""
    enlarged: float = 0.0
    seconds: float = 0.0


class Settings(NamedTuple):
    """How clips are prepared; shards of other settings are made anew."""

    size: int = 256
    max_fps: float = 25.0
    frames: int = 300
    """Most frames of a clip, spread evenly: more of one face teach little."""
    quality: int = 92
    """Of the JPEGs."""


def find_sources(
    videos: Sequence[Path],
    listing: Path | None = None,
    licences: Path | None = None,
    photos: Sequence[Path] = (),
) -> list[Source]:
    """The clips in files and folders, or those of a listing, and photos.

    Args:
        videos: files, or folders that are searched through.
        listing: JSON in the layout of CelebV-HQ: `clips: {KEY: {ytb_id, duration: {start_sec, end_sec}, bbox: {top,
            bottom, left, right}}}`, boxes as shares of the picture; videos are named by `ytb_id` or the clip's key.
        licences: CSV with the columns `file` and `licence`, for the card.
        photos: files and folders of portraits, which the mesh teacher poses: many more faces to start a training with.

    Raises:
        InputError: when nothing is found, or the listing cannot be read.
    """
    found, pictures = _files(videos, ENDINGS), _files(photos, PICTURES)
    if not found and not pictures:
        raise InputError(f"There is no video ({', '.join(sorted(ENDINGS))}) in {', '.join(map(str, videos))}.")
    stated = _read_licences(licences)
    posed = [
        Source(path, f"posed-{key}", licence=stated.get(path.name, "not stated"), photo=True)
        for path, key in zip(pictures, _unique([_key(path.stem) for path in pictures]), strict=True)
    ]
    if listing is None:
        keys = _unique([_key(path.stem) for path in found])
        clips = [Source(p, key, licence=stated.get(p.name, "not stated")) for p, key in zip(found, keys, strict=True)]
        return clips + posed
    by_name = {path.stem: path for path in found}
    try:
        clips = json.loads(listing.read_text())["clips"]
        sources = []
        for key, clip in sorted(clips.items()):
            path = by_name.get(key) or by_name.get(str(clip["ytb_id"]))
            if path is None:
                continue
            whole = path.stem == key  # already cut out
            duration, box = clip["duration"], clip["bbox"]
            sources.append(
                Source(
                    path,
                    _key(key),
                    None if whole else (float(duration["start_sec"]), float(duration["end_sec"])),
                    None if whole else tuple(float(box[side]) for side in ("top", "bottom", "left", "right")),
                    stated.get(path.name, "not stated"),
                )
            )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{listing} is no listing of clips in CelebV-HQ's layout ({error!r}).") from error
    if not sources:
        raise InputError(f"None of the {len(clips)} clips in {listing} is among the {len(found)} videos.")
    return sources + posed


def _files(paths: Sequence[Path], endings: set[str]) -> list[Path]:
    """Files as they are given, and those of these endings in folders."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(p for p in path.rglob("*") if p.suffix.lower() in endings)
        elif path.is_file():
            found.append(path)
        else:
            raise InputError(f"There is no video or folder {path}. Check the path.")
    return found


def _key(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name)[:100] or "clip"


def _unique(keys: list[str]) -> list[str]:
    seen: Counter[str] = Counter()
    unique = []
    for key in keys:
        seen[key] += 1
        unique.append(key if seen[key] == 1 else f"{key}__{seen[key]}")
    return unique


def _read_licences(path: Path | None) -> dict[str, str]:
    if path is None:
        return {}
    try:
        with path.open(newline="") as file:
            rows = csv.DictReader(file)
            if not {"file", "licence"} <= set(rows.fieldnames or ()):
                raise KeyError("file, licence")
            return {Path(row["file"]).name: row["licence"] for row in rows}
    except (OSError, KeyError, csv.Error) as error:
        raise InputError(f"{path} is no CSV with the columns file and licence ({error!r}).") from error


def _open(source: Source, settings: Settings) -> Clip:
    clip = read_video(source.path, max_fps=settings.max_fps, span=source.span)
    if source.box:
        clip.frames = (_boxed(image, source.box) for image in clip.frames)
    return clip


def _boxed(image: np.ndarray, box: tuple[float, float, float, float], margin: float = 0.25) -> np.ndarray:
    """The box with a margin: hair and chin stay in."""
    top, bottom, left, right = box
    high, wide = (bottom - top) * margin, (right - left) * margin
    rows = [round(min(max(value, 0), 1) * image.shape[0]) for value in (top - high, bottom + high)]
    columns = [round(min(max(value, 0), 1) * image.shape[1]) for value in (left - wide, right + wide)]
    part = image[rows[0] : rows[1], columns[0] : columns[1]]
    return np.ascontiguousarray(part) if part.size else image


_landmarker: Landmarker | None = None


def prepare_clip(source: Source, settings: Settings, work: Path) -> Verdict:
    """One clip into `work/KEY.tar`, if it is good enough, with its verdict in `work/KEY.verdict.json`, written last."""
    global _landmarker
    if _landmarker is None:  # one a process, for all its clips
        _landmarker = Landmarker(video=True, max_faces=MOST_FACES)
    begun = time.monotonic()
    about = {"key": source.key, "source": source.path.name, "licence": source.licence}
    try:
        clip, enlarged = _pose(source, settings) if source.photo else _cut(source, settings, _landmarker)
        verdict = Verdict(**about, frames=len(clip.jpegs), enlarged=round(enlarged, 2))
        part = work / f".{source.key}.{os.getpid()}.tmp"
        with tarfile.open(part, "w") as tar:
            write_clip(tar, clip)
        os.replace(part, work / f"{source.key}.tar")
    except _Rejected as reason:
        verdict = Verdict(**about, reason=str(reason))
    except SuperFaceError as error:
        verdict = Verdict(**about, reason=str(error))
    verdict = verdict._replace(seconds=round(time.monotonic() - begun, 2))
    write_text(work / f"{source.key}.verdict.json", json.dumps(verdict._asdict()))
    return verdict


@contextmanager
def _own_landmarker() -> Iterator[None]:
    """Whatever landmarker this process takes for its clips is let go at the end: MediaPipe cannot do so at exit."""
    global _landmarker
    try:
        yield
    finally:
        if _landmarker is not None:
            _landmarker.close()
            _landmarker = None


class _Rejected(Exception):
    """A clip that is whole and not good enough."""


def _cut(source: Source, settings: Settings, landmarker: Landmarker) -> tuple[ClipFrames, float]:
    track = track_clip(_open(source, settings), landmarker=landmarker, progress=False)
    seen = float(track.detected.mean())
    if seen < LEAST_SEEN:
        raise _Rejected(f"face seen in {100 * seen:.0f} % of the frames, {100 * LEAST_SEEN:.0f} % wanted")
    if len(track) < SHORTEST_FRAMES:
        raise _Rejected(f"{len(track)} frames, {SHORTEST_FRAMES} wanted")
    enlarged = _enlarged(track.crop, settings)
    chosen = np.unique(np.linspace(0, len(track) - 1, min(settings.frames, len(track))).round().astype(int))
    first = round(track.start_s * track.fps)
    wanted = {first + int(row) for row in chosen}
    jpegs, details = [], []
    for number, image in enumerate(_open(source, settings)):
        if number not in wanted:
            if number > first + int(chosen[-1]):
                break
            continue
        picture = crop_image(image, track.crop, settings.size)
        if len(jpegs) % 10 == 0:
            details.append(_detail(crop_image(image, track.crop, 256), track.landmarks[number - first]))
        jpegs.append(_jpeg(picture, settings))
    if len(jpegs) != len(chosen):
        raise _Rejected("its frames could not be read twice alike")
    detail = _sharp(float(np.median(details)))
    record = {
        "source": source.path.name,
        "licence": source.licence,
        "fps": track.fps * len(chosen) / len(track),
        "size": settings.size,
        "detail": round(detail, 2),
    }
    return ClipFrames(source.key, record, track.landmarks[chosen], jpegs), enlarged


def _pose(source: Source, settings: Settings) -> tuple[ClipFrames, float]:
    """A photo as a clip: itself first, then in varied poses as the mesh teacher draws it."""
    from training.teachers.mesh import MeshTeacher

    portrait = read_portrait(source.path)
    enlarged = _enlarged(portrait.crop, settings)
    small = crop_image(portrait.image, Crop(0.0, 0.0, float(CROP)), 256)
    _sharp(_detail(small, portrait.landmarks))
    count = min(POSES, settings.frames)
    seed = train_seed(int(hashlib.sha256(source.key.encode()).hexdigest()[:6], 16))
    track = procedural_track(portrait.landmarks, seed=seed, seconds=count / 5, style="training")
    landmarks = np.concatenate([portrait.landmarks[None], track.landmarks[::5][: count - 1]]).astype(np.float32)
    teacher = MeshTeacher()
    image = torch.from_numpy(portrait.image).permute(2, 0, 1).float() / 255
    identity = teacher.prepare(image, torch.from_numpy(portrait.landmarks))
    jpegs = []
    for rows in np.array_split(landmarks, max(1, len(landmarks) // 8)):
        frames = F.interpolate(
            teacher.render(identity, torch.from_numpy(rows)).frames, (settings.size,) * 2, mode="area"
        )
        pictures = (frames.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        jpegs += [_jpeg(picture, settings) for picture in pictures]
    record = {"source": source.path.name, "licence": source.licence, "posed_by": teacher.name, "size": settings.size}
    return ClipFrames(source.key, record, landmarks, jpegs), enlarged


def _enlarged(crop: Crop, settings: Settings) -> float:
    """How much a crop is enlarged; rejected where it is too small."""
    enlarged = settings.size / crop.size
    if enlarged > MOST_ENLARGED:
        raise _Rejected(f"crop of {crop.size:.0f} px, {settings.size / MOST_ENLARGED:.0f} wanted")
    return enlarged


def _sharp(detail: float) -> float:
    """The detail of a face; rejected where it is blurred."""
    if detail < LEAST_DETAIL:
        raise _Rejected(f"blurred: detail {detail:.1f}, {LEAST_DETAIL:g} wanted")
    return detail


def _jpeg(picture: np.ndarray, settings: Settings) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=settings.quality)
    return buffer.getvalue()


def _detail(picture: np.ndarray, landmarks: np.ndarray) -> float:
    """Mean absolute Laplacian inside the face's box, grey levels of a crop of 256 px."""
    grey = np.asarray(Image.fromarray(picture).convert("L"), np.float32)
    low, high = (landmarks[:, :2].min(0), landmarks[:, :2].max(0))
    x0, y0 = np.clip(((low + 1) * 127.5).astype(int), 1, 254)
    x1, y1 = np.clip(((high + 1) * 127.5).astype(int), 2, 255)
    around = grey[y0 - 1 : y1 - 1, x0:x1] + grey[y0 + 1 : y1 + 1, x0:x1]
    around = around + grey[y0:y1, x0 - 1 : x1 - 1] + grey[y0:y1, x0 + 1 : x1 + 1]
    return float(np.abs(4 * grey[y0:y1, x0:x1] - around).mean())


def prepare(
    videos: Sequence[Path],
    output: Path,
    *,
    settings: Settings | None = None,
    listing: Path | None = None,
    licences: Path | None = None,
    photos: Sequence[Path] = (),
    workers: int = 1,
) -> dict[str, Any]:
    """Shards and their card in a folder; what was done before is not done again.

    Args:
        videos: files and folders.
        output: gets `shard-000000.tar` with `.json`, …, `card.json` and `README.md`.
        settings: size and rate of the frames.
        listing: see `find_sources`.
        licences: see `find_sources`.
        photos: see `find_sources`.
        workers: processes.

    Returns:
        The card.

    Raises:
        InputError: when nothing is found, or the folder holds shards of other settings or clips.
    """
    settings = settings or Settings()
    sources = find_sources(videos, listing, licences, photos)
    work = output / "work"
    made_by = {"settings": settings._asdict(), "clips": _digest(sources)}
    state = output / "prepare.json"
    if state.exists() and json.loads(state.read_text()) != json.loads(json.dumps(made_by)):
        raise InputError(f"{output} holds shards of other clips or settings. Choose another folder, or delete it.")
    if (output / "card.json").exists():
        return json.loads((output / "card.json").read_text())
    work.mkdir(parents=True, exist_ok=True)
    write_text(state, json.dumps(made_by))
    begun = time.monotonic()
    fresh = 0
    bar = tqdm(total=len(sources), desc="Preparing", unit=" clips", disable=not sys.stderr.isatty())
    shard, parts, size, counts = 0, [], 0, Counter()
    with _own_landmarker(), bar, (output / ".verdicts.tmp").open("w") as verdicts:
        for number, (verdict, new) in enumerate(_verdicts(sources, settings, work, workers), start=1):
            fresh += new
            bar.update()
            if bar.disable and number % max(1, len(sources) // 10) == 0:
                print(f"preparing: {number}/{len(sources)} clips", file=sys.stderr, flush=True)
            verdicts.write(json.dumps(verdict._asdict()) + "\n")
            counts["frames"] += verdict.frames
            counts["kept" if verdict.frames else "rejected"] += 1
            if verdict.frames:
                parts.append(work / f"{verdict.key}.tar")
                size += _size_of(parts[-1])
            if parts and (size >= SHARD_BYTES or number == len(sources)):
                _finish_shard(output / f"shard-{shard:06d}.tar", parts)
                shard, parts, size = shard + 1, [], 0
    minutes = (time.monotonic() - begun) / 60
    os.replace(output / ".verdicts.tmp", output / "verdicts.jsonl")
    return _write_card(output, counts, shard, settings, fresh / minutes if fresh else None, workers)


def _verdicts(sources: list[Source], settings: Settings, work: Path, workers: int) -> Iterator[tuple[Verdict, bool]]:
    """Verdicts in the order of the sources, and whether each was found now; never more than a few clips ahead."""

    def known(source: Source) -> Verdict | None:
        path = work / f"{source.key}.verdict.json"
        try:
            verdict = Verdict(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            return None
        whole = not verdict.frames or any((work / f"{source.key}{end}").exists() for end in (".tar", ".size"))
        return verdict if whole else None

    if workers <= 1:
        for source in sources:
            verdict = known(source)
            yield (verdict, False) if verdict else (prepare_clip(source, settings, work), True)
        return
    # A fresh interpreter for each: MediaPipe's threads do not survive a fork.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting: deque[Any] = deque()
        for source in sources:
            verdict = known(source)
            waiting.append((verdict, False) if verdict else (pool.submit(prepare_clip, source, settings, work), True))
            while len(waiting) > 4 * workers:
                first, new = waiting.popleft()
                yield (first.result() if new else first), new
        for first, new in waiting:
            yield (first.result() if new else first), new


def _finish_shard(path: Path, parts: list[Path]) -> None:
    """Put a shard together, unless it is; its parts go, and their sizes are remembered for a later start."""
    if not path.with_suffix(".json").exists():
        write_shard(path, parts)
    for part in parts:
        if part.exists():
            write_text(part.with_suffix(".size"), str(part.stat().st_size))
            part.unlink()


def _size_of(part: Path) -> int:
    return part.stat().st_size if part.exists() else int(part.with_suffix(".size").read_text())


def _digest(sources: list[Source]) -> str:
    lines = "\n".join(f"{s.path.name} {s.key} {s.span} {s.box}" for s in sources)
    return hashlib.sha256(lines.encode()).hexdigest()


def _write_card(
    output: Path, counts: Counter[str], shards: int, settings: Settings, clips_a_minute: float | None, workers: int
) -> dict[str, Any]:
    """card.json and README.md: what is in the shards, from where, and what was left out and why."""
    licences: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    kept, rejected = [], []
    with (output / "verdicts.jsonl").open() as lines:
        for line in lines:
            verdict = Verdict(**json.loads(line))
            if verdict.frames:
                licences[verdict.licence] += 1
                kept.append(verdict)
            else:
                reasons[re.sub(r"[0-9.]+", "N", verdict.reason.split(str(verdict.source))[-1])[:80]] += 1
                rejected.append(verdict)
            # The page lists the first few; verdicts.jsonl has all.
            kept, rejected = kept[:200], rejected[:200]
    card = {
        "clips": counts["kept"],
        "rejected": counts["rejected"],
        "frames": counts["frames"],
        "shards": shards,
        "size": settings.size,
        "max_fps": settings.max_fps,
        "licences": dict(licences),
        "reasons": dict(reasons),
        "clips_a_minute": round(clips_a_minute, 1) if clips_a_minute else None,
        "workers": workers,
    }
    rate = f", {card['clips_a_minute']} clips a minute in {workers} processes" if clips_a_minute else ""
    lines_out = [
        "# Training shards",
        "",
        f"{card['clips']} clips, {card['frames']} frames of {settings.size} × {settings.size} pixels in {shards} "
        f"shards{rate}. "
        f"{card['rejected']} clips were left out.",
        "",
        "Faces of people: use them as the licences below and the people shown allow. Weights trained on them say so.",
        "",
        "| licence, as stated | clips |",
        "|---|---|",
        *[f"| {licence} | {count} |" for licence, count in licences.most_common()],
        "",
        "| source | licence | frames | enlarged |",
        "|---|---|---|---|",
        *[f"| {v.source} | {v.licence} | {v.frames} | {v.enlarged:g} |" for v in kept],
        "",
        "| left out | why |",
        "|---|---|",
        *[f"| {v.source} | {v.reason} |" for v in rejected],
        "",
    ]
    for name, text in (("README.md", "\n".join(lines_out)), ("card.json", json.dumps(card, indent=1))):
        write_text(output / name, text)
    shutil.rmtree(output / "work", ignore_errors=True)
    return card
