"""The card of a published SAE: what it is, how to load it, what it was trained on, what was measured, what that shows.

Every number is one of the sweep's report: of the trial itself, or an `Aggregate` of its setting.
"""

import re
from typing import Any

import yaml

from dmsae_ray.distill import DISTILLED
from dmsae_ray.files import HUB_SCHEME
from dmsae_ray.plan import CycleSetting
from dmsae_ray.report.card_numbers import (
    SHOWN,
    carryover_part,
    core_part,
    limits_part,
    measured_part,
    own_number,
    quality_part,
    rediscovery_part,
)
from dmsae_ray.report.finding import UNMATCHED
from dmsae_ray.report.published_sae import (
    FORMATS,
    PublishedSAE,
    code,
    hook_of,
    in_words,
    is_on_hub,
    model_of,
    table,
)
from dmsae_ray.sae import saelens_metadata

PAPER = "https://arxiv.org/abs/2512.24975"
SOMEWHERE = "your-name/your-repository"
"""Stands in the card for the repository while there is none."""
_TAGS = ("sparse-autoencoder", "matryoshka", "interpretability", "dmsae")
_CITE = """\
```bibtex
@misc{martinlinares2025attribution,
  title         = {Attribution-Guided Distillation of Matryoshka Sparse Autoencoders},
  author        = {Martin-Linares, Cristina P. and Ling, Jonathan P.},
  year          = {2025},
  eprint        = {2512.24975},
  archivePrefix = {arXiv}
}
```"""


def model_card(one: PublishedSAE) -> str:
    """Return the card in Markdown, with its front matter in YAML."""
    parts = [f"---\n{yaml.safe_dump(_front_matter(one), sort_keys=False)}---", f"# {_title(one)}", _what(one)]
    for head, text in (
        ("Load it", _load(one)),
        ("What it was trained on", _data(one)),
        ("How it was trained", _settings(one)),
        ("Measured", measured_part(one)),
        ("Quality", quality_part(one)),
        ("The core", core_part(one)),
        ("Does the core come back?", carryover_part(one)),
        ("Do other trainings find it?", rediscovery_part(one)),
        ("What these numbers do not show", limits_part(one)),
        ("Files", _files(one)),
        ("Licence", _licence(one)),
        ("Cite", f"The method: [arXiv 2512.24975]({PAPER}).\n\n{_CITE}"),
    ):
        if text:
            parts.append(f"## {head}\n\n{text}")
    return "\n\n".join(parts) + "\n"


def _front_matter(one: PublishedSAE) -> dict[str, Any]:
    head: dict[str, Any] = {"license": one.licence.id if one.licence else "unknown"}
    if one.licence is not None and one.licence.name is not None:
        head["license_name"] = one.licence.name
        head |= {} if one.licence.link is None else {"license_link": one.licence.link}
    if is_on_hub(one):
        head["base_model"] = one.about["model"]
    lens = "saelens" in one.formats
    head["library_name"] = "saelens" if lens else "dmsae_ray"
    head["tags"] = [*(["saelens"] if lens else []), *_TAGS]
    dataset = saelens_metadata(one.about)["dataset_path"]
    if dataset is not None and "text" in one.public:
        head["datasets"] = [dataset]
    return head


def _title(one: PublishedSAE) -> str:
    kind = {"distilled": "Distilled Matryoshka SAE", "baseline": "Matryoshka SAE (baseline, no core)"}.get(
        one.report.arm, f"Control: Matryoshka SAE around a {in_words(one.report.arm)} core"
    )
    if not isinstance(one.result.setting, CycleSetting) and one.report.arm == DISTILLED:
        kind = "Matryoshka SAE around a distilled core"
    elif not one.is_control and isinstance(one.result.setting, CycleSetting) and one.report.n_core_in == 0:
        kind = "Matryoshka SAE (cycle 0, no core yet)"
    model = one.about["model"].rpartition("/")[2]
    name = "a tiny test model" if model == "tiny" else re.sub(r"[^\w.-]+", "_", model)
    return f"{kind}: {name}, layer {one.about['layer']}, k = {one.sae.k}"


