"""The paper's teacher Φ behind the Teacher protocol: trained weights, one photo, landmarks in, frames out.

MEM wants a driving *image* beside landmarks and their drawing. For motion that exists as landmarks alone (procedural,
or retargeted from another person) the mesh teacher draws that image: the same person, roughly in that pose.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F

from edge.errors import InputError
from edge.spec import FIELD, NETWORK
from training.checkpoint import load_tensors
from training.config import TeacherConfig
from training.phi.discriminator import Discriminator
from training.phi.motion import Flow, Keypoints
from training.phi.network import Face, SuperFace, make_face, refuse_newer
from training.teachers import Identity, Rendering
from training.teachers.mesh import MeshTeacher

VERSION = 1
"""Counted up with whatever makes the same weights draw another frame; a test compares three."""
CHUNK = 4
"""Frames through Φ at once."""


class Binding(NamedTuple):
    """What Φ keeps of a person."""

    volume: torch.Tensor
    """F_3D at its own size: [1, C, D, H, W]."""
    source: Face
    keypoints: Keypoints
    mesh: Identity
    """The same person as the mesh teacher binds them."""


class SuperFaceTeacher:
    """Φ with trained weights."""

    name = "superface"

    def __init__(self, path: Path) -> None:
        """Read `teacher.safetensors`, as `superface train` writes it.

        Raises:
            InputError: when there is no such file, or it is damaged or of a newer version.
        """
        tensors, card = load_tensors(path)
        try:
            refuse_newer(path, card["version"])
            self.network = SuperFace(TeacherConfig(**card["config"]))
            self.network.load_state_dict(_part(tensors, "teacher/"))
            self._judge = Discriminator(card["training"]["discriminator_channels"])
            self._judge.load_state_dict(_part(tensors, "discriminator/"))
        except (KeyError, TypeError, RuntimeError) as error:
            raise InputError(f"{path} holds no teacher of this version ({error}).") from error
        self.card = card
        self.regions: tuple[str, ...] = tuple(card["training"]["regions"])
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network.requires_grad_(False).eval().to(self.device)
        self._judge.requires_grad_(False).eval().to(self.device)
        self.mesh = MeshTeacher()
        self.version = f"{VERSION} {self.mesh.version} {hashlib.sha256(path.read_bytes()).hexdigest()}"

    def prepare(self, source_image: torch.Tensor, source_landmarks: torch.Tensor) -> Identity:
        """Bind a photo: image float32 [3, 512, 512] in 0..1 and its landmarks float32 [478, 3]."""
        face = self._face(source_image[None], source_landmarks[None])
        with torch.no_grad():
            volume = self.network.appearance(face.image)
            keypoints = self.network.keypoints(face)
        mesh = self.mesh.prepare(source_image, source_landmarks)
        wide = volume[0].cpu()
        if wide.shape[-1] != FIELD:  # the student's features are FIELD cells wide
            wide = F.interpolate(wide, (FIELD, FIELD), mode="bilinear", align_corners=True)
        return Identity(
            source_image, source_landmarks, keypoints.points[0].cpu(), wide, Binding(volume, face, keypoints, mesh)
        )

    @torch.no_grad()
    def render(self, identity: Identity, landmarks: torch.Tensor, images: torch.Tensor | None = None) -> Rendering:
        """Animate: landmarks float32 [N, 478, 3], and the images that they were found in (`Teacher.render`).

        The motion is theirs, the canonical keypoints are the source's: whose images they are does not matter.
        """
        bound: Binding = identity.binding
        if images is None:
            images = self.mesh.render(bound.mesh, landmarks).frames
        parts = []
        for rows in torch.arange(len(images)).split(CHUNK):
            face = self._face(images[rows], landmarks[rows])
            driving = self.network.keypoints(face).of(bound.keypoints)
            source = Keypoints(*(value.expand(len(rows), *value.shape[1:]) for value in bound.keypoints))
            frames, flow = self.network.animate(
                bound.volume.expand(len(rows), *bound.volume.shape[1:]),
                source=source,
                driving=driving,
                source_local=bound.source.local.expand(len(rows), -1, -1),
                driving_local=face.local,
            )
            parts.append((_at(frames, NETWORK).clamp(0, 1), driving.points, *_flat(flow)))
        return Rendering(*(torch.cat(values).cpu() for values in zip(*parts, strict=True)))

    def driver(self, identity: Identity) -> None:
        """None: no exact map gives MEM's keypoints; distillation fits one (training.student.driver)."""
        return

    @property
    def discriminator(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """Frames, or square windows of frames of 512 px, in; realness of all patches out (1 = real): [N, P]."""
        shrink = NETWORK // self.network.config.size

        def judge(frames: torch.Tensor) -> torch.Tensor:
            small = F.avg_pool2d(frames, shrink) if shrink > 1 else frames
            return torch.cat([judgement.realness.flatten(1) for judgement in self._judge(small)], 1)

        return judge

    def _face(self, images: torch.Tensor, landmarks: torch.Tensor) -> Face:
        small = _at(images.to(self.device), self.network.config.size)
        return make_face(small, landmarks.to(self.device).float(), self.regions)


def _at(frames: torch.Tensor, size: int) -> torch.Tensor:
    """Frames at another size."""
    if frames.shape[-1] == size:
        return frames
    if frames.shape[-1] > size:
        return F.interpolate(frames, (size, size), mode="area")
    return F.interpolate(frames, (size, size), mode="bicubic", align_corners=False)


def _flat(flow: Flow) -> tuple[torch.Tensor, torch.Tensor]:
    """W_3D seen from the front: the mean over depth, at 64 × 64, and the occlusion."""
    field = flow.field.mean(1)[..., :2].permute(0, 3, 1, 2)
    field, seen = (
        F.interpolate(maps, (FIELD, FIELD), mode="bilinear", align_corners=True) for maps in (field, flow.occlusion)
    )
    return field.permute(0, 2, 3, 1), seen


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
