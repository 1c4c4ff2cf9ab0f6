"""Run one evaluation of SAEBench on one SAE: `python inside JOB.json PARENT`, by the Python of SAEBench's environment.

Nothing of dmsae_ray is imported here. PARENT is the process that waits for this one, which ends with it. The job names
the SAE's folder, the language model and the evaluation with its settings; the result is a JSON file beside it. SAEBench
swallows some errors and returns nothing: no result is an error.
"""

import contextlib
import fcntl
import importlib
import json
import math
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any


def _end_with(parent: int) -> None:
    """End this process with the one that started it, however that ended, and remove the job's folder in its place."""
    while os.getppid() == parent:
        time.sleep(0.5)
    folder = Path(sys.argv[1]).parent
    if folder.name.startswith("dmsae-eval-"):  # the caller's name for it: activations in it may be large
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


if __name__ == "__main__":  # before what follows, which takes a while to import
    threading.Thread(target=_end_with, args=(int(sys.argv[2]),), daemon=True).start()

import hooked_model  # noqa: E402
import own_data  # noqa: E402
import sae_adapter  # noqa: E402
import torch  # noqa: E402

_MODULES = {"scr": "scr_and_tpp", "tpp": "scr_and_tpp"}
_CONFIGS = {
    "absorption": "AbsorptionEvalConfig",
    "autointerp": "AutoInterpEvalConfig",
    "ravel": "RAVELEvalConfig",
    "scr": "ScrAndTppEvalConfig",
    "sparse_probing": "SparseProbingEvalConfig",
    "tpp": "ScrAndTppEvalConfig",
    "unlearning": "UnlearningEvalConfig",
}
_SIZES = {"sparse_probing": ("probe_train_set_size", "probe_test_set_size"), "tpp": ("train_set_size", "test_set_size")}


def main(place: str) -> None:
    """Run the job in the file, and write `result.json` beside it."""
    job = json.loads(Path(place).read_text(encoding="utf-8"))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = getattr(torch, job["dtype"])
    official = hooked_model.is_official(job["model"])
    name = job["model"].rpartition("/")[2] if official else job["model_key"]
    sae = sae_adapter.load(Path(job["sae"]), name, job["layer"], job["context"], device, dtype)
    evaluation = job["evaluation"]
    module = importlib.import_module(f"sae_bench.evals.{_MODULES.get(evaluation, evaluation)}.main")
    if official and (job["revision"] is None or evaluation == "unlearning"):  # that one has a model of its own
        width = hooked_model.width(job["model"])
    elif official:
        model = hooked_model.load_official(job["model"], job["revision"], device, dtype)
        hooked_model.put_into([module], model)
        width = model.cfg.d_model
    else:
        model = hooked_model.load(job["model"], job["revision"], name, device, dtype)
        hooked_model.put_into([module], model)
        width = model.cfg.d_model
    if sae.cfg.d_in != width:
        raise ValueError(f"the SAE is for activations of width {sae.cfg.d_in}; {job['model']} has {width}")
    with torch.set_grad_enabled(evaluation in ("absorption", "ravel", "scr", "sparse_probing", "tpp", "unlearning")):
        if evaluation == "core":
            metrics = _core(job, module, sae, device)
        else:
            with _probes_are_fitted_once(job, name) if evaluation == "absorption" else contextlib.nullcontext():
                metrics = _other(job, module, sae, device)
    result = {"metrics": _flat(metrics), "versions": _versions(), "device": device}
    Path(place).with_name("result.json").write_text(json.dumps(result), encoding="utf-8")


