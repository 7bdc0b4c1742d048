"""From wikitext to plain text."""

import html
import re
from collections.abc import Callable, Iterable

import mwparserfromhell
from mwparserfromhell.nodes import ExternalLink, Heading, HTMLEntity, Node, Tag, Text, Wikilink
from mwparserfromhell.wikicode import Wikicode

from data_pipeline.readers.templates import HOLE, shown

_VERBATIM = re.compile(
    r"<(nowiki|pre|syntaxhighlight|source|math|chem|ce)\b[^<>]*(?<!/)>(.*?)</\1\s*>|<nowiki\s*/>",
    re.DOTALL | re.IGNORECASE,
)
_KEPT = re.compile("\ue000(\\d+)\ue001")
_UNSEEN = "ref|gallery|timeline|imagemap|score|graph|hiero|references|templatestyles|mapframe|maplink"
_HIDDEN = re.compile(
    rf"<!--.*?(?:-->|\Z)|<({_UNSEEN})\b[^<>]*/>|<({_UNSEEN})\b[^<>]*?>.*?</\2\s*>", re.DOTALL | re.IGNORECASE
)
# Innermost first: what holds no other of its kind.
_TEMPLATE = re.compile(r"\{\{((?:[^{}]|(?<!\{)\{(?!\{)|(?<!\})\}(?!\}))*)\}\}")
_TABLE = re.compile(r"^[ \t:]*\{\|(?:(?!\{\||^[ \t]*\|\}).)*^[ \t]*\|\}", re.DOTALL | re.MULTILINE)
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_MARKS = re.compile(r"'{2,5}|__[A-Z]+__")
_INTERLANGUAGE = re.compile(r"[a-z]{2,3}(?:-[a-z-]+)?:")
_MEDIA = re.compile(
    r"[^:|\[\]]+:[^|\[\]]+\.(?:jpe?g|png|svg|gif|tiff?|webp|og[gav]|web[mp]|mp3|wav|flac|midi?|pdf|djvu|stl|xcf)\s*$",
    re.IGNORECASE,
)
_FILE_AND_CATEGORY = frozenset(
    {
        *("file", "image", "media", "datei", "bild", "fichier", "archivo", "imagen", "bestand", "afbeelding", "plik"),
        *(
            "grafika",
            "ficheiro",
            "imagem",
            "fil",
            "immagine",
            "файл",
            "изображение",
            "ファイル",
            "文件",
            "檔案",
            "파일",
        ),
        *("ملف", "soubor", "dosya", "tiedosto", "tập_tin", "category", "kategorie", "catégorie", "categoría"),
        *(
            "categorie",
            "kategoria",
            "categoria",
            "kategori",
            "категория",
            "категорія",
            "カテゴリ",
            "分类",
            "分類",
            "분류",
        ),
        *("تصنيف", "luokka", "thể_loại"),
    }
)
"""In the large languages, for dumps whose head names the spaces of another wiki, or none."""
_HOLES = re.compile(rf"[ \t,;:]*{HOLE}[ \t,;:{HOLE}]*(?:\.(?!\.))?")
_EMPTY_BRACKETS = re.compile(r"[ \t]*\([\s,;:]*\)")
_OPENING = re.compile(r"\([ \t]*[,;:][ \t]*")
_LIST_MARKS = re.compile(r"^[*#:;]+[ \t]*", re.MULTILINE)
_NO_WORDS = re.compile(r"^[^\w\n]+$", re.MULTILINE)
_SPACES = re.compile(r"[ \t]+$", re.MULTILINE)
_BLANK_LINES = re.compile(r"\n{3,}")
_HEADING = "\ue003"
_PRIVATE = re.compile("[\ue000-\ue003]")
_NOTHING = str.maketrans("", "", f" \t{HOLE}")


class Wikitext:
    """Renders pages of one wiki."""

    def __init__(self, hidden: Iterable[str] = ()) -> None:
        """`hidden` are the wiki's own names of the namespaces whose links show no text: files and categories."""
        self._hidden = {name.lower().replace(" ", "_") for name in hidden} | _FILE_AND_CATEGORY

    def plain(self, source: str) -> str:
        """The running text: without templates, tables, references and files, with headings and link texts."""
        kept: list[str] = []

        def keep(match: re.Match[str]) -> str:
            kept.append(html.unescape((match[2] or "").strip()))
            return f"\ue000{len(kept) - 1}\ue001"

        source = _VERBATIM.sub(keep, _PRIVATE.sub("", source))
        source = _remove_nested(_TABLE, "", _remove_nested(_TEMPLATE, _shown, _HIDDEN.sub("", source)))
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
            return f"\n{_HEADING}{node.level}{self._render(node.title).strip()}\n"
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
        prefix, colon, _ = target.partition(":")
        if colon and prefix:
            is_hidden = prefix.strip().lower().replace(" ", "_") in self._hidden or _MEDIA.match(target)
            if is_hidden or (node.text is None and _INTERLANGUAGE.match(target)):
                return ""
        return self._render(node.text) if node.text else target.removeprefix(":")


def _shown(match: re.Match[str]) -> str:
    text = shown(match[1])
    begin = match.start()
    # What stands at the beginning of a line must not hide that a heading or a table begins there.
    return "" if text == HOLE and (begin == 0 or match.string[begin - 1] == "\n") else text


def _remove_nested(pattern: re.Pattern[str], instead: str | Callable[[re.Match[str]], str], source: str) -> str:
    """Replaces what matches, from the inside out."""
    while True:
        source, count = pattern.subn(instead, source)
        if not count:
            return source


def _tidy(text: str) -> str:
    """Removes the marks that are left over, and the holes that templates leave in brackets and lines."""
    text = _MARKS.sub("", _TAG.sub("", text)).replace("\xa0", " ")
    text = _EMPTY_BRACKETS.sub("", _HOLES.sub(_filled, text))
    text = _OPENING.sub("(", text).replace(", )", ")").replace("; )", ")").replace(" )", ")")
    text = _without_empty_sections(_SPACES.sub("", _NO_WORDS.sub("", text)))
    return _BLANK_LINES.sub("\n\n", text)


def _filled(match: re.Match[str]) -> str:
    """What stays of the spaces and the punctuation around what was removed."""
    text, begin, end = match.string, match.start(), match.end()
    before, after = text[begin - 1] if begin else "\n", text[end] if end < len(text) else "\n"
    if match[0].endswith("."):
        return "." if before not in ".(\n" else ""
    if before in "(\n" or after == ")":
        return ""
    marks = match[0].translate(_NOTHING)
    return (marks[-1] if marks else "") + (" " if after != "\n" and {" ", "\t"} & set(match[0]) else "")


def _without_empty_sections(text: str) -> str:
    """Without the headings below which nothing stands."""
    head, *sections = text.split(_HEADING)
    kept: list[str] = []
    following = 0
    for section in reversed(sections):
        level, (title, _, body) = int(section[0]), section[1:].partition("\n")
        if body.strip() or following > level:
            kept.append(f"{title}\n{body}")
            following = level
    return head + "".join(reversed(kept))
