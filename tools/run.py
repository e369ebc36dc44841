"""Runs the course: executes every chapter in the full profile and makes the pages to read, under output/.

    python -m tools.run [01 02_vae …]

The notebooks in notebooks/ stay as they are. A chapter that fails is named at the end, with its cell and its error;
the others still run, and the exit status is then 1.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from tools import chapters, pages


def main(chosen: list[str]) -> int:
    paths = chapters.find(chosen)
    profile = os.environ.get("COURSE_PROFILE") or "full"
    output = chapters.ROOT / Path(os.environ.get("COURSE_OUTPUT") or "output").expanduser()
    folder = output / "pages"
    folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    failures = {}
    for number, path in enumerate(paths, 1):
        show = Screen(f"[{number}/{len(paths)}] {path.stem}")
        notebook = chapters.read(path)
        try:
            seconds = chapters.execute(notebook, profile, show.cell)
            show.end(f"done in {clock(seconds)}")
        except chapters.Failed as failure:
            failures[path.stem] = str(failure)
            show.end(f"FAILED at {failure}")
        try:
            pages.write(notebook, path, folder)
        except OSError as error:
            failures[path.stem] = f"writing its page: {error}"
    pages.write_index(folder, output / "index.html", failures)
    print(f"{len(paths) - len(failures)} of {len(paths)} chapters in {clock(time.perf_counter() - started)}.")
    print(f"Read them: {output / 'index.html'}")
    for stem, failure in failures.items():
        print(f"{stem} failed at {failure}")
    return 1 if failures else 0


class Screen:
    """One line per chapter: rewritten on a terminal; elsewhere, in a log, written at the start and at the end."""

    def __init__(self, label: str):
        self.label, self.live = label, sys.stdout.isatty()
        if not self.live:
            print(f"{label} …", flush=True)

    def cell(self, cell: int, cells: int, seconds: float) -> None:
        if self.live:
            done = round(20 * (cell - 1) / cells)
            bar = "█" * done + "░" * (20 - done)
            print(f"\r\033[K{self.label}  {bar}  cell {cell} of {cells}, {clock(seconds)}", end="", flush=True)

    def end(self, text: str) -> None:
        print(f"\r\033[K{self.label}  {text}" if self.live else f"{self.label}  {text}", flush=True)


def clock(seconds: float) -> str:
    """Seconds as minutes and seconds: 3:07."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit("\nStopped.")
