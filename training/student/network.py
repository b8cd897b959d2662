"""The student φ: the network that runs on the phone, one person each (paper Sec. 3.2).

    keypoints ─▶ pose: shift, turn and size of the head, in closed form
    aligned points ─┬─▶ mixer ─▶ basis fields ─────────────┐
                    └─▶ heat-maps ─▶ dense motion network ─┴─▶ warp by the pose ─▶ motion field, occlusion
    motion field ─┬─▶ warp of F_2D at 64 px ─────────────────▶ generator at 64 and 128 px ─▶ colour, keep
                  └─▶ warp of the layer (RGBA) at 512 px ──┬───────▲
    frame = keep · (canvas + alpha · (layer - canvas)) + colour ◀──┘

All motion is found in the source's own frame, where a nose is always in the same cell, and then posed: what is left
to learn there is small and spans few dimensions.

The layer is the photo with a learned matte. Warped at full resolution it costs no multiplications, keeps skin as
sharp as it is, and carries the head's outline along: the field need not jump there, so it stays smooth. The canvas
is a learned picture that stays where it is: what the head reveals, and a ground for painting.

Everything that depends on the person alone is a constant. Only operations that every runtime runs natively are
used: plain convolutions, slices, softmax over the last axis, `bmm`, bilinear resize to a fixed size, pixel
shuffle and the 2-D warp (docs/conventions.md). Letters: N batch, C channels, H W pixels, K keypoints, M local
landmarks.

Mirrored by: edge/judges/interpreter.py.
"""

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from edge.spec import FIELD, KEYPOINTS, LOCAL_LANDMARKS, NETWORK
from edge.topology import LOCAL
from training.config import StudentConfig
from training.teachers import Identity

HEATMAP = 32
"""Width and height of a heat-map, in cells."""
EXPRESSION_CODES = 16
"""Numbers that carry the points' offsets to maps of the person."""
SIGMA = 0.1
"""Width of a heat-map's bell, in crop coordinates (the crop is 2 wide)."""
FINE = 128
"""Width and height of the generator's last maps; pixel shuffle by 4 makes the frame."""
SHUFFLE = NETWORK // FINE
FADING = 0.05
"""Of what a unit reached lately, the share that a step forgets."""
AWAKE = 0.05
"""What a unit must reach now and then, of its layer's root mean square."""
POINTS = KEYPOINTS + LOCAL_LANDMARKS
CELL = 2 / (FIELD - 1)
"""Distance between two cells of the field: the unit in which the network corrects it."""


class Motion(NamedTuple):
    """Where each cell of the frame is read in the source."""

    field: torch.Tensor
    """Backward field: float32 [N, 64, 64, 2], (x, y)."""
    occlusion: torch.Tensor
    """float32 [N, 1, 64, 64]; 1 = visible in the source."""
    hints: torch.Tensor
    """What the dense motion network tells the generator, at the driving frame's places: [N, C, 64, 64]."""


class Code(NamedTuple):
    """Driving points taken apart into the head's pose and what is left."""

    aligned: torch.Tensor
    """Keypoints and local landmarks in the source's frame: [N, K + M, 2]."""
    offsets: torch.Tensor
    """Their distance from the source's: [N, K + M, 2]."""
    share: torch.Tensor
    """Of each basis field: [N, code size]."""
    turned: torch.Tensor
    """The field of the pose alone: cells of the driving frame in the source's frame, [N, 64·64, 2]."""


class Window(NamedTuple):
    """A square part of the frame, in pixels; multiples of 8, the size of a cell of the features."""

    top: int
    left: int
    size: int

    def of(self, maps: torch.Tensor) -> torch.Tensor:
        """This part of maps [N, C, S, S] that show the whole frame at any size."""
        cell = NETWORK // maps.shape[-1]
        top, left, size = self.top // cell, self.left // cell, self.size // cell
        return maps[..., top : top + size, left : left + size]


class Painted(NamedTuple):
    """What the generator does to the layers' draft of a frame."""

    colour: torch.Tensor
    """RGB added to it: [N, 3, 512, 512]."""
    keep: torch.Tensor
    """How much of it stays, 1 all and 0 none, not clamped: [N, 1, 512, 512]."""


