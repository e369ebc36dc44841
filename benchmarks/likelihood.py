"""PART=images, fifth: appendix A3's VAEs, whose decoder gives a distribution of the 256
levels of each pixel, on Fashion-MNIST.

Figures are of the first test images: the mean of minus the ELBO and of minus the
importance-weighted bound, in nats an image, and bits per dimension of the bound.
"""

from __future__ import annotations

import numpy as np

from benchmarks.autoencoders import clothes
from benchmarks.flows import KERAS
from benchmarks.measure import rounded, versions
from benchmarks.rows import Row
from utils.chapters import definitions


def levels(settings, seed):
    """A3's model, trained as there."""
    import keras
    from scipy.special import logsumexp

    from utils import training

    build_logistic_vae, bits_per_dimension = definitions(
        "A3_likelihood", "build_logistic_vae", "bits_per_dimension"
    )
    log_weights = definitions("02_vae", "log_weights")
    keras.utils.set_random_seed(seed)
    x_train, _, x_test, _ = clothes(settings)
    model = build_logistic_vae(settings["dim"], seed)
    steps = settings["epochs"] * int(np.ceil(len(x_train) / settings["batch"]))
    rate = training.warmup_cosine(settings["peak"], steps)
    model.compile(keras.optimizers.Adam(rate))
    progress = training.Progress("images")
    fit = {"batch_size": settings["batch"], "epochs": settings["epochs"], "verbose": 0}
    model.fit(x_train, callbacks=[progress, training.StopOnBadLoss()], **fit)

    k = settings["draws"]
    starts = range(0, len(x_test), 20)
    pieces = [log_weights(model, x_test[i : i + 20], k, seed + i) for i in starts]
    log_w = np.concatenate(pieces).astype("float64")
    bound = np.log(k) - logsumexp(log_w, axis=1)
    held = model.evaluate(x_test, batch_size=100, verbose=0, return_dict=True)
    return {
        "elbo_nats": rounded(-log_w.mean()),
        "bound_nats": rounded(bound.mean()),
        "kl": rounded(held["kl_loss"]),
        "bits_per_dim": rounded(bits_per_dimension(bound.mean())),
        "train_seconds": progress.seconds[-1],
        "parameters": model.count_params(),
        "versions": versions(*KERAS),
    }


SETTINGS = {"images": 60_000, "test_images": 500, "epochs": 2, "batch": 128}
SETTINGS |= {"peak": 1e-3, "draws": 64}
QUICK = {"images": 1_280, "test_images": 40, "epochs": 1, "draws": 4}
ROWS = [
    Row(f"VAE with levels, {dim} numbers", levels, {"dim": dim, **SETTINGS}, QUICK)
    for dim in (2, 16)
]
