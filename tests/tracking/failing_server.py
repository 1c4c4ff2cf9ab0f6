"""Run a sweep that is tracked on an MLflow server which fails, and check that each value arrived once.

    python -m tests.tracking.failing_server FOLDER [--trials 8] [--seconds 60] [--seed 0]

A real `mlflow server` on loopback, behind a proxy. A tenth of all requests loses its answer, by the seed: the server
has written what the client must send again. When the first cycle is recorded, every request is answered with 500 for
`--seconds`; when a trial has finished after that, nothing is answered for as long; then the server is killed and
started again; at last it is killed until the sweep is over, whose last words name the command that delivers what was
kept back. Nobody touches the sweep. Secrets stand in its environment and must be nowhere in what it leaves.
"""

import argparse
import json
import os
import random
import re
import shlex
import subprocess
import sys
import threading
import time
from pathlib import Path

from tests.mlflow_stores import Server
from tests.proxy import proxy
from tests.small_sweep import SMALL, environment, write_config
from tests.sweep.tracked import check_tracking

SECRETS = {
    "HF_TOKEN": "hf_PlantedPlantedPlanted",
    "MLFLOW_TRACKING_USERNAME": "planted-name",
    "MLFLOW_TRACKING_PASSWORD": "planted-password",
    "AWS_SECRET_ACCESS_KEY": "planted-key",
}
CYCLE = re.compile('"kind":"metrics","key":"cycle"')
TRIAL = re.compile('"trial":"[^"/]+","kind":"status","key":"status","value":"FINISHED"')
"""What the journal says when a cycle, and when a trial has ended."""


class Faults:
    """What happens to each request, by a schedule that follows the sweep's journal.

    Attributes:
        counts: Requests by fault.
        ended: Whether every phase has passed but the last, in which the server stays dead.
    """

    def __init__(self, server: Server, run: Path, trials: int, seconds: float, seed: int) -> None:
        self._server, self._run, self._trials, self._seconds = server, run, trials, seconds
        self._choose = random.Random(seed)
        self._all: str | None = None
        self.counts: dict[str, int] = {}
        self.ended = False
        threading.Thread(target=self._phases, daemon=True).start()

    def __call__(self) -> str | None:
        kind = self._all or ("lost" if self._choose.random() < 0.1 else None)
        if kind is not None:
            self.counts[kind] = self.counts.get(kind, 0) + 1
        return kind

    def _phases(self) -> None:
        self._await(CYCLE, 1)
        for kind in ("500", "hang"):
            finished = self._seen(TRIAL)
            self._all = kind
            time.sleep(self._seconds)
            self._all = None
            self._await(TRIAL, finished + 1)
        self._server.kill()
        time.sleep(self._seconds / 2)
        self._server.start()
        self._await(TRIAL, self._trials - 1)
        self._server.kill()
        self.ended = True

    def _seen(self, record: re.Pattern[str]) -> int:
        return sum(len(record.findall(path.read_text())) for path in self._run.glob("runs/sweeps/*/journal.jsonl"))

    def _await(self, record: re.Pattern[str], count: int) -> None:
        while self._seen(record) < count:
            time.sleep(0.2)


def planted_in(folder: Path) -> list[str]:
    """Files below a folder that hold a secret."""
    needles = [secret.encode() for secret in SECRETS.values()]
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return [str(path) for path in files if any(needle in path.read_bytes() for needle in needles)]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the sweep is run; made if it is not there")
    parser.add_argument("--trials", type=int, default=8, help="seeds of one setting")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each phase")
    parser.add_argument("--seed", type=int, default=0, help="of the lost answers")
    parser.add_argument("--record", type=Path, help="file for what was counted and said, as JSON")
    options = parser.parse_args(arguments)

    folder: Path = options.folder.absolute()
    run, place = folder / "run", folder / "server"
    run.mkdir(parents=True)
    place.mkdir()
    server = Server(place)
    try:
        server.start()
        took, left, words, counts = disturbed(run, server, options.trials, options.seconds, options.seed)
    finally:
        server.kill()
    trials = [f"k8-tau0.3-seed{seed}" for seed in range(options.trials)]
    check_tracking(place / "server.db", run, trials)
    assert planted_in(folder) == []
    print(
        f"{options.trials} trials, each value once, in {took:.0f} s; requests that failed: {json.dumps(counts)}; "
        f"{left} records delivered by `dmsae sync`; said:"
    )
    print(*words, sep="\n")
    if options.record is not None:
        said = [word.replace(str(folder), "FOLDER") for word in words]
        found = {"trials": options.trials, "seconds": round(took), "requests_that_failed": counts}
        found |= {"each_value_once": True, "secrets_found": 0, "records_delivered_by_sync": left, "said": said}
        options.record.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def disturbed(
    run: Path, server: Server, trials: int, seconds: float, seed: int
) -> tuple[float, str, list[str], dict[str, int]]:
    """Run the sweep, then `dmsae sync`: its seconds, the records kept back, what it said of tracking, the faults."""
    faults = Faults(server, run, trials, seconds, seed)
    with proxy(server.port, faults) as way:
        sweep = {**SMALL["sweep"], "coverage": [0.3], "seeds": list(range(trials))}
        # Trainings are long enough for a trial to last as long as a phase.
        recipe, corpus = {"tokens": 256_000}, {"tokens": 320_000}
        uri = {"uri": f"http://127.0.0.1:{way}"}
        config = write_config(run, sweep=sweep, recipe=recipe, corpus=corpus, tracking=uri)
        since = time.monotonic()
        code, output = ran(run, "sweep", config)
        took = time.monotonic() - since
        assert code == 0 and "Traceback" not in output, output
        assert faults.ended, f"the sweep had ended before the faults: {faults.counts}"
        left = re.search(r"([\d,]+) records are not delivered.*?or: (.*dmsae sync .*)", output)
        assert left is not None, output
        server.start()
        code, said = ran(run, *shlex.split(left[2])[1:])
        assert code == 0, said
    return (
        took,
        left[1],
        [line for line in output.splitlines() if line.startswith("tracking ") or left[0] in line],
        faults.counts,
    )


def ran(folder: Path, *arguments: object) -> tuple[int, str]:
    """Run a command in a folder; its exit code and what it printed."""
    command = [sys.executable, "-u", "-m", "dmsae_ray.cli", *map(str, arguments)]
    done = subprocess.run(
        command,
        env=environment(**SECRETS, DMSAE_CACHE=str(folder / "cache")),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    (folder / "output.txt").open("a").write(done.stdout)
    return done.returncode, done.stdout


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
