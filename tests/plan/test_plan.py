"""The plan: counts against hand sums and enumeration, FLOPs against torch's own counter, headers of the sweeps."""

import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from dmsae_ray.config.experiment import Experiment, load_experiment, parse_experiment
from dmsae_ray.errors import ConfigError
from dmsae_ray.plan import cost
from dmsae_ray.plan.model_size import KNOWN, ModelSize, model_size
from dmsae_ray.plan.plan import count_trainings, plan_experiment
from dmsae_ray.plan.rendering import plan_text
from dmsae_ray.plan.speed import GPU_RATE, Rate
from dmsae_ray.plan.trials import expand

SWEEPS = Path(__file__).parents[2] / "sweeps"
SMALL = ModelSize(hidden=4, layers=3, heads=2, kv_heads=1, head_dim=2, mlp=8, vocab=10)


def experiment(**sections: Any) -> Experiment:
    return parse_experiment({"name": "test", "model": {"name": "tiny", "layer": 1}, **sections})


# --- FLOPs ---


def test_flops_of_a_small_model_by_hand() -> None:
    # q, o: 2 * 4 * 4; k, v: 2 * 4 * 2; gate, up, down: 3 * 4 * 8.
    assert SMALL.block_weights == 32 + 16 + 96
    # 2 heads of 2 at 4 positions on average, scores and mixing, 2 FLOPs each.
    assert cost.attention_flops(SMALL, context=7) == 64
    assert cost.truncated_flops(SMALL, layer=1, context=7) == 2 * (288 + 64)
    assert cost.forward_flops(SMALL, context=7) == 3 * 352 + 2 * 10 * 4
    assert cost.gradient_flops(SMALL, layer=1, context=7) == 1136 + (288 + 128) + 80


def test_gemma_2_2b_has_as_many_weights_as_its_name_says() -> None:
    size = KNOWN["google/gemma-2-2b"]
    assert size.layers * size.block_weights + size.vocab * size.hidden == pytest.approx(2.61e9, rel=0.01)


