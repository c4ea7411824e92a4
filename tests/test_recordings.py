"""Recorded arrivals are replayed as they are, and files that cannot be are refused by file, row and column."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from helpers.environments import make_env, small_environment

from offload_rllib.config import ConfigError, load_environment
from offload_rllib.config.fingerprint import fingerprint
from offload_rllib.envs.vector import VectorEnv, held_out_keys
from offload_rllib.scenario import build_scenario

HEADER = "t,who,ops,mb_in,mb_out,wanted,first\n"
ROWS = (
    "0,a,5e5,0.01,0.02,,\n",
    "0.5,c,1e6,0.02,0,7.5,\n",
    "0.5,a,2e6,0,0,3,b\n",
    "0.5,a,3e6,0,0,4,\n",
    "12.25,c,0,0.1,0,0.5,d\n",
    "39,a,1e5,0,0,,a\n",
)
COLUMNS = {
    "time": "t",
    "origin": "who",
    "work": "ops",
    "bits_in": {"column": "mb_in", "factor": 8e6},
    "bits_out": {"column": "mb_out", "factor": 8e6},
    "deadline": "wanted",
    "node": "first",
}


def replaying(file: Path | str, **changes: Any) -> dict[str, Any]:
    """Return the small environment with arrivals from a file."""
    environment = small_environment()
    arrivals: dict[str, Any] = {"kind": "replay", "path": str(file), "columns": COLUMNS}
    environment["workload"] = {"arrivals": arrivals | changes}
    environment["score"] = {"drop_s": 1000}
    return environment


def played(env: VectorEnv, heuristic: str = "random") -> np.ndarray:
    """Play an episode and return its log by time, then origin."""
    done = False
    while not done:
        done = env.step(env.heuristic_actions(heuristic))
    log = env.task_log(0)
    return log[np.lexsort((log["origin"], log["created_s"]))]


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """A small file of arrivals."""
    path = tmp_path / "arrivals.csv"
    path.write_text(HEADER + "".join(ROWS))
    return path


def test_every_row_becomes_the_task_that_it_says(recording: Path) -> None:
    log = played(make_env(replaying(recording), log=True))
    assert log["created_s"].tolist() == [0, 0.5, 0.5, 0.5, 12.25, 39]
    assert log["origin"].tolist() == [0, 0, 0, 2, 2, 0]
    assert log["work"].tolist() == [5e5, 2e6, 3e6, 1e6, 0, 1e5]
    assert log["bits_in"].tolist() == [8e4, 0, 0, 1.6e5, 8e5, 0]
    assert log["bits_out"].tolist() == [1.6e5, 0, 0, 0, 0, 0]
    assert log["deadline_s"].tolist() == [np.inf, 3.5, 4.5, 8, 12.75, np.inf]


def test_a_task_enters_at_the_node_that_its_row_names(recording: Path) -> None:
    log = played(make_env(replaying(recording), log=True), "local")
    assert log["node"].tolist() == [0, 1, 0, 2, 3, 0]
    # At b, 2e6 instructions at 2e6 a second, decided at 1 s; the result has no way to go.
    assert log["ended_s"][1] == 2.0
    assert log["hops"][1] == 0


def test_parquet_and_csv_are_the_same(recording: Path, tmp_path: Path) -> None:
    table = pyarrow.csv.read_csv(recording)
    pyarrow.parquet.write_table(table, tmp_path / "arrivals.parquet")
    from_csv = played(make_env(replaying(recording), log=True))
    assert (played(make_env(replaying(tmp_path / "arrivals.parquet"), log=True)) == from_csv).all()


def test_speed_divides_the_times_between_arrivals(recording: Path) -> None:
    log = played(make_env(replaying(recording, speed=2), log=True))
    assert log["created_s"].tolist() == [0, 0.25, 0.25, 0.25, 6.125, 19.5]
    log = played(make_env(replaying(recording, speed=0.5), log=True))
    assert log["created_s"].tolist() == [0, 1, 1, 1, 24.5]


def test_a_random_start_plays_a_window_of_the_recording(tmp_path: Path) -> None:
    path = tmp_path / "arrivals.csv"
    path.write_text("time_s,origin,work\n" + "".join(f"{i / 4},{'ac'[i % 2]},{i}\n" for i in range(400)))
    columns = {"origin": "origin", "work": "work"}
    env = make_env(replaying(path, columns=columns, start="random"), log=True)
    starts = []
    for episode in range(30):
        env.reset(held_out_keys(episode, 1))
        log = played(env)
        first = log["work"][0]
        assert (log["work"] == first + np.arange(len(log))).all()
        start_s = first / 4 - log["created_s"][0]
        assert log["created_s"] == pytest.approx(log["work"] / 4 - start_s, abs=1e-12)
        assert len(log) in (160, 161)
        starts.append(start_s)
    assert min(starts) >= 0
    assert max(starts) <= 99.75 - 40
    assert max(starts) - min(starts) > 36


def test_rows_without_sizes_or_origin_draw_them(tmp_path: Path) -> None:
    path = tmp_path / "arrivals.csv"
    path.write_text("time_s\n" + "".join(f"{i / 100}\n" for i in range(4000)))
    environment = replaying(path, columns={})
    workload = small_environment()["workload"]
    environment["workload"] |= {"jobs": workload["jobs"], "deadline_s": workload["deadline_s"]}
    log = played(make_env(environment, log=True))
    assert log["created_s"].tolist() == [i / 100 for i in range(4000)]
    assert 0.45 < (log["origin"] == 0).mean() < 0.55
    assert set(log["origin"]) == {0, 2}
    assert len(np.unique(log["work"])) > 2000
    assert ((log["deadline_s"] - log["created_s"] >= 2) & (log["deadline_s"] - log["created_s"] < 12)).all()
    # Another client takes rows from the others, and leaves them the rest.
    environment["topology"]["nodes"][1]["client"] = True
    more = played(make_env(environment, log=True))
    assert ((more["origin"] == log["origin"]) | (more["origin"] == 1)).all()


def test_the_load_is_that_of_the_rows_that_are_played(recording: Path) -> None:
    load = build_scenario(load_environment(replaying(recording))).load
    assert load.rate_per_client * 2 * 40 == pytest.approx(6)
    assert load.rho_of_all_tasks == pytest.approx((5e5 + 1e6 + 2e6 + 3e6 + 1e5) / 40 / 8e6)
    # The task of 3e6 instructions wants to be back within 4 s: d, next to a, makes it.
    assert load.feasible_share == pytest.approx(1)
    slow = build_scenario(load_environment(replaying(recording, speed=0.5))).load
    assert slow.rate_per_client * 2 * 40 == pytest.approx(5)


def test_the_first_nodes_have_agents_too(recording: Path) -> None:
    environment = replaying(recording)
    environment["decisions"]["max_hops"] = 1
    assert build_scenario(load_environment(environment)).agents == ("a", "b", "c", "d")
    environment["workload"]["arrivals"]["columns"] = COLUMNS | {"node": None}
    assert build_scenario(load_environment(environment)).agents == ("a", "c")


def test_the_fingerprint_is_that_of_the_rows_not_of_the_path(recording: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.csv"
    elsewhere.write_text(recording.read_text())
    same = fingerprint(load_environment(replaying(recording)))
    assert fingerprint(load_environment(replaying(elsewhere))) == same
    elsewhere.write_text(recording.read_text().replace("12.25", "12.5"))
    assert fingerprint(load_environment(replaying(elsewhere))) != same


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("0.4,a,1,0,0,,\n", r"row 7: column 't': 0.4 s comes after 39 s; rows must be in order"),
        ("-1,a,1,0,0,,\n", r"row 7: column 't': '-1'; accepted: finite numbers from 0 up to 1e\+30"),
        (",a,1,0,0,,\n", r"row 7: column 't': no value"),
        ("noon,a,1,0,0,,\n", r"row 7: column 't': 'noon' is not a number"),
        ("39,a,nan,0,0,,\n", r"row 7: column 'ops': 'nan'; accepted: finite"),
        ("39,a,1,inf,0,,\n", r"row 7: column 'mb_in': 'inf'; accepted: finite"),
        ("39,a,1,0,,,\n", r"row 7: column 'mb_out': no value"),
        ("39,a,1,0,0,-2,\n", r"row 7: column 'wanted': '-2'; accepted"),
        ("39,e,1,0,0,,\n", r"row 7: column 'who': no node is named 'e'.*Accepted: a, b, c, d"),
        ("39,,1,0,0,,\n", r"row 7: column 'who': no name"),
        ("39,b,1,0,0,,\n", r"row 7: column 'who': node 'b' has no client. Accepted: a, c"),
        ("39,a,1,0,0,,x\n", r"row 7: column 'first': no node is named 'x'"),
        ("39,a,1,0,0\n", r"cannot be read: .*Expected 7 columns, got 5"),
    ],
)
def test_rows_that_cannot_be(recording: Path, row: str, message: str) -> None:
    recording.write_text(HEADER + "".join(ROWS) + row)
    with pytest.raises(ConfigError, match=r"arrivals.csv: " + message):
        build_scenario(load_environment(replaying(recording)))


def test_numbers_of_parquet_files_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "arrivals.parquet"
    table = {"t": [0.0, float("nan")], "who": ["a", "c"], "ops": [1, 2]}
    columns = {"time": "t", "origin": "who", "work": "ops"}
    pyarrow.parquet.write_table(pa.table(table), path)
    with pytest.raises(ConfigError, match=r"arrivals.parquet: row 2: column 't': nan; accepted"):
        build_scenario(load_environment(replaying(path, columns=columns)))
    pyarrow.parquet.write_table(pa.table(table | {"t": [0, 1], "ops": [1, None]}), path)
    with pytest.raises(ConfigError, match=r"arrivals.parquet: row 2: column 'ops': no value"):
        build_scenario(load_environment(replaying(path, columns=columns)))
    path.write_bytes(b"PAR1 not really")
    with pytest.raises(ConfigError, match=r"arrivals.parquet: cannot be read"):
        build_scenario(load_environment(replaying(path, columns=columns)))


def test_parquet_files_that_are_damaged_or_of_other_types_are_named(tmp_path: Path) -> None:
    path = tmp_path / "arrivals.parquet"
    columns = {"time": "t", "origin": "who", "work": "ops"}
    rows = {"t": [0.0, 1.0], "who": ["a", "c"], "ops": [1, 2]}
    times = pa.array([0, 1], pa.timestamp("s"))
    for changes, message in (
        ({"who": [["a"], ["c"]]}, r"column 'who': holds list<.*>; accepted: names of nodes"),
        ({"t": times}, r"row 1: column 't': datetime.* is not a number"),
        ({"ops": ["1", "many"]}, r"row 2: column 'ops': 'many' is not a number"),
    ):
        pyarrow.parquet.write_table(pa.table(rows | changes), path)
        with pytest.raises(ConfigError, match=r"arrivals.parquet: " + message):
            build_scenario(load_environment(replaying(path, columns=columns)))
    long = {"t": np.arange(50_000.0), "who": ["a"] * 50_000, "ops": np.random.default_rng(0).random(50_000)}
    pyarrow.parquet.write_table(pa.table(long), path)
    whole = path.read_bytes()
    path.write_bytes(whole[:4] + b"\xff" * 200_000 + whole[200_004:])
    with pytest.raises(ConfigError, match=r"arrivals.parquet: cannot be read"):
        build_scenario(load_environment(replaying(path, columns=columns)))


def test_a_spreadsheets_mark_is_no_part_of_the_first_column(recording: Path) -> None:
    expected = build_scenario(load_environment(replaying(recording))).arrays.recording
    recording.write_text(recording.read_text(), encoding="utf-8-sig")
    assert (build_scenario(load_environment(replaying(recording))).arrays.recording == expected).all()


def test_files_and_keys_that_cannot_be(recording: Path, tmp_path: Path) -> None:
    jobs = small_environment()["workload"]["jobs"]
    folder = tmp_path / "folder.csv"
    folder.mkdir()
    for changes, message in (
        ({"path": "nowhere.csv"}, r"arrivals.path: no such file: /.*nowhere.csv"),
        ({"path": str(tmp_path)}, r"no such file"),
        ({"path": str(folder)}, r"no such file: .*folder.csv"),
        ({"columns": COLUMNS | {"work": "opps"}}, r"arrivals.csv: column 'opps' is missing. Did you mean 'ops'\?"),
        ({"columns": COLUMNS | {"work": None}}, r"columns: bits_in needs a column for the work"),
        ({"columns": COLUMNS | {"colour": "x"}}, r"columns.colour: unknown key"),
        ({"start": "random"}, r"start: random: an episode plays 40 s of the recording .* lasts 39 s"),
        ({"speed": 0}, r"arrivals.speed: .*greater than 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            build_scenario(load_environment(replaying(recording, **changes)))
    for more, message in (
        ({"jobs": jobs}, r"workload: jobs: not with arrivals.columns.work"),
        ({"load": {"rho": 1}}, r"workload: load: not with a recording"),
    ):
        environment = replaying(recording)
        environment["workload"] |= more
        with pytest.raises(ConfigError, match=message):
            load_environment(environment)
    for content, message in (("", "'t' is missing"), (HEADER, "holds no arrivals"), ("t,t\n", "more than once")):
        recording.write_text(content)
        with pytest.raises(ConfigError, match=message):
            build_scenario(load_environment(replaying(recording)))
    recording.write_text(HEADER + "50,a,1,0,0,,\n")
    with pytest.raises(ConfigError, match=r"first task comes after horizon_s \(40\)"):
        build_scenario(load_environment(replaying(recording)))


def test_a_path_is_relative_to_the_file_that_names_it(recording: Path, tmp_path: Path) -> None:
    import yaml

    (tmp_path / "environment.yaml").write_text(yaml.safe_dump(replaying("arrivals.csv")))
    config = load_environment(tmp_path / "environment.yaml")
    assert config.workload.arrivals.path == str(recording)  # pyright: ignore[reportAttributeAccessIssue]
    assert load_environment(config.model_dump(mode="json")) == config
