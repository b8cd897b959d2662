"""The driver net: it learns what MEM would say, and is the same in every runtime."""

import numpy as np
import pytest
import torch

from converters.student_graph import DriverGraph
from edge.driving.procedural import held_out_seed, procedural_track, train_seed
from edge.runtimes import installed
from edge.spec import KEYPOINTS
from edge.topology import LOCAL
from training.checkpoint import load_driver, save_driver
from training.student.driver import HIDDEN, Driver, fit_driver


def bent(landmarks):
    """Keypoints that are no linear map of a face: landmarks, and the square of how far they moved."""
    points = landmarks[:, torch.from_numpy(LOCAL[:KEYPOINTS]), :2]
    return points + 0.5 * (points - points[:1]).square()


@pytest.fixture(scope="module")
def tracks(faces):
    """Landmarks of one person: varied poses, as a student is trained on, and a speaker nobody trained on."""
    varied = procedural_track(faces[0], seed=train_seed(1), seconds=60.0, style="training").landmarks[::5]
    speaker = procedural_track(faces[0], seed=held_out_seed(1), seconds=6.0, style="speech").landmarks
    return [torch.from_numpy(track.astype(np.float32)) for track in (varied, speaker)]


@pytest.fixture(scope="module")
def driver(tracks):
    return fit_driver(tracks[0], bent(tracks[0]))


def test_it_finds_keypoints_of_motion_it_never_saw(driver, tracks):
    error = (driver(tracks[1]) - bent(tracks[1])).norm(dim=-1)
    linear = Driver(driver.weight, driver.bias)
    moved = (bent(tracks[1]) - bent(tracks[1])[:1]).norm(dim=-1)
    assert error.mean() < 0.004  # a pixel of 512
    assert error.mean() < 0.1 * moved.mean()
    assert error.mean() < (linear(tracks[1]) - bent(tracks[1])).norm(dim=-1).mean()


def test_the_fit_repeats(driver, tracks):
    again = fit_driver(tracks[0], bent(tracks[0]))
    assert all(torch.equal(one, other) for one, other in zip(driver, again, strict=True))


def test_its_graph_is_it(driver, tracks):
    graph = DriverGraph(driver)
    keypoints, local = graph(tracks[1][3:4])
    assert torch.allclose(keypoints, driver(tracks[1][3:4]), atol=1e-5)
    assert torch.equal(local, tracks[1][3:4][:, torch.from_numpy(LOCAL), :2])


def test_it_is_kept_and_found(driver, tmp_path):
    save_driver(tmp_path, driver)
    kept = load_driver(tmp_path)
    assert all(torch.equal(one, other) for one, other in zip(driver, kept, strict=True))
    assert kept.inner.shape[0] == HIDDEN
    save_driver(tmp_path, Driver(driver.weight, driver.bias))
    assert load_driver(tmp_path).inner is None


@pytest.mark.parametrize("runtime", ["onnx", "executorch", "coreml"])
def test_every_runtime_takes_its_hidden_layer(driver, runtime):
    """Each exporter runs what it wrote and compares it with torch."""
    if not installed(runtime):
        pytest.skip(f"{runtime} is not installed")
    if runtime == "onnx":
        from converters.to_onnx import export_driver

        assert export_driver(driver)
    elif runtime == "executorch":
        from converters.to_executorch import _export_driver as export

        assert set(export(driver).fallback) == {"index_select"}
    else:
        from converters.to_coreml import _export_driver as export_package

        assert export_package(driver, "iOS16").files