def _core(job: dict[str, Any], core: Any, sae: Any, device: str) -> dict[str, Any]:
    """Run `core` with the settings of SAEBench's own script, or on given contexts, each once."""
    from sae_bench.evals.core.eval_config import CoreEvalConfig
    from sae_bench.sae_bench_utils import general_utils
    from sae_lens.training.activations_store import ActivationsStore

    general_utils._standardize_sae_cfg(sae.cfg)
    sae.cfg.metadata.prepend_bos = sae.cfg.metadata.prepend_bos is not False
    model = core.HookedTransformer.from_pretrained_no_processing(sae.cfg.model_name, device=device, dtype=sae.dtype)
    config = CoreEvalConfig(
        model_name=sae.cfg.model_name,
        llm_dtype=job["dtype"],
        exclude_special_tokens_from_reconstruction=True,
        compute_kl=True,
        compute_ce_loss=True,
        compute_l2_norms=True,
        compute_sparsity_metrics=True,
        compute_variance_metrics=True,
        compute_featurewise_density_statistics=True,
        compute_featurewise_weight_based_metrics=True,
        **job["settings"],
    )
    if job["tokens"] is None:
        store = ActivationsStore.from_sae(model, sae, context_size=config.context_size, dataset=config.dataset)
        store.shuffle_input_dataset(seed=42)
    else:
        from datasets import Dataset
        from safetensors.torch import load_file

        tokens = load_file(job["tokens"])["tokens"].long()
        batch = next(n for n in range(min(config.batch_size_prompts, len(tokens)), 0, -1) if len(tokens) % n == 0)
        config.batch_size_prompts, config.context_size = batch, tokens.shape[1]
        config.n_eval_reconstruction_batches = config.n_eval_sparsity_variance_batches = len(tokens) // batch
        config.dataset = "held-out tokens of the sweep"
        data = Dataset.from_dict({"tokens": tokens.tolist()})
        store = ActivationsStore.from_sae(model, sae, context_size=tokens.shape[1], dataset=data, streaming=False)
    special = {model.tokenizer.pad_token_id, model.tokenizer.eos_token_id, model.tokenizer.bos_token_id}
    scalars, features = core.run_evals(sae, store, model, config, ignore_tokens=special - {None}, verbose=False)
    return {**scalars, "misc_metrics": core.calculate_misc_metrics(features)}


def _other(job: dict[str, Any], module: Any, sae: Any, device: str) -> dict[str, Any]:
    """Run an evaluation by its `run_eval` and read the file that it writes."""
    evaluation = job["evaluation"]
    config_module = importlib.import_module(module.__name__.replace(".main", ".eval_config"))
    model = "gemma-2-2b-it" if evaluation == "unlearning" else sae.cfg.model_name
    config = getattr(config_module, _CONFIGS[evaluation])(
        model_name=model, llm_dtype=job["dtype"], llm_batch_size=job["batch"]
    )
    config.random_seed = 42
    if evaluation in ("scr", "tpp"):
        config.perform_scr = evaluation == "scr"
        config.n_values = [n for n in config.n_values if n <= sae.cfg.d_sae]
    if job["data"] is not None:
        own_data.put_in_place(Path(job["data"]), config, _SIZES[evaluation])
        if evaluation == "tpp":
            module.COLUMN2_VALS_LOOKUP.update({name: ("", "") for name in config.dataset_names})
    for name, value in job["settings"].items():
        setattr(config, name, value)
    # SAEBench's files go into the working directory, which the caller made for this job.
    more: dict[str, Any] = {"force_rerun": True}
    if evaluation in ("scr", "sparse_probing", "tpp"):
        more |= {"clean_up_activations": True, "save_activations": False}
    chosen = [("dmsae_ray", sae)]
    if evaluation == "autointerp":
        module.run_eval(config, chosen, device, os.environ["OPENAI_API_KEY"], "results", **more)
    else:
        module.run_eval(config, chosen, device, "results", **more)
    written = [path for path in Path("results").rglob("*_eval_results.json")]
    if len(written) != 1:
        raise RuntimeError("SAEBench gave no result (it says why above)")
    metrics: dict[str, Any] = json.loads(written[0].read_text(encoding="utf-8"))["eval_result_metrics"]
    return metrics


@contextlib.contextmanager
def _probes_are_fitted_once(job: dict[str, Any], model: str) -> Iterator[None]:
    """Let one process fit the probes of first letters, which SAEBench keeps for the model and layer; others wait."""
    from sae_bench.evals.absorption.common import PROBES_DIR

    PROBES_DIR.mkdir(parents=True, exist_ok=True)
    if (PROBES_DIR / model / f"layer_{job['layer']}" / "probe.pth").is_file():
        yield
        return
    with (PROBES_DIR / f"{model}-{job['layer']}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _flat(metrics: dict[str, Any]) -> dict[str, float]:
    """Return the finite numbers of a tree of metrics by their own names, which are different."""
    found: dict[str, float] = {}
    for name, value in metrics.items():
        if isinstance(value, dict):
            found |= _flat(value)
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            found[name] = float(value)
    return found


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("sae-bench", "sae-lens", "transformer-lens", "transformers", "torch")}


if __name__ == "__main__":
    main(sys.argv[1])
