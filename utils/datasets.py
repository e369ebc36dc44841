"""The images of the chapters: Fashion-MNIST and its stand-in, CelebA and the drawn faces."""

from __future__ import annotations

import contextlib
import gzip
import os
import socket
import struct
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, UnidentifiedImageError

from utils import course
from utils.course import CourseError

FASHION_CLASSES = (
    "T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
DIGIT_CLASSES = tuple(f"Digit {digit}" for digit in range(10))

# Name of each file of Fashion-MNIST, and the bytes that it holds when unpacked: header and data.
FASHION_FILES = {
    "train-labels-idx1-ubyte.gz": 8 + 60_000,
    "train-images-idx3-ubyte.gz": 16 + 60_000 * 28 * 28,
    "t10k-labels-idx1-ubyte.gz": 8 + 10_000,
    "t10k-images-idx3-ubyte.gz": 16 + 10_000 * 28 * 28,
}
CONNECT_SECONDS = 15


@dataclass(frozen=True)
class Images:
    """A labelled set of grey images.

    x_train, x_test: uint8 `(count, 28, 28)`, 0 is black; y_train, y_test: int `(count,)`, an index of `class_names`.
    `name` is for people, `slug` for folders; `complete` is False for the stand-in.
    """

    name: str
    slug: str
    class_names: tuple[str, ...]
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    complete: bool = True

    def __str__(self):
        return f"{self.name}: {len(self.x_train):,} training and {len(self.x_test):,} test images"


def fashion_mnist() -> Images:
    """Fashion-MNIST as Keras downloads and keeps it, or scikit-learn's digits where there is no network.

    The variable COURSE_DATA chooses: `fashion-mnist` (an error where it cannot be had), `digits` (the stand-in), or
    unset (Fashion-MNIST, else the stand-in and a line that says so). A corrupt file in Keras' cache is named, removed
    and fetched again once; CourseError if that fails.
    """
    wanted = os.environ.get("COURSE_DATA") or "auto"
    if wanted not in ("auto", "fashion-mnist", "digits"):
        raise CourseError(f"COURSE_DATA is {wanted!r}: set it to 'fashion-mnist' or 'digits', or unset it.")
    if wanted == "digits":
        return digits()
    removed = _remove_corrupt(fashion_folder())
    try:
        return _load_fashion()
    except OSError as error:
        reason = str(error)
    if removed:
        raise CourseError(
            f"{', '.join(removed)} in {fashion_folder()} was corrupt and was removed, and the download failed "
            f"({reason}): connect to the network and run again, or go on with digits by COURSE_DATA=digits."
        )
    if wanted == "fashion-mnist":
        raise CourseError(
            f"Fashion-MNIST could not be downloaded ({reason}): connect to the network or unset COURSE_DATA."
        )
    print(
        f"Fashion-MNIST could not be downloaded ({reason}). This run uses scikit-learn's handwritten digits instead; "
        "its figures differ from those in the text."
    )
    return digits()


# ------------------------------------------------------------------------------------------------ Fashion-MNIST


def fashion_folder() -> Path:
    """Where Keras keeps Fashion-MNIST: under KERAS_HOME or ~/.keras, or in a temporary folder if that is read-only.

    The rule is that of `keras.utils.get_file`, which does not tell where a file would go.
    """
    import keras  # noqa: F401  (makes the folder, where it can)

    home = Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser()
    if not os.access(home, os.W_OK):
        home = Path("/tmp" if os.path.isdir("/tmp") else tempfile.gettempdir()) / ".keras"
    return home / "datasets" / "fashion-mnist"


def _load_fashion() -> Images:
    """Reads the four files, after Keras has downloaded those that are missing. OSError if it cannot."""
    import keras

    try:
        with _connection_timeout(CONNECT_SECONDS):
            (x_train, y_train), (x_test, y_test) = keras.datasets.fashion_mnist.load_data()
    except (OSError, EOFError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        _complain_if_corrupt(fashion_folder())
        raise OSError(f"{reason}") from None
    except Exception as error:  # Keras wraps whatever went wrong with a download in a plain Exception
        raise OSError(_short(str(error))) from None
    if len(x_train) != 60_000 or len(x_test) != 10_000:
        _complain_if_corrupt(fashion_folder())
    return Images("Fashion-MNIST", "fashion-mnist", FASHION_CLASSES, x_train, y_train, x_test, y_test)


def _complain_if_corrupt(folder: Path) -> None:
    removed = _remove_corrupt(folder)
    if removed:
        raise CourseError(
            f"{', '.join(removed)} came corrupt from the download, twice perhaps, and was removed from {folder}: "
            "run again, or go on with digits by COURSE_DATA=digits."
        )


def _remove_corrupt(folder: Path) -> list[str]:
    """Removes the files of Fashion-MNIST that cannot be read to their end, says so, and returns their names."""
    corrupt = [name for name in FASHION_FILES if (folder / name).exists() and not _intact(folder / name)]
    for name in corrupt:
        print(f"{folder / name} is truncated or corrupt. It was removed and is fetched again.")
        (folder / name).unlink()
    return corrupt


def _intact(path: Path) -> bool:
    """Whether a gzip file of Fashion-MNIST unpacks to as many bytes as it should, and its header says as many items.

    Unpacking to the end also compares gzip's own checksum.
    """
    try:
        data = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, ValueError, gzip.zlib.error):
        return False
    header = 16 if "images" in path.name else 8
    size = 28 * 28 if "images" in path.name else 1
    return len(data) == FASHION_FILES[path.name] and struct.unpack(">i", data[4:8])[0] * size + header == len(data)


@contextlib.contextmanager
def _connection_timeout(seconds: float):
    """A network that swallows packets without an answer would hold a download for minutes."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _short(message: str) -> str:
    """The end of Keras' message, `URL fetch failure on <address>: None -- <reason>`: the reason alone."""
    return message.rsplit(" -- ", 1)[-1]


# ------------------------------------------------------------------------------------------------ the stand-in


def digits(copies: int = 14, seed: int = 0) -> Images:
    """Scikit-learn's 1,797 handwritten digits (8 x 8, real, part of the package) in Fashion-MNIST's shapes.

    Split into training and test images first, by class; each training image is then kept once and joined by `copies`
    variants, shifted by up to 2 pixels, turned by up to 12 degrees and scaled by up to 12 %. Enlarged to 20 x 20 by a
    cubic spline and set in a black frame of 4, as in MNIST.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    images = bunch.images.astype("float32") * (255 / 16)
    train, test, y_train, y_test = train_test_split(
        images, bunch.target, test_size=360, stratify=bunch.target, random_state=seed
    )
    rng = np.random.default_rng(seed)
    plain = [_warp(image) for image in train]
    variants = [
        _warp(image, turn=np.radians(rng.uniform(-12, 12)), scale=rng.uniform(0.88, 1.12), shift=rng.uniform(-2, 2, 2))
        for _ in range(copies - 1)
        for image in train
    ]
    order = rng.permutation(len(train) * copies)
    return Images(
        name="Digits (offline stand-in)",
        slug="digits",
        class_names=DIGIT_CLASSES,
        x_train=np.stack(plain + variants)[order],
        y_train=np.tile(y_train, copies)[order].astype("uint8"),
        x_test=np.stack([_warp(image) for image in test]),
        y_test=y_test.astype("uint8"),
        complete=False,
    )


def _warp(image: np.ndarray, turn: float = 0.0, scale: float = 1.0, shift=(0.0, 0.0)) -> np.ndarray:
    """An 8 x 8 image enlarged to 20 x 20 within 28 x 28; turned (radians), scaled and shifted (pixels of 28)."""
    from scipy.ndimage import affine_transform

    cosine, sine = np.cos(turn), np.sin(turn)
    # affine_transform asks, for each pixel of the result, where in the source it comes from.
    source_per_target = np.array([[cosine, -sine], [sine, cosine]]) * (8 / 20) / scale
    offset = 3.5 - source_per_target @ (np.array([13.5, 13.5]) + shift)
    enlarged = affine_transform(image, source_per_target, offset, output_shape=(28, 28), order=3, mode="grid-constant")
    return np.clip(np.rint(enlarged), 0, 255).astype("uint8")


# ------------------------------------------------------------------------------------------------ faces

CELEBA_TERMS = (
    "CelebA is for non-commercial research. Its images belong to their owners, and the faces to people: "
    "see https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html for the terms."
)


@dataclass(frozen=True)
class Faces:
    """Pictures of faces in the files of CelebA, or in the same layout.

    `folder` holds the jpg files. `attributes` is a table of bool, one row a file (its name is the index), one column an
    attribute. `partition` says of each file whether it is for "train", "validation" or "test".
    """

    name: str
    slug: str
    folder: Path
    attributes: pd.DataFrame
    partition: pd.Series

    def __str__(self):
        counts = self.partition.value_counts()
        parts = ", ".join(f"{counts.get(part, 0):,} for {part}" for part in ("train", "validation", "test"))
        return f"{self.name}: {len(self.attributes):,} faces, {parts}"

    def files(self, part: str) -> list[str]:
        """The names of the files of one part, in order."""
        return list(self.partition.index[self.partition == part])

    def pixels(self, names: list[str], side: int = 64, crop: int = 178, progress=None) -> np.ndarray:
        """The pictures, cut to their middle `crop` x `crop` pixels and resized: uint8 `(count, side, side, 3)`.

        `progress(done, total)` is called now and then. CourseError names a file that is not a picture.
        """
        result = np.empty((len(names), side, side, 3), "uint8")
        with ThreadPoolExecutor() as pool:
            pictures = pool.map(lambda name: _read_face(self.folder / name, side, crop), names)
            for index, picture in enumerate(pictures):
                result[index] = picture
                if progress and (index % 200 == 0 or index == len(names) - 1):
                    progress(index + 1, len(names))
        return result


def faces(count: int | None = None, progress=None) -> Faces:
    """Faces to learn from: drawn ones, or CelebA where the reader asks for it.

    CELEBA_DIR names a folder that holds CelebA as Kaggle packs it. COURSE_FACES=celeba downloads it (1.4 GB) through
    kagglehub. Otherwise `count` faces are drawn (20,000 if None), once, into a cache folder; `progress(done, total)`
    is called while that happens. Of CelebA, `count` are taken evenly over the set. CourseError if a set is not
    complete enough to use.
    """
    wanted = os.environ.get("COURSE_FACES") or "drawn"
    if wanted not in ("drawn", "celeba"):
        raise CourseError(f"COURSE_FACES is {wanted!r}: set it to 'drawn' or 'celeba', or unset it for 'drawn'.")
    own = os.environ.get("CELEBA_DIR")
    if own:
        return read_faces(Path(own).expanduser(), "CelebA", "celeba", count)
    if wanted == "celeba":
        return read_faces(_download_celeba(), "CelebA", "celeba", count)
    from utils.face_files import draw_set

    count = count or 20_000
    try:
        folder = draw_set(course.cache(f"faces-{count}"), count=count, progress=progress)
    except (OSError, ValueError, RuntimeError) as error:  # each comes with one line that says what to do
        raise CourseError(str(error)) from None
    return read_faces(folder, "Drawn faces", "drawn-faces")


def read_faces(root: Path, name: str, slug: str, count: int | None = None) -> Faces:
    """Reads the tables of a folder in CelebA's layout, and joins labels to files by name. CourseError if it cannot."""
    folder = next(
        (f for f in (root / "img_align_celeba" / "img_align_celeba", root / "img_align_celeba") if _has_jpg(f)), None
    )
    if folder is None:
        raise CourseError(f"No jpg files in {root / 'img_align_celeba'}: CELEBA_DIR is to be the folder that holds it.")
    labels = _read_table(root / "list_attr_celeba.csv")
    files = sorted(path.name for path in folder.glob("*.jpg"))
    if count and count < len(files):  # evenly over the set: the first 162,770 of CelebA are all for training
        files = [files[index] for index in np.linspace(0, len(files) - 1, count).astype(int)]
    unknown = [file for file in files if file not in labels.index]
    if unknown:
        raise CourseError(
            f"{len(unknown)} of {len(files)} pictures in {folder} have no row in list_attr_celeba.csv, such as "
            f"{unknown[0]}: use the csv that belongs to them."
        )
    parts = _read_table(root / "list_eval_partition.csv")["partition"].reindex(files)
    if parts.isna().any():
        raise CourseError(
            f"list_eval_partition.csv has no row for {parts.index[parts.isna()][0]}: use the csv that belongs."
        )
    return Faces(name, slug, folder, labels.loc[files] > 0, parts.map({0: "train", 1: "validation", 2: "test"}))


def _has_jpg(folder: Path) -> bool:
    return folder.is_dir() and any(folder.glob("*.jpg"))


def _read_table(path: Path) -> pd.DataFrame:
    if not path.exists():
        raise CourseError(
            f"{path} is missing: it is part of the data set and belongs beside the folder img_align_celeba."
        )
    return pd.read_csv(path, index_col="image_id")


def _read_face(path: Path, side: int, crop: int) -> np.ndarray:
    try:
        with Image.open(path) as picture:
            left, top = (picture.width - crop) // 2, (picture.height - crop) // 2
            box = (left, top, left + crop, top + crop)
            return np.asarray(
                picture.convert("RGB").resize((side, side), Image.Resampling.BILINEAR, box, reducing_gap=2)
            )
    except (UnidentifiedImageError, OSError) as error:
        raise CourseError(f"{path} is not a picture that can be read ({error}): remove or replace it.") from None


def _download_celeba() -> Path:
    course.require("kagglehub")
    import kagglehub

    print(CELEBA_TERMS)
    try:
        return Path(kagglehub.dataset_download("jessicali9530/celeba-dataset"))
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise CourseError(
            f"CelebA could not be downloaded ({reason}): connect to the network, give a folder that has it by "
            "CELEBA_DIR, or unset COURSE_FACES for drawn faces."
        ) from None
