"""The set-up cell as Colab meets it: an empty folder, a `google.colab` module, and a clone of the repository."""

import os
import shutil
import subprocess
import sys

import pytest

from tools import address, chapters


def set_up_cell():
    notebook = chapters.read(chapters.find(["01"])[0])
    return next(cell.source for cell in notebook.cells if cell.cell_type == "code")


@pytest.mark.skipif(shutil.which("git") is None or not (chapters.ROOT / ".git").exists(), reason="needs a git clone")
def test_the_set_up_cell_clones_the_course_into_an_empty_folder(tmp_path):
    stand_in = tmp_path / "modules" / "google" / "colab"
    stand_in.mkdir(parents=True)
    (stand_in / "__init__.py").touch()
    settings = tmp_path / "gitconfig"  # the course's address leads to this clone, and git trusts it
    settings.write_text(
        f'[safe]\n\tdirectory = *\n[url "file://{chapters.ROOT}"]\n\tinsteadOf = {address.ADDRESS}\n', "utf-8"
    )
    empty = tmp_path / "content"
    empty.mkdir()
    env = os.environ | {
        "PYTHONPATH": str(tmp_path / "modules"),
        "GIT_CONFIG_GLOBAL": str(settings),
        "COURSE_OUTPUT": str(tmp_path / "output"),
    }
    code = f"import google.colab\n{set_up_cell()}\nprint(course.ROOT)"
    for attempt in ("clones", "finds its clone"):
        result = subprocess.run([sys.executable, "-c", code], cwd=empty, env=env, capture_output=True, text=True)
        assert result.returncode == 0, f"{attempt}: {result.stderr[-500:]}"
        first, root = result.stdout.strip().splitlines()[-2:]
        assert first.startswith("Profile quick")
        assert root == str(empty / "generative-models-course")
