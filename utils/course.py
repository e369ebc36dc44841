"""The first lines of every chapter: profile, versions, device, seed and output folders.

The ground floor of the package: it imports none of the other modules, and no Keras
before it has checked that the installed one will do.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import logging
import os
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EDITION = 2  # raised when chapters need something that an older copy of utils lacks
PROFILES = ("full", "quick")
CORE = "keras numpy matplotlib pandas scikit-learn scipy filelock tqdm".split()
BACKENDS = {"tensorflow": "TensorFlow", "jax": "JAX"}


class CourseError(RuntimeError):
    """What a reader can put right: one line that says what is wrong and what to do.

    A notebook shows that line alone: the stack of calls above it would not help.
    """

    def _render_traceback_(self):
        return [f"{type(self).__name__}: {self}"]


@contextlib.contextmanager
def expect(*kinds: type[BaseException], show: str = ""):
    """A block that is to raise: prints the exception's type and the first line of its
    message, and goes on.

    `with expect(TypeError): …` takes that type and those derived from it, whatever the
    message says, which changes between versions. With `show`, the first further line
    that holds these words is printed, too. Raises CourseError where the block raises
    nothing, or something else.
    """
    wanted = " or ".join(kind.__name__ for kind in kinds)
    try:
        yield
    except kinds as error:
        print(f"{type(error).__name__}: {_first_line(error)}")
        further = [line.strip() for line in str(error).splitlines()[1:]]
        for line in [line for line in further if show and show in line][:1]:
            print(f"  … {_cut(line)}")
    except Exception as error:
        raise CourseError(
            f"{wanted} was expected, and {type(error).__name__} came: "
            f"{_first_line(error)} Another version of a package may behave otherwise."
        ) from error
    else:
        raise CourseError(
            f"{wanted} was expected, and nothing was raised: another version of a "
            "package may have mended it."
        )


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return _cut(lines[0]) if lines else ""


def _cut(line: str, width: int = 110) -> str:
    line = re.sub(r"\x1b\[\d*m", "", line)  # of bold print
    return line if len(line) <= width else line[: width - 1] + "…"


# ------------------------------------------------------------------ profile and seed


def profile() -> str:
    """`"full"` (what a reader gets) or `"quick"` (what the tests run).

    From the variable COURSE_PROFILE. Raises CourseError for any other value.
    """
    value = os.environ.get("COURSE_PROFILE") or "full"
    if value not in PROFILES:
        raise CourseError(
            f"COURSE_PROFILE is {value!r}: set it to 'full' or 'quick', "
            "or unset it for 'full'."
        )
    return value


def choose(*, full, quick, gpu=None):
    """The value of the profile; `gpu`, where given, replaces `full` on a GPU."""
    if profile() == "quick":
        return quick
    return gpu if gpu is not None and has_gpu() else full


def seed(value: int = 42) -> int:
    """Seeds Python, NumPy and Keras, and returns the seed."""
    import keras

    keras.utils.set_random_seed(value)
    return value


# ------------------------------------------------------------------ versions


def backend() -> str:
    """The Keras backend that is (or will be) in use: tensorflow or jax."""
    if "keras" in sys.modules:
        return sys.modules["keras"].backend.backend()
    return os.environ.get("KERAS_BACKEND") or "tensorflow"


def requirements() -> dict[str, str]:
    """The version ranges of requirements.txt: `{"numpy": ">=2.0,<2.4", …}`."""
    from packaging.requirements import Requirement

    lines = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    kept = filter(None, (line.split("#")[0].strip() for line in lines))
    return {r.name: str(r.specifier) for r in map(Requirement, kept)}


def require(*packages: str) -> None:
    """Checks that packages are installed, in a version of requirements.txt.

    `packages` are names as in requirements.txt. On Colab a missing one is installed;
    one that is there is never replaced, since Colab's own packages lean on each other.
    Elsewhere, and for a version out of range, raises CourseError with the command to
    give. TensorFlow Probability runs on TensorFlow: on another backend of Keras, asking
    for it raises CourseError. tf_keras is loaded with this course's settings.
    """
    if "tensorflow-probability" in packages and backend() != "tensorflow":
        raise CourseError(
            f"KERAS_BACKEND is {backend()!r}, and this needs TensorFlow Probability, "
            "which runs on TensorFlow: unset KERAS_BACKEND and restart the kernel."
        )
    ranges = requirements()
    specs = {name: name + ranges.get(name, "") for name in packages}
    found = {name: _problem(name, ranges.get(name, "")) for name in packages}
    missing = [specs[name] for name, problem in found.items() if problem == "missing"]
    if missing and "google.colab" in sys.modules:
        command = [sys.executable, "-m", "pip", "install", "--quiet", *missing]
        subprocess.run(command)  # what is still missing is said below
        found = {name: _problem(name, ranges.get(name, "")) for name in packages}
    wrong = {name: problem for name, problem in found.items() if problem}
    if wrong:
        what = "; ".join(f"{name} is {problem}" for name, problem in wrong.items())
        quoted = " ".join(f'"{specs[name]}"' for name in wrong)
        raise CourseError(
            f"{what}. Give the command: python -m pip install {quoted}  "
            "and restart the kernel."
        )
    if "tf_keras" in packages:
        _load("tf_keras")


def _problem(name: str, specifier: str) -> str | None:
    """None, "missing", or a package's version and the range that it should be in."""
    from packaging.specifiers import SpecifierSet

    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "missing"
    if SpecifierSet(specifier).contains(version, prereleases=True):
        return None
    return f"{version}, which is not {specifier}"


