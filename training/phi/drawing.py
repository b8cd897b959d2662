"""Faces drawn as lines, on the training device in batches: the mesh image m of MEM, and the contours of c^loc.

A line is a row of points laid densely along an edge; each is shared out to the four pixels around it, and a pixel's
value is the largest share it got. No loop over edges, faces or pixels.
"""

from functools import lru_cache

import torch

from edge import topology as topo

POINTS_PER_EDGE = {"mesh": 12, "contour": 16}
"""Points along an edge; an edge of the mesh is 15 pixels of 256 at most."""


@lru_cache
def mesh_edges(device: torch.device | None = None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """MediaPipe's topology of 478 points as three groups of edges, int64 [E, 2] each.

    The tesselation; the contours of face, eyes, brows and lips; the irises.

    Raises:
        ModuleNotFoundError: where MediaPipe is not installed.
    """
    from mediapipe.tasks.python.vision import FaceLandmarksConnections as Connections

    def pairs(*groups: list) -> torch.Tensor:
        edges = {tuple(sorted((edge.start, edge.end))) for group in groups for edge in group}
        return torch.tensor(sorted(edges), device=device)

    return (
        pairs(Connections.FACE_LANDMARKS_TESSELATION),
        pairs(Connections.FACE_LANDMARKS_CONTOURS),
        pairs(Connections.FACE_LANDMARKS_LEFT_IRIS, Connections.FACE_LANDMARKS_RIGHT_IRIS),
    )


def _chain(*rows: int, closed: bool = False) -> list[tuple[int, int]]:
    ends = [*rows[1:], rows[0]] if closed else rows[1:]
    return list(zip(rows, ends, strict=False))


def _eye(outer: int, upper: list[int], inner: int, lower: list[int]) -> list[tuple[int, int]]:
    return _chain(outer, *upper, inner, *reversed(lower), closed=True)


@lru_cache
def local_edges(device: torch.device | None = None) -> tuple[torch.Tensor, ...]:
    """Contours of the local landmarks (edge.topology.LOCAL) as groups of edges into its rows, int64 [E, 2] each.

    Outer lips, inner lips, lids, irises (a point each), brows, jaw: what each is tells the dense motion network how
    it moves.
    """
    outer_lips = _chain(61, 40, 37, 0, 267, 270, 291, 321, 314, 17, 84, 91, closed=True)
    inner_lips = _chain(78, 80, 82, 13, 312, 310, 308, 318, 317, 14, 87, 88, closed=True)
    lids = _eye(33, [160, 159, 158], 133, [144, 145, 153]) + _eye(263, [387, 386, 385], 362, [373, 374, 380])
    irises = [(topo.RIGHT_IRIS_CENTRE,) * 2, (topo.LEFT_IRIS_CENTRE,) * 2]
    brows = _chain(70, 105, 107) + _chain(300, 334, 336)
    jaw = _chain(136, 149, 152, 378, 365)
    rows = {int(landmark): row for row, landmark in enumerate(topo.LOCAL)}
    groups = (outer_lips, inner_lips, lids, irises, brows, jaw)
    return tuple(torch.tensor([[rows[a], rows[b]] for a, b in group], device=device) for group in groups)


LOCAL_MAPS = 6
"""Groups of `local_edges`."""


def draw(points: torch.Tensor, edges: torch.Tensor, size: int, *, per_edge: int) -> torch.Tensor:
    """Edges as lines one pixel wide.

    Args:
        points: float32 [N, P, 2 or more], crop coordinates (±1 at the centres of the border's pixels).
        edges: int64 [E, 2], rows of the points, on their device.
        size: of the picture.
        per_edge: points along an edge, at least 2.

    Returns:
        float32 [N, size, size] in 0..1; what lies outside the crop is not drawn.
    """
    ends = ((points[..., :2].float() + 1) * ((size - 1) / 2))[:, edges]
    share = torch.linspace(0, 1, per_edge, device=points.device).view(1, 1, -1, 1)
    dots = (ends[:, :, 0:1] * (1 - share) + ends[:, :, 1:2] * share).flatten(1, 2)
    corner = dots.floor()
    rest = dots - corner
    x, y = corner.long().unbind(-1)
    picture = points.new_zeros(len(points), size * size, dtype=torch.float32)
    for right in (0, 1):
        for down in (0, 1):
            weight = (rest[..., 0] if right else 1 - rest[..., 0]) * (rest[..., 1] if down else 1 - rest[..., 1])
            column, row = x + right, y + down
            inside = (column >= 0) & (column < size) & (row >= 0) & (row < size)
            place = (row * size + column).where(inside, 0)
            picture.scatter_reduce_(1, place, weight * inside, "amax")
    return picture.view(-1, size, size)


@torch.no_grad()
def mesh_image(landmarks: torch.Tensor, size: int) -> torch.Tensor:
    """m: MediaPipe's face mesh drawn with its topology (paper Sec. 3.1).

    Args:
        landmarks: c, float32 [N, 478, 3], crop coordinates.
        size: width and height.

    Returns:
        float32 [N, 3, size, size] in 0..1: tesselation, contours, irises.
    """
    maps = [draw(landmarks, edges, size, per_edge=POINTS_PER_EDGE["mesh"]) for edges in mesh_edges(landmarks.device)]
    return torch.stack(maps, 1)


def local_maps(local_landmarks: torch.Tensor, size: int) -> torch.Tensor:
    """c^loc as pictures: float32 [N, M, 2 or 3] → [N, 6, size, size] in 0..1, one for each group of `local_edges`."""
    edges_of = local_edges(local_landmarks.device)
    groups = [draw(local_landmarks, edges, size, per_edge=POINTS_PER_EDGE["contour"]) for edges in edges_of]
    return torch.stack(groups, 1)
