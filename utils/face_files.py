"""A whole set of drawn faces in CelebA's files: pictures, attributes, partition. Drawn once, finished if stopped."""

import argparse
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from utils.faces import ATTRIBUTES, VERSION, attributes, draw, sample_face

IMAGE_FOLDER = Path("img_align_celeba", "img_align_celeba")
ATTRIBUTE_FILE = "list_attr_celeba.csv"
PARTITION_FILE = "list_eval_partition.csv"
MANIFEST = "drawn_faces.json"  # written last: says that the set is complete
MARKER = "drawn_faces_started.json"  # written first: says that the files here are ours
REPOSITORY = Path(__file__).resolve().parent.parent
OUR_IMAGE = re.compile(r"(\d{6})\.jpg(\.part)?")
DISK_FAILURE = 3  # exit code of a worker that could not write


def nth_face(seed, number):
    """Return the face of image `number` (1, 2, ...) in the set with this seed."""
    return sample_face(np.random.default_rng([seed, number, VERSION]))


def draw_set(folder, count=20_000, seed=0, processes=None, progress=None):
    """Draw `count` faces into `folder`, in the layout of CelebA. Return the folder as a `Path`.

    Image i depends on the seed, i and `VERSION` alone (and, by a hair, on the versions of Pillow and numpy). A set
    that is complete is left alone, one that was interrupted is finished, and one with another seed, count or version
    is drawn anew. Only files that this function wrote are ever replaced or removed. Do not run two calls on the same
    folder at the same time.

    `processes` is the number of worker processes; by default, one for each core that may be used. `progress`, if
    given, is called as `progress(done, total)`, in images, a few times a second.

    Raises `ValueError` if the folder holds faces from elsewhere or if a number makes no sense, `OSError` if the disk
    is full or cannot be written, and `RuntimeError` if a worker fails.
    """
    if not 1 <= count <= 999_999 or seed < 0 or (processes is not None and processes < 1):
        raise ValueError("count must be from 1 to 999999, seed at least 0 and processes at least 1.")
    folder = Path(folder).expanduser().resolve()
    settings = {"made_by": "utils.faces", "version": VERSION, "seed": int(seed), "count": int(count)}
    try:
        if _is_complete(folder, settings):
            return folder
        _prepare(folder, settings)
        missing = _missing(folder, count)
        if progress:
            progress(count - len(missing), count)
        _run_workers(folder, seed, missing, processes or _usable_cores(), count, progress)
        _write(folder / ATTRIBUTE_FILE, _attribute_table(seed, count).encode())
        _write(folder / PARTITION_FILE, _partition_table(count).encode())
        size = sum(entry.stat().st_size for entry in _our_images(folder).values())
        _write(folder / MANIFEST, json.dumps({**settings, "bytes": size}).encode())
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(
            f"Cannot write the drawn faces to {folder}: {reason}. They need about {max(1, count // 100)} MB: "
            "free some space or choose a folder that you may write to, then call again; it goes on where it stopped."
        ) from error
    return folder


def _usable_cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _read_settings(path):
    """Return the settings in a manifest or marker, or None if it is not there or not ours."""
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("made_by") == "utils.faces" else None


def _entries(folder):
    """Return a dict from name to `os.DirEntry` of what is in the image folder."""
    try:
        with os.scandir(folder / IMAGE_FOLDER) as entries:
            return {entry.name: entry for entry in entries}
    except FileNotFoundError:
        return {}


def _our_images(folder):
    """Return the finished images (of any number) as a dict from name to `os.DirEntry`."""
    return {name: entry for name, entry in _entries(folder).items() if re.fullmatch(r"\d{6}\.jpg", name)}


def _is_complete(folder, settings):
    """True if the manifest has these settings, and the number of images and their sizes agree with it."""
    manifest = _read_settings(folder / MANIFEST)
    if manifest is None or any(manifest.get(key) != value for key, value in settings.items()):
        return False
    if not (folder / ATTRIBUTE_FILE).exists() or not (folder / PARTITION_FILE).exists():
        return False
    images = _our_images(folder)
    return len(images) == settings["count"] and manifest.get("bytes") == sum(i.stat().st_size for i in images.values())


def _prepare(folder, settings):
    """Make the folder ready: refuse strangers' files, remove an older set of ours, leave a marker."""
    found = _read_settings(folder / MARKER) or _read_settings(folder / MANIFEST)
    entries = _entries(folder)
    limit = found.get("count", 0) if found else 0
    strange = [name for name in entries if not ((m := OUR_IMAGE.fullmatch(name)) and 1 <= int(m[1]) <= limit)]
    strange = [name for name in strange if name.endswith(".jpg")]
    if not found:
        strange += [path.name for path in folder.glob("list_*.csv")]
    if strange:
        raise ValueError(
            f"{folder} holds files that this module did not draw (such as {min(strange)}): "
            "choose another folder for the drawn faces, or move those files away."
        )
    # The manifest goes first, so that no interrupted call leaves a manifest without its set.
    (folder / MANIFEST).unlink(missing_ok=True)
    again = found is not None and any(found.get(key) != value for key, value in settings.items())
    for name, entry in entries.items():
        if OUR_IMAGE.fullmatch(name) and (again or name.endswith(".part")):
            os.unlink(entry.path)
    if again:
        (folder / ATTRIBUTE_FILE).unlink(missing_ok=True)
        (folder / PARTITION_FILE).unlink(missing_ok=True)
    (folder / IMAGE_FOLDER).mkdir(parents=True, exist_ok=True)
    _write(folder / MARKER, json.dumps(settings).encode())


