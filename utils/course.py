"""The first lines of every chapter: profile, versions, device, seed and output folders.

The ground floor of the package: it imports none of the other modules, and no Keras before it has checked that the
installed one will do.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import logging
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROFILES = ("full", "quick")
CORE = ("keras", "numpy", "matplotlib", "pandas", "scikit-learn", "scipy")
BACKENDS = ("tensorflow", "jax", "torch")


class CourseError(RuntimeError):
    """Something that the reader can mend. The message is one line that says what is wrong and what to do.

    A notebook shows that line alone: the stack of calls above it would not help.
    """

    def _render_traceback_(self):
        return [f"{type(self).__name__}: {self}"]


# ------------------------------------------------------------------------------------------------ profile and seed


def profile() -> str:
    """`"full"` (what a reader gets) or `"quick"` (what the tests run), from the variable COURSE_PROFILE.

    Raises CourseError for any other value.
    """
    value = os.environ.get("COURSE_PROFILE") or "full"
    if value not in PROFILES:
        raise CourseError(f"COURSE_PROFILE is {value!r}: set it to 'full' or 'quick', or unset it for 'full'.")
    return value


def choose(*, full, quick, gpu=None):
    """The value that belongs to the profile; `gpu`, where given, replaces `full` on a machine with a GPU."""
    if profile() == "quick":
        return quick
    return gpu if gpu is not None and has_gpu() else full


def seed(value: int = 42) -> int:
    """Seeds Python, NumPy and Keras, and returns the seed."""
    import keras

    keras.utils.set_random_seed(value)
    return value


# ------------------------------------------------------------------------------------------------ versions


def backend() -> str:
    """The Keras backend that is (or will be) in use: tensorflow, jax or torch."""
    if "keras" in sys.modules:
        return sys.modules["keras"].backend.backend()
    return os.environ.get("KERAS_BACKEND") or "tensorflow"


def requirements() -> dict[str, str]:
    """The version ranges of requirements.txt: `{"numpy": ">=2.0,<2.4", …}`, names as written there."""
    from packaging.requirements import Requirement

    lines = (line.split("#")[0].strip() for line in (ROOT / "requirements.txt").read_text("utf-8").splitlines())
    parsed = [Requirement(line) for line in lines if line]
    return {r.name: str(r.specifier) for r in parsed}


def require(*packages: str) -> None:
    """Checks that packages are installed, in a version of requirements.txt, without importing them.

    `packages` are names as in requirements.txt. On Colab a missing one is installed; one that is there is never
    replaced, since Colab's own packages lean on each other. Elsewhere, and for a version out of range, raises
    CourseError with the command that mends it. TensorFlow Probability runs on TensorFlow: on another backend of
    Keras, asking for it raises CourseError.
    """
    if "tensorflow-probability" in packages and backend() != "tensorflow":
        raise CourseError(
            f"KERAS_BACKEND is {backend()!r}, and this needs TensorFlow Probability, which runs on TensorFlow: "
            "unset KERAS_BACKEND and restart the kernel."
        )
    ranges = requirements()
    found = {name: _problem(name, ranges.get(name, "")) for name in packages}
    missing = [name for name, problem in found.items() if problem == "missing"]
    if missing and "google.colab" in sys.modules:
        specs = [name + ranges.get(name, "") for name in missing]
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *specs], check=True)
        found = {name: _problem(name, ranges.get(name, "")) for name in packages}
    wrong = {name: problem for name, problem in found.items() if problem}
    if wrong:
        specs = " ".join(f'"{name}{ranges.get(name, "")}"' for name in wrong)
        what = "; ".join(f"{name} is {problem}" for name, problem in wrong.items())
        raise CourseError(f"{what}. Mend it with: python -m pip install {specs}  and restart the kernel.")


def _problem(name: str, specifier: str) -> str | None:
    """What is wrong with an installed package: None, "missing", or its version and the range it should be in."""
    from packaging.specifiers import SpecifierSet

    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "missing"
    if SpecifierSet(specifier).contains(version, prereleases=True):
        return None
    return f"{version}, which is not {specifier}"


def versions() -> str:
    """Versions of Python, Keras and its backend, for the line that a chapter prints first."""
    import keras

    engine = backend()
    return f"Python {platform.python_version()}, Keras {keras.__version__}, {_engine_name(engine)}"


def _engine_name(engine: str) -> str:
    label = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}[engine]
    return f"{label} {importlib.metadata.version(engine)}"


# ------------------------------------------------------------------------------------------------ device


def has_gpu() -> bool:
    """Whether the Keras backend sees a GPU."""
    return bool(_gpus())


def _gpus() -> list[str]:
    engine = backend()
    if engine == "tensorflow":
        import tensorflow as tf

        return [
            tf.config.experimental.get_device_details(d).get("device_name", "GPU")
            for d in tf.config.list_physical_devices("GPU")
        ]
    if engine == "jax":
        import jax

        return [d.device_kind for d in jax.devices() if d.platform == "gpu"]
    import torch

    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


def device() -> str:
    """The device that the chapter will run on, in words: "2 CPU cores", "NVIDIA L4", "2 x NVIDIA L4"."""
    gpus = _gpus()
    if gpus:
        return gpus[0] if len(gpus) == 1 else f"{len(gpus)} x {gpus[0]}"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} CPU core{'s' if cores != 1 else ''}"


def replicas() -> int:
    """How many devices share a batch: 1, or the number of GPUs within TensorFlow's MirroredStrategy."""
    if backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


