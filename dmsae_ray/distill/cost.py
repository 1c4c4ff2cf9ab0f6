"""What a cycle costs in floating-point operations; the one place that counts them."""


def training_flops(d_model: int, n_latents: int, tokens: float) -> float:
    """Dense-equivalent FLOPs of training an SAE on `tokens` tokens: 6 a weight and token, 2 * m * d weights.

    The common yardstick for compute-matched comparisons; the sparse decoder makes the real count smaller.
    """
    return 12.0 * d_model * n_latents * tokens


def scoring_flops(d_model: int, n_latents: int, pool: int, tokens: float) -> float:
    """FLOPs of one scoring (Eq. 6): codes of all latents, and gradients against the decoder rows of the pool."""
    return 2.0 * d_model * (n_latents + 2 * pool) * tokens