class Animation(NamedTuple):
    """One frame and the motion behind it."""

    image: torch.Tensor
    """float32 [N, 3, 512, 512], RGB; not yet clamped to 0..1, so that gradients pass."""
    motion: Motion


def warp(features: torch.Tensor, field: torch.Tensor) -> torch.Tensor:
    """Features [N, C, H, W] read at `field` [N, h, w, 2]: [N, C, h, w]; an identity field returns them to rounding.

    Backward, bilinear, border padding, -1 and 1 at the centres of the first and last pixel: the only setting that
    every runtime has natively.
    """
    return F.grid_sample(features, field, mode="bilinear", padding_mode="border", align_corners=True)


def identity_grid(size: int) -> torch.Tensor:
    """The field that moves nothing: float32 [1, size, size, 2], (x, y) in -1..1."""
    axis = torch.linspace(-1, 1, size)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([x, y], -1)[None]


def enlarge(field: torch.Tensor, window: Window | None = None) -> torch.Tensor:
    """A field [N, 64, 64, 2] at 512 px, or a window of it: [N, S, S, 2]; an identity field stays one.

    Bilinear, corner cells on corner pixels. A window is two products with rows of the weights that interpolate: the
    rest of the frame is not enlarged to be thrown away.
    """
    cells = field.permute(0, 3, 1, 2)
    if window is None:
        pixels = F.interpolate(cells, size=(NETWORK, NETWORK), mode="bilinear", align_corners=True)
    else:
        weights = _pixels_from_cells(field.device)
        down, across = (weights[start : start + window.size] for start in (window.top, window.left))
        pixels = down @ cells @ across.T
    return pixels.permute(0, 2, 3, 1)


@cache
def _pixels_from_cells(device: torch.device) -> torch.Tensor:
    """What each pixel takes of each cell along one axis: [512, 64]."""
    cells = torch.eye(FIELD, device=device)[None]
    return F.interpolate(cells, size=NETWORK, mode="linear", align_corners=True)[0].T


def heatmaps(points: torch.Tensor, axis: torch.Tensor) -> torch.Tensor:
    """A bell at each point: points [N, P, 2], axis [S] of cell centres → [N, P, S, S] in 0..1 (row y, column x)."""
    x = torch.exp((axis - points[:, :, 0:1]).square() * (-0.5 / SIGMA**2))
    y = torch.exp((axis - points[:, :, 1:2]).square() * (-0.5 / SIGMA**2))
    return y.unsqueeze(3) * x.unsqueeze(2)


def resize(x: torch.Tensor, size: int) -> torch.Tensor:
    """Bilinear resize of feature maps to size × size (pixel areas aligned)."""
    return F.interpolate(x, size=(size, size), mode="bilinear", align_corners=False)