def _what(one: PublishedSAE) -> str:
    """Say in a paragraph what the SAE is, and show its most important numbers."""
    sae, layer = one.sae, one.about["layer"]
    text = (
        f"A sparse autoencoder (SAE) with {sae.n_latents:,} latents. It reads the residual stream of "
        f"{model_of(one)} after block {layer}, counted from 0 (`{hook_of(one)}`, width {sae.d_model:,}). "
    )
    text += f"It is the {_training(one)} of trial `{one.result.trial_id}`.\n\n{_method(one)}"
    if one.report.collapsed or one.result.collapse:
        reason = one.report.collapsed or one.result.collapse
        text += f"\n\n**This trial collapsed ({reason}). It is in no mean of this page; do not use it as a good SAE.**"
    shown = [(name, own_number(one, key, digits)) for name, key, digits in SHOWN if not name.startswith(("-", "Share"))]
    core, rest = (one.report.metrics.get(name) for name in ("l0_core", "l0_non_core"))
    if core is not None and rest is not None and sae.n_core:
        shown[0] = (shown[0][0], f"{shown[0][1]} (core {core:.1f} + others {rest:.1f})")
    shown = [(name.partition(":")[0], value) for name, value in shown if value != "-"]
    return f"{text}\n\n{table([n for n, _ in shown], [[v for _, v in shown]])}" if shown else text


def _training(one: PublishedSAE) -> str:
    if isinstance(one.result.setting, CycleSetting):
        last = one.result.last.cycle
        if one.is_control:
            return f"control '{in_words(one.report.arm)}' of the last cycle, {last},"
        return f"SAE of cycle {one.report.cycle}{' (the last)' if one.report.cycle == last else f' (of 0 to {last})'}"
    return f"SAE of arm '{in_words(one.report.arm)}'"


def _method(one: PublishedSAE) -> str:
    distill, setting, n = one.experiment.distill, one.result.setting, one.sae.n_core
    selects = f"keep the smallest set that explains {distill.coverage:.0%} of the score"
    if isinstance(setting, CycleSetting):
        selects = f"keep the smallest set that explains {setting.coverage:.0%} of the score"
        if setting.core_size is not None:
            selects = f"keep the {setting.core_size} best"
    method = (
        f"The method is Distilled Matryoshka SAEs ([arXiv 2512.24975]({PAPER})), in the code of dmsae_ray: train a "
        f"Matryoshka SAE, score its latents by gradient times activation against the next-token loss, {selects}, "
        "freeze their encoder rows as a *core*, and train again around it."
    )
    rows = f"latents 0 to {n - 1}" if n > 1 else "latent 0"
    if not isinstance(setting, CycleSetting):
        what = {
            "distilled": f"This SAE was trained anew around a core that was given: its {rows} have the frozen encoder "
            "rows of that core (Algorithm 3 of the paper).",
            "baseline": "This SAE is the baseline: it was trained without a core.",
        }.get(one.report.arm, f"This SAE is a control: its {rows} have frozen random encoder rows ({_norms(one)}).")
    elif one.is_control:
        what = f"This SAE is a control: its {rows} are not the core, but {_norms(one)}, frozen in its place."
    elif n:
        before = one.report.cycle - 1
        what = f"Here {rows} are the core, with the frozen encoder rows that cycle {before} handed on."
    else:
        what = "This is the SAE of the first cycle: it has no core yet."
    if one.core is not None and isinstance(setting, CycleSetting):
        what += (
            f" `core.safetensors` is the *distilled core*: the {len(one.core)} latents that "
            f"{_selected_in(one)} selected."
        )
    return f"{method} {what}"


def _selected_in(one: PublishedSAE) -> str:
    least = one.experiment.distill.min_cycles
    return f"all {len(one.result.core_sizes)} cycles" if least is None else f"each of the last {least} cycles"


def _norms(one: PublishedSAE) -> str:
    rows = f"{in_words(one.report.arm)} rows"
    return f"{rows} of norm 1" if one.report.arm == UNMATCHED else f"{rows} with the same norms as the core's"


