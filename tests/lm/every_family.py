"""The tap on a tiny random model of every causal architecture of transformers: `python -m tests.lm.every_family`.

Each model is saved as transformers saves it, loaded whole and cut by `load_tap`, and compared with transformers' own
whole model: hidden states, gradients by autograd through the whole loss, and the loss with the block's output
replaced. What `check_architecture` refuses is listed with its reason. The table is written to
`tests/benchmarks/results/families.md`, or to the file that is given.
"""

import argparse
import copy
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.nn.functional import cross_entropy

from dmsae_ray.errors import ConfigError
from dmsae_ray.lm.architecture import parts_of
from dmsae_ray.lm.description import info_of
from dmsae_ray.lm.loading import load_tap
from dmsae_ray.lm.support import NEEDED, check_architecture
from dmsae_ray.lm.tokenizer import load_tokenizer

from .families import CONTEXT, VOCAB, architectures, tiny_config

RESULT = Path(__file__).parents[1] / "benchmarks" / "results" / "families.md"
CLOSE = 2e-4
"""Largest difference that counts as equal, over the largest value: float32, sums in another order."""


@dataclass(frozen=True)
class Row:
    """What was found of an architecture.

    Attributes:
        model_type: transformers' name of it.
        class_name: its causal language model.
        layers: the layers of the tiny model that can be tapped, of how many.
        verdict: 'supported', 'refused', 'wrong' or 'not built' (the tiny model cannot be made here).
        detail: the largest relative difference found, or the reason.
    """

    model_type: str
    class_name: str
    layers: str
    verdict: str
    detail: str


