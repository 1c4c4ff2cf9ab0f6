"""Seeds of the parts of a trial, each derived from the trial's seed and a label."""

import hashlib


def derive_seed(seed: int, *labels: str | int) -> int:
    """A 63-bit seed that is a function of `seed` and the labels alone: the same on any machine, in any process.

    Nested derivations do not collide with flat ones: the labels are length-prefixed before hashing.
    """
    digest = hashlib.sha256()
    for part in (seed, *labels):
        text = f"{type(part).__name__}:{part}".encode()
        digest.update(len(text).to_bytes(8, "little") + text)
    return int.from_bytes(digest.digest()[:8], "little") >> 1
