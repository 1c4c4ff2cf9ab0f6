"""Models of many families are tapped as transformers computes them, or refused in one line before anything is read."""

import contextlib
import io
import json
from pathlib import Path

import pytest
import torch
import transformers

from dmsae_ray.config.experiment import Experiment, parse_experiment
from dmsae_ray.errors import ConfigError
from dmsae_ray.harvest.model import check_model
from dmsae_ray.lm.loading import _check_causal, load_tap
from dmsae_ray.lm.support import check_architecture, check_tap
from dmsae_ray.lm.tap import Tap
from dmsae_ray.lm.weight_files import check_files
from dmsae_ray.plan.plan import plan_experiment
from dmsae_ray.sweep.inputs import check_inputs

from .every_family import CLOSE, RESULT, compare, save
from .families import LAYERS, architectures, tiny_config
from .models import save_random_model


def refusal(model_type: str, layer: int = 1, **settings: object) -> str:
    with pytest.raises(ConfigError) as caught:
        check_architecture("it", tiny_config(model_type, **settings), layer)
    text = str(caught.value)
    assert text.startswith(f"model.name 'it' ({model_type}) is not supported: ") and "\n" not in text
    assert text.endswith("needed: a decoder-only causal language model whose blocks pass on one stream [n, t, d_model]")
    return text.split(": ")[1].split(";")[0]


# Blocks that share keys and values with lower ones, a wrapper that is its own decoder, blocks that text does not run,
# blocks that are asked for settings before the first one runs, a list as output.
@pytest.mark.parametrize(
    ("model_type", "layer"),
    [
        ("gemma4_text", 10),
        ("llama4_text", 2),
        ("mllama", 1),
        ("modernbert-decoder", 1),
        ("big_bird", 1),
        ("openai-gpt", 1),
    ],
)
def test_the_tap_is_transformers_own_model(tmp_path: Path, model_type: str, layer: int) -> None:
    save(tiny_config(model_type), tmp_path)
    assert compare(tmp_path, layer) < CLOSE


def test_what_a_truncated_configuration_would_change(tmp_path: Path) -> None:
    # Of 12 blocks the last 4 use keys and values of lower ones: cut after block 10, a model of 11 has others.
    config = tiny_config("gemma4_text")
    save(config, tmp_path)
    part = load_tap(str(tmp_path), 10, "cpu", "float32", full=False)
    assert part.blocks[10].self_attn.is_kv_shared_layer  # type: ignore[union-attr]
    assert {name.split(".")[0] for name, _ in part.blocks.named_parameters()} == {str(i) for i in range(11)}
    assert (part.n_layers, len(part.blocks)) == (12, 12)


def test_a_stream_of_another_shape_is_refused() -> None:
    assert refusal("gemma3n_text") == "the stream after block 1 is [4, 1, 8, 32] for [1, 8] tokens, not [1, 8, 32]"


def test_a_block_that_runs_more_or_less_than_once_is_refused() -> None:
    assert refusal("dory", 2) == "its block 2 runs 2 times a token"
    check_architecture("it", tiny_config("dory"), 1)
    assert refusal("mllama", 3) == "its block 3 runs 0 times a token"  # it reads images


