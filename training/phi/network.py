"""The teacher Φ: one photo and the motion of driving frames → frames (paper Sec. 3.1, Fig. 2).

    I_s ─▶ appearance encoder ─▶ F_3D ──────────────┬─▶ warp ─▶ generator (GEN) ─▶ y
    I_s, m_s, c_s ─▶ MEM ─▶ p_3D of the source ──┬─▶ DMN ─▶ W_3D, occlusion
    I_d, m_d, c_d ─▶ MEM ─▶ p_3D of the driving ─┘

`python -m training.phi.network` prints what each size costs. Letters: N batch, K keypoints, M local landmarks,
C D H W of the volume, S the frame's size.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from edge.errors import InputError
from edge.spec import LOCAL_LANDMARKS
from edge.topology import LANDMARKS, LOCAL
from training.config import TEACHERS, TeacherConfig
from training.phi.augment import hidden_landmarks, region_mask
from training.phi.blocks import Down, Residual, Same, Up, conv, norm
from training.phi.drawing import mesh_image
from training.phi.motion import DenseMotion, Flow, Keypoints, MotionEnhancing, warp_volume

VERSION = 1
"""Of the files that hold its weights; a reader refuses a newer one."""


class Face(NamedTuple):
    """One image as the motion networks see it."""

    image: torch.Tensor
    """I: float32 [N, 3, S, S] in 0..1."""
    mesh: torch.Tensor
    """m: float32 [N, 3, S, S] in 0..1."""
    landmarks: torch.Tensor
    """c: float32 [N, 478, 3], crop coordinates."""
    local: torch.Tensor
    """c^loc: float32 [N, M, 2]."""
    mask: torch.Tensor | None = None
    """What MTM hides: float32 [N, 1, S, S]."""
    hidden: torch.Tensor | None = None
    """Landmarks that MTM hides: int64."""


def make_face(images: torch.Tensor, landmarks: torch.Tensor, regions: tuple[str, ...]) -> Face:
    """Images float32 [N, 3, S, S] in 0..1 and landmarks [N, 478, 3] as Φ's motion networks see them."""
    size = images.shape[-1]
    local = landmarks[:, torch.from_numpy(LOCAL).to(landmarks.device), :2]
    mask = region_mask(landmarks, size, regions) if regions else None
    hidden = hidden_landmarks(regions, landmarks.device) if regions else None
    return Face(images, mesh_image(landmarks, size), landmarks, local, mask, hidden)


def refuse_newer(path: Path, version: int) -> None:
    """Raise InputError for a checkpoint or weights of a version that is not known here."""
    if version > VERSION:
        raise InputError(f"{path} was made by a newer version. Update this software.")


class Animated(NamedTuple):
    """Frames and the motion behind them."""

    frames: torch.Tensor
    """y: float32 [N, 3, S, S] in 0..1."""
    source: Keypoints
    driving: Keypoints
    flow: Flow
    transformed: Keypoints | None = None
    """Of the transformed source, where one was given."""


