"""What training does to images: SSR's degradation, MTM's masks, the transform of the equivariance loss.

All of it runs on the training device in batches. Whatever is random about one sample depends on that sample's seed
alone, and whatever is random about a step on the step's, so a run repeats exactly over any number of processes.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from edge import topology as topo
from training.phi.drawing import mesh_edges

# SSR: simulation for super-resolution (paper Sec. 3.1, Fig. 4) ----------------------------------------------------

SMALLEST_SIDE = 64
"""Pixels a side that the resizes leave at least: a face is still one."""
KERNEL = 21
"""Width of the blur kernels in pixels, odd; the same at every frame size, only the blur inside them shrinks."""


class Order(NamedTuple):
    """How strong one order of the degradation may be on a frame of 512 px; smaller frames get less blur and noise."""

    blur_share: float
    blur_sigma: tuple[float, float]
    """In pixels."""
    scale: tuple[float, float]
    """Of the resize."""
    gaussian_sigma: tuple[float, float]
    """In grey levels of 255."""
    poisson_scale: tuple[float, float]
    """Of photon noise: 1 is that of 255 photons in white."""
    jpeg_quality: tuple[float, float]


ORDERS = (
    Order(1.0, (0.2, 3.0), (0.25, 1.5), (1.0, 30.0), (0.05, 3.0), (30.0, 95.0)),
    Order(0.8, (0.2, 1.5), (0.4, 1.2), (1.0, 25.0), (0.05, 2.5), (30.0, 95.0)),
)
"""First and second order, about as Real-ESRGAN found them to cover photos from the wild."""


def degrade(
    images: torch.Tensor, seeds: list[int], step_seed: int, *, share: float = 0.8, orders: tuple[Order, ...] = ORDERS
) -> torch.Tensor:
    """I_s made worse twice over: blur, resize, noise and JPEG, each random (SSR's second-order degradation).

    Args:
        images: float32 [N, 3, S, S] in 0..1, S a multiple of 16.
        seeds: one a sample, for all that differs between samples.
        step_seed: for the sizes and filters of the resizes, which a batch shares.
        share: of samples that are degraded at all.
        orders: strengths.

    Returns:
        float32, same shape, in 0..1.
    """
    size = images.shape[-1]
    whole = np.random.default_rng([step_seed, 11])
    draws = [np.random.default_rng([seed, 12]) for seed in seeds]
    noises = [torch.Generator(images.device).manual_seed(seed) for seed in seeds]
    worse = images
    for number, order in enumerate(orders):
        kernels = np.stack([_random_kernel(draw, order, size) for draw in draws])
        worse = filter_each(worse, torch.from_numpy(kernels).to(images))
        scale = _resize_scale(whole, order)
        mode = str(whole.choice(["area", "bilinear", "bicubic"]))
        # The last order ends at the frame's own size; JPEG works on blocks of 16.
        side = max(min(SMALLEST_SIDE, size // 2), round(scale * size / 16) * 16)
        worse = _resize(worse, side, mode).clamp(0, 1)
        worse = _add_noise(worse, draws, noises, order, size / 512).clamp(0, 1)
        quality = [float(draw.uniform(*order.jpeg_quality)) for draw in draws]
        worse = jpeg(worse, torch.tensor(quality, device=images.device))
        if number == len(orders) - 1:
            worse = _resize(worse, size, mode).clamp(0, 1)
    chosen = torch.tensor([bool(draw.random() < share) for draw in draws], device=images.device)
    return torch.where(chosen.view(-1, 1, 1, 1), worse, images)


def _resize_scale(draw: np.random.Generator, order: Order) -> float:
    way = draw.choice(3, p=[0.2, 0.7, 0.1])
    low, high = order.scale
    return float((draw.uniform(1, high), draw.uniform(low, 1), 1.0)[way])


def _resize(images: torch.Tensor, side: int, mode: str) -> torch.Tensor:
    if side == images.shape[-1]:
        return images
    if mode == "area":
        return F.interpolate(images, (side, side), mode="area")
    return F.interpolate(images, (side, side), mode=mode, align_corners=False)


def _random_kernel(draw: np.random.Generator, order: Order, size: int) -> np.ndarray:
    """A normalised blur kernel [KERNEL, KERNEL]: round or not, Gaussian, generalised Gaussian or plateau, or none."""
    axis = np.arange(KERNEL) - KERNEL // 2
    if draw.random() >= order.blur_share:
        return np.outer(axis == 0, axis == 0).astype(np.float32)
    scale = size / 512
    wide, narrow = scale * draw.uniform(*order.blur_sigma, 2)
    if draw.random() < 0.6:
        narrow = wide
    turn = draw.uniform(-math.pi, math.pi)
    form = draw.choice(["gaussian", "generalised", "plateau"], p=[0.7, 0.15, 0.15])
    x, y = np.meshgrid(axis, axis)
    along = (math.cos(turn) * x + math.sin(turn) * y) / max(wide, 0.05)
    across = (-math.sin(turn) * x + math.cos(turn) * y) / max(narrow, 0.05)
    distance = along**2 + across**2
    if form == "gaussian":
        kernel = np.exp(-0.5 * distance)
    elif form == "generalised":
        kernel = np.exp(-0.5 * distance ** draw.uniform(0.5, 4.0))
    else:
        kernel = 1 / (1 + distance ** draw.uniform(1.0, 2.0))
    return (kernel / kernel.sum()).astype(np.float32)


def filter_each(images: torch.Tensor, kernels: torch.Tensor) -> torch.Tensor:
    """Each image with its own kernel: [N, C, H, W] and [N, k, k], k odd → [N, C, H, W]; borders are mirrored."""
    count, channels, height, width = images.shape
    reach = kernels.shape[-1] // 2
    padded = F.pad(images, (reach,) * 4, mode="reflect")
    padded = padded.reshape(1, count * channels, height + 2 * reach, width + 2 * reach)
    weights = kernels[:, None].repeat_interleave(channels, 0)
    return F.conv2d(padded, weights, groups=count * channels).view(images.shape)


def _add_noise(
    images: torch.Tensor,
    draws: list[np.random.Generator],
    noises: list[torch.Generator],
    order: Order,
    strength: float,
) -> torch.Tensor:
    """Gaussian noise or photon noise, in colour or in grey."""
    made = []
    for image, draw, noise in zip(images, draws, noises, strict=True):
        grey = draw.random() < 0.4
        shape = (1, *image.shape[1:]) if grey else image.shape
        normal = torch.randn(shape, generator=noise, device=image.device) * strength
        if draw.random() < 0.5:
            made.append(image + normal * (draw.uniform(*order.gaussian_sigma) / 255))
        else:
            # Photon noise at these counts is a normal distribution whose variance is the light.
            light = image.mean(0, keepdim=True) if grey else image
            made.append(image + normal * (light.clamp(min=0) / 255).sqrt() * draw.uniform(*order.poisson_scale))
    return torch.stack(made)


# Quantisation tables of the JPEG standard (ITU-T T.81, Annex K).
_LUMA = [
    [16, 11, 10, 16, 24, 40, 51, 61], [12, 12, 14, 19, 26, 58, 60, 55], [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62], [18, 22, 37, 56, 68, 109, 103, 77], [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101], [72, 92, 95, 98, 112, 100, 103, 99],
]  # fmt: skip
_CHROMA = [
    [17, 18, 24, 47, 99, 99, 99, 99], [18, 21, 26, 66, 99, 99, 99, 99], [24, 26, 56, 99, 99, 99, 99, 99],
    [47, 66, 99, 99, 99, 99, 99, 99], *[[99] * 8] * 4,
]  # fmt: skip


def jpeg(images: torch.Tensor, quality: torch.Tensor) -> torch.Tensor:
    """What JPEG makes of images: colours at half size, 8 × 8 cosine transforms, coefficients rounded.

    Real but for the entropy coding, which loses nothing.

    Args:
        images: float32 [N, 3, H, W] in 0..1, H and W multiples of 16.
        quality: float32 [N], 1..100 as in libjpeg.

    Returns:
        float32, same shape, in 0..1, in steps of 1/255.
    """
    like = images
    to_ycc = like.new_tensor([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
    ycc = torch.einsum("ij,njhw->nihw", to_ycc, (images * 255).round())
    luma, chroma = ycc[:, :1] - 128, F.avg_pool2d(ycc[:, 1:], 2)
    scale = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality).view(-1, 1, 1, 1, 1, 1)
    planes = []
    for plane, table in ((luma, _LUMA), (chroma, _CHROMA)):
        steps = ((like.new_tensor(table) * scale + 50) / 100).floor().clamp(1, 255)
        planes.append(_round_blocks(plane, steps))
    luma, chroma = planes
    chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear", align_corners=False)
    rgb = torch.einsum("ij,njhw->nihw", torch.linalg.inv(to_ycc), torch.cat([luma + 128, chroma], 1))
    return rgb.round().clamp(0, 255) / 255


def _round_blocks(plane: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
    """A plane [N, C, H, W] whose 8 × 8 blocks' coefficients are multiples of steps [N, 1, 1, 1, 8, 8]."""
    count, channels, height, width = plane.shape
    k, n = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    cosines = torch.cos(math.pi / 8 * (n + 0.5) * k) * torch.where(k == 0, math.sqrt(1 / 8), 0.5)
    cosines = cosines.to(plane)
    blocks = plane.view(count, channels, height // 8, 8, width // 8, 8).transpose(3, 4)
    rounded = (cosines @ blocks @ cosines.T / steps).round() * steps
    return (cosines.T @ rounded @ cosines).transpose(3, 4).reshape(plane.shape)


# MTM: mask training mechanism (paper Sec. 3.3, Fig. 5) -------------------------------------------------------------

REGIONS = ("mouth", "eyes", "brows")
"""What can be hidden from the global keypoints and driven by local landmarks alone."""

_NOSE_BASE = 2


def region_mask(landmarks: torch.Tensor, size: int, regions: tuple[str, ...] = ("mouth",)) -> torch.Tensor:
    """Where MTM hides the image and the drawn mesh: float32 [N, 1, size, size], 1 = hidden.

    Boxes that turn with the head. They are placed by eye corners and nose alone, which speech does not move:
    a mask that followed the lips would tell what it hides.

    Args:
        landmarks: float32 [N, 478, 3], crop coordinates.
        size: of the image.
        regions: of `REGIONS`.
    """
    right, left = (landmarks[:, pair, :2].mean(1) for pair in ([33, 133], [263, 362]))
    eyes, nose = (right + left) / 2, landmarks[:, _NOSE_BASE, :2]
    # The eyes' line foreshortens when the head turns, the nose's when it nods: the longer one says how large it is.
    across, down = left - right, nose - eyes
    unit = torch.maximum(across.norm(dim=1), 1.25 * down.norm(dim=1)).view(-1, 1, 1)
    right_way = F.normalize(across, dim=1)
    down_way = torch.stack([-right_way[:, 1], right_way[:, 0]], 1)
    axis = torch.linspace(-1, 1, size, device=landmarks.device)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    places = torch.stack([x, y], -1)[None]
    boxes = {  # centre, and its distance to the sides across and down, in units
        "mouth": (nose + 0.75 * unit[:, :, 0] * down_way, 0.62, 0.72),
        "eyes": (eyes, 0.85, 0.22),
        "brows": (eyes - 0.38 * unit[:, :, 0] * down_way, 0.95, 0.2),
    }
    mask = torch.zeros(len(landmarks), size, size, device=landmarks.device)
    for region in regions:
        centre, half_width, half_height = boxes[region]
        away = places - centre.view(-1, 1, 1, 2)
        along = (away * right_way.view(-1, 1, 1, 2)).sum(-1).abs() <= half_width * unit
        below = (away * down_way.view(-1, 1, 1, 2)).sum(-1).abs() <= half_height * unit
        mask = torch.maximum(mask, (along & below).float())
    return mask[:, None]


@lru_cache
def hidden_landmarks(regions: tuple[str, ...] = ("mouth",), device: torch.device | None = None) -> torch.Tensor:
    """The landmarks that MTM hides with a region, int64: its own, and those that the mesh ties them to."""
    own = {
        "mouth": ([61, 291, 152, 149, 378, *topo.OUTER_UPPER_LIP, *topo.OUTER_LOWER_LIP, *topo.INNER_UPPER_LIP], 4),
        "eyes": ([33, 133, 362, 263, *topo.RIGHT_UPPER_LID, *topo.RIGHT_LOWER_LID, *topo.LEFT_UPPER_LID,
                  *topo.LEFT_LOWER_LID, *range(468, 478)], 1),
        "brows": ([*topo.RIGHT_BROW, *topo.LEFT_BROW], 1),
    }  # fmt: skip
    edges = mesh_edges()[0]
    hidden = torch.zeros(topo.LANDMARKS, dtype=torch.bool)
    for region in regions:
        rows, rings = own[region]
        part = torch.zeros(topo.LANDMARKS, dtype=torch.bool)
        part[torch.tensor([int(row) for row in rows])] = True
        for _ in range(rings):
            touched = part[edges].any(1)
            part[edges[touched].flatten()] = True
        hidden |= part
    if "mouth" in regions:  # Four rings around the lips reach the nose, which rests.
        hidden[torch.tensor([1, 2, 4, 5, 6, 168, 195, 197, 98, 327])] = False
    return hidden.nonzero().flatten().to(device)


# More faces than there are -------------------------------------------------------------------------------------------


def vary(images: torch.Tensor, landmarks: torch.Tensor, seeds: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Another face in another light: mirrored, wider or narrower, turned, moved, in other colours, all at random.

    Both frames of a pair take the same seed and so change alike. Not in the paper, which has 35,000 clips: few clips
    hold few shapes of faces, and a teacher that learns them by heart draws no other.

    Args:
        images: float32 [N, 3, S, S] in 0..1.
        landmarks: float32 [N, 478, 3], crop coordinates.
        seeds: one a sample.

    Returns:
        Images and landmarks, of the same shapes.
    """
    matrices, shifts, flips, colours = [], [], [], []
    for seed in seeds:
        draw = np.random.default_rng([seed, 14])
        flips.append(bool(draw.random() < 0.5))
        turn, strength = math.radians(draw.uniform(-8, 8)), float(draw.random() < 0.8)  # some stay as sharp as they are
        wide, high = np.exp(strength * (draw.uniform(-0.15, 0.1) + draw.uniform(-0.12, 0.12, 2)))
        cos, sin = math.cos(strength * turn), math.sin(strength * turn)
        matrices.append(np.array([[cos, -sin], [sin, cos]]) @ np.diag([wide, high]))
        shifts.append(strength * draw.uniform(-0.08, 0.08, 2))
        colours.append(
            [*np.exp(draw.uniform(-0.1, 0.1, 3) + draw.uniform(-0.2, 0.15)), np.exp(draw.uniform(-0.25, 0.25)),
             draw.uniform(0.6, 1.3)]
        )  # fmt: skip
    flip = torch.tensor(flips, device=images.device).view(-1, 1, 1)
    images = torch.where(flip[..., None], images.flip(3), images)
    other_side = landmarks[:, torch.from_numpy(topo.MIRROR).to(landmarks.device)] * landmarks.new_tensor([-1, 1, 1])
    landmarks = torch.where(flip, other_side, landmarks)

    matrix, shift, colour = (torch.from_numpy(np.array(v)).to(images) for v in (matrices, shifts, colours))
    depth = torch.linalg.det(matrix).sqrt().view(-1, 1, 1) * landmarks[..., 2:]
    landmarks = torch.cat([landmarks[..., :2] @ matrix.mT + shift[:, None], depth], -1)
    back = torch.linalg.inv(matrix)
    theta = torch.cat([back, -back @ shift[..., None]], 2)
    grid = F.affine_grid(theta, list(images.shape), align_corners=True)
    images = F.grid_sample(images, grid, mode="bicubic", padding_mode="reflection", align_corners=True).clamp(0, 1)

    gain, gamma, saturation = colour[:, :3], colour[:, 3:4], colour[:, 4:]
    images = (images * gain[..., None, None]).clamp(1e-4, 1) ** gamma[..., None, None]
    grey = images.mean(1, keepdim=True)
    return (grey + (images - grey) * saturation[..., None, None]).clamp(0, 1), landmarks


# Equivariance (paper Sec. 3.4) --------------------------------------------------------------------------------------


class Transform:
    """A random near-identity T of the plane, one a sample: affine, and a thin-plate bending on 5 × 5 points.

    `image` reads I at T(z), so what lay at T(z) is seen at z; `points` takes places of the transformed image back.
    """

    def __init__(self, seeds: list[int], like: torch.Tensor, *, affine: float = 0.05, bend: float = 0.005) -> None:
        draws = [np.random.default_rng([seed, 13]) for seed in seeds]
        matrices = np.stack([np.eye(2, 3) + draw.normal(0, affine, (2, 3)) for draw in draws])
        bends = np.stack([draw.normal(0, bend, 25) for draw in draws])
        self.matrix = torch.from_numpy(matrices).to(like)
        self.bend = torch.from_numpy(bends).to(like)
        axis = torch.linspace(-1, 1, 5, device=like.device)
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        self.control = torch.stack([x, y], -1).view(1, -1, 2)

    def points(self, places: torch.Tensor) -> torch.Tensor:
        """T: places of the transformed image [N, P, 2] → of the image."""
        moved = places @ self.matrix[:, :, :2].mT + self.matrix[:, None, :, 2]
        distance = (places[:, :, None] - self.control[:, None]).abs().sum(-1)
        radial = distance.square() * torch.log(distance + 1e-6)
        return moved + (radial * self.bend[:, None]).sum(-1, keepdim=True)

    def inverse(self, places: torch.Tensor, *, rounds: int = 12) -> torch.Tensor:
        """T⁻¹: places of the image [N, P, 2] → of the transformed image, by steps that undo the affine part.

        Far outside a strong T folds and has no inverse; there the result is somewhere, and finite.
        """
        guess, back = places, torch.linalg.inv(self.matrix[:, :, :2]).mT
        for _ in range(rounds):
            guess = (guess - (self.points(guess) - places) @ back).clamp(-2, 2)
        return guess

    def image(self, images: torch.Tensor) -> torch.Tensor:
        """I transformed: float32 [N, C, S, S]; outside of it, its border mirrored."""
        count, _, height, width = images.shape
        axes = [torch.linspace(-1, 1, side, device=images.device) for side in (height, width)]
        y, x = torch.meshgrid(*axes, indexing="ij")
        grid = self.points(torch.stack([x, y], -1).view(1, -1, 2).expand(count, -1, -1))
        return F.grid_sample(images, grid.view(count, height, width, 2), padding_mode="reflection", align_corners=True)
