"""An evaluation in TensorBoard: the networks as pictures, and response times as histograms."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from matplotlib.image import imread
from tensorboardX import SummaryWriter

from offload_rllib.evaluation.metrics import SCORE
from offload_rllib.evaluation.results import Comparison
from offload_rllib.reporting.network_picture import draw
from offload_rllib.scenario import build_scenario
from offload_rllib.simulator.metrics import BIN_MIDDLES

TAG = "evaluation"


def write_events(comparison: Comparison, folder: Path) -> Path:
    """Write an events file of an evaluation or comparison into its folder, and return it.

    Tags: ``evaluation/topology/ENVIRONMENT``, a picture; ``evaluation/response_time_s/ENVIRONMENT/POLICY``, a histogram
    of the response times of finished tasks over all episodes; ``evaluation/score_mean_s/ENVIRONMENT/POLICY``, a number.
    The step counts the points of a sweep, from 0.
    """
    with SummaryWriter(str(folder), filename_suffix=f".{TAG}") as writer:
        steps: dict[str, int] = {}
        for point in comparison.points:
            environment = str(point[0])
            step = steps[environment] = steps.get(environment, -1) + 1
            if step == 0 and point in comparison.environments:
                writer.add_image(f"{TAG}/topology/{environment}", _picture(comparison, point), 0, dataformats="HWC")
            for policy in comparison.played(point):
                name = f"{environment}/{policy.replace(' ', '_')}"
                writer.add_scalar(f"{TAG}/{SCORE}/{name}", comparison.matrix(policy, SCORE, point).mean(), step)
                counts = comparison.responses.get((point, policy))
                if counts is not None and counts.any():
                    _add_histogram(writer, f"{TAG}/response_time_s/{name}", counts, step)
    return next(folder.glob(f"events.out.tfevents.*.{TAG}"))


def _picture(comparison: Comparison, point: tuple) -> np.ndarray:
    """Return the drawn network [height, width, 4] uint8."""
    config = comparison.environments[point]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "topology.png"
        draw(build_scenario(config), path, config.description or str(point[0]))
        return np.round(imread(path) * 255).astype(np.uint8)


def _add_histogram(writer: SummaryWriter, tag: str, counts: np.ndarray, step: int) -> None:
    """Add counts by bin of `BIN_MIDDLES`; TensorBoard takes the bins' upper ends."""
    used = np.flatnonzero(counts)
    shown = np.arange(used[0], used[-1] + 1)
    counts, middles = counts[shown], BIN_MIDDLES[shown]
    upper = np.append((middles[1:] + middles[:-1]) / 2, middles[-1] * 1.005)
    writer.add_histogram_raw(
        tag,
        min=float(middles[0]),
        max=float(middles[-1]),
        num=int(counts.sum()),
        sum=float(counts @ middles),
        sum_squares=float(counts @ middles**2),
        bucket_limits=upper.tolist(),
        bucket_counts=counts.tolist(),
        global_step=step,
    )
