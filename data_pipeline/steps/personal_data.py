"""Puts markers in the place of e-mail addresses, phone numbers and IP addresses."""

import ipaddress
import re
from collections import Counter
from collections.abc import Iterator
from re import Match

from datatrove.data import Document
from phonenumbers import Leniency, PhoneNumberMatcher

from data_pipeline.steps.base import Step
from data_pipeline.steps.config import Mask

MARKERS = {"email": "|||EMAIL_ADDRESS|||", "phone": "|||PHONE_NUMBER|||", "ip": "|||IP_ADDRESS|||"}
"""As Dolma's corpus has them."""
LABEL = r"[^\W_](?:[\w-]*[^\W_])?"
EMAIL = re.compile(
    # Begins where no longer one could have: else a long run without an @ takes the square of its time.
    r"(?<![\w+%-])(?<![\w+%-][.'])[\w+%-]+(?:[.'][\w+%-]+)*"
    rf"@(?:{LABEL}\.)+[A-Za-z]{{2,24}}(?![A-Za-z0-9_])"
)
V4, V6 = r"\d{1,3}(?:\.\d{1,3}){3}(?![\w.]*\d)", r"[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:])"
IP = re.compile(rf"(?<![\w.:])(?:{V4}|{V6})")
DIGITS = re.compile(r"\d\D{0,3}\d\D{0,3}\d\D{0,3}\d")
"""Without so many near each other there is no phone number: looking for those is slow."""


def make(config: Mask) -> Step:
    """The step of a recipe. Drops nothing; counts `masked/email` and so on."""
    regions = [None, *config.phone_regions]

    def mask(document: Document, counts: Counter[str]) -> str | None:
        if "email" in config.what:
            document.text, counts["masked/email"] = _emails(document.text, counts["masked/email"])
        if "ip" in config.what:
            document.text, counts["masked/ip"] = _ips(document.text, counts["masked/ip"])
        if "phone" in config.what:
            document.text, counts["masked/phone"] = _phones(document.text, regions, counts["masked/phone"])
        return None

    return mask


def _emails(text: str, masked: int) -> tuple[str, int]:
    if "@" not in text:
        return text, masked
    text, found = EMAIL.subn(MARKERS["email"], text)
    return text, masked + found


def _ips(text: str, masked: int) -> tuple[str, int]:
    def marker(match: Match[str]) -> str:
        nonlocal masked
        try:
            is_public = ipaddress.ip_address(match[0]).is_global
        except ValueError:
            return match[0]
        masked += is_public
        return MARKERS["ip"] if is_public else match[0]

    return IP.sub(marker, text), masked


def _phones(text: str, regions: list[str | None], masked: int) -> tuple[str, int]:
    for region in regions:
        parts, end = list[str](), 0
        for begin, behind in _numbers(text, region):
            parts += [text[end:begin], MARKERS["phone"]]
            end, masked = behind, masked + 1
        text = "".join(parts) + text[end:]
    return text, masked


def _numbers(text: str, region: str | None) -> Iterator[tuple[int, int]]:
    """Begin and end of each phone number. One of any region begins with + and its country's code."""
    if (region is not None or "+" in text or "\uff0b" in text) and DIGITS.search(text):
        for match in PhoneNumberMatcher(text, region, Leniency.VALID, max_tries=2**31):
            yield match.start, match.end
