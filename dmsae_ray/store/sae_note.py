"""What is noted with an SAE about the activations that it reads, so that it can be used without an experiment."""

from typing import Any

from dmsae_ray.config import Experiment
from dmsae_ray.store.layout import Layout


def note_of(experiment: Experiment, key: str, layout: Layout | None) -> dict[str, Any]:
    """Return the note: model, place in it, and text.

    Args:
        experiment: the experiment.
        key: key of the store.
        layout: how the store's tokens are cut; None where the store is gone: contexts are then said to begin with BOS
            and documents to end with EOS, as they do with every tokenizer that has both.
    """
    model, corpus, filters = experiment.model, experiment.corpus, experiment.activations
    left_out: set[int] = set()
    if layout is not None and layout.bos is not None and filters.drop_bos:
        left_out = {layout.bos}
    if layout is not None and filters.drop_special:
        left_out |= set(layout.special) - {layout.bos}
    return {
        "model": model.name,
        "revision": model.revision,
        "layer": model.layer,
        "context": corpus.context,
        "corpus": corpus.path or corpus.source,
        "store": key,
        "dtype": model.dtype,
        "text": {
            "source": corpus.source,
            "path": corpus.path,
            "subset": corpus.subset,
            "split": corpus.split if corpus.source in ("huggingface", "arrow") else None,
            "revision": corpus.revision,
            "begins": None if layout is not None and layout.bos is None else "bos",
            "separator": None if layout is not None and layout.eos is None else "eos",
            "left_out": sorted(left_out),
        },
    }
