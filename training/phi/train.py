"""Training Φ: one loop, from shards of clips to a teacher (paper Sec. 3.4). Read `train_teacher` top to bottom.

A step: two frames of one clip; faces drawn and masked (MTM), the source degraded (SSR); Φ animates; the terms of Eq. 1;
a step of Φ, then of the discriminator once it has joined, then of the landmark regressor that judges the next step.

`accelerate launch superface.py train …` runs it on several GPUs or machines: Accelerate has device, precision, gradient
accumulation and processes. The run folder holds all that is needed to go on. What is random depends on the seed and on
a sample's or step's number alone, so a run ends with the same weights however often it was stopped.
"""

import copy
import json
import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from PIL import Image
from torch import nn

from edge.errors import InputError
from training.checkpoint import load_tensors, save_tensors, write_text
from training.config import TEACHERS, TeacherConfig, TeacherTraining
from training.measures.evaluators import Perceptual, load_head_pose, load_perceptual
from training.phi.augment import Transform, degrade, vary
from training.phi.discriminator import Discriminator
from training.phi.losses import (
    TeacherTerms,
    discriminator_loss,
    equivariance_loss,
    expression_loss,
    gan_loss,
    head_pose_loss,
    keypoint_loss,
    local_loss,
    perceptual_loss,
)
from training.phi.network import VERSION, Animated, Face, SuperFace, make_face, refuse_newer
from training.phi.regressor import LandmarkRegressor, pose_of_landmarks
from training.phi.shards import Clips, Pair, Samples
from training.progress import Progress, print_progress
from training.student.losses import reconstruction_loss

VALIDATION_PAIRS = 6
LONGEST_GRADIENT = 100.0
"""Norm to which the teacher's gradient is cut: one odd pair must not undo a thousand."""


class Networks(NamedTuple):
    """Everything that is trained."""

    teacher: nn.Module
    discriminator: nn.Module
    regressor: nn.Module


class Step(NamedTuple):
    """One batch, ready for Φ."""

    source: Face
    driving: Face
    appearance: torch.Tensor
    transformed: Face
    transform: Transform
    seeds: list[int]


def make_step(pair: Pair, step: int, config: TeacherTraining, device: torch.device) -> Step:
    """A batch of pairs drawn, masked, degraded and transformed on the device."""
    source, driving = (images.to(device, non_blocking=True).float() / 255 for images in (pair.source, pair.driving))
    source_landmarks, driving_landmarks = pair.source_landmarks.to(device), pair.driving_landmarks.to(device)
    seeds = [int(seed) for seed in pair.seed]
    with torch.no_grad():
        if config.vary:
            source, source_landmarks = vary(source, source_landmarks, seeds)
            driving, driving_landmarks = vary(driving, driving_landmarks, seeds)
        appearance = degrade(source, seeds, config.seed * 1_000_003 + step) if config.ssr else source
        transform = Transform(seeds, source)
        moved = torch.cat([transform.inverse(source_landmarks[..., :2]), source_landmarks[..., 2:]], -1)
        return Step(
            make_face(source, source_landmarks, config.regions),
            make_face(driving, driving_landmarks, config.regions),
            appearance,
            make_face(transform.image(source), moved, config.regions),
            transform,
            seeds,
        )


class Outcome(NamedTuple):
    """What a step gave, still on the device. To read it is to wait for the step, so it is read a step later."""

    step: int
    seeds: list[int]
    names: tuple[str, ...]
    values: torch.Tensor
    """float32, one for each name."""

    def read(self, run_folder: Path) -> dict[str, float]:
        """The values by name; raises InputError where one is not finite."""
        values = dict(zip(self.names, self.values.tolist(), strict=True))
        if wrong := [name for name, value in values.items() if not math.isfinite(value)]:
            raise InputError(
                f"Step {self.step}: not a finite number: {', '.join(wrong)} (samples of the seeds {self.seeds}). The "
                f"last good checkpoint in {run_folder / 'checkpoints'} is kept; go on from it with a smaller learning "
                "rate."
            )
        return values


class Judges(NamedTuple):
    """The networks behind the losses, and what they are, for the card."""

    perceptual: Perceptual | None
    head_pose: nn.Module | None

    @property
    def card(self) -> dict[str, str]:
        """Which judge stands behind which loss."""
        return {
            "perceptual": self.perceptual.card if self.perceptual else "features of the discriminator itself",
            "head_pose": "FSA-Net" if self.head_pose else "pose fitted to the landmarks of a regressor trained here",
            "landmarks": "regressor trained here on MediaPipe's landmarks",
        }


