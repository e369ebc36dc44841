"""The work behind the Makefile: environment, runner, refresh, lint, address, and the
guard of the test suite.
"""

import importlib.util
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from tools import address, chapters, environment, lint, refresh, run, site

ROOT = chapters.ROOT


def notebook(*sources, title="# A chapter"):
    cells = [
        nbformat.v4.new_markdown_cell(
            f"{title}\n[![Open in Colab](x)]({address.colab('09_test.ipynb')})"
        )
    ]
    cells += [nbformat.v4.new_code_cell(source) for source in sources]
    return nbformat.v4.new_notebook(cells=cells)


@pytest.fixture
def course_of(tmp_path, monkeypatch):
    """Makes the tools see a folder of notebooks given as name=(sources, …), with no
    texts beside them and without drawings.
    """
    monkeypatch.setattr(lint, "DRAWINGS", {"chapter": 0, "appendix": 0})
    monkeypatch.setattr(lint.sync, "differences", lambda path: [])
    folder = tmp_path / "notebooks"
    folder.mkdir()
    monkeypatch.setattr(chapters, "NOTEBOOKS", folder)
    monkeypatch.setenv("COURSE_OUTPUT", str(tmp_path / "output"))

    def make(**notebooks):
        for name, sources in notebooks.items():
            nbformat.write(notebook(*sources), folder / f"{name}.ipynb")
        return folder

    return make


# ------------------------------------------------------------------ environment


def test_python_that_will_not_do_gets_one_line_that_names_the_cure():
    old = environment.unsuitable((3, 9), importlib.util.find_spec)
    assert (
        old.startswith("This is Python 3.9")
        and "make run PYTHON=python3.12" in old
        and "\n" not in old
    )
    assert environment.unsuitable((3, 14), importlib.util.find_spec).startswith(
        "This is Python 3.14"
    )
    assert environment.unsuitable((3, 12), importlib.util.find_spec) is None


def test_python_without_venv_gets_one_line():
    line = environment.unsuitable(
        (3, 11), lambda name: None if name == "ensurepip" else name
    )
    assert (
        "no module ensurepip" in line
        and "python3.11-venv" in line
        and "PYTHON=python3.12" in line
    )


def test_too_little_disk_gets_one_line(tmp_path):
    assert environment.disk_full(tmp_path, 0.0) is None
    assert "free some space" in environment.disk_full(tmp_path, 1e9)


def test_environment_is_made_again_only_when_its_sources_change(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "ROOT", str(tmp_path))
    (tmp_path / "requirements.txt").write_text("keras")
    first = environment.fingerprint("")
    assert environment.fingerprint("") == first
    (tmp_path / "requirements.txt").write_text("keras>3")
    assert environment.fingerprint("") != first
    venv = tmp_path / ".venv"
    (venv / "bin").mkdir(parents=True)
    assert not environment.is_current(str(venv), first), (
        "an environment that was never finished is not current"
    )
    (venv / "course-environment").write_text(first)
    assert not environment.is_current(str(venv), first), (
        "nor is one without its interpreter"
    )
    (venv / "bin" / "python").write_text("")
    assert environment.is_current(str(venv), first) or os.name == "nt"


