"""When a distillation turns from motion to frames, settles and ends: by steps, or by quality within a bound of minutes.

    learning rate  ▁▟▀▜▁▟▀▀▀▀▀▀▀▀▀▀▀▜▄▂▁
                   motion  frames      settling

Frames are learned at one rate until the student has learned enough; then the rate falls to nothing over the last
quarter of that stage, and the student settles. Nothing before depends on when that will be (in a cosine over the whole
run it would), so a run can settle when mouth and eyes get no better, and one that its bound cut short can be taken up
again where it began to settle. Warm-up, stable, decay, with the fall of 1 - √x: Hägele et al. 2024, "Scaling Laws and
Compute-Optimal Training Beyond Fixed Training Durations".
"""

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from training.config import DistilConfig

MOTION_STEPS = 300
"""Steps in which the motion network alone learns, where no steps are given."""
WARM_UP = 66
"""Steps in which the rate of the frames stage rises; a thirtieth of a shorter stage."""
SETTLING = 0.25
"""Share of the frames stage in which the rate falls."""
LOOK_EVERY = 250
"""Steps from one look at mouth and eyes to the next."""
EARLIEST = 3000
"""Step before which no rest is taken for an end. Mouth and eyes are in place within a few hundred steps, and their PSNR
rests while lids and glances are learned, which it hardly sees: a run that stopped there would have ended after 1,000
steps (docs/log.md)."""
PATIENCE = 2
"""Looks without a gain after which mouth and eyes get no better."""
GAIN_DB = 0.1
"""Least gain of the mean of mouth and eyes that counts. Twice as much would end a run after 2,500 steps, where eyes
rest for a while before they learn to look aside (docs/log.md)."""
GOAL_DB = 42.0
"""PSNR of mouth and eyes, the worse of the two, at which training has reached its goal."""
SURE = 20
"""Steps after which their pace is known."""

Why = Literal["", "steps", "goal", "plateau", "bound"]
"""What ends the frames stage: nothing yet, the steps asked for, both at their goal, no more gain, no time left."""


@dataclass
class State:
    """Where a run stands; plain JSON in its checkpoints."""

    motion_until: int | None = None
    """Step at which the frames stage began."""
    settle_from: int | None = None
    until: int | None = None
    """The step after the last."""
    why: Why = ""
    looks: list[float] = field(default_factory=list)
    """Mean of mouth and eyes in dB, look by look."""
    start_s: float = 0.0
    """Training time at which the minutes began to count."""
    pace_step: int = 0
    """Step and training time since which the pace is measured."""
    pace_s: float = 0.0


