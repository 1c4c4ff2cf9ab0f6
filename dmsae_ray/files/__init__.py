"""Files anywhere: folders on any filesystem, written whole or not at all, read ahead, tried again."""

from typing import TYPE_CHECKING

from dmsae_ray.lazy import face

if TYPE_CHECKING:
    from dmsae_ray.files.folder import Folder as Folder
    from dmsae_ray.files.folder import checksum as checksum
    from dmsae_ray.files.folder import filesystem as filesystem
    from dmsae_ray.files.folder import list_files as list_files
    from dmsae_ray.files.folder import one_line as one_line
    from dmsae_ray.files.prefetch import Ahead as Ahead
    from dmsae_ray.files.prefetch import Stopped as Stopped
    from dmsae_ray.files.retry import HUB as HUB
    from dmsae_ray.files.retry import came_from_server as came_from_server
    from dmsae_ray.files.retry import patiently as patiently
    from dmsae_ray.files.retry import retried as retried
    from dmsae_ray.files.retry import why as why

__getattr__, __dir__, __all__ = face(
    __name__,
    {
        "folder": (
            "Folder",
            "checksum",
            "filesystem",
            "list_files",
            "one_line",
        ),
        "prefetch": (
            "Ahead",
            "Stopped",
        ),
        "retry": (
            "HUB",
            "came_from_server",
            "patiently",
            "retried",
            "why",
        ),
    },
)
