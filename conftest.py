"""Before pytest runs: the quick profile, an output folder of its own, and a guard that every chapter is tested."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent

os.environ["COURSE_PROFILE"] = "quick"
if "COURSE_OUTPUT" not in os.environ:
    os.environ["COURSE_OUTPUT"] = tempfile.mkdtemp(prefix="course-output-")
    atexit.register(shutil.rmtree, os.environ["COURSE_OUTPUT"], ignore_errors=True)


def pytest_collection_finish(session):
    """Fails a full run in which a notebook that exists was not collected by nbval.

    A run is full when pytest was told no names and no selection (-k, -m, --deselect): then it takes the folders
    of pyproject.toml.
    """
    config = session.config
    full = config.args_source == pytest.Config.ArgsSource.TESTPATHS
    if not full or config.option.keyword or config.option.markexpr or config.option.deselect:
        return
    collected = {Path(item.path).resolve() for item in session.items if Path(item.path).suffix == ".ipynb"}
    missing = sorted(path.name for path in notebooks() if path not in collected)
    if missing:
        raise pytest.UsageError(f"nbval did not collect {', '.join(missing)}: a full run tests every notebook.")


def notebooks() -> list[Path]:
    """Every notebook of the repository's folder notebooks/, whatever its depth."""
    found = (ROOT / "notebooks").rglob("*.ipynb")
    return [path.resolve() for path in found if ".ipynb_checkpoints" not in path.parts]
