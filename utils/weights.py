"""Weights of long trainings, which ship in weights/: `make weights` makes them."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np

from utils import course
from utils.course import CourseError

FOLDER = course.ROOT / "weights"


def load(model, name: str) -> dict[str, np.ndarray]:
    """Loads `weights/<name>.npz` into a model of Keras that is built.

    Returns the arrays that were kept beside the model's variables, by their names.
    Raises CourseError where there is no such file, or where it fits another model; the
    model is then as it was.
    """
    path = FOLDER / f"{name}.npz"
    if not path.exists():
        raise CourseError(f"{path} is missing: get it back by git checkout weights.")
    try:
        with np.load(path) as file:
            arrays = {key: np.float32(file[key]) for key in file.files}
    except Exception as error:  # a file that was cut or changed breaks in many ways
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CourseError(
            f"{path} cannot be read ({reason}): get it back by git checkout weights."
        ) from None
    values = [arrays.pop(key) for key in sorted(arrays) if key.startswith("variable")]
    if shapes(model) != [list(value.shape) for value in values]:
        raise CourseError(
            f"{path} belongs to a model of other shapes: leave the settings that build "
            "the model as they are, or train your own."
        )
    for variable, value in zip(variables_of(model), values, strict=True):
        variable.assign(value)
    return arrays


def save(model, name: str, record: dict, **arrays) -> None:
    """Keeps a model's variables and `arrays` in half precision, and a record beside.

    An interrupted save leaves the older files whole.
    """
    values = {
        f"variable{number:03}": np.float16(keras.ops.convert_to_numpy(variable))
        for number, variable in enumerate(variables_of(model))
    }
    arrays = {key: np.float16(value) for key, value in arrays.items()}
    with course.replacing(FOLDER / f"{name}.npz") as part:
        np.savez_compressed(part, **values, **arrays)
    text = json.dumps(record, indent=1, ensure_ascii=False)
    with course.replacing(FOLDER / f"{name}.json") as part:
        part.write_text(text + "\n", "utf-8")


def record(name: str) -> dict:
    """What is written beside the weights: how they were trained, and figures."""
    path = FOLDER / f"{name}.json"
    if not path.exists():
        raise CourseError(f"{path} is missing: get it back by git checkout weights.")
    return json.loads(path.read_text("utf-8"))


def variables_of(model) -> list:
    """The variables that the weights are of: all but the counters of random draws."""
    return [variable for variable in model.variables if variable.dtype == "float32"]


def shapes(model) -> list[list[int]]:
    return [list(variable.shape) for variable in variables_of(model)]


def path_of(name: str) -> Path:
    return FOLDER / f"{name}.npz"
