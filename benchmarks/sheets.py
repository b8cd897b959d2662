"""Would you show it to the person in it? `python benchmarks/sheets.py --portraits DIR`.

Draws each portrait in sixteen poses at full size, and below them its eyes and mouth enlarged: the teacher's frames, and
a student's below them where `--students` names a folder that benchmarks/people.py trained in. To be looked at, before
and after a change.

    OUTPUT/NAME.png    poses, four a row;    OUTPUT/NAME_near.png    eyes and mouths

    python benchmarks/sheets.py --portraits DIR --people x y z -o sheets
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from people import STEPS, Task, material, people
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from edge.__main__ import run_safely
from edge.driving.procedural import Controls, pose_face
from edge.errors import InputError
from edge.spec import NETWORK
from edge.topology import LOCAL
from training.checkpoint import load_student
from training.config import DistilConfig
from training.measures.expressions import BOXES, EXPRESSIONS, Part, cut_closeup

POSES: dict[str, dict[str, float]] = {
    "neutral": {}, "yaw -30": {"yaw_deg": -30}, "yaw +30": {"yaw_deg": 30}, "pitch -20": {"pitch_deg": -20},
    "pitch +20": {"pitch_deg": 20}, "blink": EXPRESSIONS["blink"].controls,
    "half lids": EXPRESSIONS["half lids"].controls, "wide open": EXPRESSIONS["wide open"].controls,
    "smile, teeth": EXPRESSIONS["teeth"].controls,
    "ee": {"stretch": 0.8, "jaw_open": 0.15, "lower_lip_down": 0.4, "upper_lip_up": 0.25},
    "oh": {"funnel": 0.8, "pucker": 0.4, "jaw_open": 0.3}, "ah": EXPRESSIONS["ah"].controls,
    "gaze left": {"gaze_x": -1}, "gaze right": {"gaze_x": 1}, "gaze up": {"gaze_y": -1}, "gaze down": {"gaze_y": 1},
}  # fmt: skip
NEAR: dict[Part, tuple[str, ...]] = {
    "eyes": ("neutral", "blink", "half lids", "gaze left", "gaze right", "gaze up", "gaze down", "yaw +30"),
    "mouth": ("neutral", "wide open", "smile, teeth", "ee", "oh", "ah", "yaw -30", "yaw +30"),
}
ACROSS = 4
"""Tiles a row."""
HIGH: dict[Part, int] = {"eyes": 200, "mouth": 340}
"""Pixels of an enlarged part, which is as wide as a frame."""


def frames_of(photo: Path, student: Path | None) -> tuple[list[list[np.ndarray]], np.ndarray]:
    """Frames uint8 [512, 512, 3] of all poses, the teacher's and then the student's, and local landmarks [T, M, 2]."""
    ready = material(photo, frames=25)  # no track is drawn
    poses = [Controls.rest(1, **pose) for pose in POSES.values()]
    controls = Controls(*(np.concatenate(column) for column in zip(*poses, strict=True)))
    landmarks = torch.from_numpy(pose_face(ready.identity.source_landmarks.numpy(), controls))
    rendering = ready.teacher.render(ready.identity, landmarks)
    local = landmarks[:, torch.from_numpy(LOCAL), :2]
    made = [rendering.frames]
    if student:
        network, _ = load_student(student)
        with torch.no_grad():
            pairs = zip(rendering.keypoints[..., :2].split(1), local.split(1), strict=True)
            made.append(torch.cat([network(keypoints, points) for keypoints, points in pairs]))
    pictures = [list((frames * 255).round().byte().permute(0, 2, 3, 1).numpy()) for frames in made]
    return pictures, local.numpy()


def draw_poses(rows: list[list[np.ndarray]]) -> Image.Image:
    """All poses at full size."""
    high = len(rows) * NETWORK
    sheet = Image.new("RGB", (ACROSS * NETWORK, -(-len(POSES) // ACROSS) * high))
    write, font = ImageDraw.Draw(sheet), ImageFont.load_default(18)
    for at, name in enumerate(POSES):
        x, y = at % ACROSS * NETWORK, at // ACROSS * high
        for row, frames in enumerate(rows):
            sheet.paste(Image.fromarray(frames[at]), (x, y + row * NETWORK))
        write.text((x + 8, y + 6), name, font=font, fill=(255, 255, 0), stroke_width=2, stroke_fill=(0, 0, 0))
    return sheet


def draw_near(rows: list[list[np.ndarray]], local: np.ndarray) -> Image.Image:
    """Eyes and mouths, enlarged alike."""
    points = (torch.from_numpy(local) + 1) * ((NETWORK - 1) / 2)
    order = list(POSES)
    heights = [HIGH[part] * len(rows) * -(-len(names) // ACROSS) for part, names in NEAR.items()]
    sheet = Image.new("RGB", (ACROSS * NETWORK, sum(heights)))
    y = 0
    for part, names in NEAR.items():
        box = points[0, torch.cat(BOXES[part]), 0]
        wide = (1.2 if part == "eyes" else 1.7) * float(box.amax() - box.amin())
        for start in range(0, len(names), ACROSS):
            for frames in rows:
                for column, name in enumerate(names[start : start + ACROSS]):
                    at = order.index(name)
                    picture, size = Image.fromarray(frames[at]), (NETWORK, HIGH[part])
                    tile = cut_closeup(picture, points[at], part, wide=wide, size=size)
                    sheet.paste(tile, (column * NETWORK, y))
                y += HIGH[part]
    return sheet


def main() -> int:
    """Draw the sheets; exit code 0."""
    parser = argparse.ArgumentParser(
        description=str(__doc__).split("\n")[0], epilog=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--people", nargs="+", default=(), metavar="NAME", help="only these portraits (default: all)")
    parser.add_argument("--portraits", type=Path, metavar="DIR", help="a folder of more photos, one face each")
    parser.add_argument("--students", type=Path, metavar="WORK", help="a folder that benchmarks/faces.py trained in")
    parser.add_argument("--steps", type=int, default=STEPS, help="of those students (default: %(default)s)")
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/sheets"), help="default: %(default)s")
    arguments = parser.parse_args()
    chosen = people(arguments.portraits, arguments.people)
    arguments.output.mkdir(parents=True, exist_ok=True)
    for name, photo in tqdm(chosen.items(), unit="portrait"):
        student = None
        if arguments.students:
            config = DistilConfig(minutes=None, steps=arguments.steps)
            student = Task(name, photo, arguments.students, config).student()
            if not student.is_file():
                raise InputError(f"There is no student {student}. benchmarks/people.py trains it.")
        rows, local = frames_of(photo, student)
        draw_poses(rows).save(arguments.output / f"{name}.png")
        draw_near(rows, local).save(arguments.output / f"{name}_near.png")
    return 0


if __name__ == "__main__":
    sys.exit(run_safely(main))
