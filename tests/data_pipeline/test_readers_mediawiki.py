"""MediaWiki dumps and wikitext."""

import bz2
from pathlib import Path

import pytest

from corpora import prose, read_all
from data_pipeline.config import FileSource
from data_pipeline.readers.files import Damaged
from data_pipeline.readers.wikitext import Wikitext

DUMP = FileSource(kind="mediawiki", paths=["-"])
HEAD = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/"><siteinfo>
<base>https://wiki.example/wiki/Main_Page</base>
<namespaces><namespace key="6">Datei</namespace><namespace key="14">Kategorie</namespace></namespaces></siteinfo>
"""


def wiki_page(number: int, text: str, namespace: int = 0, redirect: str = "") -> str:
    return (
        f"<page><title>Page {number}</title><ns>{namespace}</ns><id>{number}</id>{redirect}"
        f"<revision><id>1</id><text>{text}</text></revision></page>\n"
    )


def dump(*pages: str) -> str:
    return HEAD + "".join(pages) + "</mediawiki>\n"


@pytest.mark.parametrize("name", ["a.xml", "a.xml.bz2"])
def test_articles_alone_are_taken(tmp_path: Path, name: str) -> None:
    text = dump(
        wiki_page(1, prose(1) + " [[Datei:a.jpg|thumb|a ''picture''  of [[sand]]]][[Kategorie:Flüsse]]"),
        wiki_page(2, "#REDIRECT [[Page 1]]", redirect='<redirect title="Page 1" />'),
        wiki_page(3, "#redirect [[Page 1]]"),
        wiki_page(4, "talk", namespace=1),
        wiki_page(5, prose(5)),
    ).encode()
    path = tmp_path / name
    path.write_bytes(bz2.compress(text) if name.endswith("bz2") else text)
    read, dropped = read_all(path, DUMP)
    assert [each.text for each in read] == [f"Page {n}\n\n{prose(n)}" for n in (1, 5)]
    assert dropped == {"redirect": 2, "not_an_article": 1}
    assert read[0].id == "1"
    assert read[0].metadata == {"offset": 0, "url": "https://wiki.example/wiki/Page_1"}


def test_missing_end_between_pages_is_accepted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.xml"
    path.write_text(dump(wiki_page(1, prose(1)), wiki_page(2, prose(2))).removesuffix("</mediawiki>\n"))
    read, _ = read_all(path, DUMP)
    assert len(read) == 2
    assert str(path) in caplog.text


@pytest.mark.parametrize("cut", [60, 200, 5])
def test_end_inside_a_page_or_tag_is_damage(tmp_path: Path, cut: int) -> None:
    whole = dump(wiki_page(1, prose(1)), wiki_page(2, prose(2))).removesuffix("</mediawiki>\n")
    path = tmp_path / "a.xml"
    path.write_text(whole[:-cut])
    with pytest.raises(Damaged):
        read_all(path, DUMP)


def test_cut_bz2_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.xml.bz2"
    path.write_bytes(bz2.compress(dump(wiki_page(1, prose(1))).encode())[:-9])
    with pytest.raises(Damaged, match="end-of-stream"):
        read_all(path, DUMP)


@pytest.mark.parametrize(
    ("wikitext", "plain"),
    [
        ("'''Sand''' is ''fine''.", "Sand is fine."),
        ("a [[river|stream]] and [[sea]]s", "a stream and seas"),
        ("x{{cite|{{a|b}}|c}}y<ref name=a>r</ref><ref name=b />z<!-- hidden -->", "xyz"),
        ("{| class=a\n|-\n| b\n{|\n| c\n|}\n|}\ntext", "text"),
        ("== Head ==\n* one\n** two", "Head\n\none\ntwo"),
        ("[http://a.example the page] and [http://b.example]", "the page and"),
        ("[[Category:Rivers]]text[[de:Fluss]]", "text"),
        ("Greek ({{lang|el|[[ἄμμος|άμμος]]}}, {{IPAc-en|x}})", "Greek (άμμος)"),
        ("<nowiki>'''[[a]] {{b}} &lt;ref> &amp;amp;</nowiki>", "'''[[a]] {{b}} <ref> &amp;"),
        ("a &amp; b&nbsp;c &#55296;", "a & b c \ufffd"),
        ("an area of {{convert|5|km2|abbr=on}}, or {{cvt|5|to|9|mi|km}}", "an area of 5 km2, or 5 to 9 mi"),
        ("{{circa|1500}}, {{val|2.5|u=m}}, {{lang|el|λ|italic=no}}", "c. 1500, 2.5, λ"),
        ("a mean <math display=block>\\bar{{x}} = [[1]]</math>a<br/>b<sub>2</sub>", "a mean \\bar{{x}} = [[1]]a\nb2"),
        ("A ({{x}}; ''born'' 1 {{y}}, {{z|a}}) is 5{{efn|b}}. C. {{ISBN|1}}.", "A (born 1) is 5. C."),
        ("x, {{a}}, y {{b}} z{{c}}{{d}}, {{e}} and ({{f}}) {{g}}", "x, y z, and"),
        ("one ({{a}} two,{{b}})", "one (two)"),
        ("{{a}}{{b}}\n== One ==\n{{c}}\n=== Two ===\n* {{d}}.\n== Three ==\ntext\n== Four ==\n", "Three\n\ntext"),
        ("[[Bestand:a.jpg|thumb|b]][[Neu:c d.SVG|e]]x[[Catégorie:f]][[:Datei:g.png|h]]", "xh"),
        ("{{convert|5|ft|10|in|m}}, {{convert|5|ft|m|2}}, {{convert|20|C}}", "5 ft 10 in, 5 ft, 20 °C"),
        (
            "{{As of|1|lc=y}} {{nihongo|a|b|c}}{{snd}}{{frac|3}}{{nbsp}}{{chem|H|2|O}}",
            "as of 1 a (b, c) – 1/3 H2O",
        ),
        (
            "{{unité|47,59|%}} au {{s|XII}}, {{XXe siècle}}, {{Ier}}, {{84e|[[a|Congrès]]}}",
            "47,59 % au XIIe siècle, XXe siècle, Ier, 84e Congrès",
        ),
        (
            "{{quote|text=a b|c}} {{formatnum:1}} {{lang-ru|мир|r=mir}} {{US$|7 million}}",
            "a b 1 мир US$7 million",
        ),
        ("<syntaxhighlight lang=c>\n{{a}} = ''b'';\n}\n</syntaxhighlight>", "{{a}} = ''b'';\n}"),
    ],
)
def test_wikitext(wikitext: str, plain: str) -> None:
    assert Wikitext().plain(wikitext) == plain


@pytest.mark.parametrize(
    ("wikitext", "is_one"),
    [
        ("A may be:\n{{disambiguation|geo|ship}}", True),
        ("{{Human name disambiguation}}", True),
        ("{{ Begriffsklärung }}", True),
        ("{{Homonymie}}", True),
        ("{{desambiguación}}", True),
        ("__DISAMBIG__", True),
        ("{{Begriffsklärungshinweis}}", False),
        ("{{ver desambiguação}}", False),
        ("{{disambiguation needed|date=May}}", False),
        ("{{Voir homonymes|A}}", False),
        ("see [[A (disambiguation)]]", False),
    ],
)
def test_disambiguation_pages_are_dropped_by_their_template(tmp_path: Path, wikitext: str, is_one: bool) -> None:
    path = tmp_path / "a.xml"
    path.write_text(dump(wiki_page(1, f"{prose(1)} {wikitext}")))
    read, dropped = read_all(path, DUMP)
    assert (len(read), dropped) == ((0, {"disambiguation": 1}) if is_one else (1, {}))


@pytest.mark.parametrize("cut", ["{{a|[[b|c]]", "{|\n| a", "<ref>", "[[File:a.jpg|", "== a", "'''", "<math>x", "{{{1|"])
def test_what_is_never_closed_costs_no_page(cut: str) -> None:
    """Nor time without bounds: pages are as their authors left them."""
    assert prose(1) in Wikitext().plain(f"{prose(1)}\n\n{cut * 300}")
