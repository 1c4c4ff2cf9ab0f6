"""A harvest that stops before its sixth training shard until a trial has trained; then as told.

Run as a program, FOLDER CONFIG, it sweeps CONFIG and hangs there; FOLDER is where it notes that a trial has trained.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FROM = 5
PATIENCE = 120.0


def hold_back(patch: Callable[[Any, str, Any], None], trained: Path, then: str) -> None:
    """Set what makes the harvests of this process wait.

    Args:
        patch: like `setattr`.
        trained: the file that is made when a trial has trained.
        then: what the harvest does: 'goes on', 'fails', or 'hangs' whatever is trained.
    """
    from dmsae_ray.cli import trial_lines
    from dmsae_ray.errors import DataError
    from dmsae_ray.harvest import harvesting

    first, patience = FROM, PATIENCE

    class Slow(harvesting.HarvestActor):
        def compute(self, split: str, shard: int) -> Any:
            if split == "train" and shard >= first:
                deadline = time.monotonic() + patience
                while not trained.exists() or then == "hangs":
                    if time.monotonic() > deadline:
                        raise DataError("no trial has trained while the harvest went on")
                    time.sleep(0.05)
                if then == "fails":
                    raise DataError("the GPU fell out")
            return super().compute(split, shard)

    original = trial_lines.TrialLines.on_trial_result

    def first_result(self: Any, *arguments: Any, **more: Any) -> None:
        if not trained.exists():
            trained.touch()
            print("a trial has trained", flush=True)
        original(self, *arguments, **more)

    patch(harvesting, "HarvestActor", Slow)
    patch(trial_lines.TrialLines, "on_trial_result", first_result)


def main(folder: str, config: str) -> int:
    from dmsae_ray.config.environment import set_environment

    set_environment(verbose=False)
    from dmsae_ray.cli.commands import main as dmsae

    hold_back(setattr, Path(folder) / "trained", "hangs")
    return dmsae(["sweep", config])


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main(*sys.argv[1:]))
