"""Pictures of a training of Φ for docs/training.md: `python scripts/make_teacher_pictures.py runs/teacher`.

Writes docs/pictures/teacher.png (public-domain portraits, posed by the mesh teacher above and by Φ below) and
docs/pictures/teacher_curves.png (losses over steps, smoothed).
"""

import json
import sys
from pathlib import Path

import matplotlib
import numpy as np
import torch
from make_pictures import PICTURES, tile
from PIL import Image

from converters.make import example_photo
from edge.driving.landmarks import read_portrait
from edge.driving.procedural import showcase
from training.teachers.mesh import MeshTeacher
from training.teachers.superface import SuperFaceTeacher

matplotlib.use("Agg")
import matplotlib.pyplot as plt

PEOPLE = ("grace_hopper", "astronaut")
POSES = ("neutral", "yaw -30", "pitch +20", "blink", "smile, teeth", "oh")
TILE = 160


def main() -> None:
    """Draw both pictures."""
    run = Path(sys.argv[1])
    teachers = (MeshTeacher(), SuperFaceTeacher(run / "teacher.safetensors"))
    rows = []
    for person in PEOPLE:
        portrait = read_portrait(example_photo(person))
        image = torch.from_numpy(portrait.image).permute(2, 0, 1).float() / 255
        landmarks = torch.from_numpy(portrait.landmarks)
        names, poses = showcase(portrait.landmarks)
        wanted = torch.from_numpy(poses[[names.index(pose) for pose in POSES]].astype(np.float32))
        for teacher in teachers:
            frames = teacher.render(teacher.prepare(image, landmarks), wanted).frames
            tiles = [tile(picture, TILE) for picture in (portrait.image, *map(_bytes, frames))]
            rows.append(np.concatenate(tiles, 1))
    Image.fromarray(np.concatenate(rows)).quantize(192).save(PICTURES / "teacher.png", optimize=True)

    lines = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    figure, axes = plt.subplots(1, 3, figsize=(10, 2.6), layout="constrained")
    for axis, (name, title) in zip(
        axes,
        {"perceptual": "perceptual", "reconstruction": "L1", "head_pose": "head pose, degrees"}.items(),
        strict=True,
    ):
        seen = [(line["step"], line[name]) for line in lines if line.get(name)]
        steps, values = np.array(seen).T
        axis.plot(steps, values, color="0.8", linewidth=1)
        axis.plot(steps, _smooth(values), color="tab:blue")
        axis.set(title=title, xlabel="step", ylim=(0, None))
    figure.savefig(PICTURES / "teacher_curves.png", dpi=90)


def _smooth(values: np.ndarray, reach: int = 3) -> np.ndarray:
    padded = np.pad(values, reach, mode="edge")
    return np.convolve(padded, np.ones(2 * reach + 1) / (2 * reach + 1), mode="valid")


def _bytes(frame: torch.Tensor) -> np.ndarray:
    return (frame.permute(1, 2, 0).clamp(0, 1) * 255).round().byte().numpy()


if __name__ == "__main__":
    main()
