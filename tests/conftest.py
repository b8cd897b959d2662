"""What several test files share: the landmark model, the two portraits that dependencies ship."""

import os
from pathlib import Path

if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 0)):  # before torch is imported, here and in children
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))

import numpy as np
import pytest

from edge.errors import MissingRuntimeError

SHARED = Path(__file__).parents[1].parent / "shared"


@pytest.fixture(scope="session")
def landmark_model() -> Path:
    """A landmark model file: the one at hand, or else fetched or assembled once into the user's cache; there the
    segmentation model lies too."""
    pytest.importorskip("mediapipe", reason="mediapipe is not installed")
    from edge.driving.models import find_landmarker, find_segmenter

    official = SHARED / "models" / "face_landmarker.task"
    try:
        find_segmenter(progress=lambda line: None)  # whoever finds a face next makes an avatar of it
        if official.is_file() and "SUPERFACE_LANDMARKER" not in os.environ:
            return official
        return find_landmarker(progress=lambda line: None)
    except MissingRuntimeError as error:
        pytest.skip(f"no model files: {error}")


@pytest.fixture(scope="session")
def portraits() -> dict[str, Path]:
    """Public-domain photos by name: grace_hopper (glasses, cap), astronaut (small face)."""
    matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    skimage = pytest.importorskip("skimage", reason="scikit-image is not installed")
    return {
        "grace_hopper": Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg",
        "astronaut": Path(skimage.__file__).parent / "data" / "astronaut.png",
    }


@pytest.fixture(scope="session")
def faces() -> np.ndarray:
    """Landmarks of the two portraits, float32 [2, 478, 3]; made by golden/make_faces.py."""
    return np.fromfile(Path(__file__).parent / "golden" / "faces.f32", "<f4").reshape(2, 478, 3)


@pytest.fixture(scope="session")
def random_student(faces):
    """A small student of random weights, bound to a blur and a real face."""
    import torch

    from converters.cli import random_student
    from training.config import TIERS

    return random_student(TIERS["nano"], landmarks=torch.from_numpy(faces[0]))


@pytest.fixture(scope="session")
def driving(faces):
    """How the first face moves: held-out landmarks [T, 478, 3], then calibration and held-out `Driving`."""
    from converters.student_graph import Driving
    from edge.driving.procedural import held_out_seed, procedural_track, train_seed
    from edge.spec import KEYPOINTS
    from edge.topology import LOCAL

    tracks = [procedural_track(faces[0], seed=seed, seconds=2.0) for seed in (train_seed(0), held_out_seed(0))]
    local = [track.landmarks[:, LOCAL, :2].astype(np.float32) for track in tracks]
    calibration, held_out = (Driving(points[:, :KEYPOINTS].copy(), points) for points in local)
    return tracks[1].landmarks.astype(np.float32), calibration, held_out


@pytest.fixture(scope="session")
def driver(faces):
    """Of a random student of the first face."""
    import torch

    from converters.cli import random_driver

    return random_driver(torch.from_numpy(faces[0]))


@pytest.fixture(scope="session")
def export(random_student, driver, driving):
    """The random student as verified ONNX graphs by precision, and its driver."""
    from converters.to_onnx import export_onnx

    _, calibration, held_out = driving
    students, driver = export_onnx(random_student, driver, calibration=calibration, held_out=held_out)
    return {student.precision: student for student in students}, driver


@pytest.fixture(scope="session")
def avatar_bundle(random_student, driver, driving, export, faces, tmp_path_factory) -> Path:
    """A complete bundle of the random student. Read-only: tests that disturb it copy it first."""
    import torch

    from converters.golden import golden_motion
    from converters.student_graph import StudentGraph
    from converters.write_bundle import BundleContents, write_bundle
    from edge.spec import KEYPOINTS
    from edge.topology import LOCAL
    from training.student.cost import student_cost

    motion = golden_motion(faces[0], ("yaw +15", "blink", "oh"))
    local = motion.landmarks[:, LOCAL, :2]
    graph = StudentGraph(random_student)
    keypoints = driver(torch.from_numpy(motion.landmarks))
    frames = [graph(points[None], torch.from_numpy(p[None]))[0][0] for points, p in zip(keypoints, local, strict=True)]
    cost = student_cost(random_student.config)
    contents = BundleContents(
        name="random",
        students=[export[0]["fp32"], export[0]["int8"]],
        drivers=[export[1]],
        thumbnail=np.zeros((32, 32, 3), np.uint8),
        source_landmarks=faces[0],
        source_keypoints=faces[0][LOCAL[:KEYPOINTS]],
        golden=motion,
        golden_keypoints=keypoints.numpy(),
        golden_local_landmarks=local,
        golden_frames=(torch.stack(frames) * 255).round().byte().permute(0, 2, 3, 1).numpy(),
        gmacs=cost.gmacs,
        parameters=cost.parameters,
        created_with="tests",
        teacher="none",
    )
    folder = tmp_path_factory.mktemp("bundle") / "random.avatar"
    write_bundle(folder, contents)
    return folder
