"""What a log that is no terminal says of a harvest."""

import io

import pytest
from rich.console import Console

from dmsae_ray.cli import console
from dmsae_ray.harvest.progress import HarvestProgress


def test_a_log_is_told_now_and_then_how_far_a_harvest_is(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    out = io.StringIO()
    listen = console.Screen(Console(file=out, width=200)).harvest()
    for second in range(0, 200, 10):
        now[0] = float(second)
        listen(HarvestProgress("activations", second * 1000, 1_000_000, 1000.0, second * 10**7))
    listen(HarvestProgress("activations", 1_000_000, 1_000_000, 1000.0, 10**10))
    lines = out.getvalue().splitlines()
    assert lines == [
        "  activations: 60,000 of 1,000,000 tokens, 1,000 tokens/s, 0.6 GB, 0 h 16 min left",
        "  activations: 120,000 of 1,000,000 tokens, 1,000 tokens/s, 1.2 GB, 0 h 15 min left",
        "  activations: 180,000 of 1,000,000 tokens, 1,000 tokens/s, 1.8 GB, 0 h 14 min left",
        "  activations: 1,000,000 tokens (10,000 MB, 1,000 tokens/s)",
    ]
