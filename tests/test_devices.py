"""Several devices and several processes give what one device gives (JAX).

    KERAS_BACKEND=jax python -m pytest -m devices

Chapter 3's model trains from the same weights on the same batches with the noise held
fixed, by plain gradient descent, in worker processes that run this file as a script;
`make jax` does it too. docs/devices.md tells how to use more devices than one.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.devices
ROOT = Path(__file__).resolve().parent.parent
BATCH, STEPS = 16, 4


@pytest.fixture(scope="module")
def one_device():
    pytest.importorskip("jax", reason="several devices need JAX: make jax")
    return read(start({"XLA_FLAGS": ""}))


def test_four_devices_give_the_losses_of_one(one_device):
    four = read(start({"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}))
    assert (one_device["devices"], four["devices"]) == (1, 4)
    assert np.allclose(four["loss"], one_device["loss"], rtol=1e-4)


def test_two_processes_give_the_losses_of_one(one_device):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    common = {"JOB_ADDRESSES": address, "NUM_PROCESSES": "2"}
    workers = [start(distribution(common | {"PROCESS_ID": str(i)})) for i in range(2)]
    try:
        first, second = (read(worker) for worker in workers)
    finally:
        for worker in workers:
            worker.kill()
    assert first["devices"] == 2 and first["loss"] == second["loss"]
    assert np.allclose(first["loss"], one_device["loss"], rtol=1e-4)


def distribution(settings: dict[str, str]) -> dict[str, str]:
    return {f"KERAS_DISTRIBUTION_{name}": value for name, value in settings.items()}


def start(variables: dict[str, str]) -> subprocess.Popen:
    """A worker process with these environment variables."""
    others = [name for name in os.environ if not name.startswith("KERAS_DIST")]
    kept = {name: os.environ[name] for name in others}
    env = kept | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"} | variables
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, __file__], env=env, **pipes)


def read(worker: subprocess.Popen) -> dict:
    """The devices that a worker saw and its losses."""
    out, err = worker.communicate(timeout=300)
    assert worker.returncode == 0, err[-3000:]
    return json.loads(out.splitlines()[-1])


def work() -> None:
    """Trains on this process' part of each batch; prints devices and losses as JSON."""
    sys.path.insert(0, str(ROOT))
    import keras

    if "KERAS_DISTRIBUTION_NUM_PROCESSES" in os.environ:
        keras.distribution.initialize()
    import jax

    from utils import course
    from utils.chapters import definitions

    class FixedNoise(keras.layers.Layer):
        def call(self, z_mean, z_log_var):
            return z_mean + 0.5 * keras.ops.exp(z_log_var / 2)

    names = "FaceVAE", "build_face_encoder", "build_face_decoder"
    FaceVAE, encoder, decoder = definitions("03_vae_faces", *names)
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    with course.distribution():
        model = FaceVAE(encoder(4), decoder(4))
        model.sampling = FixedNoise()
        model.compile(keras.optimizers.SGD(1e-5))
        images = rng.integers(0, 256, (STEPS, BATCH, 64, 64, 3), "uint8")
        index, count = jax.process_index(), jax.process_count()
        part = slice(index * BATCH // count, (index + 1) * BATCH // count)
        steps = [model.train_on_batch(b[part], return_dict=True) for b in images]
    losses = [float(step["loss"]) for step in steps]
    print(json.dumps({"devices": jax.device_count(), "loss": losses}))


if __name__ == "__main__":
    work()
