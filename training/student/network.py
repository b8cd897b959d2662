"""The student φ: the network that runs on the phone, one person each (paper Sec. 3.2).

    keypoints, local landmarks ─▶ person's code: pose, offsets, what follows them
    heat-maps, offsets ─▶ dense motion network ─▶ choice of motions ─▶ warp by the pose ─▶ motion field, occlusion
    motion field ─┬─▶ warp of F_2D at 64 px ─────────────────▶ generator at 64 and 128 px ─▶ colour, keep
                  └─▶ warp of the layer (RGBA) at 512 px ──┬───────▲
    painted = keep · (canvas + alpha · (layer - canvas)) + colour ◀┘
    points ─▶ pictures of mouth and eyes (training/student/regions.py) ─▶ over what is painted ─▶ frame

All motion is found in the source's own frame, where a nose is always in the same cell, and then posed: what is left
to learn there is small and spans few dimensions.

The layer is the photo with a learned matte. Warped at full resolution it costs no multiplications, keeps skin as
sharp as it is, and carries the head's outline along: the field need not jump there, so it stays smooth. The canvas
is a learned picture that stays where it is: what the head reveals, and a ground for painting.

What depends on the person alone is a constant of the graph and lies apart, in a `Person`; a `Student` is a network
bound to one. Only operations that every runtime runs natively are used: plain convolutions, slices, softmax over the
last axis, `bmm`, bilinear resize to a fixed size, pixel shuffle and the 2-D warp (docs/conventions.md). Letters: N
batch, C channels, H W pixels, K keypoints, M local landmarks.

Mirrored by: edge/judges/interpreter.py.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from edge.errors import InputError
from edge.spec import FIELD, NETWORK
from training.config import StudentConfig
from training.student.blocks import Rectifier, Residual, Trunk, conv, warp
from training.student.person import HEATMAP, POINTS, Code, Person, Window
from training.teachers import Identity

FINE = 128
"""Width and height of the generator's last maps; pixel shuffle by 4 makes the frame."""
SHUFFLE = NETWORK // FINE
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


def resize(x: torch.Tensor, size: int) -> torch.Tensor:
    """Bilinear resize of feature maps to size × size (pixel areas aligned)."""
    return F.interpolate(x, size=(size, size), mode="bilinear", align_corners=False)


