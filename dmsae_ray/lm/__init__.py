"""The language model: it is loaded, cut after one block, and read, differentiated and edited there.

Input: the name of a model (the embedded tiny Gemma-2, a Hub id or a local folder), a layer, and tokens. Output: a `Tap`
that gives activations, gradients and losses, with its tokenizer; `keep_mask` says which tokens are kept,
`load_unembedding` what a direction does to the logits, and `TokenText` what tokens are as text; `check_tap` says from
a configuration alone whether a model can be tapped, `licence_of` under which licence it is. The room also makes the
embedded model from text that every Python carries (`tiny_model`). It needs torch and transformers, imported on first
use, and knows nothing of SAEs or Ray.
"""

from typing import TYPE_CHECKING

from dmsae_ray.lazy import face

if TYPE_CHECKING:
    from dmsae_ray.lm.description import ModelInfo as ModelInfo
    from dmsae_ray.lm.description import check_context as check_context
    from dmsae_ray.lm.description import describe_model as describe_model
    from dmsae_ray.lm.filters import keep_mask as keep_mask
    from dmsae_ray.lm.licences import Licence as Licence
    from dmsae_ray.lm.licences import is_licence_id as is_licence_id
    from dmsae_ray.lm.licences import licence_of as licence_of
    from dmsae_ray.lm.loading import load_tap as load_tap
    from dmsae_ray.lm.support import check_tap as check_tap
    from dmsae_ray.lm.tap import Tap as Tap
    from dmsae_ray.lm.text import split_documents as split_documents
    from dmsae_ray.lm.text import stdlib_documents as stdlib_documents
    from dmsae_ray.lm.tiny import read_meta as read_meta
    from dmsae_ray.lm.tiny import tiny_model as tiny_model
    from dmsae_ray.lm.tiny_recipe import TrainingStep as TrainingStep
    from dmsae_ray.lm.token_text import TokenText as TokenText
    from dmsae_ray.lm.tokenizer import load_tokenizer as load_tokenizer
    from dmsae_ray.lm.unembedding import Unembedding as Unembedding
    from dmsae_ray.lm.unembedding import load_unembedding as load_unembedding
    from dmsae_ray.lm.weight_files import check_files as check_files
    from dmsae_ray.lm.weight_files import is_configuration_only as is_configuration_only

__getattr__, __dir__, __all__ = face(
    __name__,
    {
        "filters": ("keep_mask",),
        "description": (
            "ModelInfo",
            "check_context",
            "describe_model",
        ),
        "licences": (
            "Licence",
            "is_licence_id",
            "licence_of",
        ),
        "loading": ("load_tap",),
        "support": ("check_tap",),
        "tap": ("Tap",),
        "text": (
            "split_documents",
            "stdlib_documents",
        ),
        "tiny": (
            "read_meta",
            "tiny_model",
        ),
        "tiny_recipe": ("TrainingStep",),
        "token_text": ("TokenText",),
        "tokenizer": ("load_tokenizer",),
        "unembedding": (
            "Unembedding",
            "load_unembedding",
        ),
        "weight_files": (
            "check_files",
            "is_configuration_only",
        ),
    },
)
