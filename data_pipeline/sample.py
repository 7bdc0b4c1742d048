"""Text that is on every machine with Python and our dependencies, put into real container formats.

It needs no network and no foreign data in the repository, and its bytes depend on nothing but the installed
packages and the version of Python.
"""

import ast
import html
import io
import platform
import sys
import sysconfig
import tarfile
from collections.abc import Callable, Iterator
from email import message_from_string
from email.message import Message
from importlib import metadata
from pathlib import Path

FILES = {
    "package_descriptions": "descriptions.warc.gz",
    "language_reference": "reference.xml.bz2",
    "docstrings": "docstrings.tar.gz",
}
"""The file that each sample becomes."""

PACKAGES = ("numpy", "torch", "pyarrow", "pandas", "datasets", "networkx", "sympy", "accelerate", "deepspeed")
"""Installed packages whose docstrings are taken, where they are there, besides the standard library's."""

LEAST_BYTES, MOST_BYTES = 2_000, 4_000_000
"""A book of docstrings has at least so many bytes; no more are made once all together have so many."""


def make(sample: str, path: Path) -> None:
    """Writes one of the samples to `path`, whole or not at all."""
    makers: dict[str, Callable[[Path], None]] = {
        "package_descriptions": _package_descriptions,
        "language_reference": _language_reference,
        "docstrings": _docstrings,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{path.name}")
    makers[sample](partial)
    partial.replace(path)


def identity(sample: str) -> list[str]:
    """What decides the sample's bytes: distributions with their versions, and Python's."""
    if sample == "language_reference":
        return [platform.python_version()]
    return [platform.python_version(), *(f"{name}=={version}" for name, version, _ in _distributions())]


def _distributions() -> list[tuple[str, str, Message]]:
    """Name, version and metadata, one a name: the first on the path is the one that Python imports.

    The metadata is parsed here, as a package that replaces importlib.metadata answers otherwise once it is loaded.
    """
    found: dict[str, tuple[str, str, Message]] = {}
    for distribution in metadata.distributions():
        fields = message_from_string(distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or "")
        name = fields["Name"]
        # Our own version stays the same while we work on it, and so says nothing about our description.
        if name and name != "thalweg":
            found.setdefault(name.lower(), (name, fields["Version"] or "", fields))
    return [found[key] for key in sorted(found)]


def _package_descriptions(path: Path) -> None:
    """A WARC of one HTML page a distribution that has a description."""
    import xxhash
    from fastwarc.stream_io import GzipWriter
    from fastwarc.warc import WarcRecord, WarcRecordType

    with path.open("wb") as raw:
        for name, _, fields in _distributions():
            description = _description(fields)
            if not description.strip():
                continue
            record = WarcRecord()
            body = _page(name, fields["Summary"] or "", description).encode()
            response = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" + body
            record.init_headers(WarcRecordType.response, xxhash.xxh3_128_hexdigest(response).encode())
            record.headers["WARC-Target-URI"] = f"https://packages.example/{name}/"
            record.headers["WARC-Date"] = "2020-01-01T00:00:00Z"
            record.headers["Content-Type"] = "application/http; msgtype=response"
            record.set_bytes_content(response)
            member = io.BytesIO()
            writer = GzipWriter(member)
            record.write(writer)
            writer.close()
            raw.write(member.getvalue())


def _description(fields: Message) -> str:
    text = fields.get_payload()
    return text if isinstance(text, str) and text.strip() else fields["Description"] or ""


def _page(name: str, summary: str, description: str) -> str:
    paragraphs = "\n".join(f"<p>{_lines(each)}</p>" for each in description.split("\n\n") if each.strip())
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(name)}</title></head>\n'
        f"<body><main><article><h1>{html.escape(name)}</h1>\n<p>{html.escape(summary)}</p>\n{paragraphs}\n"
        "</article></main></body></html>\n"
    )


def _lines(paragraph: str) -> str:
    return "<br>\n".join(html.escape(line) for line in paragraph.strip("\n").split("\n"))


def _language_reference(path: Path) -> None:
    """A MediaWiki dump of one page a topic of `help()`."""
    import bz2
    from pydoc_data.topics import topics
    from xml.sax.saxutils import escape

    with bz2.open(path, "wt", encoding="utf-8") as dump:
        dump.write(
            '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/" version="0.10" xml:lang="en">\n'
            "  <siteinfo><sitename>Python</sitename><base>https://reference.example/wiki/Main_Page</base>\n"
            '    <namespaces><namespace key="0" /><namespace key="6">File</namespace>'
            '<namespace key="14">Category</namespace></namespaces>\n  </siteinfo>\n'
        )
        for number, (topic, text) in enumerate(sorted(topics.items()), 1):
            wikitext = f"<nowiki>{html.escape(text, quote=False)}</nowiki>"
            dump.write(
                f"  <page><title>{escape(topic)}</title><ns>0</ns><id>{number}</id><revision><id>{number}</id>"
                f'<text xml:space="preserve">{escape(wikitext)}</text></revision></page>\n'
            )
        dump.write("</mediawiki>\n")


def _docstrings(path: Path) -> None:
    """An archive of plain-text books: a package or module of the standard library, or a part of a big package."""
    import gzip

    with (
        path.open("wb") as raw,
        gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        written = 0
        for name, files in _modules():
            if written >= MOST_BYTES:
                break
            book = _book(name, files).encode("utf-8", "replace")
            if len(book) >= LEAST_BYTES:
                member = tarfile.TarInfo(f"{name}.txt")
                member.size = len(book)
                archive.addfile(member, io.BytesIO(book))
                written += len(book)


def _modules() -> Iterator[tuple[str, list[Path]]]:
    """Name and source files of each book, in an order that does not depend on the machine."""
    library = Path(sysconfig.get_paths()["stdlib"])
    for name in sorted(sys.stdlib_module_names):
        if name in ("test", "idlelib"):
            continue
        if (library / name / "__init__.py").is_file():
            yield name, _sources(library / name)
        elif (library / f"{name}.py").is_file():
            yield name, [library / f"{name}.py"]
    packages = Path(sysconfig.get_paths()["purelib"])
    for package in PACKAGES:
        folder = packages / package
        if not folder.is_dir():
            continue
        yield package, sorted(folder.glob("*.py"))
        for part in sorted(each for each in folder.iterdir() if (each / "__init__.py").is_file()):
            yield f"{package}.{part.name}", _sources(part)


def _sources(folder: Path) -> list[Path]:
    files = sorted(folder.rglob("*.py"))
    return [file for file in files if not {"tests", "test"} & set(file.relative_to(folder).parts)]


def _book(name: str, files: list[Path]) -> str:
    chapters = [f"{name}\n"]
    for file in files:
        # Parsing is what takes the time: a file without a docstring's quotes is not worth it.
        source = file.read_bytes()
        if b'"""' not in source:
            continue
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError):
            continue
        texts = list(_docstrings_of(tree))
        if texts:
            chapters.append(f"\n{file.stem}\n\n" + "\n\n".join(texts) + "\n")
    return "\n".join(chapters) if len(chapters) > 1 else ""


def _docstrings_of(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text and len(text) >= 40:
                yield text if isinstance(node, ast.Module) else f"{node.name}\n{text}"
