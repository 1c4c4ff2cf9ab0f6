"""`python -m dmsae_ray.cli`."""

import sys

from dmsae_ray.cli.main import main

sys.exit(main())