def teacher_terms(
    made: Animated, step: Step, networks: Networks, judges: Judges, *, gan: bool, pose: bool = True
) -> TeacherTerms:
    """The terms of Eq. 1 for a batch."""
    frames, wanted = made.frames, step.driving.image
    discriminator, regressor = networks.discriminator, networks.regressor
    none = frames.new_zeros(())
    with frozen(discriminator), frozen(regressor):
        landmarks_made = regressor(frames)
        with torch.no_grad():
            landmarks_wanted = regressor(wanted)
        maps = judges.perceptual.maps if judges.perceptual else _discriminator_maps(discriminator)
        judged = gan_loss(discriminator(frames), _judge(discriminator, wanted)) if gan else none
        seen = perceptual_loss(maps, frames, wanted)
        local = local_loss(
            maps,
            frames,
            wanted,
            step.driving.local,
            landmarks_made=landmarks_made,
            landmarks_wanted=landmarks_wanted,
        )
        if not pose:
            pose_made = pose_wanted = frames.new_zeros(len(frames), 3)
        elif judges.head_pose:
            where = step.driving.landmarks
            with torch.no_grad():
                pose_wanted = judges.head_pose(wanted, where)
            pose_made = judges.head_pose(frames, where)
        else:
            pose_made, pose_wanted = pose_of_landmarks(landmarks_made), pose_of_landmarks(landmarks_wanted)
    points = torch.cat([made.source.points, made.driving.points])
    return TeacherTerms(
        perceptual=seen,
        gan=judged,
        keypoint=keypoint_loss(points),
        expression=expression_loss(torch.cat([made.source.expression, made.driving.expression])),
        head_pose=head_pose_loss(pose_made, pose_wanted),
        equivariance=equivariance_loss(made.source.points, made.transformed.points, step.transform),
        reconstruction=reconstruction_loss(frames, wanted),
        local=local,
    )


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Gradients pass through a network and do not reach its weights."""
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)


def _judge(discriminator: nn.Module, frames: torch.Tensor) -> Any:
    with torch.no_grad():
        return discriminator(frames)


def _discriminator_maps(discriminator: nn.Module) -> Any:
    return lambda frames: [values for judgement in discriminator(frames) for values in judgement.features]


def train_teacher(
    shards: Path,
    run_folder: Path,
    config: TeacherTraining,
    *,
    precision: str | None = None,
    parts: int = 1,
    workers: int | None = None,
    validate_every: int = 500,
    save_every_s: float = 120.0,
    minutes: float | None = None,
    start_from: Path | None = None,
    progress: Progress | None = None,
    accelerator: Accelerator | None = None,
) -> SuperFace:
    """A teacher trained on a folder of shards.

    Args:
        shards: made by `superface prepare`.
        run_folder: gets `checkpoints/`, `validation/`, scalars for TensorBoard, `card.json`, `teacher.safetensors`.
        config: what is trained and how; the same for every start of one run.
        precision: "bf16", "fp16" or "no"; default: bf16 on a GPU that has it, else none.
        parts: a step's batch is taken in so many parts, one after another (gradient accumulation).
        workers: processes that read frames; default: 4 beside a GPU, none on a CPU, whose cores they would take.
        validate_every: steps between pictures.
        save_every_s: seconds between checkpoints.
        minutes: stop after so long in this start, before `config.steps`; the next start goes on.
        start_from: weights that another training made (`teacher.safetensors`), to begin from instead of random ones.
        progress: default: a bar on a terminal, plain lines elsewhere.
        accelerator: default: a new one; tests pass theirs.

    Returns:
        Φ with its averaged weights, in evaluation mode, on the CPU.

    Raises:
        InputError: shards, configuration or checkpoint do not fit; a loss that is not finite (the last good checkpoint
            is kept); the device's memory is too small (says which batch would fit).
    """
    if precision is None:
        precision = "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "no"
    accelerator = accelerator or Accelerator(mixed_precision=precision, gradient_accumulation_steps=parts)
    processes, device = accelerator.num_processes, accelerator.device
    if config.batch % (processes * parts):
        raise InputError(f"A batch of {config.batch} cannot be split over {processes} processes in {parts} parts.")
    share = config.batch // processes // parts
    progress = (progress or print_progress()) if accelerator.is_main_process else (lambda *_: None)

    size = TEACHERS[config.teacher].size
    clips = Clips(shards, size=size, seed=config.seed, hold_out=config.hold_out)
    if clips.kept_size < size:
        raise InputError(
            f"{shards} holds frames of {clips.kept_size} px, and {config.teacher} draws {size} px. Prepare the clips "
            f"with --size {size}, or train a smaller teacher."
        )
    torch.backends.cudnn.benchmark = True  # every step has the same shapes
    set_seed(config.seed)
    networks = Networks(
        SuperFace(teacher_config(config)), Discriminator(config.discriminator_channels), LandmarkRegressor()
    )
    if start_from is not None:
        _start(start_from, networks)
    averaged = copy.deepcopy(networks.teacher).requires_grad_(False).to(device)
    average = dict(averaged.named_parameters())
    optimisers = [torch.optim.Adam(n.parameters(), config.learning_rate, betas=config.betas) for n in networks]
    optimisers[2].param_groups[0].update(betas=(0.9, 0.99))
    rates = (1.0, 1.0, 1e-3 / config.learning_rate)  # The regressor has one of its own.
    with torch.no_grad():  # The regressor starts at a mean face.
        first = np.stack([clips.landmarks(clip).mean(0) for clip in range(min(64, len(clips.keys)))])
        networks.regressor.mean.copy_(torch.from_numpy(first.mean(0)))
    wrapped = accelerator.prepare(*networks, *optimisers)
    models, optimisers = Networks(*wrapped[:3]), list(wrapped[3:])
    networks = Networks(*(accelerator.unwrap_model(model) for model in models))

    judges = Judges(load_perceptual(device), load_head_pose(device))
    made_by = json.loads(json.dumps(asdict(replace(config, steps=0))))
    step, seconds = _resume(run_folder, made_by, networks, optimisers, average)
    if accelerator.is_main_process:
        run_folder.mkdir(parents=True, exist_ok=True)
        card = {"training": asdict(config), "judges": judges.card, "clips": len(clips.keys)}
        write_text(run_folder / "card.json", json.dumps(card, indent=1))
        _forget_after(run_folder / "history.jsonl", step)
    order = Samples(
        first_step=step,
        steps=config.steps,
        global_batch=config.batch,
        process=accelerator.process_index,
        processes=processes,
    )
    if workers is None:
        workers = 4 if device.type == "cuda" else 0
    loader = torch.utils.data.DataLoader(
        clips,
        share,
        sampler=order,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        prefetch_factor=4 if workers else None,
    )
    # Pictures are of people that training does not see, where some are held out.
    shown = Clips(shards, size=size, seed=config.seed, only=config.hold_out) if config.hold_out else clips
    validation = _validation_step(shown, config, device)

    started, saved, this_start = time.monotonic() - seconds, time.monotonic(), step
    with _board(run_folder) if accelerator.is_main_process else nullcontext() as board:
        batches = iter(loader)
        outcome: Outcome | None = None
        while step < config.steps:
            gan, pose = (step >= begin * config.steps for begin in (config.gan_from, config.faces_from))
            for optimiser, share_of_rate in zip(optimisers, rates, strict=True):
                optimiser.zero_grad(set_to_none=True)
                for group in optimiser.param_groups:
                    group["lr"] = share_of_rate * learning_rate(step, config)
            done: dict[str, torch.Tensor] = {}
            seeds: list[int] = []
            try:
                for part in range(parts):
                    batch = make_step(next(batches), step * parts + part, config, device)
                    with accelerator.accumulate(*models):
                        with accelerator.autocast():
                            made = models.teacher(
                                source=batch.source,
                                driving=batch.driving,
                                appearance=batch.appearance,
                                transformed=batch.transformed,
                            )
                            terms = teacher_terms(made, batch, networks, judges, gan=gan, pose=pose)
                        weights = asdict(config.weights)
                        loss = sum(weights[name] * value for name, value in terms._asdict().items())
                        accelerator.backward(loss)
                        norm = loss.new_zeros(())
                        if accelerator.sync_gradients:
                            norm = accelerator.clip_grad_norm_(models.teacher.parameters(), LONGEST_GRADIENT)
                            if precision == "fp16":  # Its scaler meets infinities and skips such a step by itself.
                                norm = norm.nan_to_num(posinf=0.0)
                        optimisers[0].step()
                        with accelerator.autocast():
                            found = models.regressor(batch.driving.image)
                            wrong = (found - batch.driving.landmarks).abs().mean()
                        accelerator.backward(wrong)
                        optimisers[2].step()
                        fooled = loss.new_zeros(())
                        if gan:
                            with accelerator.autocast():
                                both = torch.cat([made.frames.detach(), batch.driving.image])
                                halves = [_halves(judgement) for judgement in models.discriminator(both)]
                                fooled = discriminator_loss([h[0] for h in halves], [h[1] for h in halves])
                            accelerator.backward(fooled)
                            optimisers[1].step()
                    seeds += batch.seeds
                    got = {
                        **terms._asdict(), "total": loss, "discriminator": fooled, "landmarks": wrong, "gradient": norm,
                    }  # fmt: skip
                    done = {name: done.get(name, 0.0) + value.detach().float() / parts for name, value in got.items()}
            except torch.cuda.OutOfMemoryError as error:
                raise InputError(
                    f"The GPU's memory is too small for {share} pairs at once. Take the batch in more parts: --parts "
                    f"{2 * parts} needs about half as much."
                ) from error
            decay = min(config.ema, (1 + step) / (10 + step))
            with torch.no_grad():
                own = [p for _, p in networks.teacher.named_parameters()]
                torch._foreach_lerp_(list(average.values()), own, 1 - decay)
            step += 1
            before, outcome = outcome, Outcome(step, seeds, tuple(done), torch.stack(list(done.values())))
            if before:
                before.read(run_folder)

            now = time.monotonic()
            stop = minutes is not None and (now - started - seconds) > 60 * minutes
            if minutes is not None and processes > 1:  # clocks differ, and all must stop at the same step
                stop = bool(accelerator.reduce(torch.tensor(float(stop), device=device), "sum"))
            last = stop or step == config.steps
            told, shown_now = step % 20 == 0 or step == 1 or last, step % validate_every == 0 or last
            saving = last or now - saved > save_every_s
            values = outcome.read(run_folder) if told or saving else {}
            if accelerator.is_main_process:
                if told:
                    rate = (step - this_start) / (now - started - seconds)
                    memory = f", {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if device.type == "cuda" else ""
                    left = (config.steps - step) / rate / 60
                    speed = f"{rate * config.batch:.1f} pairs/s{memory}, {left:.0f} min left"
                    progress("training", step / config.steps, f"step {step}, loss {values['total']:.3f}, {speed}")
                    for name, value in values.items() if board else ():
                        board.add_scalar(f"loss/{name}", value, step)
                    with (run_folder / "history.jsonl").open("a") as file:
                        record = {"step": step, "seconds": round(now - started, 1)}
                        file.write(json.dumps(record | {name: round(v, 5) for name, v in values.items()}) + "\n")
                if shown_now:
                    picture = validate(averaged, validation, run_folder / "validation" / f"{step:07d}.png")
                    if board:
                        board.add_image("validation", picture, step)
                if saving:
                    saved = now
                    _save(run_folder, step, now - started, made_by, networks, optimisers, average)
            if stop:
                break
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        card = {
            "config": asdict(teacher_config(config)),
            "training": asdict(config),
            "judges": judges.card,
            "step": step,
        }
        tensors = {f"teacher/{name}": value for name, value in averaged.state_dict().items()}
        tensors |= {f"discriminator/{name}": value for name, value in networks.discriminator.state_dict().items()}
        save_tensors(run_folder / "teacher.safetensors", tensors, card | {"version": VERSION})
    return averaged.cpu().eval()


def teacher_config(config: TeacherTraining) -> TeacherConfig:
    """The widths of the teacher that a training asks for, with its ablations."""
    return replace(TEACHERS[config.teacher], early_infusion=config.early_infusion, late_infusion=config.late_infusion)


def _halves(judgement: Any) -> tuple[Any, Any]:
    """A judgement of made and real frames in one batch, taken apart."""
    return tuple(judgement._replace(realness=realness, features=()) for realness in judgement.realness.chunk(2))


def learning_rate(step: int, config: TeacherTraining) -> float:
    """The rate at a step: up over the first hundred, level, and down to a twentieth at the run's end."""
    fallen = (step / config.steps - config.fall_from) / max(1 - config.fall_from, 1e-6)
    return config.learning_rate * min(1.0, (step + 1) / 100) * (1 - 0.95 * min(max(fallen, 0.0), 1.0))


