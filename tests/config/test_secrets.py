"""A password in a config reaches no file and no message: it is refused, by its field, with what to use instead."""

from pathlib import Path

import pytest
import yaml

from dmsae_ray.cli.commands import main
from dmsae_ray.config.experiment import parse_experiment
from dmsae_ray.config.secrets import holds_secret, redacted
from dmsae_ray.errors import ConfigError
from dmsae_ray.tracking.destination import Destination

SECRET = "wJalrXUtnFEMI"

HOLD = [
    f"s3://AKIA:{SECRET}@bucket/runs",
    f"s3://AKIA:{SECRET}/with/slashes@bucket/runs",
    f"s3://AKIA:an&d{SECRET}@bucket/runs",
    f"s3://bucket/runs?region=x&secret_key={SECRET}",
    f"s3://bucket/runs?access_key=AKIA&secret_key={SECRET}",
    f"gs://bucket/x?access_token={SECRET}",
    f"abfs://container@account.dfs.core.windows.net/x?sas_token={SECRET}",
    f"https://me:{SECRET}@host",
    f"https://me:{SECRET}@host:5000/base",
    f"https://host/base?sig={SECRET}",
    f"postgresql://me:{SECRET}@host:5432/db",
    f"simplecache::s3://AKIA:{SECRET}@bucket/x",
]
FREE = [
    "dmsae-runs",
    "/tmp/a:b@c",
    "s3://bucket/runs?region=us-east-1&endpoint_override=127.0.0.1:9000&scheme=http",
    "s3://bucket/runs?endpoint_override=http://127.0.0.1:9000&region=us-east-1",
    "s3://bucket/a:b@c",
    "https://me@host:5000",
    "http://[::1]:5000/x",
    "http://host:5000/a=b",
    "hf://datasets/org/name@main/data",
    "gs://anonymous@bucket/x?retry_limit_seconds=10",
    "org/name",
    "sqlite:////tmp/mlflow.db",
]


@pytest.mark.parametrize("uri", HOLD)
def test_a_secret_is_seen_and_hidden(uri: str) -> None:
    assert holds_secret(uri)
    assert SECRET not in redacted(f"it said: {uri} and stopped")


@pytest.mark.parametrize("uri", FREE)
def test_other_places_are_left_alone(uri: str) -> None:
    assert not holds_secret(uri) and redacted(uri) == uri


@pytest.mark.parametrize("uri", HOLD)
@pytest.mark.parametrize(
    ("section", "field"),
    [(None, "output"), ("corpus", "path"), ("tracking", "uri"), ("transfer", "core"), ("model", "name")],
)
def test_every_place_of_a_config_refuses_it(section: str | None, field: str, uri: str) -> None:
    tree = {"name": "x", **({section: {field: uri}} if section else {field: uri})}
    with pytest.raises(ConfigError) as error:
        parse_experiment(tree)
    said = str(error.value)
    assert SECRET not in said and "\n" not in said
    assert said.startswith(f"{section}.{field}" if section else field) and "in the environment" in said
    wanted = "MLFLOW_TRACKING_PASSWORD" if section == "tracking" else "AWS_SECRET_ACCESS_KEY"
    assert wanted in said or not uri.startswith("s3")


@pytest.mark.parametrize("tracking", ["[{}]", "{{uri: [{}]}}", "{{url: {}}}", "{}"])
def test_not_even_where_something_else_is_wrong(tracking: str) -> None:
    tree = {"name": "x", "tracking": yaml.safe_load(tracking.format(f"'{HOLD[6]}'"))}
    with pytest.raises(ConfigError) as error:
        parse_experiment(tree)
    assert SECRET not in str(error.value)
    with pytest.raises(ConfigError) as error:
        parse_experiment({"name": "x", "corpus": {"source": "stdlib", "path": HOLD[0]}})
    assert SECRET not in str(error.value)


@pytest.mark.parametrize(
    "override", [f"output={HOLD[0]}", f"tracking.uri={HOLD[6]}", f"output {HOLD[0]}", f"name.x={HOLD[0]}"]
)
def test_nothing_is_written_and_nothing_told(
    override: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_text("name: x\nmodel: {name: tiny, layer: 1}\ncorpus: {source: stdlib}\n")
    assert main(["sweep", "x.yaml", "--set", override]) == 2
    out, err = capfd.readouterr()
    assert SECRET not in out + err and len(err.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["x.yaml"]


def test_a_torn_file_is_not_quoted(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.yaml").write_text(f"name: x\noutput: {HOLD[0]}: [\n")
    assert main(["plan", str(tmp_path / "x.yaml")]) == 2
    assert SECRET not in capfd.readouterr().err


@pytest.mark.parametrize("uri", [uri for uri in HOLD if uri.startswith(("http", "post"))])
def test_a_server_named_by_the_environment_is_shown_without_its_password(uri: str) -> None:
    assert SECRET not in Destination(uri).shown
