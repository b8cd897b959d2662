"""The teacher's motion: MEM finds keypoints, the dense motion network makes a volume of flow of them (paper Sec. 3.1).

    image I, mesh image m ─(mask: MTM)─▶ encoder ─┐ early infusion: m beside I
    landmarks c ─(without the masked)──▶ MLP ─────┴▶ heads ─▶ p^c, (R, t), δ ─▶ p = R p^c + t + δ     late infusion: c
    F_3D, p of source and driving, c^loc of both ─▶ k + 1 candidate motions ─▶ 3-D hourglass ─▶ W_3D, occlusion

Letters: N batch, K keypoints, M local landmarks, C D H W of the appearance volume.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from edge.spec import KEYPOINTS
from edge.topology import LANDMARKS
from training.config import TeacherConfig
from training.phi.blocks import Hourglass, Residual, Same, conv, norm
from training.phi.drawing import LOCAL_MAPS, local_maps

LOOK = 256
"""Largest image that MEM looks at: what is finer is appearance, not motion."""
HEAT_VARIANCE = 0.01
"""Of a keypoint's bell in the volume, in squared crop coordinates."""


class Keypoints(NamedTuple):
    """What MEM finds in one image."""

    canonical: torch.Tensor
    """p^c: float32 [N, K, 3], the head seen from the front."""
    rotation: torch.Tensor
    """R: float32 [N, 3, 3]."""
    angles: torch.Tensor
    """Yaw, pitch, roll behind R: float32 [N, 3], radians."""
    translation: torch.Tensor
    """t: float32 [N, 1, 3]."""
    expression: torch.Tensor
    """δ: float32 [N, K, 3]."""

    @property
    def points(self) -> torch.Tensor:
        """p_3D = R p^c + t + δ: float32 [N, K, 3], crop coordinates."""
        return self.canonical @ self.rotation.mT + self.translation + self.expression

    def of(self, source: "Keypoints") -> "Keypoints":
        """These pose and expression on the source's canonical keypoints: another person's motion."""
        return self._replace(canonical=source.canonical.expand_as(self.expression))


def rotation_matrix(angles: torch.Tensor) -> torch.Tensor:
    """Yaw (about y), pitch (about x), roll (about z), radians [N, 3] → R = R_z R_x R_y, [N, 3, 3]."""
    (cos_y, cos_x, cos_z), (sin_y, sin_x, sin_z) = angles.cos().unbind(-1), angles.sin().unbind(-1)
    one, none = torch.ones_like(cos_y), torch.zeros_like(cos_y)
    yaw = torch.stack([cos_y, none, sin_y, none, one, none, -sin_y, none, cos_y], -1).view(-1, 3, 3)
    pitch = torch.stack([one, none, none, none, cos_x, -sin_x, none, sin_x, cos_x], -1).view(-1, 3, 3)
    roll = torch.stack([cos_z, -sin_z, none, sin_z, cos_z, none, none, none, one], -1).view(-1, 3, 3)
    return roll @ pitch @ yaw


