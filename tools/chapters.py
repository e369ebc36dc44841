"""What the tools know of a chapter: where it is, its code's fingerprint, how it is executed and read."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from tools import address

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"


def find(chosen: list[str]) -> list[Path]:
    """The notebooks whose names begin with one of `chosen` ("01", "01_autoencoder"); all of them if none is given.

    Raises SystemExit with the names there are when one is not found.
    """
    there = sorted(NOTEBOOKS.glob("*.ipynb"))
    if not chosen:
        return there
    stems = [Path(name).stem for name in chosen]
    unknown = [stem for stem in stems if not any(path.stem.startswith(stem) for path in there)]
    if unknown:
        sys.exit(f"There is no chapter {', '.join(unknown)}. There are: {', '.join(path.stem for path in there)}.")
    return [path for path in there if any(path.stem.startswith(stem) for stem in stems)]


def read(path: Path) -> nbformat.NotebookNode:
    """A notebook, in the format's newest version."""
    return nbformat.read(path, as_version=4)


def code_hash(notebook: nbformat.NotebookNode) -> str:
    """A fingerprint of the code cells: it changes when code does, not with prose or the repository's address."""
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    text = "\0".join(sources).replace(address.current(), "ADDRESS")
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def title(notebook: nbformat.NotebookNode) -> str:
    """The text of the first heading."""
    for cell in notebook.cells:
        match = re.match(r"#\s+(.+)", cell.source) if cell.cell_type == "markdown" else None
        if match:
            return match.group(1).strip()
    return "Untitled"


class Failed(Exception):
    """A cell that raised: the message names the cell and the error in one line."""


def execute(notebook: nbformat.NotebookNode, profile: str, report: Callable[[int, int, float], None]) -> float:
    """Executes a notebook in place, from the top, in a kernel of this environment; returns the seconds it took.

    `report(cell, cells, seconds)` is called when a code cell starts and every second while it runs. Raises Failed at
    the first cell that raises; the notebook then holds what was executed.
    """
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"
    code = [index for index, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    for index in code:
        notebook.cells[index].outputs = []
        notebook.cells[index].execution_count = None
    started = time.perf_counter()
    state = {"cell": 0}

    def on_cell_start(cell, cell_index):
        if cell_index in code:
            state["cell"] = code.index(cell_index) + 1
            report(state["cell"], len(code), time.perf_counter() - started)

    client = NotebookClient(
        notebook,
        timeout=None,
        kernel_name="python3",
        resources={"metadata": {"path": str(NOTEBOOKS)}},
        on_cell_start=on_cell_start,
        store_widget_state=False,
        coalesce_streams=True,
        extra_arguments=["--log-level=ERROR"],  # the kernel's own warnings about its port are not the reader's
    )
    env = os.environ | {"COURSE_PROFILE": profile}
    with _ticker(lambda: report(state["cell"], len(code), time.perf_counter() - started)):
        try:
            client.execute(env=env)
        except Exception as error:  # CellExecutionError, DeadKernelError: whatever stopped it, the chapter failed
            if hasattr(client, "_async_cleanup_kernel_future"):  # nbclient caught Ctrl-C and stopped the kernel
                raise KeyboardInterrupt from None
            raise Failed(f"cell {state['cell']} of {len(code)}: {_last_line(error)}") from error
    return time.perf_counter() - started


class _ticker:
    """Calls a function every second, from a thread, while a block runs."""

    def __init__(self, call):
        import threading

        self.call, self.done = call, threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self):
        while not self.done.wait(1.0):
            self.call()

    def __enter__(self):
        self.thread.start()

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()


def _last_line(error: Exception) -> str:
    if getattr(error, "ename", None):
        return f"{error.ename}: {error.evalue}".splitlines()[0]
    return f"{type(error).__name__}: {str(error).splitlines()[-1] if str(error) else ''}"