def test_flops_agree_with_torchs_own_counter_on_a_real_gemma_2() -> None:
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import Gemma2Config, Gemma2ForCausalLM

    size, layer, n, t = ModelSize(48, 5, 4, 2, 16, 96, 320), 1, 2, 24
    model = Gemma2ForCausalLM(
        Gemma2Config(
            hidden_size=size.hidden,
            num_hidden_layers=size.layers,
            num_attention_heads=size.heads,
            num_key_value_heads=size.kv_heads,
            head_dim=size.head_dim,
            intermediate_size=size.mlp,
            vocab_size=size.vocab,
            attn_implementation="eager",
            use_cache=False,
        )
    ).requires_grad_(False)
    tokens = torch.arange(n * t).reshape(n, t) % size.vocab
    # Eager attention computes all positions; the formula counts those a token may see.
    unseen = 4.0 * size.heads * size.head_dim * (t - (t + 1) / 2)

    with FlopCounterMode(display=False) as counted:
        logits = model(tokens).logits
    forward = cost.forward_flops(size, t) + size.layers * unseen
    assert counted.get_total_flops() == pytest.approx(n * t * forward, rel=0.01)

    kept: list[torch.Tensor] = []

    def tap(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        kept.append(output.detach().requires_grad_(True))
        return kept[-1]

    model.model.layers[layer].register_forward_hook(tap)
    with FlopCounterMode(display=False) as counted:
        logits = model(tokens).logits
        torch.logsumexp(logits, -1).sum().backward()
    above = size.layers - layer - 1
    gradient = cost.gradient_flops(size, layer, t) + (size.layers + 2 * above) * unseen
    assert counted.get_total_flops() == pytest.approx(n * t * gradient, rel=0.01)


def test_sae_training_is_counted_as_the_cycles_themselves_count_it() -> None:
    from dmsae_ray.distill.cost import training_flops

    assert cost.training_flops(2304, 65_536, 5e8) == training_flops(2304, 65_536, 500_000_000)
    # DESIGN's rule of thumb: a training costs about as much as a pass of the model over the same tokens.
    size = KNOWN["google/gemma-2-2b"]
    harvest = 5e8 * cost.truncated_flops(size, layer=12, context=1024)
    assert 0.5 < cost.training_flops(2304, 65_536, 5e8) / harvest < 2


def test_an_experiment_adds_up_by_hand() -> None:
    e = experiment(
        model={"name": "tiny", "layer": 0},
        corpus={"source": "stdlib", "context": 8, "tokens": 1000, "attribution_tokens": 100, "eval_tokens": 50},
        activations={"shard_tokens": 64, "dtype": "float32"},
        sae={"n_latents": 64, "group_sizes": [16, 48], "k": 4},
        recipe={"tokens": 700, "batch_size": 32, "warmup_steps": 1, "threshold_start_step": 1},
    )
    flops = cost.experiment_flops(e, SMALL, trainings=3)
    block = 288 + 4 * 4 * 4.5
    forward = 3 * block + 80
    gradient = forward + 2 * (288 + 2 * 72) + 80
    assert flops.harvest == pytest.approx(1050 * block + 100 * gradient)
    steps = 21  # of 32 tokens, from 700
    assert flops.training == 3 * (12 * 4 * 64 * steps * 32 + 2 * 4 * (64 + 2 * 16) * 100)
    assert flops.evaluation == pytest.approx(3 * 3 * 50 * forward)
    storage = cost.experiment_storage(e, SMALL, trainings=3, at_once=2)
    assert storage.activations == 1150 * (4 + 4 + 4 * 4) + 100 * 4 * 4
    weights = 4 * (2 * 64 * 4 + 64 + 64 + 4)
    assert (storage.cycles, storage.checkpoints) == (3 * weights, 2 * 2 * 3 * weights)
    assert storage.total == storage.activations + storage.cycles + storage.checkpoints


# --- trainings ---


def enumerate_trainings(e: Experiment) -> tuple[int, int]:
    """(distinct, all) trainings, listed one by one: each by what its result depends on."""
    listed: list[tuple[Any, ...]] = []
    for k, coverage, seed in product(e.ks, e.coverages, e.sweep.seeds):
        for cycle in range(e.distill.cycles + 1):
            if cycle == 0:
                listed += [] if e.distill.initial_sae else [(k, seed, "cycle 0")]
            else:
                listed.append((k, coverage, seed, cycle))
        listed += [(k, coverage, seed, control) for control in e.distill.controls]
    return len(set(listed)), len(listed)


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"sweep": {"k": [2, 4], "coverage": [0.5, 0.9], "seeds": [0, 1]}},
        {"sweep": {"k": [2], "coverage": [0.1, 0.5, 0.9], "seeds": [0]}, "distill": {"cycles": 1, "controls": []}},
        {"sweep": {"k": [2, 4], "seeds": [0, 1, 2]}, "distill": {"controls": ["gaussian", "random_latents"]}},
        {"sweep": {"coverage": [0.5, 0.9], "seeds": [0, 1]}, "distill": {"initial_sae": "somewhere"}},
        {"sweep": {"coverage": [0.5, 0.9], "seeds": [0, 1], "data_per_seed": True}},
    ],
)
def test_trainings_are_those_of_an_enumeration(sections: dict[str, Any]) -> None:
    e = experiment(**sections)
    distinct, unshared, controls = count_trainings(e, expand(e))
    assert (distinct, unshared) == enumerate_trainings(e)
    assert controls == len(expand(e)) * len(e.distill.controls)


