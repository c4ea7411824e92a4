"""The page docs/hype.md is what its data say, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from offload_rllib.config import ConfigError
from scripts.hype import run
from scripts.hype.__main__ import main
from scripts.hype.collect import DOCS, EPISODES, PAGE, RECORD, Data, findings, learned_of, page_of, write_page
from scripts.hype.plan import Budget, Piece, pieces
from scripts.results.study import METRICS
from tests.helpers.hype import short_environment

SIZE = ["--decisions", "600", "--seeds", "2", "--episodes", "2"]
MISSING = ["ether_12-bound", "ether_12-a2c-0", "ether_12-ppo-1", "ether_12-a2c-2"]
ABOUT = {"decisions": 600, "seeds": 3, "episodes": 8}


def written(docs: Path, offsets: dict[str, float], *, bound: float = 10.0) -> Data:
    """Write data of `ether_12`, in which a policy's score is an episode's plus an offset, and return them.

    A name with a number of seeds behind a colon has so many; without, it is a rule.
    """
    rng = np.random.default_rng(0)
    base, rows, pieces = 30 + rng.normal(size=8), [], []
    for called, offset in offsets.items():
        name, _, seeds = called.partition(":")
        for seed in range(int(seeds)) if seeds else [None]:
            noise = 0.01 * rng.normal(size=8)
            for episode, value in enumerate(base + offset + noise):
                about = {"environment": "ether_12", "policy": name, "training_seed": seed, "episode": episode}
                rows.append(about | dict.fromkeys(METRICS, value))
            if seeds and not name.endswith("(sampled)"):
                pieces.append(
                    {"environment": "ether_12", "fingerprint": "f", "method": name, "seed": seed, "decisions": 600}
                    | {"chosen": f"size_interval:{seed}", "training_cpu_s": 2.0, "playing_cpu_s": 1.0, "load": 3.0}
                )
    of_bound = {"environment": "ether_12", "policy": "bound", "score_mean_s": bound}
    rows += [of_bound | {"episode": episode} for episode in range(8)]
    (docs / "images").mkdir(parents=True)
    pd.DataFrame(rows).to_csv(docs / EPISODES, index=False)
    machine = {"cpus": 2, "processor": "test", "python": "3"}
    record = {"budget": ABOUT, "machine": machine, "missing": MISSING, "pieces": pieces}
    (docs / RECORD).write_text(json.dumps(record))
    return Data(docs)


def test_findings_say_who_won_by_how_much_and_who_did_not(tmp_path: Path) -> None:
    offsets = {"tuned_rule:3": 0.0, "size_interval": 0.5, "local": 90.0, "droo:3": 4.0, "mappo:3": -5.0}
    text = findings(written(tmp_path, offsets | {"mappo (sampled):3": 0.0}))
    assert text[0] == (
        "Over all environments, 1 of 3 learned policies score certainly lower than the tuned rule, and 1 certainly "
        "higher."
    )
    assert text[1] == (
        "**ether_12**: of 3 learned policies, 1 score certainly lower than `tuned_rule` (`mappo`), 1 certainly higher "
        "(`droo`), and 1 show no certain difference."
    )
    assert (
        "(`mappo`), 4.99 s lower than the 30.3 s of `tuned_rule`. The best rule without tuning, `size_interval`"
        in text[2]
    )
    assert "No policy can score below 10 s in ether_12. `tuned_rule` is at 3.03 times" in text[3]
    assert "it closes 25 % of the gap" in text[3]


def test_where_the_rule_wins_the_findings_say_so(tmp_path: Path) -> None:
    text = findings(written(tmp_path, {"tuned_rule:3": 0.0, "size_interval": 0.5, "droo:3": 4.0, "mappo:3": 5.0}))
    assert "0 of 2 learned policies score certainly lower than the tuned rule, and 2 certainly higher" in text[0]
    assert "0 score certainly lower than `tuned_rule` (none), 2 certainly higher (`droo`, `mappo`)" in text[1]
    assert "(`droo`), 4.01 s higher than" in text[2]
    assert "closes 0 % of the gap" in text[3]


def test_a_method_with_one_training_seed_is_not_judged(tmp_path: Path) -> None:
    data = written(tmp_path, {"tuned_rule:3": 0.0, "size_interval": 0.5, "droo:1": -9.0, "mappo:3": -5.0})
    assert "1 of 1 learned policies score certainly lower" in findings(data)[0]
    page = page_of(data)
    assert "the method is not judged: `droo`." in page
    assert "| droo " in page
    assert "| droo - tuned_rule" not in page


def test_a_page_is_made_of_its_data_alone(tmp_path: Path) -> None:
    written(tmp_path, {"tuned_rule:3": 0.0, "size_interval": 0.5, "droo:3": 4.0})
    assert main(["--page", "--docs", str(tmp_path)]) == 0
    page = (tmp_path / PAGE).read_text()
    assert page == page_of(Data(tmp_path))
    assert "Not run yet: `bound` in ether_12; `a2c` in ether_12 (seeds 0, 2); `ppo` in ether_12 (seed 1)." in page
    assert "`tuned_rule`, by training seed: `size_interval:0`, `size_interval:1`, `size_interval:2`." in page
    assert "Budget: 600 decisions per training, 3 training seeds, 8 held-out episodes. Machine: one core of 2" in page
    assert (tmp_path / "images/hype_ether_12.png").stat().st_size > 5000
    rows = pd.read_csv(tmp_path / EPISODES)
    rows.loc[rows["policy"] == "droo", "score_mean_s"] -= 8
    rows.to_csv(tmp_path / EPISODES, index=False)
    assert page_of(Data(tmp_path)) != page
    (tmp_path / EPISODES).write_text("a,b\n1,2\n")
    with pytest.raises(ConfigError, match=r"hype_episodes\.csv: not the data of the study"):
        write_page(tmp_path)
    (tmp_path / RECORD).unlink()
    assert main(["--page", "--docs", str(tmp_path)]) == 2


def test_the_page_in_the_docs_is_that_of_its_data() -> None:
    data = Data(DOCS)
    assert (DOCS / PAGE).read_text(encoding="utf-8") == page_of(data)
    for environment in data.environments:
        assert (DOCS / f"images/hype_{environment}.png").is_file()


def test_a_study_is_collected_as_far_as_it_has_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "environment_of", lambda _: short_environment())
    folder, docs = tmp_path / "study", tmp_path / "docs"
    assert main(["--folder", str(folder), "--collect", "--docs", str(docs), *SIZE]) == 2
    (folder / run.PIECES).mkdir(parents=True)
    budget, rng, scores = Budget(600, 2, 2), np.random.default_rng(0), {}
    costs = {"decisions": 600, "training_cpu_s": 1.0, "playing_cpu_s": 1.0, "load": [2.0, 1.0, 1.0], "chosen": None}
    for method, policy, seed in (("rules", "local", None), ("genetic", "genetic", 0), ("genetic", "genetic", 1)):
        piece = Piece("geometric_20", method, seed)
        figures = {policy: {metric: rng.random(2).tolist() for metric in METRICS}}
        run.file_of(folder, piece).write_text(json.dumps(run.identity(piece, budget) | costs | {"figures": figures}))
        scores[policy] = [*scores.get(policy, []), figures[policy]["score_p95_s"]]
    assert main(["--folder", str(folder), "--collect", "--docs", str(docs), *SIZE]) == 0
    data = Data(docs)
    assert (data.environments, learned_of(data.comparison("geometric_20"))) == (["geometric_20"], ["genetic"])
    assert len(data.record["missing"]) == len(list(pieces(budget))) - 3
    for policy, values in scores.items():
        found = data.comparison("geometric_20").matrix(policy, "score_p95_s")
        assert found == pytest.approx(np.array(values), rel=1e-6)
    assert np.isnan(data.bound("geometric_20"))
    assert data.costs("geometric_20", "genetic") == (600, 1.0)
    path = run.file_of(folder, Piece("geometric_20", "genetic", 0))
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 7'))
    assert main(["--folder", str(folder), "--collect", "--docs", str(docs), *SIZE]) == 2
