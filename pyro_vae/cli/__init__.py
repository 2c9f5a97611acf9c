"""The command line: parse, call one function, print. Nothing heavy is imported until a command runs."""

import importlib
import json
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import click

COMMANDS = {  # name: (the module that holds it, what the list of commands says)
    "fit": ("fit", "Train a VAE on pictures or a table, score it and draw it."),
    "evaluate": ("evaluate", "Score a run: ELBO, its terms, log p(x) with its errors."),
    "score": ("score", "Score the rows of a file: log p(x) of each, anomalies flagged."),
    "compare": ("compare", "Hold models, ways to fit them, or runs against each other."),
    "report": ("report", "Write one page about a run, to open in a browser."),
    "sample": ("rows", "Draw new rows from a run's model."),
    "reconstruct": ("rows", "Send rows through a run's guide and back."),
    "encode": ("rows", "Write the posterior means of rows."),
    "datasets": ("about", "List the data sets that have names."),
    "info": ("about", "Say what a run holds."),
}
DONE, FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130


class LazyGroup(click.Group):
    """A group that knows its commands' names and imports a command only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        return getattr(importlib.import_module(f"pyro_vae.cli.{COMMANDS[name][0]}"), name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, words) for name, (_, words) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pyro-vae", prog_name="pyro-vae")
def cli() -> None:
    """Variational autoencoders as probabilistic programs.

    Start with `pyro-vae fit`: it trains on 5,000 real digits in about a minute and needs no network. Then
    `pyro-vae fit --data my.csv` on your own. Every command takes --json and --help.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 2 wrong usage or input, 1 failed while working, 130 interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    sys.exit(_run(words))


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _run(words: list[str]) -> int:
    from pyro_vae.errors import InputError

    try:
        return int(cli.main(words, prog_name="pyro-vae", standalone_mode=False) or DONE)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return WRONG_INPUT
    except click.ClickException as error:
        hint = (
            "; name the data with --data"
            if "unexpected extra argument" in error.format_message() and words[0] == "fit"
            else ""
        )
        return _say(error.format_message() + hint, WRONG_INPUT, "--debug" in words)
    except InputError as error:
        return _say(str(error), WRONG_INPUT, "--debug" in words)
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        return DONE
    except Exception as error:  # the last resort of the command line: one line for people, the trace on request
        return _say(f"{type(error).__name__}: {error}", FAILED, "--debug" in words)


def _say(message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    click.echo(f"pyro-vae: {' '.join(message.split())}", err=True)
    return code


def print_json(content: Any) -> None:
    """The one object that --json promises on stdout."""
    click.echo(json.dumps(content, allow_nan=False))
