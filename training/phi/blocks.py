"""Blocks that the teacher's networks share, in two and three dimensions.

Normalisation is by groups, not by batches: a step over two processes is the step over one, and a batch may be small.
"""

import torch
import torch.nn.functional as F
from torch import nn

GROUPS = 8


def norm(channels: int) -> nn.GroupNorm:
    """Group normalisation with at most 8 groups."""
    return nn.GroupNorm(min(GROUPS, channels), channels)


def conv(inputs: int, outputs: int, *, depth: bool = False, kernel: int = 3, stride: int = 1) -> nn.Module:
    """A convolution that keeps the size (or halves it): 2-D, or 3-D where there is a depth."""
    kind = nn.Conv3d if depth else nn.Conv2d
    return kind(inputs, outputs, kernel, stride, kernel // 2)


class Residual(nn.Module):
    """x + conv(relu(norm(conv(relu(norm(x)))))); starts as the identity."""

    def __init__(self, channels: int, *, depth: bool = False) -> None:
        super().__init__()
        self.body = nn.Sequential(
            norm(channels), nn.ReLU(), conv(channels, channels, depth=depth),
            norm(channels), nn.ReLU(), conv(channels, channels, depth=depth),
        )  # fmt: skip
        nn.init.zeros_(self.body[-1].weight)
        nn.init.zeros_(self.body[-1].bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps [N, C, (D,) H, W], same out."""
        return x + self.body(x)


class Same(nn.Sequential):
    """relu(norm(conv(x))) at the same size."""

    def __init__(self, inputs: int, outputs: int, *, depth: bool = False, kernel: int = 3) -> None:
        super().__init__(conv(inputs, outputs, depth=depth, kernel=kernel), norm(outputs), nn.ReLU())


class Down(nn.Module):
    """`Same`, then half the height and width; a depth stays."""

    def __init__(self, inputs: int, outputs: int, *, depth: bool = False) -> None:
        super().__init__()
        self.same = Same(inputs, outputs, depth=depth)
        self.depth = depth

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps [N, C, (D,) H, W] → [N, C', (D,) H/2, W/2]."""
        x = self.same(x)
        return F.avg_pool3d(x, (1, 2, 2)) if self.depth else F.avg_pool2d(x, 2)


class Up(nn.Module):
    """Twice the height and width, then `Same`; a depth stays."""

    def __init__(self, inputs: int, outputs: int, *, depth: bool = False) -> None:
        super().__init__()
        self.same = Same(inputs, outputs, depth=depth)
        self.scale = (1, 2, 2) if depth else (2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps [N, C, (D,) H, W] → [N, C', (D,) 2H, 2W]."""
        return self.same(F.interpolate(x, scale_factor=self.scale, mode="nearest"))


class Hourglass(nn.Module):
    """Down `levels` times and up again, with skips; channels double on the way, up to `most`.

    Gives maps of `base + inputs` channels: the last level, and the input itself.
    """

    def __init__(self, inputs: int, base: int, levels: int, most: int, *, depth: bool) -> None:
        super().__init__()
        widths = [min(most, base * 2**level) for level in range(levels + 1)]
        self.down = nn.ModuleList(
            Down(inputs if level == 0 else widths[level], widths[level + 1], depth=depth) for level in range(levels)
        )
        self.up = nn.ModuleList(
            Up(widths[level + 1] * (1 if level == levels - 1 else 2), widths[level], depth=depth)
            for level in reversed(range(levels))
        )
        self.outputs = widths[0] + inputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps [N, inputs, (D,) H, W] → [N, base + inputs, (D,) H, W]."""
        skips = [x]
        for down in self.down:
            skips.append(down(skips[-1]))
        x = skips.pop()
        for up in self.up:
            x = torch.cat([up(x), skips.pop()], 1)
        return x
