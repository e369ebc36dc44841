"""Trains the weights that ship: `make weights CHAPTER=03 MINUTES=60`.

    python -m tools.weights 03 60

What lies in weights/ is trained on for so many minutes, with a fresh warm-up of the
rate; where nothing lies there, training begins anew. So hours of training may be
several sittings. Weights are written when a sitting ends: one that is interrupted
leaves those of the sitting before. Beside each file stands a record of all sittings,
with figures, and outputs on a fixed input that lint compares.

A chapter's module says what is trained; this one knows no model.
"""

from __future__ import annotations

import datetime
import importlib
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from utils import course

MODULES = {"03": "tools.weights_faces", "06": "tools.weights_glow"}
LIMIT = 3_000_000  # bytes of a file
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Recipe:
    """How one file of weights is made.

    `build()` gives a model of Keras that has its variables. `data()` fetches what it is
    trained on, `fit(model, epochs, seed)` trains it and returns the seconds that an
    epoch of `images` images takes. `measure(model)` gives figures, and arrays to keep
    beside the variables. With `epochs` it is trained so long, once; without, for as
    long as there is time. `answers(model)` gives some outputs on a fixed input, as
    lists of numbers; without it they are those of the model's networks.
    """

    name: str
    build: Callable
    fit: Callable
    measure: Callable
    data: Callable
    images: int
    epochs: int | None = None
    answers: Callable | None = None


def main() -> int:
    chapter, minutes = (sys.argv[1:] + ["", ""])[:2]
    if chapter not in MODULES or not minutes.isdigit() or int(minutes) < 1:
        known = ", ".join(MODULES)
        sys.exit(
            f"Give a chapter ({known}) and minutes, a whole number from 1 on: "
            "make weights CHAPTER=03 MINUTES=60."
        )
    course.load_keras()
    recipes = importlib.import_module(MODULES[chapter]).recipes()
    for recipe in [recipe for recipe in recipes if recipe.epochs and not kept(recipe)]:
        sitting(recipe, recipe.epochs)
    # All the others see as many images, however busy the machine is meanwhile.
    others = [recipe for recipe in recipes if not recipe.epochs]
    each = int(minutes) * 60 / len(others)
    epochs = max(1, int(each / max(seconds_an_epoch(recipe) for recipe in others)))
    print(f"{epochs} epochs of each, about {each / 60:.0f} minutes")
    for recipe in others:
        sitting(recipe, epochs)
    return 0


def kept(recipe: Recipe) -> bool:
    from utils import weights

    return weights.path_of(recipe.name).exists()


def seconds_an_epoch(recipe: Recipe) -> float:
    """How long an epoch takes, from a twentieth of one."""
    recipe.data()
    return recipe.fit(recipe.build(), 1 / 20, 0)


def sitting(recipe: Recipe, epochs: int) -> dict:
    """Trains a model on from what is kept, keeps it, and returns the record."""
    from utils import weights

    model, sittings = recipe.build(), []
    if kept(recipe):
        weights.load(model, recipe.name)
        sittings = weights.record(recipe.name)["sittings"]
    recipe.data()
    started = time.perf_counter()
    recipe.fit(model, epochs, len(sittings))
    seconds = round(time.perf_counter() - started)
    figures, arrays = recipe.measure(model)
    losses = losses_of(model)
    sittings = [*sittings, this_sitting(epochs * recipe.images, seconds, losses)]
    record = {
        "images": sum(each["images"] for each in sittings),
        "seconds": sum(each["seconds"] for each in sittings),
        "sittings": sittings,
        "figures": {name: float(f"{value:.4g}") for name, value in figures.items()},
        "shapes": weights.shapes(model),
    }
    weights.save(model, recipe.name, record | {"outputs": []}, **arrays)
    weights.load(model, recipe.name)  # as it will be read, in half precision
    record["outputs"] = (recipe.answers or outputs)(model)
    weights.save(model, recipe.name, record, **arrays)
    print(
        f"{recipe.name}: {record['images']:,} images, {record['figures']}", flush=True
    )
    return record