def test_a_sweep_of_further_axes_costs_what_its_points_cost_apart_but_for_what_they_share() -> None:
    grid = {"k": [8, 16], "coverage": [0.5, 0.9], "seeds": [0, 1, 2]}
    sizes = {"sae": {"n_latents": 512}, "corpus": {"context": 64}}

    def apart(*points: dict[str, Any]) -> list[Any]:
        def merged(point: dict[str, Any]) -> dict[str, Any]:
            return {name: {**sizes.get(name, {}), **point.get(name, {})} for name in {*sizes, *point}}

        return [plan_experiment(experiment(**merged(point), sweep=grid)) for point in points]

    def together(axes: dict[str, Any]) -> Any:
        return plan_experiment(experiment(**sizes, sweep={**grid, "axes": axes}))

    # Each lr trains its own cycle 0; the activations are the same.
    plans, one = apart({"recipe": {"lr": 1e-3}}, {"recipe": {"lr": 3e-3}}), together({"recipe.lr": [1e-3, 3e-3]})
    assert (one.trainings, one.controls) == (2 * plans[0].trainings, 2 * plans[0].controls)
    assert one.flops.training == pytest.approx(sum(plan.flops.training for plan in plans))
    assert one.flops.harvest == plans[0].flops.harvest and one.storage.activations == plans[0].storage.activations
    # More latents cost more; the time that is told is that of the longest.
    plans, one = apart({}, {"sae": {"n_latents": 1024}}), together({"sae.n_latents": [512, 1024]})
    assert one.flops.training == pytest.approx(sum(plan.flops.training for plan in plans))
    assert one.training == plans[1].training
    # What only scores shares every cycle 0: one for each k and seed.
    (plan,), one = apart({}), together({"distill.quantile": [0.9, 0.99, 0.999]})
    assert one.trainings == 3 * plan.trainings - 2 * 6
    each = plan.flops.training / plan.trainings
    assert one.flops.training == pytest.approx(one.trainings * each)
    # Each layer has a store.
    plans, one = (
        apart({"model": {"name": "tiny", "layer": 1}}, {"model": {"name": "tiny", "layer": 2}}),
        together({"model.layer": [1, 2]}),
    )
    assert one.flops.total == pytest.approx(sum(plan.flops.total for plan in plans))
    assert one.storage.activations == sum(plan.storage.activations for plan in plans)
    assert [trial.trial_id for trial in one.trials][::12] == ["k8-tau0.5-layer1-seed0", "k8-tau0.5-layer2-seed0"]
    assert "after block 1; tiny, residual stream after block 2" in plan_text(one)
    assert "the sweep has 2 stores, made and used one after the other: layer=1; layer=2" in one.notes


def test_the_demo_by_hand() -> None:
    demo = load_experiment(
        SWEEPS / "demo.yaml",
        [
            "sweep.k=[4,8]",
            "sweep.coverage=[0.4,0.6]",
            "sweep.seeds=[0,1]",
            "distill.cycles=3",
            "distill.controls=[gaussian]",
        ],
    )
    plan = plan_experiment(demo)
    # 8 trials of 3 cycles and a control; one cycle 0 for each of 2 k x 2 seeds.
    assert (len(plan.trials), plan.trainings, plan.trainings_unshared) == (8, 8 * 4 + 4, 8 * 5)
    assert plan.training_tokens == 36 * plan.steps * plan.batch_size


def test_trainings_of_several_lengths_cost_what_they_cost_apart() -> None:
    """recipe.tokens as an axis: no training is shared between its points, so their costs are sums."""
    axes = {"recipe.tokens": [50_000_000, 100_000_000, 400_000_000], "recipe.batch_size": [1024, 2048]}
    whole = experiment(recipe={"tokens": 100_000_000}, sweep={"k": [2], "seeds": [0, 1], "axes": axes})
    plan = plan_experiment(whole)
    apart = [plan_experiment(whole.at(point)) for point in whole.points]
    assert len(plan.trials) == 12 and plan.trainings == sum(one.trainings for one in apart)
    assert plan.training_tokens == pytest.approx(sum(one.training_tokens for one in apart), rel=1e-9)
    assert plan.flops.training == pytest.approx(sum(one.flops.training for one in apart))
    base = whole.recipe.steps * whole.recipe.batch_size
    at = {dict(point)["recipe.tokens"]: one for point, one in zip(whole.points, apart, strict=True)}
    for trial in plan.trials:
        own = at[dict(trial.setting.axes)["recipe.tokens"]]
        assert trial.budget * base == pytest.approx(own.steps * own.batch_size, rel=1e-3)
        assert plan.training.of(trial.budget) == pytest.approx(own.training.hours, rel=0.1)  # scoring costs no tokens
    assert "a training (" in plan_text(plan) and "4 times the tokens in" in plan_text(plan)


