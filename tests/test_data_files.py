"""Data files are found from the file that names them, count in the fingerprint, and are read in any common form."""

from __future__ import annotations

import gzip
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.environments import small_environment
from pydantic import BaseModel

from offload_rllib.config import ConfigError, load_environment, presets
from offload_rllib.config.base import names_a_file
from offload_rllib.config.fingerprint import fingerprint
from offload_rllib.scenario import BuiltScenario, build_scenario

FOLDER = presets("envs")["edge_list_7"].parent
# A preset of each kind of data file, and the keys that name them.
NAMED = {
    "edge_list_7": ("topology.nodes_path", "topology.links_path"),
    "graphml_7": ("topology.path",),
    "backbone_9": ("topology.path",),
    "ether_json_6": ("topology.path",),
    "replay_4": ("workload.arrivals.path",),
}
KEYS = [(preset, key) for preset, keys in NAMED.items() for key in keys]
PRESETS = {path.stem: path for kind in ("envs", "policies") for path in presets(kind).values()}


def at(content: Any, key: str) -> Any:
    """Return the value of a key `a.b`."""
    for part in key.split("."):
        content = content[part]
    return content


def own_copy(preset: str, folder: Path) -> Path:
    """Return a copy of a preset, with its data files beside it under names that are relative to it."""
    content = yaml.safe_load(presets("envs")[preset].read_text())
    for key in NAMED[preset]:
        name = at(content, key)
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(FOLDER / name, folder / name)
    path = folder / "own.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def models(model: type[BaseModel], seen: set[type[BaseModel]]) -> set[type[BaseModel]]:
    """Return all models that a model is made of."""
    if model not in seen:
        seen.add(model)
        for field in model.model_fields.values():
            for option in leaves(field.annotation):
                models(option, seen)
    return seen


