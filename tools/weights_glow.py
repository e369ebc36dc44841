"""Chapter 6's weights: the judge of clothes, and Glow with a prior for each class.

Glow is trained on the first 55,000 training images; by the others one chooses.
"""

from __future__ import annotations

import numpy as np

from tools.weights import Recipe, train_epochs
from utils import course, datasets, training
from utils.chapters import definitions

SHAPE, SCALES, STEPS, WIDTH, CLASSES = (28, 28, 1), 2, 16, 96, 10
TRAINED = 55_000
PEAK_RATE, AVERAGE = 1e-3, 0.999  # the momentum of the weights' average
TEMPERATURE = 0.8
JUDGE_EPOCHS, JUDGE_BATCH = 6, 128


def recipes() -> list[Recipe]:
    common = {"images": 60_000, "data": clothes}
    judge = Recipe(
        "06_judge", build_judge, fit_judge, measure_judge, epochs=JUDGE_EPOCHS, **common
    )
    return [judge, Recipe("06_glow", build, fit, measure, answers=answers, **common)]


def clothes():
    """Fashion-MNIST; another set would make other weights, and is refused."""
    from utils.course import CourseError

    data = datasets.fashion_mnist()
    if data.name != "Fashion-MNIST":
        raise CourseError(f"these weights are of Fashion-MNIST; there is {data.name}.")
    return data


# ------------------------------------------------------------------ the judge


def build_judge():
    return definitions("06_glow", "build_judge")()[0]


def fit_judge(judge, epochs, seed):
    import keras

    data = clothes()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def optimizer(steps):
        return keras.optimizers.Adam(training.warmup_cosine(PEAK_RATE, steps))

    x = data.x_train[..., None]
    settings = epochs, JUDGE_BATCH, seed, "judge"
    return train_epochs(judge, x, data.y_train, optimizer, loss, *settings)


def measure_judge(judge):
    data = clothes()
    said = judge.predict(data.x_test[..., None], batch_size=500, verbose=0)
    right = said.argmax(axis=1) == data.y_test
    return {"accuracy": right.mean()}, {}


# ------------------------------------------------------------------ Glow


def build():
    build_glow = definitions("06_glow", "build_glow")
    return build_glow(SHAPE, SCALES, STEPS, WIDTH, CLASSES)


def fit(flow, epochs, seed):
    """Large batches on a GPU, which computes 512 images about as fast as 128."""
    import keras

    def optimizer(steps):
        rate = training.warmup_cosine(PEAK_RATE, steps)
        average = {"use_ema": True, "ema_momentum": AVERAGE}
        return keras.optimizers.Adam(rate, global_clipnorm=5.0, **average)

    data, batch = clothes(), 512 if course.has_gpu() else 128
    x, y = data.x_train[:TRAINED, ..., None], data.y_train[:TRAINED]
    return train_epochs(flow, x, y, optimizer, None, epochs, batch, seed, "Glow")


def measure(flow):
    """Bits per dimension on test images; kernel distance, and the least fraction of a
    class, of 1,000 samples at one temperature.
    """
    data = clothes()
    left_out = {"left_out_bits_per_dim": bits(flow, data.x_train[TRAINED:, ..., None])}
    figures = {"bits_per_dim": bits(flow, data.x_test[..., None])} | left_out
    rng = np.random.default_rng(0)
    labels = np.arange(1_000) % CLASSES
    return figures | of_samples(drawn(flow, labels, TEMPERATURE, rng)), {}


def bits(flow, x):
    bits_of = definitions("06_glow", "bits_of")
    log_prob = training.compiled(flow.log_prob, flow, kind="convolutions")
    return bits_of(log_prob, x).mean()


def drawn(flow, labels, temperature, rng):
    """Levels (count, 28, 28, 1) of samples."""
    import keras

    decode, draw_latents, quantise, shares = definitions(
        "06_glow", "decode", "draw_latents", "quantise", "shares"
    )
    noise = [temperature * z for z in draw_latents(flow, len(labels), rng)]
    y = decode(flow, noise, shares(labels, CLASSES))
    return keras.ops.convert_to_numpy(quantise(y))


def of_samples(x):
    """Kernel distance from test images and the least fraction of a class."""
    from utils import weights

    kernel_distance = definitions("03_vae_faces", "kernel_distance")
    judge, network = definitions("06_glow", "build_judge")()
    weights.load(judge, "06_judge")
    real = clothes().x_test[:2_000, ..., None]
    features = [network.predict(each, batch_size=500, verbose=0) for each in (x, real)]
    classes = judge.predict(x, batch_size=500, verbose=0).argmax(axis=1)
    counts = np.bincount(classes, minlength=CLASSES)
    return {
        "kernel_distance": kernel_distance(*features),
        "least_class": counts.min() / len(x),
    }


def answers(flow):
    """log p of two images that are always the same, in bits per dimension."""
    import keras

    y = np.random.default_rng(0).uniform(-0.5, 0.5, (2, *SHAPE)).astype("float32")
    nats = keras.ops.convert_to_numpy(flow.log_prob(y))
    return [[float(f"{value:.6g}") for value in nats / flow.dim]]
