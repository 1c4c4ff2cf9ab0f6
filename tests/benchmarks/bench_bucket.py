"""MB/s of a store in a bucket whose server limits each connection: one connection, many, and the feed.

    python tests/benchmarks/bench_bucket.py            # results/bucket.json

The server is moto's, on loopback, behind a proxy that gives each connection so many bytes a second. one: a shard's file
over one connection. many: over sixteen. feed: shuffled batches of the whole store, as a training reads them; the bytes
of its shards' files a second. again: the same batches once more, as another trial on the machine reads them, from the
machine's cache. What a real object store gives is another matter; what is measured is that the limit of one connection
does not bound the feed.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench_feed import make_store, open_again
from machine import machine, save
from pyarrow import fs

from dmsae_ray.feed.feed import Feed
from dmsae_ray.files.folder import Folder
from dmsae_ray.files.node_cache import NodeCache
from dmsae_ray.store.layout import ACTIVATIONS

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.proxy import proxy
from tests.s3_server import options_of, s3_port

BATCH = 2048


def rate(read: Callable[[], int]) -> float:
    """MB/s of a call that returns the bytes that it read."""
    begun = time.perf_counter()
    return read() / (time.perf_counter() - begun) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--rows", type=int, default=8192, help="rows of a shard, of 4.6 kB")
    parser.add_argument("--limit", type=float, default=2.0, help="MB/s of a connection")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    os.environ.update(AWS_ACCESS_KEY_ID="key", AWS_SECRET_ACCESS_KEY="secret", AWS_EC2_METADATA_DISABLED="true")
    found: dict[str, list[float]] = {"one": [], "many": [], "feed": [], "again": []}
    with (
        tempfile.TemporaryDirectory() as scratch,
        s3_port() as port,
        proxy(port, bytes_per_second=options.limit * 1e6) as limited,
    ):
        local = make_store(Path(scratch), "bfloat16", options.shards, options.rows)
        system, _ = fs.FileSystem.from_uri(f"s3://bucket/x?{options_of(port)}")
        system.create_dir("bucket")
        fs.copy_files(str(local.folder.local), "bucket/store", destination_filesystem=system)
        place = Folder(f"s3://bucket/store?{options_of(limited)}")
        name, size = max((place / ACTIVATIONS).sizes().items(), key=lambda item: item[1])
        stored = sum((place / ACTIVATIONS).sizes().values())

        def copy(connections: int) -> int:
            with tempfile.TemporaryFile() as file:
                (place / ACTIVATIONS).copy_to(name, file, connections=connections)
            return size

        def feed(cache: NodeCache) -> int:
            steps = options.shards * options.rows // BATCH
            return sum(1 for _ in Feed(open_again(place, "bfloat16", cache), BATCH, 0).batches(0, steps)) and stored

        for number in range(options.rounds):
            cache = NodeCache(Path(scratch) / f"cache-{number}", 2 * stored)
            found["one"].append(rate(lambda: copy(1)))
            found["many"].append(rate(lambda: copy(16)))
            found["feed"].append(rate(partial(feed, cache)))
            found["again"].append(rate(partial(feed, cache)))
    middle = {name: sorted(rates)[len(rates) // 2] for name, rates in found.items()}
    result = {
        "machine": machine(),
        "limit_MB_per_s": options.limit,
        "shards": options.shards,
        "shard_MB": size / 1e6,
        "MB_per_s": {name: round(value, 2) for name, value in middle.items()},
        "times_one_connection": {name: round(middle[name] / middle["one"], 1) for name in ("many", "feed", "again")},
    }
    print(result["MB_per_s"], result["times_one_connection"])
    save("bucket", result)


if __name__ == "__main__":
    main()
