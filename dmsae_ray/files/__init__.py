"""Files on any filesystem: local folders, object stores and the Hugging Face Hub.

Input: a path or URI, with bytes or records to write. Output: bytes, records, sorted lists of files, checksums. A file
is written whole or not at all. The package also keeps copies on a machine's disk (`NodeCache`), reads ahead in a thread
(`Prefetcher`), decides which errors pass by themselves (`passes`), repeats what an outage hindered (`retry_outages` for
storages, `call_with_retries` for servers), brings files of the Hub here (`fetch_from_hub`) and files there
(`upload_files`), and shows whether a process is alive (`Heartbeat`). It does not know what the files mean.
"""

from typing import TYPE_CHECKING

from dmsae_ray.lazy import face

if TYPE_CHECKING:
    from dmsae_ray.files.atomic import replacing as replacing
    from dmsae_ray.files.cache import cache_folder as cache_folder
    from dmsae_ray.files.cache import file_sha256 as file_sha256
    from dmsae_ray.files.checksums import checksum as checksum
    from dmsae_ray.files.faults import is_full_disk as is_full_disk
    from dmsae_ray.files.faults import is_server_error as is_server_error
    from dmsae_ray.files.faults import passes as passes
    from dmsae_ray.files.faults import root_message as root_message
    from dmsae_ray.files.folder import Folder as Folder
    from dmsae_ray.files.folder import filesystem as filesystem
    from dmsae_ray.files.folder import local_path as local_path
    from dmsae_ray.files.heartbeat import Heartbeat as Heartbeat
    from dmsae_ray.files.heartbeat import has_ended as has_ended
    from dmsae_ray.files.heartbeat import is_beating as is_beating
    from dmsae_ray.files.here import on_this_machine as on_this_machine
    from dmsae_ray.files.hub import HUB_FORM as HUB_FORM
    from dmsae_ray.files.hub import HUB_SCHEME as HUB_SCHEME
    from dmsae_ray.files.hub import HubFiles as HubFiles
    from dmsae_ray.files.hub import HubPlace as HubPlace
    from dmsae_ray.files.hub import fetch_from_hub as fetch_from_hub
    from dmsae_ray.files.hub import find_in_hub_cache as find_in_hub_cache
    from dmsae_ray.files.hub import hub_place as hub_place
    from dmsae_ray.files.hub_upload import Uploaded as Uploaded
    from dmsae_ray.files.hub_upload import check_repo_name as check_repo_name
    from dmsae_ray.files.hub_upload import upload_files as upload_files
    from dmsae_ray.files.json_records import decode_record as decode_record
    from dmsae_ray.files.json_records import decode_sealed as decode_sealed
    from dmsae_ray.files.json_records import encode_record as encode_record
    from dmsae_ray.files.json_records import encode_sealed as encode_sealed
    from dmsae_ray.files.json_records import nan_to_null as nan_to_null
    from dmsae_ray.files.listing import list_files as list_files
    from dmsae_ray.files.machine_lock import alone as alone
    from dmsae_ray.files.node_cache import NodeCache as NodeCache
    from dmsae_ray.files.prefetch import Prefetcher as Prefetcher
    from dmsae_ray.files.prefetch import ReaderClosed as ReaderClosed
    from dmsae_ray.files.public_names import is_hub_id as is_hub_id
    from dmsae_ray.files.public_names import is_public_name as is_public_name
    from dmsae_ray.files.public_names import public_name as public_name
    from dmsae_ray.files.retry import HUB as HUB
    from dmsae_ray.files.retry import PATIENCE_SECONDS as PATIENCE_SECONDS
    from dmsae_ray.files.retry import START_SECONDS as START_SECONDS
    from dmsae_ray.files.retry import be_patient as be_patient
    from dmsae_ray.files.retry import call_with_retries as call_with_retries
    from dmsae_ray.files.retry import iterate_with_retries as iterate_with_retries
    from dmsae_ray.files.retry import patience as patience
    from dmsae_ray.files.retry import retry_outages as retry_outages

__getattr__, __dir__, __all__ = face(
    __name__,
    {
        "machine_lock": ("alone",),
        "atomic": ("replacing",),
        "cache": (
            "cache_folder",
            "file_sha256",
        ),
        "checksums": ("checksum",),
        "faults": (
            "is_full_disk",
            "is_server_error",
            "passes",
            "root_message",
        ),
        "here": ("on_this_machine",),
        "folder": (
            "Folder",
            "filesystem",
            "local_path",
        ),
        "heartbeat": (
            "Heartbeat",
            "has_ended",
            "is_beating",
        ),
        "hub": (
            "HUB_FORM",
            "HUB_SCHEME",
            "HubFiles",
            "HubPlace",
            "fetch_from_hub",
            "find_in_hub_cache",
            "hub_place",
        ),
        "hub_upload": (
            "Uploaded",
            "check_repo_name",
            "upload_files",
        ),
        "json_records": (
            "decode_record",
            "decode_sealed",
            "encode_record",
            "encode_sealed",
            "nan_to_null",
        ),
        "listing": ("list_files",),
        "node_cache": ("NodeCache",),
        "prefetch": (
            "Prefetcher",
            "ReaderClosed",
        ),
        "public_names": (
            "is_hub_id",
            "is_public_name",
            "public_name",
        ),
        "retry": (
            "HUB",
            "PATIENCE_SECONDS",
            "START_SECONDS",
            "be_patient",
            "call_with_retries",
            "iterate_with_retries",
            "patience",
            "retry_outages",
        ),
    },
)