def test_failed_installation_shows_why_and_leaves_no_mark(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(environment, "ROOT", str(tmp_path))
    with pytest.raises(SystemExit, match="Failed while installing"):
        environment.run(
            [sys.executable, "-c", "print('no such version'); raise SystemExit(1)"],
            "installing",
        )
    assert "no such version" in capsys.readouterr().out


def test_constraints_satisfy_requirements():
    from packaging.requirements import Requirement

    ranges = {
        name.lower().replace("_", "-"): spec
        for name, spec in _specifiers("requirements.txt").items()
    }
    for file in ("constraints.txt", "constraints-colab.txt"):
        for name, spec in _specifiers(file).items():
            version = str(spec).removeprefix("==")
            name = name.lower().replace("_", "-")
            assert name not in ranges or ranges[name].contains(version), (
                f"{file}: {Requirement(name + str(spec))}"
            )


def _specifiers(file):
    from packaging.requirements import Requirement

    lines = [
        line.split("#")[0].strip() for line in (ROOT / file).read_text().splitlines()
    ]
    return {r.name: r.specifier for r in (Requirement(line) for line in lines if line)}


def _hear_ctrl_c():
    signal.signal(signal.SIGINT, signal.default_int_handler)


# What a shell starts in the background ignores Ctrl-C, and so do the children of tests.
HEARS_CTRL_C = {"preexec_fn": _hear_ctrl_c} if os.name == "posix" else {}


@pytest.fixture
def small_environment(tmp_path, monkeypatch):
    """A repository whose environment needs no package; makes it in another process."""
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools" / "environment.py", tmp_path / "tools")
    (tmp_path / "requirements.txt").write_text("")
    (tmp_path / "constraints.txt").write_text("")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    script = str(tmp_path / "tools" / "environment.py")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}

    def make(signal_after=None, number=signal.SIGKILL):
        command = [sys.executable, script, "--gigabytes", "0"]
        process = subprocess.Popen(command, **pipes, **HEARS_CTRL_C)
        if signal_after is not None:
            time.sleep(signal_after)
            process.send_signal(number)
        out, err = process.communicate(timeout=120)
        return process.returncode, out, err

    make.folder = tmp_path / ".venv"
    return make


def test_a_killed_environment_is_made_anew_and_a_finished_one_is_kept(
    small_environment,
):
    folder = small_environment.folder
    small_environment(signal_after=1.0)
    assert environment.mark_of(folder) == environment.UNFINISHED
    half = folder / "half-a-package"
    half.write_text("left behind")
    code, out, err = small_environment()
    assert code == 0 and "The environment is ready" in out, err
    assert not half.exists() and not folder.with_name(".venv-old").exists()
    mine = folder / "mine"
    mine.write_text("installed by the reader")
    code, out, _ = small_environment()
    assert (code, out) == (0, "") and mine.exists()
    (folder.parent / "requirements.txt").write_text("# newer\n")
    assert small_environment()[0] == 0 and mine.exists(), (
        "an update keeps what is there"
    )


def test_an_environment_that_is_stopped_says_so_in_a_line(small_environment):
    code, out, err = small_environment(signal_after=1.0, number=signal.SIGINT)
    line = "Stopped. The same command makes the environment anew.\n"
    assert code != 0 and out.endswith(line) and err == ""


def test_an_environment_of_the_readers_own_is_left_alone(small_environment):
    folder = small_environment.folder
    folder.mkdir()
    (folder / "pyvenv.cfg").write_text("mine")
    code, _, err = small_environment()
    assert code == 1 and ".venv is there and was not made by this command" in err
    assert [path.name for path in folder.iterdir()] == ["pyvenv.cfg"]


# ------------------------------------------------------------------ run


def test_run_writes_pages_names_failures_and_leaves_notebooks_alone(
    course_of, tmp_path, capsys, monkeypatch
):
    made = []
    monkeypatch.setattr(site, "build", lambda *given: made.append(given))
    folder = course_of(
        **{
            "01_good": ("print(1 + 1)",),
            "02_bad": ("x = 1", "raise ValueError('no luck')", "y = 2"),
            "03_more": ("3",),
        }
    )
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert run.main([]) == 1
    printed = capsys.readouterr().out
    assert (
        "02_bad failed at cell 2 of 3: ValueError: no luck" in printed
        and "2 of 3 chapters" in printed
    )
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    page = (tmp_path / "output" / "notebooks" / "01_good.ipynb").read_text()
    assert '"2\\n"' in page
    assert (tmp_path / "output" / "notebooks" / "03_more.ipynb").exists()
    index = (tmp_path / "output" / "index.html").read_text()
    assert 'href="site/index.html"' in index
    ((target, copies, _, failures),) = made
    assert target == tmp_path / "output" / "site" and list(failures) == ["02_bad"]
    executed = chapters.read(copies / "02_bad.ipynb")
    assert [cell.get("execution_count") for cell in executed.cells] == [
        None,
        1,
        2,
        None,
    ]


