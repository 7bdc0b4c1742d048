"""Markers in the place of personal data."""

from collections import Counter

import pytest
from datatrove.data import Document
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.steps import personal_data
from data_pipeline.steps.config import Mask

EMAIL, PHONE, IP = personal_data.MARKERS.values()


def masked(text: str, **options: object) -> tuple[str, Counter[str]]:
    document, counts = Document(text=text, id="1"), Counter[str]()
    assert personal_data.make(Mask.model_validate({"kind": "mask"} | options))(document, counts) is None
    return document.text, counts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("write to jane.doe+news@mail.example.co.uk.", f"write to {EMAIL}."),
        ("<a@b.de>, c_d@e-f.org; x@localhost", f"<{EMAIL}>, {EMAIL}; x@localhost"),
        ("@handle and a @ b.com, mail me at you@", "@handle and a @ b.com, mail me at you@"),
        ("'o'neil@x.org' at info@müller.de, contact...joe@x.com", f"'{EMAIL}' at {EMAIL}, contact...{EMAIL}"),
        ("写信给 joe@x.com谢谢", f"写信给 {EMAIL}谢谢"),
        ("from 8.8.8.8 to 192.168.0.1 and 127.0.0.1", f"from {IP} to 192.168.0.1 and 127.0.0.1"),
        ("version 1.2.3.4.5, 10.4.300.2 and 8.8.8.8.", f"version 1.2.3.4.5, 10.4.300.2 and {IP}."),
        ("2001:4860:4860::8888, fe80::1, 12:30:45 and std::vector", f"{IP}, fe80::1, 12:30:45 and std::vector"),
        ("call +49 30 901820 or (+44) 20 7946 0018", f"call {PHONE} or {PHONE}"),
        ("in 1984, 20,000 of 3.14159 and 2026-11-30", "in 1984, 20,000 of 3.14159 and 2026-11-30"),
        ("call (212) 736-5000", "call (212) 736-5000"),
    ],
)
def test_what_is_personal_and_what_is_not(text: str, expected: str) -> None:
    found, counts = masked(text)
    assert found == expected
    assert sum(counts.values()) == sum(expected.count(marker) for marker in (EMAIL, PHONE, IP))


def test_numbers_of_a_region_are_known_without_its_code() -> None:
    assert masked("call (212) 736-5000", phone_regions=["US"])[0] == f"call {PHONE}"
    with pytest.raises(ValueError, match="XX is no region"):
        Mask.model_validate({"kind": "mask", "phone_regions": ["US", "XX"]})


def test_only_what_was_asked_for() -> None:
    text = "a@b.de 8.8.8.8 +49 30 901820"
    assert masked(text, what=["ip"]) == (f"a@b.de {IP} +49 30 901820", Counter({"masked/ip": 1}))


@given(st.text(alphabet="ab@.:+0123456789 -()\n", max_size=60))
def test_what_is_masked_once_stays(text: str) -> None:
    once, _ = masked(text, phone_regions=["US"])
    assert masked(once, phone_regions=["US"])[0] == once
