"""What templates of wikis show: those that stand in the middle of sentences, and those of disambiguation pages.

Each wiki defines its own; here are the most used ones of the large Wikipedias, by what stands in the text for them.
"""

import re
from collections.abc import Callable

HOLE = "\ue002"
"""What stands where a template was that shows nothing: the punctuation around it goes with it."""

_ARGUMENT = re.compile(r"\|(?![^\[\]]*\]\])")
_NAMED = re.compile(r"\s*([^=\[\]<>{}]*?)\s*=")
_TEXTS = frozenset({"text", "1", "quote"})
_NUMBER = re.compile(r"[\d.,\s]+$")
_ORDINAL = re.compile(r"(\d{1,2}|[ivx]{1,5})(st|nd|rd|th|er|re|e|ème)")
_RANGES = frozenset({"to", "-", "–", "and", "or", "by", "x"})
_UNITS = {"C": "°C", "F": "°F", "sqmi": "sq mi"}


def _first(values: list[str]) -> str:
    return values[0]


def _last(values: list[str]) -> str:
    return values[-1]


def _spaced(values: list[str]) -> str:
    return " ".join(values[:3])


def _measure(values: list[str]) -> str:
    """Of {{convert|5|km|mi}}, {{convert|5|to|9|km}} and {{convert|5|ft|10|in|m}}."""
    is_two = bool(values[3:]) and bool(_NUMBER.match(values[2])) and not _NUMBER.match(values[3])
    count = 4 if is_two or (values[1:2] and values[1] in _RANGES) else 2
    return " ".join(_UNITS.get(each, each) for each in values[:count])


def _fraction(values: list[str]) -> str:
    whole, above, below = ["", "1", *values] if len(values) == 1 else ["", *values][-3:]
    return f"{whole} {above}/{below}".strip()


def _nihongo(values: list[str]) -> str:
    return f"{values[0]} ({', '.join(values[1:3])})" if values[1:] else values[0]


def _around(before: str, after: str) -> Callable[[list[str]], str]:
    return lambda values: f"{before}{values[0]}{after}"


_SHOWN: dict[str, Callable[[list[str]], str]] = {
    **dict.fromkeys(["lang", "langue", "en langue", "latin", "transl", "transliteration", "nowrap", "nobr"], _last),
    **dict.fromkeys(["small", "smaller", "big", "em", "strong", "center", "color", "incise", "script/arabic"], _last),
    **dict.fromkeys(["abbr", "tooltip", "sic", "val", "math", "mvar", "var", "chem2", "sub", "sup", "su"], _first),
    **dict.fromkeys(["ipa", "ipablink", "ipaslink", "ipalink", "api", "interlanguage link", "ill", "lien"], _first),
    **dict.fromkeys(["quote", "blockquote", "cquote", "quotation", "zitat", "cita", "citation"], _first),
    **dict.fromkeys(["nombre", "fmtn", "formatnum", "num", "nb", "code"], _first),
    **dict.fromkeys(["unité", "unit", "date", "date-", "date de naissance", "date de décès"], _spaced),
    **dict.fromkeys(["convert", "cvt"], _measure),
    **dict.fromkeys(["frac", "sfrac", "fraction"], _fraction),
    **dict.fromkeys(["nihongo", "nihongo2", "nihongo3"], _nihongo),
    **dict.fromkeys(["circa", "c.", "ca."], _around("c. ", "")),
    **dict.fromkeys(["s", "s-", "siècle"], _around("", "e siècle")),
    **dict.fromkeys(["séc", "séc."], _around("século ", "")),
    **{each: _around(f"{each.upper()} ", "") for each in ("uss", "hms", "rms", "ss", "sms", "hmas", "hmcs")},
    **{"us$": _around("US$", ""), "jpy": _around("¥", ""), "gbp": _around("£", ""), "€": _around("€", "")},
    **{"euro": _around("", " €"), "tmp": _around("", " °C"), "höhe": _around("", " m"), '"': _around("„", "“")},
    **{"chem": "".join, "heure": " h ".join, "as of": _around("As of ", "")},
}
_SIGNS = {
    **dict.fromkeys(["nbsp", "nbs", "space", "spaces", "thinsp", "sp", "esd"], " "),
    **dict.fromkeys(["snd", "spnd", "spaced ndash", "ndash", "–"], " – "),
    **dict.fromkeys(["mdash", "em dash", "—"], "—"),
    **dict.fromkeys(["circa", "c.", "ca."], "c."),
    **{"'": "'", "'s": "'s", "\"'": "\"'", "'\"": "'\"", "!": "|", "=": "=", ",": ", ", "·": " · ", "•": " • "},
    **{"dagger": "†", "extinct": "†", "eqm": "&", "shy": "", "wbr": ""},
}

_DISAMBIGUATION = (
    r"(?:[\w -]{1,40} )?(?:disambig(?:uation)?|dab)(?: page)?(?: cleanup)?|disamb|hndis|geodis|numberdis|"
    r"begriffsklärung|homonymie|bandeau homonymie|d[ei]sambiguaci[oó]n|disambigua|dp|doorverwijspagina|"
    r"ujednoznacznienie|desambiguação|desambig|неоднозначность|многозначность|однофамильцы|förgrening|gren|"
    r"неоднозначність|багатозначність|aimai|曖昧さ回避|人名の曖昧さ回避|地名の曖昧さ回避|消歧义|消歧義|消歧义页|desambiguació|"
    r"rozcestník|täsmennyssivu|peker|flertydig|egyért|egyértelműsítő lap|anlam ayrımı|anlam ayrım|동음이의|동명이인|"
    r"توضيح|פירושונים|định hướng|trang định hướng|disambiguasi|dezambiguizare|αποσαφήνιση|ابهام‌زدایی|apartigilo"
)
_IS_DISAMBIGUATION = re.compile(rf"\{{\{{\s*(?:{_DISAMBIGUATION})\s*(?:\||\}}\}})|__DISAMBIG__", re.IGNORECASE)


def is_disambiguation(source: str) -> bool:
    """Whether a page only tells apart what has the same name: by its template, or MediaWiki's word for it."""
    return _IS_DISAMBIGUATION.search(source) is not None


def shown(template: str) -> str:
    """What stands in the text for what stands between the braces; HOLE for all that is not known."""
    name = template.partition("|")[0].strip().lower().replace("_", " ")
    if name.startswith("formatnum:"):
        return name.partition(":")[2].strip()
    if name.startswith(("lang-", "ipa-")):
        name = "ipa"
    show = _SHOWN.get(name)
    values = [each for each in map(_value, _ARGUMENT.split(template)[1:]) if each not in ("", HOLE)] if show else []
    if show is None or not values:
        return _SIGNS.get(name, "") or _ordinal(name, template)
    text = show(values)
    return text.replace("As", "as", 1) if name == "as of" and re.search(r"\|\s*lc\s*=", template) else text


def _value(argument: str) -> str:
    """Of an argument without a name, and of one whose name says that it is the text."""
    named = _NAMED.match(argument)
    if named is None:
        return argument.strip()
    return argument[named.end() :].strip() if named[1].lower() in _TEXTS else ""


def _ordinal(name: str, template: str) -> str:
    """Of the French {{XXe}}, {{1er}} and {{84e|Congrès}}."""
    ordinal = _ORDINAL.fullmatch(name.removesuffix(" siècle"))
    if ordinal is None:
        return HOLE
    century = ["siècle"] if name.endswith(" siècle") else []
    return " ".join([ordinal[1].upper() + ordinal[2], *century, *_ARGUMENT.split(template)[1:2]])
