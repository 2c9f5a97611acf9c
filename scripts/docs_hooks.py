"""MkDocs hooks of the documentation: formulas become MathML, doctests become code blocks.

Named under `hooks` in mkdocs.yml. A formula that cannot be converted fails the build.
"""

import html
import re
from typing import Any

from latex2mathml.converter import convert
from markdown import Markdown
from markdown.extensions import Extension
from markdown.preprocessors import Preprocessor
from mkdocs.exceptions import PluginError

FORMULA = re.compile(r'<(span|div) class="arithmatex">(?:\\\(|\\\[)(.+?)(?:\\\)|\\\])</\1>', re.DOTALL)
FUNCTION = re.compile(
    r'<mi>[a-z]{2,}</mi>(?!</|<mo stretchy="false">&#x00028;)'
)  # a function name, such as log, without a bracket after it
CODE = re.compile(r"`[^`\n]+`")
FENCED_SESSION = re.compile(r"^```python\n(?=>>> )", re.MULTILINE)


class Sessions(Preprocessor):
    """Puts doctests of docstrings (lines from `>>> ` to the next empty line) into code fences."""

    def run(self, lines: list[str]) -> list[str]:
        out: list[str] = []
        fenced = inside = False
        for line in lines:
            fenced ^= line.startswith("```")
            if line.startswith(">>> ") and not (fenced or inside):
                inside = True
                out.append("```pycon")
            elif inside and not line.strip():
                inside = False
                out.append("```")
            out.append(line)
        return [*out, "```"] if inside else out


class Doctests(Extension):
    def extendMarkdown(self, md: Markdown) -> None:
        md.preprocessors.register(Sessions(md), "sessions", 40)  # before superfences, which has 25


def on_config(config: Any) -> Any:
    config.markdown_extensions.append(Doctests())
    return config


def on_page_markdown(markdown: str, **kwargs: Any) -> str:
    """Set the lexer of doctests; remove the backslash before a bar in code, which only GitHub's tables need."""
    markdown = FENCED_SESSION.sub("```pycon\n", markdown)
    return CODE.sub(lambda found: found[0].replace(r"\|", "|"), markdown)


def on_page_content(content: str, page: Any, **kwargs: Any) -> str:
    return FORMULA.sub(lambda found: mathml(found, page.file.src_uri), content)


def mathml(found: re.Match[str], where: str) -> str:
    """A formula as MathML; an error where a TeX command remains, which the converter passes through as text."""
    tex = html.unescape(found[2]).replace(r"\arg", r"\operatorname{arg}")
    try:
        made = convert(tex, display="block" if found[1] == "div" else "inline")
    except Exception as problem:
        raise PluginError(f"{where}: no MathML for the formula {tex!r}: {problem!r}") from problem
    if "\\" in made:
        raise PluginError(f"{where}: no MathML for all of the formula {tex!r}: {made}")
    return FUNCTION.sub(r'\g<0><mspace width="0.167em" />', made)
