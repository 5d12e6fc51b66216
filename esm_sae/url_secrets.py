"""Passwords and tokens in URLs: they are told by their place, and never shown or recorded."""

import re

from esm_sae.errors import InputError

_SCHEME = r"[a-zA-Z0-9+.-]*://"
_PORT = r"[0-9]+(?:[/?#\s]|$)"
# A password may have any character, also those that end it by the standard, as keys of AWS do: what
# follows the first colon of the host's place is one, up to the last @, unless it is a port or, in a
# chain such as zip://x::https://host, another URL. Without a colon there is only a user's name.
_USER = re.compile(
    rf"({_SCHEME})(?!\[[0-9a-fA-F:.]+\])"
    rf"([^:/?#\s]*:(?!{_PORT}|:{_SCHEME})\S*@|[^/?#\s]*@)"
)
_NAME = re.compile(r"[?&#;]([^=&#;\s?]+)=")
_PARAMETERS = re.compile(r"[?&#;][^&#\s]*")
# What AWS, Google, Azure and others call keys, signatures and what goes with them, without - and _.
_TELLING = (
    "accesskey",
    "apikey",
    "authorization",
    "credential",
    "keypairid",
    "passphrase",
    "passw",
    "secret",
    "signature",
    "token",
    "xamz",
    "xgoog",
)
_EXACT = ("auth", "googleaccessid", "jwt", "key", "pass", "pw", "pwd", "sig")


def holds_secret(text: str) -> bool:
    """Whether a URL, or a text with URLs, holds a password, a token or a signature.

    A user's name alone, as in ``sftp://someone@host``, is none; with HTTP it is, for tokens are
    given so.
    """
    if "://" not in text:
        # A path may have an & or a # and mean nothing by it.
        return False
    users = _USER.findall(text)
    return any(
        ":" in user or scheme.lower() in ("http://", "https://") for scheme, user in users
    ) or any(_is_secret(name) for name in _NAME.findall(text))


def without_secrets(text: str) -> str:
    """Return a URL, or a text with URLs, without users and with ``...`` for each secret."""
    if "://" not in text:
        return text
    return _PARAMETERS.sub(_without_value, _USER.sub(r"\1", text))


def require_no_secret(url: str, remedy: str) -> None:
    """Refuse a URL that would be recorded or shown with a secret in it.

    Raises:
        InputError: it holds one; the message does not.
    """
    if holds_secret(url):
        raise InputError(
            f"{without_secrets(url)}: was given with a user name, a password or a token in the "
            f"URL, which would be recorded; {remedy}"
        )


def _without_value(found: re.Match[str]) -> str:
    # Several: a value may hold parameters of its own, behind a ; or those of another URL.
    for name in _NAME.finditer(found[0]):
        if _is_secret(name[1]):
            return f"{found[0][: name.end()]}..."
    return found[0]


def _is_secret(name: str) -> bool:
    plain = re.sub(r"[-_.]|%2[dD]|%5[fF]", "", name).lower()
    return plain in _EXACT or any(word in plain for word in _TELLING)
