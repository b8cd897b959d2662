"""Each numpy operation against torch: the first rung of the parity ladder."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.errors import SpecError
from edge.judges import ops

sizes = st.integers(1, 9)
seeds = st.integers(0, 2**31)
quick = settings(max_examples=25, deadline=None)


def noise(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def agree(ours, theirs, tolerance=1e-5):
    assert ours.dtype == np.float32
    assert ours.shape == tuple(theirs.shape)
    np.testing.assert_allclose(ours, theirs.numpy(), atol=tolerance, rtol=1e-4)


@quick
@given(sizes, st.integers(1, 4), st.integers(2, 9), st.integers(2, 9))
def test_identity_field_returns_its_input(seed, channels, height, width):
    features = noise(seed, 2, channels, height, width)
    field = np.repeat(ops.coordinate_grid(height, width)[None], 2, 0)
    np.testing.assert_allclose(ops.warp(features, field), features, atol=1e-5)


def test_grid_is_corner_to_corner():
    grid = ops.coordinate_grid(3, 5)
    assert grid.shape == (3, 5, 2)
    np.testing.assert_array_equal(grid[0, 0], [-1, -1])
    np.testing.assert_array_equal(grid[-1, -1], [1, 1])
    np.testing.assert_array_equal(grid[0, -1], [1, -1])


@quick
@given(seeds, sizes, sizes, sizes, sizes, st.sampled_from(["border", "zeros"]), st.booleans())
def test_grid_sample(seed, height, width, out_height, out_width, padding, align_corners):
    features = noise(seed, 2, 3, height, width)
    grid = noise(seed + 1, 2, out_height, out_width, 2) * 1.5
    ours = ops.grid_sample(features, grid, padding=padding, align_corners=align_corners)
    agree(
        ours,
        F.grid_sample(
            torch.from_numpy(features),
            torch.from_numpy(grid),
            mode="bilinear",
            padding_mode=padding,
            align_corners=align_corners,
        ),
    )
    if padding == "border" and align_corners:
        np.testing.assert_array_equal(ops.warp(features, grid), ours)


def test_warp_far_outside_reads_the_border():
    features = noise(0, 1, 2, 4, 4)
    far = np.full((1, 1, 1, 2), 1e9, np.float32)
    np.testing.assert_array_equal(ops.warp(features, far)[0, :, 0, 0], features[0, :, -1, -1])
    assert not ops.grid_sample(features, far, padding="zeros", align_corners=False).any()


@quick
@given(seeds, st.integers(1, 6), sizes, sizes)
def test_heatmap_is_one_at_the_keypoint(seed, count, height, width):
    keypoints = np.random.default_rng(seed).uniform(-1, 1, (2, count, 2)).astype(np.float32)
    heat = ops.gaussian_heatmap(keypoints, height, width, variance=0.01)
    assert heat.shape == (2, count, height, width)
    assert heat.min() >= 0
    assert heat.max() <= 1
    grid = ops.coordinate_grid(height, width).reshape(-1, 2)
    at_cells = ops.gaussian_heatmap(grid[None], height, width, variance=0.01)[0]
    np.testing.assert_array_equal(at_cells.reshape(len(grid), -1).diagonal(), 1)


def test_heatmap_value():
    heat = ops.gaussian_heatmap(np.zeros((1, 1, 2), np.float32), 3, 3, variance=0.5)
    np.testing.assert_allclose(heat[0, 0, 0, 0], np.exp(-2), rtol=1e-6)  # the corner is √2 away


@quick
@given(seeds, sizes, st.floats(0.1, 100))
def test_pointwise(seed, size, scale):
    values = noise(seed, 2, 3, size, size) * np.float32(scale)
    tensor = torch.from_numpy(values)
    agree(ops.softmax(values), tensor.softmax(-1))
    agree(ops.softmax(values, 1), tensor.softmax(1))
    agree(ops.sigmoid(values), tensor.sigmoid())
    agree(ops.relu(values), tensor.relu())


@quick
@given(
    seeds,
    st.sampled_from([1, 3, 5]),
    st.integers(1, 2),
    st.integers(0, 2),
    st.integers(1, 2),
    st.integers(1, 3),
)
def test_conv2d(seed, kernel, stride, padding, dilation, groups):
    values = noise(seed, 2, 2 * groups, 12, 11)
    weight, bias = noise(seed + 1, 3 * groups, 2, kernel, kernel), noise(seed + 2, 3 * groups)
    ours = ops.conv2d(values, weight, bias, stride=stride, padding=padding, dilation=dilation, groups=groups)
    tensors = [torch.from_numpy(array) for array in (values, weight, bias)]
    agree(ours, F.conv2d(*tensors, stride=stride, padding=padding, dilation=dilation, groups=groups), 1e-4)


@quick
@given(seeds, sizes, sizes, st.integers(1, 30), st.integers(1, 30), st.booleans())
def test_resize_bilinear(seed, height, width, new_height, new_width, align_corners):
    values = noise(seed, 2, 3, height, width)
    theirs = F.interpolate(
        torch.from_numpy(values), (new_height, new_width), mode="bilinear", align_corners=align_corners
    )
    agree(ops.resize_bilinear(values, new_height, new_width, align_corners=align_corners), theirs)


def test_an_upsampled_identity_field_stays_the_identity():
    small = ops.coordinate_grid(64, 64).transpose(2, 0, 1)[None]
    large = ops.resize_bilinear(small, 512, 512, align_corners=True)[0].transpose(1, 2, 0)
    np.testing.assert_allclose(large, ops.coordinate_grid(512, 512), atol=1e-6)


@quick
@given(seeds, st.integers(1, 4), st.integers(1, 3), sizes, sizes)
def test_shuffles(seed, factor, channels, height, width):
    values = noise(seed, 2, channels * factor**2, height, width)
    fine = ops.pixel_shuffle(values, factor)
    agree(fine, F.pixel_shuffle(torch.from_numpy(values), factor))
    np.testing.assert_array_equal(ops.pixel_unshuffle(fine, factor), values)
    agree(ops.pixel_unshuffle(fine, factor), F.pixel_unshuffle(torch.from_numpy(fine), factor))


def test_wrong_shapes_are_explained():
    with pytest.raises(SpecError, match=r"wants features \[N, C, H, W\] and a field"):
        ops.warp(noise(0, 1, 2, 4, 4), noise(0, 2, 4, 4, 2))
    with pytest.raises(SpecError, match=r"wants \[N, K, 2\]"):
        ops.gaussian_heatmap(noise(0, 1, 3, 3), 4, 4, variance=1.0)
    with pytest.raises(SpecError, match="cannot read 3 channels"):
        ops.conv2d(noise(0, 1, 3, 4, 4), noise(0, 2, 2, 3, 3))
    with pytest.raises(SpecError, match="blocks of 2 × 2"):
        ops.pixel_shuffle(noise(0, 1, 3, 4, 4), 2)
    with pytest.raises(SpecError, match="blocks of 2 × 2"):
        ops.pixel_unshuffle(noise(0, 1, 3, 3, 4), 2)
