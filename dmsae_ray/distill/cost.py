"""What a cycle costs in floating-point operations; no other module counts them."""


def training_flops(d_model: int, n_latents: int, tokens: float) -> float:
    """Return the dense-equivalent FLOPs of training an SAE on `tokens` tokens.

    These are 6 per weight and token, for 2 * m * d weights. This is the usual measure for compute-matched comparisons;
    the sparse decoder makes the true number smaller.
    """
    return 12.0 * d_model * n_latents * tokens


def scoring_flops(d_model: int, n_latents: int, pool: int, tokens: float) -> float:
    """Return the FLOPs of one scoring (Eq. 6): codes of all latents, and gradients times decoder rows of the pool."""
    return 2.0 * d_model * (n_latents + 2 * pool) * tokens