def flatten_volume(volume: torch.Tensor) -> torch.Tensor:
    """A volume [C, D, H, W] as maps [1, C·D·(H/64)², 64, 64]: depth and pixels beyond 64 × 64 become channels."""
    flat = volume.flatten(0, 1)[None]
    return flat if flat.shape[-1] == FIELD else F.pixel_unshuffle(flat, flat.shape[-1] // FIELD)


class AppearanceDistributor(Trunk):
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
        with self.scope(flat):
            features = self.press(self.folded(self.fold(flat)))
        return features.float() if self.precision else features


class DenseMotionTrunk(Trunk):
    """Heat-map differences and maps of the expression → features and head maps at 32 px (DMN of the paper, in 2-D)."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.enter = conv(POINTS, channels)
        self.entered = Rectifier(channels)
        self.down = conv(channels, 2 * channels, stride=2)
        self.deep = Residual(2 * channels)
        self.deepest = Rectifier(2 * channels)
        self.up = conv(2 * channels, channels)
        self.upper = Rectifier(channels)
        self.wide = conv(channels, channels)
        self.hinting = Rectifier(channels)
        self.heads = conv(channels, heads)

    def forward(self, heat: torch.Tensor, place: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Heat-map differences [N, K+M, 32, 32], the person's maps [N, C, 32, 32].

        Returns hints [N, C, 32, 32] and head maps [N, heads, 32, 32], float32.
        """
        with self.scope(heat):
            skip = self.entered(self.enter(heat))
            deep = self.deepest(self.deep(self.down(skip)))
            x = self.upper(self.up(resize(deep, HEATMAP)) + skip)
            x = self.hinting(self.wide(x + place))
            heads = self.heads(x)
        if self.precision:
            return x.float(), heads.float()
        return x, heads


class Generator(Trunk):
    """Warped features and a draft of the frame → colour and keep (GEN of the paper, at 64 and 128 px)."""

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        coarse, fine = config.coarse_channels, config.fine_channels
        self.enter = conv(config.feature_channels + config.motion_channels, coarse)
        self.coarse = nn.Sequential(*[Residual(coarse) for _ in range(config.coarse_blocks)])
        self.narrowing = Rectifier(coarse)
        self.narrow = conv(coarse, fine)
        # Pixels are packed 4 × 4 at the doors, so that one of these products sees as far as 3 × 3 would inside.
        self.look = conv(3 * SHUFFLE**2, fine, 1)
        self.fine = nn.Sequential(*[Residual(fine) for _ in range(config.fine_blocks)])
        self.painting = Rectifier(fine)
        # Two convolutions, not one that is taken apart: a copy of the frame less in a phone's memory.
        self.colour = conv(fine, 3 * SHUFFLE**2, 1)
        self.keep = conv(fine, SHUFFLE**2, 1)
        for last, start in ((self.colour, 0.0), (self.keep, 1.0)):
            nn.init.zeros_(last.weight)
            nn.init.constant_(last.bias, start)

    def forward(self, features: torch.Tensor, hints: torch.Tensor, draft: torch.Tensor, fine: int = FINE) -> Painted:
        """Features [N, C, 64, 64] (warped, occluded), hints [N, C, 64, 64], draft [N, 3, 512, 512].

        Returns what is painted, float32. `fine` is the size of the last maps, where training shows a window of all
        these.
        """
        with self.scope(features):
            x = self.coarse(self.enter(torch.cat([features, hints], 1)))
            # Narrowed before it is enlarged: a quarter of the arithmetic, and no worse a picture (docs/log.md).
            x = resize(self.narrow(self.narrowing(x)), fine) + self.look(F.pixel_unshuffle(draft, SHUFFLE))
            x = self.painting(self.fine(x))
            colour, keep = self.colour(x), self.keep(x)
        if self.precision:
            colour, keep = colour.float(), keep.float()
        return Painted(F.pixel_shuffle(colour, SHUFFLE), F.pixel_shuffle(keep, SHUFFLE))


class Network(nn.Module):
    """What a student draws with, whoever is drawn: dense motion network, generator and appearance distributor."""

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        self.config = config
        self.motion_trunk = DenseMotionTrunk(config.motion_channels, POINTS + 1 + 2 + 1)
        self.generator = Generator(config)
        self.distributor = AppearanceDistributor(config.volume_channels, config.feature_channels)
        nn.init.zeros_(self.motion_trunk.heads.weight)
        nn.init.zeros_(self.motion_trunk.heads.bias)
        # At first every cell follows as the person says (98 %): that is right before any training.
        nn.init.constant_(self.motion_trunk.heads.bias[POINTS : POINTS + 1], 8.5)

    def trunks(self) -> tuple[Trunk, ...]:
        """All its parts, each a stack of convolutions."""
        return self.motion_trunk, self.generator, self.distributor

    def motion(self, code: Code) -> Motion:
        """Dense motion from what a person makes of driving points."""
        hints, heads = self.motion_trunk(code.heat, code.place)
        logits = heads[:, : POINTS + 1].flatten(2).transpose(1, 2)
        # Candidate motions of a cell: that of one keypoint or local landmark, or the person's own.
        assignment = torch.softmax(logits, -1)
        follow = torch.bmm(assignment[:, :, :POINTS], -code.offsets)
        found = torch.cat([follow, assignment[:, :, POINTS:]], 2).transpose(1, 2).reshape(-1, 3, *heads.shape[2:])
        rest = heads[:, POINTS + 1 : POINTS + 3] * CELL
        maps = torch.cat([found[:, 0:2] + rest, found[:, 2:3], heads[:, POINTS + 3 :], hints], 1)

        # From the source's frame to the driving one: everything found so far is turned with the head, and read at
        # 64 px from maps of 32.
        moved = warp(maps, code.turned)
        displacement = moved[:, 0:2] + moved[:, 2:3] * code.base
        field = code.turned + displacement.permute(0, 2, 3, 1)
        return Motion(field, torch.sigmoid(moved[:, 3:4]), moved[:, 4:])

    def paint(
        self, motion: Motion, features: torch.Tensor, draft: torch.Tensor, window: Window | None = None
    ) -> torch.Tensor:
        """The frame [N, 3, 512, 512] over its draft; features [N, C, 64, 64] unwarped. With a window, that part."""
        warped_features, hints, fine = warp(features, motion.field) * motion.occlusion, motion.hints, FINE
        if window:
            hints, warped_features = window.of(hints), window.of(warped_features)
            fine = window.size // SHUFFLE
        painted = self.generator(warped_features, hints, draft, fine)
        # A plain factor, not a sigmoid of it: a lid must hide an eye, and a sigmoid near one is slow to close.
        return painted.keep * draft + painted.colour


class Student(nn.Module):
    """The identity-specific network φ (paper Sec. 3.2): keypoints and local landmarks in, a frame out.

    A network bound to a person. Bind once, drive often: `bind` stores what the teacher delivers about the person;
    `forward` is the per-frame half and the graph that converters lower. It never sees the teacher.

    Cost: set by the widths in `config`, counted by training/student/cost.py.
    """

    def __init__(self, network: Network, person: Person) -> None:
        """Join the two; several students may hold the same network.

        Raises:
            InputError: a person of other widths than the network takes.
        """
        super().__init__()
        if (there := person.config) != (here := network.config):
            raise InputError(f"A person made for {there} cannot be drawn by a network of {here}.")
        self.network = network
        self.person = person

    @classmethod
    def untrained(cls, config: StudentConfig) -> "Student":
        """A new network and nobody yet."""
        return cls(Network(config), Person(config))

    @property
    def config(self) -> StudentConfig:
        """Widths of network and person."""
        return self.network.config

    def bind(self, identity: Identity) -> "Student":
        """Store the person: photo, source keypoints and landmarks, appearance features. Returns itself."""
        self.person.bind(identity)
        self.distribute(identity.appearance_volume)
        return self

    @torch.no_grad()
    def distribute(self, appearance_volume: torch.Tensor) -> None:
        """Freeze F_2D, what the distributor makes of the teacher's volume [C, D, H, W], as a constant of the graph."""
        features = self.person.appearance_features
        features.copy_(self.network.distributor(appearance_volume.to(features)))

    def call(self) -> torch.Tensor:
        """What the rectifiers of the last forward pass call for (`Rectifier`): a scalar to be made small."""
        calls = []
        for layer in self.modules():
            if isinstance(layer, Rectifier) and layer.call is not None:
                calls.append(layer.call)
                layer.call = None
        return torch.stack(calls).sum() if calls else self.person.canvas.new_zeros(())

    def motion(self, keypoints: torch.Tensor, local_landmarks: torch.Tensor) -> Motion:
        """Dense motion from driving keypoints [N, K, 2] and local landmarks [N, M, 2]."""
        return self.network.motion(self.person.code(keypoints, local_landmarks))

    def animate(
        self,
        keypoints: torch.Tensor,
        local_landmarks: torch.Tensor,
        features: torch.Tensor | None = None,
        window: Window | None = None,
    ) -> Animation:
        """N frames at once: keypoints [N, K, 2], local landmarks [N, M, 2].

        Args:
            keypoints: where the head goes.
            local_landmarks: and its expression.
            features: F_2D [1, C, 64, 64] for training's sake, which also learns what makes it; default: the stored one.
            window: only that part of the frames is painted; the motion is always whole.
        """
        code = self.person.code(keypoints, local_landmarks)
        motion = self.network.motion(code)
        features = self.person.appearance_features if features is None else features
        frame = self.network.paint(motion, features, self.person.draft(motion.field, window), window)
        if self.training:  # mouth and eyes learn from close-ups of their own (training.student.distill)
            with torch.no_grad():
                closeups = self.person.closeups(code.points, code.asked)
        else:
            closeups = self.person.closeups(code.points, code.asked)
        return Animation(self.person.lay(frame, *closeups, window), motion)

    def forward(self, keypoints: torch.Tensor, local_landmarks: torch.Tensor) -> torch.Tensor:
        """The per-frame graph: keypoints [1, K, 2], local landmarks [1, M, 2] → image [1, 3, 512, 512] in 0..1."""
        return self.animate(keypoints, local_landmarks).image.clamp(0, 1)
