"""What chapter 3 defines: the Gaussian decoder, training that is killed and resumed,
and several devices.
"""

import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

from utils import training
from utils.chapters import definitions
from utils.course import ROOT

rng = np.random.default_rng(0)
faces = rng.integers(0, 256, (24, 64, 64, 3), "uint8")


def small_vae(**settings):
    names = ("FaceVAE", "build_face_encoder", "build_face_decoder")
    FaceVAE, encoder, decoder = definitions("03_vae_faces", *names)
    keras.utils.set_random_seed(0)
    few = (8, 8, 8, 8, 8)
    return FaceVAE(encoder(8, few), decoder(8, few), seed=1, **settings)


def test_networks_take_faces_and_give_faces():
    z_mean, z_log_var, x_hat = small_vae()(faces[:2])
    assert z_mean.shape == z_log_var.shape == (2, 8) and x_hat.shape == (2, 64, 64, 3)


def test_call_hands_training_on_to_batch_normalisation():
    """On JAX `fit` goes to `call` directly, and Keras tells the networks nothing."""
    model = small_vae()
    norms = [
        layer
        for network in (model.encoder, model.decoder)
        for layer in network.layers
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    assert len(norms) > 2

    def averages():
        return [ops.convert_to_numpy(norm.moving_mean).copy() for norm in norms]

    before = averages()
    model.call(faces[:8], training=False)
    assert all(map(np.array_equal, before, averages()))
    model.call(faces[:8], training=True)
    assert not any(map(np.array_equal, before, averages()))


def test_the_books_sigma_gives_2000_times_the_squared_error():
    x_hat = rng.random((5, 64, 64, 3), "float32")
    losses = ops.convert_to_numpy(small_vae().reconstruction_loss(faces[:5], x_hat))
    assert np.allclose(
        losses, 2000 * ((faces[:5] / 255 - x_hat) ** 2).mean(axis=(1, 2, 3)), rtol=1e-4
    )


def test_reconstruction_loss_is_a_gaussian_log_likelihood_up_to_a_constant():
    from scipy.stats import norm

    model = small_vae(sigma=0.5)
    model.sigma_squared.assign(0.04)
    x_hat = rng.random((2, 64, 64, 3), "float32")
    losses = ops.convert_to_numpy(model.reconstruction_loss(faces[:2], x_hat))
    exact = [
        -norm.logpdf(x / 255, y, 0.2).sum()
        for x, y in zip(faces[:2], x_hat, strict=True)
    ]
    assert losses[0] - losses[1] == pytest.approx(exact[0] - exact[1], rel=1e-3)
    constant = 12288 * (0.5 * np.log(2 * np.pi) + np.log(0.5))
    assert losses[0] + constant == pytest.approx(exact[0], rel=1e-3)


def test_saved_and_loaded_it_gives_the_same(tmp_path):
    model = small_vae(sigma=0.3, learn_sigma=True)
    model(faces[:1])
    model.save(tmp_path / "faces.keras")
    loaded = keras.saving.load_model(tmp_path / "faces.keras")
    assert loaded.learn_sigma and loaded.first_sigma == 0.3
    for a, b in zip(
        model.encoder(faces[:4] / 255), loaded.encoder(faces[:4] / 255), strict=True
    ):
        assert np.allclose(a, b, atol=1e-6)


def test_sigma_is_learned_only_when_asked_for_and_only_in_training():
    fixed, learned = small_vae(), small_vae(learn_sigma=True)
    few = faces[:8]
    fixed.compile("sgd")
    fixed.compute_loss(x=few, y_pred=fixed(few))
    learned.compile(keras.optimizers.Adam(1e-3))
    learned.evaluate(few, verbose=0)
    assert float(learned.sigma_squared) == pytest.approx(learned.first_sigma**2)
    learned.fit(few, epochs=60, verbose=0)
    assert float(fixed.sigma_squared) == pytest.approx(fixed.first_sigma**2)
    x_hat = learned(few)[2]
    error = float(ops.mean((few / 255 - ops.convert_to_numpy(x_hat)) ** 2))
    assert float(learned.sigma_squared) == pytest.approx(error, rel=0.4)


KILLED = """
import sys
sys.path.insert(0, {root!r})
import time
import keras, numpy as np
from utils import training
keras.utils.set_random_seed(0)
model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
model.compile(keras.optimizers.Adam(training.warmup_cosine(0.05, 40)), loss="mse")
x = np.random.default_rng(0).normal(size=(80, 3)).astype("float32")
class Stuck(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch + 1
    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == ({stuck}, 2):
            print("stuck", flush=True)
            time.sleep(600)
    def on_epoch_end(self, epoch, logs=None):
        done = int(self.model.optimizer.iterations)
        print("epoch", epoch + 1, logs["loss"], done, flush=True)
watch = [training.checkpoint({folder!r}, resume={resume}), Stuck()]
y = x.sum(axis=1, keepdims=True)
model.fit(x, y, batch_size=16, epochs=8, verbose=0, callbacks=watch)
print("done", flush=True)
"""


def test_killed_in_the_middle_of_an_epoch_training_goes_on(tmp_path, capsys):
    folder = {"root": str(ROOT), "folder": str(tmp_path / "checkpoint")}
    command = [sys.executable, "-c", KILLED.format(resume=False, stuck=4, **folder)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    first = subprocess.Popen(command, **pipes)
    *seen, last = (first.stdout.readline().split() for _ in range(4))
    first.kill()
    first.wait()
    assert last == ["stuck"]
    exec(KILLED.format(resume=True, stuck=0, **folder), {})
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    epochs = [int(line[1]) for line in lines if line[0] == "epoch"]
    assert epochs == [4, 5, 6, 7, 8] and lines[-1] == ["done"]
    losses = [float(line[2]) for line in seen + lines[:-1]]
    assert losses[3] < losses[2] < losses[0], "the loss goes on where it was"
    assert int(lines[-2][3]) == 8 * 5, (
        "the optimizer, and with it the schedule, went on counting"
    )
    assert not (tmp_path / "checkpoint").exists(), (
        "a finished training leaves no checkpoint"
    )


@pytest.mark.parametrize("resume", [False, True])
def test_an_old_checkpoint_is_used_only_with_resume(resume, tmp_path):
    x = rng.normal(size=(8, 3)).astype("float32")
    net = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    net.compile("sgd", loss="mse")

    def epochs(resume, broken=None):
        begun = []

        def begin(epoch, logs=None):
            begun.append(epoch)
            if epoch == broken:
                raise InterruptedError

        keep = training.checkpoint(tmp_path / "checkpoint", resume)
        watch = [keep, keras.callbacks.LambdaCallback(on_epoch_begin=begin)]
        try:
            net.fit(x, x[:, :1], epochs=3, verbose=0, callbacks=watch)
        except InterruptedError:
            pass
        return begun

    assert epochs(resume=False, broken=2) == [0, 1, 2]
    assert epochs(resume) == ([2] if resume else [0, 1, 2])


def test_samples_are_saved_after_each_epoch(tmp_path):
    from PIL import Image

    from utils.training import SampleImages

    model = small_vae()
    points = rng.normal(size=(12, 8)).astype("float32")
    net = keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)])
    net.compile("sgd", "mse")
    watch = [SampleImages(model.decoder, points, tmp_path / "s")]
    net.fit(points, points[:, :1], epochs=2, verbose=0, callbacks=watch)
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == [
        "epoch-001.png",
        "epoch-002.png",
    ]
    picture = np.asarray(Image.open(tmp_path / "s" / "epoch-002.png"))
    assert picture.shape == (2 * 64, 10 * 64, 3)
    expected = 255 * ops.convert_to_numpy(model.decoder(points))[11]
    assert np.abs(picture[64:, 64:128].astype(float) - expected).max() <= 1
    assert picture[64:, 128:].max() == 0


