"""The embedded tiny Gemma-2: the real architecture, trained (on a small scale) on text that every Python carries.

`python -m dmsae_ray.lm.tiny` says where it is and how good it is; `--rebuild FOLDER` trains it again.
"""

import argparse
import hashlib
import json
import os
import platform
import shutil
import sys
import tempfile
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dmsae_ray.errors import ConfigError, DmsaeError
from dmsae_ray.files import alone, cache_folder, file_sha256, replacing
from dmsae_ray.lm.text import corpus_sha256, split_documents, stdlib_documents, stdlib_fingerprint
from dmsae_ray.lm.tiny_recipe import OnTrainingStep, TinyRecipe, TrainingStep

SHIPPED = Path(__file__).parent / "tiny_gemma2"
WEIGHTS, TOKENIZER, META = "model.safetensors", "tokenizer.json", "meta.json"


def tiny_model(
    cache_dir: str | Path | None = None, progress: OnTrainingStep | None = None, recipe: TinyRecipe | None = None
) -> Path:
    """Return the folder of the tiny model for this Python's text: the shipped one, else the cached one, else a new one.

    Args:
        cache_dir: where the model is cached; default `$DMSAE_CACHE`, else the user's cache folder.
        progress: called during training (about 80 s), and never otherwise.
        recipe: how the model is made, if not by the default; such a model is in the cache only.

    Returns:
        A folder that transformers' `AutoModelForCausalLM` and `AutoTokenizer` load, with `meta.json` in it.

    Raises:
        ConfigError: the cache cannot be written.
        DataError: this Python has no source of its standard library.
    """
    cache = Path(cache_dir) if cache_dir is not None else cache_folder()
    recipe = recipe or TinyRecipe()
    corpus = _corpus(cache)
    folder = cache / f"tiny-gemma2-{_key(corpus, recipe)}"
    for place in (SHIPPED, folder):
        if is_whole(place, corpus, recipe):
            return place
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with alone(folder.with_suffix(".lock")):  # without file locks two may train; the last model stays
            if not is_whole(folder, corpus, recipe):  # another process may have made it meanwhile
                build(folder, recipe, progress)
    except OSError as error:
        raise ConfigError(
            f"DMSAE_CACHE '{cache}' cannot be written: {error.strerror or error}; set it to a folder that can"
        ) from None
    return folder


def read_meta(folder: Path) -> dict[str, Any]:
    """Return what `meta.json` says about a model; empty if it cannot be read."""
    try:
        found = json.loads((folder / META).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def is_whole(folder: Path, corpus: str, recipe: TinyRecipe) -> bool:
    """Return whether the folder holds the model of this corpus (a sha256) and recipe, with its files unchanged."""
    meta = read_meta(folder)
    return (
        meta.get("corpus_sha256") == corpus
        and meta.get("recipe") == asdict(recipe)
        and _file_sha256(folder / WEIGHTS) == meta.get("weights_sha256")
        and _file_sha256(folder / TOKENIZER) == meta.get("tokenizer_sha256")
    )


def build(folder: Path, recipe: TinyRecipe, progress: OnTrainingStep | None = None) -> dict[str, Any]:
    """Train the model, move it to `folder` in one step, and return its metadata; what was there is replaced."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    # mkdtemp's folder is for its owner alone; the model inside is for everyone who may read the parent.
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        made = temporary / folder.name
        made.mkdir()
        meta = _train_into(made, recipe, progress)
        if not is_whole(folder, meta["corpus_sha256"], recipe):  # another process may have been faster
            if folder.exists():
                os.rename(folder, temporary / "old")
            os.rename(made, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return meta


def _train_into(folder: Path, recipe: TinyRecipe, progress: OnTrainingStep | None) -> dict[str, Any]:
    import torch
    import transformers

    from dmsae_ray.lm import tiny_training as training
    from dmsae_ray.lm.quiet import quiet

    documents = stdlib_documents()
    train, held_out = split_documents(documents)
    tokenizer = training.train_tokenizer(train, recipe.vocab_size)
    train_tokens = training.token_stream(tokenizer, train)
    held_out_tokens = training.token_stream(tokenizer, held_out)
    library: Any = transformers
    model: Any = training.train_model(train_tokens, recipe, progress)
    model.to(torch.bfloat16)
    with quiet():
        model.save_pretrained(folder)
    names = dict(zip(("pad_token", "eos_token", "bos_token", "unk_token"), training.SPECIAL_TOKENS, strict=True))
    library.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    meta = {
        "corpus_sha256": corpus_sha256(documents),
        "recipe": asdict(recipe),
        "steps": recipe.steps,
        # The loss of the weights as they are saved, rounded to bfloat16.
        "val_loss": round(training.held_out_loss(model.float(), held_out_tokens, recipe), 5),
        "unigram_loss": round(training.unigram_loss(train_tokens, held_out_tokens, recipe.vocab_size), 5),
        "train_tokens": len(train_tokens),
        "val_tokens": len(held_out_tokens),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "weights_sha256": _file_sha256(folder / WEIGHTS),
        "tokenizer_sha256": _file_sha256(folder / TOKENIZER),
        "python": platform.python_version(),
        "torch": torch.__version__.partition("+")[0],
        "cpu": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
    }
    (folder / META).write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
    # safetensors makes a file that only its owner can read, but a cache may be shared.
    (folder / WEIGHTS).chmod((folder / META).stat().st_mode & 0o777)
    return meta


def _corpus(cache: Path) -> str:
    """Return the hash of this Python's text; it is kept in the cache, because to read the text takes seconds."""
    memory = cache / f"stdlib-{stdlib_fingerprint()[:32]}.txt"
    try:
        found = memory.read_text(encoding="utf-8").strip()
        if len(found) == 64:
            return found
    except (OSError, ValueError):
        pass
    corpus = corpus_sha256(stdlib_documents())
    with suppress(OSError):  # without a cache this only takes longer
        cache.mkdir(parents=True, exist_ok=True)
        with replacing(memory) as temporary:
            temporary.write_text(corpus, encoding="utf-8")
    return corpus


def _key(corpus: str, recipe: TinyRecipe) -> str:
    settings = json.dumps(asdict(recipe), sort_keys=True)
    return hashlib.sha256(f"{corpus} {settings}".encode()).hexdigest()[:16]


def _file_sha256(path: Path) -> str | None:
    try:
        return file_sha256(path)
    except OSError:
        return None


def _show(step: TrainingStep) -> None:
    end = "\n" if step.step == step.steps else ""
    print(f"\rstep {step.step}/{step.steps}  loss {step.loss:.3f}", end=end, file=sys.stderr, flush=True)


def _rebuild(folder: Path) -> None:
    if folder.exists() and not (folder / META).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(
            f"--rebuild '{folder}' holds something else; a new folder, or one of a tiny model, is allowed"
        )
    shutil.rmtree(folder, ignore_errors=True)
    build(folder, TinyRecipe(), _show)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line of this module, and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m dmsae_ray.lm.tiny", description=__doc__)
    parser.add_argument("--rebuild", metavar="FOLDER", type=Path, help="train the model anew into FOLDER")
    folder: Path | None = parser.parse_args(arguments).rebuild
    try:
        if folder is None:
            folder = tiny_model(progress=_show)
        else:
            _rebuild(folder.absolute())
    except DmsaeError as error:
        print(error, file=sys.stderr)
        return 2
    meta = read_meta(folder)
    print(f"{folder}: {meta['val_loss']:.3f} nats a token on held-out text (unigram: {meta['unigram_loss']:.3f})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
