"""Chapter 3's weights: the judge, and two VAEs that are trained equally long, one with
the book's sigma and one that learns it.

Trained on faces of their own (another seed than the chapter's), so that all of the
chapter's faces are new to them.
"""

from __future__ import annotations

import functools

import numpy as np

from benchmarks.faces import rebuilding
from tools.weights import Recipe, train_epochs
from utils import course, datasets, training
from utils.chapters import definitions
from utils.faces import DRAWN, draw_set

COUNT, SEED = 30_000, 1  # the faces
LATENT_DIM, BATCH, PEAK_RATE = 200, 64, 2e-3
JUDGE_EPOCHS = 6
MODELS = {"03_faces_book": False, "03_faces_learned": True}  # learns its sigma?
IMAGES = COUNT * 8 // 10


def recipes() -> list[Recipe]:
    common = {"images": IMAGES, "data": faces}
    vaes = [
        Recipe(name, functools.partial(build, learn), fit, measure, **common)
        for name, learn in MODELS.items()
    ]
    judge = Recipe(
        "03_judge", build_judge, fit_judge, measure_judge, epochs=JUDGE_EPOCHS, **common
    )
    return [judge, *vaes]


@functools.cache
def faces():
    """Pictures and the labels of what is drawn, of three parts: {part: (x, y)}."""
    folder = draw_set(course.cache(f"faces-{COUNT}-{SEED}"), COUNT, SEED)
    data = datasets.read_faces(folder, "Drawn faces", "drawn-faces")
    names = {part: data.files(part) for part in ("train", "validation", "test")}
    return {
        part: (data.pixels(files), data.attributes.loc[files, list(DRAWN)].to_numpy())
        for part, files in names.items()
    }


def train(model, x, y, loss, epochs, seed, label):
    """Whole epochs, or a fraction of one; the rate warms up and falls to 0."""
    import keras

    def optimizer(steps):
        return keras.optimizers.Adam(training.warmup_cosine(PEAK_RATE, steps))

    return train_epochs(model, x, y, optimizer, loss, epochs, BATCH, seed, label)


# ------------------------------------------------------------------ the judge


def build_judge():
    return definitions("03_vae_faces", "build_judge")(len(DRAWN))[0]


def fit_judge(judge, epochs, seed):
    """Half of the pictures are softened, so that it is not surprised by a VAE's."""
    import keras

    softened = definitions("03_vae_faces", "softened")
    x, y = faces()["train"]
    x = x.copy()
    x[::2] = softened(x[::2])
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    return train(judge, x, y.astype("float32"), loss, epochs, seed, "judge")


def measure_judge(judge):
    """Its balanced accuracies on test faces: least and mean over the attributes."""
    from sklearn.metrics import balanced_accuracy_score

    x, y = faces()["test"]
    said = judge.predict(x, batch_size=250, verbose=0) > 0
    pairs = zip(y.T, said.T, strict=True)
    found = [balanced_accuracy_score(truth, answer) for truth, answer in pairs]
    return {"least_accuracy": min(found), "mean_accuracy": np.mean(found)}, {}


# ------------------------------------------------------------------ the VAEs


def build(learn_sigma):
    build_face_vae = definitions("03_vae_faces", "build_face_vae")
    return build_face_vae(LATENT_DIM, learn_sigma, seed=0)


def fit(model, epochs, seed):
    label = "learned sigma" if model.learn_sigma else "the book's sigma"
    return train(model, faces()["train"][0], None, None, epochs, seed, label)


def measure(model):
    """Figures on test faces; mean and factor of the Gaussian of the codes.

    Kernel distances from the validation faces are those of faces decoded from the codes
    of the test faces, from standard normal points, and from N(centre, factor factorᵀ).
    """
    names = "codes", "decode", "fitted_gaussian", "of_faces", "kernel_distance"
    codes, decode, fitted_gaussian, of_faces, kernel_distance = definitions(
        "03_vae_faces", *names
    )
    normal = np.random.default_rng(0).normal
    z_mean, z_log_var = codes(model, faces()["train"][0])
    noise = normal(size=z_mean.shape)
    centre, factor = fitted_gaussian(z_mean + np.exp(z_log_var / 2) * noise)
    x = faces()["test"][0]
    points = normal(size=(2, len(x), LATENT_DIM))
    drawn = {
        "reconstruction": codes(model, x)[0],
        "standard_normal": points[0],
        "gaussian": centre + points[1] @ factor.T,
    }
    features = features_of_the_judge()
    real = of_faces(features, faces()["validation"][0] / 255)
    figures = rebuilding(model, x)
    for name, z in drawn.items():
        found = kernel_distance(of_faces(features, decode(model, z)), real)
        figures[f"distance_{name}"] = found
    return figures, {"centre": centre, "factor": factor}


def features_of_the_judge():
    """The network that gives the features of the judge that ships."""
    from utils import weights

    judge, features = definitions("03_vae_faces", "build_judge")(len(DRAWN))
    weights.load(judge, "03_judge")
    return features
