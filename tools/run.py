"""Runs the course: executes every chapter in the full profile and makes the pages to
read, under output/.

    python -m tools.run [01 02_vae …]

The notebooks in notebooks/ stay as they are. A chapter that fails is named at the end,
with its cell and its error; the others still run, and the exit status is then 1.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import nbformat
from tqdm import tqdm

from tools import chapters, site
from utils import course, results
from utils.progress import clock


def main(chosen: list[str]) -> int:
    paths = chapters.find(chosen)
    output = course.output_root()
    course.output()  # says so at once where nothing can be written
    folder = output / "notebooks"
    started = time.perf_counter()
    failures = {}
    for number, path in enumerate(paths, 1):
        screen = Screen(f"[{number}/{len(paths)}] {path.stem}")
        try:
            notebook = chapters.read(path)
            seconds = chapters.execute(notebook, course.profile(), screen.cell)
            screen.end(f"done in {clock(seconds)}")
        except chapters.Failed as failure:
            failures[path.stem] = str(failure)
            screen.end(f"FAILED at {failure}")
        except course.CourseError as unreadable:
            failures[path.stem] = f"its file: {unreadable}"
            screen.end(f"FAILED at {failures[path.stem]}")
            continue
        try:
            with course.replacing(folder / path.name) as part:
                nbformat.write(notebook, part)
        except course.CourseError as error:
            failures[path.stem] = f"writing its notebook: {error}"
    spent = clock(time.perf_counter() - started)
    print(f"{len(paths) - len(failures)} of {len(paths)} chapters in {spent}.")
    for stem, failure in failures.items():
        print(f"{stem} failed at {failure}")
    problem = write_site(output, folder, failures)
    print(problem or f"Read them: {output / 'index.html'}")
    return 1 if failures or problem else 0


def write_site(output: Path, copies: Path, failures: dict[str, str]) -> str | None:
    """The site of the executed copies, and the page that opens it; or what is wrong."""
    try:
        site.build(output / "site", copies, results.read(), failures)
        with course.replacing(output / "index.html") as part:
            part.write_text(OPENS_THE_SITE, "utf-8")
    except (site.SiteError, course.CourseError, OSError) as error:
        return f"The site could not be made: {error}"
    return None


OPENS_THE_SITE = """<!DOCTYPE html>
<meta charset="utf-8">
<title>Generative models, a notebook course</title>
<meta http-equiv="refresh" content="0; url=site/index.html">
<a href="site/index.html">Generative models, a notebook course</a>
"""


class Screen:
    """One line a chapter: tqdm's on a terminal; in a log, its start and its end."""

    def __init__(self, label: str):
        self.label = label
        self.bar = tqdm(
            desc=label, unit="cell", file=sys.stdout, disable=None, leave=False
        )
        if self.bar.disable:
            print(f"{label} ...", flush=True)

    def cell(self, cell: int, cells: int, seconds: float) -> None:
        if not self.bar.disable:
            self.bar.total, self.bar.n = cells, max(0, cell - 1)
            self.bar.refresh()

    def end(self, text: str) -> None:
        self.bar.close()
        print(f"{self.label}  {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
