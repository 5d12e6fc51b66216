"""What identifies the source of sequences at present, without reading it."""

import json
from pathlib import Path

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.sequences.source import BUNDLED
from esm_sae_assets.settings import Settings


def source_state(settings: Settings) -> str:
    """Return a line that is another one once the source has another content.

    Of an HTTP(S) URL it is the release and the checksum in the metalink file, or how the server
    describes the file; of another file its size and time.

    Raises:
        InputError: it cannot be had, or nothing tells one content from another.
    """
    source = settings.source
    if source == BUNDLED:
        return BUNDLED
    if storage.is_http_url(source):
        return _state_on_the_web(settings)
    if storage.is_url(source):
        return _state_in_a_store(source)
    path = Path(source).expanduser()
    if not path.is_file():
        raise InputError(f"{source}: no such file; check the setting source")
    state = path.stat()
    return f"{state.st_size} bytes, written {state.st_mtime_ns}"


def _state_on_the_web(settings: Settings) -> str:
    # Only here: httpx is slow to import.
    from esm_sae.sequences.download import what_is_at
    from esm_sae.sequences.http import RetryPolicy

    # Dagster waits a minute for a sensor, and the next look comes anyway.
    once = RetryPolicy(failures=1, connect_timeout=10.0, read_timeout=15.0)
    found = what_is_at(
        settings.source,
        checksum=settings.source_checksum or None,
        metalink=settings.source_metalink or None,
        retry=once,
    )
    if found is None:
        raise InputError(
            "settings: the server of source does not tell one content from another (ETag, "
            "Last-Modified), and there is no metalink file; launch the job yourself"
        )
    return json.dumps({name: value for name, value in found.items() if value}, sort_keys=True)


def _state_in_a_store(source: str) -> str:
    import fsspec

    try:
        store, path = fsspec.core.url_to_fs(source)
        # A listing of the last look may be kept in this process.
        store.invalidate_cache()
        return str(store.ukey(path))
    except (OSError, ImportError, ValueError) as error:
        raise InputError(f"{source}: cannot be had ({error})") from None
