"""Every number that a run can be given, as frozen dataclasses; a checkpoint carries them as JSON.

`StudentConfig` is found from one dial by `training.flops.student_config(gflops)`; the other defaults are written
here once, and the command line reads them from these fields.
"""

from dataclasses import dataclass

MINUTES = 6.0
"""Training time of the default run."""

TIERS = {"standard": 6.0, "low": 2.0, "nano": 1.0, "paper": 12.0}
"""GFLOPs per frame (2 per multiply-accumulate) of the named students, everything per frame included."""


TRAINING_FRAMES = 700
"""Frames of procedural motion that the default run learns from."""


def training_frames(minutes: float | None) -> int:
    """Frames for a run of that length: with more time, more poses are worth rendering (700 in 6 minutes)."""
    longer = max(1.0, (minutes or 0.0) / MINUTES)
    return min(3000, round(TRAINING_FRAMES * longer**0.5))


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
    centres: int = 512
    """Example poses that the mixer of the basis fields compares with."""
    code_size: int = 96
    """Learned whole-face motions (basis fields) of this person."""
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
    """Not in the paper: pixel steps (see training/losses.py)."""


@dataclass(frozen=True)
class DistilConfig:
    """One distillation run. `minutes` or `steps` bounds it; all else stays the same when a run is resumed."""

    gflops: float = TIERS["standard"]
    minutes: float | None = MINUTES
    """Training time, without rendering the teacher's frames; ignored where `steps` is given."""
    steps: int | None = None
    """Steps of both stages together, for runs that must repeat exactly."""
    motion_share: float = 0.12
    """Part of the run in which the motion network alone learns the teacher's motion field."""
    batch: int = 4
    window: int = 256
    """Side in pixels of the random square in which frames are compared, a multiple of 8; 512: whole frames."""
    motion_batch: int = 16
    learning_rate: float = 1.2e-3
    ema: float = 0.995
    seed: int = 0
    weights: LossWeights = LossWeights(local=4.0, sharpness=1.0)
    keypoints: bool = True
    """Ablation (paper Table 5): the teacher's neural keypoints drive the student; else local landmarks alone."""
    appearance: bool = True
    """Ablation (paper Table 5): F_2D from the teacher's appearance volume; else a blank one."""
    motion_field: bool = True
    """Ablation: the teacher's motion field teaches the motion network first; else end to end from the start."""
