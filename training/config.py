"""Every number that a run can be given, as frozen dataclasses; a checkpoint carries them as JSON.

`StudentConfig` is found from one dial by `training.flops.student_config(gflops)`; the other defaults are written
here once, and the command line reads them from these fields.
"""

from dataclasses import dataclass

TIERS = {"standard": 6.0, "low": 2.0, "nano": 1.0, "paper": 12.0}
"""GFLOPs per frame (2 per multiply-accumulate) of the named students, everything per frame included."""


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
    code_size: int = 64
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
