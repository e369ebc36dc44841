"""The first lines of a chapter: profile, versions, output folder."""

import json
import os
import platform
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from utils import course
from utils.course import CourseError


def test_profile_is_quick_in_tests_and_full_by_default(monkeypatch):
    assert course.profile() == "quick"
    monkeypatch.delenv("COURSE_PROFILE")
    assert course.profile() == "full"


def test_unknown_profile_is_one_clear_line(monkeypatch):
    monkeypatch.setenv("COURSE_PROFILE", "fast")
    with pytest.raises(
        CourseError, match="COURSE_PROFILE is 'fast': set it to 'full' or 'quick'"
    ):
        course.profile()


def test_choose_follows_profile_and_gpu(monkeypatch):
    assert course.choose(full=40, quick=2, gpu=80) == 2
    monkeypatch.setenv("COURSE_PROFILE", "full")
    monkeypatch.setattr(course, "has_gpu", lambda: False)
    assert course.choose(full=40, quick=2, gpu=80) == 40
    monkeypatch.setattr(course, "has_gpu", lambda: True)
    assert course.choose(full=40, quick=2, gpu=80) == 80
    assert course.choose(full=40, quick=2) == 40


def test_seed_repeats_random_numbers():
    import keras
    import numpy as np

    def draws(seed):
        course.seed(seed)
        return [float(np.random.random()), float(keras.random.normal(()))]  # noqa: NPY002 (the global one is meant)

    assert draws(3) == draws(3)
    assert all(a != b for a, b in zip(draws(3), draws(4), strict=True))


def test_requirements_are_read_with_their_ranges():
    ranges = course.requirements()
    assert ranges["numpy"] and "<2.4" in ranges["numpy"]
    assert set(course.CORE) <= set(ranges)


def test_missing_package_names_the_command():
    with pytest.raises(
        CourseError, match=r'no-such-thing is missing.*pip install "no-such-thing"'
    ):
        course.require("no-such-thing")


def test_wrong_version_names_version_range_and_command(monkeypatch):
    monkeypatch.setattr(course, "requirements", lambda: {"numpy": "<1.0"})
    with pytest.raises(
        CourseError, match=r'numpy is \d\S+, which is not <1.0.*pip install "numpy<1.0"'
    ):
        course.require("numpy")


def test_tensorflow_probability_is_refused_on_another_backend(monkeypatch):
    monkeypatch.setattr(course, "backend", lambda: "jax")
    with pytest.raises(
        CourseError, match="KERAS_BACKEND is 'jax'.*unset KERAS_BACKEND"
    ):
        course.require("tensorflow-probability", "tf_keras")


@pytest.mark.parametrize(
    "variable, backend", [(None, "tensorflow"), ("", "tensorflow"), ("jax", "jax")]
)
def test_before_keras_is_imported_the_variable_tells_the_backend(
    monkeypatch, variable, backend
):
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    if variable is not None:
        monkeypatch.setenv("KERAS_BACKEND", variable)
    assert course.backend() == backend


def test_versions_are_checked_before_keras_is_imported(tmp_path):
    """A package of a wrong version is found by its metadata: the import that would fail
    is never reached.
    """
    broken = tmp_path / "keras"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise SystemExit('keras was imported')")
    info = tmp_path / "keras-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: keras\nVersion: 1.0\n")
    env = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{course.ROOT}"}
    code = "from utils import course; course.start()"
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "keras is 1.0, which is not" in result.stderr
    assert "keras was imported" not in result.stderr


def test_on_colab_only_what_is_missing_is_installed(monkeypatch):
    called = []
    monkeypatch.setitem(sys.modules, "google.colab", object())
    monkeypatch.setattr(
        course.subprocess, "run", lambda command: called.append(command)
    )
    monkeypatch.setattr(
        course, "requirements", lambda: {"numpy": ">=1", "no-such-thing": ">=2"}
    )
    with pytest.raises(CourseError):  # pip was only pretended, so it is still missing
        course.require("numpy", "no-such-thing")
    assert called[0][-1] == "no-such-thing>=2" and not any(
        "numpy" in part for part in called[0]
    )