class AppearanceEncoder(nn.Module):
    """I_s → F_3D: 2-D convolutions, channels unfolded into depth, 3-D residual blocks."""

    def __init__(self, config: TeacherConfig) -> None:
        super().__init__()
        widths = [min(4, 2**level) * config.stem_channels for level in range(config.halvings + 1)]
        self.flat = nn.Sequential(
            Same(3, widths[0], kernel=7),
            *[Down(widths[level], widths[level + 1]) for level in range(config.halvings)],
            conv(widths[-1], config.volume_channels * config.volume_depth, kernel=1),
        )
        self.shape = (config.volume_channels, config.volume_depth)
        self.deep = nn.Sequential(*[Residual(config.volume_channels, depth=True) for _ in range(config.volume_blocks)])

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Images float32 [N, 3, S, S] in 0..1 → F_3D [N, C, D, H, W]."""
        return self.deep(self.flat(2 * image - 1).unflatten(1, self.shape))


class Generator(nn.Module):
    """GEN: the warped volume, its occlusion and the motion's hints → a frame."""

    def __init__(self, config: TeacherConfig, hint_channels: int) -> None:
        super().__init__()
        width = config.generator_channels
        self.flatten = Same(config.volume_channels * config.volume_depth, width)
        self.join = conv(width + hint_channels, width, kernel=1)
        self.blocks = nn.Sequential(*[Residual(width) for _ in range(config.generator_blocks)])
        steps: list[nn.Module] = []
        for _ in range(config.halvings):
            steps.append(Up(width, max(width // 2, 32)))
            width = max(width // 2, 32)
        self.grow = nn.Sequential(*steps, norm(width), nn.ReLU(), conv(width, 3, kernel=7))

    def forward(self, warped: torch.Tensor, flow: Flow) -> torch.Tensor:
        """Warped F_3D [N, C, D, H, W] → frames float32 [N, 3, S, S] in 0..1."""
        x = self.flatten(warped.flatten(1, 2)) * flow.occlusion.to(warped.dtype)
        x = self.blocks(self.join(torch.cat([x, flow.hints], 1)))
        return torch.sigmoid(self.grow(x).float())


class SuperFace(nn.Module):
    """Φ as one module: `forward` is a training step's half, `appearance` binds once, `animate` drives often."""

    def __init__(self, config: TeacherConfig) -> None:
        super().__init__()
        self.config = config
        self.appearance = AppearanceEncoder(config)
        self.enhance = MotionEnhancing(config)
        self.dense_motion = DenseMotion(config)
        self.generator = Generator(config, self.dense_motion.hint_channels)

    def keypoints(self, face: Face) -> Keypoints:
        """MEM on one face of each of N images."""
        return self.enhance(face.image, face.mesh, face.landmarks, mask=face.mask, hidden=face.hidden)

    def animate(
        self,
        volume: torch.Tensor,
        *,
        source: Keypoints,
        driving: Keypoints,
        source_local: torch.Tensor,
        driving_local: torch.Tensor,
    ) -> tuple[torch.Tensor, Flow]:
        """Frames [N, 3, S, S] from F_3D [N, C, D, H, W] and the motion of both faces."""
        flow = self.dense_motion(
            volume, source=source, driving=driving, source_local=source_local, driving_local=driving_local
        )
        return self.generator(warp_volume(volume, flow.field), flow), flow

    def forward(
        self,
        *,
        source: Face,
        driving: Face,
        appearance: torch.Tensor | None = None,
        transformed: Face | None = None,
    ) -> Animated:
        """The source animated by the driving face, of the same person.

        Args:
            source: I_s, m_s, c_s.
            driving: I_d, m_d, c_d.
            appearance: what the appearance encoder sees instead of I_s: the degraded image of SSR.
            transformed: I_s after the equivariance loss's transform, for its keypoints.
        """
        volume = self.appearance(source.image if appearance is None else appearance)
        faces = [source, driving, *([transformed] if transformed else [])]
        found = split_keypoints(self.keypoints(join_faces(faces)), len(faces))
        frames, flow = self.animate(
            volume,
            source=found[0],
            driving=found[1],
            source_local=source.local,
            driving_local=driving.local,
        )
        return Animated(frames, found[0], found[1], flow, found[2] if transformed else None)


def join_faces(faces: list[Face]) -> Face:
    """Batches of faces as one batch; what is hidden must be the same in all."""
    image, mesh, landmarks, local = (torch.cat(parts) for parts in list(zip(*faces, strict=True))[:4])
    mask = None if faces[0].mask is None else torch.cat([face.mask for face in faces])
    return Face(image, mesh, landmarks, local, mask, faces[0].hidden)


def split_keypoints(keypoints: Keypoints, count: int) -> list[Keypoints]:
    """A joined batch's keypoints, batch by batch."""
    return [Keypoints(*parts) for parts in zip(*(values.chunk(count) for values in keypoints), strict=True)]


class TeacherCost(NamedTuple):
    """What one frame costs: everything that runs for it, and what runs once for a photo."""

    gmacs: float
    """All of Φ on one pair of images, as the paper counts."""
    per_frame_gmacs: float
    """MEM on the driving image, DMN, warp and generator."""
    parameters: int


def teacher_cost(config: TeacherConfig) -> TeacherCost:
    """Counts multiply-accumulates of convolutions and matrix products, without allocating weights."""
    with torch.device("meta"):
        teacher = SuperFace(config).eval()
        image = torch.zeros(1, 3, config.size, config.size)
        face = Face(image, image, torch.zeros(1, LANDMARKS, 3), torch.zeros(1, LOCAL_LANDMARKS, 2))
        counts = []
        with torch.no_grad():
            for run in (
                lambda: teacher.appearance(image),
                lambda: teacher.keypoints(face),
                lambda: teacher(source=face, driving=face),
            ):
                with FlopCounterMode(display=False) as counter:
                    run()
                counts.append(counter.get_total_flops() / 2e9)
    appearance, motion, whole = counts
    return TeacherCost(whole, whole - appearance - motion, sum(p.numel() for p in teacher.parameters()))


def main() -> None:
    """Print the sizes."""
    for name, config in TEACHERS.items():
        cost = teacher_cost(config)
        print(
            f"{name:14}{cost.gmacs:7.1f} GMACs, {cost.per_frame_gmacs:.1f} of them a frame, "
            f"{cost.parameters / 1e6:.1f} M parameters"
        )


if __name__ == "__main__":
    main()
