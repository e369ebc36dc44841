"""One line that shows how far work is and how long it takes still, drawn by tqdm."""

from __future__ import annotations

import sys

from tqdm import tqdm

clock = tqdm.format_interval  # seconds as a person reads them: 03:07


def bar(total: float, label: str, unit: str = "step", done: float = 0) -> tqdm:
    """A bar on stdout for `total` units of which `done` were done before.

    `bar.update(n)` counts n more, `bar.set_postfix(loss=…)` shows figures, and
    `bar.close()` leaves the last state. Where the terminal knows no blocks, tqdm draws
    "#".
    """
    settings = {"file": sys.stdout, "mininterval": 0.5, "ncols": 100}
    return tqdm(total=total, desc=label, unit=unit, initial=done, **settings)


class Line:
    """A line of text that is rewritten, where there is no number to count to."""

    shown = False

    def show(self, text: str) -> None:
        print(f"\r{text:<110}", end="", flush=True)
        self.shown = True

    def end(self) -> None:
        """What is printed next stands on a line of its own."""
        if self.shown:
            print(flush=True)
