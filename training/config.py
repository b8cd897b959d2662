"""Every number that a run can be given, as frozen dataclasses; a checkpoint carries them as JSON.

`StudentConfig` is found from one dial by `training.student.cost.student_config(gflops)`; the other defaults are written
here once, and the command line reads them from these fields.
"""

from dataclasses import dataclass

MINUTES = 9.0
"""Most training time of the default run, which ends sooner where mouth and eyes hardly gain any more."""

TIERS = {"standard": 3.2, "low": 2.0, "nano": 1.0, "paper": 12.0}
"""GFLOPs per frame (2 per multiply-accumulate) of the named students, everything per frame included."""


TRAINING_FRAMES = 700
"""Frames of procedural motion that the default run learns from."""


@dataclass(frozen=True)
class StudentConfig:
    """Widths of the student φ."""

    motion_channels: int
    """Dense motion network at 64 and 32 px; twice as many at 16 px."""
    coarse_channels: int
    """Generator at 64 px."""
    fine_channels: int
    """Generator at 128 px."""
    feature_channels: int = 32
    """Appearance features F_2D."""
    coarse_blocks: int = 2
    """Residual blocks at 64 px, two convolutions each."""
    fine_blocks: int = 2
    """Residual blocks at 128 px, two convolutions each."""
    volume_channels: int = 192
    """Channels of the teacher's appearance volume folded to 64 px: C*D*(H/64)^2. A photo has 192."""


@dataclass(frozen=True)
class LossWeights:
    """One λ_φ per term of the student's loss, with the paper's values (Sec. 3.2)."""

    perceptual: float = 10.0
    gan: float = 10.0
    head_pose: float = 10.0
    reconstruction: float = 1.0
    local: float = 100.0
    sharpness: float = 0.0
    """Not in the paper: pixel steps (see training/student/losses.py)."""


@dataclass(frozen=True)
class DistilConfig:
    """One distillation run. `minutes` or `steps` bound it; all else stays the same when a run is resumed."""

    gflops: float = TIERS["standard"]
    minutes: float | None = MINUTES
    """Most training time, without rendering the teacher's frames; ignored where `steps` is given."""
    until_no_better: bool = True
    """End before the minutes are over where mouth and eyes of a watched track hardly gain any more."""
    steps: int | None = None
    """Steps of both stages together, for runs that must repeat exactly."""
    motion_share: float = 0.06
    """Part of the run, of its minutes at the most, in which the motion network alone learns the teacher's field."""
    batch: int = 4
    window: int = 256
    """Side in pixels of the random square in which frames are compared, a multiple of 8; 512: whole frames."""
    motion_batch: int = 16
    learning_rate: float = 2.4e-3
    ema: float = 0.995
    seed: int = 0
    weights: LossWeights = LossWeights(local=4.0, sharpness=1.0)
    keypoints: bool = True
    """Ablation (paper Table 5): the teacher's neural keypoints drive the student; else local landmarks alone."""
    appearance: bool = True
    """Ablation (paper Table 5): F_2D from the teacher's appearance volume; else a blank one."""
    motion_field: bool = True
    """Ablation: the teacher's motion field teaches the motion network first; else end to end from the start."""


@dataclass(frozen=True)
class TeacherConfig:
    """Widths of the teacher Φ, and the switches of its ablations (paper Table 4)."""

    size: int = 256
    """Width and height of its frames."""
    stem_channels: int = 64
    """Appearance encoder at full size; doubled with each halving, up to four times."""
    halvings: int = 2
    """From a frame to the volume's height and width: 256 px and two halvings give 64."""
    volume_channels: int = 32
    volume_depth: int = 16
    volume_blocks: int = 5
    """3-D residual blocks of the appearance encoder."""
    motion_channels: int = 32
    motion_levels: int = 5
    motion_most: int = 512
    """3-D hourglass of the dense motion network: first width, halvings, largest width."""
    compressed: int = 4
    """Channels of the volume that the dense motion network looks at."""
    encoder_channels: int = 48
    """MEM's encoder, first width; doubled three times."""
    generator_channels: int = 256
    generator_blocks: int = 6
    early_infusion: bool = True
    """Ablation (Table 4): the drawn mesh enters MEM with the image."""
    late_infusion: bool = True
    """Ablation (Table 4): the landmarks join MEM's features before its heads."""


TEACHERS = {
    "teacher_256": TeacherConfig(),
    "teacher_512": TeacherConfig(
        size=512, halvings=3, volume_blocks=10, motion_channels=48, motion_most=768,
        generator_channels=512, generator_blocks=15,
    ),
    "teacher_demo": TeacherConfig(
        stem_channels=32, volume_depth=8, volume_blocks=3, motion_channels=16, motion_levels=4, motion_most=256,
        encoder_channels=32, generator_channels=192, generator_blocks=3,
    ),
    "teacher_small": TeacherConfig(
        size=128, stem_channels=32, volume_channels=24, volume_depth=8, volume_blocks=2, motion_channels=16,
        motion_levels=3, motion_most=128, encoder_channels=32, generator_channels=128, generator_blocks=3,
    ),
    "teacher_tiny": TeacherConfig(
        size=64, stem_channels=8, volume_channels=8, volume_depth=4, volume_blocks=1, motion_channels=8,
        motion_levels=2, motion_most=16, compressed=2, encoder_channels=8, generator_channels=32, generator_blocks=1,
    ),
}  # fmt: skip
"""Φ by name: the paper's two sizes; `demo`, an hour's training on one data-centre GPU; `small` for CPUs; `tiny` for
tests."""


@dataclass(frozen=True)
class TeacherLossWeights:
    """One λ_Φ per term of Eq. 1, with the paper's values (Sec. 4.1.2)."""

    perceptual: float = 10.0
    gan: float = 10.0
    keypoint: float = 5.0
    expression: float = 10.0
    head_pose: float = 1.0
    equivariance: float = 10.0
    reconstruction: float = 10.0
    local: float = 100.0


@dataclass(frozen=True)
class TeacherTraining:
    """One training of Φ. `minutes` or `steps` bounds it; all else stays the same when a run is resumed."""

    teacher: str = "teacher_demo"
    """A name of `TEACHERS`."""
    steps: int = 20_000
    batch: int = 32
    """Frame pairs of a step, over all processes and accumulated parts."""
    learning_rate: float = 2e-4
    betas: tuple[float, float] = (0.5, 0.999)
    gan_from: float = 0.5
    """Share of the run after which the discriminator joins: reconstruction first."""
    faces_from: float = 0.2
    """Share of the run after which the head pose counts: before, there is no face to judge in the frames."""
    fall_from: float = 0.7
    """Share of the run after which the learning rate falls, evenly to a twentieth."""
    ema: float = 0.999
    seed: int = 0
    ssr: bool = True
    """Ablation (Table 4): the appearance encoder sees degraded sources."""
    vary: bool = True
    """Both frames of a pair changed alike, in shape and colour: more faces than there are clips."""
    early_infusion: bool = True
    late_infusion: bool = True
    regions: tuple[str, ...] = ("mouth",)
    """What MTM hides from the global keypoints; none switches it off."""
    discriminator_channels: int = 64
    weights: TeacherLossWeights = TeacherLossWeights()
    hold_out: tuple[str, ...] = ()
    """Clips that training never sees, by name."""
