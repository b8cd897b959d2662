"""Three frames of the mesh teacher, which a test compares: `python tests/golden/make_frames.py`.

Frames of a run are kept for the teacher's version, so a teacher that draws otherwise counts its version up
(training/teachers/mesh.py), and then this writes `mesh_VERSION.png` and `mesh_VERSION.f32` anew. Look at the picture.
"""

from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image

from edge.driving.procedural import showcase
from edge.preprocess import Crop, crop_image, load_image
from training.teachers.mesh import VERSION, MeshTeacher

HERE = Path(__file__).parent
POSES = ("yaw +30", "wide open", "blink")


def draw() -> tuple[np.ndarray, np.ndarray]:
    """grace_hopper in three poses: uint8 [128, 384, 3], and what the student learns motion from, float32.

    Neither crop nor landmarks depend on the landmark model that is at hand.
    """
    photo = load_image(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg")
    image = crop_image(photo, Crop(x=37.565, y=0.0, size=449.773))
    face = np.fromfile(HERE / "faces.f32", "<f4").reshape(2, 478, 3)[0]
    teacher = MeshTeacher()
    identity = teacher.prepare(torch.from_numpy(image).permute(2, 0, 1).float() / 255, torch.from_numpy(face))
    known, landmarks = showcase(face)
    made = teacher.render(
        identity, torch.from_numpy(landmarks[[known.index(pose) for pose in POSES]].astype(np.float32))
    )
    small = torch.nn.functional.avg_pool2d(made.frames, 4).mul(255).round().byte()
    motion = [made.keypoints.mean(1), made.motion_field[:, ::16, ::16], made.occlusion[:, :, ::16, ::16]]
    return torch.cat(list(small), 2).permute(1, 2, 0).numpy(), torch.cat([part.flatten() for part in motion]).numpy()


if __name__ == "__main__":
    frames, motion = draw()
    Image.fromarray(frames).save(HERE / f"mesh_{VERSION}.png", optimize=True)
    motion.astype("<f4").tofile(HERE / f"mesh_{VERSION}.f32")
