"""The set-up cell as Colab meets it: an empty folder, a `google.colab` module, and a
clone of the repository.
"""

import os
import shutil
import subprocess
import sys

import pytest

from tools import address, chapters


def set_up_cell():
    notebook = chapters.read(chapters.find(["01"])[0])
    return next(cell.source for cell in notebook.cells if cell.cell_type == "code")


@pytest.mark.skipif(
    shutil.which("git") is None or not (chapters.ROOT / ".git").exists(),
    reason="needs a git clone",
)
def test_the_set_up_cell_clones_the_course_into_an_empty_folder(tmp_path):
    stand_in = tmp_path / "modules" / "google" / "colab"
    stand_in.mkdir(parents=True)
    (stand_in / "__init__.py").touch()
    settings = (
        tmp_path / "gitconfig"
    )  # the course's address leads to this clone, and git trusts it
    settings.write_text(
        f'[safe]\n\tdirectory = *\n[url "file://{chapters.ROOT}"]\n\tinsteadOf = '
        f"{address.ADDRESS}\n",
        "utf-8",
    )
    empty = tmp_path / "content"
    empty.mkdir()
    env = os.environ | {
        "PYTHONPATH": str(tmp_path / "modules"),
        "GIT_CONFIG_GLOBAL": str(settings),
        "COURSE_OUTPUT": str(tmp_path / "output"),
    }
    code = f"import google.colab\n{set_up_cell()}\nprint(course.ROOT)"
    without_keras = code.replace("course.start", "print('Profile quick');dict")
    for attempt, tried in {"clones": code, "finds its clone": without_keras}.items():
        result = subprocess.run(
            [sys.executable, "-c", tried],
            cwd=empty,
            env=env,
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, f"{attempt}: {result.stderr[-500:]}"
        first, root = result.stdout.strip().splitlines()[-2:]
        assert first.startswith("Profile quick")
        assert root == str(empty / "generative-models-course")


def in_a_folder_alone(folder, before="", **variables):
    env = os.environ | variables
    code = f"{before}\n{set_up_cell()}"
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


def test_a_notebook_alone_is_told_where_the_course_is(tmp_path):
    ended = in_a_folder_alone(tmp_path)
    last = ended.stderr.splitlines()[-1]
    assert ended.returncode == 1 and last.startswith(
        "FileNotFoundError: no utils/ of the course here"
    )
    assert f"git clone {address.ADDRESS}" in last


def test_on_colab_a_clone_that_fails_ends_with_the_same_line(tmp_path):
    before = "import sys; sys.modules['google.colab'] = sys"
    nowhere = tmp_path / "gitconfig"
    nowhere.write_text(f'[url "file:///nowhere"]\n\tinsteadOf = {address.ADDRESS}\n')
    ended = in_a_folder_alone(tmp_path, before, GIT_CONFIG_GLOBAL=str(nowhere))
    assert ended.stderr.splitlines()[-1].startswith(
        "FileNotFoundError: no utils/ of the course here"
    )


def test_a_notebook_newer_than_the_utils_it_finds_gets_one_line(tmp_path):
    shutil.copytree(chapters.ROOT / "utils", tmp_path / "utils")
    shutil.copy(chapters.ROOT / "requirements.txt", tmp_path)
    older = tmp_path / "utils" / "course.py"
    older.write_text(
        older.read_text("utf-8").replace("EDITION = 2", "EDITION = 1"), "utf-8"
    )
    ended = in_a_folder_alone(tmp_path)
    assert "needs edition 2 of the course's utils" in ended.stderr.splitlines()[-1]
