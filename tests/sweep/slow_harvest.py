"""A sweep whose harvest stops before its sixth training shard until a trial has trained; then as told.

Run as a program: MODE MARKS CONFIG. MODE 'goes on', 'fails' or 'hangs'.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

from dmsae_ray.config.environment import set_environment

FROM = 5
PATIENCE = 120.0


def main(mode: str, marks: str, config: str) -> int:
    set_environment(verbose=False)
    from dmsae_ray.cli import console
    from dmsae_ray.cli.commands import main as dmsae
    from dmsae_ray.errors import DataError
    from dmsae_ray.harvest import harvesting as harvest

    trained = Path(marks) / "trained"

    class Slow(harvest.HarvestActor):
        def compute(self, split: str, shard: int) -> Any:
            if split == "train" and shard >= FROM:
                deadline = time.monotonic() + PATIENCE
                while not trained.exists() or mode == "hangs":
                    if time.monotonic() > deadline:
                        raise DataError("no trial has trained while the harvest went on")
                    time.sleep(0.05)
                if mode == "fails":
                    raise DataError("the GPU fell out")
            return super().compute(split, shard)

    original = console.TrialLines.on_trial_result

    def first_result(self: Any, *arguments: Any, **more: Any) -> None:
        if not trained.exists():
            trained.touch()
            print("a trial has trained", flush=True)
        original(self, *arguments, **more)

    harvest.HarvestActor = Slow  # type: ignore[misc]
    console.TrialLines.on_trial_result = first_result  # type: ignore[method-assign]
    return dmsae(["sweep", config])


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main(*sys.argv[1:]))
