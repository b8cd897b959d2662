"""A teacher small enough for tests: a disc around the face slides with the nose over a grey ground."""

import numpy as np
import torch

from edge.spec import FIELD, KEYPOINTS, NETWORK
from edge.topology import LOCAL, NOSE_TIP
from training.student.network import resize
from training.student.person import identity_grid, warp
from training.teachers import Identity, Rendering


class SlidingTeacher:
    name, version, discriminator = "sliding", "1", None

    def prepare(self, source_image: torch.Tensor, source_landmarks: torch.Tensor) -> Identity:
        keypoints = source_landmarks[torch.from_numpy(LOCAL[2 : 2 + KEYPOINTS])]
        return Identity(source_image, source_landmarks, keypoints, source_image[:, None])

    def render(self, identity: Identity, landmarks: torch.Tensor, images: torch.Tensor | None = None) -> Rendering:
        slide = landmarks[:, NOSE_TIP, :2] - identity.source_landmarks[NOSE_TIP, :2]

        def disc(size: int) -> torch.Tensor:
            away = identity_grid(size) - landmarks[:, NOSE_TIP, :2].view(-1, 1, 1, 2)
            return (away.norm(dim=-1) < 0.5).float()[:, None]

        moved = identity_grid(NETWORK) - slide.view(-1, 1, 1, 2)
        photo = warp(identity.source_image.expand(len(landmarks), -1, -1, -1), moved)
        inside = disc(NETWORK)
        inside_cells = disc(FIELD)
        field = identity_grid(FIELD) - slide.view(-1, 1, 1, 2) * inside_cells.permute(0, 2, 3, 1)
        keypoints = landmarks[:, torch.from_numpy(LOCAL[2 : 2 + KEYPOINTS])]
        return Rendering(photo * inside + 0.5 * (1 - inside), keypoints, field, torch.ones_like(inside_cells))

    def driver(self, identity: Identity) -> None:
        return None


def sliding_identity(landmarks: np.ndarray) -> Identity:
    """The teacher's identity for a soft random photo and these landmarks [478, 3]."""
    photo = resize(torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(0)), NETWORK)[0]
    return SlidingTeacher().prepare(photo, torch.from_numpy(landmarks))


def sliding_track(landmarks: np.ndarray, frames: int, *, seed: int) -> np.ndarray:
    """The face at `frames` random places: float32 [T, 478, 3]."""
    slide = np.random.default_rng(seed).uniform(-0.2, 0.2, (frames, 1, 3)) * (1, 1, 0)
    return (landmarks + slide).astype(np.float32)
