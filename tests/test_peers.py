"""What the page says of other simulators is what was recorded, and the explanations there fit the figures."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

CHECKOUT = Path(__file__).parents[1]
DATA = Path(__file__).parent / "data" / "peers"
PAGE = (CHECKOUT / "docs" / "peers.md").read_text(encoding="utf-8")
OURS = "offload-rllib, clock of 10 ms"
# Without queues that other tasks change: the same destinations in all simulators.
FIXED = ("nearest", "random", "cloud")
# Figures have four decimals; their differences are off by one unit of the last at most.
ROUNDED = 1.01e-4


@pytest.fixture(scope="module")
def edge() -> pd.DataFrame:
    """Mean responses on EDGE-14: a row for each load and policy, a column for each simulator."""
    table = pd.read_csv(DATA / "edge_14.csv")
    return table.pivot(index=["rho", "policy"], columns="simulator", values="mean_s")


def cells(pattern: str) -> list[list[str]]:
    """Return the cells of the rows of the page's tables that begin with a pattern."""
    found = [line.strip("|").split("|") for line in PAGE.splitlines() if re.match(rf"\| {pattern}", line)]
    return [[cell.strip() for cell in row] for row in found]


@pytest.mark.parametrize(
    ("file", "pattern", "separator", "columns"),
    [
        (
            "edge_14.csv",
            r"0\.\d ",
            " ",
            ["exact FIFO", OURS, "PureEdgeSim", "EdgeCloudSim SS", "exact PS", "EdgeCloudSim TS"],
        ),
        ("topo4mec.csv", "(25N50E|Milan), ", ", ", ["RayCloudSim", "offload-rllib"]),
    ],
)
def test_the_page_has_the_figures_that_were_recorded(
    file: str, pattern: str, separator: str, columns: list[str]
) -> None:
    stated = []
    for first, *figures in cells(pattern):
        for name, figure in zip(columns, figures, strict=False):
            numbers = re.fullmatch(r"(\d+\.\d+)(?: / (\d+\.\d+))?", figure)
            if numbers:
                stated.append([*first.split(separator), name, numbers[1], numbers[2] or ""])
    recorded = pd.read_csv(DATA / file, dtype=str, keep_default_na=False)
    assert stated == recorded.to_numpy().tolist()
    assert len(stated) in (8, 63)


def test_pureedgesim_equals_the_exact_recursion(edge: pd.DataFrame) -> None:
    for rho, policy in edge.index:
        if policy in FIXED:
            row = edge.loc[(rho, policy)]
            assert row["PureEdgeSim"] == row["exact FIFO"], (rho, policy)


def test_a_clock_of_10_ms_holds_each_task_for_half_of_it(edge: pd.DataFrame) -> None:
    fixed = edge[edge.index.get_level_values("policy").isin(FIXED)]
    exact_s = fixed["exact FIFO"].to_numpy()
    apart_s = np.abs(fixed[OURS].to_numpy() - exact_s - 0.00505)
    rounded = np.where(exact_s > 10, 11, 2) * ROUNDED  # above 10 s to three decimals
    assert (apart_s <= rounded).all()


def test_edgecloudsim_is_never_faster_than_the_exact_recursion_and_near_it(edge: pd.DataFrame) -> None:
    late = edge["EdgeCloudSim SS"] / edge["exact FIFO"] - 1
    assert late.dropna().between(0, 0.009).all()
    shared = edge["EdgeCloudSim TS"] / edge["exact PS"] - 1
    assert shared.dropna().between(-0.0005, 0.009).all()


def test_raycloudsim_notices_completions_late() -> None:
    table = pd.read_csv(DATA / "topo4mec.csv").pivot(index=["data_set", "policy"], columns="simulator", values="mean")
    late = table["RayCloudSim"] - table["offload-rllib"]
    # On average half a unit after each completion; what waits behind it waits as much longer.
    assert late.between(0.4, 1.1).all()
