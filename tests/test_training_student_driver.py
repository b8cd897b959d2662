"""The driver net: it learns what MEM would say, and is the same in every runtime."""

import numpy as np
import pytest
import torch

from converters.cli import random_driver
from converters.student_graph import DriverGraph
from edge.driving.procedural import held_out_seed, procedural_track, train_seed
from edge.motion import fit_similarity
from edge.runtimes import installed
from edge.spec import KEYPOINTS
from edge.topology import LANDMARKS, LOCAL, STABLE
from training.checkpoint import load_driver, save_driver
from training.student.driver import FittedDriver, fit_driver


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


@pytest.fixture(scope="module")
def rigid(faces):
    return random_driver(torch.from_numpy(faces[0]))


def test_it_finds_keypoints_of_motion_it_never_saw(driver, tracks):
    error = (driver(tracks[1]) - bent(tracks[1])).norm(dim=-1)
    linear = FittedDriver(driver.weight, driver.bias, driver.inner, driver.inner_bias, 0 * driver.outer)
    moved = (bent(tracks[1]) - bent(tracks[1])[:1]).norm(dim=-1)
    assert error.mean() < 0.004  # a pixel of 512
    assert error.mean() < 0.1 * moved.mean()
    assert error.mean() < (linear(tracks[1]) - bent(tracks[1])).norm(dim=-1).mean()


def test_the_fit_repeats(driver, tracks):
    again = fit_driver(tracks[0], bent(tracks[0]))
    assert all(torch.equal(one, other) for one, other in zip(driver.buffers(), again.buffers(), strict=True))


def test_its_graph_is_it(driver, tracks):
    graph = DriverGraph(driver)
    keypoints, local = graph(tracks[1][3:4])
    assert torch.allclose(keypoints, driver(tracks[1][3:4]), atol=1e-5)
    assert torch.equal(local, tracks[1][3:4][:, torch.from_numpy(LOCAL), :2])


def test_it_is_kept_and_found(driver, rigid, tmp_path):
    for one in (driver, rigid):
        save_driver(tmp_path, one)
        kept = load_driver(tmp_path)
        assert type(kept) is type(one)
        assert all(torch.equal(kept.state_dict()[name], part) for name, part in one.state_dict().items())


def test_rigid_keypoints_go_where_the_pose_fit_says(rigid, faces):
    """In all poses and expressions of training, and with landmarks that err: to a hundredth of a pixel."""
    track = procedural_track(faces[0], seed=train_seed(2), seconds=20.0, style="training").landmarks[::10]
    track = track + 0.01 * np.random.default_rng(0).standard_normal(track.shape)
    fitted = fit_similarity(track, reference=faces[0])
    keypoints = faces[0][LOCAL[:KEYPOINTS]]
    wanted = fitted.scale[:, None, None] * np.einsum("tij,kj->tki", fitted.rotation, keypoints)
    wanted = wanted + fitted.translation[:, None]
    found = rigid.posed(torch.from_numpy(track.astype(np.float32))).numpy()
    np.testing.assert_allclose(found, wanted, atol=0.01 * 2 / 511)
    assert np.array_equal(rigid(torch.from_numpy(track.astype(np.float32))).numpy(), found[..., :2])


def test_expressions_leave_rigid_keypoints_alone(rigid, faces):
    """What moves no stable landmark moves no keypoint: the head's signal and the face's are apart."""
    grimace = torch.from_numpy(faces[0].copy())[None]
    loose = np.setdiff1d(np.arange(LANDMARKS), STABLE)
    grimace[:, loose] += 0.05
    torch.testing.assert_close(
        rigid.posed(grimace)[0], torch.from_numpy(faces[0][LOCAL[:KEYPOINTS]]), atol=1e-6, rtol=0
    )


def test_a_mirrored_face_has_finite_keypoints(rigid, faces):
    mirrored = torch.from_numpy(faces[0] * np.array([-1, 1, 1], np.float32))[None]
    assert torch.isfinite(rigid(mirrored)).all()


@pytest.mark.parametrize("runtime", ["onnx", "executorch", "coreml"])
@pytest.mark.parametrize("kind", ["fitted", "rigid"])
def test_every_runtime_takes_it(driver, rigid, kind, runtime):
    """Each exporter runs what it wrote and compares it with torch."""
    driver = rigid if kind == "rigid" else driver
    if not installed(runtime):
        pytest.skip(f"{runtime} is not installed")
    if runtime == "onnx":
        from converters.to_onnx import export_driver

        assert export_driver(driver)
    elif runtime == "executorch":
        from converters.to_executorch import _export_driver as export

        assert export(driver).files["driver.pte"]
    else:
        from converters.to_coreml import _export_driver as export_package

        assert export_package(driver, "iOS16").files
