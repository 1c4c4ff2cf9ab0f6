"""How long each latent has been silent, and which latents are dead."""

from typing import Any

import torch
from torch import Tensor

_LAG = 2  # steps


class SilenceCounter:
    """Counts the tokens since each of `n_latents` latents last fired; a latent is dead at `dead_after` tokens.

    On CUDA the host must know how many latents AuxK may have to treat, but must not wait for the count of this step. It
    uses an upper bound that was computed two steps earlier: the latents that would be dead by now if they had stayed
    silent.
    """

    def __init__(self, n_latents: int, dead_after: int, device: torch.device) -> None:
        self.tokens = torch.zeros(n_latents, dtype=torch.int64, device=device)
        """[m] int64, tokens since each latent last fired."""
        self._dead_after = dead_after
        self._lags = device.type != "cpu"
        self._largest = 0
        self._steps = 0
        self._bounds: dict[int, tuple[int, Tensor, Any]] = {}

    def update(self, fired: Tensor, n_tokens: int) -> None:
        """Add one step of `n_tokens` tokens over all ranks; fired: bool [m], the latents that fired in it."""
        self.tokens.add_(n_tokens).masked_fill_(fired, 0)
        self._steps += 1
        self._largest = max(self._largest, n_tokens)
        if self._lags:
            self._look_ahead()

    def count(self) -> Tensor:
        """Return the number of dead latents: int64 []."""
        return (self.tokens >= self._dead_after).sum()

    def dead(self) -> tuple[Tensor, Tensor] | None:
        """Return the latents that AuxK must treat.

        Returns:
            The candidates, int64 [a], in ascending order or the dead ones first, and which of them are dead, bool [a].
            None if there are no candidates.
        """
        is_dead = self.tokens >= self._dead_after
        if not self._lags:
            latents = is_dead.nonzero().view(-1)
            return (latents, is_dead[latents]) if len(latents) else None
        bound = self._bound(is_dead)
        if not bound:
            return None
        latents = torch.sort(is_dead.to(torch.int8), descending=True, stable=True).indices[:bound]
        return latents, is_dead[latents]

    def state_dict(self) -> dict[str, Any]:
        """Return the counts (live tensors) and the bounds.

        The bounds belong to the state because they decide the shape of AuxK's products, and so their rounding.
        """
        bounds = [[step, largest, self._read(bound, event)] for step, (largest, bound, event) in self._bounds.items()]
        return {"tokens": self.tokens, "steps": self._steps, "largest": self._largest, "bounds": bounds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.tokens.copy_(state["tokens"])
        self._steps, self._largest = int(state["steps"]), int(state["largest"])
        self._bounds = {step: (largest, torch.tensor(bound), None) for step, largest, bound in state["bounds"]}

    def _look_ahead(self) -> None:
        horizon = self._largest * _LAG
        bound = (self.tokens + horizon >= self._dead_after).sum()
        event = None
        if bound.is_cuda:
            pinned = torch.empty((), dtype=torch.int64, pin_memory=True)
            bound = pinned.copy_(bound, non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(torch.cuda.current_stream(self.tokens.device))
        self._bounds[self._steps] = (self._largest, bound, event)
        self._bounds.pop(self._steps - _LAG - 1, None)

    def _bound(self, is_dead: Tensor) -> int:
        known = self._bounds.get(self._steps - _LAG)
        if known is None or known[0] < self._largest:
            return int(is_dead.sum())
        return self._read(known[1], known[2])

    @staticmethod
    def _read(bound: Tensor, event: Any) -> int:
        if event is not None:
            event.synchronize()
        return int(bound)