@contextlib.contextmanager
def distribution(devices: tuple[str, ...] | None = None):
    """A context in which a model is built, compiled and trained on all devices, with Keras' own engines.

    TensorFlow: MirroredStrategy over the GPUs of this machine, if there are several; each takes its share of a batch.
    JAX: data parallelism over the devices of all hosts, if there are several. Otherwise it does nothing. `devices`
    names TensorFlow's devices instead, such as `("CPU:0", "CPU:1")`.
    """
    import keras

    engine = backend()
    if engine == "tensorflow" and (devices or len(_gpus()) > 1):
        with _mirrored_strategy(devices).scope():
            yield
    elif engine == "jax" and _count_jax_devices() > 1:
        keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))
        try:
            yield
        finally:
            keras.distribution.set_distribution(None)
    else:
        yield


@functools.cache
def _mirrored_strategy(devices: tuple[str, ...] | None):
    """One strategy for a session: a model built under one cannot be trained under another."""
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(devices and list(devices))


def _count_jax_devices() -> int:
    import jax

    return jax.device_count()


def machine() -> str:
    """Device and backend in one line, as output/results.json records them."""
    return f"{device()}, {_engine_name(backend())}"


def _grow_gpu_memory() -> None:
    """TensorFlow takes all of a GPU's memory unless told, before its first use, to take what it needs."""
    import tensorflow as tf

    for gpu in tf.config.list_physical_devices("GPU"):
        with contextlib.suppress(RuntimeError):  # the GPU is in use already: the cell was run a second time
            tf.config.experimental.set_memory_growth(gpu, True)


@contextlib.contextmanager
def _quiet_import():
    """Holds back what C++ libraries write to stderr while they load, and lets it through if loading fails.

    TensorFlow greets with a dozen lines that no Python setting silences. They are written to file descriptor 2.
    """
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            os.dup2(saved, 2)
            held.seek(0)
            sys.stderr.write(held.read().decode(errors="replace"))
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)


# ------------------------------------------------------------------------------------------------ output


def output(*parts: str) -> Path:
    """A path under the output folder of this profile, its folder made: `output("digits", "vae.keras")`.

    The folder is `output/<profile>` in the repository, or `<profile>` in the folder that COURSE_OUTPUT names.
    Raises CourseError if it cannot be written.
    """
    path = output_root().joinpath(profile(), *parts)
    folder = path.parent if path.suffix else path
    _make_writable(folder)
    return path


def cache(name: str) -> Path:
    """A folder for data that every profile shares and that can be made again, under the output folder."""
    folder = output_root() / "cache" / name
    _make_writable(folder)
    return folder


def output_root() -> Path:
    """The folder that everything a run writes goes under."""
    return ROOT / Path(os.environ.get("COURSE_OUTPUT") or "output").expanduser()


def _make_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"0" * 4096)
    except OSError as error:
        reason = error.strerror or error
        raise CourseError(
            f"{folder} cannot be written ({reason}): free space or mend its permissions, "
            "or set COURSE_OUTPUT to a folder that can be written."
        ) from None


# ------------------------------------------------------------------------------------------------ start


def start() -> None:
    """Readies a chapter: checks versions, loads Keras quietly, tries the output folder, and prints one line."""
    chosen = profile()
    engine = os.environ.get("KERAS_BACKEND") or "tensorflow"
    if engine not in BACKENDS:
        raise CourseError(f"KERAS_BACKEND is {engine!r}: set it to one of {', '.join(BACKENDS)}, or unset it.")
    require(*CORE, engine)
    os.environ["KERAS_BACKEND"] = engine  # a keras.json that names another one is not asked
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _quiet_import():
        import keras  # noqa: F401

        if backend() == "tensorflow":
            _grow_gpu_memory()
            # A chapter builds many small models, and TensorFlow takes the first call of each for costly retracing.
            logging.getLogger("tensorflow").setLevel(logging.ERROR)
        where = device()
    output()
    print(f"Profile {chosen} · {where} · {versions()}")
