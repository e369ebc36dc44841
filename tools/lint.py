"""Looks over notebooks, texts and drawings, and says one line a fault.

    python -m tools.lint

A notebook is to be valid and executed, its outputs those of its code, its cells those
of its text; weights that ship are to give the outputs that their records hold. Chapters
that still wait for the format of the second edition stand in
pyproject.toml, where ruff leaves their texts alone, and drawings that no chapter shows
yet stand here. Both lists end empty.
"""

from __future__ import annotations

import base64
import re
import sys
from pathlib import Path

import nbformat

from benchmarks import report, rows
from tools import address, chapters, figures, pictures, sync, weights
from utils import course

MEGABYTE = 1_000_000
LINE = 88
DRAWINGS = {"chapter": 3, "appendix": 1}  # at least
DRAWING = re.compile(r"""\bdrawing\(["'](\w+)["']\)""")
TWO_SENTENCES = re.compile(r"[a-zà-ÿ)*$`][.?!] +[A-ZÀ-Þ]")
MACHINE_PATH = re.compile(r"(?:/home/|/root/|/Users/|/tmp/|/work/|[A-Z]:\\)\S+")


def main() -> int:
    paths = chapters.find([])
    faults = [f"{path.name}: {fault}" for path in paths for fault in faults_of(path)]
    faults += set_up_faults(paths) + pictures.faults() + figures.faults()
    faults += unused_drawings(paths) + rows.faults() + report.faults()
    faults += weights.faults()
    for fault in faults:
        print(fault)
    print(f"{len(paths)} notebooks, {len(faults)} faults.")
    return 1 if faults else 0


def faults_of(path: Path) -> list[str]:
    """What is wrong with one stored notebook, in words."""
    try:
        notebook = chapters.read(path)
        nbformat.validate(notebook)
    except (course.CourseError, nbformat.ValidationError) as error:
        return [f"not a valid notebook: {str(error).splitlines()[0]}"]
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    faults = []
    if path.stat().st_size > MEGABYTE:
        faults.append(
            f"{path.stat().st_size / MEGABYTE:.2f} MB, over 1 MB: make its pictures "
            "smaller"
        )
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        faults.append("not executed once from top to bottom: run make refresh")
    if notebook.metadata.get("course", {}).get("code") != chapters.code_hash(notebook):
        faults.append("its stored outputs are older than its code: run make refresh")
    if "widgets" in notebook.metadata:
        faults.append("holds widget state, which no reader of the file can see")
    for number, cell in enumerate(code, 1):
        if any(len(line) > LINE for line in cell.source.splitlines()):
            faults.append(
                f"cell {number}: a line of code over {LINE} characters, which a page "
                "cuts off"
            )
        faults += [f"cell {number}: {fault}" for fault in _output_faults(cell)]
    kind = "appendix" if path.stem.startswith("A") else "chapter"
    faults += format_faults(notebook, DRAWINGS[kind])
    faults += sync.differences(path)
    if f"]({address.colab(path.name)})" not in notebook.cells[0].source:
        faults.append(
            "its first cell has no Colab badge, or one with another address: see "
            "tools/address.py"
        )
    return faults


def format_faults(notebook: nbformat.NotebookNode, drawings: int = 3) -> list[str]:
    """What a chapter lacks of its form: drawings, one sentence a line."""
    faults = []
    cells = notebook.cells
    shown = [name for cell in cells for name in DRAWING.findall(cell.source)]
    if len(shown) < drawings:
        faults.append(
            f"{len(shown)} drawings: at least {drawings} show what it is about"
        )
    for number, cell in enumerate(cells, 1):
        told = cell.cell_type == "markdown" and "## References" not in cell.source
        lines = cell.source.splitlines() if told else []
        prose = [line for line in lines if not line.startswith(("|", "#", "!", "["))]
        for line in prose:
            if found := TWO_SENTENCES.search(line):
                faults.append(f"cell {number}: two sentences in a line, {found[0]!r}")
    return faults


def unused_drawings(paths: list[Path]) -> list[str]:
    """Drawings that no chapter shows, and outputs that are not those of their PNG."""
    faults, shown = [], set()
    books = [(path, book) for path, book in chapters.readable() if path in paths]
    for path, book in books:
        for cell in book.cells:
            names = DRAWING.findall(cell.source) if cell.cell_type == "code" else []
            shown.update(names)
            stored = [output.get("data", {}) for output in cell.get("outputs", [])]
            pngs = [base64.b64decode(data.get("image/png", "")) for data in stored]
            for name in names:
                png = figures.FIGURES / f"{name}.png"
                if not png.exists() or png.read_bytes() not in pngs:
                    faults.append(f"{path.name}: the drawing {name} is an older one")
    there = {svg.stem for svg in figures.FIGURES.glob("*.svg")}
    return faults + [f"{n}.svg: no chapter shows it" for n in sorted(there - shown)]


def _output_faults(cell) -> list[str]:
    faults = []
    for output in cell.outputs:
        if output.output_type == "error":
            faults.append(f"a stored error, {output.ename}")
        if output.output_type == "stream" and output.name == "stderr":
            faults.append(f"stored stderr: {output.text[:80]!r}")
        data = output.get("data", {})
        texts = output.get("text", "") + "".join(
            str(v) for k, v in data.items() if k.startswith("text/")
        )
        found = MACHINE_PATH.search(texts)
        if found:
            faults.append(f"a path of a machine in its output: {found.group(0)[:60]}")
        if any(kind.startswith("image/") for kind in data):
            text = data.get("text/plain", "")
            if not text or text.startswith(("<Figure", "<IPython")):
                faults.append(
                    "a picture without alternative text: show it with plots.show"
                )
    return faults


def set_up_faults(paths: list[Path]) -> list[str]:
    """A line if the first code cells, which set a chapter up, are not all the same."""
    first = {}
    for path, book in chapters.readable():
        code = [cell.source for cell in book.cells if cell.cell_type == "code"]
        if path in paths:
            first.setdefault(code[0] if code else "", []).append(path.name)
    groups = " and ".join(map(str, first.values()))
    return [f"the set-up cell differs between {groups}"] if len(first) > 1 else []


if __name__ == "__main__":
    sys.exit(main())
