"""The corpus as token shards: tokenised by Ray Data tasks, packed and written in order by the driver.

One token shard belongs to each activation shard. Contexts go to the splits eval, attribution and train in this order.
A token shard holds `tokens` int32 [contexts, context] and `starts` int32 [documents that start in it] (see `packing`).
"""

import logging
from collections.abc import Callable, Generator

import numpy as np
import pyarrow as pa
import safetensors.numpy

from dmsae_ray.activations.corpus import documents
from dmsae_ray.activations.files import Folder, checksum
from dmsae_ray.activations.model import check_model, open_tokenizer
from dmsae_ray.activations.packing import Contexts, Packer, join
from dmsae_ray.activations.progress import Meter, Progress
from dmsae_ray.activations.ray_data import first_error, quiet_context
from dmsae_ray.activations.records import LAYOUT, SPLITS, TOKENS, Layout, encode, shard_name
from dmsae_ray.activations.token_files import read_layout
from dmsae_ray.config import Corpus, Experiment
from dmsae_ray.errors import DataError

log = logging.getLogger(__name__)

_BLOCK_BYTES = 4 << 20


def write_tokens(
    folder: Folder, experiment: Experiment, *, progress: Callable[[Progress], None] | None = None
) -> Layout:
    """Tokenise what the experiment asks for, as far as it is not there, and return the layout.

    Reading stops when there are enough tokens. The same corpus gives the same bytes.

    Args:
        folder: the store's folder.
        experiment: its sections model, corpus and activations are used.
        progress: called now and then with the tokens packed.

    Raises:
        DataError: the corpus is empty, too short or cannot be read.
    """
    done = read_layout(folder)
    if done is not None:
        return done
    d_model = check_model(experiment.model)
    corpus = experiment.corpus
    contexts = {
        "eval": _contexts(corpus.eval_tokens, corpus),
        "attribution": _contexts(corpus.attribution_tokens, corpus),
        "train": _contexts(corpus.tokens, corpus),
    }
    tokenizer = open_tokenizer(experiment.model.name, experiment.model.revision)
    packer = Packer(corpus.context, tokenizer.bos_token_id, tokenizer.eos_token_id)
    per_shard = max(1, experiment.activations.shard_tokens // corpus.context)
    plan = [
        (shard_name(split, i), min(per_shard, contexts[split] - i * per_shard))
        for split in SPLITS
        for i in range(-(-contexts[split] // per_shard))
    ]
    wanted = sum(contexts.values())
    meter = Meter("tokens", wanted * corpus.context, progress)
    waiting: list[Contexts] = []
    have = packed = used = 0
    sums: dict[str, str] = {}
    skips: list[np.ndarray] = []  # for every document passed over, how many good ones came before it
    groups = _tokenised(experiment)
    for tokens, lengths in groups:
        skips.append(packer.documents + np.cumsum(lengths > 0)[lengths == 0])
        full = packer.add(tokens, lengths[lengths > 0])
        waiting.append(full)
        have, packed = have + len(full), packed + len(full)
        meter.add(min(len(full), wanted - (packed - len(full))) * corpus.context, full.tokens.nbytes)
        while len(sums) < len(plan) and have >= plan[len(sums)][1]:
            name, need = plan[len(sums)]
            merged = join(waiting)
            shard = merged[slice(0, need)]
            sums[name], used = _write_shard(folder / TOKENS, name, shard), used + len(shard.starts)
            waiting, have = [merged[slice(need, None)]], have - need
        if len(sums) == len(plan):
            break
    groups.close()
    passed_over = np.concatenate([np.empty(0, np.int64), *skips])
    if len(sums) < len(plan):
        raise _too_short(corpus, packer, packed, len(passed_over))
    skipped = int((passed_over < used).sum())  # not those behind the last document that was needed
    if skipped:
        log.info("corpus: %d empty or corrupt documents were skipped", skipped)
    layout = Layout(
        d_model=d_model,
        context=corpus.context,
        bos=packer.bos,
        eos=packer.eos,
        special=tuple(sorted(int(i) for i in tokenizer.all_special_ids)),
        contexts_per_shard=per_shard,
        contexts=contexts,
        documents=used,
        skipped=skipped,
        token_checksums=sums,
    )
    (folder / TOKENS).write(LAYOUT, [encode(layout)])
    return layout


def _contexts(tokens: int, corpus: Corpus) -> int:
    return -(-tokens // corpus.context)


def _too_short(corpus: Corpus, packer: Packer, packed: int, skipped: int) -> DataError:
    place = "the standard library's text" if corpus.source == "stdlib" else f"'{corpus.path}'"
    have = packed * corpus.context + packer.pending
    bad = f" ({skipped} empty or corrupt documents skipped)" if skipped else ""
    if packer.documents == 0:
        return DataError(f"corpus.path {place} holds no text in '{corpus.text_field}'{bad}")
    asked = corpus.tokens + corpus.attribution_tokens + corpus.eval_tokens
    return DataError(
        f"corpus.tokens {corpus.tokens} + attribution_tokens {corpus.attribution_tokens} + eval_tokens "
        f"{corpus.eval_tokens} = {asked} tokens were asked of {place}, which holds only {have}{bad}"
    )


def _write_shard(folder: Folder, name: str, contexts: Contexts) -> str:
    content = safetensors.numpy.save(
        {"tokens": np.ascontiguousarray(contexts.tokens), "starts": np.ascontiguousarray(contexts.starts)}
    )
    folder.write(f"{name}.safetensors", [content])
    return checksum(content)


def _tokenised(experiment: Experiment) -> Generator[tuple[np.ndarray, np.ndarray], None, None]:
    """Groups of documents in order: tokens int32 [sum(lengths)], lengths int32 [documents], 0 for one without text."""
    model, corpus = experiment.model.name, experiment.corpus
    revision = experiment.model.revision

    def tokenise(batch: pa.Table) -> dict[str, list[bytes]]:
        texts = [text or "" for text in batch["text"].to_pylist()]
        # A document that spells a special token's name means the letters, not the token.
        ids = open_tokenizer(model, revision)(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        flat = np.fromiter((token for document in ids for token in document), np.int32)
        lengths = np.array([len(document) for document in ids], np.int32)
        return {"tokens": [flat.tobytes()], "lengths": [lengths.tobytes()]}

    with quiet_context(preserve_order=True, target_max_block_size=_BLOCK_BYTES), first_error("tokenising"):
        rows = documents(corpus).map_batches(tokenise, batch_size=None, batch_format="pyarrow", num_cpus=1)
        for row in rows.iter_rows():
            yield np.frombuffer(row["tokens"], np.int32), np.frombuffer(row["lengths"], np.int32)
