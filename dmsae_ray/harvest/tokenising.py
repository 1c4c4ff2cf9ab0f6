"""The corpus as token shards: tokenised by Ray Data tasks, packed and written in order by the driver.

One token shard belongs to each activation shard, and after each a `cursor.TokenDraft` is written that says where it
ends. The contexts go to the splits eval, attribution and train, in this order. A shard holds `tokens` int32 [contexts,
context] and `starts` int32 [documents that start in it] (see `corpus.Contexts`).
"""

import logging
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from dmsae_ray.config import CorpusSettings, Experiment
from dmsae_ray.corpus import Conversation, Skipped, list_units, skipped_text
from dmsae_ray.errors import DataError
from dmsae_ray.files import Folder, encode_sealed
from dmsae_ray.harvest.corpus_dataset import documents
from dmsae_ray.harvest.cursor import CorpusCursor, read_draft, text_digest
from dmsae_ray.harvest.model import check_model, open_tokenizer
from dmsae_ray.harvest.progress import HarvestProgress
from dmsae_ray.harvest.ray_data import first_error, quiet_context
from dmsae_ray.harvest.token_ids import check_documents, token_ids
from dmsae_ray.harvest.token_writer import DocumentGroup, TokenShardWriter
from dmsae_ray.store import (
    ACTIVATIONS,
    DRAFT,
    LAYOUT,
    SPLITS,
    STREAMED,
    TOKENS,
    Layout,
    damaged_shards,
    read_layout,
    shard_name,
)

log = logging.getLogger(__name__)

_BLOCK_BYTES = 4 << 20


