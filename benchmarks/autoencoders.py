"""PART=images, third: chapter 1's autoencoders and principal components on
Fashion-MNIST, and what is drawn from their latent spaces.

Figures are of all test images; nothing is chosen by them. The seed starts the network,
shuffles, and draws the samples.
"""

from __future__ import annotations

import numpy as np

from benchmarks.flows import KERAS
from benchmarks.measure import rounded, versions
from benchmarks.rows import Row
from utils.chapters import definitions

WAYS = {
    "box": "evenly from the box",
    "gaussian": "one Gaussian",
    "mixture": "a mixture",
}
WAYS |= {"normal": "standard normal"}


def clothes(settings):
    """Training and test images of chapter 1 with their labels."""
    from utils import datasets
    from utils.course import CourseError

    prepare = definitions("01_autoencoder", "prepare")
    data = datasets.fashion_mnist()
    if data.name != "Fashion-MNIST":
        raise CourseError(f"these rows are of Fashion-MNIST, and there is {data.name}.")
    train, test = settings["images"], settings["test_images"]
    x_train, x_test = prepare(data.x_train[:train]), prepare(data.x_test[:test])
    return x_train, data.y_train[:train], x_test, data.y_test[:test]


def errors(x_test, x_hat, codes, tests, y_train, y_test):
    """Cross-entropy (nats a pixel) and RMSE, and how often the majority of twenty
    neighbours among the training images' codes names the class of a test image.
    """
    from sklearn.neighbors import KNeighborsClassifier

    cross_entropy, rmse = definitions("01_autoencoder", "cross_entropy", "rmse")
    neighbours = KNeighborsClassifier(20).fit(codes, y_train)
    return {
        "cross_entropy": rounded(cross_entropy(x_test, x_hat)),
        "rmse": rounded(rmse(x_test, x_hat)),
        "neighbours_right": rounded(neighbours.score(tests, y_test)),
    }


def components(settings, seed):
    """As many principal components."""
    from sklearn.decomposition import PCA

    x_train, y_train, x_test, y_test = clothes(settings)
    flat = [x.reshape(len(x), -1) for x in (x_train, x_test)]
    pca = PCA(settings["dim"], svd_solver="randomized", random_state=seed).fit(flat[0])
    codes, tests = (pca.transform(x) for x in flat)
    x_hat = np.clip(pca.inverse_transform(tests), 0, 1).reshape(x_test.shape)
    found = errors(x_test, x_hat, codes, tests, y_train, y_test)
    return found | {"versions": versions("scikit-learn")}


def network(settings, seed):
    """Chapter 1's autoencoder, with a rate that falls to 0 along a cosine."""
    import keras

    from utils import training

    build_autoencoder, yardstick, judge, ways_to_draw = definitions(
        "01_autoencoder", "build_autoencoder", "yardstick", "judge", "ways_to_draw"
    )
    keras.utils.set_random_seed(seed)
    x_train, y_train, x_test, y_test = clothes(settings)
    encoder, decoder, autoencoder = build_autoencoder(settings["dim"])
    steps = settings["epochs"] * int(np.ceil(len(x_train) / settings["batch"]))
    rate = keras.optimizers.schedules.CosineDecay(settings["peak"], decay_steps=steps)
    autoencoder.compile(keras.optimizers.Adam(rate), loss="binary_crossentropy")
    progress = training.Progress("images")
    watch = [progress, training.StopOnBadLoss()]
    fit = {"batch_size": settings["batch"], "epochs": settings["epochs"], "verbose": 0}
    autoencoder.fit(x_train, x_train, callbacks=watch, **fit)

    codes, tests = (
        encoder.predict(x, batch_size=500, verbose=0) for x in (x_train, x_test)
    )
    x_hat = decoder.predict(tests, batch_size=500, verbose=0)
    found = errors(x_test, x_hat, codes, tests, y_train, y_test)
    real, names = x_train[:20_000], y_train[:20_000]
    measure = yardstick(x_hat[:2_000], real, names)
    drawn = ways_to_draw(codes, settings["mixtures"], seed)
    for short, way in WAYS.items():
        images = decoder.predict(drawn[way], batch_size=500, verbose=0)
        judged = judge(images, real, names, *measure)
        found[f"none_{short}"] = rounded(judged["like none"])
        found[f"class_{short}"] = rounded(judged["wrong class"])
    found["train_seconds"] = progress.seconds[-1]
    found["parameters"] = autoencoder.count_params()
    return found | {"versions": versions(*KERAS)}


ALL = {"images": 60_000, "test_images": 10_000}
QUICK = {"images": 1_280, "test_images": 500}
NETWORK = {"epochs": 2, "batch": 32, "peak": 3e-3, "mixtures": (10, 30, 100), **ALL}
QUICK_NETWORK = {"epochs": 1, "mixtures": (2, 5), **QUICK}
ROWS = [
    *(
        Row(f"PCA, {dim} numbers", components, {"dim": dim, **ALL}, QUICK, seeds=(0,))
        for dim in (2, 6)
    ),
    *(
        Row(
            f"autoencoder, {dim} numbers",
            network,
            {"dim": dim, **NETWORK},
            QUICK_NETWORK,
        )
        for dim in (2, 6)
    ),
]
