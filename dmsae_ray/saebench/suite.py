"""The evaluations of SAEBench: what each needs, which of its numbers are shown, and which way is better."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dmsae_ray.errors import ConfigError, one_line

Better = Literal["higher", "lower", "neither"]
VERSION = "0.6.0"
"""Of SAEBench (arXiv 2503.09532)."""


@dataclass(frozen=True)
class Shown:
    """A number of an evaluation that tables and figures show.

    Attributes:
        name: its name, as the evaluation has it.
        label: what tables call it.
        better: which way is better.
    """

    name: str
    label: str
    better: Better = "higher"


@dataclass(frozen=True)
class Evaluation:
    """One evaluation.

    Attributes:
        name: what `--evals` calls it.
        says: what it measures.
        shown: its main numbers.
        data_sets: what it reads from the Hub.
        models: the language models that it can evaluate, by their short names; () for all.
        own_data: whether texts of the user's own can take the place of its data sets.
        script: of its data sets, the one that SAEBench loads by a script of the data set: code from the Hub; or None.
    """

    name: str
    says: str
    shown: tuple[Shown, ...]
    data_sets: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    own_data: bool = False
    script: str | None = None


_GITHUB = "codeparrot/github-code"
_BIAS, _AMAZON = "LabHC/bias_in_bios", "canrager/amazon_reviews_mcauley_1and5"
SUITE: dict[str, Evaluation] = {
    each.name: each
    for each in (
        Evaluation(
            "core",
            "reconstruction, sparsity, loss of the language model",
            (
                Shown("ce_loss_score", "loss recovered"),
                Shown("kl_div_score", "KL recovered"),
                Shown("cossim", "cosine of x and reconstruction"),
                Shown("average_max_decoder_cosine_sim", "max decoder cosine", "lower"),
                Shown("frac_alive", "latents alive"),
                Shown("l0", "L0 of SAEBench", "neither"),
            ),
            ("Skylion007/openwebtext",),
        ),
        Evaluation(
            "absorption",
            "do latents of first letters fail where others take over?",
            (
                Shown("mean_absorption_fraction_score", "absorption, share", "lower"),
                Shown("mean_full_absorption_score", "absorption, full", "lower"),
                Shown("mean_num_split_features", "split latents a letter", "lower"),
            ),
        ),
        Evaluation(
            "scr",
            "removal of spurious correlations by few latents",
            (Shown("scr_metric_threshold_10", "SCR, 10 latents"), Shown("scr_metric_threshold_20", "SCR, 20 latents")),
            (_BIAS, _AMAZON),
        ),
        Evaluation(
            "tpp",
            "does removing the latents of one class change only its probe?",
            (
                Shown("tpp_threshold_10_total_metric", "TPP, 10 latents"),
                Shown("tpp_threshold_20_total_metric", "TPP, 20 latents"),
            ),
            (_BIAS, _AMAZON),
            own_data=True,
        ),
        Evaluation(
            "sparse_probing",
            "accuracy of probes on one, two, five latents",
            (
                Shown("sae_top_1_test_accuracy", "probe on 1 latent"),
                Shown("sae_top_2_test_accuracy", "probe on 2 latents"),
                Shown("sae_top_5_test_accuracy", "probe on 5 latents"),
            ),
            (_BIAS, _AMAZON, _GITHUB, "fancyzhx/ag_news", "Helsinki-NLP/europarl"),
            own_data=True,
            script=_GITHUB,
        ),
        Evaluation(
            "ravel",
            "can an attribute be changed without its neighbours?",
            (
                Shown("disentanglement_score", "RAVEL, disentanglement"),
                Shown("cause_score", "RAVEL, cause"),
                Shown("isolation_score", "RAVEL, isolation"),
            ),
            ("adamkarvonen/ravel_prompts",),
            ("gemma-2-2b", "pythia-160m-deduped"),
        ),
        Evaluation(
            "unlearning",
            "can knowledge be removed and the rest kept?",
            (Shown("unlearning_score", "unlearning"),),
            ("cais/wmdp", "cais/mmlu", "wikitext"),
            ("gemma-2-2b", "gemma-2-2b-it"),
        ),
        Evaluation(
            "autointerp",
            "can a language model predict from an explanation where a latent fires? Sends text to OpenAI, for money",
            (Shown("autointerp_score", "automated interpretability"),),
            ("monology/pile-uncopyrighted",),
        ),
    )
}


@dataclass(frozen=True)
class Given:
    """What a user has for the evaluations, beside the SAEs.

    Attributes:
        model: name of the language model.
        data: folder of labelled texts, `<name>.jsonl` of {"text", "label"}, in the place of the data sets; or None.
        own_text: whether `core` reads the held-out tokens of the sweep and not its data set.
        forget_corpus: bio-forget-corpus.jsonl of WMDP, which `unlearning` needs; or None.
        run_code: whether a data set may run a loading script of its own.
    """

    model: str
    data: Path | None = None
    own_text: bool = False
    forget_corpus: Path | None = None
    run_code: bool = False

    def data_sets(self, evaluation: Evaluation) -> tuple[str, ...]:
        """Return what an evaluation reads from the Hub."""
        spared = (self.own_text and evaluation.name == "core") or (self.data is not None and evaluation.own_data)
        return () if spared else evaluation.data_sets


def chosen(names: Sequence[str], own: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the evaluations of `--evals`, each once.

    Args:
        names: what was asked for.
        own: evaluations that are not SAEBench's.

    Raises:
        ConfigError: there is no such evaluation.
    """
    known = (*own, *SUITE)
    for name in names:
        if name not in known:
            raise ConfigError(f"--evals is '{','.join(names)}'; '{name}' is none: there are {', '.join(known)}")
    return tuple(dict.fromkeys(names))


