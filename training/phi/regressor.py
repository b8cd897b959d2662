"""A small network from frames to landmarks, differentiable: it is trained on the clips beside the teacher.

MediaPipe tells where landmarks are, and gives no gradient. This network learns to say the same, and then says it of the
teacher's frames, so that landmark and head pose losses pull at pixels.
"""

import torch
import torch.nn.functional as F
from torch import nn

from edge.topology import LANDMARKS, LEFT_EYE_INNER, LEFT_EYE_OUTER, RIGHT_EYE_INNER, RIGHT_EYE_OUTER
from training.phi.blocks import Residual, conv, norm

LOOK = 128
"""Width and height at which it looks at frames."""


class LandmarkRegressor(nn.Module):
    """Frames → the 478 landmarks of MediaPipe, crop coordinates."""

    def __init__(self, channels: int = 24) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv(3, channels, kernel=5, stride=2)]
        for _ in range(4):
            layers += [norm(channels), nn.ReLU(), conv(channels, 2 * channels, stride=2), Residual(2 * channels)]
            channels *= 2
        self.body = nn.Sequential(*layers, norm(channels), nn.ReLU())
        self.mean = nn.Parameter(torch.zeros(LANDMARKS, 3))
        self.place = nn.Linear(channels * (LOOK // 32) ** 2, LANDMARKS * 3)
        nn.init.normal_(self.place.weight, std=1e-4)
        nn.init.zeros_(self.place.bias)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Frames float32 [N, 3, S, S] in 0..1 → float32 [N, 478, 3]."""
        small = F.interpolate(frames, (LOOK, LOOK), mode="area") if frames.shape[-1] > LOOK else frames
        if small.shape[-1] < LOOK:
            small = F.interpolate(small, (LOOK, LOOK), mode="bilinear", align_corners=False)
        features = self.body(2 * small - 1).flatten(1)
        return self.mean + self.place(features).float().view(-1, LANDMARKS, 3)


def pose_of_landmarks(landmarks: torch.Tensor) -> torch.Tensor:
    """Yaw, pitch, roll in degrees of a face's frame: [N, 478, 3] → [N, 3]; differentiable. Signs as in `edge.motion`.

    The frame is spanned by the eyes' line and the line from the nose's base to the bridge, which expressions leave
    alone. For comparisons of one person with themselves: pitch is off by that person's profile.
    """
    right = landmarks[:, [RIGHT_EYE_OUTER, RIGHT_EYE_INNER]].mean(1)
    left = landmarks[:, [LEFT_EYE_OUTER, LEFT_EYE_INNER]].mean(1)
    x = F.normalize(left - right, dim=1)
    down = landmarks[:, 2] - (left + right) / 2
    y = F.normalize(down - (down * x).sum(1, keepdim=True) * x, dim=1)
    z = torch.linalg.cross(x, y)
    yaw = torch.asin(x[:, 2].clamp(-0.999, 0.999))
    pitch = torch.atan2(y[:, 2], z[:, 2].clamp(min=1e-3))
    roll = torch.atan2(x[:, 1], x[:, 0])
    return torch.rad2deg(torch.stack([yaw, pitch, roll], 1))
