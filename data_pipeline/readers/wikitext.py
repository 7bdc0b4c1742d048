"""From wikitext to plain text."""

import html
import re
from collections.abc import Iterable

import mwparserfromhell
from mwparserfromhell.nodes import ExternalLink, Heading, HTMLEntity, Node, Tag, Text, Wikilink
from mwparserfromhell.wikicode import Wikicode

_NOWIKI = re.compile(r"<nowiki>(.*?)</nowiki>|<nowiki\s*/>", re.DOTALL | re.IGNORECASE)
_KEPT = re.compile("\ue000(\\d+)\ue001")
_UNSEEN = "ref|math|chem|ce|gallery|timeline|imagemap|score|graph|hiero|references|templatestyles|mapframe"
_HIDDEN = re.compile(
    rf"<!--.*?(?:-->|\Z)|<({_UNSEEN})\b[^<>]*/>|<({_UNSEEN})\b[^<>]*?>.*?</\2\s*>", re.DOTALL | re.IGNORECASE
)
# Innermost first: what holds no other of its kind.
_TEMPLATE = re.compile(r"\{\{(?:[^{}]|(?<!\{)\{(?!\{)|(?<!\})\}(?!\}))*\}\}")
_TABLE = re.compile(r"^[ \t:]*\{\|(?:(?!\{\||^[ \t]*\|\}).)*^[ \t]*\|\}", re.DOTALL | re.MULTILINE)
_ARGUMENT = re.compile(r"\|(?![^\[\]]*\]\])")
_SHOWN_TEMPLATES = frozenset({"lang", "nowrap", "transl", "nobr", "small", "em", "strong"})
_RANGES = frozenset({"to", "-", "–", "and", "or", "by", "x"})
_NAMED = re.compile(r"\s*[^=\[\]<>{}]*=")
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_MARKS = re.compile(r"'{2,5}|__[A-Z]+__")
_INTERLANGUAGE = re.compile(r"[a-z]{2,3}(?:-[a-z-]+)?:")
_EMPTY_BRACKETS = re.compile(r"[ \t]*\([\s,;:]*\)")
_OPENING = re.compile(r"\([ \t]*[,;:][ \t]*")
_LIST_MARKS = re.compile(r"^[*#:;]+[ \t]*", re.MULTILINE)
_RULE = re.compile(r"^-{4,}[ \t]*$", re.MULTILINE)
_SPACES = re.compile(r"[ \t]+$", re.MULTILINE)
_BLANK_LINES = re.compile(r"\n{3,}")


class Wikitext:
    """Renders pages of one wiki."""

    def __init__(self, hidden: Iterable[str] = ()) -> None:
        """`hidden` are the wiki's own names of the namespaces whose links show no text: files and categories."""
        self._hidden = {name.lower() for name in hidden} | {"file", "image", "category"}

    def plain(self, source: str) -> str:
        """The running text: without templates, tables, references and files, with headings and link texts."""
        kept: list[str] = []

        def keep(match: re.Match[str]) -> str:
            kept.append(html.unescape(match[1] or ""))
            return f"\ue000{len(kept) - 1}\ue001"

        source = _NOWIKI.sub(keep, source.replace("\ue000", "").replace("\ue001", ""))
        source = _remove_nested(_TABLE, _remove_nested(_TEMPLATE, _HIDDEN.sub("", source)))
        source = _LIST_MARKS.sub("", source)
        text = self._render(mwparserfromhell.parse(source, skip_style_tags=True))
        text = _tidy(text)
        return _KEPT.sub(lambda match: kept[int(match[1])], text).strip()

    def _render(self, code: Wikicode) -> str:
        return "".join(map(self._node, code.nodes))

    def _node(self, node: Node) -> str:
        if isinstance(node, Text):
            return str(node.value)
        if isinstance(node, Wikilink):
            return self._link(node)
        if isinstance(node, Heading):
            return f"\n{self._render(node.title).strip()}\n"
        if isinstance(node, ExternalLink):
            return self._render(node.title) if node.title else "" if node.brackets else str(node.url)
        if isinstance(node, HTMLEntity):
            return html.unescape(str(node))
        if isinstance(node, Tag):
            return self._tag(node)
        return ""

    def _tag(self, node: Tag) -> str:
        name = str(node.tag).strip().lower()
        if name in ("br", "hr"):
            return "\n"
        if name == "table" or name in _UNSEEN.split("|"):
            return ""
        if node.wiki_markup and node.contents is None:
            return ""
        return self._render(node.contents) if node.contents else ""

    def _link(self, node: Wikilink) -> str:
        target = str(node.title).strip()
        prefix = target.partition(":")[0].strip().lower() if ":" in target else ""
        if prefix in self._hidden or (node.text is None and _INTERLANGUAGE.match(target)):
            return ""
        return self._render(node.text) if node.text else target.removeprefix(":")


def _shown(match: re.Match[str]) -> str:
    """What a template shows that stands in the middle of a sentence; nothing of all others, and of tables."""
    name, *arguments = _ARGUMENT.split(match[0][2:-2])
    values = [each.strip() for each in arguments if not _NAMED.match(each)]
    name = name.strip().lower()
    if not values:
        return ""
    if name in _SHOWN_TEMPLATES:
        return values[-1]
    if name in ("convert", "cvt"):  # {{convert|5|km|mi}}, {{convert|5|to|9|km}}
        return " ".join(values[: 4 if values[1:2] and values[1] in _RANGES else 2])
    if name in ("circa", "c."):
        return f"c. {values[0]}"
    return values[0] if name == "val" else ""


def _remove_nested(pattern: re.Pattern[str], source: str) -> str:
    """Removes what matches, from the inside out, but for what a few templates show."""
    while True:
        source, count = pattern.subn(_shown, source)
        if not count:
            return source


def _tidy(text: str) -> str:
    """Removes the marks that are left over, and the holes that templates leave in brackets and lines."""
    text = _MARKS.sub("", _TAG.sub("", text))
    text = _OPENING.sub("(", _EMPTY_BRACKETS.sub("", _RULE.sub("", text)))
    return _BLANK_LINES.sub("\n\n", _SPACES.sub("", text))