def _load(one: PublishedSAE) -> str:
    repo, d, layer = one.repo or SOMEWHERE, one.sae.d_model, one.about["layer"]
    snippets = {
        "saelens": (
            "With [SAELens](https://github.com/decoderesearch/SAELens) 6",
            f'from sae_lens import SAE\n\nsae = SAE.from_pretrained("{repo}", "saelens")\nlatents = sae.encode(x)',
        ),
        "dictionary_learning": (
            "With [dictionary_learning](https://pypi.org/project/dictionary-learning/), whose layout SAEBench reads",
            "from dictionary_learning.utils import load_dictionary\nfrom huggingface_hub import snapshot_download\n\n"
            f'folder = snapshot_download("{repo}", allow_patterns="dictionary_learning/*")\n'
            'sae, config = load_dictionary(f"{folder}/dictionary_learning", device="cpu")\nlatents = sae.encode(x)',
        ),
        "dmsae": (
            "With dmsae_ray, which also reads the core",
            "from dmsae_ray.sae import load_sae\nfrom huggingface_hub import snapshot_download\n\n"
            f'folder = snapshot_download("{repo}", allow_patterns="dmsae/*")\n'
            'sae = load_sae(f"{folder}/dmsae")\nlatents = sae.encode(x)',
        ),
    }
    if one.core is not None:
        head, code = snippets["dmsae"]
        rows = f"[{len(one.core)}, {one.core.d_model}]"
        code = f'from dmsae_ray import load_core\n{code}\ncore = load_core("{repo}")  # core.rows {rows}, core.lineage'
        snippets["dmsae"] = (head, code)
    parts = [
        f"The SAE takes raw activations, float32 [tokens, {d}]; scale and bias are folded into its weights. All "
        "formats give the same latents.",
        f"```python\nimport torch\n\nx = torch.randn(8, {d})  # put activations of {hook_of(one)} here\n```",
        f"(With transformers: `model(tokens, output_hidden_states=True).hidden_states[{layer + 1}]`, unless block "
        f"{layer} is the last one: what is there is normalised.)",
    ]
    for name in FORMATS:
        if name in one.formats:
            head, code = snippets[name]
            parts.append(f"{head}:\n\n```python\n{code}\n```")
    if one.repo is None:
        parts.append(f"(`{SOMEWHERE}` is a placeholder: this folder has not been uploaded.)")
    return "\n\n".join(parts)


def _data(one: PublishedSAE) -> str:
    experiment, text = one.experiment, one.about["text"]
    corpus, filters = experiment.corpus, experiment.activations
    place = code(text["path"]) if text["path"] else "text that every Python carries (standard library)"
    on_hub = text["source"] == "huggingface" and "text" in one.public
    if on_hub:
        place = f"[{text['path']}](https://huggingface.co/datasets/{text['path']})"
    place += f", subset {code(text['subset'])}" if text["subset"] else ""
    place += f", split {code(text['split'])}" if text["split"] else ""
    place += "" if "text" in one.public else ", which is not public"
    left_out = ["BOS"] if filters.drop_bos and text["begins"] else []
    left_out += ["other special tokens"] if filters.drop_special else []
    if filters.max_norm_multiple is not None:
        left_out.append(f"tokens whose norm is above {filters.max_norm_multiple:g} times the median")
    kept = f"stored as {filters.dtype}" if filters.mode == "store" else "not stored"
    begins = "begins with BOS" if text["begins"] else "does not begin with BOS: the tokenizer has none"
    between = "EOS stands between documents" if text["separator"] else "nothing stands between documents"
    rows = [
        ("Language model", model_of(one)),
        ("- revision", code(one.about["revision"]) if one.about["revision"] else _unpinned(is_on_hub(one))),
        ("- runs in", one.about.get("dtype") or experiment.model.dtype),
        ("- place", f"residual stream after block {one.about['layer']}: `{hook_of(one)}`"),
        ("Text", place),
        ("- revision", code(text["revision"]) if text["revision"] else _unpinned(on_hub)),
        ("- context", f"{one.about['context']:,} tokens; each {begins}; {between}"),
        ("Text for training", f"{corpus.tokens:,} tokens; activations {kept}"),
        ("Scores of latents", f"{corpus.attribution_tokens:,} held-out tokens, with the loss gradient"),
        ("Evaluation", f"{corpus.eval_tokens:,} other held-out tokens of the same text"),
        ("Left out of all", ", ".join(left_out) or "nothing"),
    ]
    return table(["", ""], [list(row) for row in rows if row[1]])