DEVICES = """
import os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
sys.path.insert(0, {root!r})
import keras, numpy as np, tensorflow as tf
from utils import course
from utils.chapters import definitions
cpu = tf.config.list_physical_devices("CPU")[0]
two = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpu, two)
names = "FaceVAE", "build_face_encoder", "build_face_decoder"
FaceVAE, encoder, decoder = definitions("03_vae_faces", *names)
encoder.__globals__["FACE_SHAPE"] = 8, 8, 3     # two layers are enough for these
few = 4, 4

class Quiet(keras.layers.Layer):
    def call(self, z_mean, z_log_var):
        return z_mean + 0.5 * keras.ops.exp(z_log_var / 2)   # the noise, held fixed

def train(devices):
    keras.utils.set_random_seed(0)
    with course.distribution(devices):
        networks = encoder(4, few), decoder(4, few)
        model = FaceVAE(*networks, learn_sigma=True, sigma=0.5)
        model.sampling = Quiet()
        for layer in model.encoder.layers + model.decoder.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.synchronized = True  # as docs/devices.md says
        model.compile(keras.optimizers.SGD(1e-5), jit_compile=False)
    x = np.random.default_rng(0).integers(0, 256, (32, 8, 8, 3), "uint8")
    history = model.fit(x, batch_size=16, epochs=2, shuffle=False, verbose=0).history
    return history["loss"], model.get_weights()

one = train(("CPU:0",))
two = train(("CPU:0", "CPU:1"))
losses = max(abs(a - b) / abs(a) for a, b in zip(one[0], two[0]))
pairs = zip(one[1], two[1])
print(losses, max(np.abs(a - b).max() / (1 + np.abs(a).max()) for a, b in pairs))
"""


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="MirroredStrategy is TensorFlow's"
)
def test_two_devices_do_what_one_does():
    """A loss that each device divides by its own images, or a normalisation by them
    alone, is off by more than 1e-3.
    """
    result = subprocess.run(
        [sys.executable, "-c", DEVICES.format(root=str(ROOT))],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    off = [float(n) for n in result.stdout.splitlines()[-1].split()]
    assert len(off) == 2 and np.isfinite(off).all() and max(off) < 1e-4


def test_bytes_become_fractions_and_the_error_is_reported():
    model = small_vae()
    z_mean = ops.convert_to_numpy(model(faces[:4])[0])
    assert np.allclose(z_mean, model.encoder(faces[:4] / 255)[0], atol=1e-5)
    model.compile("adam")
    told = model.evaluate(faces, verbose=0, return_dict=True)
    x_hat = ops.convert_to_numpy(model.decoder(model.encoder(faces / 255)[0]))
    near = ((faces / 255 - x_hat) ** 2).mean()
    assert told["mean_squared_error"] == pytest.approx(near, rel=0.2)


def test_sigma_follows_the_error_of_the_whole_batch_by_a_tenth():
    model = small_vae(sigma=0.5, learn_sigma=True)
    model.compile("adam")
    x, y_pred = faces[:6], model(faces[:6])
    model.compute_loss(x=x, y_pred=y_pred)
    error = ((x / 255 - ops.convert_to_numpy(y_pred[2])) ** 2).mean()
    wanted = 0.9 * 0.25 + 0.1 * error
    assert float(model.sigma_squared) == pytest.approx(wanted, rel=1e-4)
    model.compute_loss(x=x, y_pred=y_pred, training=False)
    assert float(model.sigma_squared) == pytest.approx(wanted, rel=1e-4)


def test_running_averages_follow_with_the_momentum_of_the_text():
    layers = small_vae().encoder.layers + small_vae().decoder.layers
    kinds = [x for x in layers if isinstance(x, keras.layers.BatchNormalization)]
    assert len(kinds) == 11 and {x.momentum for x in kinds} == {0.9}


# ------------------------------------------------------------------ looking and judging


def test_the_networks_have_the_filters_they_are_given():
    build, ours, the_books = definitions(
        "03_vae_faces", "build_face_vae", "FILTERS", "BOOK_FILTERS"
    )
    assert build(200, True).count_params() == 1_317_364
    encoder = build(8, True, filters=the_books).encoder
    convolutions = [x for x in encoder.layers if isinstance(x, keras.layers.Conv2D)]
    assert [x.filters for x in convolutions] == [64] * 5
    assert build(8, False, seed=1).first_sigma == pytest.approx(1.7527, abs=1e-4)
    assert len(ours) == 5


def test_codes_are_those_of_each_face_in_order_whatever_the_batch():
    codes, decode = definitions("03_vae_faces", "codes", "decode")
    model = small_vae()
    z_mean, z_log_var = codes(model, faces, batch=10)
    expected = [ops.convert_to_numpy(part) for part in model.encoder(faces / 255)]
    assert np.allclose(z_mean, expected[0], atol=1e-5)
    assert np.allclose(z_log_var, expected[1], atol=1e-5)
    images = decode(model, z_mean[:3].astype("float64"))
    assert images.shape == (3, 64, 64, 3) and 0 <= images.min() < images.max() <= 1
    by_hand = ops.convert_to_numpy(model.decoder(z_mean[:3]))
    assert np.allclose(images, by_hand, atol=1e-5)


def test_edges_are_the_steps_between_neighbours():
    edges = definitions("03_vae_faces", "edges")
    ramp = np.zeros((2, 4, 5, 3))
    ramp += 0.1 * np.arange(5)[:, None] + 0.03 * np.arange(4)[:, None, None]
    assert edges(ramp) == pytest.approx(0.13)
    assert edges(-ramp) == pytest.approx(0.13), "a step down is a step"


def test_softened_pictures_have_the_means_of_two_by_two():
    softened = definitions("03_vae_faces", "softened")
    soft = softened(faces[:3])
    assert soft.dtype == np.uint8 and soft.shape == (3, 64, 64, 3)
    assert soft[1, 7, 9, 2] == soft[1, 6, 8, 2] == int(faces[1, 6:8, 8:10, 2].mean())


def test_the_judge_says_one_number_an_attribute_by_way_of_its_features():
    build_judge, of_faces = definitions("03_vae_faces", "build_judge", "of_faces")
    judge, features = build_judge(5)
    inside = of_faces(features, faces / 255)
    assert inside.shape == (24, 64)
    by_hand = ops.convert_to_numpy(features(faces.astype("float32"), training=False))
    assert np.allclose(inside, by_hand, atol=1e-3)
    kernel, bias = judge.get_layer("log_odds").get_weights()
    assert np.allclose(of_faces(judge, faces / 255), inside @ kernel + bias, atol=1e-3)


def test_the_kernel_distance_is_that_of_its_definition():
    kernel_distance = definitions("03_vae_faces", "kernel_distance")
    a, b = rng.normal(size=(5, 3)) + 0.3, 2 * rng.normal(size=(4, 3))
    u, v = ((f - b.mean(axis=0)) / b.std(axis=0) for f in (a, b))

    def mean(first, second):
        same = first is second
        values = [
            (x @ y / 3 + 1) ** 3
            for i, x in enumerate(first)
            for j, y in enumerate(second)
            if not (same and i == j)
        ]
        return np.mean(values)

    expected = mean(u, u) + mean(v, v) - 2 * mean(u, v)
    assert kernel_distance(a, b) == pytest.approx(expected)


def test_the_kernel_distance_is_zero_on_average_and_sees_what_marginals_hide():
    kernel_distance = definitions("03_vae_faces", "kernel_distance")
    draw = np.random.default_rng(3).normal
    same = [
        kernel_distance(draw(size=(300, 4)), draw(size=(300, 4))) for _ in range(30)
    ]
    error = np.std(same) / 30**0.5
    assert abs(np.mean(same)) < 4 * error and min(same) < 0 < max(same)
    mixed = draw(size=(300, 4))
    mixed[:, 1] = 0.8 * mixed[:, 0] + 0.6 * mixed[:, 1]  # each is still normal
    assert kernel_distance(mixed, draw(size=(300, 4))) > 10 * np.std(same)
    assert kernel_distance(draw(size=(300, 4)) + 0.5, draw(size=(300, 4))) > 0.1


def test_the_fitted_gaussian_has_the_mean_and_covariance_of_its_points():
    fitted_gaussian = definitions("03_vae_faces", "fitted_gaussian")
    mix = np.array([[1.0, 0.0, 0.0], [2.0, 0.5, 0.0], [0.0, -1.0, 0.3]])
    z = rng.normal(size=(500, 3)) @ mix.T + [1, 2, 3]
    centre, factor = fitted_gaussian(z)
    assert np.allclose(centre, z.mean(axis=0))
    assert np.allclose(factor @ factor.T, np.cov(z.T, bias=True), atol=1e-5)
    assert np.allclose(factor, np.tril(factor))


def test_a_face_is_recognised_by_its_eyes_nose_and_mouth():
    recognised = definitions("03_vae_faces", "recognised")
    originals = rng.random((6, 64, 64, 3))
    changed = originals + 0.1 * rng.normal(size=originals.shape)
    changed[:, :28] = changed[:, 52:] = 0  # hair and chin do not count
    assert recognised(changed, originals) == 1
    order = [0, 2, 1, 3, 4, 5]
    assert recognised(changed[order], originals) == pytest.approx(4 / 6)
    same = np.repeat(originals[:1], 6, axis=0)
    assert recognised(same, originals) == pytest.approx(1 / 6)
    darker = originals * np.linspace(0.2, 1, 6)[:, None, None, None]
    assert recognised(darker, darker) == 1, "the brightest is not nearest to all"


def test_the_weights_that_ship_rebuild_faces_that_they_have_not_seen():
    from utils import weights
    from utils.faces import DRAWN, attributes, draw, nth_face

    build, codes, decode = definitions(
        "03_vae_faces", "build_face_vae", "codes", "decode"
    )
    judge = definitions("03_vae_faces", "build_judge")(len(DRAWN))[0]
    weights.load(judge, "03_judge")
    made = [nth_face(77, number) for number in range(1, 41)]
    x = np.stack(
        [np.asarray(draw(f).crop((0, 20, 178, 198)).resize((64, 64), 2)) for f in made]
    )
    truth = np.array([[attributes(f)[name] for name in DRAWN] for f in made])
    assert ((judge.predict(x, verbose=0) > 0) == truth).mean() > 0.97
    errors = {}
    for name, learn in {"03_faces_learned": True, "03_faces_book": False}.items():
        model = build(200, learn)
        kept = weights.load(model, name)
        assert kept["centre"].shape == (200,) and kept["factor"].shape == (200, 200)
        errors[name] = ((decode(model, codes(model, x)[0]) - x / 255) ** 2).mean()
    assert errors["03_faces_learned"] < 0.003 < errors["03_faces_book"] < 0.016
