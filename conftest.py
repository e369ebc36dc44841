"""Before pytest runs: the quick profile, an output folder of its own, and a guard that
every chapter is tested.

`make test` shares the files among several processes (pytest-xdist). Each of them reads
this file, and the one that started them too.
"""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import tools  # noqa: F401  (a home to write in, where there is none)

ROOT = Path(__file__).resolve().parent
os.environ["COURSE_PROFILE"] = "quick"
if "COURSE_OUTPUT" not in os.environ:
    os.environ["COURSE_OUTPUT"] = tempfile.mkdtemp(prefix="course-output-")
    atexit.register(shutil.rmtree, os.environ["COURSE_OUTPUT"], ignore_errors=True)
worker = os.environ.get("PYTEST_XDIST_WORKER")
if worker:  # each process has a folder of its own, as two readers have
    os.environ["COURSE_OUTPUT"] = str(Path(os.environ["COURSE_OUTPUT"]) / worker)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Several processes take whole files: the cells of a notebook need those before
    them.
    """
    from xdist.scheduler import LoadFileScheduling

    return LoadFileScheduling(config, log) if config.option.dist == "load" else None


def pytest_collection_finish(session):
    """Fails a full run in which a notebook that exists was not collected by nbval."""
    one_of_several = hasattr(
        session.config, "workerinput"
    )  # then the process that started it complains, once
    if is_full(session.config) and not one_of_several:
        complain_if_missing({Path(item.path).resolve() for item in session.items})


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node, ids):
    """The same, where each process has collected for itself."""
    if is_full(node.config):
        complain_if_missing(
            {(ROOT / name.partition("::")[0]).resolve() for name in ids}
        )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config, specs):
    """Has Fashion-MNIST downloaded once, before several processes would do it into the
    same files.
    """
    command = [
        sys.executable,
        "-c",
        "from utils import datasets; datasets.fashion_mnist()",
    ]
    subprocess.run(
        command, cwd=ROOT, capture_output=True, check=False
    )  # what is wrong, the tests will say


def is_full(config) -> bool:
    """Whether pytest was told no names and no selection (-k, -m, --deselect) and takes
    pyproject.toml's folders.
    """
    named = config.args_source != pytest.Config.ArgsSource.TESTPATHS
    chosen = (
        config.option.markexpr != "not devices and not interrupts"
    )  # pyproject.toml's
    return not (named or config.option.keyword or chosen or config.option.deselect)


def complain_if_missing(collected: set[Path]) -> None:
    missing = sorted(path.name for path in notebooks() if path not in collected)
    if missing:
        raise pytest.UsageError(
            f"nbval did not collect {', '.join(missing)}: a full run tests every "
            "notebook."
        )


def notebooks() -> list[Path]:
    """Every notebook of the repository's folder notebooks/, whatever its depth."""
    found = (ROOT / "notebooks").rglob("*.ipynb")
    return [path.resolve() for path in found if ".ipynb_checkpoints" not in path.parts]
