"""Looks over the stored notebooks: valid, executed, their outputs those of their code. One line a fault.

python -m tools.lint
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import nbformat

from tools import address, chapters, leaderboard, opening

MEGABYTE = 1_000_000
LINE = 100
MACHINE_PATH = re.compile(r"(?:/home/|/root/|/Users/|/tmp/|/work/|[A-Z]:\\)\S+")


def main() -> int:
    paths = chapters.find([])
    faults = [f"{path.name}: {fault}" for path in paths for fault in faults_of(path)]
    faults += set_up_faults(paths) + leaderboard.faults() + opening.faults()
    for fault in faults:
        print(fault)
    print(f"{len(paths)} notebooks, {len(faults)} faults.")
    return 1 if faults else 0


def faults_of(path: Path) -> list[str]:
    """What is wrong with one stored notebook, in words."""
    try:
        notebook = chapters.read(path)
        nbformat.validate(notebook)
    except Exception as error:
        return [f"not a valid notebook: {str(error).splitlines()[0]}"]
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    faults = []
    if path.stat().st_size > MEGABYTE:
        faults.append(f"{path.stat().st_size / MEGABYTE:.2f} MB, over 1 MB: make its pictures smaller")
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        faults.append("not executed once from top to bottom: run make refresh")
    if notebook.metadata.get("course", {}).get("code") != chapters.code_hash(notebook):
        faults.append("its stored outputs are older than its code: run make refresh")
    if "widgets" in notebook.metadata:
        faults.append("holds widget state, which no reader of the file can see")
    for number, cell in enumerate(code, 1):
        if any(len(line) > LINE for line in cell.source.splitlines()):
            faults.append(f"cell {number}: a line of code over {LINE} characters, which a page cuts off")
        faults += [f"cell {number}: {fault}" for fault in _output_faults(cell)]
    if f"]({address.colab(path.name)})" not in notebook.cells[0].source:
        faults.append("its first cell has no Colab badge, or one with another address: see tools/address.py")
    return faults


def _output_faults(cell) -> list[str]:
    faults = []
    for output in cell.outputs:
        if output.output_type == "error":
            faults.append(f"a stored error, {output.ename}")
        if output.output_type == "stream" and output.name == "stderr":
            faults.append(f"stored stderr: {output.text[:80]!r}")
        data = output.get("data", {})
        texts = output.get("text", "") + "".join(str(v) for k, v in data.items() if k.startswith("text/"))
        found = MACHINE_PATH.search(texts)
        if found:
            faults.append(f"a path of a machine in its output: {found.group(0)[:60]}")
        if any(kind.startswith("image/") for kind in data):
            text = data.get("text/plain", "")
            if not text or text.startswith(("<Figure", "<IPython")):
                faults.append("a picture without alternative text: show it with plots.show")
    return faults


def set_up_faults(paths: list[Path]) -> list[str]:
    """A line if the first code cells, which set a chapter up, are not all the same."""
    first = {}
    for path in paths:
        cells = json.loads(path.read_text("utf-8"))["cells"]
        source = next(("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"), "")
        first.setdefault(source, []).append(path.name)
    return [] if len(first) <= 1 else [f"the set-up cell differs between {' and '.join(map(str, first.values()))}"]


if __name__ == "__main__":
    sys.exit(main())
