"""Checkpoints of the Hugging Face hub: what its cache on this machine holds, and fetching what it lacks."""

import errno
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from huggingface_hub import HfApi, hf_hub_download, try_to_load_from_cache
from huggingface_hub import errors as hub_errors
from huggingface_hub.constants import ENDPOINT, HF_HUB_CACHE
from huggingface_hub.utils import tqdm as hub_tqdm  # type: ignore[attr-defined]

from autotune.errors import BadRequest
from autotune.families.checkpoint import (
    CONFIG_FILE,
    INDEX_FILE,
    PICKLES,
    WEIGHTS_FILE,
    conversion_line,
    missing_weights,
)
from autotune.tokenizer import TOKENIZER_CONFIG_FILE, TOKENIZER_FILE

_TEXT_FILES = (CONFIG_FILE, "generation_config.json", TOKENIZER_FILE, TOKENIZER_CONFIG_FILE, "special_tokens_map.json")
_FAILURES: tuple[type[Exception], ...] = (
    hub_errors.HfHubHTTPError.__mro__[1],  # the HTTP library's own root, whichever version of it the hub uses
    OSError,  # of the disk, or of the connection
    getattr(hub_errors, "XetDownloadError", OSError),
)

OnBytes = Callable[[int], None]


@dataclass(frozen=True)
class Listing:
    """The files of a repository that a checkpoint needs, with their sizes."""

    repository: str
    sizes: dict[str, int]

    @property
    def missing_bytes(self) -> int:
        """Bytes of those that the cache does not hold."""
        return sum(size for name, size in self.sizes.items() if not _cached(self.repository, name))


def cache_folder() -> Path:
    """Where the hub keeps what it fetched."""
    return Path(HF_HUB_CACHE)


def page(repository: str) -> str:
    """Address of the repository's page, where its licence is to be accepted."""
    return f"{ENDPOINT}/{repository}"


def find_folder(repository: str) -> Path | None:
    """The folder in the hub's cache with the repository's config.json; None if it was never fetched."""
    config = _cached(repository, CONFIG_FILE)
    return config.parent if config else None


def find_tokenizer(repository: str) -> Path | None:
    """The folder in the hub's cache with the repository's tokenizer; None if it was never fetched."""
    tokenizer = _cached(repository, TOKENIZER_FILE)
    return tokenizer.parent if tokenizer else None


def find_checkpoint(repository: str) -> Path | None:
    """The folder in the hub's cache with the repository's config, tokenizer and all weights; None if any is missing."""
    folder = find_folder(repository)
    if folder is None or not (folder / TOKENIZER_FILE).exists() or missing_weights(folder):
        return None
    return folder


def list_files(repository: str, *, weights: bool = True) -> Listing:
    """What a checkpoint needs of a repository's files, asked of the hub; BadRequest if it cannot be had.

    weights: False for the config and the tokenizer alone.
    """
    try:
        info = HfApi().model_info(repository, files_metadata=True)
        # Since a gated repository lists its files to everyone, and only refuses to hand them out.
        hf_hub_download(repository, CONFIG_FILE)
    except hub_errors.EntryNotFoundError as error:
        if isinstance(error, hub_errors.LocalEntryNotFoundError):
            _fail(error, repository)
        raise BadRequest(f"{repository} has no {CONFIG_FILE}: it is not a checkpoint that transformers reads") from None
    except hub_errors.HFValidationError:
        raise BadRequest(f"{repository!r} is not the name of a repository: write owner/name") from None
    except _FAILURES as error:
        _fail(error, repository)
    sizes = {entry.rfilename: entry.size or 0 for entry in info.siblings or ()}
    wanted = [name for name in _TEXT_FILES if name in sizes]
    if TOKENIZER_FILE not in sizes:
        raise BadRequest(
            f"{repository} has no {TOKENIZER_FILE}: convert it with `{conversion_line(repository)}` and "
            "give that folder"
        )
    return Listing(
        repository, {name: sizes[name] for name in (*wanted, *(_weights(repository, sizes) if weights else ()))}
    )


