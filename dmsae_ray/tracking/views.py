"""Saved views of a sweep in MLflow's pages: which runs, which columns, which charts.

MLflow keeps a view as a tag of the experiment, which its pages list under "Views", and which an address can open. The
format is not documented: it was read off MLflow 3.17 and is held by a test in a browser. Where another version does not
know it, its pages show what they always show.
"""

import base64
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote
from uuid import NAMESPACE_URL, uuid5

from dmsae_ray.config import Experiment
from dmsae_ray.tracking.names import metric_names
from dmsae_ray.tracking.sink import KIND_TAG, PARENT_TAG, ROOT_TAG

VIEW_TAG = "mlflow.sharedViewState."

_Chart = dict[str, Any]
_Section = tuple[str, list[_Chart]]


@dataclass(frozen=True)
class View:
    """A saved view.

    Attributes:
        id: Its id: letters and digits.
        name: What the menu shows.
        runs: Which runs it shows, in MLflow's filter language.
        columns: Columns of the table, in order, as "params.`k`".
        sections: Charts by section.
        order_by: The column that orders the table.
        group_by: Parameters over whose equal values MLflow averages; empty for none.
        hidden: Metrics that have no chart here.
    """

    id: str
    name: str
    runs: str
    columns: Sequence[str]
    sections: Sequence[_Section]
    order_by: str
    group_by: Sequence[str] = ()
    hidden: Sequence[str] = field(default=())

    def tag(self, time: int) -> tuple[str, str]:
        """Return the name and the value of the experiment's tag; `time` is in ms since 1970."""
        packed = base64.b64encode(zlib.compress(json.dumps(self._state()).encode(), 9)).decode()
        value = {"name": self.name, "createdAt": time, "updatedAt": time, "state": f"deflate;{packed}"}
        return f"{VIEW_TAG}{self.id}", json.dumps(value)

    def address(self, server: str, experiment_id: str) -> str:
        """Return the address of the page that shows this view, on a server such as http://host:port."""
        query = f"workflowType=machine_learning&viewStateShareKey={quote(self.id)}&compareRunsMode=CHART"
        return f"{server.rstrip('/')}/#/experiments/{quote(experiment_id)}/runs?{query}"

    def _state(self) -> dict[str, Any]:
        def unique(text: str) -> str:
            return str(uuid5(NAMESPACE_URL, f"{self.id}/{text}"))

        charts, sections = [], []
        for title, inside in self.sections:
            section = unique(title)
            sections.append(
                {"uuid": section, "name": title, "display": True, "isReordered": True, "deleted": False}
                | {"isGenerated": False}
            )
            charts += [
                {"uuid": unique(f"{title}/{n}"), "metricSectionId": section, "deleted": False, "isGenerated": False}
                | chart
                for n, chart in enumerate(inside)
            ]
        # MLflow adds a chart for every metric that has none.
        charts += [
            {"uuid": unique(f"none/{name}"), "metricSectionId": sections[-1]["uuid"], "deleted": True}
            | {"isGenerated": True, "type": kind, "metricKey": name}
            for name in self.hidden
            for kind in ("LINE", "BAR")
        ]
        group = {
            "aggregateFunction": "average",
            "groupByKeys": [{"mode": "param", "groupByData": name} for name in self.group_by],
        }
        return {
            "searchFilter": self.runs,
            "orderByKey": self.order_by,
            "orderByAsc": True,
            "startTime": "ALL",
            "lifecycleFilter": "Active",
            "datasetsFilter": [],
            "modelVersionFilter": "All Runs",
            "selectedColumns": list(self.columns),
            "columnOrder": list(self.columns),
            "runsHiddenMode": "SHOW_ALL",
            "compareRunCharts": charts,
            "compareRunSections": sections,
            "isAccordionReordered": True,
            "groupBy": group if self.group_by else None,
            "useGroupedValuesInCharts": True,
            "hideEmptyCharts": True,
        }


def views_of_sweep(experiment: Experiment, parent: str, sweep: str) -> list[View]:
    """Return the views of a sweep; the first is the one that a person should see first.

    Args:
        experiment: The experiment.
        parent: Id of the sweep's run.
        sweep: Name of the sweep.
    """
    axes = tuple(experiment.sweep.axes)
    if experiment.transfer is not None:
        # Runs have the parameters in which they differ.
        sparsity = ("core_sparsity",) if len(experiment.transfer.core_sparsity) > 1 else ()
        return _views_of_transfers(parent, sweep, (*sparsity, *axes))
    distill = experiment.distill
    return _views_of_cycles(parent, sweep, distill.controls, distill.control_chains, axes)


