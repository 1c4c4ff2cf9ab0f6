"""Write journal records into MLflow: find or make the run of each record, and send batches within MLflow's limits.

It uses only `MlflowClient` with explicit run ids, so a global run or MLFLOW_RUN_ID in the environment has no effect.
Delivering a record twice is harmless: a metric is one row by (run, key, step, time, value), a parameter keeps its
value, and a run is looked for by its tags before it is made.
"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from dmsae_ray.errors import ConfigError, one_line
from dmsae_ray.tracking.journal import Record
from dmsae_ray.tracking.names import RunName
from dmsae_ray.tracking.troubles import reason_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

log = logging.getLogger(__name__)

SWEEP_TAG = "dmsae.sweep_id"
JOURNAL_TAG = "dmsae.journal"
TRIAL_TAG = "dmsae.trial_id"
ROOT_TAG = "dmsae.sweep_run"
KIND_TAG = "dmsae.kind"
PARENT_TAG = "mlflow.parentRunId"

RUN_ID = "{run_id}"
"""Stands in the value of a tag for the id of its run, which depends on the store."""

METRICS_PER_REQUEST = 1000
OTHERS_PER_REQUEST = 100
"""MLflow's limits for one request: numbers; parameters, and tags."""

# Errors for which a retry is useless: the server would answer the same. Any other error may pass.
_FINAL = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "BAD_REQUEST", "NOT_FOUND")


