import math

import numpy as np
import pytest
import torch

from dmsae_ray.evaluation.latent_firing import FiringCollector

CONTEXTS, LENGTH, LATENTS = 60, 20, 5


def some_firing():
    """Activations with a rare latent, a dense one, one that never fires, and one whose largest come late."""
    g = torch.Generator().manual_seed(0)
    z = torch.rand(CONTEXTS, LENGTH, LATENTS, generator=g).exp() * torch.tensor([1.0, 0.01, 300.0, 1.0, 1.0])
    on = torch.rand(CONTEXTS, LENGTH, LATENTS, generator=g) < torch.tensor([0.2, 0.9, 0.01, 0.0, 0.5])
    z = z * on * torch.linspace(0.1, 9, CONTEXTS)[:, None, None]
    known = torch.rand(CONTEXTS, LENGTH, generator=g) < 0.9
    tokens = torch.randint(0, 1000, (CONTEXTS, LENGTH), generator=g, dtype=torch.int32)
    return z * known[:, :, None], known, tokens


def collected(step, **options):
    z, known, tokens = some_firing()
    collector = FiringCollector(LATENTS, before=4, after=3, **options)
    for i in range(0, CONTEXTS, step):
        collector.add(z[i : i + step], known[i : i + step], tokens[i : i + step])
    return collector.result()


@pytest.mark.parametrize("step", [1, 7, CONTEXTS])
def test_counts_and_strongest_contexts_are_those_of_all_tokens_at_once(step):
    z, known, _ = some_firing()
    for i, found in enumerate(collected(step, top=6)):
        values = z[:, :, i][z[:, :, i] > 0].double()
        assert (found.tokens, found.fired) == (int(known.sum()), len(values))
        assert found.frequency == len(values) / int(known.sum())
        assert found.maximum == pytest.approx(float(z[:, :, i].max()), abs=0)
        if not len(values):
            assert math.isnan(found.mean) and found.top == () and found.quantiles == () and len(found.histogram) == 0
            continue
        assert found.mean == pytest.approx(float(values.mean()))
        edges = found.bin_width * np.arange(len(found.histogram) + 1)
        assert edges[-2] <= found.maximum < edges[-1] and 33 <= len(found.histogram) <= 64
        np.testing.assert_array_equal(found.histogram, np.histogram(values.numpy(), edges)[0])
        peaks = z[:, :, i].amax(1)
        best = peaks.argsort(descending=True)[:6]
        best = best[peaks[best] > 0]
        assert [snippet.context for snippet in found.top] == best.tolist()
        assert [snippet.activation for snippet in found.top] == peaks[best].tolist()


def test_a_snippet_is_what_the_tokens_and_their_activations_are():
    z, known, tokens = some_firing()
    seen = 0
    for i, found in enumerate(collected(7)):
        for snippet in (*found.top, *(s for q in found.quantiles for s in q.snippets)):
            inside = slice(snippet.start, snippet.start + 8)
            row = z[snippet.context, inside, i].clone()
            row[~known[snippet.context, inside]] = math.nan
            torch.testing.assert_close(snippet.activations, row, rtol=0, atol=0, equal_nan=True)
            assert snippet.tokens.tolist() == tokens[snippet.context, inside].tolist()
            assert snippet.activation > 0
            place = snippet.start + snippet.peak
            assert snippet.start == min(max(place - 4, 0), LENGTH - 8)
            seen += 1
    assert seen > 50


def test_examples_come_from_their_quarter_and_each_context_is_shown_once():
    z, _, _ = some_firing()
    filled = 0
    for i, found in enumerate(collected(7, top=3, per_range=3)):
        shown = [s.context for s in (*found.top, *(s for q in found.quantiles for s in q.snippets))]
        assert len(shown) == len(set(shown))
        values = z[:, :, i][z[:, :, i] > 0]
        for q in found.quantiles:
            filled += 1
            for snippet in q.snippets:
                # Ties are counted as one bin of 1/1024 of the largest activation at least.
                below = float((values < snippet.activation - found.maximum / 1000).double().mean())
                assert below < q.high and float((values <= snippet.activation).double().mean()) > q.low
            assert list(q.snippets) == sorted(q.snippets, key=lambda s: -s.activation)
    assert filled >= 10


def test_the_sample_is_about_uniform_over_firing_tokens():
    """One latent fires everywhere in half of the contexts and once in the others: few examples are of the latter."""
    z = torch.ones(4000, 10, 1)
    z[::2, 1:] = 0
    collector = FiringCollector(1, top=0, per_range=64)
    for part in z.split(100):
        collector.add(part, torch.ones(part.shape[:2], dtype=torch.bool), torch.zeros(part.shape[:2]))
    (found,) = collector.result()
    contexts = [s.context for q in found.quantiles for s in q.snippets]
    lone = sum(c % 2 == 0 for c in contexts)
    assert len(contexts) == 64 and lone <= 14  # 1 of 11 tokens: 6 expected
    places = [s.start + s.peak for q in found.quantiles for s in q.snippets if s.context % 2]
    assert len(set(places)) >= 8


def test_short_contexts_are_shown_whole():
    collector = FiringCollector(1)
    collector.add(torch.ones(2, 5, 1), torch.ones(2, 5, dtype=torch.bool), torch.arange(10).view(2, 5))
    (found,) = collector.result()
    assert [s.tokens.tolist() for s in found.top] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
