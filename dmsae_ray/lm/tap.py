"""A language model with a tap: the residual stream after one block is read, differentiated and replaced there."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dmsae_ray.errors import ConfigError
from dmsae_ray.lm import cross_entropy
from dmsae_ray.lm.architecture import LanguageModelHead, parts_of

Edit = Callable[[Tensor], Tensor]


class Tap:
    """A decoder-only model with frozen parameters, tapped after block `layer` (counted from 0).

    Positions of a context attend to all positions before them, across document boundaries too, as in the unmodified
    model; `loss_mask` only says which next-token losses count. Only one call may run at a time, because a call hooks
    the block.

    Attributes:
        model_name: the name by which the model was asked for.
        layer: the tapped block.
        n_layers: number of blocks of the whole model.
        d_model: width of the residual stream.
        vocab_size: number of tokens in the vocabulary.
        tokenizer: transformers' tokenizer, or None.
        bos_id: id of the BOS token; None if the tokenizer has none.
        eos_id: id of the EOS token; None if the tokenizer has none.
        special_ids: ids of all special tokens, ascending.
        device: where the model runs.
        dtype: dtype of weights and activations.
        full: whether the layers above the tap, and the head, are loaded.
        blocks: the model's blocks, lowest first.
    """

    def __init__(self, model: Any, tokenizer: Any, layer: int, *, name: str, n_layers: int, full: bool) -> None:
        """Tap a loaded transformers model: a whole causal LM, or (not `full`) a decoder without its upper blocks.

        Raises:
            ConfigError: the model is not decoder-only, or has no such layer.
        """
        model.eval().requires_grad_(False)
        config: Any = model.config.get_text_config(decoder=True)
        parts = parts_of(model)
        decoder: Any = parts.decoder
        blocks = self.blocks = parts.blocks
        if not 0 <= layer < len(blocks):
            raise ConfigError(f"model.layer is {layer}; '{name}' has the layers 0..{n_layers - 1}")
        self.model_name = name
        self.layer = layer
        self.n_layers = n_layers
        self.d_model = int(config.hidden_size)
        self.vocab_size = int(config.vocab_size)
        self.tokenizer = tokenizer
        self.bos_id: int | None = getattr(tokenizer, "bos_token_id", None)
        self.eos_id: int | None = getattr(tokenizer, "eos_token_id", None)
        self.special_ids: tuple[int, ...] = tuple(sorted(int(i) for i in getattr(tokenizer, "all_special_ids", ())))
        self.full = full
        self._decoder = decoder
        self._block = blocks[layer]
        self._head = LanguageModelHead(model, decoder) if full else None
        self._rows = cross_entropy.chunk_rows(self.vocab_size)
        parameter = next(decoder.parameters())
        self.device: torch.device = parameter.device
        self.dtype: torch.dtype = parameter.dtype

    @torch.no_grad()
    def activations(self, tokens: Tensor) -> Tensor:
        """Return the residual stream after the tapped block; the blocks above are not run.

        Args:
            tokens: int64 [n, t].

        Returns:
            x [n, t, d_model] in the model's dtype: `hidden_states[layer + 1]` of transformers. (If `layer` is the last
            one, transformers gives the stream after the final norm; here it is the block's output, as for all layers.)
        """

        def stop(x: Tensor) -> Tensor:
            raise _Reached(x)

        try:
            self._run(tokens, stop)
        except _Reached as reached:
            return reached.x
        raise RuntimeError(f"block {self.layer} of '{self.model_name}' was never run")

    def gradients(self, tokens: Tensor, loss_mask: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return the residual stream at the tap, and the gradient there of the summed next-token cross-entropy.

        Blocks up to the tap build no graph. Each context is differentiated with respect to its own losses. A position
        whose loss is masked still influences later positions, so its g is not zero: use `valid` to leave such positions
        out.

        Args:
            tokens: int64 [n, t].
            loss_mask: bool [n, t], the positions whose next token counts (False on padding and where a document ends);
                None: all but the last.

        Returns:
            x [n, t, d_model] and g = dCE/dx [n, t, d_model] in the model's dtype, and valid bool [n, t], the positions
            whose own next token counts.

        Raises:
            ValueError: the model was loaded with full=False, or the mask has another shape or dtype.
        """
        head = self._whole()
        targets, valid = cross_entropy.targets_of(tokens.to(self.device), loss_mask)
        tapped: list[Tensor] = []

        def leaf(x: Tensor) -> Tensor:
            tapped.append(x.detach().requires_grad_(True))
            return tapped[0]

        with torch.enable_grad():
            hidden = self._run(tokens, leaf)
        at_hidden = cross_entropy.gradient(head, hidden, targets, self._rows)
        (g,) = torch.autograd.grad(hidden, tapped[0], at_hidden)
        return tapped[0].detach(), g, valid

    @torch.no_grad()
    def loss(self, tokens: Tensor, edit: Edit | None = None, loss_mask: Tensor | None = None) -> tuple[Tensor, int]:
        """Return the next-token cross-entropy with the residual stream at the tap replaced by `edit`.

        Args:
            tokens: int64 [n, t].
            edit: maps x [n, t, d_model] to its replacement of the same shape; `torch.zeros_like` ablates it; None: the
                unmodified model.
            loss_mask: as in `gradients`.

        Returns:
            The sum in nats (float64 []) and the number of targets.

        Raises:
            ValueError: the replacement or the mask has another shape, or the model was loaded with full=False.
        """
        head = self._whole()
        targets, valid = cross_entropy.targets_of(tokens.to(self.device), loss_mask)
        hidden = self._run(tokens, _replacing(edit))
        return cross_entropy.summed(head, hidden, targets, self._rows), int(valid.sum())

    @torch.no_grad()
    def compare(
        self, tokens: Tensor, edit: Edit, loss_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, int]:
        """Return how the model predicts as it is and with the residual stream at the tap replaced by `edit`.

        The logits are made for some tokens at a time, as in `loss`.

        Args:
            tokens: int64 [n, t].
            edit: as in `loss`.
            loss_mask: as in `gradients`.

        Returns:
            Three sums in nats (float64 []) over the positions that have a target: the cross-entropy of the model as it
            is, that of the edited one, and KL(as it is || edited) of their next-token distributions; and the number of
            targets.

        Raises:
            ValueError: as in `loss`.
        """
        head = self._whole()
        targets, valid = cross_entropy.targets_of(tokens.to(self.device), loss_mask)
        clean, edited = self._run(tokens, _replacing(None)), self._run(tokens, _replacing(edit))
        return *cross_entropy.compared(head, clean, edited, targets, self._rows), int(valid.sum())

    @torch.no_grad()
    def final(self, tokens: Tensor) -> Tensor:
        """Return the hidden states of tokens int64 [n, t] after the final norm, [n, t, d], of the unmodified model."""
        self._whole()
        return self._run(tokens, lambda x: x)

    @torch.no_grad()
    def losses(self, tokens: Tensor, x: Tensor, loss_mask: Tensor | None = None, like: Tensor | None = None) -> Tensor:
        """Return the summed next-token cross-entropy of each context, with x in the place of the residual stream.

        Args:
            tokens: int64 [n, t].
            x: [n, t, d_model].
            loss_mask: as in `gradients`.
            like: what `final` returned for these tokens: the loss is then what is expected over all next tokens, by the
                unmodified model; None: the loss at the next token of the text.

        Returns:
            Nats, float64 [n].

        Raises:
            ValueError: x or the mask has another shape, or the model was loaded with full=False.
        """
        head = self._whole()
        targets, _ = cross_entropy.targets_of(tokens.to(self.device), loss_mask)

        def replace(own: Tensor) -> Tensor:
            if x.shape != own.shape:
                raise ValueError(f"x has shape {list(x.shape)}; it must be {list(own.shape)}")
            return x.to(own.device, own.dtype)

        hidden = self._run(tokens, replace)
        return cross_entropy.by_context(head, hidden, targets, self._rows, like)

    def spliced_gradients(
        self, tokens: Tensor, x: Tensor, loss_mask: Tensor | None = None, like: Tensor | None = None
    ) -> Tensor:
        """Return the gradient of what `losses` returns, summed over contexts, at x: [n, t, d_model], in x's dtype.

        Args and errors are those of `losses`.
        """
        head = self._whole()
        targets, _ = cross_entropy.targets_of(tokens.to(self.device), loss_mask)
        leaf = x.detach().to(self.device, copy=True).requires_grad_(True)

        def replace(own: Tensor) -> Tensor:
            if leaf.shape != own.shape:
                raise ValueError(f"x has shape {list(leaf.shape)}; it must be {list(own.shape)}")
            return leaf.to(own.dtype)

        with torch.enable_grad():
            hidden = self._run(tokens, replace)
        at_hidden = cross_entropy.gradient(head, hidden, targets, self._rows, like)
        (found,) = torch.autograd.grad(hidden, leaf, at_hidden)
        return found

    def _run(self, tokens: Tensor, at_tap: Edit) -> Tensor:
        """Run the decoder with `at_tap` at the tap; return its output after the final norm, [n, t, d_model]."""
        with _hooked(self._block, at_tap):
            output: Tensor = self._decoder(input_ids=tokens.to(self.device), use_cache=False).last_hidden_state
        return output

    def _whole(self) -> LanguageModelHead:
        if self._head is None:
            raise ValueError(f"'{self.model_name}' was loaded with full=False: it has no layers above the tap")
        return self._head


class _Reached(Exception):
    """Carries the tapped activations out of the forward pass, so that nothing above is run."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.x = x


def _replacing(edit: Edit | None) -> Edit:
    """Return a function that replaces the stream by `edit`, in the same dtype.

    It raises ValueError if the replacement has another shape.
    """

    def replace(x: Tensor) -> Tensor:
        edited = x if edit is None else edit(x)
        if edited.shape != x.shape:
            raise ValueError(f"edit returned shape {list(edited.shape)}; it must be {list(x.shape)}")
        return edited.to(x.dtype)

    return replace


@contextmanager
def _hooked(block: nn.Module, at_tap: Edit) -> Iterator[None]:
    """Apply `at_tap` to the block's output: a tensor, or in some architectures a tuple or list that begins with it."""

    def hook(_: nn.Module, __: Any, output: Any) -> Any:
        if isinstance(output, tuple | list):
            return (list if isinstance(output, list) else tuple)((at_tap(output[0]), *output[1:]))
        return at_tap(output)

    handle = block.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
