"""The command line: parse, call one function, print. Nothing heavy is imported until a command runs."""

import functools
import importlib
import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Any

import click

from pyro_vae.cli.echo import EchoHandler, echo, echo_warning
from pyro_vae.cli.streams import keep_streams

COMMANDS = {  # name: (the module that holds it, what the list of commands says)
    "fit": ("fit", "Train a VAE on images or a table, score it and draw it."),
    "evaluate": ("evaluate", "Score a run: ELBO, its terms, log p(x) with its errors."),
    "check": ("check", "Say whether a run's model is right."),
    "score": ("score", "Score the rows of a file: log p(x) of each, anomalies flagged."),
    "compare": ("compare", "Compare models, fit methods, or saved runs."),
    "study": ("study", "Measure what the study notes claim."),
    "report": ("report", "Write one page about a run, to open in a browser."),
    "sample": ("sample", "Draw new rows from a run's model."),
    "reconstruct": ("reconstruct", "Send rows through a run's guide and back."),
    "impute": ("impute", "Fill the missing cells of a file's rows."),
    "encode": ("encode", "Write the posterior means of rows."),
    "datasets": ("datasets", "List the data sets that have names."),
    "info": ("info", "Say what a run holds."),
}
DISTRIBUTED = ("fit", "evaluate", "score")  # what several processes can do
DONE, FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130


class LazyGroup(click.Group):
    """A group that knows its commands' names and imports a command only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        if _rank() is not None and name not in DISTRIBUTED:
            raise click.UsageError(
                f"{name} runs as one process: start it without torchrun, which is for fit, evaluate and score"
            )
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
    keep_streams()
    logging.getLogger("pyro_vae").addHandler(EchoHandler(logging.WARNING))
    before, shown = signal.signal(signal.SIGTERM, _interrupt), warnings.showwarning
    warnings.showwarning = functools.partial(echo_warning, shown, not _rank())
    if _rank() is not None:
        signal.signal(signal.SIGINT, _interrupt)
    try:
        code = _run(words)
        if _rank() is not None:  # Gloo's threads, torn down with the interpreter, now and then abort it
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    finally:  # of a call from Python: processes that it forks later have to end by SIGTERM
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
        warnings.showwarning = shown
    sys.exit(code)


def _interrupt(*_: Any) -> None:
    if _rank() is not None:  # torchrun says it twice, and what is being saved must be saved
        for kind in (signal.SIGINT, signal.SIGTERM):
            signal.signal(kind, signal.SIG_IGN)
    raise KeyboardInterrupt


def _rank() -> int | None:
    """This process's place among those that torchrun started, None for one alone, or where that is not plain."""
    from pyro_vae.errors import InputError
    from pyro_vae.launch_environment import launched_rank

    try:
        return launched_rank()
    except InputError:  # `_run` says it
        return None


def _run(words: list[str]) -> int:
    from pyro_vae.errors import InputError, RankLostError, UnwritableError
    from pyro_vae.file_names import REFUSED_NAMES, refused_name
    from pyro_vae.launch_environment import launched_rank

    try:
        launched_rank()
        return int(cli.main(words, prog_name="pyro-vae", standalone_mode=False) or DONE)
    except click.exceptions.NoArgsIsHelpError as error:
        echo(error.format_message())
        return _say("name one of the commands above", WRONG_INPUT, debug=False)
    except click.ClickException as error:
        hint = (
            "; name the data with --data"
            if "unexpected extra argument" in error.format_message() and words[0] == "fit"
            else ""
        )
        return _say(error.format_message() + hint, WRONG_INPUT, "--debug" in words)
    except InputError as error:
        return _say(str(error), WRONG_INPUT, "--debug" in words)
    except (KeyboardInterrupt, click.Abort) as error:
        return _interrupted(error, "--debug" in words)
    except BrokenPipeError:
        return DONE
    except OSError as error:
        if error.errno in REFUSED_NAMES:
            return _say(str(refused_name(error)), WRONG_INPUT, "--debug" in words)
        kind = "" if isinstance(error, UnwritableError) else f"{type(error).__name__}: "
        return _say(f"{kind}{error}", FAILED, "--debug" in words)
    except (MemoryError, RecursionError) as error:
        return _say(
            f"{type(error).__name__}: {error or 'more than this machine has'}; give less", FAILED, "--debug" in words
        )
    except SystemExit as error:
        return _say(f"a library ended the command by sys.exit({error.code})", FAILED, "--debug" in words)
    except RankLostError as error:
        return FAILED if _rank() else _say(str(error), FAILED, "--debug" in words)
    except Exception as error:  # the last resort of the command line: one line for people, the trace on request
        return _say(f"{type(error).__name__}: {error}", FAILED, "--debug" in words)


def _interrupted(error: BaseException, debug: bool) -> int:
    """The exit code of Ctrl-C and of a signal to terminate; click takes an EOFError for one, which is none."""
    cause = error.__cause__ or error.__context__ if isinstance(error, click.Abort) else error
    if isinstance(cause, EOFError):
        return _say(f"EOFError: {cause or 'a file or a stream ended too early'}", FAILED, debug)
    return _say("interrupted", INTERRUPTED, debug)


def _say(message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    who = f"pyro-vae, process {_rank()}" if _rank() else "pyro-vae"
    echo(f"{who}: {' '.join(message.split())}", err=True)
    return code
