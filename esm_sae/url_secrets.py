"""Passwords and tokens in URLs: they are told by their place, and never shown or recorded."""

import re

from esm_sae.errors import InputError

# All up to the last @ before the path: a password may have another.
_USER = re.compile(r"([a-zA-Z0-9+.-]*)://([^/?#\s]*)@")
_PARAMETER = re.compile(r"([?&#;])([^=&#;\s?]+)=[^&#;\s]*")
# What AWS, Google, Azure and others call keys, signatures and what goes with them, without - and _.
_TELLING = (
    "accesskey",
    "apikey",
    "authorization",
    "credential",
    "keypairid",
    "passw",
    "secret",
    "signature",
    "token",
    "xamz",
    "xgoog",
)
_EXACT = ("auth", "googleaccessid", "jwt", "key", "pass", "pwd", "sig")


def holds_secret(text: str) -> bool:
    """Whether a URL, or a text with URLs, holds a password, a token or a signature.

    A user's name alone, as in ``sftp://someone@host``, is none; with HTTP it is, for tokens are
    given so.
    """
    if "://" not in text:
        # A path may have an & or a # and mean nothing by it.
        return False
    users = _USER.findall(text)
    return any(":" in user or scheme.lower() in ("http", "https") for scheme, user in users) or any(
        _is_secret(name) for _, name in _PARAMETER.findall(text)
    )


def without_secrets(text: str) -> str:
    """Return a URL, or a text with URLs, without users and with ``...`` for each secret."""
    plain = _USER.sub(r"\1://", text)
    if "://" not in plain:
        return plain
    return _PARAMETER.sub(
        lambda found: f"{found[1]}{found[2]}=..." if _is_secret(found[2]) else found[0], plain
    )


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


def _is_secret(name: str) -> bool:
    plain = re.sub(r"[-_.]|%2[dD]|%5[fF]", "", name).lower()
    return plain in _EXACT or any(word in plain for word in _TELLING)