def test_a_file_that_is_no_notebook_does_not_stop_the_others(
    course_of, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(site, "build", lambda *given: None)
    folder = course_of(**{"01_typo": ("x = 1", "x = (1"), "03_more": ("3",)})
    (folder / "02_cut.ipynb").write_text("<<<<<<< HEAD")
    assert run.main([]) == 1
    printed = capsys.readouterr().out
    assert "02_cut is no notebook" not in printed and "1 of 3 chapters" in printed
    assert "02_cut failed at its file: 02_cut.ipynb is no notebook" in printed
    assert "01_typo failed at cell 2 of 2: SyntaxError" in printed
    assert len([*(tmp_path / "output" / "notebooks").glob("*.ipynb")]) == 2
    assert "not a valid notebook" in " ".join(lint.faults_of(folder / "02_cut.ipynb"))
    assert lint.set_up_faults(chapters.find([]))
    assert all("no chapter shows it" in fault for fault in lint.unused_drawings([]))


class OneChapter:
    """`python -m tools.run` in another process, on a folder with one notebook."""

    def __init__(self, tmp_path, *sources):
        self.output, self.folder = tmp_path / "output", tmp_path / "chapters"
        self.folder.mkdir()
        nbformat.write(notebook(*sources), self.folder / "09_test.ipynb")
        self.code = (
            "import sys; from pathlib import Path; from tools import chapters, run; "
            "run.site.build = lambda *_: None; "
            "chapters.NOTEBOOKS = Path(sys.argv[1]); sys.exit(run.main([]))"
        )

    def start(self, **variables):
        env = os.environ | {"COURSE_OUTPUT": str(self.output)} | variables
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        command = [sys.executable, "-c", self.code, str(self.folder)]
        return subprocess.Popen(command, cwd=ROOT, env=env, **pipes, **HEARS_CTRL_C)

    def run(self, **variables):
        process = self.start(**variables)
        out, err = process.communicate(timeout=120)
        return process.returncode, out, err


SLEEPS = """
import os, pathlib, time
pathlib.Path(os.environ["COURSE_OUTPUT"], "kernel").write_text(str(os.getpid()))
time.sleep(600)
"""


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return " Z " not in state.read_text() if state.exists() else True


@pytest.mark.parametrize("seed", (0, 1))
def test_ctrl_c_stops_a_run_with_one_line_and_no_kernel_left(tmp_path, seed):
    """At a moment of its own for each seed: while the kernel starts, and in a cell."""
    chapter, rng = OneChapter(tmp_path, SLEEPS), random.Random(seed)
    process = chapter.start()
    time.sleep(rng.uniform(0.5, 6.0))
    for _ in range(2):  # twice in a row
        process.send_signal(signal.SIGINT)
        time.sleep(rng.uniform(0.0, 0.4))
    out, err = process.communicate(timeout=60)
    assert process.returncode != 0 and "Traceback" not in err, err
    assert "Stopped." in out
    kernel = chapter.output / "kernel"
    assert not kernel.exists() or not alive(int(kernel.read_text()))


def test_a_home_that_is_not_there_does_not_stop_a_run(tmp_path):
    chapter = OneChapter(tmp_path, "import matplotlib.pyplot")
    code, out, err = chapter.run(HOME="/proc/no-home")
    assert code == 0 and "1 of 1 chapters" in out, err
    assert err == "", "nothing complains of the missing home"


def test_a_terminal_that_knows_few_letters_shows_a_run(tmp_path):
    chapter = OneChapter(tmp_path, "raise ValueError('… █')")
    code, out, err = chapter.run(PYTHONIOENCODING="ascii")
    assert code == 1 and "ValueError: ? ?" in out, err


def test_a_repository_that_is_read_only_gets_one_line_before_anything_runs(tmp_path):
    code, out, err = OneChapter(tmp_path, "1").run(COURSE_OUTPUT="/proc/read-only")
    assert (code, out) == (1, "")
    assert err.count("\n") == 1 and "cannot be written" in err
    assert "set COURSE_OUTPUT" in err


@pytest.mark.skipif(os.name != "posix", reason="needs a limit on the size of files")
def test_a_full_disk_while_a_page_is_written_is_named_and_leaves_the_older(tmp_path):
    chapter = OneChapter(tmp_path, "print(20_000 * 'x')")
    assert chapter.run()[0] == 0
    page = chapter.output / "notebooks" / "09_test.ipynb"
    before = page.read_bytes()
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000)); "
    chapter.code = chapter.code.replace("sys.exit(", limit + "sys.exit(")
    code, out, err = chapter.run()
    assert code == 1 and "writing its notebook" in out and "File too large" in out, err
    assert page.read_bytes() == before


