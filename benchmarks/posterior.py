"""PART=moons, third: chapter 5's posterior, approximated without data, with ten seeds.

The posterior has two ridges that mirror each other. KL(q ‖ p) is by 20,000 draws of the
flow, its constant by a grid of the truth; `fraction` is that of draws on one ridge.
"""

from __future__ import annotations

import numpy as np

from benchmarks.flows import TFP
from benchmarks.measure import rounded, versions
from benchmarks.rows import Row
from utils.chapters import definitions


def posterior(settings, seed):
    """One of the chapter's two families, trained on its own draws."""
    from utils import checks, training

    log_posterior, fit_to_density, forward_and_log_q = definitions(
        "05_tfp_flows", "log_posterior", "fit_to_density", "forward_and_log_q"
    )
    posterior_flow, gaussian = definitions("05_tfp_flows", "posterior_flow", "gaussian")
    flow = gaussian() if settings["family"] == "Gaussian" else posterior_flow()
    seconds = fit_to_density(
        flow, log_posterior, settings["steps"], settings["start"], seed=seed
    )
    theta, cell = checks.square(6.0, 600)
    log_tilde = log_posterior(theta).numpy().astype("float64")
    log_z = np.log(np.exp(log_tilde).sum() * cell)
    z = np.random.default_rng(7).normal(size=(20_000, 2)).astype("float32")
    drawn, log_q = forward_and_log_q(flow, z)
    terms = (log_q - log_posterior(drawn)).numpy() + log_z
    parts = np.split(theta, 36)
    log_prob = training.compiled(flow.log_prob, flow)
    log_q_there = np.concatenate([log_prob(part) for part in parts]).astype("float64")
    log_p = log_tilde - log_z
    return {
        "kl_reverse": rounded(terms.mean()),
        "kl_se": rounded(terms.std() / len(terms) ** 0.5),
        "kl_forward": rounded((np.exp(log_p) * (log_p - log_q_there)).sum() * cell),
        "fraction": rounded((drawn.numpy()[:, 0] > 0).mean()),
        "train_seconds": round(seconds, 1),
        "versions": versions(*TFP),
    }


FLOW = {"family": "IAF", "steps": 4_000, "start": 1.0}
FAMILIES = {
    "any Gaussian": FLOW | {"family": "Gaussian"},
    "IAF": FLOW,
    "IAF, tempered": FLOW | {"start": 0.01},
}
ROWS = [
    Row(f"posterior, {name}", posterior, settings, {"steps": 200}, tuple(range(10)))
    for name, settings in FAMILIES.items()
]
