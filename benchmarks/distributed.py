"""Chapter 3's model on several devices and on several processes, with Keras' own engine on JAX, against one device.

    pip install -r requirements-jax.txt -c requirements.txt
    python benchmarks/distributed.py              # four virtual devices, then two processes, each against one device
    python benchmarks/distributed.py worker       # one of several processes: started by the line above, or by hand on
                                                  # each machine with the variables KERAS_DISTRIBUTION_*

Every run trains from the same weights on the same batches with the noise held fixed, by plain gradient descent, and
prints its losses. They must agree to 1e-4.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BATCH, STEPS = 16, 4


def main() -> int:
    one = run({"XLA_FLAGS": ""})
    four = run({"XLA_FLAGS": "--xla_force_host_platform_device_count=4"})
    two = run_processes(2)
    print(f"one device        {one['devices']} {one['loss']}")
    print(f"four devices      {four['devices']} {four['loss']}")
    print(f"two processes     {two['devices']} {two['loss']}")
    assert (one["devices"], four["devices"], two["devices"]) == (1, 4, 2)
    pairs = [pair for other in (four, two) for pair in zip(one["loss"], other["loss"], strict=True)]
    differences = [abs(a - b) / abs(a) for a, b in pairs]
    print(f"largest relative difference: {max(differences):.1e}")
    assert all(difference == difference for difference in differences), "a loss is not a number"
    return 0 if max(differences) < 1e-4 else 1


def run(variables: dict[str, str]) -> dict:
    """The losses of one worker process with these environment variables."""
    return read(start(variables))


def run_processes(count: int) -> dict:
    """The losses of `count` worker processes that train one model together over the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    common = {"KERAS_DISTRIBUTION_JOB_ADDRESSES": address, "KERAS_DISTRIBUTION_NUM_PROCESSES": str(count)}
    workers = [start(common | {"KERAS_DISTRIBUTION_PROCESS_ID": str(index)}) for index in range(count)]
    try:
        results = [read(worker) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert all(result["loss"] == results[0]["loss"] for result in results), "the processes disagree"
    return results[0]


def start(variables: dict[str, str]) -> subprocess.Popen:
    env = {key: value for key, value in os.environ.items() if not key.startswith("KERAS_DISTRIBUTION")}
    env |= {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"} | variables
    command = [sys.executable, __file__, "worker"]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def read(worker: subprocess.Popen) -> dict:
    out, err = worker.communicate(timeout=600)
    if worker.returncode:
        sys.exit(f"a worker failed:\n{err[-3000:]}")
    return json.loads(out.splitlines()[-1])


def work() -> None:
    """Trains chapter 3's model on this process' share of each batch, and prints devices and losses as JSON."""
    sys.path.insert(0, str(ROOT))
    import keras
    import numpy as np

    several = "KERAS_DISTRIBUTION_NUM_PROCESSES" in os.environ
    if several:
        keras.distribution.initialize()
    import jax

    from utils import course
    from utils.chapters import definitions

    FaceVAE, encoder, decoder = definitions("03_vae_faces", "FaceVAE", "build_face_encoder", "build_face_decoder")
    keras.utils.set_random_seed(0)
    with course.distribution():
        model = FaceVAE(encoder(4), decoder(4))
        model.sampling = fixed_noise()
        model.compile(keras.optimizers.SGD(1e-5))
        images = np.random.default_rng(0).integers(0, 256, (STEPS, BATCH, 64, 64, 3), "uint8")
        index, count = jax.process_index(), jax.process_count()
        share = slice(index * BATCH // count, (index + 1) * BATCH // count)
        steps = [model.train_on_batch(batch[share], return_dict=True) for batch in images]
    losses = [float(step["loss"]) for step in steps]
    print(json.dumps({"devices": jax.device_count(), "loss": losses}))


def fixed_noise():
    """A stand-in for Sampling whose noise is the same everywhere, so that runs can be compared."""
    import keras

    class Fixed(keras.layers.Layer):
        def call(self, z_mean, z_log_var):
            return z_mean + 0.5 * keras.ops.exp(z_log_var / 2)

    return Fixed()


if __name__ == "__main__":
    if sys.argv[1:] == ["worker"]:
        work()
    else:
        sys.exit(main())
