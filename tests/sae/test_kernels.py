"""The Triton kernels of a step: on a GPU where there is one, otherwise interpreted, and compiled for Hopper."""

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.optional import optional

optional("triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

from dmsae_ray.sae import kernels  # noqa: E402
from dmsae_ray.sae.trainer import SAETrainer  # noqa: E402

from .worlds import features, make_sae, recipe  # noqa: E402

BETAS, EPS = (0.9, 0.99), 1e-8


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.sampled_from([0, 0, 1, 2, 5, 16, 17, 40]), max_size=6),
    width=st.sampled_from([1, 3, 50, 512, 700]),
    seed=st.integers(0, 99),
)
def test_sums_of_weighted_rows_are_the_formula(sizes: list[int], width: int, seed: int) -> None:
    n = sum(sizes)
    generator = torch.Generator().manual_seed(seed)
    table, weights = random(9, width, seed=seed), random(n, seed=seed + 1)
    index = torch.randint(0, 9, (n,), generator=generator)
    offsets = torch.tensor([0, *sizes]).cumsum(0)
    out = torch.full((len(sizes), width), torch.nan, device=DEVICE)
    kernels.weighted_bags(*(t.to(DEVICE) for t in (table, index, offsets, weights)), out)
    rows = weights.double()[:, None] * table.double()[index]
    expected = torch.stack([part.sum(0) for part in rows.split(sizes)]) if sizes else rows.new_zeros(0, width)
    assert torch.allclose(out.double().cpu(), expected, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 5), width=st.sampled_from([1, 3, 16, 50, 257, 2304]), seed=st.integers(0, 99))
def test_projection_is_the_formula(n: int, width: int, seed: int) -> None:
    gradient, rows = random(n, width, seed=seed), random(n, width, seed=seed + 1)
    unit = rows.double() / (rows.double().norm(dim=1, keepdim=True) + 1e-6)
    expected = gradient.double() - unit * (unit * gradient.double()).sum(1, keepdim=True)
    ours = gradient.to(DEVICE)
    square = kernels.project_out(ours, rows.to(DEVICE), 1e-6)
    assert torch.allclose(ours.double().cpu(), expected, atol=1e-5)
    assert float(square) == pytest.approx(float(expected.square().sum()), rel=1e-4, abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(0, 5), width=st.sampled_from([1, 3, 16, 50, 257, 2304]), seed=st.integers(0, 99), unit=st.booleans()
)
def test_five_steps_of_adam_are_those_of_torch(n: int, width: int, seed: int, unit: bool) -> None:
    start = random(n, width, seed=seed)
    theirs = start.double().clone().requires_grad_()
    optimizer = torch.optim.Adam([theirs], lr=0.01, betas=BETAS, eps=EPS)
    ours = start.clone().to(DEVICE)
    moments = [torch.zeros_like(ours) for _ in range(2)]
    for step in range(1, 6):
        gradient = random(n, width, seed=seed + step)
        theirs.grad = gradient.double() / 3
        optimizer.step()
        if unit:
            with torch.no_grad():
                theirs /= theirs.norm(dim=1, keepdim=True)
        divisor, skip = torch.tensor(3.0, device=DEVICE), torch.tensor(0.0, device=DEVICE)
        how: dict[str, Any] = {"step": step, "lr": 0.01, "betas": BETAS, "eps": EPS, "unit": unit}
        kernels.adam(ours, gradient.to(DEVICE), *moments, **how, divisor=divisor, skip=skip)
    assert torch.allclose(ours.double().cpu(), theirs.detach(), atol=2e-6)


def test_a_step_that_is_left_out_moves_nothing() -> None:
    before = [random(4, 50, seed=i).to(DEVICE) for i in range(4)]
    after = [tensor.clone() for tensor in before]
    how: dict[str, Any] = {"step": 3, "lr": 0.01, "betas": BETAS, "eps": EPS, "unit": True}
    nan = torch.tensor(torch.nan, device=DEVICE)
    kernels.adam(*after, **how, divisor=nan, skip=torch.ones((), device=DEVICE))
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"n_core": 7}, {"n_core": 7, "core_sparsity": "sparse"}], ids=str)
def test_a_training_with_them_is_that_of_torch(options: dict[str, Any]) -> None:
    plain = SAETrainer(make_sae(**options), recipe())
    ours = SAETrainer(make_sae(**options).to(DEVICE), recipe(), compute_dtype=torch.float32)
    ours._adam._kernels = ours._objective._kernels = kernels
    ours._objective._in_blocks = False
    core = ours.sae.W_enc[: ours.sae.n_core].clone()
    for step in range(14):
        x = features(48, 12, step)
        if step == 9:
            x[0] = torch.nan
        # The same numbers with columns, not rows, one behind the other.
        a, b = plain.step(x).floats(), ours.step(x.T.contiguous().T).floats()
        assert a == pytest.approx(b, rel=1e-4, abs=1e-6, nan_ok=True)
    for name, tensor in plain.sae.state_dict().items():
        assert torch.allclose(tensor, ours.sae.state_dict()[name].cpu(), atol=1e-5), name
    assert torch.equal(core, ours.sae.W_enc[: ours.sae.n_core])


COMPILE = """
import sys
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from dmsae_ray.sae import kernels  # noqa: E402

row = kernels._launch(2304)["num_warps"]
for kernel, warps, constants in (
    (kernels._weighted_bags, 4, {"ROWS": 16, "COLUMNS": 512}),
    (kernels._project_out, row, {"BLOCK": 4096}),
    (kernels._adam, row, {"UNIT": True, "BLOCK": 4096}),
):
    pointers = {"gradient", "rows", "squares", "parameter", "exp_avg", "exp_avg_sq", "divisor", "skip"}
    pointers |= {"table", "index", "offsets", "weights", "out"}
    kinds = {n: "constexpr" if n in constants else "*fp32" if n in pointers else "fp32" for n in kernel.arg_names}
    kinds.update({"width": "i32"}, **{n: "*i64" for n in ("index", "offsets") if n in kinds})
    # As for d = 2304: torch's allocations and the width are multiples of 16.
    aligned = [(i,) for i, name in enumerate(kernel.arg_names) if name in pointers or name == "width"]
    attributes = {place: [["tt.divisibility", 16]] for place in aligned}
    source = ASTSource(fn=kernel, signature=kinds, constexprs=constants, attrs=attributes)
    made = compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps})
    print(kernel.__name__, made.asm["ptx"].count("ld.global.v4"), made.asm["ptx"].count("st.global.v4"))
"""


def test_they_compile_for_hopper_and_move_sixteen_bytes_at_a_time() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = [line.split() for line in done.stdout.splitlines()]
    assert [name for name, *_ in found] == ["_weighted_bags", "_project_out", "_adam"]
    assert all(int(loads) > 0 and int(stores) > 0 for _, loads, stores in found), done.stdout
