"""What the tools know of a chapter: where it is, its code's fingerprint, how it is
executed and read.
"""

from __future__ import annotations

import ast
import atexit
import contextlib
import hashlib
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import nbformat
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient

from utils.course import ROOT, CourseError

NOTEBOOKS = ROOT / "notebooks"


def find(chosen: list[str]) -> list[Path]:
    """The notebooks whose names begin with one of `chosen` ("01", "01_autoencoder");
    all of them if none is given.

    Raises SystemExit with the names there are when one is not found.
    """
    there = sorted(NOTEBOOKS.glob("*.ipynb"))
    if not chosen:
        return there
    stems = [Path(name).stem for name in chosen]
    unknown = [
        stem for stem in stems if not any(path.stem.startswith(stem) for path in there)
    ]
    if unknown:
        sys.exit(
            f"There is no chapter {', '.join(unknown)}. There are: "
            f"{', '.join(path.stem for path in there)}."
        )
    return [path for path in there if any(path.stem.startswith(stem) for stem in stems)]


def number(stem: str) -> str:
    """What a chapter or an appendix is called: "4" of 04_realnvp, "A1" of A1_breaks."""
    return stem.partition("_")[0].lstrip("0")


def read(path: Path) -> nbformat.NotebookNode:
    """A notebook, in the format's newest version. CourseError if it is none."""
    try:
        return nbformat.read(path, as_version=4)
    except (ValueError, KeyError, AttributeError, nbformat.ValidationError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:80]
        raise CourseError(
            f"{path.name} is no notebook that can be read ({reason}): take it again "
            f"with git checkout notebooks/{path.name}, or remove it."
        ) from None


def readable() -> list[tuple[Path, nbformat.NotebookNode]]:
    """All notebooks that can be read; lint and run say what is wrong with others."""
    found = []
    for path in find([]):
        with contextlib.suppress(CourseError):
            found.append((path, read(path)))
    return found


def code_hash(notebook: nbformat.NotebookNode) -> str:
    """A fingerprint of what the code cells do: it changes when outputs may.

    It is of the parsed code, so that layout, comments and docstrings do not count. Left
    out are the set-up cell, the first one, which has no figures, and the values of the
    quick profile, which stored outputs never have.
    """
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"][1:]
    text = "\0".join(repr(outline(_parsed(source))) for source in cells)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _parsed(source: str) -> ast.AST:
    try:
        return ast.parse(TransformerManager().transform_cell(source))  # %magics too
    except SyntaxError:  # a cell that does not run has a fingerprint, too
        return ast.parse(repr(source))


def outline(node):
    """A syntax tree as nested tuples, the same on every Python: docstrings left out,
    and fields that are empty, since some versions have more of those."""
    if isinstance(node, list):
        return [outline(item) for item in node if not _is_text(item)]
    if not isinstance(node, ast.AST):
        return node
    if isinstance(node, ast.keyword) and node.arg == "quick":
        node = ast.keyword("quick", ast.Constant(None))
    fields = ((name, outline(value)) for name, value in ast.iter_fields(node))
    return type(node).__name__, [
        field for field in fields if field[1] not in (None, [])
    ]


def _is_text(node) -> bool:
    """Whether a statement is nothing but a string."""
    value = node.value if isinstance(node, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def title(notebook: nbformat.NotebookNode) -> str:
    """The text of the first heading."""
    for cell in notebook.cells:
        match = (
            re.match(r"#\s+(.+)", cell.source) if cell.cell_type == "markdown" else None
        )
        if match:
            return match.group(1).strip()
    return "Untitled"


class Failed(Exception):
    """A cell that raised: the message names the cell and the error in one line."""


def execute(
    notebook: nbformat.NotebookNode,
    profile: str,
    report: Callable[[int, int, float], None],
) -> float:
    """Executes a notebook in place, in a kernel of this environment; returns seconds.

    `report(cell, cells, seconds)` is called every second. Raises Failed at the first
    cell that raises; the notebook then holds what was executed. Ctrl-C stops the kernel
    and raises KeyboardInterrupt.
    """
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"
    code = [i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    for index in code:
        notebook.cells[index].outputs = []
        notebook.cells[index].execution_count = None
    started, reached = time.perf_counter(), [0]

    def on_cell_start(cell, cell_index):
        reached[0] = code.index(cell_index) + 1 if cell_index in code else reached[0]

    client = NotebookClient(
        notebook,
        timeout=None,
        kernel_name="python3",
        resources={"metadata": {"path": str(NOTEBOOKS)}},
        on_cell_start=on_cell_start,
        store_widget_state=False,
        coalesce_streams=True,
        extra_arguments=["--log-level=ERROR"],  # its warnings are not the reader's
    )
    with ThreadPoolExecutor(1) as pool:  # this thread waits, reports and hears Ctrl-C
        env = os.environ | {"COURSE_PROFILE": profile}
        done = pool.submit(client.execute, env=env)
        try:
            while not wait([done], timeout=1).done:
                report(reached[0], len(code), time.perf_counter() - started)
            done.result()
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # twice is as good as once
            _stop_kernel(client, done)
            # At exit nbclient would clean up a kernel that is gone, and fail aloud.
            atexit.unregister(client._cleanup_kernel)
            raise
        except Exception as error:  # CellExecutionError, DeadKernelError: it failed
            place = f"cell {reached[0]} of {len(code)}"
            raise Failed(f"{place}: {_last_line(error)}") from error
    return time.perf_counter() - started


def _stop_kernel(client: NotebookClient, done) -> None:
    """Ends a kernel and what it started at once; one that is starting, when it has."""
    while not done.done():
        provisioner = getattr(client.km, "provisioner", None)
        process = getattr(provisioner, "process", None)
        if process is not None:
            with contextlib.suppress(OSError):
                if hasattr(os, "killpg"):
                    os.killpg(
                        process.pid, signal.SIGKILL
                    )  # it leads a group of its own
                else:
                    process.kill()
        time.sleep(0.1)


def _last_line(error: Exception) -> str:
    if getattr(error, "ename", None):
        return f"{error.ename}: {error.evalue}".splitlines()[0]
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[-1] if lines else ''}"
