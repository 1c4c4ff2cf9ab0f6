"""Write journal records into MLflow: find the run of each trial, and send batches within MLflow's limits.

It uses only `MlflowClient` with explicit run ids, so a global run or MLFLOW_RUN_ID in the environment has no effect.
Delivering a record twice is harmless: a metric is one row by (run, key, step, time, value), a parameter keeps its
value, and a run is looked for by its tags before it is made.
"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from dmsae_ray.errors import ConfigError, one_line
from dmsae_ray.tracking.journal import Record

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

log = logging.getLogger(__name__)

SWEEP_TAG = "dmsae.sweep_id"
JOURNAL_TAG = "dmsae.journal"
TRIAL_TAG = "dmsae.trial_id"
PARENT_TAG = "mlflow.parentRunId"

METRICS_PER_REQUEST = 1000
PARAMS_PER_REQUEST = 100

# Errors for which a retry is useless: the server would answer the same. Any other error may pass.
_FINAL = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "BAD_REQUEST", "NOT_FOUND")


class MlflowSink:
    """The runs of one sweep in one MLflow store: a parent run, and a child run per trial."""

    def __init__(self, client: "MlflowClient", experiment_id: str, parent: str, sweep_dir: Path) -> None:
        """Find the child runs that exist.

        Args:
            client: Client of the store.
            experiment_id: Id of the MLflow experiment.
            parent: Id of the parent run.
            sweep_dir: The sweep folder; files are named relative to it.
        """
        self.parent = parent
        self.refused = 0
        self._client = client
        self._experiment = experiment_id
        self._sweep_dir = sweep_dir
        self._runs: dict[str | None, str] = {None: parent}
        for run in _search(client, experiment_id, f"tags.`{PARENT_TAG}` = '{parent}'"):
            self._runs[run.data.tags.get(TRIAL_TAG, run.info.run_id)] = run.info.run_id

    def has(self, trial: str | None) -> bool:
        """Return whether there is a run of this trial."""
        return trial in self._runs

    def deliver(self, records: list[Record]) -> None:
        """Write records, in their order within each run.

        A record that the server refuses for good is reported in the log and left out.

        Raises:
            Exception: The server did not answer or had an error; all of `records` may be delivered again.
        """
        by_trial: dict[str | None, list[Record]] = {}
        for record in records:
            by_trial.setdefault(record.trial, []).append(record)
        for trial, own in by_trial.items():
            run_id = self._run_of(trial, own[0].time)
            for part in _requests(own):
                self._write(run_id, part)

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
        """Send records of one kind in one request; only one record if it is neither a metric nor a param."""
        from mlflow.entities import Metric, Param

        first = records[0]
        if first.kind == "metric":
            metrics = [Metric(r.key, float(r.value), r.time, r.step) for r in records]
            self._client.log_batch(run_id, metrics=metrics)
        elif first.kind == "param":
            self._client.log_batch(run_id, params=[Param(r.key, str(r.value)) for r in records])
        elif first.kind == "status":
            status = str(first.value)
            if status == "RUNNING":
                self._client.update_run(run_id, status=status)
            else:
                self._client.set_terminated(run_id, status, first.time)
        elif first.kind == "artifact":
            self._upload(run_id, first.key)

    def _upload(self, run_id: str, key: str) -> None:
        """Upload a file; `key` is its path, relative to the sweep folder if it lies there."""
        path = self._sweep_dir / key
        if not path.is_file():
            log.warning("artifact %s is gone; it is not sent", key)
            return
        folder = Path(key).parent
        inside = not folder.is_absolute() and folder != Path(".")
        self._client.log_artifact(run_id, str(path), folder.as_posix() if inside else None)

    def _run_of(self, trial: str | None, start_time: int) -> str:
        """Return the id of the trial's run; make the run if there is none."""
        if trial not in self._runs:
            # An earlier request whose answer was lost may have made it.
            query = f"tags.`{PARENT_TAG}` = '{self.parent}' and tags.`{TRIAL_TAG}` = '{trial}'"
            found = _search(self._client, self._experiment, query)
            if found:
                self._runs[trial] = found[-1].info.run_id
            else:
                tags = {PARENT_TAG: self.parent, TRIAL_TAG: str(trial)}
                run = self._client.create_run(self._experiment, start_time, tags, run_name=trial)
                self._runs[trial] = run.info.run_id
        return self._runs[trial]


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
    query = f"tags.`{SWEEP_TAG}` = '{sweep_id}' and tags.`{JOURNAL_TAG}` = '{journal_id}'"
    found = _search(client, experiment_id, query)
    if found:
        parent = found[-1].info.run_id
    else:
        tags = {SWEEP_TAG: sweep_id, JOURNAL_TAG: journal_id}
        parent = client.create_run(experiment_id, start_time, tags, run_name=sweep_id).info.run_id
    return MlflowSink(client, experiment_id, parent, sweep_dir)


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
    """Split the records of one run into requests: neighbours of the same kind together, within MLflow's limits."""
    limits = {"metric": METRICS_PER_REQUEST, "param": PARAMS_PER_REQUEST}
    parts: list[list[Record]] = []
    for record in records:
        if parts and parts[-1][0].kind == record.kind and len(parts[-1]) < limits.get(record.kind, 1):
            parts[-1].append(record)
        else:
            parts.append([record])
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
