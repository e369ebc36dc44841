"""What chapter 3 defines: the Gaussian decoder, training that is killed and resumed,
and several devices.
"""

import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from keras import ops

from utils.chapters import definitions
from utils.course import ROOT

rng = np.random.default_rng(0)
faces = rng.integers(0, 256, (24, 64, 64, 3), "uint8")


def small_vae(**settings):
    names = ("FaceVAE", "build_face_encoder", "build_face_decoder")
    FaceVAE, encoder, decoder = definitions("03_vae_faces", *names)
    keras.utils.set_random_seed(0)
    return FaceVAE(encoder(8), decoder(8), seed=1, **settings)


def test_networks_take_faces_and_give_faces():
    z_mean, z_log_var, x_hat = small_vae()(faces[:2])
    assert z_mean.shape == z_log_var.shape == (2, 8) and x_hat.shape == (2, 64, 64, 3)


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
    for model in (fixed, learned):
        model.compile(keras.optimizers.Adam(1e-3))
        model.evaluate(faces, verbose=0)
    assert float(learned.sigma_squared) == pytest.approx(learned.first_sigma**2)
    fixed.fit(faces, batch_size=8, epochs=2, verbose=0)
    few = faces[:8]
    learned.fit(few, batch_size=4, epochs=40, verbose=0)
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
class Slow(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        time.sleep({pause})
    def on_epoch_end(self, epoch, logs=None):
        done = int(self.model.optimizer.iterations)
        print("epoch", epoch + 1, logs["loss"], done, flush=True)
watch = [training.checkpoint({folder!r}, resume={resume}), Slow()]
y = x.sum(axis=1, keepdims=True)
model.fit(x, y, batch_size=16, epochs=8, verbose=0, callbacks=watch)
print("done", flush=True)
"""


def run(folder, resume, pause):
    code = KILLED.format(root=str(ROOT), folder=str(folder), resume=resume, pause=pause)
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def test_killed_in_the_middle_of_an_epoch_training_goes_on(tmp_path):
    first = run(tmp_path / "checkpoint", resume=False, pause=0.3)
    seen = [first.stdout.readline().split() for _ in range(3)]
    time.sleep(0.5)  # the fourth epoch has begun
    first.kill()
    first.wait()
    second = run(tmp_path / "checkpoint", resume=True, pause=0)
    lines = [line.split() for line in second.communicate(timeout=120)[0].splitlines()]
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


def test_without_resume_an_old_checkpoint_is_not_used(tmp_path):
    first = run(tmp_path / "checkpoint", resume=False, pause=0.3)
    first.stdout.readline()
    first.kill()
    first.wait()
    second = run(tmp_path / "checkpoint", resume=False, pause=0)
    assert second.communicate(timeout=120)[0].startswith("epoch 1 ")


def test_samples_are_saved_after_each_epoch(tmp_path):
    from PIL import Image

    from utils.training import SampleImages

    model = small_vae()
    model.compile("adam")
    points = rng.normal(size=(12, 8)).astype("float32")
    model.fit(
        faces[:8],
        epochs=2,
        verbose=0,
        callbacks=[SampleImages(model.decoder, points, tmp_path / "s")],
    )
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

class Quiet(keras.layers.Layer):
    def call(self, z_mean, z_log_var):
        return z_mean + 0.5 * keras.ops.exp(z_log_var / 2)   # the noise, held fixed

def train(devices):
    keras.utils.set_random_seed(0)
    with course.distribution(devices):
        model = FaceVAE(encoder(4), decoder(4), learn_sigma=True, sigma=0.5)
        model.sampling = Quiet()
    with course.distribution(devices):
        model.compile(keras.optimizers.SGD(1e-5), jit_compile=False)
    if {broken!r} == "loss":
        course.replicas = lambda: 1
    if {broken!r} == "normalisation":
        for layer in model.encoder.layers + model.decoder.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.synchronized = False
    x = np.random.default_rng(0).integers(0, 256, (32, 64, 64, 3), "uint8")
    history = model.fit(x, batch_size=16, epochs=2, shuffle=False, verbose=0).history
    return history["loss"], model.get_weights()

one, two = train(("CPU:0",)), train(("CPU:0", "CPU:1"))
print(max(abs(a - b) / abs(a) for a, b in zip(one[0], two[0])))
print(max(np.abs(a - b).max() / (1 + np.abs(a).max()) for a, b in zip(one[1], two[1])))
"""


def two_devices_against_one(broken=""):
    code = DEVICES.format(root=str(ROOT), broken=broken)
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    differences = [float(line) for line in result.stdout.split()[-2:]]
    assert np.isfinite(differences).all()
    return differences


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="MirroredStrategy is TensorFlow's"
)
def test_two_devices_do_what_one_does():
    loss, weights = two_devices_against_one()
    assert loss < 1e-4 and weights < 1e-4


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="MirroredStrategy is TensorFlow's"
)
@pytest.mark.parametrize("broken", ["loss", "normalisation"])
def test_two_devices_differ_when_a_part_is_left_out(broken):
    assert max(two_devices_against_one(broken)) > 1e-3
