"""Blocks that the student is made of; on a phone they are plain convolutions, relu and the 2-D warp."""

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import nn

FADING = 0.05
"""Of what a unit reached lately, the share that a step forgets."""
AWAKE = 0.05
"""What a unit must reach now and then, of its layer's root mean square."""


class Trunk(nn.Module):
    """A stack of convolutions that training may run in a shorter float type; doors are float32 either way."""

    precision: torch.dtype | None = None

    def scope(self, x: torch.Tensor) -> AbstractContextManager:
        """Where its convolutions are computed: in that type."""
        return torch.autocast(x.device.type, self.precision) if self.precision else nullcontext()


class Rectifier(nn.Module):
    """relu over `units` channels, none of which stays silent while the network learns.

    A unit that is negative at every pixel of every frame passes nothing on, has no gradient, and so never comes back:
    one large step can end a whole network that way, and did (docs/log.md). So each rectifier remembers how high its
    units came lately, and `call` is a loss that lifts those that came nowhere, each at the pixel where it is highest.
    On the device it is a plain relu.
    """

    def __init__(self, units: int) -> None:
        super().__init__()
        self.register_buffer("peak", torch.zeros(units))
        self.call: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, units, H, W], same out."""
        if self.training and torch.is_grad_enabled():
            highest = x.amax((0, 2, 3)).float()
            with torch.no_grad():
                level = x[..., ::2, ::2].float().square().mean().sqrt().clamp(min=1e-6)
                self.peak.copy_(torch.maximum(highest, torch.lerp(self.peak, highest, FADING)))
                silent = (self.peak < AWAKE * level).float()
            self.call = -(highest * silent).sum() / level
        return F.relu(x)


def warp(features: torch.Tensor, field: torch.Tensor) -> torch.Tensor:
    """Features [N or 1, C, H, W] read at `field` [N, h, w, 2]: [N, C, h, w]. An identity field returns them.

    Backward, bilinear, border padding, -1 and 1 at the centres of the first and last pixel: the only setting that
    every runtime has natively.
    """
    if len(features) != len(field):
        features = features.expand(len(field), -1, -1, -1)
    return F.grid_sample(features, field, mode="bilinear", padding_mode="border", align_corners=True)


def over(picture: torch.Tensor, behind: torch.Tensor) -> torch.Tensor:
    """A picture [N, 4, h, w], RGB times opacity and opacity, before what lies behind, RGB [N, 3, h, w]."""
    return behind - behind * picture[:, 3:4] + picture[:, 0:3]


def conv(inputs: int, outputs: int, kernel: int = 3, *, stride: int = 1) -> nn.Conv2d:
    """A convolution that keeps the size of maps, or divides it by its stride."""
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2)


class Residual(nn.Module):
    """x + conv(relu(conv(relu(x)))); starts as the identity, so depth costs no training time.

    The sum itself is not rectified: a rectified trunk dies within a few large steps, and nothing wakes it.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.enters = Rectifier(channels)
        self.first = conv(channels, channels)
        self.between = Rectifier(channels)
        self.second = conv(channels, channels)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, channels, H, W], same out."""
        return x + self.second(self.between(self.first(self.enters(x))))
