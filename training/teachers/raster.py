"""A vectorised triangle rasteriser with a depth buffer, in plain torch: no loop over triangles or pixels."""

from typing import NamedTuple

import torch


class Fragments(NamedTuple):
    """Which triangle each pixel shows."""

    triangle: torch.Tensor
    """int64 [H, W]; -1 where no triangle lies."""
    weights: torch.Tensor
    """float32 [H, W, 3]: barycentric weights of the triangle's corners; 0 where no triangle lies."""
    depth: torch.Tensor
    """float32 [H, W]: interpolated z, +inf where no triangle lies; smaller is nearer."""

    @property
    def covered(self) -> torch.Tensor:
        """bool [H, W]: True where a triangle lies."""
        return self.triangle >= 0

    def interpolate(self, triangles: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Per-vertex values over the pixels: float32 [V, C] → [H, W, C]; 0 where no triangle lies."""
        corners = values[triangles[self.triangle.clamp_min(0)]]
        return (corners * self.weights[..., None]).sum(-2)


def rasterise(vertices: torch.Tensor, triangles: torch.Tensor, *, height: int, width: int) -> Fragments:
    """The nearest triangle of every pixel.

    Every pixel centre of every triangle's bounding box is one row of a flat table; rows outside their
    triangle are dropped, and a scatter-minimum over (depth, row) keeps the nearest. Cost grows with the
    summed area of the boxes, not with the number of triangles.

    Args:
        vertices: float32 [V, 3], (x, y) in pixels with pixel centres at whole numbers, z smaller is nearer.
        triangles: int64 [F, 3].
        height: H in pixels.
        width: W in pixels.

    Returns:
        Fragments of [H, W].
    """
    device = vertices.device
    corners = vertices[triangles]
    xy, z = corners[..., :2], corners[..., 2]
    limit = torch.tensor([width - 1, height - 1], device=device)
    low = xy.amin(1).ceil().clamp_min(0).long()
    high = torch.minimum(xy.amax(1).floor().long(), limit)
    extent = (high - low + 1).clamp_min(0)
    count = extent[:, 0] * extent[:, 1]

    # Barycentric weights are affine in the pixel: b = base + x * step_x + y * step_y.
    edge1, edge2 = xy[:, 1] - xy[:, 0], xy[:, 2] - xy[:, 0]
    area = edge1[:, 0] * edge2[:, 1] - edge1[:, 1] * edge2[:, 0]
    flat = area.abs() < 1e-6
    count = torch.where(flat, torch.zeros_like(count), count)
    inverse = 1 / torch.where(flat, torch.ones_like(area), area)
    step_b1 = torch.stack([edge2[:, 1], -edge2[:, 0]], 1) * inverse[:, None]
    step_b2 = torch.stack([-edge1[:, 1], edge1[:, 0]], 1) * inverse[:, None]
    base_b1 = -(step_b1 * xy[:, 0]).sum(1)
    base_b2 = -(step_b2 * xy[:, 0]).sum(1)
    table = torch.stack(
        [step_b1[:, 0], step_b1[:, 1], base_b1, step_b2[:, 0], step_b2[:, 1], base_b2], 1
    )

    face = torch.repeat_interleave(torch.arange(len(triangles), device=device), count)
    first = torch.cumsum(count, 0) - count
    within = torch.arange(len(face), device=device) - first[face]
    span = extent[face, 0]
    row = torch.div(within, span, rounding_mode="floor")
    px = low[face, 0] + within - row * span
    py = low[face, 1] + row
    coefficients = table[face]
    x, y = px.float(), py.float()
    b1 = x * coefficients[:, 0] + y * coefficients[:, 1] + coefficients[:, 2]
    b2 = x * coefficients[:, 3] + y * coefficients[:, 4] + coefficients[:, 5]
    # A hair's breadth of tolerance closes the seams between neighbouring triangles.
    inside = ((b1 >= -1e-4) & (b2 >= -1e-4) & (b1 + b2 <= 1 + 1e-4)).nonzero().squeeze(1)
    face, b1, b2 = face[inside], b1[inside], b2[inside]
    pixel = py[inside] * width + px[inside]
    corner_z = z[face]
    depth = corner_z[:, 0] + b1 * (corner_z[:, 1] - corner_z[:, 0]) + b2 * (corner_z[:, 2] - corner_z[:, 0])

    rows = torch.arange(len(face), device=device)
    nearest, farthest = (depth.min(), depth.max()) if len(depth) else (z.new_zeros(()), z.new_ones(()))
    level = ((depth - nearest) / (farthest - nearest).clamp_min(1e-9) * (1 << 24)).long()
    empty = torch.iinfo(torch.int64).max
    best = torch.full((height * width,), empty, device=device, dtype=torch.int64)
    best.scatter_reduce_(0, pixel, (level << 32) | rows, "amin")
    hit = best != empty
    winner = best[hit] & 0xFFFFFFFF

    triangle = torch.full((height * width,), -1, device=device, dtype=torch.int64)
    triangle[hit] = face[winner]
    weights = vertices.new_zeros(height * width, 3)
    weights[hit] = torch.stack([1 - b1[winner] - b2[winner], b1[winner], b2[winner]], 1)
    buffer = vertices.new_full((height * width,), float("inf"))
    buffer[hit] = depth[winner]
    return Fragments(
        triangle.view(height, width), weights.view(height, width, 3), buffer.view(height, width)
    )