def fetch(listing: Listing, on_bytes: OnBytes) -> Path:
    """The cache folder of a repository with all its listed files, those that were missing fetched.

    on_bytes: told how many of the missing bytes are there.  An interrupted fetch keeps the files that are whole.
    """
    folder = cache_folder()
    _check_disk(listing, folder)
    done = 0
    for name, size in listing.sizes.items():
        if _cached(listing.repository, name):
            continue
        try:
            hf_hub_download(listing.repository, name, tqdm_class=_reporting(done, size, on_bytes))
        except _FAILURES as error:
            _fail(error, listing.repository, begun=True)
        done += size
        on_bytes(done)
    found = find_folder(listing.repository)
    if found is None:
        raise BadRequest(f"{listing.repository}: the hub's cache {folder} was changed while it was fetched: try again")
    return found


def _weights(repository: str, sizes: dict[str, int]) -> list[str]:
    """Names of the weight files of a repository: the whole file, or the index and its shards."""
    if WEIGHTS_FILE in sizes:
        return [WEIGHTS_FILE]
    if INDEX_FILE in sizes:
        return [INDEX_FILE, *_shards(repository, sizes)]
    if any(name.endswith(PICKLES) for name in sizes):
        raise BadRequest(
            f"{repository} has no safetensors, only pickled weights, which can run code when they are read: if you "
            f"trust it, convert it with `{conversion_line(repository)}` and give that folder"
        )
    raise BadRequest(f"{repository} has no weights in safetensors: choose another repository")


def _shards(repository: str, sizes: dict[str, int]) -> tuple[str, ...]:
    """Names of the shards that the repository's index names and the cache lacks; the index itself is fetched."""
    try:
        index = Path(hf_hub_download(repository, INDEX_FILE))
    except _FAILURES as error:
        _fail(error, repository)
    shards = missing_weights(index.parent)
    unlisted = [name for name in shards if name not in sizes]
    if unlisted:
        raise BadRequest(
            f"the index of {repository} names {unlisted[0]}, which is not there: choose another repository"
        )
    return shards


def _cached(repository: str, name: str) -> Path | None:
    try:
        found = try_to_load_from_cache(repository, name)
    except hub_errors.HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None


def _check_disk(listing: Listing, folder: Path) -> None:
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if listing.missing_bytes > free:
        raise BadRequest(
            f"{listing.repository} needs {gigabytes(listing.missing_bytes)} more, but {folder} has "
            f"{gigabytes(free)} free: make room, or set HF_HOME to a folder on a larger disk"
        )


def gigabytes(size_bytes: int) -> str:
    """A file size in words, in the unit that disks and the hub use."""
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e8 else f"{size_bytes / 1e6:.1f} MB"


def _reporting(before: int, size: int, on_bytes: OnBytes) -> Any:
    """A class of progress bars that show nothing and report bytes."""

    class Reporting(hub_tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.there = kwargs.get("initial") or 0
            super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> None:
            self.there = min(self.there + int(n or 0), size)
            on_bytes(before + self.there)

    return Reporting


def _fail(error: Exception, repository: str, *, begun: bool = False) -> NoReturn:
    """Raise what went wrong as one line with its remedy."""
    again = "; whole files are kept: the same command fetches the rest" if begun else ""
    if isinstance(error, hub_errors.GatedRepoError):
        raise BadRequest(
            f"{repository} is gated: accept its licence on {page(repository)}, then log in with `hf auth login`{again}"
        ) from error
    if isinstance(error, hub_errors.RepositoryNotFoundError):
        raise BadRequest(
            f"there is no repository {repository} on {ENDPOINT}, or it is private: check the name, or log in with "
            "`hf auth login`"
        ) from error
    if isinstance(error, hub_errors.OfflineModeIsEnabled):
        raise BadRequest(f"cannot fetch {repository}: HF_HUB_OFFLINE is set; unset it, or give a folder") from error
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
        raise BadRequest(f"cannot write {cache_folder()}: {error.strerror}{again}") from error
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    raise BadRequest(f"cannot reach {ENDPOINT} for {repository}: {first}{again}") from error
