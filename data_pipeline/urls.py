"""What is a URL, and what of it must not be shown."""

import re

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*::?)+//")
_USER = re.compile(r"(?<!abfs:)(?<!abfss:)//([^/]*@|[^/\s:@]+:(?!\d+(/|$))[^@\s]*@)")
"""User and password, which may hold slashes; of abfs:// what stands there is the name of a container."""


def is_url(text: str) -> bool:
    """Whether a text is a URL and no path, chained ones such as simplecache::s3://bucket included."""
    return _URL.match(text) is not None


def user_of(url: str) -> str | None:
    """The user and password in a URL with the @ behind them, or None."""
    match = _USER.search(url)
    return match[1] if match else None


def without_password(text: str) -> str:
    """The text without the user and password of the URLs in it."""
    return _USER.sub("//", text)