def examine(model_type: str, folder: Path) -> Row:
    """Compare the tap with transformers' own model of an architecture; `folder` is for its files."""
    try:
        config = tiny_config(model_type)
    except Exception as error:
        return Row(model_type, "", "", "not built", _line(f"{type(error).__name__}: {error}"))
    mapped = transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    name = (mapped[0] if isinstance(mapped, list | tuple) else mapped).__name__
    try:
        n_layers = info_of(config).n_layers
    except ConfigError as error:
        return Row(model_type, name, "", "refused", _line(str(error)))
    layers, reasons = [], []
    for layer in range(n_layers):
        try:
            check_architecture(model_type, config, layer, torch.float32)
            layers.append(layer)
        except ConfigError as error:
            reasons.append(_line(str(error)))
    if not layers:
        return Row(model_type, name, f"0 of {n_layers}", "refused", reasons[0])
    said = f"{len(layers)} of {n_layers}"
    try:
        save(config, folder)
        loaded(folder)
    except Exception as error:
        return Row(model_type, name, said, "not built", _line(f"{type(error).__name__}: {error}"))
    worst = 0.0
    for layer in sorted({layers[len(layers) // 3], layers[-1]}):
        try:
            worst = max(worst, compare(folder, layer))
        except ConfigError as error:
            return Row(model_type, name, said, "refused", "when loaded: " + _line(str(error)))
        except Exception as error:
            return Row(model_type, name, said, "wrong", f"layer {layer}: " + _line(f"{type(error).__name__}: {error}"))
    verdict = "supported" if worst < CLOSE else "wrong"
    return Row(model_type, name, said, verdict, f"{worst:.1e}" + (f"; else {reasons[0]}" if reasons else ""))


def _line(text: str) -> str:
    text = " ".join(text.split()).removesuffix(f"; {NEEDED}")
    text = text.partition(" is not supported: ")[2] or text
    return text if len(text) <= 200 else text[:197] + "..."


def save(config: transformers.PretrainedConfig, folder: Path) -> None:
    """Save a model with random weights, large enough that attention and the MLPs matter, with a tokenizer."""
    torch.manual_seed(3)
    whole = copy.deepcopy(config)
    auto: Any = transformers.AutoModelForCausalLM
    model = auto.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0, 1.0 * parameter.shape[-1] ** -0.5)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    whole.save_pretrained(folder)  # some (Llama 4, Mllama) are saved with their text's configuration alone
    load_tokenizer("tiny").save_pretrained(folder)


def loaded(folder: Path) -> Any:
    """Return the whole model as transformers loads it."""
    auto: Any = transformers.AutoModelForCausalLM
    return auto.from_pretrained(folder, dtype=torch.float32).eval()


def compare(folder: Path, layer: int) -> float:
    """Return the largest relative difference between the taps and the whole model of transformers.

    Raises:
        ConfigError: `load_tap` refuses the model.
    """
    tokens = torch.randint(4, VOCAB, (2, CONTEXT), generator=torch.Generator().manual_seed(7))
    model = loaded(folder)
    want_x, want_g, want_loss = by_autograd(model, layer, tokens)
    tap = load_tap(str(folder), layer, "cpu", "float32")
    x, g, _ = tap.gradients(tokens)
    differences = [
        apart(x, want_x),
        apart(g, want_g),
        apart(tap.activations(tokens), want_x),
        apart(load_tap(str(folder), layer, "cpu", "float32", full=False).activations(tokens), want_x),
        apart(tap.loss(tokens)[0], want_loss),
        apart(tap.loss(tokens, turned)[0], edited_loss(model, layer, tokens)),
    ]
    return max(differences)


def turned(x: Tensor) -> Tensor:
    """Replace the stream by another one of its size."""
    return 0.5 * x.flip(-1)


def by_autograd(model: Any, layer: int, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return x, dCE/dx and the summed CE, with a graph through the whole model.

    x is the block's output. Where transformers collects hidden states, it must be one of them: the one after the
    embeddings and `layer` + 1 blocks in most models; FalconMamba has one less, Mllama leaves out what did not run.
    """
    found: list[Tensor] = []

    def keep(_: Any, __: Any, output: Any) -> None:
        found.append(output[0] if isinstance(output, tuple | list) else output)
        if found[-1].requires_grad:
            found[-1].retain_grad()

    handle = parts_of(model).blocks[layer].register_forward_hook(keep)
    model.requires_grad_(True)
    loss = next_token_loss(model, tokens)
    handle.remove()
    loss.backward()
    grad = found[0].grad
    assert grad is not None
    x = found[0].detach()
    with torch.no_grad():
        states = model(tokens, output_hidden_states=True, use_cache=False).hidden_states
    # The last one has passed the final norm.
    if states is not None and layer < min(len(states), len(parts_of(model).blocks) + 1) - 2:
        x = min(states, key=lambda state: apart(x, state))
    return x, grad, loss.detach()


def edited_loss(model: Any, layer: int, tokens: Tensor) -> Tensor:
    """Return the summed CE of the whole model whose block's output is replaced."""

    def replace(_: Any, __: Any, output: Any) -> Any:
        if isinstance(output, tuple | list):
            return type(output)((turned(output[0]), *output[1:]))
        return turned(output)

    handle = parts_of(model).blocks[layer].register_forward_hook(replace)
    with torch.no_grad():
        loss = next_token_loss(model, tokens)
    handle.remove()
    return loss


def next_token_loss(model: Any, tokens: Tensor) -> Tensor:
    """Return the summed next-token cross-entropy of a model of transformers."""
    logits = model(tokens, use_cache=False).logits[:, :-1]
    return cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten(), reduction="sum")


def apart(got: Tensor, want: Tensor) -> float:
    """Return the largest difference over the largest value; infinite where it is no number."""
    if got.shape != want.shape:
        return float("inf")
    difference = float((got - want).abs().max() / want.abs().max().clamp_min(1e-30))
    return difference if difference == difference else float("inf")


def table(rows: list[Row]) -> str:
    """Return the rows as Markdown."""
    counts = {verdict: sum(row.verdict == verdict for row in rows) for verdict in ("supported", "refused", "not built")}
    lines = [
        "# Language models that can be tapped",
        "",
        f"Written by `python -m tests.lm.every_family` with transformers {transformers.__version__} and torch "
        f"{torch.__version__.partition('+')[0]}: a tiny random model of each architecture of `AutoModelForCausalLM`, "
        f"{len(rows)} in all; {counts['supported']} supported, {counts['refused']} refused in one line, "
        f"{counts['not built']} not built here.",
        "",
        "'Layers' are those of the tiny model that can be tapped. 'Largest difference' is that of activations (whole",
        "and cut model), gradients, loss, and loss with the block's output replaced, against transformers' own whole",
        f"model, relative to the largest value; below {CLOSE:g} counts as equal in float32.",
        "",
        "| architecture | class | layers | | largest difference, or reason |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        detail = row.detail.replace("|", "/")
        lines.append(f"| {row.model_type} | {row.class_name} | {row.layers} | {row.verdict} | {detail} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None, say: Callable[[str], None] = print) -> int:
    """Examine architectures and write the table; return 1 if the tap is wrong for one."""
    parser = argparse.ArgumentParser(prog="python -m tests.lm.every_family", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="TYPE", help="these only; nothing is written")
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    library_logging: Any = transformers.logging
    library_logging.disable_progress_bar()
    logging.disable(logging.CRITICAL)
    rows = []
    for model_type in given.only or architectures():
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            row = examine(model_type, Path(folder))
        rows.append(row)
        say(f"{row.model_type}: {row.verdict}, {row.layers}, {row.detail} ({time.perf_counter() - began:.1f} s)")
    if not given.only:
        given.out.write_text(table(rows), encoding="utf-8")
    return int(any(row.verdict == "wrong" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
