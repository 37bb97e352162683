"""What the documentation site adds to the pages in docs/: generated pages, and links that fit the site.

MkDocs calls the functions whose names start with ``on_``.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import anole
import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pymdownx.slugs import slugify
from typer.cli import get_docs_for_click

from service.cli.main import cli
from service.cli.torch_commands import TorchCommand
from service.http.app import create_app
from service.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
COPIES = {"SECURITY.md": "security.md", "CHANGELOG.md": "changelog.md"}
"""Pages outside docs/ -> their names in the site."""

LINK = re.compile(r"(?P<text>!?\[[^\]]*\])\((?![a-z]+:|#)(?P<path>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")
GENERATED = re.compile(r"^<!-- generated: .* -->$", re.MULTILINE)
LOADED = {"script": "src", "img": "src", "iframe": "src", "link": "href"}
NAVIGATIONAL = {"canonical", "prev", "next"}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Make the anchors of headings those of GitHub, so that a link works in both places."""
    config.mdx_configs.setdefault("toc", {})["slugify"] = slugify(case="lower")
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files that are not in docs/."""
    for source, name in COPIES.items():
        files.append(File.generated(config, name, content=(ROOT / source).read_text(encoding="utf-8")))
    files.append(File.generated(config, "reference/openapi.json", content=json.dumps(description(), indent=1)))
    icon = ROOT / "service/console/static/icon.svg"
    files.append(File.generated(config, "images/icon.svg", content=icon.read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fill in what is generated, and rewrite links that leave docs/. A link to a file of the code becomes its path."""
    name = page.file.src_uri
    source = next((ROOT / path for path, copy in COPIES.items() if copy == name), ROOT / "docs" / name)

    def rewritten(found: re.Match[str]) -> str:
        target = Path(os.path.normpath(source.parent / found["path"])).relative_to(ROOT).as_posix()
        if target.startswith("docs/") and not target.startswith("docs/examples/"):
            uri = target.removeprefix("docs/")
        elif target in COPIES:
            uri = COPIES[target]
        else:
            return found["text"].strip("[]") if f"`{target}`" in found["text"] else f"`{target}`"
        return f"{found['text']}({os.path.relpath(uri, Path(name).parent)}{found['anchor'] or ''})"

    markdown = LINK.sub(rewritten, markdown)
    return GENERATED.sub(lambda _: GENERATORS[name](), markdown) if name in GENERATORS else markdown


def on_post_build(config: MkDocsConfig) -> None:
    """Check that no page loads anything from another host."""
    found = [
        f"{page.relative_to(config.site_dir)} loads {url}"
        for page in Path(config.site_dir).rglob("*.html")
        for url in _loaded(page.read_text(encoding="utf-8"))
        if url.startswith(("http:", "https:", "//"))
    ]
    if found:
        raise PluginError("\n".join(found))


def _loaded(html: str) -> list[str]:
    urls: list[str] = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            named = dict(attrs)
            if tag in LOADED and named.get("rel") not in NAVIGATIONAL:
                urls.append(named.get(LOADED[tag]) or "")

    Parser().feed(html)
    return urls


def description() -> dict[str, Any]:
    """Return the OpenAPI description of the service with its default settings."""
    return create_app(Settings()).openapi()


def http_reference(api: dict[str, Any]) -> str:
    """Return all routes and schemas of an OpenAPI description as Markdown."""
    lines = [api["info"]["description"], "", "Download the [OpenAPI description](openapi.json).", ""]
    for tag in api["tags"]:
        lines += [f"## {tag['name'].capitalize()}", ""]
        for path, operations in api["paths"].items():
            for method, operation in operations.items():
                if tag["name"] in operation.get("tags", ()):
                    lines += _operation(f"{method.upper()} {path}", operation)
    lines += ["## Schemas", ""]
    for name, schema in sorted(api["components"]["schemas"].items()):
        lines += [f"### {name}", "", schema.get("description", ""), "", *_fields(schema)]
    return "\n".join(lines)


def _operation(name: str, operation: dict[str, Any]) -> Iterator[str]:
    yield from (f"### `{name}`", "", f"**{operation['summary']}.** {operation.get('description', '')}", "")
    if parameters := operation.get("parameters"):
        rows = ((f"`{each['name']}`", each["in"], _kind(each["schema"]), _text(each)) for each in parameters)
        yield from _table(("parameter", "in", "type", "meaning"), rows)
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        schema = content.get("schema", {})
        yield from (f"Body `{media_type}`: {'' if 'properties' in schema else _kind(schema)}", "")
        yield from _fields(schema)
    answers, problems = [], []
    for status, response in operation["responses"].items():
        content = response.get("content", {})
        for code, example in content.get("application/problem+json", {}).get("examples", {}).items():
            problems.append((status, f"`{code}`", example["value"]["detail"]))
        if "application/problem+json" not in content:
            kinds = ", ".join(f"`{kind}` {_kind(each.get('schema', {}))}".strip() for kind, each in content.items())
            answers.append((status, kinds or "no body", response["description"]))
    yield from _table(("status", "response", "meaning"), answers)
    if problems:
        yield from ('??? note "Problems"', "")
        yield from (f"    {line}" for line in _table(("status", "code", "meaning"), problems))


def _fields(schema: dict[str, Any]) -> Iterator[str]:
    required = schema.get("required", ())
    fields = schema.get("properties", {}).items()
    if fields:
        rows = (
            (f"`{name}`{'' if name in required else ' (optional)'}", _kind(each), _text(each)) for name, each in fields
        )
        yield from _table(("field", "type", "meaning"), rows)


def _kind(schema: dict[str, Any]) -> str:
    """Return the type of a schema in words."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{name.lower()})"
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return " or ".join(dict.fromkeys(map(_kind, schema[several])))
    if "enum" in schema or "const" in schema:
        return " or ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    if isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_kind(schema['additionalProperties'])}"
    if schema.get("format") == "binary" or "contentMediaType" in schema:
        return "file"
    return str(schema.get("type", "any"))


def _text(schema: dict[str, Any]) -> str:
    default = schema.get("default", schema.get("schema", {}).get("default"))
    ending = "" if default in (None, "") else f" (default: `{json.dumps(default)}`)"
    return schema.get("description", "").replace("\n", " ") + ending


def _table(headings: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(headings)} |"
    yield f"|{'---|' * len(headings)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"
    yield ""


def cli_reference() -> str:
    """Return all commands and options as Markdown, as Typer describes them."""
    group: Any = typer.main.get_command(cli)
    for name, command in group.commands.items():
        if isinstance(command, TorchCommand):
            group.commands[name] = command.load()
    context = typer.Context(group, info_name="anole")
    text = get_docs_for_click(obj=group, ctx=context, name="anole")
    text = text.partition("\n")[2]  # the page has a title
    return re.sub(r"^Exit codes: .*$\n*", "", text, flags=re.MULTILINE)


def python_reference() -> str:
    """Return the directives by which mkdocstrings describes the names that `import anole` gives."""
    first = ("Client", "AsyncClient")
    names = (*first, *(name for name in anole.__all__ if name[0].isupper() and name not in first))
    classes = (f"::: service.client.{name}\n" for name in names)
    functions = (f"::: service.client.{name}\n" for name in anole.__all__ if name[0].islower())
    return "\n".join(["## Classes\n", *classes, "## Functions\n", *functions])


GENERATORS = {
    "reference/http.md": lambda: http_reference(description()),
    "reference/cli.md": cli_reference,
    "reference/python.md": python_reference,
}
