"""Text beside each notebook: notebooks/sources/NAME.py is what people edit.

    python -m tools.sync [04 …]           text into the notebooks; outputs stay
    python -m tools.sync --back [04 …]    what was edited in a notebook into its text

One way at a time, and only when asked: nothing is paired, so that no editor writes a
source. The text is in jupytext's percent format.
"""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

import nbformat

from tools import chapters
from utils import course

FORMAT = {"extension": ".py", "format_name": "percent"}
# Of a cell's metadata, tags and folding are part of the text; the rest is thrown away.
KEPT = ("tags", "jupyter", "cellView")
CURE = "make sync if the text is right, make sync BACK=1 if the notebook is"


def source_of(path: Path) -> Path:
    """The text of a notebook."""
    return path.parent / "sources" / f"{path.stem}.py"


def read_source(path: Path) -> nbformat.NotebookNode:
    """A text as a notebook without outputs."""
    import jupytext

    return jupytext.reads(path.read_text("utf-8"), fmt=FORMAT)


def write_source(notebook: nbformat.NotebookNode) -> str:
    """A notebook as text."""
    import jupytext

    cells = [bare(cell) for cell in notebook.cells]
    plain = nbformat.v4.new_notebook(cells=cells)
    plain.metadata["jupytext"] = {"notebook_metadata_filter": "-all"}
    return jupytext.writes(plain, fmt=FORMAT)


def bare(cell: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """A cell's type, text, tags and folding."""
    metadata = {name: cell.metadata[name] for name in KEPT if name in cell.metadata}
    if metadata.get("tags") == []:
        del metadata["tags"]
    new = {"code": nbformat.v4.new_code_cell, "markdown": nbformat.v4.new_markdown_cell}
    if cell.cell_type not in new or cell.get("attachments"):
        raise course.CourseError(
            "A raw cell, or a picture pasted into a text cell, has no place in a text: "
            "make it a Markdown cell, and the picture a file of notebooks/figures/."
        )
    return new[cell.cell_type](cell.source, metadata=metadata)


def with_outputs(text: nbformat.NotebookNode, stored: nbformat.NotebookNode):
    """The cells of `text` with the outputs that `stored` has for them.

    jupytext finds them by what the cells say, and then by their order. So an edited
    cell keeps its outputs, and `make lint` says that they are older than the code.
    """
    from jupytext.combine import map_outputs_to_inputs

    old = [cell for cell in stored.cells if cell.cell_type == "code"]
    new = [cell for cell in text.cells if cell.cell_type == "code"]
    places = map_outputs_to_inputs(new, old)
    for place, cell in enumerate(new):
        match = places[place]
        if match is not None:
            cell.outputs = old[match].outputs
            cell.execution_count = old[match].execution_count
    cells = [bare(cell) for cell in text.cells]
    for cell, given in zip(cells, text.cells, strict=True):
        if cell.cell_type == "code":
            cell.outputs = given.get("outputs", [])
            cell.execution_count = given.get("execution_count")
    for number, cell in enumerate(cells, 1):
        cell.id = f"cell-{number:03d}"
    return nbformat.v4.new_notebook(cells=cells, metadata=stored.metadata)


def differences(path: Path) -> list[str]:
    """Where a notebook and its text differ by cell type, source or tags; in words."""
    if not source_of(path).exists():
        return [f"has no text {source_of(path).name} in sources/: make sync BACK=1"]
    text = [bare(cell) for cell in read_source(source_of(path)).cells]
    stored = [bare(cell) for cell in chapters.read(path).cells]
    if len(text) != len(stored):
        return [f"{len(stored)} cells, but {len(text)} in its text: {CURE}"]
    pairs = enumerate(zip(text, stored, strict=True), 1)
    parts = ("cell_type", "source", "metadata")
    differ = [n for n, (a, b) in pairs if any(a[part] != b[part] for part in parts)]
    return [f"cell {number} differs from its text: {CURE}" for number in differ]


def main(arguments: list[str]) -> int:
    back = "--back" in arguments
    for source in sorted((chapters.NOTEBOOKS / "sources").glob("*.py")):
        path = chapters.NOTEBOOKS / f"{source.stem}.ipynb"
        if not path.exists():  # a new chapter
            nbformat.write(nbformat.v4.new_notebook(), path)
    for path in chapters.find([name for name in arguments if name != "--back"]):
        if not back and not source_of(path).exists():
            print(f"{path.name}: left alone, it has no text in sources/")
            continue
        write = take_back if back else bring
        target = source_of(path) if back else path
        print(f"{target.name}: {'written' if write(path) else 'is up to date'}")
    return 0


def bring(path: Path) -> bool:
    """The text into the notebook; whether that changed it."""
    stored = chapters.read(path)
    joined = with_outputs(read_source(source_of(path)), stored)
    if joined == stored:
        return False
    if differences(path):
        keep(path)
    with course.replacing(path) as part:
        nbformat.write(joined, part)
    return True


def take_back(path: Path) -> bool:
    """The notebook's cells into its text; whether that changed it."""
    source, notebook = source_of(path), chapters.read(path)
    text = write_source(notebook)
    if source.exists() and source.read_text("utf-8") == text:
        return False
    import jupytext

    again = [bare(cell) for cell in jupytext.reads(text, fmt=FORMAT).cells]
    cells = [bare(cell) for cell in notebook.cells]
    if [c.source for c in again] != [c.source for c in cells]:
        raise course.CourseError(
            f"{path.name} has a cell that its text cannot hold, such as a line that "
            "begins with # %% or %%: write it in another way."
        )
    if source.exists():
        keep(source)
    with course.replacing(source) as part:
        part.write_text(text, "utf-8")
    return True


def keep(path: Path) -> None:
    """A copy of a file that is about to be replaced, for who edited the wrong one."""
    name = f"{path.stem}-{time.strftime('%Y%m%d-%H%M%S')}{path.suffix}"
    copy = course.output_root() / "replaced" / name
    with course.replacing(copy) as part:
        shutil.copy(path, part)
    print(f"{path.name} is brought up to date; what it held is kept in {copy}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
