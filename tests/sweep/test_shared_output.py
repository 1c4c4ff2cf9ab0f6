"""A machine that does not see the output is named before anything is computed there."""

import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.optional import left_out

HIDING = """
mount -t tmpfs none "$1"
exec "$2" -m ray.scripts.scripts start --address "$3" --num-cpus 1 --object-store-memory 100000000 --block
"""


def can_hide() -> bool:
    """Whether a process may have mounts of its own here."""
    tool = shutil.which("unshare")
    return tool is not None and subprocess.run([tool, "--mount", "true"], capture_output=True).returncode == 0


def _ask(output: str, shared: str, said: Any) -> None:
    """A driver on a head without CPUs, and a node for which the folder `output` is empty."""
    import ray
    from ray.cluster_utils import Cluster

    from dmsae_ray.errors import ConfigError
    from dmsae_ray.files.folder import Folder
    from dmsae_ray.sweep.shared_output import check_output_is_shared

    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": 100_000_000}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    command = ["unshare", "--mount", "bash", "-c", HIDING, "node", output, sys.executable, cluster.address]
    node = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    ray.init(address=cluster.address, log_to_driver=False, configure_logging=False)
    try:
        while len([n for n in ray.nodes() if n["Alive"]]) < 2:
            time.sleep(0.1)
        check_output_is_shared(Folder(shared), "one")
        said.put("nothing")
        try:
            check_output_is_shared(Folder(output), "one")
        except ConfigError as error:
            said.put(str(error))
    finally:
        os.killpg(node.pid, 9)
        ray.shutdown()
        cluster.shutdown()


@pytest.mark.ray
def test_a_folder_that_a_machine_does_not_see_is_refused_in_one_line(tmp_path: Path) -> None:
    if not can_hide():
        left_out("mounts of a process's own are not allowed on this machine")
    output, shared = tmp_path / "output", tmp_path / "shared"
    output.mkdir()
    shared.mkdir()
    left, others = (shared / f".probe-{owner}-{'0' * 32}" for owner in ("one", "one-two"))
    left.touch()  # by a process that was killed
    others.touch()
    context = multiprocessing.get_context("spawn")
    said = context.Queue()
    driver = context.Process(target=_ask, args=(str(output), str(shared), said))
    driver.start()
    try:
        assert said.get(timeout=120) == "nothing"
        line = said.get(timeout=120)
    finally:
        driver.join(60)
        driver.kill()
    assert line.startswith(f"output is '{output}'; machine ") and "\n" not in line
    assert "has no such folder, or another one of this name" in line and "s3://" in line
    assert list(output.iterdir()) == [] and list(shared.iterdir()) == [others]