def write_tokens(
    folder: Folder, experiment: Experiment, *, progress: Callable[[HarvestProgress], None] | None = None
) -> Layout:
    """Write the missing token shards of an experiment and return the layout.

    Reading stops when there are enough tokens. The same corpus gives the same bytes, whether or not a killed call is
    continued (after its last whole shard). If a shard of a complete layout is damaged, all tokens are made again; if
    the text has changed since then, the activations are removed.

    Args:
        folder: the store's folder.
        experiment: its sections model, corpus and activations are used.
        progress: called now and then with the tokens packed.

    Raises:
        DataError: the corpus is empty, too short or cannot be read.
    """
    place = folder / TOKENS
    done = read_layout(folder)
    if done is not None:
        names = [shard_name(*item) for item in done.all_shards()]
        damaged = damaged_shards(place, {name: done.token_checksums.get(name, "") for name in names})
        if not damaged:
            place.delete(DRAFT)
            return done
        log.warning("tokens: %s is damaged or missing; the tokens are made again", place / f"{damaged[0]}.safetensors")
    corpus, planned = experiment.corpus, planned_layout(experiment)
    contexts, per_shard = planned.contexts, planned.contexts_per_shard
    plan = {
        shard_name(split, i): min(per_shard, contexts[split] - i * per_shard)
        for split in SPLITS
        for i in range(-(-contexts[split] // per_shard))
    }
    tokenizer = open_tokenizer(experiment.model.name, experiment.model.revision)
    check_documents(experiment)
    units = list_units(corpus)
    draft = read_draft(place, text_digest(units, corpus.identity()), list(plan))
    if draft.token_checksums:
        log.info("tokens: going on behind shard %d of %d", len(draft.token_checksums), len(plan))
    groups = _tokenised(experiment, units, draft.cursor)
    packing = TokenShardWriter(
        place, plan, draft, corpus.context, tokenizer.bos_token_id, tokenizer.eos_token_id, progress
    )
    draft = packing.run(groups)
    groups.close()
    if len(draft.token_checksums) < len(plan):
        raise _too_short(corpus, packing.tokens_seen, packing.documents_seen, packing.reasons_seen)
    if draft.cursor.skipped:
        log.warning("corpus.path '%s': %s", corpus.path, _skipped(corpus, draft.cursor.reasons, draft.cursor.documents))
    layout = replace(
        planned,
        bos=tokenizer.bos_token_id,
        eos=tokenizer.eos_token_id,
        special=tuple(sorted(int(i) for i in tokenizer.all_special_ids)),
        documents=draft.cursor.documents,
        skipped=draft.cursor.skipped,
        token_checksums=draft.token_checksums,
    )
    if done is not None and layout.token_checksums != done.token_checksums:
        log.warning("tokens: the text is not what it was; the activations of store %s are made again", folder)
        (folder / ACTIVATIONS).remove()
        (folder / STREAMED).remove()
    place.write(LAYOUT, [encode_sealed(layout)])
    place.delete(DRAFT)
    return layout


def planned_layout(experiment: Experiment) -> Layout:
    """Return the layout before anything is read: its sizes are final, its tokens and checksums are not."""
    corpus = experiment.corpus
    return Layout(
        d_model=check_model(experiment.model, corpus.context),
        context=corpus.context,
        bos=None,
        eos=None,
        special=(),
        contexts_per_shard=max(1, experiment.activations.shard_tokens // corpus.context),
        contexts={
            "eval": _contexts(corpus.eval_tokens, corpus),
            "attribution": _contexts(corpus.attribution_tokens, corpus),
            "train": _contexts(corpus.tokens, corpus),
        },
        documents=0,
        skipped=0,
        token_checksums={},
    )


def _contexts(tokens: int, corpus: CorpusSettings) -> int:
    return -(-tokens // corpus.context)


def _skipped(corpus: CorpusSettings, reasons: dict[str, int], used: int) -> str:
    return skipped_text(reasons, used, field=corpus.text_field, encoding=corpus.encoding)


def _too_short(corpus: CorpusSettings, tokens: int, documents: int, reasons: dict[str, int]) -> DataError:
    place = "the standard library's text" if corpus.source == "stdlib" else f"'{corpus.path}'"
    bad = f" ({_skipped(corpus, reasons, documents)})" if sum(reasons.values()) else ""
    if documents == 0:
        return DataError(f"corpus.path {place} holds no text in '{corpus.text_field}'{bad}")
    asked = corpus.tokens + corpus.attribution_tokens + corpus.eval_tokens
    return DataError(
        f"corpus.tokens {corpus.tokens} + attribution_tokens {corpus.attribution_tokens} + eval_tokens "
        f"{corpus.eval_tokens} = {asked} tokens were asked of {place}, which holds only {tokens}{bad}"
    )


def _tokenised(
    experiment: Experiment, units: list[dict[str, Any]], start: CorpusCursor
) -> Generator[DocumentGroup, None, None]:
    """Yield groups of tokenised documents in order, from a cursor on."""
    model, corpus = experiment.model.name, experiment.corpus
    revision = experiment.model.revision

    def tokenise(batch: pa.Table) -> dict[str, list[bytes]]:
        cells = zip(batch["text"].to_pylist(), batch["chat"].to_pylist(), strict=True)
        texts = [Conversation(text) if chat else text or "" for text, chat in cells]
        ids = token_ids(open_tokenizer(model, revision), texts, model, special_tokens=corpus.special_tokens)
        flat = np.fromiter((token for document in ids for token in document or ()), np.int32)
        refused = np.array([document is None for document in ids], bool)
        reasons = batch["skipped"].to_numpy()
        without = -np.where(reasons > 0, reasons, np.where(refused, Skipped.TEMPLATE, Skipped.NO_TOKENS))
        lengths = np.array([len(document or ()) for document in ids], np.int32)
        lengths = np.where(lengths > 0, lengths, without).astype(np.int32)
        unit = batch["unit"].to_numpy().astype(np.int32)
        return {"tokens": [flat.tobytes()], "lengths": [lengths.tobytes()], "units": [unit.tobytes()]}

    with quiet_context(preserve_order=True, target_max_block_size=_BLOCK_BYTES), first_error("tokenising"):
        texts = documents(corpus, units, start.unit, start.document)
        rows = texts.map_batches(tokenise, batch_size=None, batch_format="pyarrow", num_cpus=1)
        for row in rows.iter_rows():
            tokens, lengths, unit = (np.frombuffer(row[name], np.int32) for name in ("tokens", "lengths", "units"))
            yield tokens, lengths, unit