class Pose(nn.Module):
    """Driving coordinates → source coordinates: the similarity that fits the keypoints best (Umeyama 1991, in 2-D).

    Everything but one division is linear in the driving keypoints, because the source's are constants.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(1, 1, 2))
        self.register_buffer("fit", torch.zeros(2 * KEYPOINTS, 2))
        ones = torch.eye(2).repeat(KEYPOINTS, 1)
        self.register_buffer("mean", ones / KEYPOINTS, persistent=False)
        self.register_buffer("centring", torch.eye(2 * KEYPOINTS) - ones @ ones.T / KEYPOINTS, persistent=False)
        self.register_buffer("total", torch.ones(2 * KEYPOINTS, 1), persistent=False)

    @torch.no_grad()
    def bind(self, source_keypoints: torch.Tensor) -> None:
        """Store the source's keypoints [1, K, 2]."""
        self.centre.copy_(source_keypoints.mean(1, keepdim=True))
        x, y = (source_keypoints - self.centre)[0].unbind(-1)
        turn = torch.stack([torch.stack([x, y], -1), torch.stack([y, -x], -1)], -1)
        self.fit.copy_(turn.flatten(0, 1))

    def forward(self, keypoints: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Driving keypoints [N, K, 2] → their centre [N, 1, 2] and the matrix [N, 2, 2] that turns rows."""
        flat = keypoints.flatten(1)
        spread = torch.matmul(torch.matmul(flat, self.centring).square(), self.total)
        turn = torch.matmul(flat, self.fit) / spread
        cosine, sine = turn[:, 0:1], turn[:, 1:2]
        matrix = torch.cat([cosine, sine, -sine, cosine], 1).reshape(-1, 2, 2)
        return torch.matmul(flat, self.mean).unsqueeze(1), matrix

    def align(self, points: torch.Tensor, pose: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Points [N or 1, P, 2] of the driving frame in the source's frame: [N, P, 2]."""
        driving_centre, matrix = pose
        return torch.bmm(points - driving_centre, matrix) + self.centre


class Mixer(nn.Module):
    """How much of each basis field a pose and expression asks for: a kernel regression (bells and a linear part).

    Kernel ridge regression has a closed form (`closed_form.fit_basis`) and on a few hundred examples errs half as
    much as a small network trained for a thousand times as long.
    """

    def __init__(self, inputs: int, centres: int, outputs: int) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(1))
        self.register_buffer("centres", torch.zeros(inputs, centres))
        self.register_buffer("square", torch.zeros(1, centres))
        self.register_buffer("total", torch.ones(inputs, 1), persistent=False)
        self.shares = nn.Linear(centres + inputs, outputs)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Offsets [N, inputs] → a bell around each centre, and the scaled offsets: [N, centres + inputs]."""
        x = x * self.scale
        distance = torch.matmul(x.square(), self.total) + self.square - 2 * torch.matmul(x, self.centres)
        return torch.cat([torch.exp(-0.5 * distance), x], 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Offsets [N, inputs] → shares [N, outputs]."""
        return self.shares(self.features(x))


class _Trunk(nn.Module):
    """A stack of convolutions that training may run in a shorter float type; doors are float32 either way."""

    precision: torch.dtype | None = None

    def _scope(self, x: torch.Tensor) -> AbstractContextManager:
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


def _conv(inputs: int, outputs: int, kernel: int = 3, *, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2)


