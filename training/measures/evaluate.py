"""Teachers compared on clips that training left out (paper Sec. 4.2).

The same person back, another person's motion, and sources that are blurred, compressed, small or noisy.

Measures, each named in the result only where what it needs is at hand:

    l1              mean absolute difference to the driving frame, 0..1
    lpips           LPIPS (AlexNet), which no loss uses
    akd             mean distance of the 478 landmarks that MediaPipe finds, in pixels of 256
    hpd             mean of yaw, pitch and roll between those landmarks and the ones asked for, degrees
    csim            cosine of ArcFace embeddings, made frame against source
    energy          sharpness of made frames / that of driving frames (or, degraded, of what a clean source gives)
    lost            share of made frames in which MediaPipe finds no face
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from edge.driving.landmarks import Landmarker
from edge.errors import InputError
from edge.motion import Retargeter, fit_similarity, head_angles
from edge.preprocess import Crop, to_crop
from edge.spec import CROP
from training.checkpoint import write_text
from training.measures.evaluators import load_identity, load_lpips
from training.measures.metrics import energy
from training.phi.augment import filter_each, jpeg
from training.phi.shards import Clips
from training.teachers import Teacher

LOOK = 256
"""Width and height at which frames are compared."""
FRAMES = 16
"""Driving frames of a clip, spread evenly; its first frame is the source."""


class Clip(NamedTuple):
    """A left-out clip."""

    name: str
    images: torch.Tensor
    """float32 [T, 3, 512, 512] in 0..1."""
    landmarks: torch.Tensor
    """float32 [T, 478, 3]."""


def read_clip(clips: Clips, index: int, *, frames: int = FRAMES) -> Clip:
    """A clip's first frame and `frames` more, spread evenly."""
    rows = np.unique(np.linspace(0, clips.length(index) - 1, frames + 1).round().astype(int))
    images = torch.stack([clips.frame(index, int(row)) for row in rows]).float() / 255
    landmarks = torch.from_numpy(clips.landmarks(index)[rows].copy())
    return Clip(clips.keys[index], images, landmarks)


def animate(teacher: Teacher, source: Clip, landmarks: torch.Tensor, images: torch.Tensor | None) -> torch.Tensor:
    """A clip's first frame animated: by driving images where there are such and the teacher looks at them."""
    return teacher.render(teacher.prepare(source.images[0], source.landmarks[0]), landmarks, images).frames


class Judge:
    """The measures; networks that are not at hand leave theirs out."""

    def __init__(self, landmarker: Landmarker) -> None:
        self.landmarker = landmarker
        self.lpips = load_lpips(torch.device("cpu"))
        self.identity = load_identity(torch.device("cpu"))

    @torch.no_grad()
    def compare(
        self, made: torch.Tensor, wanted: torch.Tensor, landmarks: torch.Tensor, source: Clip
    ) -> dict[str, float]:
        """Made frames against the driving frames of the same person, all [N, 3, 512, 512]; landmarks [N, 478, 3]."""
        small, aim = _look(made), _look(wanted)
        result = {"l1": float((small - aim).abs().mean()), "energy": _ratio(small, aim)}
        if self.lpips:
            result["lpips"] = float(self.lpips.distance(small, aim).mean())
        return result | self.motion(made, landmarks, source)

    @torch.no_grad()
    def motion(self, made: torch.Tensor, landmarks: torch.Tensor, source: Clip) -> dict[str, float]:
        """Landmarks and pose of made frames against those asked for, and likeness to the source."""
        found = [self._find(frame) for frame in made]
        seen = [row for row, points in enumerate(found) if points is not None]
        result = {"lost": 1 - len(seen) / len(found)}
        if not seen:
            return result
        points, asked = np.stack([found[row] for row in seen]), landmarks[seen].numpy()
        result["akd"] = float(np.linalg.norm((points - asked)[..., :2], axis=-1).mean() * (LOOK / 2))
        result["hpd"] = float(
            np.mean([pose_distance(face, reference) for face, reference in zip(points, asked, strict=True)])
        )
        if self.identity:
            mine = self.identity(made[seen], torch.from_numpy(points))
            theirs = self.identity(source.images[:1], source.landmarks[:1])
            result["csim"] = float((mine @ theirs.T).mean())
        return result

    def _find(self, frame: torch.Tensor) -> np.ndarray | None:
        picture = (frame.permute(1, 2, 0).clamp(0, 1) * 255).round().byte().numpy()
        faces = self.landmarker.detect(np.ascontiguousarray(picture))
        return to_crop(faces[0], Crop(0.0, 0.0, float(CROP))) if faces else None


def pose_distance(face: np.ndarray, reference: np.ndarray) -> float:
    """How far two heads are turned apart: the mean of yaw, pitch and roll from one to the other, in degrees.

    Fitted to the points that expressions leave alone: a jaw that drops turns no head.

    Args:
        face: float [478, 3].
        reference: float [478, 3], the same person.
    """
    return float(np.abs(head_angles(fit_similarity(face, reference=reference).rotation)).mean())


def _look(frames: torch.Tensor) -> torch.Tensor:
    return F.interpolate(frames, (LOOK, LOOK), mode="area").clamp(0, 1)


def _ratio(made: torch.Tensor, reference: torch.Tensor) -> float:
    """Energy of made frames / that of the reference; of frames without any edge, 0."""
    return float(energy(made).sum() / energy(reference).sum().clamp(min=1e-6))