def _write(path, content):
    """Write a file under a temporary name, then rename it: nobody ever sees half of it."""
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _missing(folder, count):
    """Return the numbers of the images that are not there, or that do not end as a JPEG must."""
    there, missing = _our_images(folder), []
    for number in range(1, count + 1):
        entry = there.get(f"{number:06}.jpg")
        if entry is None or not _ends_as_jpeg(entry.path):
            missing.append(number)
    return missing


def _ends_as_jpeg(path):
    with open(path, "rb") as file:
        start = file.read(2)
        file.seek(max(0, os.fstat(file.fileno()).st_size - 2))
        return start == b"\xff\xd8" and file.read() == b"\xff\xd9"


def _attribute_table(seed, count):
    lines = [",".join(("image_id", *ATTRIBUTES))]
    for number in range(1, count + 1):
        seen = attributes(nth_face(seed, number))
        lines.append(",".join((f"{number:06}.jpg", *("1" if seen[name] else "-1" for name in ATTRIBUTES))))
    return "\n".join(lines) + "\n"


def _partition_table(count):
    """The first 80 % are for training (0), the next 10 % for validation (1), the last 10 % for testing (2)."""
    lines = ["image_id,partition"]
    for number in range(1, count + 1):
        place = (number - 0.5) / count
        lines.append(f"{number:06}.jpg,{0 if place < 0.8 else 1 if place < 0.9 else 2}")
    return "\n".join(lines) + "\n"


def _run_workers(folder, seed, missing, processes, count, progress):
    """Draw the missing images with worker processes, which are stopped whatever happens here."""
    # Fresh Python processes, not forks: forking a notebook in which TensorFlow runs threads can hang.
    command = [sys.executable, "-m", "utils.face_files", str(folder), "--seed", str(seed), "--worker"]
    paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OPENBLAS_NUM_THREADS": "1"}
    workers, drawn = [], []

    def listen(worker, numbers):
        try:
            worker.stdin.write(" ".join(map(str, numbers)).encode())
            worker.stdin.close()
        except OSError:
            pass  # the worker has failed; its exit code says so
        drawn.extend(line for line in worker.stdout)

    try:
        for k in range(min(processes, len(missing))):
            errors = tempfile.TemporaryFile()
            try:
                worker = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdin=subprocess.PIPE,
                                          stdout=subprocess.PIPE, stderr=errors)  # fmt: skip
            except OSError as error:
                raise RuntimeError(f"Cannot start a worker that draws faces: {error}") from error
            listener = threading.Thread(target=listen, args=(worker, missing[k::processes]), daemon=True)
            workers.append((worker, listener, errors))
            listener.start()
        running = True
        while running:
            time.sleep(0.05)
            running = any(worker.poll() is None or listener.is_alive() for worker, listener, _ in workers)
            for worker, _, errors in workers:
                if worker.poll():
                    errors.seek(0)
                    said = errors.read().decode(errors="replace").strip().splitlines() or [f"exit code {worker.poll()}"]
                    if worker.poll() == DISK_FAILURE:
                        raise OSError(said[-1])
                    raise RuntimeError(f"A worker that draws faces failed: {said[-1]}")
            if progress:
                progress(count - len(missing) + len(drawn), count)
    finally:
        for worker, listener, errors in workers:
            if worker.poll() is None:
                worker.kill()
            worker.wait()
            listener.join()
            worker.stdout.close()
            errors.close()


def _work(folder, seed, numbers):
    """Draw these images, and print a line after each. This is what a worker process does."""
    for number in numbers:
        path = folder / IMAGE_FOLDER / f"{number:06}.jpg"
        buffer = io.BytesIO()
        draw(nth_face(seed, number)).save(buffer, "JPEG", quality=92)
        try:
            _write(path, buffer.getvalue())
        except OSError as error:
            print(error.strerror or error, file=sys.stderr)
            return DISK_FAILURE
        print(number, flush=True)
    return 0


def main(arguments=None):
    """Draw a set from the command line. Return the exit code."""
    description = "Draw faces in the layout of CelebA."
    parser = argparse.ArgumentParser(prog="python -m utils.face_files", description=description)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=20_000, help="how many faces (default: 20000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker:
        return _work(options.folder, options.seed, map(int, sys.stdin.read().split()))

    def show(done, total):
        nonlocal shown
        if 100 * done // total == shown:
            return
        shown = 100 * done // total
        print(f"\r{done} of {total} faces", end="", file=sys.stderr, flush=True)

    shown = None
    try:
        folder = draw_set(options.folder, options.count, options.seed, progress=show)
    except (OSError, RuntimeError, ValueError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on from here.", file=sys.stderr)
        return 130
    print(f"\n{options.count} faces are in {folder}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
