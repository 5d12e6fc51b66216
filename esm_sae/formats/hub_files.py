"""Files of a model hub, named ``hf://org/name``, ``hf://org/name@revision`` and ``.../FILE``."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.checkpoint import CONFIG_NAME
from esm_sae.formats.shared_sae import MODEL_TYPE, READ_FILES, model_type_of
from esm_sae.url_secrets import without_secrets

_SCHEME = "hf://"
_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_HUB_PATH = re.compile(
    rf"(?P<repository>{_NAME}/{_NAME})"
    r"(?:@(?P<revision>[A-Za-z0-9._%-]+))?"
    r"(?:/(?P<file>[A-Za-z0-9._/-]+))?/?"
)


class HubPath(NamedTuple):
    """What a name on the hub means.

    Attributes:
        repository: ``org/name``.
        revision: commit, tag or branch; None is the newest.
        file: path in the repository; empty where it is the whole.
    """

    repository: str
    revision: str | None = None
    file: str = ""

    def __str__(self) -> str:
        revision = "" if self.revision is None else f"@{self.revision.replace('/', '%2F')}"
        return f"{_SCHEME}{self.repository}{revision}" + (f"/{self.file}" if self.file else "")


def parse_hub_path(path: storage.PathLike) -> HubPath:
    """Return what a name on the hub means.

    Raises:
        InputError: it is of another form.
    """
    text = os.fspath(path)
    found = _HUB_PATH.fullmatch(re.sub("^hf://?", "", text))
    if found is None or ".." in text.split("/"):
        raise InputError(
            f"{without_secrets(text)}: names nothing on the model hub; expected hf://ORG/NAME, "
            "hf://ORG/NAME@REVISION or one of these with /FILE behind it"
        )
    revision = found["revision"]
    return HubPath(
        found["repository"],
        None if revision is None else re.sub("%2[Ff]", "/", revision),
        found["file"] or "",
    )


def local_copy(path: storage.PathLike) -> Path:
    """Return the local path of an SAE, fetching it where it is on the hub and not cached.

    Of a repository only the files that reading takes are fetched, all of one commit, into the
    cache of ``huggingface_hub`` (``HF_HOME``); ``HF_HUB_OFFLINE=1`` takes them from there alone.
    ``HF_ENDPOINT`` names a mirror. Another path is returned as it is.

    Raises:
        InputError: the name is of another form, the repository has no SAE of ``shared_sae`` and
            no file is named, or a file is not cached and cannot be fetched.
    """
    if not storage.is_hub_path(path):
        return Path(path)
    wanted = parse_hub_path(path)
    if wanted.file and Path(wanted.file).name not in READ_FILES:
        file = _fetch(wanted, wanted.file)
        beside = (Path(wanted.file).parent / CONFIG_NAME).as_posix()
        with contextlib.suppress(_NoSuchFileError):
            _fetch(_pinned(wanted, file, wanted.file), beside)
        return file
    folder = Path(wanted.file).parent.as_posix()
    names = [name if folder == "." else f"{folder}/{name}" for name in READ_FILES]
    config = _fetch(wanted, names[0])
    if model_type_of(config.parent) != MODEL_TYPE:
        raise InputError(
            f"{wanted}: its {CONFIG_NAME} is not that of an SAE shared by esm-sae; name one file, "
            f"such as {wanted._replace(file='layer_23.safetensors')}"
        )
    for name in names[1:]:
        _fetch(_pinned(wanted, config, names[0]), name)
    return config.parent


class _NoSuchFileError(InputError):
    """A repository has no such file, or none that is cached."""


def _pinned(wanted: HubPath, fetched: Path, file: str) -> HubPath:
    """Return the same at the commit that a file was fetched of: a branch may move on."""
    commit = fetched.parents[len(PurePosixPath(file).parts) - 1].name
    return wanted._replace(revision=commit)


def _fetch(wanted: HubPath, file: str) -> Path:
    """Return the local path of a file of a repository, in the cache's folder of its commit."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        with _without_retry_warnings():
            return Path(hf_hub_download(wanted.repository, file, revision=wanted.revision))
    except GatedRepoError:
        reason = "the repository is gated; accept its terms there and log in with hf auth login"
    except RepositoryNotFoundError:
        reason = "there is no such repository; if it is private, log in with hf auth login"
    except RevisionNotFoundError:
        reason = f"the repository has no revision {wanted.revision}; name another"
    except LocalEntryNotFoundError as error:
        raise _NoSuchFileError(f"{wanted}: {_not_cached(wanted, file, error)}") from None
    except EntryNotFoundError:
        raise _NoSuchFileError(f"{wanted}: the repository has no {file}; name another") from None
    except (OSError, ValueError) as error:
        reason = _not_cached(wanted, file, error)
    raise InputError(f"{wanted}: {reason}")


@contextlib.contextmanager
def _without_retry_warnings() -> Iterator[None]:
    """Keep the hub's package from printing each attempt that failed; the last one is told."""
    from huggingface_hub.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _not_cached(wanted: HubPath, file: str, error: Exception) -> str:
    return (
        f"{file} is not in the model hub's cache here and cannot be fetched "
        f"({type(error).__name__}); fetch {wanted.repository} elsewhere and name the folder, or "
        "set HF_ENDPOINT to a mirror, or copy a cache here and set HF_HOME to it"
    )
