"""How many CPUs a process may use: of the machine's, those of its affinity and of its container's quota."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dmsae_ray.config.processors import usable_cpus

ALL = len(os.sched_getaffinity(0))


def quota(tmp_path: Path, own: str, **files: str) -> int:
    for name, content in files.items():
        path = tmp_path / "groups" / name.replace("__", "/").replace("cpu_", "cpu.")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (tmp_path / "own").write_text(own)
    return usable_cpus(tmp_path / "groups", tmp_path / "own")


@pytest.mark.skipif(ALL < 2, reason="there is one CPU")
def test_the_affinity_counts() -> None:
    code = "import os; os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[0]}); "
    code += "from dmsae_ray.config import usable_cpus; print(usable_cpus())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "1\n"


def test_no_quota_leaves_the_affinity(tmp_path: Path) -> None:
    assert usable_cpus(tmp_path / "nowhere", tmp_path / "nothing") == ALL
    assert quota(tmp_path, "0::/job\n", job__cpu_max="max 100000\n") == ALL
    assert quota(tmp_path, "3:cpu,cpuacct:/job\n", **{"cpu,cpuacct__job__cpu_cfs_quota_us": "-1\n"}) == ALL


@pytest.mark.parametrize(
    "text, cpus", [("100000 100000", 1), ("150000 100000", 1), ("20000 100000", 1), ("9900000 100000", ALL)]
)
def test_a_quota_of_version_2(tmp_path: Path, text: str, cpus: int) -> None:
    assert quota(tmp_path, "0::/a/b\n", a__b__cpu_max=f"{text}\n") == cpus
    assert quota(tmp_path, "0::/c/d\n", c__cpu_max=f"{text}\n", c__d__cpu_max="max 100000\n") == cpus


def test_a_quota_of_a_container_that_sees_only_its_own_group(tmp_path: Path) -> None:
    assert quota(tmp_path, "0::/\n", cpu_max="100000 100000\n") == 1
    assert quota(tmp_path, "0::/../../elsewhere\n", cpu_max="100000 100000\n") == 1


def test_a_quota_of_version_1(tmp_path: Path) -> None:
    files = {"cpu,cpuacct__job__cpu_cfs_quota_us": "100000\n", "cpu,cpuacct__job__cpu_cfs_period_us": "100000\n"}
    assert quota(tmp_path, "4:memory:/x\n3:cpu,cpuacct:/job\n", **files) == 1


def test_what_cannot_be_read_hinders_nothing(tmp_path: Path) -> None:
    assert quota(tmp_path, "nonsense\n0::/a\n", a__cpu_max="many\n") == ALL
