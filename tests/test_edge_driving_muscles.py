from pathlib import Path

import numpy as np
import pytest

from edge.driving.muscles import MESH_POINTS, Puppet
from edge.motion import EYES
from edge.topology import CHIN, FOREHEAD_TOP, LOWER_LIP_RINGS, UPPER_LIP_RINGS

FACES = np.fromfile(Path(__file__).parent / "golden" / "faces.f32", "<f4").reshape(2, 478, 3)


@pytest.fixture(params=FACES, ids=["closed mouth", "smile"])
def puppet(request):
    return Puppet(request.param)


def mirrored_points(rest: np.ndarray) -> np.ndarray:
    """For every point the one that lies across the face's middle plane."""
    flipped = rest * [-1.0, 1.0, 1.0]
    return np.linalg.norm(rest[:, None] - flipped[None], axis=-1).argmin(axis=0)


def test_every_field_moves_something_a_little(puppet):
    for name, field in puppet.fields.items():
        assert field.shape == (478, 3), name
        size = np.linalg.norm(field, axis=1).max() / puppet.height
        assert 0.01 < size < 0.1, name
        np.testing.assert_array_equal(field[MESH_POINTS:], 0.0)


def test_fields_are_the_same_on_both_sides(puppet):
    across = mirrored_points(puppet.rest)
    for name, field in puppet.fields.items():
        if name == "mouth_shift":
            continue
        uneven = np.abs(field - field[across] * [-1.0, 1.0, 1.0]).max(axis=1) / puppet.height
        # Real faces are not mirrored exactly, so a few points find a neighbour's twin.
        assert np.percentile(uneven, 90) < 0.006, name


def test_the_jaw_takes_the_chin_and_leaves_the_forehead(puppet):
    assert puppet.jaw[CHIN] == pytest.approx(1.0)
    assert puppet.jaw[FOREHEAD_TOP] == pytest.approx(0.0)
    assert puppet.jaw.min() > -0.05
    assert puppet.jaw.max() < 1.1
    assert (puppet.jaw[LOWER_LIP_RINGS] >= puppet.jaw[UPPER_LIP_RINGS] - 1e-9).all()


def test_lips_seal_from_any_opening(puppet):
    level = np.linspace(0.0, 1.0, 5)
    face = puppet.open_jaw(np.repeat(puppet.rest[None], 5, axis=0), level)
    closed = puppet.close_lips(face, np.ones(5))
    np.testing.assert_array_equal(closed[:, UPPER_LIP_RINGS[3]], closed[:, LOWER_LIP_RINGS[3]])


def test_lids_close_evenly(puppet):
    level = np.linspace(0.0, 1.0, 9)
    face = np.repeat(puppet.rest[None], 9, axis=0)
    for eye in EYES:
        puppet.close_eye(face, eye, level)
        gap = (face[:, eye.lower, 1] - face[:, eye.upper, 1]).mean(axis=1)
        assert (np.diff(gap) < 0).all()
        assert gap[-1] == 0.0
        fold_gap = face[:, eye.upper, 1] - face[:, eye.fold, 1]
        assert (fold_gap >= np.minimum(fold_gap[0], 0.0) - 1e-9).all()
