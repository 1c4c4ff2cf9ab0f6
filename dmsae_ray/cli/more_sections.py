"""What a sweep's report has beside its figures: are the cores found again by other seeds, and their latents."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dmsae_ray.cli.console import Screen
from dmsae_ray.cli.latents import core_sections
from dmsae_ray.cli.stability import quick_rediscovery

if TYPE_CHECKING:
    from dmsae_ray.report import Section


@contextmanager
def more_sections(sweep_dir: Path, screen: Screen, *, latents: bool = True) -> "Iterator[Callable[[], list[Section]]]":
    """Begin to compare a sweep's cores with other seeds, while its figures are drawn.

    Args:
        sweep_dir: The sweep's folder.
        screen: Told what takes too long to be done here.
        latents: Whether the cores are shown latent by latent.

    Yields:
        A function that waits for the comparison and returns the sections; it draws in the thread that calls it.
    """
    with ThreadPoolExecutor(1, "dmsae-rediscovery") as thread:
        looking = thread.submit(quick_rediscovery, sweep_dir, screen)

        def sections() -> "list[Section]":
            from dmsae_ray.report import rediscovery_section

            found = looking.result()
            again = [] if found is None else [rediscovery_section(found, sweep_dir)]
            return [*again, *(core_sections(sweep_dir, screen) if latents else [])]

        yield sections