def degradations(images: torch.Tensor) -> dict[str, torch.Tensor]:
    """A source [1, 3, 512, 512] made worse in four ways, each by itself."""
    axis = torch.arange(21.0) - 10
    bell = torch.exp(-(axis**2) / (2 * 4.0**2))
    kernel = (bell[:, None] * bell / bell.sum() ** 2)[None]
    quarter = F.interpolate(images, scale_factor=0.25, mode="area")
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0)) * (25 / 255)
    return {
        "blur": filter_each(images, kernel),
        "jpeg 10": jpeg(images, torch.tensor([10.0])),
        "a quarter": F.interpolate(quarter, images.shape[-2:], mode="bicubic", align_corners=False).clamp(0, 1),
        "noise": (images + noise).clamp(0, 1),
    }


def evaluate_teachers(
    teachers: dict[str, Teacher], shards: Path, names: Sequence[str], output: Path, *, frames: int = FRAMES
) -> dict[str, Any]:
    """Every teacher on left-out clips; figures in `evaluation.json`, pictures in `same.png`, `cross.png`, `robust.png`.

    Args:
        teachers: by the name that the tables show.
        shards: where the clips lie.
        names: the clips (`Clips.keys` before `__`) that no teacher was trained on.
        output: folder, created if need be.
        frames: driving frames of each clip.

    Returns:
        `{"same": {teacher: {measure: mean}}, "cross": …, "robust": {teacher: {degradation: …}}, "clips": names}`.

    Raises:
        InputError: when none of the clips is there.
    """
    found = Clips(shards, size=CROP, only=names)
    clips = [read_clip(found, index, frames=frames) for index in range(len(found.keys))]
    if missing := sorted(set(names) - {clip.name.split("__")[0] for clip in clips}):
        raise InputError(f"{shards} holds no clip named {', '.join(missing)}.")
    output.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"clips": [clip.name for clip in clips], "same": {}, "cross": {}, "robust": {}}
    same = {name: [] for name in ("source", "driving", *teachers)}
    cross = {name: [] for name in ("source", "driving", *teachers)}
    robust: dict[str, list[torch.Tensor]] = {}
    with Landmarker() as landmarker:
        judge = Judge(landmarker)
        for name, teacher in teachers.items():
            rows, crossed, worse = [], [], []
            for index, clip in enumerate(clips):
                made = animate(teacher, clip, clip.landmarks[1:], clip.images[1:])
                rows.append(judge.compare(made, clip.images[1:], clip.landmarks[1:], clip))
                same[name].append(made[len(made) // 2])

                driver = clips[(index + 1) % len(clips)]
                retarget = Retargeter(
                    source_landmarks=clip.landmarks[0].numpy(), driving_neutral=driver.landmarks[0].numpy()
                )
                moved = torch.from_numpy(retarget(driver.landmarks[1:].numpy()).astype(np.float32))
                borrowed = animate(teacher, clip, moved, None)
                crossed.append(judge.motion(borrowed, moved, clip))
                cross[name].append(borrowed[len(borrowed) // 2])

                if index == 0:
                    clean, pictures = made[:4], [made[0]]
                    for kind, image in degradations(clip.images[:1]).items():
                        source = clip._replace(images=torch.cat([image, clip.images[1:]]))
                        bad = animate(teacher, source, clip.landmarks[1:5], clip.images[1:5])
                        pictures.append(bad[0])
                        ratio = _ratio(_look(bad), _look(clean))
                        likeness = judge.motion(bad, clip.landmarks[1:5], clip).get("csim")
                        worse.append((kind, {"energy": ratio} | ({"csim": likeness} if likeness is not None else {})))
                    robust[name] = pictures
            result["same"][name], result["cross"][name] = _mean(rows), _mean(crossed)
            result["robust"][name] = dict(worse)
    for index, clip in enumerate(clips):
        same["source"].append(clip.images[0])
        same["driving"].append(clip.images[1:][(len(clip.images) - 1) // 2])
        cross["source"].append(clip.images[0])
        other = clips[(index + 1) % len(clips)].images[1:]
        cross["driving"].append(other[len(other) // 2])
    for file, table in (("same", same), ("cross", cross), ("robust", robust)):
        _sheet(list(table.values()), output / f"{file}.png")
    write_text(output / "evaluation.json", json.dumps(result, indent=1))
    return result


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    names = {name for row in rows for name in row}
    return {name: round(float(np.mean([row[name] for row in rows if name in row])), 4) for name in sorted(names)}


def _sheet(rows: list[list[torch.Tensor]], path: Path) -> None:
    """Pictures [3, H, W], a row a list, as one PNG of tiles of 256 px."""
    tiles = [torch.cat([_look(picture[None])[0] for picture in row], 2) for row in rows if row]
    picture = (torch.cat(tiles, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(picture).save(path)


def table(result: dict[str, Any]) -> str:
    """The figures for reading."""
    lines = []
    for part, title in (("same", "the same person back"), ("cross", "another person's motion")):
        measures = sorted({name for row in result[part].values() for name in row})
        lines.append(f"{title:26}" + "".join(f"{name:>9}" for name in measures))
        for name, row in result[part].items():
            lines.append(f"  {name:24}" + "".join(f"{row[m]:9.4f}" if m in row else f"{'–':>9}" for m in measures))
    for name, rows in result["robust"].items():
        kinds = ", ".join(
            f"{kind}: energy {row['energy']:.2f}" + (f", csim {row['csim']:.2f}" if "csim" in row else "")
            for kind, row in rows.items()
        )
        lines.append(f"degraded source, {name}: {kinds}")
    return "\n".join(lines)
