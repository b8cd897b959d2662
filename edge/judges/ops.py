"""The student's operations in readable numpy: the porting text, and an independent judge of other runtimes.

Everything is float32 and NCHW, like the graphs. Nothing here is tuned for speed; where a choice exists, the
form that is easiest to carry over to Kotlin or Swift is taken. Letters: N batch, C channels, H W size, K
keypoints. Parity with torch, operation by operation: tests/test_edge_judges_ops.py.
"""

from typing import Literal

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from edge.errors import SpecError

Array = npt.NDArray[np.float32]

Padding = Literal["border", "zeros"]


def coordinate_grid(height: int, width: int) -> Array:
    """Where every cell lies: the motion field of a person who does not move.

    Args:
        height: H, cells; at least 1.
        width: W, cells; at least 1.

    Returns:
        float32 [H, W, 2], (x, y); -1 and +1 are the *centres* of the first and last cell. A single cell lies
        at -1.
    """
    x = np.linspace(-1, 1, width, dtype=np.float32)
    y = np.linspace(-1, 1, height, dtype=np.float32)
    return np.stack(np.meshgrid(x, y), axis=-1)


def gaussian_heatmap(keypoints: Array, height: int, width: int, *, variance: float) -> Array:
    """One soft spot for each keypoint, 1 at its centre: exp(-|cell - keypoint|² / (2 variance)).

    Args:
        keypoints: float32 [N, K, 2], (x, y) in crop coordinates.
        height: H, cells.
        width: W, cells.
        variance: of the spot, in squared crop coordinates (0.01 is a standard deviation of 5 % of the crop).

    Returns:
        float32 [N, K, H, W] in 0..1.

    Raises:
        SpecError: when the keypoints are not [N, K, 2].
    """
    if keypoints.ndim != 3 or keypoints.shape[2] != 2:
        raise SpecError(f"Keypoints have shape {keypoints.shape}; a heat map wants [N, K, 2].")
    offset = coordinate_grid(height, width) - keypoints[:, :, None, None, :]
    heat: Array = np.exp(np.square(offset).sum(-1) * np.float32(-0.5 / variance))
    return heat


def warp(features: Array, motion_field: Array) -> Array:
    """Features moved to where the driving pose wants them (F^{s→d}, paper Sec. 3.1).

    Backward bilinear sampling: output cell (h, w) is read from the source at motion_field[n, h, w]. Points
    outside read the nearest border cell.

    Args:
        features: float32 [N, C, H, W], from the source image.
        motion_field: float32 [N, h, w, 2], (x, y); -1 and +1 are the *centres* of the source's first and
            last cell (align_corners=True, see docs/conventions.md).

    Returns:
        float32 [N, C, h, w]. The identity field `coordinate_grid(H, W)` returns `features` to rounding.

    Raises:
        SpecError: when the shapes are others, or the batch sizes differ.
    """
    return grid_sample(features, motion_field, padding="border", align_corners=True)


def grid_sample(features: Array, grid: Array, *, padding: Padding, align_corners: bool) -> Array:
    """Bilinear reading at given places, in every variant that the graphs use.

    `warp` is the product's one meaning. ONNX graphs hold the same warp as padding="zeros",
    align_corners=False on a rescaled grid, because ONNX Runtime has a fast kernel for that variant alone
    (converters/student_graph.py).

    Args:
        features: float32 [N, C, H, W].
        grid: float32 [N, h, w, 2], (x, y).
        padding: "border" repeats the edge, "zeros" fades to 0 within one cell outside.
        align_corners: True: -1 and +1 are the centres of the first and last cell; False: their outer edges.

    Returns:
        float32 [N, C, h, w].

    Raises:
        SpecError: when the shapes are others, or the batch sizes differ.
    """
    if features.ndim != 4 or grid.ndim != 4 or grid.shape[3] != 2 or len(grid) != len(features):
        raise SpecError(
            f"A warp wants features [N, C, H, W] and a field [N, h, w, 2], not {features.shape} and {grid.shape}."
        )
    n, channels, height, width = features.shape
    if align_corners:
        x = (grid[..., 0] + 1) * np.float32((width - 1) / 2)
        y = (grid[..., 1] + 1) * np.float32((height - 1) / 2)
    else:
        x = ((grid[..., 0] + 1) * np.float32(width) - 1) / 2
        y = ((grid[..., 1] + 1) * np.float32(height) - 1) / 2
    if padding == "border":
        x, y = np.clip(x, 0, width - 1), np.clip(y, 0, height - 1)
    else:  # A place far outside reads zero anyway; the clip keeps its integer cell representable.
        x, y = np.clip(x, -2, width + 1), np.clip(y, -2, height + 1)
    left, top = np.floor(x).astype(np.int32), np.floor(y).astype(np.int32)
    right_share, bottom_share = (x - left).astype(np.float32), (y - top).astype(np.float32)

    flat = features.reshape(n, channels, height * width)
    result = np.zeros((n, channels, *grid.shape[1:3]), np.float32)
    for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
        column, row = left + dx, top + dy
        share = (right_share if dx else 1 - right_share) * (bottom_share if dy else 1 - bottom_share)
        if padding == "zeros":
            share = share * ((column >= 0) & (column < width) & (row >= 0) & (row < height))
        # Under "border" only a cell of share 0 can lie outside here, one past the last.
        cell = np.clip(row, 0, height - 1) * width + np.clip(column, 0, width - 1)
        for index in range(n):
            result[index] += flat[index][:, cell[index]] * share[index]
    return result