def check_needs(names: Sequence[str], given: Given) -> None:
    """Check all that the evaluations need but the Hub, before anything is paid.

    Raises:
        ConfigError: an evaluation cannot evaluate this model, or something that it needs is not there; one line.
    """
    short = given.model.rpartition("/")[2]
    for name in names:
        evaluation = SUITE[name]
        if evaluation.models and short not in evaluation.models:
            raise ConfigError(
                f"--evals has '{name}', which SAEBench {VERSION} offers for {' and '.join(evaluation.models)} only; "
                f"model.name is '{given.model}'"
            )
        if evaluation.script in given.data_sets(evaluation) and not given.run_code:
            raise ConfigError(
                f"--evals has '{name}', whose data set {evaluation.script} is loaded by a script of its own, which is "
                "code from the Hub: --run-data-set-code lets it run, --data FOLDER takes texts of your own"
            )
    if "absorption" in names and given.model == "tiny":
        raise ConfigError(
            "--evals has 'absorption', which asks a language model to spell; the embedded one cannot, and its "
            "vocabulary has too few words: 'own' has a measure that needs neither"
        )
    if "autointerp" in names and not os.environ.get("OPENAI_API_KEY"):
        raise ConfigError("--evals has 'autointerp', which asks OpenAI: set OPENAI_API_KEY in the environment")
    if "unlearning" in names and (given.forget_corpus is None or not given.forget_corpus.is_file()):
        raise ConfigError(
            "--evals has 'unlearning'; it needs --forget-corpus FILE, the bio-forget-corpus.jsonl that WMDP's authors "
            "give on request"
        )
    if given.data is not None:
        _check_data(given.data)


def _check_data(folder: Path) -> None:
    import json

    files = sorted(folder.glob("*.jsonl")) if folder.is_dir() else []
    if not files:
        raise ConfigError(f"--data is '{folder}'; it must be a folder with <name>.jsonl files of {{text, label}}")
    for path in files:
        counts: dict[str, int] = {}
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--data has {path.name}, which cannot be read as UTF-8 ({one_line(error)})") from None
        for number, line in enumerate(text.split("\n"), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                if not isinstance(row["text"], str):
                    raise TypeError("its text is no text")
                counts[str(row["label"])] = counts.get(str(row["label"]), 0) + 1
            except (ValueError, KeyError, TypeError) as error:
                said = f"{type(error).__name__}: {error}"
                raise ConfigError(
                    f"--data has {path.name}, whose line {number} is no {{text, label}} ({said})"
                ) from None
        if len(counts) < 2 or min(counts.values()) < LEAST_TEXTS:
            found = ", ".join(f"{label}: {n}" for label, n in sorted(counts.items())) or "none"
            raise ConfigError(
                f"--data has {path.name} with texts by label {found}; it must have at least two labels, each with at "
                f"least {LEAST_TEXTS} texts"
            )


LEAST_TEXTS = 40


def check_reachable(names: Sequence[str], given: Given) -> None:
    """Ask the Hub for the data sets that the evaluations read.

    Raises:
        ConfigError: one is not there, is not open to this user, or the Hub does not answer; one line.
    """
    asked: dict[str, bool] = {}
    for name in names:
        for data_set in given.data_sets(SUITE[name]):
            if data_set in asked:
                continue
            asked[data_set] = True
            reason = _unreachable(data_set)
            if reason is not None:
                own = "; --data FOLDER takes texts of your own" if SUITE[name].own_data else ""
                own = "; --text own takes the sweep's held-out text" if name == "core" else own
                raise ConfigError(f"--evals has '{name}', which reads the data set {data_set}: {reason}{own}")


def _unreachable(data_set: str) -> str | None:
    import huggingface_hub.constants as constants
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    if constants.HF_HUB_OFFLINE:
        kept = Path(constants.HF_HUB_CACHE) / f"datasets--{data_set.replace('/', '--')}"
        return None if kept.is_dir() else "HF_HUB_OFFLINE is set, and it is not in the Hub's cache"
    try:
        HfApi().dataset_info(data_set, timeout=20)
    except GatedRepoError:
        return "its owners must give access first (HF_TOKEN says who asks)"
    except RepositoryNotFoundError:
        return "the Hub has none of this name, or it is private (HF_TOKEN says who asks)"
    except (HfHubHTTPError, OSError) as error:
        return f"the Hub does not answer ({type(error).__name__})"
    except Exception as error:  # the client's own HTTP library has errors of its own when there is no network
        if type(error).__module__.partition(".")[0] not in ("httpx", "httpcore", "httpx2", "httpcore2", "requests"):
            raise
        return f"the Hub does not answer ({type(error).__name__})"
    return None
