"""Executes the chapters in place, in the full profile, and stores outputs in one normal
form.

    python -m tools.refresh [01 …]

A chapter that fails is left as it was. Running it twice changes nothing but figures and
timings. Some of the pictures are those of the README.
"""

from __future__ import annotations

import base64
import io
import os
import re
import sys

import nbformat
from PIL import Image, ImageChops

from tools import chapters, pictures
from tools.run import Screen
from utils import course
from utils.progress import clock

KERNEL = {
    "display_name": "Python 3 (ipykernel)",
    "language": "python",
    "name": "python3",
}
LARGE_PICTURE = 20_000  # bytes
CPP_LOG = re.compile(
    r"^(WARNING: All log messages before absl|[IWE]\d{4} \d\d:\d\d|[IWE]0000 )"
)


def main(chosen: list[str]) -> int:
    failed, stored = 0, set()
    # What is stored is what the text speaks of: the real clothes and the drawn faces,
    # not a stand-in or photographs.
    os.environ["COURSE_DATA"] = "fashion-mnist"
    for variable in ("COURSE_FACES", "CELEBA_DIR"):
        os.environ.pop(variable, None)
    for path in chapters.find(chosen):
        show = Screen(path.stem)
        try:
            notebook = chapters.read(path)
            seconds = chapters.execute(notebook, "full", show.cell)
            normalise(notebook)
            nbformat.validate(notebook)
            with course.replacing(path) as part:
                nbformat.write(notebook, part)
            stored.add(path.stem)
            show.end(f"stored after {clock(seconds)}")
        except (chapters.Failed, course.CourseError, ValueError) as failure:
            failed += 1
            show.end(f"FAILED, left as it was: {failure}")
    if stored & {stem for stem, _ in pictures.PICTURES.values()}:
        pictures.write()
    return 1 if failed else 0


def normalise(notebook: nbformat.NotebookNode) -> None:
    """Brings an executed notebook into the stored form: counts from 1, no widgets, no
    C++ log lines, known metadata.

    Raises ValueError if a cell wrote anything else to stderr: a warning that a reader
    would see is mended, not hidden.
    """
    count = 0
    for number, cell in enumerate(notebook.cells, 1):
        cell.metadata.pop("execution", None)
        if cell.cell_type != "code":
            continue
        count += 1
        cell.execution_count = count
        cell.outputs = [
            output for output in cell.outputs if not _is_log(output, number)
        ]
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = count
            if output.output_type == "stream":
                output.text = re.sub(r"[^\n]*\r(?!\n)", "", output.text)
            drawn = "width" in output.get("metadata", {}).get("image/png", {})
            if "image/png" in output.get("data", {}) and not drawn:  # drawings stay
                output.data["image/png"] = smaller_png(output.data["image/png"])
    for index, cell in enumerate(notebook.cells, 1):
        cell.id = f"cell-{index:03d}"
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": KERNEL,
            "language_info": {
                "name": "python",
                "file_extension": ".py",
                "mimetype": "text/x-python",
            },
            "course": {"code": chapters.code_hash(notebook)},
        }
    )
    notebook.nbformat, notebook.nbformat_minor = 4, 5


def smaller_png(encoded: str) -> str:
    """A PNG in base64 as it is, or with fewer colours if it is large: 32 greys where it
    is grey all over, else a palette of 200 colours, in which rare ones count as much as
    frequent ones. That takes a third of the room.
    """
    raw = base64.b64decode(encoded)
    if len(raw) <= LARGE_PICTURE:
        return encoded
    with Image.open(io.BytesIO(raw)) as picture:
        if picture.mode == "P" or picture.n_frames > 1:  # has a palette, or moves
            return encoded
        rgb = picture.convert("RGB")
    if _is_grey(rgb):
        step = 255 / 31
        greys = rgb.convert("L").point(lambda level: round(round(level / step) * step))
        return _encoded(greys.quantize(32, dither=Image.Dither.NONE))
    rare = Image.Quantize.MAXCOVERAGE
    few = rgb.quantize(200, method=rare, kmeans=3, dither=Image.Dither.NONE)
    return _encoded(few)


def _is_grey(rgb: Image.Image) -> bool:
    bands = rgb.split()
    differences = [ImageChops.difference(bands[0], band) for band in bands[1:]]
    return all(image.getextrema()[1] <= 6 for image in differences)


def _encoded(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def _is_log(output, number: int) -> bool:
    """Whether an output is nothing but log lines of TensorFlow's C++ parts."""
    if output.output_type != "stream" or output.name != "stderr":
        return False
    lines = [line for line in output.text.splitlines() if line.strip()]
    other = [line for line in lines if not CPP_LOG.match(line)]
    if other:
        raise ValueError(f"cell {number} wrote to stderr: {other[0][:200]}")
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