class MlflowSink:
    """The runs of one sweep in one MLflow store: a parent run, and below it those of trials and trainings."""

    def __init__(self, client: "MlflowClient", experiment: str, parent: str, sweep_dir: Path) -> None:
        """Find the runs that exist.

        Args:
            client: Client of the store.
            experiment: Id of the MLflow experiment.
            parent: Id of the parent run.
            sweep_dir: The sweep folder; files are named relative to it.
        """
        self.parent = parent
        self.experiment = experiment
        self.refused = 0
        self._client = client
        self._sweep_dir = sweep_dir
        self._runs: dict[str | None, str] = {None: parent}
        self._late: set[str] = set()
        self._files: dict[str, ArtifactRepository] = {}
        for query in (f"tags.`{PARENT_TAG}` = '{parent}'", f"tags.`{ROOT_TAG}` = '{parent}'"):
            for run in _search(client, experiment, query):
                self._runs[run.data.tags.get(TRIAL_TAG, run.info.run_id)] = run.info.run_id

    def has(self, run: str | None) -> bool:
        """Return whether there is such a run."""
        return run in self._runs

    def deliver(self, records: list[Record]) -> list[Record]:
        """Write records, in their order within each run.

        A record that the server refuses for good is reported in the log and left out.

        Returns:
            Files that could not be sent now. Nothing else waits for them.

        Raises:
            Exception: The server did not answer or had an error; all of `records` may be delivered again.
        """
        by_run: dict[str | None, list[Record]] = {}
        files: dict[tuple[str | None, str], Record] = {}
        for record in records:
            if record.kind == "artifact":
                files[record.run, record.key] = record  # of several versions, the last
            else:
                by_run.setdefault(record.run, []).append(record)
        for run, own in by_run.items():
            run_id = self._run_of(run, own[0].time)
            for part in _requests(own):
                self._write(run_id, part)
        return [record for record in files.values() if not self._uploaded(record)]

    def save_views(self, tags: "list[tuple[str, str]]") -> None:
        """Set tags of the experiment."""
        for name, value in tags:
            self._client.set_experiment_tag(self.experiment, name, value)

    def _write(self, run_id: str, records: list[Record]) -> None:
        try:
            self._request(run_id, records)
        except Exception as error:
            if getattr(error, "error_code", None) not in _FINAL:
                raise
            if len(records) > 1:  # find the refused one; the others are accepted
                middle = len(records) // 2
                self._write(run_id, records[:middle])
                self._write(run_id, records[middle:])
                return
            self.refused += 1
            log.warning("MLflow refused %s: %s", records[0].key, one_line(error, 200))

    def _request(self, run_id: str, records: list[Record]) -> None:
        """Send records in one request, see `_requests`."""
        from mlflow.entities import Dataset, DatasetInput, Metric, Param, RunTag

        first = records[0]
        if first.kind == "status":
            status = str(first.value)
            if status == "RUNNING":
                self._client.update_run(run_id, status=status)
            else:
                self._client.set_terminated(run_id, status, first.time)
        elif first.kind == "dataset":
            digest, _, source = str(first.value).partition(" ")
            data = Dataset(name=first.key, digest=digest, source_type="dmsae_ray", source=source)
            self._client.log_inputs(run_id, [DatasetInput(data)])
        else:
            metrics = [Metric(name, x, r.time, r.step) for r in records for name, x in r.metrics.items()]
            params = [Param(r.key, str(r.value)) for r in records if r.kind == "param"]
            last = {r.key: str(r.value).replace(RUN_ID, run_id) for r in records if r.kind == "tag"}
            tags = [RunTag(key, value) for key, value in last.items() if value]
            if params or tags:
                self._client.log_batch(run_id, params=params, tags=tags)
            for key in (key for key, value in last.items() if not value):
                self._untag(run_id, key)
            for start in range(0, len(metrics), METRICS_PER_REQUEST):
                self._client.log_batch(run_id, metrics[start : start + METRICS_PER_REQUEST])

    def _untag(self, run_id: str, key: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.delete_tag(run_id, key)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":  # an earlier request, whose answer was lost, took it
                raise

    def _uploaded(self, record: Record) -> bool:
        """Upload a file; return False if it is to be tried again."""
        path = self._sweep_dir / record.key
        if not path.is_file():
            log.warning("artifact %s is gone; it is not sent", record.key)
            return True
        folder = Path(record.key).parent
        # What lies in a trial's folder needs no folder in the trial's run.
        inside = record.run is None and not folder.is_absolute() and folder != Path(".")
        try:
            files = self._files_of(self._runs[record.run])
            files.log_artifact(str(path), folder.as_posix() if inside else None)  # type: ignore[no-untyped-call]
        except Exception as error:
            if record.key not in self._late:
                self._late.add(record.key)
                log.warning("artifact %s is not sent yet (%s); it is tried again", record.key, reason_of(error))
            return False
        self._late.discard(record.key)
        return True

    def _files_of(self, run_id: str) -> "ArtifactRepository":
        """Return where the files of a run are kept.

        MLflow's client remembers the place by the run's id for the whole process, but a copied output folder has the
        same runs in another place.
        """
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
        from mlflow.utils.uri import add_databricks_profile_info_to_artifact_uri

        if run_id not in self._files:
            store, place = self._client.tracking_uri, self._client.get_run(run_id).info.artifact_uri
            place = add_databricks_profile_info_to_artifact_uri(place, store)  # type: ignore[no-untyped-call]
            self._files[run_id] = get_artifact_repository(place, tracking_uri=store)
        return self._files[run_id]

    def _run_of(self, name: str | None, start_time: int) -> str:
        """Return the id of a run; make the run if there is none, and those above it."""
        if name is None or name in self._runs:
            return self._runs[name]
        run = RunName.of(name)
        above = self.parent if run.parent is None else self._run_of(run.parent, start_time)
        # An earlier request whose answer was lost may have made it.
        found = _search(
            self._client, self.experiment, f"tags.`{PARENT_TAG}` = '{above}' and tags.`{TRIAL_TAG}` = '{name}'"
        )
        if found:
            self._runs[name] = found[-1].info.run_id
        else:
            kind = "training" if run.cycle is not None else "control" if run.arm else "trial"
            tags = {PARENT_TAG: above, TRIAL_TAG: name, ROOT_TAG: self.parent, KIND_TAG: kind}
            made = self._client.create_run(self.experiment, start_time, tags, run_name=run.shown)
            self._runs[name] = made.info.run_id
        return self._runs[name]


def open_sink(
    client: "MlflowClient",
    experiment: str,
    artifacts: str | None,
    sweep_dir: Path,
    sweep_id: str,
    journal_id: str,
    start_time: int,
) -> MlflowSink:
    """Find or make the experiment and the parent run.

    Sweeps with the same id in two folders have different journals, and so a parent run each.

    Raises:
        ConfigError: The experiment is in MLflow's trash.
    """
    experiment_id = _experiment_id(client, experiment, artifacts)
    parent = find_sweep(client, experiment_id, sweep_id, journal_id)
    if parent is None:
        tags = {SWEEP_TAG: sweep_id, JOURNAL_TAG: journal_id, KIND_TAG: "sweep"}
        parent = client.create_run(experiment_id, start_time, tags, run_name=sweep_id).info.run_id
    return MlflowSink(client, experiment_id, parent, sweep_dir)


def find_sweep(client: "MlflowClient", experiment_id: str, sweep_id: str, journal_id: str) -> str | None:
    """Return the id of a sweep's run; None if there is none."""
    query = f"tags.`{SWEEP_TAG}` = '{sweep_id}' and tags.`{JOURNAL_TAG}` = '{journal_id}'"
    found = _search(client, experiment_id, query)
    return found[-1].info.run_id if found else None


def _search(client: "MlflowClient", experiment_id: str, query: str) -> "list[Run]":
    """Return all runs that match, newest first."""
    runs: list[Run] = []
    token: str | None = None
    while True:
        page = client.search_runs([experiment_id], query, page_token=token)
        runs += page
        token = page.token
        if not token:
            return runs


def _requests(records: list[Record]) -> list[list[Record]]:
    """Split the records of one run into requests: neighbours together, within MLflow's limits."""
    alone = ("status", "dataset")
    parts: list[list[Record]] = []
    metrics = others = 0
    for record in records:
        numbers = len(record.metrics)
        metrics, others = metrics + numbers, others + (not numbers)
        full = metrics > METRICS_PER_REQUEST or others > OTHERS_PER_REQUEST
        if not parts or full or record.kind in alone or parts[-1][-1].kind in alone:
            parts.append([])
            metrics, others = numbers, int(not numbers)
        parts[-1].append(record)
    return parts


def _experiment_id(client: "MlflowClient", name: str, artifacts: str | None) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=artifacts))
        except MlflowException:  # another sweep made it in the meantime
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        raise ConfigError(
            f"tracking.experiment is '{name}'; MLflow has it in its trash: "
            f"restore it (mlflow experiments restore -x {found.experiment_id}) or choose another name"
        )
    return str(found.experiment_id)