def test_a_fingerprint_sees_code_and_neither_layout_nor_the_set_up_cell():
    def code_hash(*sources):
        return chapters.code_hash(notebook("from utils import course", *sources))

    source = "def f(x):\n    return {'a': x, 'b': g(x, 2)}"
    same = (
        'def f(x):\n    """Says what it does."""\n\n    # and why\n'
        '    return {\n        "a": x,\n        "b": g(x, 2),\n    }'
    )
    assert code_hash(source) == code_hash(same)
    assert code_hash(source) != code_hash(source.replace("2", "3"))
    assert code_hash(source) != code_hash(source.replace("'b'", "'c'"))
    assert code_hash("x = 1", "y = 2") != code_hash("x = 1\ny = 2")
    assert code_hash("%load_ext tensorboard") != code_hash("%load_ext other")
    choice = "EPOCHS = course.choose(full=40, quick={})"
    assert code_hash(choice.format(1)) == code_hash(choice.format(2))
    assert code_hash("x") == chapters.code_hash(notebook("another set-up", "x"))


def test_one_chapter_is_chosen_by_the_start_of_its_name(course_of):
    course_of(**{"01_good": ("1",), "02_bad": ("2",)})
    assert [path.stem for path in chapters.find(["02"])] == ["02_bad"]
    with pytest.raises(
        SystemExit, match="There is no chapter 07. There are: 01_good, 02_bad"
    ):
        chapters.find(["07"])


# ------------------------------------------------------------------ refresh and lint


def fresh(course_of, *sources):
    folder = course_of(**{"09_test": sources})
    assert refresh.main([]) == 0
    return folder / "09_test.ipynb"


def test_refresh_stores_a_normal_form_and_is_idempotent(course_of):
    path = fresh(course_of, "print('once\\rtwice')", "1 + 1")
    first = path.read_bytes()
    assert lint.faults_of(path) == []
    stored = chapters.read(path)
    assert stored.cells[1].outputs[0].text == "twice\n"
    assert stored.metadata.course.code == chapters.code_hash(stored)
    assert refresh.main([]) == 0
    assert path.read_bytes() == first


def test_large_pictures_are_stored_with_a_palette():
    import base64
    import io

    import numpy as np
    from PIL import Image

    def png(pixels):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        return base64.b64encode(buffer.getvalue()).decode()

    ramp = np.add.outer(np.arange(300), np.arange(300))[..., None] // [3, 4, 5]
    noisy = (ramp + np.random.default_rng(0).integers(0, 20, (300, 300, 3))).astype(
        "uint8"
    )
    stored = refresh.smaller_png(png(noisy))
    assert len(stored) < 0.6 * len(png(noisy)) and refresh.smaller_png(stored) == stored
    back = np.asarray(
        Image.open(io.BytesIO(base64.b64decode(stored))).convert("RGB"), int
    )
    assert back.shape == noisy.shape and np.abs(back - noisy).mean() < 10
    small = png(noisy[:20, :20])
    assert refresh.smaller_png(small) == small


def test_a_chart_keeps_its_rare_colours_and_a_grey_picture_its_greys():
    import base64
    import io

    import numpy as np
    from PIL import Image

    from utils import plots

    def stored(pixels):
        buffer = io.BytesIO()
        Image.fromarray(pixels.astype("uint8")).save(buffer, "PNG")
        encoded = refresh.smaller_png(base64.b64encode(buffer.getvalue()).decode())
        picture = Image.open(io.BytesIO(base64.b64decode(encoded)))
        return np.asarray(picture.convert("RGB"), int), len(encoded), buffer.tell()

    rng = np.random.default_rng(0)
    chart = np.full((300, 300, 3), 255)
    chart[100:200] = rng.integers(0, 255, (100, 300, 1)) * [1, 0.6, 0.3]  # many browns
    for index, colour in enumerate(plots.CLASS_COLOURS):
        chart[10 * index : 10 * index + 4, :4] = [
            int(colour[k : k + 2], 16) for k in (1, 3, 5)
        ]
    back, _, _ = stored(chart)
    for index in range(10):
        pair = back[10 * index, 0], chart[10 * index, 0]
        assert np.abs(np.subtract(*pair)).max() < 24, plots.CLASS_COLOURS[index]

    grey = np.repeat(rng.integers(0, 255, (200, 200, 1)), 3, axis=2)
    back, size, before = stored(grey)
    assert np.abs(back - grey).max() <= 5 and size < before


