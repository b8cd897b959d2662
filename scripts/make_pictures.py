"""The README's pictures from a finished run: `python scripts/make_pictures.py runs/grace_hopper`.

Writes docs/pictures/strip.png (poses: teacher above, student below, beside the source) and docs/pictures/preview.gif
(the preview, smaller and slower).
"""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from converters.make import example_photo
from edge.avatar import Avatar
from edge.driving.landmarks import read_portrait
from edge.driving.procedural import showcase
from edge.driving.video import read_video
from training.teachers.load import load_teacher

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
POSES = ("yaw -30", "pitch +20", "blink", "smile, teeth", "oh")
TILE = 168


def main() -> None:
    """Draw both pictures."""
    run = Path(sys.argv[1])
    portrait = read_portrait(example_photo(run.name))
    avatar = Avatar.load(run / f"{run.name}.avatar")
    teacher = load_teacher("mesh")
    image = torch.from_numpy(portrait.image).permute(2, 0, 1).float() / 255
    identity = teacher.prepare(image, torch.from_numpy(portrait.landmarks))
    names, landmarks = showcase(portrait.landmarks)
    poses = landmarks[[names.index(pose) for pose in POSES]].astype(np.float32)
    taught = teacher.render(identity, torch.from_numpy(poses)).frames
    teacher_row = [(frame.permute(1, 2, 0) * 255).round().byte().numpy() for frame in taught]
    student_row = [avatar.animate(pose) for pose in poses]
    rows = [np.concatenate([tile(frame) for frame in row], 1) for row in (teacher_row, student_row)]
    source = tile(portrait.image, 2 * TILE)
    strip = Image.fromarray(np.concatenate([source, np.concatenate(rows)], 1))
    PICTURES.mkdir(parents=True, exist_ok=True)
    strip.quantize(160).save(PICTURES / "strip.png", optimize=True)

    frames = []
    for index, frame in enumerate(read_video(run / "preview.mp4")):
        if index % 3 == 0 and len(frames) < 36:
            small = Image.fromarray(frame).resize((480, 160), Image.Resampling.LANCZOS)
            frames.append(small.quantize(96))
    frames[0].save(
        PICTURES / "preview.gif", save_all=True, append_images=frames[1:], duration=120, loop=0, optimize=True
    )


def tile(image: np.ndarray, size: int = TILE) -> np.ndarray:
    """An image at size × size."""
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.LANCZOS))


if __name__ == "__main__":
    main()