def test_a_transfer_trains_each_arm_once_and_the_baseline_for_both_variants() -> None:
    e = experiment(transfer={}, sweep={"k": [2, 4], "seeds": [0, 1, 2]})
    plan = plan_experiment(e)
    # 2 k x 3 seeds x (2 arms x 2 variants + baseline).
    assert (plan.trainings, plan.trainings_unshared, len(plan.trials)) == (30, 30, 30)


def test_baselines_of_more_tokens_and_those_to_be_matched_are_counted() -> None:
    grid = {"k": [2, 4], "seeds": [0, 1, 2]}
    plain = plan_experiment(experiment(transfer={}, sweep=grid))
    plan = plan_experiment(experiment(transfer={"baseline_budgets": [1, 9], "baseline_k": "matched"}, sweep=grid))
    # 24 SAEs around a core, 6 baselines, and 6 of nine times the tokens.
    assert (plan.trainings, plan.training_tokens) == (36, (24 + 6 + 9 * 6) * plan.steps * plan.batch_size)
    scoring = plain.flops.training / 30 - 12 * 64 * 65_536 * plan.steps * plan.batch_size
    training = plain.flops.training / 30 - scoring
    assert plan.flops.training == pytest.approx(84 * training + 36 * scoring)
    assert plan.flops.evaluation == pytest.approx(plain.flops.evaluation * 36 / 30)
    assert plan.training == plain.training
    (note,) = [note for note in plan.notes if "further baselines" in note]
    # One for each of the 24, with each budget: not in the numbers of the plan.
    tokens = 24 * (1 + 9) * plan.steps * plan.batch_size
    flops = 240 * training + 48 * scoring + 48 * plain.flops.evaluation / 30
    assert note.startswith("up to 48 further baselines will be trained when all these have finished") and (
        f"{tokens / 1e9:.3g}B training tokens, {flops:.2g} FLOP, " in note
    )
    assert any(n.startswith("baselines of 9 times the tokens read 4.5B of a corpus.tokens of 500M") for n in plan.notes)
    assert "9 times the tokens in 6 baselines, 42B in all" in plan_text(plan)


def test_a_transfer_with_axes_is_the_sum_of_its_points_but_for_the_baselines_that_they_share() -> None:
    grid = {"k": [2, 4], "seeds": [0, 1, 2]}
    asked = {"baseline_k": "matched"}

    def plan(axes: dict[str, Any], **recipe: Any) -> Any:
        return plan_experiment(experiment(transfer=asked, sweep={**grid, "axes": axes}, recipe=recipe))

    lr = plan({"recipe.lr": [1e-4, 3e-4]})
    one, half = plan({}), plan({}, tokens=250_000_000)
    assert (lr.trainings, lr.flops.training) == (60, pytest.approx(2 * one.flops.training))
    takes = plan({"sae.core_takes": ["last_group", "all_groups"]})
    assert takes.trainings == 60 - 6  # the baselines: 2 k x 3 seeds
    tokens = plan({"recipe.tokens": [500_000_000, 250_000_000]})
    assert tokens.training_tokens == pytest.approx(one.training_tokens + half.training_tokens, rel=1e-3)
    assert tokens.flops.training == pytest.approx(one.flops.training + half.flops.training, rel=1e-3)
    # One k for each SAE around a core, at each point that trains baselines of its own.
    assert [int(n.split()[2]) for p in (one, lr, takes) for n in p.notes if "further" in n] == [24, 96, 48]


COSTS = re.compile(r"# Costs +(\d+) SAE trainings of 500M tokens .*about ([\d.]+) L40S-hours")