def versions() -> str:
    """Python, Keras and its backend, for the line that a chapter prints first."""
    import keras

    python = platform.python_version()
    return f"Python {python}, Keras {keras.__version__}, {_backend_version()}"


def _backend_version() -> str:
    return f"{BACKENDS[backend()]} {importlib.metadata.version(backend())}"


# ------------------------------------------------------------------ device


def has_gpu() -> bool:
    """Whether the Keras backend sees a GPU."""
    return bool(_gpus())


def _gpus() -> list[str]:
    if backend() == "jax":
        import jax

        return [d.device_kind for d in jax.devices() if d.platform == "gpu"]
    import tensorflow as tf

    details = tf.config.experimental.get_device_details
    found = tf.config.list_physical_devices("GPU")
    return [details(d).get("device_name", "GPU") for d in found]


def cores() -> int:
    """How many CPU cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def device() -> str:
    """The device in words: "2 CPU cores", "NVIDIA L4", "2 x NVIDIA L4"."""
    gpus = _gpus()
    if gpus:
        return gpus[0] if len(gpus) == 1 else f"{len(gpus)} x {gpus[0]}"
    return f"{cores()} CPU core{'s' if cores() != 1 else ''}"


def machine() -> str:
    """Device and backend in one line, as output/results.json records them."""
    return f"{device()}, {_backend_version()}"


def replicas() -> int:
    """How many devices divide a batch among them: 1, or those of MirroredStrategy."""
    if backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


@contextlib.contextmanager
def distribution(devices: tuple[str, ...] | None = None):
    """A context in which a model is built, compiled and trained on all devices.

    TensorFlow: MirroredStrategy over the GPUs of this machine, if there are several;
    each takes its part of a batch. JAX: data parallelism over the devices of all
    hosts, if there are several. Otherwise it does nothing. `devices` names
    TensorFlow's devices instead, such as `("CPU:0", "CPU:1")`.
    """
    import keras

    if backend() == "tensorflow":
        several = devices or len(_gpus()) > 1
        with _mirrored(devices).scope() if several else contextlib.nullcontext():
            yield
        return
    import jax

    if jax.device_count() == 1:
        yield
        return
    parallel = keras.distribution.DataParallel(auto_shard_dataset=False)
    keras.distribution.set_distribution(parallel)
    try:
        yield
    finally:
        keras.distribution.set_distribution(None)


@functools.cache
def _mirrored(devices: tuple[str, ...] | None):
    """One strategy a session: a model built under one cannot train under another."""
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(devices and list(devices))


# ------------------------------------------------------------------ output


def output(*parts: str) -> Path:
    """A path under this profile's output folder, its folder made.

    `output("digits", "vae.keras")` is `output/<profile>/digits/vae.keras` in the
    repository, or `<profile>/…` in the folder that COURSE_OUTPUT names. Raises
    CourseError if it cannot be written.
    """
    path = output_root().joinpath(profile(), *parts)
    _make_writable(path.parent if path.suffix else path)
    return path


def cache(name: str) -> Path:
    """Where data that can be made again goes; the folder above it is made."""
    folder = output_root() / "cache" / name
    _make_writable(folder.parent)
    return folder


def output_root() -> Path:
    """The folder that everything a run writes goes under."""
    return ROOT / Path(os.environ.get("COURSE_OUTPUT") or "output").expanduser()


@contextlib.contextmanager
def replacing(path: Path):
    """A temporary path to write to, which becomes `path` when the block ends well.

    So nobody ever sees half a file, also where several processes write at once, and
    an error or Ctrl-C leaves the older file whole. A full disk or a folder that cannot
    be written raises CourseError.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".part-") as folder:
            part = Path(folder, path.name)
            yield part
            part.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from None


def cannot_write(path: Path, error: OSError) -> CourseError:
    """The line about a file or folder that could not be written."""
    reason = error.strerror or str(error).splitlines()[0]
    if said := re.search("error message = '([^']+)'", str(error)):  # h5py's way
        reason = said[1]
    return CourseError(
        f"{path} cannot be written ({reason}): free space or change its permissions, "
        "or set COURSE_OUTPUT to a folder that can be written. What was there is whole."
    )


