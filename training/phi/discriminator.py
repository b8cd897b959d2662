"""The multi-scale PatchGAN discriminator (paper Sec. 3.1, as in pix2pixHD). It is kept: distillation needs it."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from training.phi.blocks import norm

SMALLEST = 32
"""Pixels a side that leave room for a patch."""


class Judgement(NamedTuple):
    """What one scale sees in frames."""

    realness: torch.Tensor
    """[N, 1, h, w], one value a patch; 1 = real, 0 = made."""
    features: tuple[torch.Tensor, ...]
    """Maps of each layer, for feature matching."""


class PatchDiscriminator(nn.Module):
    """Frames [N, 3, H, W] → patches of about a seventh of the face, at one scale."""

    def __init__(self, channels: int, layers: int = 3) -> None:
        super().__init__()
        widths = [min(8, 2**level) * channels for level in range(layers + 1)]
        steps = [nn.Sequential(nn.Conv2d(3, widths[0], 4, 2, 1), nn.LeakyReLU(0.2))]
        for level in range(1, layers + 1):
            stride = 2 if level < layers else 1
            steps.append(
                nn.Sequential(
                    nn.Conv2d(widths[level - 1], widths[level], 4, stride, 1), norm(widths[level]), nn.LeakyReLU(0.2)
                )
            )
        self.steps = nn.ModuleList(steps)
        self.last = nn.Conv2d(widths[-1], 1, 4, 1, 1)

    def forward(self, frames: torch.Tensor) -> Judgement:
        """Frames float32 in 0..1."""
        x, features = 2 * frames - 1, []
        for step in self.steps:
            x = step(x)
            features.append(x)
        return Judgement(self.last(x).float(), tuple(features))


class Discriminator(nn.Module):
    """The same discriminator on frames of several sizes."""

    def __init__(self, channels: int = 64, scales: int = 2) -> None:
        super().__init__()
        self.scales = nn.ModuleList(PatchDiscriminator(channels) for _ in range(scales))

    def forward(self, frames: torch.Tensor) -> list[Judgement]:
        """Judge frames float32 [N, 3, H, W] in 0..1, 32 pixels a side or more.

        Each scale sees them half as large as the one before, until there is no room for a patch.
        """
        judgements = []
        for scale in self.scales:
            judgements.append(scale(frames))
            frames = F.avg_pool2d(frames, 2)
            if min(frames.shape[-2:]) < SMALLEST:
                break
        return judgements