@pytest.mark.parametrize("path", sorted(SWEEPS.glob("figure*.yaml")), ids=lambda path: path.stem)
def test_the_header_of_a_sweep_says_what_the_plan_says(path: Path) -> None:
    stated = COSTS.search(path.read_text())
    assert stated is not None
    plan = plan_experiment(load_experiment(path))
    assert int(stated[1]) == plan.trainings
    assert plan.rate is GPU_RATE
    assert float(stated[2]) == pytest.approx(plan.unit_hours, rel=0.1)
    assert plan.storage.activations == pytest.approx(2.3e12, rel=0.02)  # as DESIGN reckons, and the header says
    assert "2.3 TB" in path.read_text()


# --- the model's sizes ---


def test_sizes_come_from_a_local_config_where_there_is_one(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"hidden_size": 4, "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 1, '
        '"head_dim": 2, "intermediate_size": 8, "vocab_size": 10}'
    )
    assert model_size(str(tmp_path)) == SMALL
    (tmp_path / "config.json").write_text(
        '{"text_config": {"hidden_size": 4, "num_hidden_layers": 3, "num_attention_heads": 2, '
        '"intermediate_size": 8, "vocab_size": 10}}'
    )
    assert model_size(str(tmp_path)) == ModelSize(4, 3, 2, 2, 2, 8, 10)
    (tmp_path / "config.json").write_text(
        '{"model_type": "gpt2", "n_embd": 4, "n_layer": 3, "n_head": 2, "n_inner": null, "vocab_size": 10}'
    )
    assert model_size(str(tmp_path)) == ModelSize(4, 3, 2, 2, 2, 16, 10)
    (tmp_path / "config.json").write_text('{"n_embd": 4, "n_head": 2, "vocab_size": 10}')
    with pytest.raises(ConfigError, match=r"^model\.name is .* no usable num_hidden_layers or n_layer or num_layers"):
        model_size(str(tmp_path))


def test_the_embedded_model_has_the_sizes_in_the_table() -> None:
    from dmsae_ray.lm import tiny_model

    assert model_size(str(tiny_model())) == KNOWN["tiny"]


@pytest.mark.parametrize("content", ["{", "[]", '{"hidden_size": 4}', '{"hidden_size": "x", "num_attention_heads": 2}'])
def test_a_useless_config_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigError) as error:
        model_size(str(tmp_path))
    assert str(error.value).startswith(f"model.name is '{tmp_path}'") and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["nobody/nothing-1b", "no/such/folder/here", "", "a b"])
def test_an_unknown_model_is_one_line_with_what_is_known(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^model.name is .*google/gemma-2-2b") as error:
        model_size(name)
    assert "\n" not in str(error.value)


def test_a_layer_beyond_the_model_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.layer is 4; 'tiny' has blocks 0 to 3"):
        plan_experiment(experiment(model={"name": "tiny", "layer": 4}))


# --- what a person reads ---


def test_the_text_has_the_numbers_and_the_assumption() -> None:
    plan = plan_experiment(load_experiment(SWEEPS / "figure6_sparsity.yaml"))
    text = plan_text(plan)
    for piece in ("18: k20-tau0.9-seed0", "k640-tau0.9-seed2", "108, of them 18 of controls", "saves 0 of 108"):
        assert piece in text
    for piece in ("500M harvested once", "54B in all", "2.32 TB", "1.4e+14 FLOP/s", "L40S", "at most 10 trials"):
        assert piece in text
    assert "\n" not in plan.line() and "108 SAE trainings" in plan.line()
    assert all(isinstance(value, int | float) for value in plan.params().values())


def test_hours_follow_the_stated_rate() -> None:
    e = load_experiment(SWEEPS / "figure3_random_core.yaml")
    plan = plan_experiment(e, rate=Rate(1e15, "dream", "made up"))
    assert plan.unit_hours == pytest.approx(plan.flops.total / 3.6e18)
    assert "of one dream" in plan_text(plan) and "made up" in plan_text(plan)
    assert plan_experiment(experiment()).rate.unit == "CPU core"