def test_refresh_leaves_a_chapter_that_fails_or_warns_as_it_was(course_of, capsys):
    folder = course_of(
        **{
            "01_bad": ("1 / 0",),
            "02_warns": ("import sys; print('careful', file=sys.stderr)",),
        }
    )
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert refresh.main([]) == 1
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert "wrote to stderr: careful" in capsys.readouterr().out


def change(path, edit):
    stored = chapters.read(path)
    edit(stored)
    nbformat.write(stored, path)
    return " ".join(lint.faults_of(path))


def test_lint_sees_what_is_wrong(course_of):
    path = fresh(course_of, "x = 1", "print(x)")
    whole = path.read_bytes()

    def faults(edit):
        path.write_bytes(whole)
        return change(path, edit)

    assert "older than its code" in faults(
        lambda book: book.cells[2].update(source="print(-x)")
    )
    assert "not executed once" in faults(
        lambda book: book.cells[2].update(execution_count=7)
    )
    error = nbformat.v4.new_output("error", ename="ValueError", evalue="", traceback=[])
    assert "a stored error, ValueError" in faults(
        lambda book: book.cells[1].update(outputs=[error])
    )
    stderr = nbformat.v4.new_output("stream", name="stderr", text="careful")
    assert "stored stderr" in faults(
        lambda book: book.cells[1].update(outputs=[stderr])
    )
    home = nbformat.v4.new_output(
        "stream", name="stdout", text="saved in /home/reader/x"
    )
    assert "path of a machine" in faults(
        lambda book: book.cells[1].update(outputs=[home])
    )
    picture = nbformat.v4.new_output(
        "display_data", data={"image/png": "", "text/plain": "<Figure size 9x9>"}
    )
    assert "without alternative text" in faults(
        lambda book: book.cells[1].update(outputs=[picture])
    )
    assert "widget state" in faults(lambda book: book.metadata.update(widgets={}))
    assert "no Colab badge" in faults(lambda book: book.cells[0].update(source="# T"))
    assert "over 1 MB" in faults(
        lambda book: book.cells[0].update(source=book.cells[0].source + "x" * 1_000_001)
    )
    assert "over 88 characters" in faults(
        lambda book: book.cells[1].update(source="x = " + "1" * 100)
    )
    assert (
        faults(
            lambda book: book.cells[0].update(
                source=book.cells[0].source + " and more prose"
            )
        )
        == ""
    )
    path.write_text("{}")
    assert "not a valid notebook" in lint.faults_of(path)[0]


def test_lint_sees_set_up_cells_that_differ(course_of):
    folder = course_of(**{"01_a": ("x = 1",), "02_b": ("x = 2",)})
    assert "set-up cell differs" in lint.set_up_faults(sorted(folder.iterdir()))[0]


# ------------------------------------------------------------------ address


def test_one_command_changes_the_address_everywhere(tmp_path):
    stem = "01_autoencoder"
    notebooks = f"notebooks/{stem}.ipynb", f"notebooks/sources/{stem}.py"
    for name in ("tools/address.py", "README.md", "CITATION.cff", *notebooks):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    before = chapters.code_hash(
        chapters.read(tmp_path / "notebooks" / "01_autoencoder.ipynb")
    )
    assert address.change("https://github.com/you/fork.git", tmp_path) == 5
    for path in address.files(tmp_path):
        text = path.read_text()
        assert "you/fork" in text and address.short(address.current()) not in text
    copied = (tmp_path / "tools" / "address.py").read_text()
    namespace = {"__name__": "address", "__file__": __file__}
    exec(copied, namespace)
    assert namespace["current"]() == "https://github.com/you/fork"
    changed = chapters.read(tmp_path / "notebooks" / "01_autoencoder.ipynb")
    source = "\0".join(
        cell.source for cell in changed.cells if cell.cell_type == "code"
    )
    assert "you/fork" in source
    assert chapters.code_hash(changed) == before, "outputs stay those of the code"


