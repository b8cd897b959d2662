import pytest
import torch
from torch import nn

from training.student.census import census_table, dying, take_census
from training.student.network import Rectifier


@pytest.fixture
def poses(driving):
    held_out = driving[-1].spread(6)
    return torch.from_numpy(held_out.keypoints), torch.from_numpy(held_out.local_landmarks)


@pytest.fixture
def student(random_student):
    """The shared student, given back as it was."""
    state = {name: tensor.clone() for name, tensor in random_student.state_dict().items()}
    yield random_student
    random_student.load_state_dict(state)
    random_student.eval()


def test_every_rectified_layer_is_counted(student, poses):
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    layers = take_census(student, *poses)
    trunks = (student.network.motion_trunk, student.network.generator, student.person.regions)
    assert len(layers) == sum(isinstance(layer, Rectifier) for trunk in trunks for layer in trunk.modules())
    assert {layer.name.split(".")[0] for layer in layers} == {"motion_trunk", "generator", "regions"}
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.state_dict().items())
    assert not any(layer._forward_hooks for layer in student.modules())
    assert len(census_table(layers).splitlines()) == len(layers) + 1


def test_silent_units_and_what_never_changes_are_found(student, poses):
    healthy = {layer.name: layer for layer in take_census(student, *poses)}
    with torch.no_grad():
        student.network.generator.narrow.bias[:12] = -1e3
    found = {layer.name: layer for layer in take_census(student, *poses)}
    silenced, units = found["generator.fine.0.enters"], student.network.generator.narrow.out_channels
    assert silenced.silent >= 12 / units > healthy["generator.fine.0.enters"].silent
    assert silenced in dying(found.values())
    with torch.no_grad():
        student.network.generator.narrow.bias[:] = -1e3
    found = {layer.name: layer for layer in take_census(student, *poses)}
    assert found["generator.fine.0.enters"].silent == 1
    assert found["generator.painting"].spread < 1e-3 * found["generator.painting"].level + 1e-9
    assert found["motion_trunk.entered"] == healthy["motion_trunk.entered"]


def test_nan_is_no_health(student, poses):
    with torch.no_grad():
        student.network.generator.enter.weight[0, 0, 0, 0] = torch.nan
    assert dying(take_census(student, *poses))


def test_a_silent_unit_is_woken():
    """A layer that one step silenced has no gradient of its own; its rectifier lifts it all the same."""
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Conv2d(3, 8, 1), Rectifier(8))
    with torch.no_grad():
        layer[0].bias[:5] = -3.0
    optimiser = torch.optim.Adam(layer.parameters(), lr=0.05)
    frames = torch.rand(4, 3, 8, 8)
    silent = []
    for _ in range(120):
        passed = layer(frames)
        silent.append(int((passed.amax((0, 2, 3)) == 0).sum()))
        optimiser.zero_grad()
        layer[1].call.backward()
        optimiser.step()
    assert silent[0] >= 5
    assert silent[-1] == 0


def test_an_awake_layer_is_left_alone():
    layer = Rectifier(4)
    frames = torch.randn(2, 4, 8, 8).requires_grad_()
    for _ in range(3):
        torch.testing.assert_close(layer(frames), frames.relu())
    assert layer.call.item() == 0
    layer.eval()
    layer.call = None
    layer(frames)
    assert layer.call is None


def test_a_unit_that_a_window_does_not_show_is_remembered():
    """Mouth units are silent over a window of background, and are not to be woken there."""
    layer = Rectifier(1)
    layer(torch.full((1, 1, 4, 4), 2.0).requires_grad_())
    for _ in range(10):
        layer(torch.full((1, 1, 4, 4), -1.0).requires_grad_())
    assert layer.call.item() == 0
    for _ in range(60):
        layer(torch.full((1, 1, 4, 4), -1.0).requires_grad_())
    assert layer.call.item() > 0
