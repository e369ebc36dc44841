"""A whole set of drawn faces in CelebA's files: pictures, attributes, partition."""

import csv
import json
import multiprocessing
import shutil
import signal
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

import numpy as np
from filelock import FileLock

from utils import course
from utils.faces.draw import draw
from utils.faces.face import ATTRIBUTES, VERSION, attributes, sample_face

IMAGE_FOLDER = Path("img_align_celeba", "img_align_celeba")
ATTRIBUTE_FILE = "list_attr_celeba.csv"
PARTITION_FILE = "list_eval_partition.csv"
MANIFEST = "drawn_faces.json"  # in a complete set alone
OTHER_FILES = {ATTRIBUTE_FILE, PARTITION_FILE, MANIFEST, "drawn_faces_started.json"}


def nth_face(seed: int, number: int):
    """The face of image `number` (1, 2, …) in the set with this seed."""
    return sample_face(np.random.default_rng([seed, number, VERSION]))


def draw_set(folder, count: int = 20_000, seed: int = 0, progress=None) -> Path:
    """Draws `count` faces into `folder`, in the layout of CelebA; returns the folder.

    Image i depends on the seed, i and `VERSION` alone (and, by a hair, on the versions
    of Pillow and numpy). The set is drawn in a folder beside, which gets its name when
    it is whole: what was interrupted is finished by the next call, and no half set is
    ever taken for one. A set with other settings, or with files missing, is drawn anew.
    A second call at the same time waits for the first. `progress(done, total)` is
    called about a hundred times.

    Raises CourseError if the folder holds other files, if the disk is full, or if the
    processes that draw cannot be started.
    """
    if not 1 <= count <= 999_999 or seed < 0:
        raise ValueError("count must be from 1 to 999999 and seed at least 0.")
    if multiprocessing.current_process().name != "MainProcess":  # it would start more
        raise course.CourseError(f"Faces are drawn by processes of their own: {GUARD}.")
    folder = Path(folder).expanduser().resolve()
    settings = {"made_by": "utils.faces", "version": VERSION}
    settings |= {"seed": seed, "count": count}
    part = folder.with_name(f"{folder.name}-{VERSION}-{seed}-{count}.part")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not _is_complete(folder, settings):
                _refuse_others(folder)
                _draw_images(part / IMAGE_FOLDER, seed, count, progress)
                _write_tables(part, settings)
                shutil.rmtree(folder, ignore_errors=True)
                part.replace(folder)
    except BrokenProcessPool:
        message = f"The processes that draw faces ended: free some memory, or {GUARD}."
        raise course.CourseError(message) from None
    except OSError as error:
        raise course.cannot_write(folder, error) from None
    return folder


GUARD = 'in a script of your own, put the call under `if __name__ == "__main__":`'


def _is_complete(folder: Path, settings: dict) -> bool:
    """Whether the manifest has these settings, and agrees with the files there."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
        tables = [(folder / name).stat() for name in (ATTRIBUTE_FILE, PARTITION_FILE)]
    except (OSError, ValueError):
        return False
    if manifest.pop("tables", None) not in (None, [table.st_size for table in tables]):
        return False
    there = manifest == settings | {"bytes": _bytes(folder)}
    count = sum(1 for _ in (folder / IMAGE_FOLDER).glob("*.jpg"))
    return there and count == settings["count"]


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in (folder / IMAGE_FOLDER).glob("*.jpg"))


def _refuse_others(folder: Path) -> None:
    """CourseError if the folder, which is to be replaced, holds what is not ours."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
        ours = {f"{n:06}.jpg" for n in range(1, manifest["count"] + 1)} | OTHER_FILES
    except (OSError, ValueError, KeyError, TypeError):
        ours = set()
    files = [path for path in folder.rglob("*") if path.is_file()]
    others = [path for path in files if path.name not in ours]
    if others:
        raise course.CourseError(
            f"{folder} holds files that are not drawn faces, such as "
            f"{min(others).name}: "
            "move them away, or choose another folder by COURSE_OUTPUT."
        )


def _draw_images(folder: Path, seed: int, count: int, progress) -> None:
    """Draws the images that are not there yet, on all cores."""
    folder.mkdir(parents=True, exist_ok=True)
    there = {path.name for path in folder.glob("*.jpg") if path.stat().st_size}
    missing = [n for n in range(1, count + 1) if f"{n:06}.jpg" not in there]
    # Fresh Python processes, not forks: forking a notebook in which TensorFlow runs
    # threads can hang.
    settings = {"mp_context": multiprocessing.get_context("spawn")}
    settings["initializer"] = _leave_ctrl_c_to_the_caller
    workers = min(course.cores(), max(1, len(missing)))
    with ProcessPoolExecutor(workers, **settings) as pool:
        try:
            drawn = pool.map(partial(_draw_image, folder, seed), missing, chunksize=5)
            for done, _ in enumerate(drawn, count - len(missing) + 1):
                if progress and (done % max(1, count // 100) == 0 or done == count):
                    progress(done, count)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _leave_ctrl_c_to_the_caller() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _draw_image(folder: Path, seed: int, number: int) -> None:
    """Draws under another name first: a file that has its name is whole."""
    path = folder / f"{number:06}.jpg"
    part = path.with_suffix(".part")
    draw(nth_face(seed, number)).save(part, "JPEG", quality=92)
    part.replace(path)


def _write_tables(folder: Path, settings: dict) -> None:
    """Labels as 1 and -1; 80 % for training (0), 10 % validation (1), 10 % test (2)."""
    count = settings["count"]
    with (folder / ATTRIBUTE_FILE).open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["image_id", *ATTRIBUTES])
        for number in range(1, count + 1):
            seen = attributes(nth_face(settings["seed"], number))
            labels = [1 if seen[name] else -1 for name in ATTRIBUTES]
            table.writerow([f"{number:06}.jpg", *labels])
    with (folder / PARTITION_FILE).open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["image_id", "partition"])
        for number in range(1, count + 1):
            place = (number - 0.5) / count
            part = 0 if place < 0.8 else 1 if place < 0.9 else 2
            table.writerow([f"{number:06}.jpg", part])
    tables = [(folder / n).stat().st_size for n in (ATTRIBUTE_FILE, PARTITION_FILE)]
    manifest = json.dumps(settings | {"bytes": _bytes(folder), "tables": tables})
    (folder / MANIFEST).write_text(manifest, "utf-8")