def _start(path: Path, networks: Networks) -> None:
    """Put the weights of another training in place."""
    tensors, record = load_tensors(path)
    refuse_newer(path, record.get("version", 0))
    try:
        for name in ("teacher", "discriminator"):
            network = getattr(networks, name)
            network.load_state_dict({key: tensors[f"{name}/{key}"].float() for key in network.state_dict()})
    except (KeyError, RuntimeError) as error:
        raise InputError(f"{path} does not fit this teacher ({error}).") from error


def _validation_step(clips: Clips, config: TeacherTraining, device: torch.device) -> Step:
    """A fixed batch: the first pairs of the order."""
    pairs = [clips[sample] for sample in range(VALIDATION_PAIRS)]
    stacked = [torch.stack(values) for values in list(zip(*pairs, strict=True))[:4]]
    return make_step(Pair(*stacked, [pair.seed for pair in pairs]), 0, replace(config, vary=False), device)


@torch.no_grad()
def validate(teacher: nn.Module, step: Step, path: Path) -> np.ndarray:
    """The fixed batch through the averaged teacher, as a PNG: what it saw, source, driving, made, one pair a column.

    Returns:
        The picture, uint8 [3, H, W].
    """
    made = teacher(source=step.source, driving=step.driving, appearance=step.appearance).frames
    rows = [torch.cat(list(row.float()), 2) for row in (step.appearance, step.source.image, step.driving.image, made)]
    picture = (torch.cat(rows, 1).clamp(0, 1) * 255).round().byte().cpu().numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    Image.fromarray(picture.transpose(1, 2, 0)).save(temporary, "PNG")
    os.replace(temporary, path)
    return picture


