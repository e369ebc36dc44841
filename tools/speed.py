"""A minute that compares this machine with the one of the course's minutes.

    python -m tools.speed

Minutes of the course are those of the reference: two cores of an Intel Xeon with
AVX-512 and AMX. Three things that chapters spend their time on are timed here: training
a small flow of dense layers, a step of a convolutional network, and compiling. The
models are this file's own, so that the figures stay comparable when chapters change.
"""

from __future__ import annotations

import platform
import statistics
import time
from pathlib import Path

from utils import course

# Seconds on the reference, with TensorFlow 2.21.0, medians of three runs of this.
SECONDS = {"dense epoch": 0.150, "convolution step": 0.058, "compilation": 2.40}
DIM, LAYERS, WIDTH, BATCH, STEPS = 2, 12, 32, 256, 117


def main() -> None:
    course.load_keras()
    print(f"{processor()}, {course.machine()}")
    measured = dense() | convolution()
    ratios = [measured[name] / seconds for name, seconds in SECONDS.items()]
    for (name, seconds), ratio in zip(SECONDS.items(), ratios, strict=True):
        print(
            f"{name:18} {measured[name]:7.3f} s   reference {seconds:.3f} s   x "
            f"{ratio:.2f}"
        )
    factor = statistics.geometric_mean(ratios)
    print(f"Factor {factor:.1f}: multiply the course's minutes by it.")


def processor() -> str:
    """The CPU's name, and which of the instructions that matter here it has."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor() or platform.machine()
    lines = dict(line.partition(":")[::2] for line in info.read_text().splitlines())
    fields = {name.strip(): value.strip() for name, value in lines.items()}
    flags = fields.get("flags", "").split()
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_tile")
    has = " ".join(flag for flag in wanted if flag in flags)
    return f"{fields.get('model name', 'CPU')} ({has})"


def dense() -> dict[str, float]:
    """An epoch of a small flow in one graph, and the seconds that its graph takes."""
    import tensorflow as tf

    rng = tf.random.Generator.from_seed(0)
    shapes = [(1, WIDTH), (WIDTH, WIDTH), (WIDTH, 2)] * LAYERS
    weights = [tf.Variable(0.3 * rng.normal(shape)) for shape in shapes]
    x = rng.normal([STEPS, BATCH, DIM])

    def nll(x):
        log_det = 0.0
        for i in range(0, len(weights), 3):
            kept, changed = x[:, :1], x[:, 1:]
            hidden = tf.nn.silu(tf.nn.silu(kept @ weights[i]) @ weights[i + 1])
            s, t = tf.split(hidden @ weights[i + 2], 2, axis=1)
            s = tf.tanh(s)
            x = tf.concat([changed * tf.exp(s) + t, kept], axis=1)
            log_det += s[:, 0]
        return tf.reduce_mean(0.5 * tf.reduce_sum(x**2, axis=1) - log_det)

    @tf.function(jit_compile=True)
    def epoch():
        for step in tf.range(STEPS):
            with tf.GradientTape() as tape:
                loss = nll(x[step])
            for weight, gradient in zip(
                weights, tape.gradient(loss, weights), strict=True
            ):
                weight.assign_sub(1e-4 * gradient)
        return loss

    first, *later = [seconds(epoch) for _ in range(11)]
    usual = statistics.median(later)
    return {"dense epoch": usual, "compilation": first - usual}


def convolution() -> dict[str, float]:
    """A training step of chapter 1's kind of network on 100 images of 32 x 32."""
    import keras
    import numpy as np

    layers = keras.layers
    network = keras.Sequential([keras.Input((32, 32, 1))])
    for channels in (32, 64, 128):
        network.add(
            layers.Conv2D(channels, 3, strides=2, padding="same", activation="relu")
        )
    for channels in (128, 64, 32):
        up = {"strides": 2, "padding": "same", "activation": "relu"}
        network.add(layers.Conv2DTranspose(channels, 3, **up))
    network.add(layers.Conv2D(1, 3, padding="same", activation="sigmoid"))
    network.compile("adam", "mse", jit_compile=False)
    images = np.random.default_rng(0).random((100, 32, 32, 1), "float32")
    network.train_on_batch(images, images)
    times = [seconds(lambda: network.train_on_batch(images, images)) for _ in range(25)]
    return {"convolution step": statistics.median(times)}


def seconds(call) -> float:
    started = time.perf_counter()
    result = call()
    getattr(result, "numpy", lambda: None)()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