def test_only_the_placeholder_is_replaced_by_the_workflow(tmp_path):
    assert address.is_placeholder("https://github.com/OWNER/course")
    assert not address.is_placeholder("https://github.com/owner/course")
    shutil.copytree(ROOT / "tools", tmp_path / "tools")
    place = tmp_path / "tools" / "address.py"
    command = [sys.executable, "-m", "tools.address", "--if-placeholder"]

    def run_it(new):
        subprocess.run([*command, new], cwd=tmp_path, check=True, capture_output=True)
        return place.read_text("utf-8")

    if address.is_placeholder():
        assert "github.com/you/fork" in run_it("https://github.com/you/fork")
        before = place.read_text("utf-8")
        assert run_it("https://github.com/another/fork") == before


def test_an_address_that_is_none_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match="not of the form https://github.com/owner/name"
    ):
        address.change("github.com/you", tmp_path)


# ------------------------------------------------------------------ guard


@pytest.fixture
def small_course(tmp_path):
    """A copy of the test suite's settings with one test and two notebooks."""
    for folder in ("tests", "notebooks", "tools"):
        (tmp_path / folder).mkdir()
    for name in ("conftest.py", "pyproject.toml", "tools/__init__.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "tests" / "test_one.py").write_text("def test_one(): pass\n")
    for name in ("01_a", "02_b"):
        nbformat.write(notebook("x = 1"), tmp_path / "notebooks" / f"{name}.ipynb")

    # Where these tests run in one of several processes, the pytest that they start must
    # not take itself for it.
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PYTEST_XDIST")
    }

    def pytest_run(*arguments, **variables):
        command = [sys.executable, "-m", "pytest", "-q", *arguments]
        return subprocess.run(
            command,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            env=clean | variables,
        )

    return pytest_run


def test_a_full_run_collects_every_notebook(small_course):
    result = small_course("--collect-only")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "02_b.ipynb" in result.stdout


def test_a_full_run_that_misses_a_notebook_fails_and_names_it(small_course):
    result = small_course("--collect-only", "--ignore=notebooks/02_b.ipynb")
    assert result.returncode != 0
    assert "nbval did not collect 02_b.ipynb" in result.stdout + result.stderr


def test_a_few_by_name_are_allowed(small_course):
    assert small_course("--collect-only", "notebooks/01_a.ipynb").returncode == 0


TWO_PROCESSES = ("-n", "2", "--dist", "loadfile")  # as `make test`


def test_two_processes_do_not_part_the_cells_of_a_notebook(small_course, tmp_path):
    sources = ["x0 = 0", *(f"x{n} = x{n - 1} + 1" for n in range(1, 8))]
    nbformat.write(notebook(*sources), tmp_path / "notebooks" / "01_a.ipynb")
    result = small_course("-n", "2", "notebooks/01_a.ipynb")
    assert result.returncode == 0 and "8 passed" in result.stdout, result.stdout


def test_two_processes_miss_no_notebook_unnoticed(small_course):
    result = small_course(*TWO_PROCESSES, "--ignore=notebooks/02_b.ipynb")
    assert result.returncode != 0
    assert "nbval did not collect 02_b.ipynb" in result.stdout + result.stderr


def test_two_processes_fetch_images_once_and_write_into_two_folders(
    small_course, tmp_path
):
    (tmp_path / "utils").mkdir()
    (tmp_path / "utils" / "datasets.py").write_text(
        "def fashion_mnist():\n    with open('fetched', 'a') as file:\n        "
        "file.write('once')\n"
    )
    for name in ("one", "two"):
        (tmp_path / "tests" / f"test_{name}.py").write_text(
            "import os, pathlib, time\n"
            f"def test_{name}():\n"
            "    assert open('fetched').read() == 'once'\n"
            "    folder = pathlib.Path(os.environ['COURSE_OUTPUT'])\n"
            # fails if the other process has the same folder
            "    folder.mkdir(parents=True)\n"
            "    time.sleep(2)\n"
        )
    written = tmp_path / "written"
    result = small_course(*TWO_PROCESSES, "tests", COURSE_OUTPUT=str(written))
    assert result.returncode == 0, result.stdout + result.stderr
    assert len(list(written.iterdir())) == 2
