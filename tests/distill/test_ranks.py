import threading

import pytest
import torch

from dmsae_ray.distill import ranks as parallel
from dmsae_ray.distill.cycle_runner import CycleRunner
from dmsae_ray.distill.cycle_store import DirectoryCycleStore
from dmsae_ray.distill.cycles import run_cycles
from dmsae_ray.distill.ranks import Ranks
from dmsae_ray.errors import DataError

from .on_ranks import on_ranks
from .synthetic import STEPS, Synthetic, small_settings

CPU = torch.device("cpu")


def share(rank, group):
    ranks = Ranks(group, CPU)
    agreed = ranks.share(lambda: {"from": rank})
    try:
        ranks.share(lambda: 1 / 0)
    except ZeroDivisionError:
        return agreed, ranks.first
    raise AssertionError("the error of the first rank did not arrive")


def share_and_wait(rank, group):
    return share(rank, group), wait(rank, group)


def wait(rank, group):
    parallel.HEARTBEAT_SECONDS = 0.02
    ranks = Ranks(group, CPU)
    beats = []
    gate = threading.Event()
    original = ranks.share

    def counted(decide):
        beats.append(1)
        if len(beats) == 5:
            gate.set()
        return original(decide)

    ranks.share = counted
    entered = ranks.wait_for(lambda: gate.wait(60))
    try:
        ranks.wait_for(lambda: next(iter(())))
    except StopIteration:
        return entered, len(beats)
    raise AssertionError("the error of the first rank did not arrive")


def test_the_first_rank_decides_and_the_others_wait_however_long_it_takes(tmp_path):
    (_, (agreed, (entered, beats))), (_, (heard, (nothing, other_beats))) = on_ranks(2, tmp_path, share_and_wait)
    assert agreed == ({"from": 0}, True) and heard == ({"from": 0}, False)
    assert entered is True and nothing is None
    assert beats == other_beats >= 6


def cycles(rank, group, folder, nan_at):
    """Two runs, the second on the store of the first."""
    told = []
    for _ in range(1 if nan_at else 2):
        source = Synthetic(rank=rank, size=2, nan_at=nan_at)
        records = []
        runner = CycleRunner(small_settings(), source, store=DirectoryCycleStore(folder), process_group=group)
        history = run_cycles(
            runner, cycles=2, coverage=0.9, seed=3, controls=("most_frequent",), on_cycle=records.append
        )
        cores = [(c.rows, c.lineage) for c in history.cores]
        arms = [(r.cycle, r.arm, r.cached) for r in records]
        theta = None if history.sae is None else float(history.sae.theta)
        told.append((cores, arms, source.served, history.sae is not None, theta))
    return told


def test_two_ranks_select_the_cores_of_one(tmp_path):
    alone = run_cycles(CycleRunner(small_settings(), Synthetic()), cycles=2, coverage=0.9, seed=3)
    (_, (first, again)), (_, (second, found)) = on_ranks(2, tmp_path / "a", cycles, str(tmp_path / "store"), None)
    assert first[1] == second[1]
    assert (first[2], second[2]) == (4 * STEPS, 4 * STEPS)
    assert (first[3], second[3]) == (True, False)
    assert first[4] == pytest.approx(float(alone.sae.theta), rel=1e-3), "calibrated on the rows of all ranks"
    for one, other, reference in zip(first[0], second[0], alone.cores, strict=True):
        assert torch.equal(one[0], other[0]) and one[1] == other[1]
        assert one[1] == reference.lineage
        torch.testing.assert_close(one[0], reference.rows, rtol=1e-3, atol=1e-4)
    assert (again[2], found[2]) == (0, 0)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(found[0], first[0], strict=True))


def test_a_feed_that_is_not_finite_stops_all_ranks(tmp_path):
    # Row 3 of the global batch belongs to the second rank only.
    results = on_ranks(2, tmp_path / "a", cycles, str(tmp_path / "store"), 50)
    where = "activations: step 50 of the feed (cycle 1, distilled) holds a value that is not finite"
    assert [r[:2] for r in results] == [("raised", f"{DataError.__name__}: {where}")] * 2