def train_epochs(model, x, y, optimizer, loss, epochs, batch, seed, label) -> float:
    """Trains whole epochs, or a fraction of one; `optimizer(steps)` gives what trains.

    Returns how many seconds an epoch of all of x takes, compilation left out.
    """
    import keras

    from utils import training

    order = np.random.default_rng(seed).permutation(len(x))
    if epochs < 1:
        order, epochs = order[: max(10 * batch, int(len(x) * epochs))], 1
    keras.utils.set_random_seed(seed)
    steps = epochs * math.ceil(len(order) / batch)
    compiled = training.jit_compile("convolutions")
    model.compile(optimizer(steps), loss, jit_compile=compiled)
    times = []
    clock = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda step, logs: times.append(time.perf_counter())
    )
    watch = [training.Progress(label), training.StopOnBadLoss(), clock]
    given = [x[order]] if y is None else [x[order], y[order]]
    fit = {"batch_size": batch, "epochs": epochs, "verbose": 0, "callbacks": watch}
    model.fit(*given, **fit)
    first = len(times) // 4
    step = (times[-1] - times[first]) / max(1, len(times) - 1 - first)
    return step * len(x) / batch


def losses_of(model) -> list[float]:
    """The mean loss of each epoch of a model's last `fit`, as Keras keeps it."""
    history = getattr(model, "history", None)
    return [float(f"{loss:.5g}") for loss in history.history["loss"]] if history else []


def this_sitting(images: int, seconds: int, losses: list[float]) -> dict:
    import keras

    return {
        "images": images,
        "seconds": seconds,
        "machine": f"{course.machine()}, Keras {keras.__version__}",
        "date": datetime.date.today().isoformat(),
        "losses": losses,
    }


def outputs(model, count: int = 8) -> list[list[float]]:
    """A few numbers of each output of a model on an input that is always the same."""
    networks = [part for part in model.layers if hasattr(part, "predict_on_batch")]
    found = []
    for network in networks or [model]:
        shape = (2, *network.inputs[0].shape[1:])
        fixed = np.random.default_rng(0).random(shape, dtype="float32")
        given = network.predict_on_batch(fixed)
        for output in given if isinstance(given, (list, tuple)) else [given]:
            flat = np.ravel(output)
            places = np.linspace(0, len(flat) - 1, count).astype(int)
            found.append([round(float(value), 6) for value in flat[places]])
    return found


def faults() -> list[str]:
    """What is wrong with the weights that are kept, in words."""
    from utils import weights

    lines = []
    for chapter, module in MODULES.items():
        cure = f"make weights CHAPTER={chapter}"
        recipes = importlib.import_module(module).recipes()
        for recipe in recipes:
            lines += [f"weights/{recipe.name}: {line}: {cure}" for line in _of(recipe)]
        names = [r.name for r in recipes if not r.epochs and kept(r)]
        if len({weights.record(name)["images"] for name in names}) > 1:
            lines.append(f"weights/{', '.join(names)} are not trained equally long")
    known = {
        recipe.name
        for module in MODULES.values()
        for recipe in importlib.import_module(module).recipes()
    }
    for path in sorted(weights.FOLDER.glob("*.npz")):
        if path.stem not in known:
            lines.append(f"weights/{path.name}: no chapter's")
    return lines


def _of(recipe: Recipe) -> list[str]:
    from utils import weights

    if not kept(recipe):
        return ["is not there"]
    size = weights.path_of(recipe.name).stat().st_size
    if size >= LIMIT:
        return [f"{size / 1e6:.1f} MB, over {LIMIT / 1e6:.0f}"]
    model = recipe.build()
    try:
        record = weights.record(recipe.name)
        weights.load(model, recipe.name)
    except course.CourseError as error:
        return [str(error)]
    if record["shapes"] != weights.shapes(model):
        return ["its record is of other shapes"]
    told, found = record["outputs"], (recipe.answers or outputs)(model)
    if np.shape(told) != np.shape(found):
        return ["its record has other outputs"]
    worst = np.abs(np.subtract(told, found)).max()
    scale = max(1.0, np.abs(told).max())
    if worst > TOLERANCE * scale:
        return [f"outputs differ from the record by {worst:.1e}"]
    return []


if __name__ == "__main__":
    sys.exit(main())