def softmax(values: Array, axis: int = -1) -> Array:
    """Shares that add up to 1 along one axis; the largest value is taken off first so that nothing overflows.

    Args:
        values: float32, any shape.
        axis: along which the shares add up to 1.

    Returns:
        float32, shape of `values`, in 0..1.
    """
    shares: Array = np.exp(values - values.max(axis=axis, keepdims=True))
    shares /= shares.sum(axis=axis, keepdims=True)
    return shares


def relu(values: Array) -> Array:
    """The positive part: max(values, 0), any shape."""
    return np.maximum(values, np.float32(0))


def sigmoid(values: Array) -> Array:
    """Any number squeezed into 0..1: 1 / (1 + exp(-values)), written with tanh, which cannot overflow."""
    half = np.float32(0.5)
    squeezed: Array = half * np.tanh(half * values) + half
    return squeezed


def conv2d(
    values: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    stride: int = 1,
    padding: int | tuple[int, int, int, int] = 1,
    dilation: int = 1,
    groups: int = 1,
) -> Array:
    """A convolution as torch means it (cross-correlation, zeros around), as one matrix product.

    Args:
        values: float32 [N, C, H, W].
        weight: float32 [O, C / groups, kernel height, kernel width].
        bias: float32 [O].
        stride: cells from one output to the next.
        padding: zeros around: one number, or (top, left, bottom, right).
        dilation: cells from one tap to the next.
        groups: channels in, and out, are split into so many independent groups.

    Returns:
        float32 [N, O, h, w].

    Raises:
        SpecError: when the channels do not fit.
    """
    n, channels, _, _ = values.shape
    out_channels, group_channels, taps_y, taps_x = weight.shape
    if channels != group_channels * groups or out_channels % groups:
        raise SpecError(f"A convolution of weight {weight.shape} in {groups} groups cannot read {channels} channels.")
    top, left, bottom, right = (padding,) * 4 if isinstance(padding, int) else padding
    padded = np.pad(values, ((0, 0), (0, 0), (top, bottom), (left, right)))
    reach_y, reach_x = dilation * (taps_y - 1) + 1, dilation * (taps_x - 1) + 1
    windows = sliding_window_view(sliding_window_view(padded, reach_y, 2), reach_x, 3)
    windows = windows[:, :, ::stride, ::stride, ::dilation, ::dilation]
    height, width = windows.shape[2:4]

    # All that an output cell sees becomes one column; then the convolution is one matrix product for each
    # group.
    columns = windows.transpose(0, 1, 4, 5, 2, 3).reshape(n, groups, -1, height * width)
    rows = weight.reshape(groups, out_channels // groups, -1)
    image: Array = (rows @ columns).reshape(n, out_channels, height, width)
    return image if bias is None else image + bias[:, None, None]


def resize_bilinear(values: Array, height: int, width: int, *, align_corners: bool) -> Array:
    """An image or field drawn at another size.

    Args:
        values: float32 [N, C, H, W].
        height: of the result, cells.
        width: of the result, cells.
        align_corners: True keeps the centres of the corner cells in place: the way for coordinates and
            motion fields; False keeps the outer edges in place: the way for features.

    Returns:
        float32 [N, C, height, width].
    """
    # Separable: rows first, then columns; each output mixes two neighbours.
    for axis, size in ((2, height), (3, width)):
        first, second, share = _neighbours(values.shape[axis], size, align_corners)
        share = share.reshape((-1, 1) if axis == 2 else (-1,))
        values = values.take(first, axis) * (1 - share) + values.take(second, axis) * share
    return values


def _neighbours(
    size: int, new_size: int, align_corners: bool
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Array]:
    """For each output cell: the two source cells it lies between, and the second one's share."""
    if align_corners:
        place = np.arange(new_size) * ((size - 1) / max(new_size - 1, 1))
    else:
        place = np.maximum((np.arange(new_size) + 0.5) * (size / new_size) - 0.5, 0)
    first = np.minimum(np.floor(place).astype(np.int64), size - 1)
    second = np.minimum(first + 1, size - 1)
    return first, second, (place - first).astype(np.float32)


def pixel_shuffle(values: Array, factor: int) -> Array:
    """Channels spread out into a finer image: [N, C r², H, W] → [N, C, H r, W r].

    Channel c r² + i r + j becomes cell (i, j) of each r × r block of channel c.

    Args:
        values: float32 [N, C r², H, W].
        factor: r.

    Raises:
        SpecError: when the channels cannot be divided by r².
    """
    n, channels, height, width = values.shape
    if channels % factor**2:
        raise SpecError(f"{channels} channels cannot be shuffled into blocks of {factor} × {factor}.")
    blocks = values.reshape(n, channels // factor**2, factor, factor, height, width)
    return blocks.transpose(0, 1, 4, 2, 5, 3).reshape(n, -1, height * factor, width * factor)


def pixel_unshuffle(values: Array, factor: int) -> Array:
    """Blocks of cells packed into channels: [N, C, H r, W r] → [N, C r², H, W]; undoes `pixel_shuffle`.

    Args:
        values: float32 [N, C, H r, W r].
        factor: r.

    Raises:
        SpecError: when height or width cannot be divided by r.
    """
    n, channels, height, width = values.shape
    if height % factor or width % factor:
        raise SpecError(f"An image of {width} × {height} cannot be cut into blocks of {factor} × {factor}.")
    blocks = values.reshape(n, channels, height // factor, factor, width // factor, factor)
    return blocks.transpose(0, 1, 3, 5, 2, 4).reshape(n, -1, height // factor, width // factor)
