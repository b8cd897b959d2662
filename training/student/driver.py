"""The driver net: landmarks → keypoints, all that a phone needs of MEM (design of the student's door, paper Sec. 3.2).

A teacher that moves keypoints with the head alone has an exact one, `RigidDriver`. For Φ, `fit_driver` fits one to the
keypoints that MEM found in the frames of one person's track: a linear map and a small hidden layer.
"""

from typing import ClassVar

import numpy as np
import torch
from torch import nn

from edge import topology as topo
from edge.motion import DEPTH_WEIGHT
from edge.spec import KEYPOINTS

HIDDEN = 64
"""Width of the hidden layer."""
COMPONENTS = 48
"""Principal components of the landmarks that the fit looks at."""
LOOKED_AT = np.unique(np.concatenate([topo.LOCAL, topo.STABLE, topo.FACE_OVAL]))
"""Landmarks that a fitted driver reads."""
ROUNDS, NEWTON_STEPS = 4, 3
"""Rounds of the pose fit, as in `edge.motion.fit_similarity`, and Newton steps of each: keypoints are
within a hundredth of a pixel."""


class Driver(nn.Module):
    """Landmarks float32 [N, 478, 3], crop coordinates → keypoints [N, K, 2]. All it knows is its state."""

    SHAPES: ClassVar[dict[str, tuple[int, ...]]]
    """Of its state, by name."""

    def sound(self) -> bool:
        """Whether its state has the right shapes and is finite."""
        state = self.state_dict()
        shapes = {name: tuple(part.shape) for name, part in state.items()}
        return shapes == self.SHAPES and all(bool(torch.isfinite(part).all()) for part in state.values())

    def faces(self, landmarks: torch.Tensor) -> torch.Tensor:
        """Landmarks [N, 478, 3] as near a face as this driver needs them, made of any: to compare runtimes on."""
        return landmarks


class RigidDriver(Driver):
    """Keypoints fixed to the head: the pose of the stable landmarks takes them along, s · R · x + t.

    The same pose as `edge.motion.fit_similarity` finds, depth weighed as there, from plain products that every runtime
    has: the rotation is the orthogonal factor of a 3 × 3 matrix, by Newton's iteration with scaling (Higham 1986).
    """

    SHAPES: ClassVar = {"reference": (len(topo.STABLE), 3), "keypoints": (KEYPOINTS, 3)}

    reference: torch.Tensor
    keypoints: torch.Tensor
    stable: torch.Tensor
    rest: torch.Tensor
    rest_columns: torch.Tensor
    carried: torch.Tensor
    size: torch.Tensor
    mean: torch.Tensor
    total: torch.Tensor
    cofactors: torch.Tensor

    def __init__(self, reference: torch.Tensor, keypoints: torch.Tensor) -> None:
        """Of the photo: stable landmarks float32 [32, 3] and keypoints [K, 3], crop coordinates."""
        super().__init__()
        centre = reference.mean(0, keepdim=True)
        self.register_buffer("reference", reference)
        self.register_buffer("keypoints", keypoints)
        rest = reference - centre
        derived = {
            "stable": torch.from_numpy(topo.STABLE),
            "rest": rest,
            "rest_columns": rest.T.contiguous(),
            "carried": (keypoints - centre).T.contiguous(),
            "size": rest.square().sum(),
            # Sums are products with ones: those run where the rest runs, on all runtimes.
            "mean": torch.full((len(topo.STABLE), 1), 1 / len(topo.STABLE)),
            "total": torch.ones(9, 1),
            "cofactors": _cofactors(),
        }
        for name, part in derived.items():
            self.register_buffer(name, part, persistent=False)

    def posed(self, landmarks: torch.Tensor) -> torch.Tensor:
        """Landmarks [N, 478, 3] → keypoints with their depth, [N, K, 3]."""
        points = landmarks.index_select(1, self.stable).transpose(1, 2)
        plane, measured = points[:, 0:2], points[:, 2:3]
        depth = measured
        for round_ in range(ROUNDS):
            target = torch.cat([plane, depth], 1)
            middle = torch.matmul(target, self.mean)
            spread = torch.matmul(target - middle, self.rest)
            rotation = self._rotation(spread)
            scale = torch.matmul((rotation * spread).reshape(-1, 9), self.total) / self.size
            turn = rotation * scale.unsqueeze(2)
            if round_ + 1 < ROUNDS:
                fitted = torch.matmul(turn[:, 2:3], self.rest_columns) + middle[:, 2:3]
                depth = DEPTH_WEIGHT * measured + (1 - DEPTH_WEIGHT) * fitted
        return (torch.matmul(turn, self.carried) + middle).transpose(1, 2)

    def forward(self, landmarks: torch.Tensor) -> torch.Tensor:
        """Landmarks [N, 478, 3] → keypoints [N, K, 2]."""
        return self.posed(landmarks)[:, :, :2]

    def _rotation(self, matrix: torch.Tensor) -> torch.Tensor:
        """The orthogonal factor of [N, 3, 3], the rotation nearest to it."""
        flat = matrix.reshape(-1, 9)
        for _ in range(NEWTON_STEPS):
            terms = torch.matmul(flat, self.cofactors)
            cofactors = terms[:, 0:9] * terms[:, 9:18] - terms[:, 18:27] * terms[:, 27:36]
            determinant = torch.matmul(flat * cofactors, self.total) * (1 / 3)
            inverse = cofactors / determinant  # transposed
            balance = torch.matmul(inverse * inverse, self.total) / torch.matmul(flat * flat, self.total)
            balance = balance.sqrt().sqrt()
            flat = 0.5 * (flat * balance + inverse / balance)
        return flat.reshape(-1, 3, 3)

    def faces(self, landmarks: torch.Tensor) -> torch.Tensor:
        """As `Driver.faces`: its own stable points, all moved a little."""
        own = torch.zeros_like(landmarks)
        own[:, self.stable] = self.reference
        return own + 0.1 * landmarks


