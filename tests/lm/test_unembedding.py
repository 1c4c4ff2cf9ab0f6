from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dmsae_ray.errors import ConfigError
from dmsae_ray.lm import unembedding
from dmsae_ray.lm.unembedding import load_unembedding

from .models import CONFIGS, reference


def some_directions(d: int) -> Tensor:
    return torch.randn(6, d, generator=torch.Generator().manual_seed(1)) + 0.3


def after_the_last_block(model: nn.Module, stream: Tensor) -> Tensor:
    """What the decoder itself makes of a stream [n, d] that its last block would have given."""
    decoder = model.get_decoder()  # type: ignore[operator]
    (blocks,) = (child for child in decoder.children() if isinstance(child, nn.ModuleList))

    def instead(_: nn.Module, __: object, output: object) -> object:
        return (stream[:, None], *output[1:]) if isinstance(output, tuple) else stream[:, None]

    handle = blocks[-1].register_forward_hook(instead)
    with torch.no_grad():
        out: Tensor = decoder(input_ids=torch.full((len(stream), 1), 5), use_cache=False).last_hidden_state[:, 0]
    handle.remove()
    return out


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_the_final_norm_is_that_of_the_model(random_models: dict[str, Path], name: str) -> None:
    """To first order: the change of the normed stream along a direction, at a stream far out on it."""
    model, found = reference(random_models[name]), load_unembedding(str(random_models[name]))
    v = some_directions(found.d_model)
    wanted = (after_the_last_block(model, 100 * v) - after_the_last_block(model, -100 * v)) / 2
    given = found.through_norm(v)
    unit = nn.functional.normalize
    torch.testing.assert_close(unit(given, dim=1), unit(wanted, dim=1), rtol=1e-4, atol=1e-5)


def test_tokens_of_gemma_are_those_of_a_plain_product(
    random_models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unembedding, "_CHUNK_BYTES", 4 * 32 * 100)  # several pieces
    model = reference(random_models["gemma2"])
    v = some_directions(32)
    changes = (v * (1 + model.model.norm.weight)) @ model.lm_head.weight.T
    ids, values = load_unembedding(str(random_models["gemma2"])).extremes(v, 7)
    up, down = changes.topk(7), changes.topk(7, largest=False)
    assert ids.tolist() == torch.cat([up.indices, down.indices], 1).tolist()
    torch.testing.assert_close(values, torch.cat([up.values, down.values], 1).detach(), rtol=1e-4, atol=1e-4)


def test_rows_of_the_embedding_that_are_no_tokens_are_left_out(random_models: dict[str, Path]) -> None:
    ids, _ = load_unembedding(str(random_models["llama"])).extremes(some_directions(32), 5, tokens=40)
    assert int(ids.max()) < 40


def test_a_direction_of_another_width_is_refused(random_models: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match="width 31, the model's stream 32"):
        load_unembedding(str(random_models["llama"])).extremes(torch.ones(1, 31), 5)


def test_a_model_that_is_not_on_this_machine_is_not_fetched() -> None:
    with pytest.raises(ConfigError, match=r"model\.name 'no-one/has-this'"):
        load_unembedding("no-one/has-this", local_only=True)
