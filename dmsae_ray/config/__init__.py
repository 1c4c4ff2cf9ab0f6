"""The settings of an experiment: one YAML file is one `Experiment`.

Input: a YAML file and the overrides of `--set`. Output: an `Experiment` that is validated in full and cannot be
changed, or a `ConfigError` of one line that names the setting, its value and what is allowed. The package also refuses
passwords in a config and sets the environment variables that Ray and other libraries read.
"""

from typing import TYPE_CHECKING

from dmsae_ray.lazy import face

if TYPE_CHECKING:
    from dmsae_ray.config.axes import Axes as Axes
    from dmsae_ray.config.axes import axes_label as axes_label
    from dmsae_ray.config.axes import axes_name as axes_name
    from dmsae_ray.config.axes import axes_order as axes_order
    from dmsae_ray.config.axes import frozen as frozen
    from dmsae_ray.config.axes import of_training as of_training
    from dmsae_ray.config.axes import short_names as short_names
    from dmsae_ray.config.axes import store_label as store_label
    from dmsae_ray.config.axes import value_text as value_text
    from dmsae_ray.config.environment import HEAD as HEAD
    from dmsae_ray.config.environment import NEEDED as NEEDED
    from dmsae_ray.config.environment import ON_HEAD as ON_HEAD
    from dmsae_ray.config.environment import ON_THIS_MACHINE as ON_THIS_MACHINE
    from dmsae_ray.config.environment import set_environment as set_environment
    from dmsae_ray.config.environment import shell_command as shell_command
    from dmsae_ray.config.experiment import METHOD_VERSION as METHOD_VERSION
    from dmsae_ray.config.experiment import Experiment as Experiment
    from dmsae_ray.config.experiment import load_experiment as load_experiment
    from dmsae_ray.config.experiment import parse_experiment as parse_experiment
    from dmsae_ray.config.preset import PRESETS as PRESETS
    from dmsae_ray.config.processors import usable_cpus as usable_cpus
    from dmsae_ray.config.secrets import redacted as redacted
    from dmsae_ray.config.secrets import refuse_secrets as refuse_secrets
    from dmsae_ray.config.sections import UTF_8 as UTF_8
    from dmsae_ray.config.sections import ActivationSettings as ActivationSettings
    from dmsae_ray.config.sections import CoreSparsity as CoreSparsity
    from dmsae_ray.config.sections import CorpusSettings as CorpusSettings
    from dmsae_ray.config.sections import ModelSettings as ModelSettings
    from dmsae_ray.config.sections import ResourceSettings as ResourceSettings
    from dmsae_ray.config.sections import TransferSettings as TransferSettings

__getattr__, __dir__, __all__ = face(
    __name__,
    {
        "axes": (
            "Axes",
            "axes_label",
            "axes_name",
            "axes_order",
            "frozen",
            "of_training",
            "short_names",
            "store_label",
            "value_text",
        ),
        "environment": (
            "HEAD",
            "NEEDED",
            "ON_HEAD",
            "ON_THIS_MACHINE",
            "set_environment",
            "shell_command",
        ),
        "experiment": (
            "METHOD_VERSION",
            "Experiment",
            "load_experiment",
            "parse_experiment",
        ),
        "preset": ("PRESETS",),
        "processors": ("usable_cpus",),
        "secrets": (
            "redacted",
            "refuse_secrets",
        ),
        "sections": (
            "ActivationSettings",
            "CoreSparsity",
            "CorpusSettings",
            "UTF_8",
            "ModelSettings",
            "ResourceSettings",
            "TransferSettings",
        ),
    },
)
