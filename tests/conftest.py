"""What several test files share: the landmark model, the two portraits that dependencies ship."""

from pathlib import Path

import pytest

from edge.errors import MissingRuntimeError

SHARED = Path(__file__).parents[1].parent / "shared"


@pytest.fixture(scope="session")
def landmark_model() -> Path:
    """A landmark model file: the one at hand, or else fetched or assembled once into the user's cache."""
    pytest.importorskip("mediapipe", reason="mediapipe is not installed")
    from edge.face_landmarker import find_model

    official = SHARED / "models" / "face_landmarker.task"
    if official.is_file():
        return official
    try:
        return find_model(progress=lambda line: None)
    except MissingRuntimeError as error:
        pytest.skip(f"no landmark model: {error}")


@pytest.fixture(scope="session")
def portraits() -> dict[str, Path]:
    """Public-domain photos by name: grace_hopper (glasses, cap), astronaut (small face)."""
    matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    skimage = pytest.importorskip("skimage", reason="scikit-image is not installed")
    return {
        "grace_hopper": Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg",
        "astronaut": Path(skimage.__file__).parent / "data" / "astronaut.png",
    }
