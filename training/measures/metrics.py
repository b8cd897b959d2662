"""How near a frame is to the teacher's, and how sharp it is (paper Sec. 4.1.3). Frames: float32 [N, 3, H, W] in 0..1.

PSNR and SSIM compare; Energy and Entropy need no reference. The paper names the last two without a formula; ours:

* Energy: the energy of the gradient, Σ (g[y,x+1] - g[y,x])² + (g[y+1,x] - g[y,x])² over all pixels of the grey
  picture g in 0..255, divided by 10⁶.
* Entropy: Shannon entropy in nats of the 256-bin histogram of g (at most ln 256 = 5.545).

Grey is ITU-R BT.601 luma. Energies are compared as ratios alone: the paper's tables show 4 to 8, ours is 21 (10 to 57)
on 26 portraits at 512 px and 12 (6 to 25) at 256 px, and neither the paper's formula nor its size is known.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F


class Fidelity(NamedTuple):
    """A student's frames against its teacher's on one track."""

    psnr_db: float
    """Mean over frames of each frame's PSNR."""
    ssim: float
    energy_ratio: float
    """Student's energy / teacher's: 1 = as sharp, less = softer, more = noise."""
    worst_psnr_db: float
    worst_frame: int
    frames: int


def grey(frames: torch.Tensor) -> torch.Tensor:
    """Luma [N, 1, H, W] in 0..255, not rounded."""
    weights = torch.tensor([0.299, 0.587, 0.114], device=frames.device).view(1, 3, 1, 1)
    return (frames * weights).sum(1, keepdim=True) * 255


def psnr(frames: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio of each frame in dB: [N]; 99 for equal frames."""
    error = (frames - reference).square().flatten(1).mean(1)
    return (-10 * torch.log10(error.clamp(min=10**-9.9))).to(torch.float32)


def ssim(frames: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Structural similarity of each frame [N], as first published: 11 × 11 Gaussian window of σ 1.5, no padding.

    Mean over the three channels; constants (0.01)² and (0.03)².
    """
    axis = torch.arange(11, device=frames.device) - 5.0
    bell = torch.exp(-(axis**2) / (2 * 1.5**2))
    bell = bell / bell.sum()

    # One channel at a time is what CPUs do worst; all of them side by side, channels last, takes a ninth of the time.
    maps = torch.cat([frames, reference, frames * frames, reference * reference, frames * reference], 1)
    maps = maps.contiguous(memory_format=torch.channels_last)
    for shape in ((1, 11), (11, 1)):
        maps = F.conv2d(maps, bell.view(1, 1, *shape).expand(maps.shape[1], -1, -1, -1), groups=maps.shape[1])
    mean_a, mean_b, square_a, square_b, product = maps.chunk(5, 1)
    var_a, var_b, cov = square_a - mean_a**2, square_b - mean_b**2, product - mean_a * mean_b
    likeness = ((2 * mean_a * mean_b + 0.01**2) * (2 * cov + 0.03**2)) / (
        (mean_a**2 + mean_b**2 + 0.01**2) * (var_a + var_b + 0.03**2)
    )
    return likeness.flatten(1).mean(1)


def energy(frames: torch.Tensor) -> torch.Tensor:
    """Energy of the gradient of each frame [N], in 10⁶ squared grey levels."""
    g = grey(frames).double()
    across = (g[..., 1:] - g[..., :-1]).square().flatten(1).sum(1)
    down = (g[..., 1:, :] - g[..., :-1, :]).square().flatten(1).sum(1)
    return (across + down) / 1e6


def entropy(frames: torch.Tensor) -> torch.Tensor:
    """Shannon entropy of each frame's grey histogram [N], in nats."""
    values = []
    for picture in grey(frames).round().clamp(0, 255).long().flatten(1):
        share = torch.bincount(picture, minlength=256).double() / picture.numel()
        values.append(-torch.special.xlogy(share, share).sum())
    return torch.stack(values)


class FidelityMeter:
    """Collects a track in batches: `add` frames, then `result`."""

    def __init__(self) -> None:
        self._psnr: list[float] = []
        self._ssim: list[float] = []
        self._energy = self._reference_energy = 0.0

    def add(self, frames: torch.Tensor, reference: torch.Tensor) -> None:
        """Frames of student and teacher, both float32 [N, 3, H, W] in 0..1."""
        self._psnr += psnr(frames, reference).tolist()
        self._ssim += ssim(frames, reference).tolist()
        self._energy += float(energy(frames).sum())
        self._reference_energy += float(energy(reference).sum())

    def result(self) -> Fidelity:
        """Means over all frames added so far."""
        count = max(1, len(self._psnr))
        worst = min(range(len(self._psnr)), key=self._psnr.__getitem__, default=-1)
        return Fidelity(
            psnr_db=math.fsum(self._psnr) / count,
            ssim=math.fsum(self._ssim) / count,
            energy_ratio=self._energy / max(self._reference_energy, 1e-12),
            worst_psnr_db=self._psnr[worst] if self._psnr else math.nan,
            worst_frame=worst,
            frames=len(self._psnr),
        )