class Schedule:
    """The course of one run. Given steps fix it; without them looks and the clock decide.

    Attributes:
        state: where it stands.
        resettles: the run settled, and more is asked for now than it had: its end can be taken back to where settling
            began.
    """

    def __init__(self, config: DistilConfig, state: dict[str, Any] | None = None, step: int = 0) -> None:
        """Begin a run, or go on with one whose checkpoint held `state` at `step`."""
        self.state = own = State(**state) if state else State()
        self.bound_s = 60 * config.minutes if config.minutes is not None and config.steps is None else None
        self.until_no_better = config.until_no_better
        self.motion_share = config.motion_share if config.motion_field else 0.0
        settling = own.settle_from if own.settle_from is not None and step > own.settle_from else None
        if config.steps is not None:
            if own.motion_until is None:
                own.motion_until = math.ceil(self.motion_share * config.steps)
            own.until, own.why = config.steps, "steps"
            own.settle_from = config.steps - math.floor(SETTLING * max(0, config.steps - own.motion_until))
            self.resettles = settling is not None and settling < own.settle_from
        else:
            self.resettles = self.over(step) and (own.why in ("bound", "steps") or not config.until_no_better)
            if own.why == "steps" and settling is None:  # another length was asked for, and it was not reached
                own.settle_from = own.until = None
                own.why = ""

    def resume(self, state: dict[str, Any], step: int, seconds: float) -> None:
        """Go back to `state`, saved when the run began to settle, with all its minutes anew."""
        wanted, self.state = self.state, State(**state)
        own = self.state
        own.start_s, own.pace_step, own.pace_s = seconds, step, seconds
        own.settle_from, own.until, own.why = None, None, ""
        if self.bound_s is None:
            own.settle_from, own.until, own.why = wanted.settle_from, wanted.until, wanted.why

    def record(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return asdict(self.state)

    def over(self, step: int) -> bool:
        """Whether the run has ended."""
        return self.state.until is not None and step >= self.state.until

    def share(self, step: int, seconds: float) -> float:
        """How much of the run is done at the most, 0..1: it may end sooner."""
        if self.state.until is not None:
            return min(1.0, step / max(1, self.state.until))
        return min(1.0, (seconds - self.state.start_s) / self.bound_s) if self.bound_s else 0.0

    def learns_motion(self, step: int, seconds: float) -> bool:
        """Whether the motion network alone learns in this step; asked at each step."""
        own = self.state
        if own.motion_until is None and self._motion_done(step, seconds) >= 1:
            own.motion_until, own.pace_step, own.pace_s = step, step, seconds
        return own.motion_until is None or step < own.motion_until

    def settles(self, step: int, seconds: float) -> bool:
        """Whether the run begins to settle with this step; asked at each step."""
        own = self.state
        if own.settle_from is None and own.motion_until is not None and self.bound_s is not None:
            taken, left = step - own.pace_step, own.start_s + self.bound_s - seconds
            needed = self._settling(step) * (seconds - own.pace_s) / max(1, taken)
            if left <= 0 or (left <= needed and taken >= SURE):
                self._settle(step, "bound")
        return own.settle_from == step

    def look(self, step: int, mouth_db: float, eyes_db: float) -> None:
        """Note how well mouth and eyes are drawn before `step`; where that gets no better, settle."""
        own = self.state
        if own.settle_from is not None:
            return
        own.looks.append((mouth_db + eyes_db) / 2)
        if min(mouth_db, eyes_db) >= GOAL_DB:
            self._settle(step, "goal")
        elif self.until_no_better and step >= EARLIEST and len(own.looks) > PATIENCE:
            gained = max(own.looks[-PATIENCE:]) - max(own.looks[:-PATIENCE])
            if gained < GAIN_DB:
                self._settle(step, "plateau")

    def rate(self, step: int, seconds: float) -> float:
        """Factor of the learning rate, 0..1."""
        own = self.state
        if own.motion_until is None or step < own.motion_until:
            return _cosine(self._motion_done(step, seconds))
        if own.settle_from is not None and own.until is not None and step >= own.settle_from:
            return max(0.02, 1 - math.sqrt((step - own.settle_from) / (own.until - own.settle_from)))
        rise = WARM_UP if own.until is None else min(WARM_UP, max(1, (own.until - own.motion_until) // 30))
        return min(1.0, (1 + step - own.motion_until) / rise)

    def _settling(self, step: int) -> int:
        return max(1, round((step - (self.state.motion_until or 0)) * SETTLING / (1 - SETTLING)))

    def _settle(self, step: int, why: Why) -> None:
        self.state.settle_from, self.state.until, self.state.why = step, step + self._settling(step), why

    def _motion_done(self, step: int, seconds: float) -> float:
        """Share of the motion stage that is behind."""
        if self.state.motion_until is not None:
            return step / max(1, self.state.motion_until)
        if not self.motion_share or self.bound_s is None:
            return 1.0
        return max(step / MOTION_STEPS, (seconds - self.state.start_s) / (self.bound_s * self.motion_share))


def _cosine(share: float, warm_up: float = 0.03, floor: float = 0.02) -> float:
    """A short rise, then half a cosine."""
    if share < warm_up:
        return max(0.05, share / warm_up)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, (share - warm_up) / (1 - warm_up))))
