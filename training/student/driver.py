"""The driver net: landmarks → keypoints, all that a phone needs of MEM (design of the student's door, paper Sec. 3.2).

For the mesh teacher it is an exact linear map. For Φ it is a linear map and a small hidden layer, fitted to the
keypoints that MEM found in the frames of one person's track: `fit_driver`.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from edge import topology as topo
from edge.spec import KEYPOINTS

HIDDEN = 64
"""Width of the hidden layer."""
COMPONENTS = 48
"""Principal components of the landmarks that the fit looks at."""
LOOKED_AT = np.unique(np.concatenate([topo.LOCAL, topo.STABLE, topo.FACE_OVAL]))
"""Landmarks that a fitted driver reads."""


class Driver(NamedTuple):
    """keypoints = weight · c + bias + outer · relu(inner · c + inner_bias), c the 478 × 3 numbers of a face."""

    weight: torch.Tensor
    """float32 [K * 2, 478 * 3]."""
    bias: torch.Tensor
    """float32 [K * 2]."""
    inner: torch.Tensor | None = None
    """float32 [HIDDEN, 478 * 3], or None: there is no hidden layer."""
    inner_bias: torch.Tensor | None = None
    """float32 [HIDDEN]."""
    outer: torch.Tensor | None = None
    """float32 [K * 2, HIDDEN]."""

    def __call__(self, landmarks: torch.Tensor) -> torch.Tensor:
        """Landmarks float32 [N, 478, 3], crop coordinates → keypoints [N, K, 2]."""
        flat = landmarks.flatten(1)
        points = flat @ self.weight.T + self.bias
        if self.inner is not None:
            points = points + torch.relu(flat @ self.inner.T + self.inner_bias) @ self.outer.T
        return points.view(-1, KEYPOINTS, 2)


def fit_driver(landmarks: torch.Tensor, keypoints: torch.Tensor, *, steps: int = 800, ridge: float = 1e-5) -> Driver:
    """The driver that gives these keypoints for these landmarks: ridge regression, then a hidden layer for the rest.

    Args:
        landmarks: float32 [T, 478, 3] of a person's track.
        keypoints: float32 [T, K, 2], what the teacher found in its frames.
        steps: of the hidden layer's training, on all frames at once; seconds.
        ridge: its weight, where the first component's spread is 1.
    """
    columns = torch.from_numpy((LOOKED_AT[:, None] * 3 + np.arange(3)).ravel())
    flat, wanted = landmarks.flatten(1).double(), keypoints.flatten(1).double()
    seen = flat[:, columns]
    mean = seen.mean(0)
    _, spread, axes = torch.linalg.svd(seen - mean, full_matrices=False)
    # One scale for all components: those that hardly move stay small, and the ridge holds their weights down. Brought
    # to unit spread each, they blow up whatever a track did not show.
    count = min(COMPONENTS, len(spread))
    project = axes[:count].T / (spread[0] / len(seen) ** 0.5)
    inputs = (seen - mean) @ project

    ones = torch.cat([inputs, torch.ones_like(inputs[:, :1])], 1)
    hold = ridge * len(ones) * torch.eye(count + 1).double()
    hold[-1, -1] = 0
    linear = torch.linalg.solve(ones.T @ ones + hold, ones.T @ wanted)
    rest = (wanted - ones @ linear).float()

    with torch.random.fork_rng():
        torch.manual_seed(0)
        inner, outer = nn.Linear(count, HIDDEN), nn.Linear(HIDDEN, rest.shape[1])
    nn.init.zeros_(outer.weight)
    optimiser = torch.optim.Adam([*inner.parameters(), *outer.parameters()], lr=3e-3, weight_decay=1e-5)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    x = inputs.float()
    with torch.enable_grad():
        for _ in range(steps):
            optimiser.zero_grad()
            (outer(torch.relu(inner(x))) - rest).square().mean().backward()
            optimiser.step()
            schedule.step()

    def spread_out(weight: torch.Tensor) -> torch.Tensor:
        """Weights on components as weights on all numbers of a face."""
        full = torch.zeros(len(weight), flat.shape[1], dtype=torch.float64)
        full[:, columns] = weight.detach().double() @ project.T
        return full

    weight, inner_weight = spread_out(linear[:-1].T), spread_out(inner.weight)
    at_mean = torch.zeros(flat.shape[1], dtype=torch.float64)
    at_mean[columns] = mean
    return Driver(
        weight.float(),
        (linear[-1] - weight @ at_mean + outer.bias.detach().double()).float(),
        inner_weight.float(),
        (inner.bias.detach().double() - inner_weight @ at_mean).float(),
        outer.weight.detach().clone(),
    )
