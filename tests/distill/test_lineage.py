import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dmsae_ray.distill.lineage import LineageId, descend, overlap, persistent, survival

from . import reference

POOL = 12


@st.composite
def histories(draw):
    """Index lists selected in cycles 0..L, each from a pool of the previous core and POOL fresh latents."""
    picks, core = [], 0
    for _ in range(draw(st.integers(1, 5))):
        pick = draw(st.lists(st.integers(0, core + POOL - 1), unique=True, max_size=core + POOL))
        picks.append(pick)
        core = len(pick)
    return picks


@settings(max_examples=200, deadline=None)
@given(histories(), st.integers(1, 6))
def test_lineage_by_ids_agrees_with_lineage_by_row_bytes(picks, last):
    rng = np.random.default_rng(0)
    by_bytes = reference.Lineage()
    lineages, rows, ids = [], np.zeros((0, 3), np.float32), ()
    for cycle, pick in enumerate(picks):
        dictionary = np.concatenate([rows, rng.normal(size=(POOL, 3)).astype(np.float32)])
        rows, ids = dictionary[pick], descend(ids, cycle, pick)
        by_bytes.add(rows)
        lineages.append(ids)
    for cycle in range(1, len(picks)):
        seen = overlap(lineages[cycle - 1], lineages[cycle], len(picks[cycle - 1]) + POOL)
        assert seen.carried == by_bytes.carried(cycle)
        assert seen.new == len(picks[cycle]) - seen.carried
    final = {i: r.tobytes() for i, r in zip(lineages[-1], rows, strict=True)}
    assert [final[i] for i in persistent(lineages)] == by_bytes.distilled()
    assert [final[i] for i in persistent(lineages, last)] == by_bytes.distilled(last)
    alive = survival(lineages)
    for birth in range(len(picks)):
        expected = by_bytes.survivors(birth)
        assert alive.get(birth, [0] * len(expected)) == expected


def test_overlap_by_hand():
    a = [LineageId(0, 1), LineageId(0, 2), LineageId(0, 3)]
    b = [LineageId(0, 3), LineageId(1, 7)]
    seen = overlap(a, b, pool=20)
    assert (seen.carried, seen.new, seen.carryover, seen.chance, seen.jaccard) == (1, 1, 1 / 3, 0.1, 0.25)


def test_an_empty_core_has_no_carryover():
    seen = overlap([], [LineageId(0, 1)], pool=10)
    assert (seen.carried, seen.carryover, seen.jaccard, seen.new) == (0, None, 0.0, 1)
    assert overlap([], [], pool=10).jaccard is None


def test_a_dropped_latent_does_not_come_back():
    lineages = [(LineageId(0, 4),), (LineageId(1, 4),), (LineageId(1, 4),)]
    assert persistent(lineages) == ()
    assert persistent(lineages, min_cycles=2) == (LineageId(1, 4),)
    assert survival(lineages) == {0: [1, 0, 0], 1: [1, 1]}