def _settings(one: PublishedSAE) -> str:
    experiment, sae = one.experiment, one.sae
    distill, recipe = experiment.distill, experiment.recipe
    score = distill.score + (f" (q = {distill.quantile:g})" if distill.score in ("quantile", "trimmed_mean") else "")
    core = "none"
    if sae.n_core:
        kind = {"dense": "not under BatchTopK: it may fire at every token", "sparse": "under BatchTopK as all latents"}
        core = f"{sae.n_core:,} latents, {sae.core_sparsity} ({kind[sae.core_sparsity]})"
    target = one.report.metrics.get("l0_target")
    around = "" if experiment.transfer is None else str(experiment.transfer.core)
    given = ", ".join(map(code, distill.initial_places.values()))
    setting = one.result.setting
    tau, size = distill.coverage, distill.core_size
    if isinstance(setting, CycleSetting):
        tau, size = setting.coverage, setting.core_size
    selected = f"the smallest set with {tau:.0%} of the score (τ = {tau:g})" if size is None else f"the {size} best"
    if one.result.core_sizes:
        last = one.result.last.cycle
        cycles = f"0 to {last}; seed {one.result.trial.seed}"
    else:
        cycles = f"none (one training); seed {one.result.trial.seed}"
    rows = [
        ("Latents", f"{sae.n_latents:,}, in Matryoshka groups of {', '.join(f'{g:,}' for g in sae.group_sizes)}"),
        ("Core of this SAE", core),
        ("k, sparsity", f"{sae.k}" + (f"; BatchTopK keeps {target:g} a token" if target else "")),
        ("Inference", "one threshold for all latents" + (", none on the core" if sae.n_dense else "")),
        ("Selection", f"{selected}; score: {score}"),
        ("Cycles", cycles),
        ("Training of a cycle", f"{one.report.tokens:,} tokens, batches of {recipe.batch_size:,}"),
        ("Adam", f"learning rate {recipe.lr:g}, warm-up {recipe.warmup_steps:,} steps"),
        ("Cycle 0 was given", given),
        ("The core was given", code(around) if around.startswith(HUB_SCHEME) else ""),
        ("Cost of the trial", f"{one.result.flops:.2g} FLOP, without its controls" if one.result.flops else ""),
    ]
    rest = "`experiment.yaml` has every setting."
    return f"{table(['', ''], [list(row) for row in rows if row[1]])}\n\n{rest}"


def _files(one: PublishedSAE) -> str:
    every = {
        "saelens": ("saelens/", "SAELens: `cfg.json`, `sae_weights.safetensors` (jumprelu)"),
        "dmsae": ("dmsae/", "dmsae_ray: `config.json`, `sae.safetensors`"),
        "dictionary_learning": ("dictionary_learning/", "dictionary_learning, SAEBench: `config.json`, `ae.pt`"),
    }
    rows = [every[name] for name in FORMATS if name in one.formats]
    return table(["file", ""], [[f"`{name}`", what] for name, what in (*rows, *one.files)])


def _licence(one: PublishedSAE) -> str:
    model = model_of(one)
    if one.licence is None:
        return f"unknown: the licence of {model} is not known here."
    called = code(one.licence.name or one.licence.id)
    if one.licence.link is not None and re.fullmatch(r"https://[\w./%-]+", one.licence.link):
        called += f" ({one.licence.link})"
    return (
        f"{called}. The SAE was made from the activations of {model}, and is given under the licence of that "
        f"model, as {one.licence.source}."
        if one.licence.source
        else f"{called}, as its publisher chose. The SAE was made from the activations of {model}, whose own "
        "terms apply too."
    )


def _unpinned(on_hub: bool) -> str:
    return "not pinned" if on_hub else ""