def _cofactors() -> torch.Tensor:
    """float32 [9, 36]: the four factors of each cofactor of a flattened 3 × 3 matrix."""
    chosen = torch.zeros(9, 4, 9)
    for row in range(3):
        for column in range(3):
            (up, down), (left, right) = (((at + 1) % 3, (at + 2) % 3) for at in (row, column))
            for factor, (i, j) in enumerate(((up, left), (down, right), (up, right), (down, left))):
                chosen[3 * i + j, factor, 3 * row + column] = 1
    return chosen.reshape(9, 36)


class FittedDriver(Driver):
    """keypoints = weight · c + bias + outer · relu(inner · c + inner_bias), c what it reads of the 478 × 3 numbers."""

    SHAPES: ClassVar = {
        "weight": (3 * len(LOOKED_AT), 2 * KEYPOINTS), "bias": (2 * KEYPOINTS,),
        "inner": (3 * len(LOOKED_AT), HIDDEN), "inner_bias": (HIDDEN,), "outer": (HIDDEN, 2 * KEYPOINTS),
    }  # fmt: skip

    weight: torch.Tensor
    bias: torch.Tensor
    inner: torch.Tensor
    inner_bias: torch.Tensor
    outer: torch.Tensor

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor, inner: torch.Tensor, inner_bias: torch.Tensor,
        outer: torch.Tensor,
    ) -> None:  # fmt: skip
        """float32, of `SHAPES`."""
        super().__init__()
        named = {"weight": weight, "bias": bias, "inner": inner, "inner_bias": inner_bias, "outer": outer}
        for name, part in named.items():
            self.register_buffer(name, part.float().contiguous())
        self.register_buffer("read", torch.from_numpy(LOOKED_AT), persistent=False)

    def forward(self, landmarks: torch.Tensor) -> torch.Tensor:
        """Landmarks [N, 478, 3] → keypoints [N, K, 2]."""
        seen = landmarks.index_select(1, self.read).flatten(1)
        points = torch.matmul(seen, self.weight) + self.bias
        points = points + torch.matmul(torch.relu(torch.matmul(seen, self.inner) + self.inner_bias), self.outer)
        return points.reshape(-1, KEYPOINTS, 2)


def fit_driver(
    landmarks: torch.Tensor, keypoints: torch.Tensor, *, steps: int = 800, ridge: float = 1e-5
) -> FittedDriver:
    """The driver that gives these keypoints for these landmarks: ridge regression, then a hidden layer for the rest.

    Args:
        landmarks: float32 [T, 478, 3] of a person's track.
        keypoints: float32 [T, K, 2], what the teacher found in its frames.
        steps: of the hidden layer's training, on all frames at once; seconds.
        ridge: its weight, where the first component's spread is 1.
    """
    seen = landmarks[:, torch.from_numpy(LOOKED_AT)].flatten(1).double()
    wanted = keypoints.flatten(1).double()
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

    with torch.no_grad():  # weights on components as weights on what is read
        weight, inner_weight = project @ linear[:-1], project @ inner.weight.double().T
        return FittedDriver(
            weight,
            linear[-1] - mean @ weight + outer.bias.double(),
            inner_weight,
            inner.bias.double() - mean @ inner_weight,
            outer.weight.T.clone(),
        )
