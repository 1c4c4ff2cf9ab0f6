"""Run a sweep into a bucket that fails by a seeded schedule, and compare it with an undisturbed one.

    python -m tests.sweep.failing_storage FOLDER [--seed 0] [--faults 120] [--share 0.1] [--outage 180] [--trials 4]

The bucket is on loopback (moto's server), behind a proxy. From the first second on, for `--faults` seconds, a share of
all requests is answered with 503 or broken off; when the first checkpoint is there, nothing is answered for `--outage`
seconds. Nobody touches the sweep. Afterwards every core and every trained weight must be bit for bit what an
undisturbed sweep has on a local disk, MLflow must have each value once, and the bucket must hold the same files.
"""

import argparse
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyarrow import fs

from tests.proxy import Flaky, proxy
from tests.s3_server import options_of, s3_port
from tests.small_sweep import SMALL, cores, environment, trained_cycles, write_config
from tests.sweep.tracked import check_tracking

KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "not-so-secret", "AWS_EC2_METADATA_DISABLED": "true"}
PLACE = "runs/team"
"""Bucket and folder of the sweep's output."""


class FailingBucket:
    """A bucket and a way to it that fails.

    Attributes:
        uri: the folder, by the way that fails.
    """

    def __init__(self, port: int, way: int, flaky: Flaky):
        self.uri, self.flaky = f"s3://{PLACE}?{options_of(way)}", flaky
        self._system, _ = fs.FileSystem.from_uri(f"s3://{PLACE}?{options_of(port)}")
        self._system.create_dir(PLACE)

    def files(self) -> list[str]:
        """The paths of all files below the folder, by the way that does not fail."""
        found = self._system.get_file_info(fs.FileSelector(PLACE, recursive=True))
        return sorted(info.path.removeprefix(f"{PLACE}/") for info in found if info.is_file)

    def fetch(self, folder: Path) -> None:
        """Copy all files into a local folder, by the way that does not fail."""
        fs.copy_files(PLACE, str(folder), source_filesystem=self._system, destination_filesystem=fs.LocalFileSystem())

    def fail(self, faults: float, outage: float) -> threading.Thread:
        """Let requests fail for `faults` seconds, and none be answered for `outage` from the first checkpoint on."""
        stop = threading.Timer(faults, self.flaky.stop)
        stop.daemon = True
        stop.start()
        thread = threading.Thread(target=self._outage, args=(outage,), daemon=True)
        thread.start()
        return thread

    def _outage(self, seconds: float) -> None:
        while not any("checkpoint" in path for path in self.files()):
            time.sleep(0.5)
        self.flaky.down = True
        time.sleep(seconds)
        self.flaky.down = False


@contextmanager
def failing_bucket(seed: int, share: float) -> Iterator[FailingBucket]:
    """A bucket of which this share of all requests fails."""
    flaky = Flaky(seed, share)
    with s3_port() as port, proxy(port, flaky) as way:
        yield FailingBucket(port, way, flaky)


def same_files(bucket: FailingBucket, undisturbed: Path) -> None:
    """Fail unless the bucket holds the stores and cycles that the undisturbed sweep has, and no checkpoint."""
    here = (path.relative_to(undisturbed / "runs") for path in (undisturbed / "runs").rglob("*") if path.is_file())
    assert {path for path in bucket.files() if _is_content(path)} == set(filter(_is_content, map(str, here)))
    assert not any("/train/" in path for path in bucket.files())


def _is_content(path: str) -> bool:
    """Whether a file is of a store or a cycle, and not a note of who is at work."""
    return path.startswith(("stores/", "cycles/")) and not any(
        note in path for note in ("heartbeat.json", "/readers/", "/.training/")
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the sweeps are run; made if it is not there")
    parser.add_argument("--seed", type=int, default=0, help="of the faults")
    parser.add_argument("--share", type=float, default=0.1, help="of the requests that fail")
    parser.add_argument("--faults", type=float, default=120.0, help="seconds in which requests fail")
    parser.add_argument("--outage", type=float, default=180.0, help="seconds in which none is answered")
    parser.add_argument("--trials", type=int, default=4, choices=(2, 4, 6, 8), help="two coverages, and seeds")
    options = parser.parse_args(arguments)

    seeds = list(range(options.trials // 2))
    sweep = {**SMALL["sweep"], "seeds": seeds}
    trials = [f"k8-tau{coverage}-seed{seed}" for coverage in SMALL["sweep"]["coverage"] for seed in seeds]
    folder: Path = options.folder.absolute()
    undisturbed, disturbed = folder / "undisturbed", folder / "disturbed"
    run(undisturbed, sweep=sweep)
    with failing_bucket(options.seed, options.share) as bucket:
        outage = bucket.fail(options.faults, options.outage)
        since = time.monotonic()
        run(disturbed, output=bucket.uri, sweep=sweep)
        took = time.monotonic() - since
        assert not outage.is_alive() and took > options.outage, "the sweep had ended before the outage"
        same_files(bucket, undisturbed)
        bucket.fetch(disturbed / "runs")
    assert cores(disturbed, trials) == cores(undisturbed, trials)
    assert trained_cycles(disturbed) == trained_cycles(undisturbed)
    check_tracking(disturbed / "dmsae-runs" / "mlflow.db", disturbed, trials)
    print(
        f"{len(trials)} trials, bit for bit the undisturbed ones, after {bucket.flaky.faults} failed requests and an "
        f"outage of {options.outage:.0f} s, in {took:.0f} s"
    )
    return 0


def run(folder: Path, **sections: Any) -> None:
    """Run a small sweep in a folder, its output in `output.txt`."""
    folder.mkdir(parents=True)
    config = write_config(folder, **sections)
    with open(folder / "output.txt", "w") as output:
        done = subprocess.run(
            [sys.executable, "-u", "-m", "dmsae_ray.cli", "sweep", str(config)],
            env=environment(DMSAE_CACHE=str(folder / "cache")),
            cwd=folder,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    assert done.returncode == 0, f"exit code {done.returncode}; see {output.name}"


if __name__ == "__main__":
    os.environ.update(KEYS)
    sys.exit(main())
