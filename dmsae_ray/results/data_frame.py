"""The results of a sweep as a data frame: one row for each trained cycle, controls included."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dmsae_ray.results.trial import TrialResult

if TYPE_CHECKING:
    from pandas import DataFrame


def frame(results: Sequence[TrialResult]) -> "DataFrame":
    """Return one row for each cycle of each finished trial, and for each of its controls: flat numbers and names.

    Columns: trial, the parameters of its setting (k, coverage, core_sparsity, …), seed, data_seed, cycle, arm, key,
    collapsed_by (None, or why), and everything that `CycleReport.floats` has. What does not exist is NaN.

    Args:
        results: what `load_results` returned.
    """
    from pandas import DataFrame

    rows = [
        {
            "trial": result.trial_id,
            **result.trial.params(),
            "cycle": report.cycle,
            "arm": report.arm,
            "key": report.key,
            "collapsed_by": report.collapsed,
            **{name: value for name, value in report.floats().items() if name != "collapsed"},
        }
        for result in results
        for report in (*result.reports, *result.beside)
    ]
    # The arm of a transfer is a parameter of its setting, too: the same.
    return DataFrame(rows)