def test_output_goes_under_the_profile(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_OUTPUT", str(tmp_path))
    path = course.output("digits", "vae.keras")
    assert path == tmp_path / "quick" / "digits" / "vae.keras"
    assert path.parent.is_dir() and not path.exists()


def test_unwritable_output_is_one_clear_line(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COURSE_OUTPUT", str(tmp_path / "file"))
    with pytest.raises(
        CourseError, match="cannot be written .*: free space or change its permissions"
    ):
        course.output()


def test_full_disk_is_one_clear_line(monkeypatch):
    def no_space(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(course.tempfile, "TemporaryFile", no_space)
    with pytest.raises(CourseError, match="No space left on device"):
        course.output("x")


def test_a_notebook_shows_one_line_of_a_course_error():
    assert CourseError("what to do")._render_traceback_() == ["CourseError: what to do"]


def test_quiet_import_lets_errors_through(capfd):
    with pytest.raises(ImportError), course._quiet():
        os.write(2, b"why it failed\n")
        raise ImportError
    assert "why it failed" in capfd.readouterr().err
    with course._quiet():
        os.write(2, b"a greeting\n")
    assert "a greeting" not in capfd.readouterr().err


# ------------------------------------------------------------------ a reader's machine


def started(tmp_path, code="", **variables):
    """A chapter's start in a process of its own, and some code after it."""
    env = os.environ | {"PYTHONPATH": str(course.ROOT), "COURSE_OUTPUT": str(tmp_path)}
    code = f"from utils import course; course.start(edition={course.EDITION}); {code}"
    command = [sys.executable, "-c", code]
    pipes = {"capture_output": True, "text": True, "errors": "replace"}
    return subprocess.run(command, env=env | variables, **pipes)


def keras_json(folder, **changes):
    plain = {"image_data_format": "channels_last", "floatx": "float32"}
    plain |= {"epsilon": 1e-7, "backend": "tensorflow"}
    (folder / "keras.json").write_text(json.dumps(plain | changes))
    return str(folder)


STATE = "print(b.floatx(), b.image_data_format(), b.epsilon())"


def test_a_keras_json_of_other_work_changes_nothing(tmp_path):
    other = {"image_data_format": "channels_first", "floatx": "float64"}
    home = keras_json(tmp_path, **other, epsilon=1e-3, backend="torch")
    code = f"import keras; b = keras.config; {STATE}"
    every = 1
    if find_spec("tf_keras"):  # what TensorFlow Probability uses
        code += "; course.require('tf_keras'); import tf_keras; b = tf_keras.backend"
        code, every = f"{code}; {STATE}", 2
    ended = started(tmp_path, code, KERAS_HOME=home)
    assert ended.stdout.count("float32 channels_last 1e-07") == every, ended.stderr


def test_a_keras_json_that_is_wrong_is_one_line(tmp_path):
    ended = started(tmp_path, KERAS_HOME=keras_json(tmp_path, floatx="float31"))
    last = ended.stderr.splitlines()[-1]
    assert "keras does not load (" in last and "move it away" in last


def test_another_edition_of_utils_is_one_line():
    with pytest.raises(
        CourseError, match="needs edition 9 .* is edition 2: .*git pull"
    ):
        course.start(edition=9)


@pytest.mark.parametrize("optimize", [0, 1])
def test_python_without_assertions_says_so(optimize, tmp_path, monkeypatch, capsys):
    """The module as `python -O` compiles it."""
    monkeypatch.setenv("COURSE_OUTPUT", str(tmp_path))
    source = Path(course.__file__)
    code = compile(source.read_text("utf-8"), source, "exec", optimize=optimize)
    module = {"__name__": "course", "__file__": course.__file__}
    exec(code, module)
    module["start"](course.EDITION)
    assert ("this chapter checks nothing" in capsys.readouterr().out) == bool(optimize)


def test_without_a_home_on_a_terminal_that_knows_few_letters_a_chapter_starts(tmp_path):
    """Letters that the terminal does not know are question marks."""
    machine = {"HOME": "/proc/no-home", "KERAS_HOME": "", "PYTHONIOENCODING": "ascii"}
    ended = started(tmp_path, "print('… █')", **machine)
    assert ended.returncode == 0, ended.stderr
    assert "Profile quick ? " in ended.stdout and "assertions" not in ended.stdout


def test_onednn_is_on_unless_the_reader_says_otherwise(monkeypatch):
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    for asked, expected in (("0", "0"), (None, "1" if x86 else None)):
        monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
        if asked:
            monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", asked)
        course.load_keras()
        assert os.environ.get("TF_ENABLE_ONEDNN_OPTS") == expected


def test_cores_are_one_where_the_system_does_not_tell(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert course.cores() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert course.cores() == 1


def test_products_are_computed_in_float32_on_gpus_too():
    """Half a nat of chapter 4's log-determinant is lost otherwise."""
    import tensorflow as tf

    tf.config.experimental.enable_tensor_float_32_execution(True)
    course.load_keras()
    assert not tf.config.experimental.tensor_float_32_execution_enabled()


def test_pipelines_are_not_tuned():
    """An epoch waits for the tuning thread's next look otherwise."""
    import tensorflow as tf

    course.load_keras()
    course.load_keras()  # as when a cell is run again
    iterator = iter(tf.data.Dataset.range(3))
    assert iterator._dataset.options().autotune.enabled is False
    assert [int(number) for number in iterator] == [0, 1, 2]
    asked = tf.data.Options()
    asked.autotune.enabled = True
    tuned = tf.data.Dataset.range(3).with_options(asked)
    assert iter(tuned)._dataset.options().autotune.enabled is True


def test_the_device_in_words(monkeypatch):
    for gpus, words in (
        ([], f"{course.cores()} CPU core"),
        (["NVIDIA L4"], "NVIDIA L4"),
        (["NVIDIA L4", "NVIDIA L4"], "2 x NVIDIA L4"),
    ):
        monkeypatch.setattr(course, "_gpus", lambda gpus=gpus: gpus)
        assert course.device().startswith(words)
        assert course.has_gpu() == bool(gpus)


# ------------------------------------------------------------------ whole files


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "figures.json"
    with course.replacing(path) as part:
        part.write_text("one")
    with pytest.raises(KeyboardInterrupt), course.replacing(path) as part:
        part.write_text("half")
        raise KeyboardInterrupt
    with pytest.raises(CourseError, match="figures.json cannot be written .No space"):
        with course.replacing(path) as part:
            raise OSError(28, "No space left on device")
    assert path.read_text() == "one" and list(path.parent.iterdir()) == [path]


def test_an_expected_error_is_one_line_and_the_cell_goes_on(capsys):
    with course.expect(TypeError, ValueError):
        raise ValueError("first line\nsecond line")
    assert capsys.readouterr().out == "ValueError: first line\n"
    with course.expect(ValueError, show="third"):
        raise ValueError("first line\nsecond line\n\nthe third line")
    shown = capsys.readouterr().out.splitlines()
    assert shown == ["ValueError: first line", "  … the third line"]
    with course.expect(NotImplementedError):
        raise NotImplementedError
    assert capsys.readouterr().out == "NotImplementedError: \n"
    with course.expect(LookupError):  # a KeyError is one
        raise KeyError("x" * 500)
    assert len(capsys.readouterr().out) < 130


def test_an_error_that_does_not_come_or_is_another_fails():
    with pytest.raises(course.CourseError, match="nothing was raised"):
        with course.expect(TypeError):
            pass
    with pytest.raises(
        course.CourseError, match="TypeError was expected, and KeyError"
    ):
        with course.expect(TypeError):
            raise KeyError("x")
    with pytest.raises(KeyboardInterrupt):
        with course.expect(TypeError):
            raise KeyboardInterrupt
