"""Teachers: one photo and landmarks in, frames out. One small protocol, chosen by name in `training.teachers.load`."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch

from training.student.driver import Driver

Discriminator = Callable[[torch.Tensor], torch.Tensor]
"""Frames of 512 px, or square windows of them, in; realness out (1 = real)."""


class Identity(NamedTuple):
    """All that a teacher binds once to a person (paper Sec. 3.1)."""

    source_image: torch.Tensor
    """I_s: float32 [3, 512, 512], RGB in 0..1, cropped."""
    source_landmarks: torch.Tensor
    """c: float32 [478, 3], crop coordinates."""
    keypoints: torch.Tensor
    """p_3D of the source: float32 [K, 3]."""
    appearance_volume: torch.Tensor
    """F_3D: float32 [C, D, H, W]. The mesh teacher's is the photo itself, [3, 1, 512, 512]."""
    binding: Any = None
    """What the teacher itself needs to animate this person; nobody else looks inside."""


class Rendering(NamedTuple):
    """What a teacher delivers for N driving poses."""

    frames: torch.Tensor
    """y: float32 [N, 3, 512, 512], RGB in 0..1."""
    keypoints: torch.Tensor
    """p_3D: float32 [N, K, 3]."""
    motion_field: torch.Tensor
    """Backward field: float32 [N, 64, 64, 2]; cell (h, w) of the frame is read from the source at (x, y)."""
    occlusion: torch.Tensor
    """float32 [N, 1, 64, 64]; 1 where warping the source gives the frame, 0 where it must be painted."""


class Teacher(Protocol):
    """A strong animator that the student learns from."""

    name: str
    version: str
    """Another one for whatever draws another frame: code, weights. Frames cached by another are not used."""

    discriminator: Discriminator | None
    """For the student's L_G, where the teacher was trained against one."""

    def prepare(self, source_image: torch.Tensor, source_landmarks: torch.Tensor) -> Identity:
        """Bind a photo: image float32 [3, 512, 512] in 0..1 and its landmarks float32 [478, 3]."""
        ...

    def render(self, identity: Identity, landmarks: torch.Tensor, images: torch.Tensor | None = None) -> Rendering:
        """Animate.

        Args:
            identity: what `prepare` gave.
            landmarks: float32 [N, 478, 3], already retargeted to this person.
            images: float32 [N, 3, 512, 512] in 0..1, what the landmarks were found in, for teachers that look at it.
        """
        ...

    def driver(self, identity: Identity) -> Driver | None:
        """The exact map landmarks → keypoints where there is one; else distillation fits one to the track."""
        ...
