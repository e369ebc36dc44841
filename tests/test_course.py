"""The first lines of a chapter: profile, versions, output folder."""

import os
import subprocess
import sys

import pytest

from utils import course
from utils.course import CourseError


def test_profile_is_quick_in_tests_and_full_by_default(monkeypatch):
    assert course.profile() == "quick"
    monkeypatch.delenv("COURSE_PROFILE")
    assert course.profile() == "full"


def test_unknown_profile_is_one_clear_line(monkeypatch):
    monkeypatch.setenv("COURSE_PROFILE", "fast")
    with pytest.raises(CourseError, match="COURSE_PROFILE is 'fast': set it to 'full' or 'quick'"):
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
    with pytest.raises(CourseError, match=r'no-such-thing is missing.*pip install "no-such-thing"'):
        course.require("no-such-thing")


def test_wrong_version_names_version_range_and_command(monkeypatch):
    monkeypatch.setattr(course, "requirements", lambda: {"numpy": "<1.0"})
    with pytest.raises(CourseError, match=r'numpy is \d\S+, which is not <1.0.*pip install "numpy<1.0"'):
        course.require("numpy")


def test_tensorflow_probability_is_refused_on_another_backend(monkeypatch):
    monkeypatch.setattr(course, "backend", lambda: "jax")
    with pytest.raises(CourseError, match="KERAS_BACKEND is 'jax'.*unset KERAS_BACKEND"):
        course.require("tensorflow-probability", "tf_keras")


def test_versions_are_checked_before_keras_is_imported(tmp_path):
    """A package of a wrong version is found by its metadata: the import that would fail is never reached."""
    broken = tmp_path / "keras"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise SystemExit('keras was imported')")
    info = tmp_path / "keras-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: keras\nVersion: 1.0\n")
    env = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{course.ROOT}"}
    code = "from utils import course; course.start()"
    result = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert "keras is 1.0, which is not" in result.stderr
    assert "keras was imported" not in result.stderr


def test_on_colab_only_what_is_missing_is_installed(monkeypatch):
    called = []
    monkeypatch.setitem(sys.modules, "google.colab", object())
    monkeypatch.setattr(course.subprocess, "run", lambda command, check: called.append(command))
    monkeypatch.setattr(course, "requirements", lambda: {"numpy": ">=1", "no-such-thing": ">=2"})
    with pytest.raises(CourseError):  # pip was only pretended, so it is still missing
        course.require("numpy", "no-such-thing")
    assert called[0][-1] == "no-such-thing>=2" and not any("numpy" in part for part in called[0])


def test_output_goes_under_the_profile(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_OUTPUT", str(tmp_path))
    path = course.output("digits", "vae.keras")
    assert path == tmp_path / "quick" / "digits" / "vae.keras"
    assert path.parent.is_dir() and not path.exists()


def test_unwritable_output_is_one_clear_line(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COURSE_OUTPUT", str(tmp_path / "file"))
    with pytest.raises(CourseError, match="cannot be written .*: free space or mend its permissions"):
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
    with pytest.raises(ImportError), course._quiet_import():
        os.write(2, b"why it failed\n")
        raise ImportError
    assert "why it failed" in capfd.readouterr().err
    with course._quiet_import():
        os.write(2, b"a greeting\n")
    assert "a greeting" not in capfd.readouterr().err