class MotionEnhancing(nn.Module):
    """MEM: image, drawn mesh and landmarks → keypoints.

    What the mask hides (paper's MTM) is taken out of all three inputs here, so that no caller can forget one.
    """

    def __init__(self, config: TeacherConfig) -> None:
        super().__init__()
        self.early, self.late = config.early_infusion, config.late_infusion
        widths = [config.encoder_channels * 2**level for level in range(4)]
        layers: list[nn.Module] = [conv(6 if self.early else 3, widths[0], kernel=7, stride=2)]
        for level, width in enumerate(widths):
            if level:
                layers += [norm(widths[level - 1]), nn.ReLU(), conv(widths[level - 1], width, stride=2)]
            layers += [Residual(width), Residual(width)]
        self.encoder = nn.Sequential(*layers, norm(widths[-1]), nn.ReLU(), conv(widths[-1], widths[-1], stride=2))
        joined = 2 * widths[-1] if self.late else widths[-1]
        if self.late:
            self.landmarks = nn.Sequential(
                nn.Linear(LANDMARKS * 3, widths[-1]), nn.ReLU(), nn.Linear(widths[-1], widths[-1]), nn.ReLU()
            )
        self.join = nn.Sequential(nn.Linear(joined, widths[-1]), nn.ReLU())
        self.canonical = nn.Linear(widths[-1], KEYPOINTS * 3)
        self.pose = nn.Linear(widths[-1], 6)
        self.expression = nn.Linear(widths[-1], KEYPOINTS * 3)
        for head in (self.canonical, self.pose, self.expression):
            nn.init.normal_(head.weight, std=1e-3)
            nn.init.zeros_(head.bias)
        with torch.no_grad():
            self.canonical.bias.copy_(_start().flatten())

    def forward(
        self,
        image: torch.Tensor,
        mesh: torch.Tensor,
        landmarks: torch.Tensor,
        *,
        mask: torch.Tensor | None = None,
        hidden: torch.Tensor | None = None,
    ) -> Keypoints:
        """Keypoints of each image.

        Args:
            image: I, float32 [N, 3, H, W] in 0..1.
            mesh: m, float32 [N, 3, H, W] in 0..1 (training.phi.drawing.mesh_image).
            landmarks: c, float32 [N, 478, 3], crop coordinates.
            mask: float32 [N, 1, H, W], 1 = hidden (training.phi.augment.region_mask).
            hidden: int64, landmarks that are hidden as well.
        """
        seen = torch.cat([image, mesh], 1) if self.early else image
        if mask is not None:
            seen = seen * (1 - mask)
        if seen.shape[-1] > LOOK:
            seen = F.interpolate(seen, (LOOK, LOOK), mode="area")
        features = self.encoder(2 * seen - 1).mean((2, 3))
        if self.late:
            if hidden is not None:
                landmarks = landmarks.index_fill(1, hidden, 0.0)
            features = torch.cat([features, self.landmarks(landmarks.flatten(1))], 1)
        features = self.join(features).float()
        pose = self.pose(features)
        angles = pose[:, :3]
        return Keypoints(
            self.canonical(features).view(-1, KEYPOINTS, 3),
            rotation_matrix(angles),
            angles,
            pose[:, None, 3:],
            self.expression(features).view(-1, KEYPOINTS, 3),
        )


def _start() -> torch.Tensor:
    """Canonical keypoints to start from: spread over an ellipsoid like a head's front, [K, 3]."""
    turn = torch.arange(KEYPOINTS) * 2.399963  # the golden angle: even at any count
    radius = ((torch.arange(KEYPOINTS) + 0.5) / KEYPOINTS).sqrt()
    x, y = 0.45 * radius * turn.cos(), 0.6 * radius * turn.sin()
    return torch.stack([x, y, -0.4 * (1 - radius.square()).sqrt()], -1)


class Flow(NamedTuple):
    """Where the driving frame is read in the source's volume."""

    field: torch.Tensor
    """W_3D, backward: float32 [N, D, H, W, 3], (x, y, z) in -1..1."""
    occlusion: torch.Tensor
    """float32 [N, 1, H, W]; 1 = visible in the source."""
    hints: torch.Tensor
    """What the network tells the generator of what is to be painted: [N, C, H, W]."""


def volume_grid(depth: int, height: int, width: int, like: torch.Tensor) -> torch.Tensor:
    """The field that moves nothing: float32 [1, D, H, W, 3], (x, y, z) in -1..1."""
    axes = [torch.linspace(-1, 1, size, device=like.device) for size in (depth, height, width)]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    return torch.stack([x, y, z], -1)[None]


def warp_volume(volume: torch.Tensor, field: torch.Tensor) -> torch.Tensor:
    """A volume [N, C, D, H, W] read at `field` [N, D, H, W, 3]: trilinear, border padding, corners on centres."""
    warped = F.grid_sample(volume.float(), field.float(), mode="bilinear", padding_mode="border", align_corners=True)
    return warped.to(volume.dtype)