def _board(run_folder: Path) -> Any:
    """TensorBoard's writer, to be closed by leaving it; of nothing, where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return nullcontext()
    return SummaryWriter(run_folder / "tensorboard")


def _forget_after(history: Path, step: int) -> None:
    """Leave out of a history what a killed start had done after its last checkpoint: it is done again."""
    if history.exists():
        lines = [line for line in history.read_text().splitlines() if json.loads(line)["step"] <= step]
        write_text(history, "".join(f"{line}\n" for line in lines))


def _save(
    run_folder: Path,
    step: int,
    seconds: float,
    made_by: dict[str, Any],
    networks: Networks,
    optimisers: list[Any],
    average: Mapping[str, torch.Tensor],
) -> None:
    """A checkpoint: weights and optimisers in two files of one folder, which appears whole or not at all."""
    folder = run_folder / "checkpoints" / f"step-{step:07d}"
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    weights = {f"average/{name}": value for name, value in average.items()}
    moments = {}
    for name, network, optimiser in zip(Networks._fields, networks, optimisers, strict=True):
        weights |= {f"{name}/{key}": value for key, value in network.state_dict().items()}
        for key, p in network.named_parameters():
            moments |= {f"{name}/{key}/{kind}": value for kind, value in optimiser.state.get(p, {}).items()}
    record = {"version": VERSION, "made_by": made_by, "step": step, "seconds": seconds}
    save_tensors(temporary / "weights.safetensors", weights, record)
    save_tensors(temporary / "optimiser.safetensors", moments, record)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)
    for old in sorted(folder.parent.glob("step-*"))[:-2]:
        shutil.rmtree(old, ignore_errors=True)


def _resume(
    run_folder: Path,
    made_by: dict[str, Any],
    networks: Networks,
    optimisers: list[Any],
    average: dict[str, torch.Tensor],
) -> tuple[int, float]:
    """Put the newest checkpoint in place; its step and seconds, or 0 and 0 where there is none."""
    folders = sorted((run_folder / "checkpoints").glob("step-*"))
    if not folders:
        return 0, 0.0
    weights, record = load_tensors(folders[-1] / "weights.safetensors")
    moments, _ = load_tensors(folders[-1] / "optimiser.safetensors")
    refuse_newer(folders[-1], record.get("version", 0))
    if record["made_by"] != made_by:
        different = sorted(key for key in made_by if record["made_by"].get(key) != made_by[key])
        raise InputError(
            f"{run_folder} holds a training with other settings ({', '.join(different)}). Choose another run folder, "
            "or give the same settings to go on."
        )
    try:
        for name, network, optimiser in zip(Networks._fields, networks, optimisers, strict=True):
            network.load_state_dict({key: weights[f"{name}/{key}"] for key in network.state_dict()})
            for key, p in network.named_parameters():
                state = {kind: moments.get(f"{name}/{key}/{kind}") for kind in ("step", "exp_avg", "exp_avg_sq")}
                if state["step"] is not None:
                    optimiser.state[p] = {
                        kind: value if kind == "step" else value.to(p.device) for kind, value in state.items()
                    }
        for name, value in average.items():
            value.copy_(weights[f"average/{name}"])
    except (KeyError, RuntimeError) as error:
        raise InputError(f"{folders[-1]} does not fit this teacher ({error}).") from error
    return int(record["step"]), float(record["seconds"])
