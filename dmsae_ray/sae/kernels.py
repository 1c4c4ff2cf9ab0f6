"""Triton kernels for what a step does to rows of d numbers: each number is moved once, many at a time.

They do the sums that decode and differentiate triples, and the optimiser's passes, for which plain torch needs two or
three passes each. The module imports Triton, which torch brings with it on CUDA; `kernel_choice` says whether it works.
"""

import math
from contextlib import AbstractContextManager

import torch
import triton
import triton.language as tl
from torch import Tensor

WIDEST_ROW = 16_384
"""Floats of a row that one program can hold in registers."""
_COLUMNS, _AT_A_TIME = 512, 16
"""Columns of a bag's sum that one program computes, and rows that it processes at a time."""


def weighted_bags(table: Tensor, index: Tensor, offsets: Tensor, weights: Tensor, out: Tensor) -> None:
    """Write out[i] = sum of weights[j] * table[index[j]] over offsets[i] <= j < offsets[i + 1].

    The order of summation is always the same.

    Args:
        table: float32 [t, d].
        index: int64 [n], rows of the table.
        offsets: int64 [bags + 1].
        weights: float32 [n].
        out: float32 [bags, d], overwritten.

    Raises:
        ValueError: a tensor is not contiguous.
    """
    _check(table, index, offsets, weights, out)
    bags, width = out.shape
    if bags:
        columns = min(_COLUMNS, triton.next_power_of_2(width))
        grid = (bags, triton.cdiv(width, columns))
        how = {"ROWS": _AT_A_TIME, "COLUMNS": columns, "num_warps": 4}
        with _device(out):
            _weighted_bags[grid](table, index, offsets, weights, out, width, **how)


def project_out(gradient: Tensor, rows: Tensor, eps: float) -> Tensor:
    """Remove from `gradient`, in place, what is parallel to `rows`; both are [n, d]. Return its squared norm []."""
    _check(gradient, rows)
    n, width = rows.shape
    squares = torch.empty(n, device=rows.device)
    with _device(rows):
        _project_out[(n,)](gradient, rows, squares, width, eps, **_launch(width))
    return squares.sum()


def adam(
    parameter: Tensor,
    gradient: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    *,
    step: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    divisor: Tensor,
    skip: Tensor,
    unit: bool,
) -> None:
    """Take one step of Adam over a matrix, by gradient / divisor.

    Args:
        parameter: [n, d]; all four matrices are contiguous float32, and all but the gradient are changed in place.
        gradient: [n, d].
        exp_avg: [n, d], first moment.
        exp_avg_sq: [n, d], second moment.
        step: number of the step, counted from 1.
        lr: learning rate.
        betas: decay rates of the moments.
        eps: Adam's epsilon.
        divisor: float32 [], what the gradient is divided by.
        skip: float32 []; if it is not 0, nothing changes.
        unit: whether each row is then divided by its norm + machine epsilon.

    Raises:
        ValueError: a matrix is not contiguous.
    """
    _check(parameter, gradient, exp_avg, exp_avg_sq)
    n, width = parameter.shape
    if not n:
        return
    beta1, beta2 = betas
    with _device(parameter):
        _adam[(n,)](
            parameter, gradient, exp_avg, exp_avg_sq, divisor, skip, width,
            lr / (1 - beta1**step), 1 / math.sqrt(1 - beta2**step), 1 - beta1, beta2, 1 - beta2, eps,
            torch.finfo(parameter.dtype).eps, UNIT=unit, **_launch(width),
        )  # fmt: skip


def _check(*tensors: Tensor) -> None:
    """Check that rows lie one after the other in memory, as the kernels need it."""
    if not all(tensor.is_contiguous() for tensor in tensors):
        raise ValueError(f"strides {[tensor.stride() for tensor in tensors]} of shapes {[t.shape for t in tensors]}")


def _device(tensor: Tensor) -> AbstractContextManager[None]:
    """Make the tensor's device current: a kernel is launched on the current device, wherever its arguments are."""
    device: AbstractContextManager[None] = torch.cuda.device_of(tensor)  # type: ignore[no-untyped-call]
    return device


def _launch(width: int) -> dict[str, int]:
    block = triton.next_power_of_2(width)
    return {"BLOCK": block, "num_warps": min(16, max(1, block // 512))}


@triton.jit  # type: ignore[untyped-decorator]
def _weighted_bags(  # type: ignore[no-untyped-def]
    table, index, offsets, weights, out, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    bag = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < width
    first, last = tl.load(offsets + bag), tl.load(offsets + bag + 1)
    total = tl.zeros([COLUMNS], dtype=tl.float32)
    for start in range(first, last, ROWS):
        j = start + tl.arange(0, ROWS)
        there = j < last
        row = tl.load(index + j, mask=there, other=0)
        weight = tl.load(weights + j, mask=there, other=0.0)
        place = row[:, None] * width + column[None, :]
        rows = tl.load(table + place, mask=there[:, None] & inside[None, :], other=0.0)
        total += tl.sum(rows * weight[:, None], axis=0)
    tl.store(out + bag * width + column, total, mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _project_out(gradient, rows, squares, width, eps, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    place = row * width + column
    w = tl.load(rows + place, mask=inside, other=0.0)
    g = tl.load(gradient + place, mask=inside, other=0.0)
    norm = tl.sqrt(tl.sum(w * w, axis=0)) + eps
    g -= w * (tl.sum(g * w, axis=0) / (norm * norm))
    tl.store(gradient + place, g, mask=inside)
    tl.store(squares + row, tl.sum(g * g, axis=0))


@triton.jit  # type: ignore[untyped-decorator]
def _adam(  # type: ignore[no-untyped-def]
    parameter, gradient, exp_avg, exp_avg_sq, divisor, skip, width,
    step_size, root_scale, one_minus_beta1, beta2, one_minus_beta2, eps,
    norm_eps, UNIT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    if tl.load(skip) == 0:
        row = tl.program_id(0).to(tl.int64)
        column = tl.arange(0, BLOCK)
        inside = column < width
        place = row * width + column
        p = tl.load(parameter + place, mask=inside, other=0.0)
        g = tl.load(gradient + place, mask=inside, other=0.0) / tl.load(divisor)
        m = tl.load(exp_avg + place, mask=inside, other=0.0)
        v = tl.load(exp_avg_sq + place, mask=inside, other=0.0)
        m += one_minus_beta1 * (g - m)
        v = beta2 * v + one_minus_beta2 * g * g
        p -= step_size * m / (tl.sqrt(v) * root_scale + eps)
        if UNIT:
            # Columns outside the row hold 0 and stay 0, because their moments and gradients are 0.
            p /= tl.sqrt(tl.sum(p * p, axis=0)) + norm_eps
        tl.store(parameter + place, p, mask=inside)
        tl.store(exp_avg + place, m, mask=inside)
        tl.store(exp_avg_sq + place, v, mask=inside)