def _views_of_cycles(
    parent: str, sweep: str, controls: Sequence[str], chains: Sequence[str], axes: tuple[str, ...]
) -> list[View]:
    children = f"tags.`{PARENT_TAG}` = '{parent}'"
    trials = f"{children} and tags.`{KIND_TAG}` = 'trial'"
    every = [*metric_names(controls, chains), *axes]  # a number of the setting is a metric, too, to sort by
    margin = [f"margin_{arm}" for arm in controls]
    left = ["survived", *(f"survived_{arm}" for arm in chains)] if chains else []
    setting = [f"params.`{name}`" for name in ("k", "coverage", *axes, "seed", "arm")]
    shown = ["carryover", "margin_chance", *margin, "core_size", "distilled_size", *left, "l0", "fvu", "loss_recovered"]
    finals = [f"metrics.`{name}`" for name in (*shown, "dead_share", "collapsed")]
    coming_back: _Section = (
        "1 Which features come back",
        [
            _line("carryover"),
            _scatter("l0", "carryover"),
            _line("core_size"),
            _scatter("core_size", "carryover"),
            _parallel(["k", "coverage"], ["core_size", "l0", "fvu", "carryover"]),
            _bar("distilled_size"),
        ],
    )
    reconstruction: _Section = (
        "2 Reconstruction, at measured L0",
        [
            _scatter("l0", "fvu"),
            _scatter("l0", "loss_recovered"),
            _line("fvu"),
            _line("l0"),
        ],
    )
    health: _Section = (
        "3 Health of the trainings",
        [
            _line("dead_share"),
            _line("core_frequency_max"),
            _line("core_share"),
            _bar("collapsed"),
        ],
    )
    averaged: list[_Section] = [
        (
            "1 Which features come back",
            [
                _line("carryover"),
                _bar("carryover"),
                _line("core_size"),
                _bar("distilled_size"),
            ],
        ),
        (
            "2 Reconstruction",
            [
                _line("fvu"),
                _bar("loss_recovered"),
                _line("l0"),
                _bar("dead_share"),
            ],
        ),
    ]
    by = "metrics.`k`"
    return [
        View(
            _id(parent, "stability"),
            f"Stability - {sweep}",
            trials,
            [*setting[:-1], *finals],
            [coming_back, reconstruction, health],
            by,
            hidden=_rest([coming_back, reconstruction, health], every),
        ),
        View(
            _id(parent, "seeds"),
            f"Seeds averaged - {sweep}",
            children,
            [*setting, *finals],
            averaged,
            by,
            group_by=("k", "coverage", *axes, "arm"),
            hidden=_rest(averaged, every),
        ),
        _training_view(parent, sweep, ("k", "coverage", *axes, "seed", "cycle", "arm"), every),
    ]


def _views_of_transfers(parent: str, sweep: str, axes: tuple[str, ...]) -> list[View]:
    children = f"tags.`{PARENT_TAG}` = '{parent}'"
    finals = [f"metrics.`{n}`" for n in ("l0", "l0_core", "l0_non_core", "fvu", "loss_recovered", "dead_share")]
    setting = [f"params.`{name}`" for name in ("k", "arm", *axes, "seed")]
    sections: list[_Section] = [
        (
            "1 Reconstruction, at measured L0",
            [
                _scatter("l0", "fvu"),
                _scatter("l0", "loss_recovered"),
                _parallel(["k", "arm"], ["l0", "fvu", "loss_recovered"]),
                _bar("core_share"),
            ],
        ),
        ("2 Health of the trainings", [_bar("dead_share"), _bar("collapsed")]),
    ]
    every = [*metric_names(), *axes]
    by, hidden = "metrics.`k`", _rest(sections, every)
    return [
        View(
            _id(parent, "transfer"), f"Transfer - {sweep}", children, [*setting, *finals], sections, by, hidden=hidden
        ),
        View(
            _id(parent, "seeds"),
            f"Seeds averaged - {sweep}",
            children,
            [*setting, *finals],
            sections,
            by,
            group_by=("k", "arm", *axes),
            hidden=hidden,
        ),
        _training_view(parent, sweep, ("k", "arm", *axes, "seed"), every),
    ]


def _training_view(parent: str, sweep: str, params: Sequence[str], every: Sequence[str]) -> View:
    """Return the view of all trainings, laid over each other by the tokens of each."""
    sections: list[_Section] = [
        (
            "1 Training, by tokens of the training",
            [
                _line("train/loss"),
                _line("train/l0_core"),
                _line("train/l0_non_core"),
                _line("train/dead_latents"),
                _line("train/mse"),
                _line("train/aux_loss"),
                _line("train/grad_norm"),
                _line("train/threshold"),
                _line("train/lr"),
            ],
        )
    ]
    runs = f"tags.`{ROOT_TAG}` = '{parent}' and metrics.`train/loss` >= 0"
    columns = [*(f"params.`{name}`" for name in params), "metrics.`train/loss`", "metrics.`train/dead_latents`"]
    return View(
        _id(parent, "training"),
        f"Training curves - {sweep}",
        runs,
        columns,
        sections,
        "metrics.`k`",
        hidden=_rest(sections, every),
    )


def _rest(sections: Sequence[_Section], every: Sequence[str]) -> list[str]:
    """Return the metrics that have no chart in `sections`."""
    shown = {chart.get("metricKey") for _, charts in sections for chart in charts}
    return [name for name in every if name not in shown]


def _id(parent: str, kind: str) -> str:
    return uuid5(NAMESPACE_URL, f"{parent}/{kind}").hex


def _line(metric: str) -> _Chart:
    return {
        "type": "LINE",
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "runsCountToCompare": 100,
        "xAxisKey": "step",
        "displayPoints": True,
        "useGlobalXaxisKey": False,
        "lineSmoothness": 0,
        "useGlobalLineSmoothing": False,
    }


def _bar(metric: str) -> _Chart:
    return {"type": "BAR", "metricKey": metric, "runsCountToCompare": 100}


def _scatter(x: str, y: str) -> _Chart:
    axes = {"xaxis": {"key": x, "type": "METRIC"}, "yaxis": {"key": y, "type": "METRIC"}}
    return {"type": "SCATTER", "runsCountToCompare": 200, **axes}


def _parallel(params: list[str], metrics: list[str]) -> _Chart:
    chosen = {"selectedParams": params, "selectedMetrics": metrics}
    return {"type": "PARALLEL", "runsCountToCompare": 200, "showAllRuns": True, **chosen}