class DenseMotion(nn.Module):
    """DMN: one candidate motion for each keypoint and one for what rests; the network says which holds where.

    c^loc comes as contours of source and driving face, drawn at the volume's size, and moves what the global keypoints
    do not know (MTM): through a correction of the flow and through hints.
    """

    def __init__(self, config: TeacherConfig) -> None:
        super().__init__()
        candidates = KEYPOINTS + 1
        self.compress = nn.Conv3d(config.volume_channels, config.compressed, 1)
        inputs = candidates * (config.compressed + 1) + 2 * LOCAL_MAPS
        self.hourglass = Hourglass(inputs, config.motion_channels, config.motion_levels, config.motion_most, depth=True)
        self.mask = conv(self.hourglass.outputs, candidates, depth=True)
        self.correct = conv(self.hourglass.outputs, 3, depth=True)
        self.hint_channels = 2 * config.motion_channels
        self.flat = Same(config.motion_channels * config.volume_depth, self.hint_channels)
        self.local = Same(2 * LOCAL_MAPS + self.hint_channels, self.hint_channels)
        self.see = conv(self.hint_channels, 1)
        for last in (self.mask, self.correct, self.see):
            nn.init.normal_(last.weight, std=1e-3)
            nn.init.zeros_(last.bias)
        with torch.no_grad():
            self.see.bias.fill_(2.0)

    def forward(
        self,
        volume: torch.Tensor,
        *,
        source: Keypoints,
        driving: Keypoints,
        source_local: torch.Tensor,
        driving_local: torch.Tensor,
    ) -> Flow:
        """The flow from a source to a driving face.

        Args:
            volume: F_3D of the source, [N, C, D, H, W].
            source: of the source image.
            driving: of the driving image.
            source_local: c^loc, float32 [N, M, 2 or 3], crop coordinates.
            driving_local: the same of the driving face.
        """
        count, _, depth, height, width = volume.shape
        grid = volume_grid(depth, height, width, volume)
        heat = _bells(driving.points, grid) - _bells(source.points, grid)
        turn = source.rotation @ driving.rotation.mT
        from_driving = grid.view(1, 1, -1, 3) - driving.points[:, :, None]
        moved = from_driving @ turn.mT[:, None] + source.points[:, :, None]
        candidates = torch.cat([grid.view(1, 1, -1, 3).expand(count, 1, -1, 3), moved], 1)
        candidates = candidates.view(count, -1, depth, height, width, 3)

        small = self.compress(volume)
        repeated = small[:, None].expand(-1, KEYPOINTS + 1, -1, -1, -1, -1).flatten(0, 1)
        shown = warp_volume(repeated, candidates.flatten(0, 1)).view(count, -1, depth, height, width)
        lines = torch.cat([local_maps(source_local, height), local_maps(driving_local, height)], 1)
        lines = lines.to(volume.dtype)
        heat = torch.cat([torch.zeros_like(heat[:, :1]), heat], 1).to(volume.dtype)
        seen = torch.cat([heat, shown, lines[:, :, None].expand(-1, -1, depth, -1, -1)], 1)
        features = self.hourglass(seen)
        share = self.mask(features).float().softmax(1)
        field = (share[..., None] * candidates).sum(1) + 0.1 * self.correct(features).float().movedim(1, -1)
        flat = self.flat(features[:, : features.shape[1] - seen.shape[1]].flatten(1, 2))
        hints = self.local(torch.cat([lines, flat], 1))
        return Flow(field, torch.sigmoid(self.see(hints).float()), hints)


def _bells(points: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """A bell around each point: [N, K, 3] and a grid [1, D, H, W, 3] → [N, K, D, H, W]."""
    # Separable: three small exponentials instead of one in every cell.
    axes = (grid[0, 0, 0, :, 0], grid[0, 0, :, 0, 1], grid[0, :, 0, 0, 2])
    x, y, z = (
        torch.exp((axis - points[..., i : i + 1]).square() * (-0.5 / HEAT_VARIANCE)) for i, axis in enumerate(axes)
    )
    return z[..., :, None, None] * y[..., None, :, None] * x[..., None, None, :]