@pytest.mark.parametrize("part", ["config.json", "tokenizer_config.json"])
def test_code_beside_a_model_is_neither_run_nor_asked_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], part: str
) -> None:
    """transformers would ask at the terminal, where 'y' runs it."""
    model = save_random_model("llama", tmp_path / "model")
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    tree = json.loads((model / part).read_text())
    own = {"model_type": "own"} if part == "config.json" else {"tokenizer_class": "OwnTokenizer"}
    autos = {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M", "AutoTokenizer": ["own.T", None]}
    (model / part).write_text(json.dumps({**tree, **own, "auto_map": autos}))
    (model / "own.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w').close()")
    with contextlib.suppress(ConfigError):
        check_tap(str(model), 1)
        check_files(str(model))
        load_tap(str(model), 1, "cpu", "float32")
    assert not (tmp_path / "run").exists()
    assert "custom code" not in capsys.readouterr().out
    if part == "config.json":
        with pytest.raises(
            ConfigError, match=r"^model.name '[^\n]*': it needs code of its own, which is never run; [^\n]*$"
        ):
            check_tap(str(model), 1)


@pytest.mark.parametrize("model_type", ["bert", "roberta"])
def test_attention_to_later_tokens_is_refused(model_type: str) -> None:
    assert refusal(model_type, is_decoder=False) == "its attention sees later tokens too"
    check_architecture("it", tiny_config(model_type), 1)


def test_what_is_no_decoder_is_refused() -> None:
    assert refusal("xlm") == "its attention sees later tokens too"
    assert refusal("bart", is_encoder_decoder=True) == "it has an encoder and a decoder"
    assert refusal("t5") == "transformers has no causal language model of this type"
    assert refusal("longcat_flash") == "LongcatFlashForCausalLM has no list of 8 blocks"


def test_attention_to_later_tokens_is_found_in_the_numbers() -> None:
    def tap(causal: bool) -> Tap:
        config = tiny_config("bert", is_decoder=causal, initializer_range=0.3)
        torch.manual_seed(0)
        model = transformers.BertLMHeadModel(config)
        return Tap(model, None, 1, name="it", n_layers=LAYERS, full=True)

    _check_causal(tap(True))
    with pytest.raises(ConfigError, match="'it' is not supported: its activations at a token change with later tokens"):
        _check_causal(tap(False))


# --- before anything is read ---


def experiment(model: Path, layer: int = 1) -> Experiment:
    return parse_experiment(
        {
            "name": "x",
            "model": {"name": str(model), "layer": layer, "dtype": "float32"},
            "corpus": {"source": "stdlib", "context": 16, "tokens": 8192},
            "recipe": {"batch_size": 64},
        }
    )


def test_plan_and_run_refuse_it_from_the_configuration_alone(tmp_path: Path) -> None:
    tiny_config("gemma3n_text").save_pretrained(tmp_path)  # there are no weights and no tokenizer
    for check in (plan_experiment, check_inputs):
        with pytest.raises(
            ConfigError, match=r"gemma3n_text\) is not supported: the stream after block 1 is \[4, 1, 8"
        ):
            check(experiment(tmp_path))


def test_plan_and_run_accept_what_is_supported(tmp_path: Path) -> None:
    tiny_config("llama4_text").save_pretrained(tmp_path)
    asked = experiment(tmp_path)
    assert plan_experiment(asked).taps == ((str(tmp_path), 1),)
    check_model(asked.model, asked.corpus.context)
    with pytest.raises(ConfigError, match="is a folder without weights"):
        check_inputs(asked)
    with pytest.raises(ConfigError, match=r"model\.layer is 9; .*0"):
        plan_experiment(experiment(tmp_path, 9))


def test_a_layer_is_checked_by_name(tmp_path: Path) -> None:
    tiny_config("llama").save_pretrained(tmp_path)
    check_tap("tiny", 3)
    check_tap(str(tmp_path), 3)
    with pytest.raises(ConfigError, match=r"model\.layer is 4; 'mine' has the layers 0\.\.3"):
        check_tap(str(tmp_path), 4, name="mine")


# --- the table ---


def test_the_table_has_every_architecture_and_no_wrong_one() -> None:
    lines = [line.split(" | ") for line in RESULT.read_text().splitlines() if line.startswith("| ")][1:]
    verdicts = {line[0].removeprefix("| "): line[3] for line in lines}
    assert set(verdicts.values()) <= {"supported", "refused", "not built"}
    if f"transformers {transformers.__version__} " in RESULT.read_text():
        assert set(verdicts) == set(architectures())
    for family in ("gemma2", "gemma3", "gemma4_text", "llama", "llama4_text", "mistral", "qwen3", "gpt2", "gpt_neox"):
        assert verdicts[family] == "supported"
    assert sum(verdict == "supported" for verdict in verdicts.values()) >= 142