def _make_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"0" * 4096)
    except OSError as error:
        raise cannot_write(folder, error) from None


# ------------------------------------------------------------------ start


def start(edition: int = EDITION) -> None:
    """Readies a chapter: checks, loads Keras quietly, and prints one line.

    `edition` is that of `utils` which the notebook was written for. Raises CourseError
    where it is not this one, where a package is missing or of a wrong version, and
    where the output folder cannot be written.
    """
    if edition != EDITION:
        raise CourseError(
            f"This notebook needs edition {edition} of the course's utils, and "
            f"{ROOT / 'utils'} is edition {EDITION}: take notebook and utils from one "
            "copy of the repository (git pull), and restart the kernel."
        )
    chosen = profile()
    if hasattr(sys.stdout, "reconfigure"):  # a terminal that knows no "·" shows "?"
        sys.stdout.reconfigure(errors="replace")
    load_keras()
    output()
    print(f"Profile {chosen} · {device()} · {versions()}")
    if not __debug__:
        print(
            "Python runs with -O, which skips the assertions: this chapter checks "
            "nothing. Unset PYTHONOPTIMIZE and restart the kernel."
        )


def load_keras() -> None:
    """Loads Keras as the course needs it, whatever keras.json of other work says.

    oneDNN, the library that TensorFlow can call for convolutions, is off by default on
    x86 processors without recent instructions. A training step of chapters 1, 3 and 6
    takes half of the time with it, so it is on unless TF_ENABLE_ONEDNN_OPTS is set.
    """
    name = os.environ.get("KERAS_BACKEND") or "tensorflow"
    if name not in BACKENDS:
        raise CourseError(
            f"KERAS_BACKEND is {name!r}: set it to one of {', '.join(BACKENDS)}, "
            "or unset it."
        )
    require(*CORE, name)
    os.environ["KERAS_BACKEND"] = name  # a keras.json that names another is not asked
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if platform.machine().lower() in ("x86_64", "amd64"):
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    _load("keras")
    _multiply_in_float32(name)
    if name == "tensorflow":
        with _quiet():
            _grow_gpu_memory()
            _do_not_tune_pipelines()
        # A chapter builds many small models, and TensorFlow takes the first call of
        # each for costly retracing.
        logging.getLogger("tensorflow").setLevel(logging.ERROR)


def _load(name: str) -> None:
    """Imports keras or tf_keras; both read the same keras.json."""
    try:
        with _quiet():
            module = importlib.import_module(name)
            module.backend.set_floatx("float32")
            module.backend.set_epsilon(1e-7)
            module.backend.set_image_data_format("channels_last")
    except (ValueError, AssertionError) as error:  # as from floatx "float31"
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CourseError(
            f"{name} does not load ({reason}): put keras.json in the folder "
            f"{os.environ.get('KERAS_HOME') or '~/.keras'} right, or move it away."
        ) from None


def _multiply_in_float32(name: str) -> None:
    """Has matrix products and convolutions computed in float32 on GPUs, too.

    On recent ones both backends round the factors to TensorFloat-32, with ten bits
    after the first: the log-determinant of chapter 4's flow was off by half a nat on an
    H100. TensorFlow, `tf.config.experimental.enable_tensor_float_32_execution`; JAX,
    `jax_default_matmul_precision`.
    """
    if name == "jax":
        import jax

        jax.config.update("jax_default_matmul_precision", "float32")
    else:
        import tensorflow as tf

        tf.config.experimental.enable_tensor_float_32_execution(False)


def _grow_gpu_memory() -> None:
    """TensorFlow takes all of a GPU's memory unless told before its first use."""
    import tensorflow as tf

    for gpu in tf.config.list_physical_devices("GPU"):
        with contextlib.suppress(RuntimeError):  # in use: the cell was run again
            tf.config.experimental.set_memory_growth(gpu, True)


@functools.cache  # once a session
def _do_not_tune_pipelines() -> None:
    """Has every `tf.data.Dataset`, and so Keras' `fit` and `predict`, run as it is.

    tf.data tunes a pipeline by a thread that looks after 10, 20, 40, … ms, up to a
    minute. When the data end, TensorFlow 2.20 and 2.21 wait for its next look in about
    half of the cases: ten steps of chapter 1, 0.65 s, took 1.3 s. And there is nothing
    to tune where arrays in memory are cut into batches. A data set whose own options
    ask for tuning keeps it.
    """
    import tensorflow as tf

    make, options = tf.data.Dataset.__iter__, tf.data.Options()
    options.autotune.enabled = False

    def iterate(data):
        asked = data.options().autotune.enabled is not None
        return make(data if asked else data.with_options(options))

    tf.data.Dataset.__iter__ = iterate


@contextlib.contextmanager
def _quiet():
    """Holds back what C++ libraries write while they load, unless loading fails.

    TensorFlow greets with a dozen lines that no Python setting silences. They are
    written to file descriptor 2.
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