class _Residual(nn.Module):
    """x + conv(relu(conv(relu(x)))); starts as the identity, so depth costs no training time.

    The sum itself is not rectified: a rectified trunk dies within a few large steps, and nothing wakes it.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.enters = Rectifier(channels)
        self.first = _conv(channels, channels)
        self.between = Rectifier(channels)
        self.second = _conv(channels, channels)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.second(self.between(self.first(self.enters(x))))


def flatten_volume(volume: torch.Tensor) -> torch.Tensor:
    """A volume [C, D, H, W] as maps [1, C·D·(H/64)², 64, 64]: depth and pixels beyond 64 × 64 become channels."""
    flat = volume.flatten(0, 1)[None]
    return flat if flat.shape[-1] == FIELD else F.pixel_unshuffle(flat, flat.shape[-1] // FIELD)


class AppearanceDistributor(_Trunk):
    """φ_d: the teacher's appearance volume F_3D pressed to F_2D, once for a person (paper Sec. 3.2).

    Depth is folded into channels and so are pixels beyond 64 × 64: one form serves a photo [3, 1, 512, 512] and
    a volume [32, 16, 64, 64].
    """

    def __init__(self, volume_channels: int, feature_channels: int) -> None:
        super().__init__()
        self.fold = nn.Conv2d(volume_channels, 2 * feature_channels, 3, 1, 1)
        self.folded = Rectifier(2 * feature_channels)
        self.press = nn.Conv2d(2 * feature_channels, feature_channels, 3, 1, 1)

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        """Volume float32 [C, D, H, W] → F_2D float32 [1, C, 64, 64]."""
        flat = flatten_volume(volume)
        with self._scope(flat):
            features = self.press(self.folded(self.fold(flat)))
        return features.float() if self.precision else features


class DenseMotionTrunk(_Trunk):
    """Heat-map differences and offsets of the points → features and head maps at 32 px (DMN of the paper, in 2-D).

    A heat-map says roughly where a point is, and a lid that falls by eight pixels hardly changes it. So the
    offsets also go straight to where they matter: through a handful of codes to learned maps of this person.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.channels = channels
        self.enter = _conv(POINTS, channels)
        self.entered = Rectifier(channels)
        self.down = _conv(channels, 2 * channels, stride=2)
        self.deep = _Residual(2 * channels)
        self.deepest = Rectifier(2 * channels)
        self.up = _conv(2 * channels, channels)
        self.upper = Rectifier(channels)
        self.express = nn.Linear(2 * POINTS, EXPRESSION_CODES)
        self.place = nn.Linear(EXPRESSION_CODES, channels * HEATMAP * HEATMAP)
        nn.init.zeros_(self.express.bias)
        nn.init.normal_(self.place.weight, std=0.1)
        nn.init.zeros_(self.place.bias)
        self.wide = _conv(channels, channels)
        self.hinting = Rectifier(channels)
        self.heads = _conv(channels, heads)

    def forward(self, heat: torch.Tensor, offsets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Heat-map differences [N, K+M, 32, 32], offsets [N, K+M, 2].

        Returns hints [N, C, 32, 32] and head maps [N, heads, 32, 32], float32.
        """
        # The bias tells each cell where it is: the person, and so the meaning of a cell, never changes.
        place = self.place(self.express(offsets.flatten(1))).reshape(-1, self.channels, HEATMAP, HEATMAP)
        with self._scope(heat):
            skip = self.entered(self.enter(heat))
            deep = self.deepest(self.deep(self.down(skip)))
            x = self.upper(self.up(resize(deep, HEATMAP)) + skip)
            x = self.hinting(self.wide(x + place))
            heads = self.heads(x)
        if self.precision:
            return x.float(), heads.float()
        return x, heads


class Generator(_Trunk):
    """Warped features and a draft of the frame → colour and keep (GEN of the paper, at 64 and 128 px)."""

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        coarse, fine = config.coarse_channels, config.fine_channels
        self.enter = _conv(config.feature_channels + config.motion_channels, coarse)
        self.coarse = nn.Sequential(*[_Residual(coarse) for _ in range(config.coarse_blocks)])
        self.narrowing = Rectifier(coarse)
        self.narrow = _conv(coarse, fine)
        # Pixels are packed 4 × 4 at the doors, so that one of these products sees as far as 3 × 3 would inside.
        self.look = _conv(3 * SHUFFLE**2, fine, 1)
        self.fine = nn.Sequential(*[_Residual(fine) for _ in range(config.fine_blocks)])
        self.painting = Rectifier(fine)
        # Two convolutions, not one that is taken apart: a copy of the frame less in a phone's memory.
        self.colour = _conv(fine, 3 * SHUFFLE**2, 1)
        self.keep = _conv(fine, SHUFFLE**2, 1)
        for last, start in ((self.colour, 0.0), (self.keep, 1.0)):
            nn.init.zeros_(last.weight)
            nn.init.constant_(last.bias, start)

    def forward(self, features: torch.Tensor, hints: torch.Tensor, draft: torch.Tensor, fine: int = FINE) -> Painted:
        """Features [N, C, 64, 64] (warped, occluded), hints [N, C, 64, 64], draft [N, 3, 512, 512].

        Returns what is painted, float32. `fine` is the size of the last maps, where training shows a window of all
        these.
        """
        with self._scope(features):
            x = self.coarse(self.enter(torch.cat([features, hints], 1)))
            # Narrowed before it is enlarged: a quarter of the arithmetic, and no worse a picture (docs/log.md).
            x = resize(self.narrow(self.narrowing(x)), fine) + self.look(F.pixel_unshuffle(draft, SHUFFLE))
            x = self.painting(self.fine(x))
            colour, keep = self.colour(x), self.keep(x)
        if self.precision:
            colour, keep = colour.float(), keep.float()
        return Painted(F.pixel_shuffle(colour, SHUFFLE), F.pixel_shuffle(keep, SHUFFLE))


class Student(nn.Module):
    """The identity-specific network φ (paper Sec. 3.2): keypoints and local landmarks in, a frame out.

    Bind once, drive often: `bind` stores what the teacher delivers about the person; `forward` is the per-frame
    half and the graph that converters lower. It never sees the teacher.

    Cost: set by the widths in `config`, counted by training/student/cost.py.
    """

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        self.config = config
        self.pose = Pose()
        self.mixer = Mixer(2 * POINTS + 2 * KEYPOINTS, config.centres, config.code_size)
        self.basis = nn.Linear(config.code_size, FIELD * FIELD * 2)
        self.motion_trunk = DenseMotionTrunk(config.motion_channels, POINTS + 1 + 2 + 1)
        self.generator = Generator(config)
        self.layer = nn.Parameter(torch.zeros(1, 4, NETWORK, NETWORK))
        self.canvas = nn.Parameter(torch.zeros(1, 3, NETWORK, NETWORK))
        self.distributor = AppearanceDistributor(config.volume_channels, config.feature_channels)
        nn.init.zeros_(self.basis.bias)
        nn.init.normal_(self.basis.weight, std=1e-3)
        nn.init.zeros_(self.motion_trunk.heads.weight)
        nn.init.zeros_(self.motion_trunk.heads.bias)
        # At first every cell follows the basis fields (98 %): they are right within seconds.
        nn.init.constant_(self.motion_trunk.heads.bias[POINTS : POINTS + 1], 8.5)

        self.register_buffer("source_points", torch.zeros(1, POINTS, 2))
        self.register_buffer("source_heat", torch.zeros(1, POINTS, HEATMAP, HEATMAP))
        self.register_buffer("appearance_features", torch.zeros(1, config.feature_channels, FIELD, FIELD))
        self.register_buffer("axis", torch.linspace(-1, 1, HEATMAP), persistent=False)
        self.register_buffer("grid", identity_grid(FIELD).flatten(1, 2), persistent=False)

    @torch.no_grad()
    def bind(self, identity: Identity) -> "Student":
        """Store the person: photo, source keypoints and landmarks, appearance features.

        Layer and canvas start as the photo; training.student.closed_form finds better starts. Returns itself.
        """
        local = identity.source_landmarks[torch.from_numpy(LOCAL), :2]
        points = torch.cat([identity.keypoints[:, :2], local])[None].to(self.canvas)
        self.canvas.copy_(identity.source_image[None])
        self.layer.copy_(torch.cat([self.canvas, torch.ones_like(self.canvas[:, :1])], 1))
        self.source_points.copy_(points)
        self.pose.bind(points[:, :KEYPOINTS])
        self.source_heat.copy_(heatmaps(points, self.axis))
        self.distribute(identity.appearance_volume)
        return self

    @torch.no_grad()
    def distribute(self, appearance_volume: torch.Tensor) -> None:
        """Freeze F_2D, what the distributor makes of the teacher's volume [C, D, H, W], as a constant of the graph."""
        self.appearance_features.copy_(self.distributor(appearance_volume.to(self.canvas)))

    def call(self) -> torch.Tensor:
        """What the rectifiers of the last forward pass call for (`Rectifier`): a scalar to be made small."""
        calls = []
        for layer in self.modules():
            if isinstance(layer, Rectifier) and layer.call is not None:
                calls.append(layer.call)
                layer.call = None
        return torch.stack(calls).sum() if calls else self.canvas.new_zeros(())

    def code(self, keypoints: torch.Tensor, local_landmarks: torch.Tensor) -> Code:
        """Driving keypoints [N, K, 2] and local landmarks [N, M, 2] taken apart into pose and expression."""
        points = torch.cat([keypoints, local_landmarks], 1)
        pose = self.pose(keypoints)
        aligned = self.pose.align(points, pose)
        offsets = aligned - self.source_points
        posed = (points - self.source_points)[:, :KEYPOINTS]
        share = self.mixer(torch.cat([offsets.flatten(1), posed.flatten(1)], 1))
        return Code(aligned, offsets, share, self.pose.align(self.grid, pose))

    def motion(self, keypoints: torch.Tensor, local_landmarks: torch.Tensor) -> Motion:
        """Dense motion from driving keypoints [N, K, 2] and local landmarks [N, M, 2]."""
        code = self.code(keypoints, local_landmarks)
        # Whole-face motions of this person: a handful of learned fields, mixed by a code. Nearly free (0.5 MMAC)
        # and what makes a student useful within a minute; the convolutions below then place edges.
        base = self.basis(code.share).reshape(-1, FIELD, FIELD, 2).permute(0, 3, 1, 2)

        hints, heads = self.motion_trunk(heatmaps(code.aligned, self.axis) - self.source_heat, code.offsets)
        logits = heads[:, : POINTS + 1].flatten(2).transpose(1, 2)
        # Candidate motions of a cell: that of one keypoint or local landmark, or that of the basis fields.
        assignment = torch.softmax(logits, -1)
        follow = torch.bmm(assignment[:, :, :POINTS], -code.offsets)
        found = torch.cat([follow, assignment[:, :, POINTS:]], 2).transpose(1, 2).reshape(-1, 3, HEATMAP, HEATMAP)
        rest = heads[:, POINTS + 1 : POINTS + 3] * CELL
        maps = torch.cat([found[:, 0:2] + rest, found[:, 2:3], heads[:, POINTS + 3 :], hints], 1)

        # From the source's frame to the driving one: everything found so far is turned with the head, and read at
        # 64 px from maps of 32.
        turned = code.turned.reshape(-1, FIELD, FIELD, 2)
        moved = warp(maps, turned)
        displacement = moved[:, 0:2] + moved[:, 2:3] * warp(base, turned)
        field = turned + displacement.permute(0, 2, 3, 1)
        return Motion(field, torch.sigmoid(moved[:, 3:4]), moved[:, 4:])

    def animate(
        self,
        keypoints: torch.Tensor,
        local_landmarks: torch.Tensor,
        features: torch.Tensor,
        window: Window | None = None,
    ) -> Animation:
        """N frames at once, for training: keypoints [N, K, 2], local landmarks [N, M, 2], F_2D [1, C, 64, 64].

        With a window only that part of the frames is painted; the motion is always whole.
        """
        motion = self.motion(keypoints, local_landmarks)
        return Animation(self.paint(motion, features.expand(len(keypoints), -1, -1, -1), window), motion)

    def paint(self, motion: Motion, features: torch.Tensor, window: Window | None = None) -> torch.Tensor:
        """The frame [N, 3, 512, 512], or a window of it, for a motion; features [N, C, 64, 64] unwarped."""
        warped_features = warp(features, motion.field) * motion.occlusion
        field = enlarge(motion.field, window)
        canvas, hints, fine = self.canvas, motion.hints, FINE
        if window:
            canvas, hints, warped_features = window.of(canvas), window.of(hints), window.of(warped_features)
            fine = window.size // SHUFFLE
        if self.training:
            # The layer's photo is not learned: told apart, the two warps take a third of the time of one.
            shape = (len(field), -1, -1, -1)
            photo, matte = self.layer[:, 0:3].detach().expand(shape), self.layer[:, 3:4].expand(shape)
            moved, matte = warp(photo, field), warp(matte, field)
        else:
            layer = self.layer.expand(len(field), -1, -1, -1) if len(field) > 1 else self.layer
            warped = warp(layer, field)
            moved, matte = warped[:, 0:3], warped[:, 3:4]
        draft = canvas + (moved - canvas) * matte
        painted = self.generator(warped_features, hints, draft, fine)
        # A plain factor, not a sigmoid of it: a lid must hide an eye, and a sigmoid near one is slow to close.
        return painted.keep * draft + painted.colour

    def forward(self, keypoints: torch.Tensor, local_landmarks: torch.Tensor) -> torch.Tensor:
        """The per-frame graph: keypoints [1, K, 2], local landmarks [1, M, 2] → image [1, 3, 512, 512] in 0..1."""
        motion = self.motion(keypoints, local_landmarks)
        return self.paint(motion, self.appearance_features).clamp(0, 1)
