"""Long work, told while it runs."""

import sys
from collections.abc import Callable

from tqdm import tqdm

Progress = Callable[[str, float, str], None]
"""Called with what is being done, the share done (0..1), and a short note."""


def print_progress() -> Progress:
    """A bar with the time left on a terminal; elsewhere one plain line at the start and every tenth."""
    bars: dict[str, tqdm] = {}
    tenths: dict[str, int] = {}

    def bar(stage: str, share: float, note: str) -> None:
        if stage not in bars:
            layout = "{desc:22} {percentage:3.0f}%|{bar}| {elapsed} < {remaining} {postfix}"
            bars[stage] = tqdm(total=1.0, desc=stage, bar_format=layout)
        bars[stage].set_postfix_str(note, refresh=False)
        bars[stage].update(share - bars[stage].n)
        if share >= 1:
            bars.pop(stage).close()

    def line(stage: str, share: float, note: str) -> None:
        if tenths.get(stage) != int(10 * share):
            tenths[stage] = int(10 * share)
            print(f"{stage}: {100 * share:.0f} % {note}".rstrip(), flush=True)

    return bar if sys.stderr.isatty() else line


def silent(stage: str, share: float, note: str) -> None:
    """Progress that nobody is told."""
