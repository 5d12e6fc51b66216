"""User names and passwords of servers from the user's netrc file, as curl and others keep them."""

import netrc
import os
from pathlib import Path

from esm_sae.errors import InputError


def credentials_of(host: str) -> tuple[str, str] | None:
    """Return the user name and password for a host; None where the file has none for it.

    The file is the one that ``NETRC`` names, else ``~/.netrc``. An entry ``default`` is not used:
    its password would be sent to whatever server a URL names.

    Raises:
        InputError: the file cannot be read, or is not of its form; what it holds is not shown.
    """
    named = os.environ.get("NETRC")
    path = Path(named) if named else Path("~/.netrc").expanduser()
    if not named and not path.is_file():
        return None
    try:
        known = netrc.netrc(path).hosts
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (netrc.NetrcParseError, UnicodeDecodeError) as error:
        line = f", line {error.lineno}" if isinstance(error, netrc.NetrcParseError) else ""
        raise InputError(f"{path}{line}: not of the form of a netrc file; mend it") from None
    if host == "default" or host not in known:
        return None
    user, _, password = known[host]
    return user, password
