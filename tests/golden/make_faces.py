"""Landmarks of two public-domain portraits, as tests use them: `python tests/golden/make_faces.py`.

Writes faces.f32: float32 [2, 478, 3], little-endian, crop coordinates: grace_hopper (ships with matplotlib),
then astronaut (ships with scikit-image).
"""

import tempfile
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image
from skimage import data

from edge.driving.landmarks import read_portrait


def main() -> None:
    """Detect both faces and write their landmarks beside this file."""
    with tempfile.TemporaryDirectory() as folder:
        astronaut = Path(folder) / "astronaut.png"
        Image.fromarray(data.astronaut()).save(astronaut)
        photos = [Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg", astronaut]
        faces = np.stack([read_portrait(photo).landmarks for photo in photos])
    faces.astype("<f4").tofile(Path(__file__).with_name("faces.f32"))


if __name__ == "__main__":
    main()
