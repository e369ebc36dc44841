"""Takes a class or a function out of the chapter that teaches it, so that nothing is
written twice.

A chapter marks the cells that define its model with the tag `definitions`.
`definitions("02_vae", "VAE")` runs those cells, and only those, in order and in an
empty namespace, and returns what was asked for.
"""

from __future__ import annotations

import json
import linecache
import types
from functools import cache
from pathlib import Path

from utils.course import ROOT, CourseError

NOTEBOOKS = ROOT / "notebooks"


def definitions(chapter: str, *names: str):
    """The objects called `names` that `notebooks/<chapter>.ipynb` defines: one object,
    or a tuple of them.

    A chapter is read once a session, so that two calls give the same class. Raises
    CourseError if the chapter, its tagged cells or a name does not exist; an error
    inside a cell is raised as it is, with the cell's lines in the traceback.
    """
    namespace = _namespace(NOTEBOOKS / f"{chapter}.ipynb")
    absent = [name for name in names if name not in namespace]
    if absent:
        raise CourseError(
            f"{chapter} defines no {', '.join(absent)} in its cells tagged "
            "'definitions'."
        )
    found = tuple(namespace[name] for name in names)
    return found[0] if len(found) == 1 else found


def definition_cells(path: Path) -> list[tuple[int, str]]:
    """The number and source of each cell of a notebook that is tagged `definitions`."""
    cells = json.loads(path.read_text("utf-8"))["cells"]
    return [
        (number, "".join(cell["source"]))
        for number, cell in enumerate(cells)
        if cell["cell_type"] == "code"
        and "definitions" in cell["metadata"].get("tags", [])
    ]


@cache
def _namespace(path: Path) -> dict:
    if not path.exists():
        raise CourseError(
            f"{path.name} is not in the folder notebooks: check the chapter's name."
        )
    cells = definition_cells(path)
    if not cells:
        raise CourseError(f"{path.name} has no cell tagged 'definitions'.")
    module = types.ModuleType(f"chapter_{path.stem}")
    module.__file__ = str(path)
    for number, source in cells:
        # Python finds the source of a function by its file name. linecache knows that
        # name from here on, and so do tracebacks, inspect and TensorFlow's AutoGraph,
        # which all read a function's source.
        file = f"<{path.stem}, cell {number}>"
        linecache.cache[file] = (
            len(source),
            None,
            source.splitlines(keepends=True),
            file,
        )
        exec(compile(source, file, "exec"), module.__dict__)
    return module.__dict__
