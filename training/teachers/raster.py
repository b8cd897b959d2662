"""A vectorised triangle rasteriser with a depth buffer, in plain torch: no loop over triangles or pixels."""

from typing import NamedTuple

import torch


class Fragments(NamedTuple):
    """Which triangle each pixel shows, for the P pixels that show one."""

    height: int
    width: int
    pixel: torch.Tensor
    """int64 [P]: row-major index of the pixel, ascending."""
    triangle: torch.Tensor
    """int64 [P]."""
    weights: torch.Tensor
    """float32 [P, 2]: barycentric weights of the triangle's second and third corner."""
    depth: torch.Tensor
    """float32 [H, W]: z of the nearest triangle, +inf where there is none; smaller is nearer."""

    @property
    def covered(self) -> torch.Tensor:
        """Bool [H, W]: True where a triangle lies."""
        return self.depth < float("inf")

    def interpolate(self, triangles: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Per-vertex values over the pixels: float32 [V, C] → [H, W, C]; 0 where no triangle lies."""
        corners = values[triangles]
        first, second, third = corners.unbind(1)
        table = torch.cat([first, second - first, third - first], 1).index_select(0, self.triangle)
        base, along, across = table.chunk(3, 1)
        image = values.new_zeros(self.height * self.width, values.shape[1])
        image[self.pixel] = base + self.weights[:, :1] * along + self.weights[:, 1:] * across
        return image.view(self.height, self.width, -1)


def rasterise(vertices: torch.Tensor, triangles: torch.Tensor, *, height: int, width: int) -> Fragments:
    """The nearest triangle of every pixel.

    Every triangle is cut into the rows of pixels that it crosses, every row into the pixels between its
    left and right edge; a scatter-minimum over (depth, triangle) keeps the nearest. Cost grows with the
    area drawn, not with the number of triangles.

    Args:
        vertices: float32 [V, 3], (x, y) in pixels with pixel centres at whole numbers, z smaller is nearer.
        triangles: int64 [F, 3], wound either way; triangles without area are left out.
        height: H in pixels.
        width: W in pixels.

    Returns:
        Fragments of [H, W].
    """
    device = vertices.device
    corners = vertices[triangles]
    # Barycentric weights are affine in the pixel: b = constant + x * slope_x + y * slope_y.
    x, y, z = corners.unbind(-1)
    edges = torch.stack([x[:, 1] - x[:, 0], x[:, 2] - x[:, 0], y[:, 1] - y[:, 0], y[:, 2] - y[:, 0]])
    area = edges[0] * edges[3] - edges[1] * edges[2]
    solid = area.abs() > 1e-6
    x, y, z, edges, area = x[solid], y[solid], z[solid], edges[:, solid], area[solid]
    which = solid.nonzero().squeeze(1)
    slope_x = torch.stack([edges[3], -edges[2]]) / area
    slope_y = torch.stack([-edges[1], edges[0]]) / area
    slope_x = torch.cat([-slope_x.sum(0, keepdim=True), slope_x])
    slope_y = torch.cat([-slope_y.sum(0, keepdim=True), slope_y])
    constant = -slope_x * x[:, 0] - slope_y * y[:, 0]
    constant[0] += 1

    # Rows.
    top = y.amin(1).ceil().clamp(0, height).long()
    bottom = y.amax(1).floor().clamp(-1, height - 1).long()
    rows = (bottom - top + 1).clamp_min(0)
    face = torch.repeat_interleave(torch.arange(len(rows), device=device), rows)
    line = torch.arange(len(face), device=device) - (torch.cumsum(rows, 0) - rows)[face] + top[face]
    at_zero = constant[:, face] + slope_y[:, face] * line + 1e-4  # a hair's breadth closes the seams
    slope = slope_x[:, face]
    flat = slope.abs() < 1e-9  # such an edge bounds rows, not pixels in them
    crossing = -at_zero / torch.where(flat, torch.ones_like(slope), slope)
    far = float(4 * width)
    left = torch.where((slope > 0) & ~flat, crossing, torch.full_like(slope, -far)).amax(0)
    right = torch.where((slope < 0) & ~flat, crossing, torch.full_like(slope, far)).amin(0)
    left = left.ceil().clamp(0, width).long()
    right = right.floor().clamp(-1, width - 1).long()

    # Pixels.
    count = (right - left + 1).clamp_min(0)
    z_slope = (slope_x * z.T).sum(0)[face]
    z_left = ((constant[:, face] + slope_y[:, face] * line) * z[face].T).sum(0) + z_slope * left
    row = torch.repeat_interleave(torch.arange(len(count), device=device), count)
    within = torch.arange(len(row), device=device) - (torch.cumsum(count, 0) - count).index_select(0, row)
    pixel = (line * width + left).index_select(0, row) + within
    depth = z_left.index_select(0, row) + z_slope.index_select(0, row) * within

    nearest, farthest = (depth.amin(), depth.amax()) if len(depth) else (z.new_zeros(()), z.new_ones(()))
    level = ((depth - nearest) / (farthest - nearest).clamp_min(1e-9) * (1 << 24)).long()
    empty = torch.iinfo(torch.int64).max
    best = torch.full((height * width,), empty, device=device, dtype=torch.int64)
    best.scatter_reduce_(0, pixel, (level << 32) | row, "amin")
    shown = (best != empty).nonzero().squeeze(1)
    winner = (best[shown] & 0xFFFFFFFF).long()
    local = face[winner]
    column = (shown - line[winner] * width).float()
    weights = constant[1:, local] + slope_x[1:, local] * column + slope_y[1:, local] * line[winner]
    buffer = vertices.new_full((height * width,), float("inf"))
    buffer[shown] = z_left[winner] + z_slope[winner] * (column - left[winner])
    return Fragments(height, width, shown, which[local], weights.T, buffer.view(height, width))