def leaves(annotation: Any) -> list[type[BaseModel]]:
    """Return the models in an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for option in getattr(annotation, "__args__", ()) for model in leaves(option)]


def test_every_key_that_names_a_file_is_known_as_such() -> None:
    from offload_rllib.config.environment import EnvironmentConfig

    found = {
        (model.__name__, name)
        for model in models(EnvironmentConfig, set())
        for name, field in model.model_fields.items()
        if name == "path" or name.endswith("_path")
    }
    known = {
        (model.__name__, name)
        for model in models(EnvironmentConfig, set())
        for name, field in model.model_fields.items()
        if names_a_file(field)
    }
    assert found == known
    assert len(known) == 10


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_version_of_a_preset_has_its_history(name: str) -> None:
    text = PRESETS[name].read_text()
    version = yaml.safe_load(text).get("version", 1)
    history = "".join(line.partition("#")[2] for line in text.splitlines() if line.startswith("version:"))
    assert version == 1 or [int(number) for number in re.findall(r"(\d+):", history)] == list(range(1, version + 1))


def test_a_version_makes_no_other_environment() -> None:
    assert fingerprint(load_environment("ether_12", ["version=7"])) == fingerprint(load_environment("ether_12"))


@pytest.mark.parametrize(("preset", "key"), KEYS)
def test_the_fingerprint_depends_on_what_is_in_a_file_and_not_on_its_place(
    preset: str, key: str, tmp_path: Path
) -> None:
    own = own_copy(preset, tmp_path)
    before = fingerprint(load_environment(own))
    assert before == fingerprint(load_environment(preset))
    file = Path(at(load_environment(own).model_dump(), key))
    file.write_text(file.read_text() + "\n")
    assert fingerprint(load_environment(own)) != before


@pytest.mark.parametrize("preset", NAMED)
def test_files_are_relative_to_the_yaml_file_from_wherever_it_is_loaded(
    preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own").mkdir()
    elsewhere = tmp_path / "elsewhere"
    own, decoy = own_copy(preset, tmp_path / "own"), own_copy(preset, tmp_path)
    for key in NAMED[preset]:
        Path(at(load_environment(decoy).model_dump(), key)).write_text("something else")
    expected = build_scenario(load_environment(preset)).network
    for folder, source in ((tmp_path, "own/own.yaml"), (tmp_path, preset), (elsewhere, str(own)), (tmp_path, own)):
        folder.mkdir(exist_ok=True)
        monkeypatch.chdir(folder)
        loaded = load_environment(source)
        monkeypatch.chdir(elsewhere) if elsewhere.is_dir() else None
        assert build_scenario(load_environment(loaded.model_dump(mode="json"))).network == expected
        assert build_scenario(loaded).network == expected


@pytest.mark.parametrize(("preset", "key"), KEYS)
def test_a_file_that_is_missing_is_named_when_the_configuration_is_loaded(
    preset: str, key: str, tmp_path: Path
) -> None:
    own = own_copy(preset, tmp_path)
    Path(at(load_environment(own).model_dump(), key)).unlink()
    with pytest.raises(ConfigError, match=rf"own.yaml: {key}: no such file: {tmp_path}/"):
        load_environment(own)
    with pytest.raises(ConfigError, match=rf"{key}: no such file: .*/envs/nowhere.csv \(given: 'preset:nowhere.csv'\)"):
        load_environment(preset, [f"{key}=preset:nowhere.csv"])


def test_a_file_of_an_override_is_relative_to_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copyfile(FOLDER / "replay_4.csv", tmp_path / "mine.csv")
    monkeypatch.chdir(tmp_path)
    config = load_environment("replay_4", ["workload.arrivals.path=mine.csv"])
    assert at(config.model_dump(), "workload.arrivals.path") == str(tmp_path / "mine.csv")
    assert fingerprint(config) == fingerprint(load_environment("replay_4"))


def with_table(path: Path) -> dict[str, Any]:
    """Return a small environment with rates from a table."""
    environment = small_environment()
    environment["workload"]["arrivals"] = {"kind": "table", "path": str(path)}
    return environment


def with_trace(path: Path) -> dict[str, Any]:
    """Return a small environment with jobs of a trace."""
    environment = small_environment(score={"drop_s": 40})
    load = {"tasks_per_second_per_client": 1.0}
    environment["workload"] = {"jobs": {"kind": "alibaba", "path": str(path)}, "load": load}
    return environment


RATES = "time_s,level\n0,1\n20,3\n"
OWN_TRACE = "M1,1,j_2,1,Terminated,100,110,100.00,0.3\nM1,1,j_1,1,Terminated,100,110,50.00,0.3\n"
GENERATED = "7,j_2,M1,3,100,0.3,1\n3,j_1,M1,2,50,0.2,1\n"
OWN = {"table": (RATES, with_table), "trace": (OWN_TRACE, with_trace), "generated": (GENERATED, with_trace)}
FORMS = {
    "gzip": gzip.compress,
    "byte order mark": lambda content: b"\xef\xbb\xbf" + content,
    "both": lambda content: gzip.compress(b"\xef\xbb\xbf" + content),
}


def what_is_read(scenario: BuiltScenario) -> list[Any]:
    """Return what a data file says in a scenario."""
    arrays = scenario.arrays
    return [scenario.network, *(a.tolist() for a in (arrays.recording, arrays.rate_piece, arrays.job))]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("what", [*NAMED, "table", "trace", "generated"])
def test_compressed_and_marked_files_are_read_as_what_they_hold(
    form: str, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OFFLOAD_RLLIB_CACHE", str(tmp_path / "cache"))
    if what in NAMED:
        source: Any = own_copy(what, tmp_path)
        files = [Path(at(load_environment(source).model_dump(), key)) for key in NAMED[what]]
    else:
        files = [tmp_path / "file.csv"]
        text, make = OWN[what]
        files[0].write_text(text)
        source = make(files[0])
    expected = what_is_read(build_scenario(load_environment(source)))
    for file in files:
        file.write_bytes(FORMS[form](file.read_bytes()))
    assert what_is_read(build_scenario(load_environment(source))) == expected


def test_a_recording_may_be_called_csv_gz(tmp_path: Path) -> None:
    path = tmp_path / "recording.csv.gz"
    path.write_bytes(gzip.compress((FOLDER / "replay_4.csv").read_bytes()))
    config = load_environment("replay_4", [f"workload.arrivals.path={path}"])
    assert len(build_scenario(config).arrays.recording) > 0


@pytest.mark.parametrize("what", OWN)
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: gzip.compress(content)[:-10], r"file.csv: damaged gzip file"),
        (lambda content: b"\x1f\x8b" + content, r"file.csv: cannot be read: "),
        (lambda content: content + b"\xff\xfe", r"file.csv: "),
    ],
    ids=["cut off", "no gzip", "no UTF-8"],
)
def test_files_that_are_damaged_are_named(what: str, damage: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "file.csv"
    text, make = OWN[what]
    path.write_bytes(damage(text.encode()))
    with pytest.raises(ConfigError, match=message):
        build_scenario(load_environment(make(path)))


def test_defaults_of_graphml_attributes_hold(tmp_path: Path) -> None:
    own = own_copy("graphml_7", tmp_path)
    path = Path(at(load_environment(own).model_dump(), "topology.path"))
    text = path.read_text()
    key = next(line for line in text.splitlines() if 'attr.name="cores"' in line)
    path.write_text(
        text.replace(key, key.replace("/>", "><default>3</default></key>")).replace('<data key="cores">1</data>', "")
    )
    cores = [node.cores for node in build_scenario(load_environment(own)).network.nodes]
    assert cores == [3, 3, 3, 3, 4, 4, 16]
