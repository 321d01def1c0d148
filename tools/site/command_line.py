"""The commands: what argparse knows of each command."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from tritoninit import cli


def commands() -> str:
    """As Markdown, a section each."""
    parser = cli.parser()
    lines: list[str] = []
    for name, command in _commands(parser).items():
        lines += [f"## tritoninit {name}", "", command.description or _help(parser, name), ""]
        lines += ["```text", command.format_usage().removeprefix("usage: ").rstrip(), "```", ""]
        lines += [*_arguments(command), ""]
        lines += [command.epilog, ""] if command.epilog else []
    return "\n".join(lines)


def _subparsers(parser: argparse.ArgumentParser) -> argparse._SubParsersAction[argparse.ArgumentParser]:
    return next(each for each in parser._actions if isinstance(each, argparse._SubParsersAction))


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    return dict(_subparsers(parser).choices)


def _help(parser: argparse.ArgumentParser, name: str) -> str:
    told = {each.dest: each.help for each in _subparsers(parser)._choices_actions}
    text = str(told[name])
    return f"{text[0].upper()}{text[1:]}."


def _arguments(command: argparse.ArgumentParser) -> Iterator[str]:
    found = [action for action in command._actions if not isinstance(action, argparse._HelpAction)]
    if found:
        yield from ("| argument | what it is |", "|---|---|")
    for action in found:
        shown = ", ".join(f"`{each}`" for each in _spellings(action)).replace("|", r"\|")
        text = (action.help or "").replace("%%", "%").replace("|", r"\|").replace("*", r"\*")
        yield f"| {shown} | {text} |"


def _spellings(action: argparse.Action) -> Iterator[str]:
    value = action.metavar or (
        f"{{{', '.join(map(str, action.choices))}}}" if action.choices else action.dest.upper()
    )
    if not action.option_strings:
        yield str(value)
    for each in action.option_strings:
        yield each if action.nargs == 0 else f"{each} {value}"
