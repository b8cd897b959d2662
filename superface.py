"""SuperFace: one photo in, a personal talking avatar out. The command line, a thin call into each package.

superface make [PHOTO]              photo → runs/NAME/NAME.avatar, preview.mp4, report.html
superface track CLIP                video → landmark track
superface animate NAME.avatar       the avatar follows a video or a track
superface bench NAME.avatar         speed and memory here
superface check NAME.avatar         is it intact, and does it draw as when it was made?
superface prepare CLIPS…            videos → training shards for a teacher
superface train SHARDS              shards → a teacher Φ
superface evaluate SHARDS           teachers compared on clips that training left out
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edge.__main__ import add_commands, run_safely, speak_plainly
from edge.errors import InputError, MissingRuntimeError
from training.config import MINUTES, TEACHERS, TIERS, TRAINING_FRAMES, TeacherTraining

_EXAMPLES = """\
examples:
  superface make                                    a public-domain portrait, about twenty minutes on 2 cores
  superface make me.jpg                             your own photo (ask whoever is on it)
  superface make me.jpg --driving clip.mp4 --frames 2000 --minutes 60
  superface make me.jpg --tier nano                 for the cheapest phones
A run that was stopped goes on when the same command is given again; so does one that ran out of minutes.
"""


def _add_make(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run_make)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EXAMPLES
    parser.add_argument(
        "photo",
        nargs="?",
        help="a photo of one face, or grace_hopper (the default) or astronaut, which are shipped",
    )
    parser.add_argument("--name", help="name of the avatar (default: the photo's)")
    parser.add_argument(
        "--driving",
        type=Path,
        help="a video or track (.npz) whose motion is learned as well and shown in the preview",
    )
    parser.add_argument("--face", type=int, help="which face, counted from the left (default: the largest)")
    parser.add_argument(
        "--strict", action="store_true",
        help="refuse a photo that no good avatar can come of (closed eyes, open mouth, blur, …) instead of a note",
    )  # fmt: skip
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument(
        "--minutes", type=float,
        help="train that long (default: until mouth and eyes hardly gain any more, "
        f"and no longer than {MINUTES:g} minutes)",
    )  # fmt: skip
    budget.add_argument("--steps", type=int, help="train for so many steps instead, for runs that repeat exactly")
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--tier", choices=tuple(TIERS), default="standard",
        help=f"GFLOPs a frame: {', '.join(f'{name} {most:g}' for name, most in TIERS.items())} (default: %(default)s)",
    )  # fmt: skip
    size.add_argument("--gflops", type=float, help="any other size, in GFLOPs a frame (2 per multiply-accumulate)")
    parser.add_argument(
        "--frames", type=int, default=TRAINING_FRAMES,
        help="frames of procedural motion to learn from (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--teacher", choices=("mesh", "superface"), default="mesh",
        help="who animates the photo: mesh needs no weights; superface is the paper's, with weights that superface "
        "train made, named by SUPERFACE_TEACHER (default: mesh)",
    )  # fmt: skip
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where run folders go (default: runs)")
    parser.add_argument(
        "--force", action="store_true",
        help="write the bundle even if the student draws too little of its teacher's mouth and eyes; it will say so",
    )  # fmt: skip
    parser.add_argument("--consent", help="who agreed to this avatar, and how; kept in the bundle")
    parser.add_argument("--json", action="store_true", help="end with one JSON line")


def run_make(arguments: argparse.Namespace) -> int:
    """Make an avatar; exit code 0 when its bundle was written, read back and checked."""
    try:
        from converters.make import EXAMPLES, MakeConfig, make, tell_face
    except ModuleNotFoundError as error:
        raise MissingRuntimeError(
            f'Making an avatar needs {error.name}. Install everything with pip install "superface[all]".'
        ) from error
    _above_zero(arguments, "minutes", "steps", "frames", "gflops")
    consent = arguments.consent
    if arguments.photo not in (None, *EXAMPLES) and consent is None:
        consent = _ask_consent()
    config = MakeConfig(
        name=arguments.name,
        driving=arguments.driving,
        face=arguments.face,
        strict=arguments.strict,
        teacher=arguments.teacher,
        runs=arguments.runs,
        frames=arguments.frames,
        consent=consent,
        force=arguments.force,
    )
    distil = replace(config.distil, gflops=arguments.gflops or TIERS[arguments.tier])
    if arguments.minutes is not None:
        distil = replace(distil, minutes=arguments.minutes, until_no_better=False)
    if arguments.steps is not None:
        distil = replace(distil, steps=arguments.steps)
    made = make(arguments.photo, replace(config, distil=distil))
    summary = made.summary()
    metrics = summary["metrics"]
    print(
        f"\n{made.bundle}   {summary['bytes'] / 1e6:.1f} MB, {summary['gflops']:.2f} GFLOPs "
        f"({summary['gmacs']:.2f} GMACs) a frame, verified\n"
        f"{made.preview}   source | teacher | student\n"
        f"{made.report}   pictures, curves, parity, latency\n"
        f"held-out talking motion: {tell_face(metrics)}\n"
        f"whole frames {metrics['psnr_db']:.1f} dB PSNR, SSIM {metrics['ssim']:.3f}; "
        f"{made.seconds / 60:.1f} minutes in all\n"
        + (f"{made.unfinished}\n" if made.unfinished else "")
        + f"Next: superface animate {made.bundle} --driving CLIP.mp4",
        file=sys.stderr if arguments.json else sys.stdout,
    )
    if arguments.json:
        print(json.dumps(summary))
    return 0


def _above_zero(arguments: argparse.Namespace, *names: str) -> None:
    """Raise InputError where one of these flags was given and is not above zero."""
    for name in names:
        value = getattr(arguments, name)
        if value is not None and not value > 0:
            raise InputError(f"--{name.replace('_', '-')} {value:g} is not possible. Give a number above zero.")


def _ask_consent() -> str | None:
    """A yes from whoever sits at the terminal; elsewhere the statement that using the command makes."""
    statement = "the person in the photo, or whoever may speak for them, agreed to this avatar"
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        print(
            f"By making this avatar you state that {statement} (--consent says who, and how).",
            file=sys.stderr,
        )
        return None
    print(f"Is it true that {statement}? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise InputError("No avatar is made without consent.")
    return f"Confirmed at the terminal: {statement}."


def _add_prepare(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run_prepare)
    parser.description = (
        "Cuts each clip to one fixed face crop, finds its landmarks, leaves out what is lost, small, cut or blurred, "
        "and writes WebDataset shards with a card that says what was kept and why. Goes on where it was stopped."
    )
    parser.add_argument("videos", nargs="*", type=Path, help="videos, or folders that are searched through")
    parser.add_argument(
        "--photos", nargs="+", type=Path, default=[],
        help="photos, or folders of them, which the mesh teacher poses: more faces to start a training with",
    )  # fmt: skip
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the shards")
    parser.add_argument("--size", type=int, default=256, help="width and height of the frames (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=300, help="most frames of a clip (default: %(default)s)")
    parser.add_argument("--quality", type=int, default=92, help="of the JPEGs, 1 to 95 (default: %(default)s)")
    parser.add_argument("--listing", type=Path, help="JSON of clips and boxes in CelebV-HQ's layout")
    parser.add_argument("--licences", type=Path, help="CSV with the columns file and licence, for the card")
    parser.add_argument("--workers", type=int, default=1, help="processes (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="end with the card as one JSON line")


def run_prepare(arguments: argparse.Namespace) -> int:
    """Make shards; exit code 0 when there is at least one clip in them."""
    from training.phi.prepare import Settings, prepare

    if not (32 <= arguments.size <= 1024 and arguments.size % 16 == 0):
        raise InputError(f"--size {arguments.size} is not possible. Give a multiple of 16 from 32 to 1024.")
    if not 1 <= arguments.quality <= 95:
        raise InputError(f"--quality {arguments.quality} is not possible. Give 1 to 95.")
    card = prepare(
        arguments.videos,
        arguments.output,
        settings=Settings(size=arguments.size, frames=max(2, arguments.frames), quality=arguments.quality),
        listing=arguments.listing,
        licences=arguments.licences,
        photos=arguments.photos,
        workers=max(1, arguments.workers),
    )
    print(
        f"{arguments.output}: {card['clips']} clips, {card['frames']} frames in {card['shards']} shards; "
        f"{card['rejected']} clips left out (see {arguments.output / 'README.md'})",
        file=sys.stderr if arguments.json else sys.stdout,
    )
    if arguments.json:
        print(json.dumps(card))
    return 0 if card["clips"] else 1


def _add_train(parser: argparse.ArgumentParser) -> None:
    defaults = TeacherTraining()
    parser.set_defaults(run=run_train)
    parser.description = (
        "Trains the paper's teacher. A run that was stopped goes on when the same command is given again. On several "
        "GPUs: accelerate launch superface.py train …"
    )
    parser.add_argument("shards", type=Path, help="folder made by superface prepare")
    parser.add_argument("-o", "--output", type=Path, required=True, help="run folder")
    parser.add_argument(
        "--teacher", choices=tuple(TEACHERS), default=defaults.teacher, help="its size (default: %(default)s)"
    )
    parser.add_argument("--steps", type=int, default=defaults.steps, help="of the whole run (default: %(default)s)")
    parser.add_argument("--minutes", type=float, help="stop this start after so long; the next one goes on")
    parser.add_argument("--batch", type=int, default=defaults.batch, help="frame pairs a step (default: %(default)s)")
    parser.add_argument("--parts", type=int, default=1, help="take a batch in so many parts (default: %(default)s)")
    parser.add_argument(
        "--rate", type=float, default=defaults.learning_rate, help="learning rate (default: %(default)s)"
    )
    parser.add_argument("--start-from", type=Path, help="teacher.safetensors of another training, to begin with")
    parser.add_argument("--hold-out", default="", help="names of clips that training never sees, with commas")
    parser.add_argument("--without", choices=("ssr", "early-infusion", "late-infusion", "vary"), help="an ablation")
    parser.add_argument("--precision", choices=("no", "fp16", "bf16"), help="(default: bf16 on a GPU that has it)")
    parser.add_argument("--workers", type=int, help="processes that read frames (default: 4 beside a GPU, else none)")
    parser.add_argument("--validate-every", type=int, default=500, help="steps between pictures (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)


def run_train(arguments: argparse.Namespace) -> int:
    """Train a teacher; exit code 0."""
    from training.phi.train import train_teacher

    _above_zero(arguments, "steps", "batch", "parts", "rate", "minutes", "validate_every")
    config = TeacherTraining(
        teacher=arguments.teacher,
        steps=arguments.steps,
        batch=arguments.batch,
        learning_rate=arguments.rate,
        seed=arguments.seed,
        hold_out=tuple(name for name in arguments.hold_out.split(",") if name),
    )
    if arguments.without:
        config = replace(config, **{arguments.without.replace("-", "_"): False})
    train_teacher(
        arguments.shards,
        arguments.output,
        config,
        precision=arguments.precision,
        parts=arguments.parts,
        workers=arguments.workers,
        validate_every=arguments.validate_every,
        minutes=arguments.minutes,
        start_from=arguments.start_from,
    )
    print(f"{arguments.output / 'teacher.safetensors'}; pictures in {arguments.output / 'validation'}")
    return 0


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run_evaluate)
    parser.description = (
        "Teachers on clips that none of them was trained on: the same person back, another person's motion, and "
        "degraded sources. Networks behind LPIPS and CSIM are looked for in the folder that SUPERFACE_MODELS names."
    )
    parser.add_argument("shards", type=Path, help="folder made by superface prepare")
    parser.add_argument("--clips", required=True, help="names of left-out clips, with commas")
    parser.add_argument("--teachers", default="mesh,superface", help="with commas (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=16, help="driving frames of each clip (default: %(default)s)")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for figures and pictures")
    parser.add_argument("--json", action="store_true", help="end with the figures as one JSON line")


def run_evaluate(arguments: argparse.Namespace) -> int:
    """Compare teachers; exit code 0."""
    from training.measures.evaluate import evaluate_teachers, table
    from training.teachers.load import load_teacher

    names = arguments.teachers.split(",")
    if unknown := sorted(set(names) - {"mesh", "superface"}):
        raise InputError(f"There is no teacher {unknown[0]!r}. Choose of mesh and superface.")
    teachers = {name: load_teacher(name) for name in names}
    result = evaluate_teachers(
        teachers, arguments.shards, arguments.clips.split(","), arguments.output, frames=max(2, arguments.frames)
    )
    print(table(result), file=sys.stderr if arguments.json else sys.stdout)
    if arguments.json:
        print(json.dumps(result))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; the exit code is 0, or 1 where a check failed, 2 for a mistake, 130 for Ctrl-C."""
    speak_plainly()
    parser = argparse.ArgumentParser(
        prog="superface",
        description="One photo in, a personal talking avatar out, in real time on cheap phones.",
    )
    verbs = parser.add_subparsers(required=True, metavar="make|animate|track|bench|check|prepare|train|evaluate")
    _add_make(verbs.add_parser("make", help="photo → avatar bundle, preview and report"))
    add_commands(verbs)
    _add_prepare(verbs.add_parser("prepare", help="videos → training shards for a teacher"))
    _add_train(verbs.add_parser("train", help="shards → a teacher"))
    _add_evaluate(verbs.add_parser("evaluate", help="teachers compared on left-out clips"))
    parsed = parser.parse_args(arguments)
    return run_safely(lambda: int(parsed.run(parsed)))


if __name__ == "__main__":
    sys.exit(main())
