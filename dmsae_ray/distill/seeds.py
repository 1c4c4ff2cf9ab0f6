"""Seeds of the parts of a trial, each derived from the trial's seed and labels."""

import hashlib


def derive_seed(seed: int, *labels: str | int) -> int:
    """Return a 63-bit seed that depends on `seed` and the labels alone: the same on any machine, in any process.

    Every part is hashed with its length before it, so that no two lists of labels give the same input to the hash.
    """
    digest = hashlib.sha256()
    for part in (seed, *labels):
        text = f"{type(part).__name__}:{part}".encode()
        digest.update(len(text).to_bytes(8, "little") + text)
    return int.from_bytes(digest.digest()[:8], "little") >> 1
