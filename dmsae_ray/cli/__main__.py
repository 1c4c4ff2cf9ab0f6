"""Entry point of `python -m dmsae_ray.cli`."""

import sys

from dmsae_ray.cli.commands import main

sys.exit(main())
