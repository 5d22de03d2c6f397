"""`pluriform COMMAND ...`: finds the command, turns errors into one line and an exit code.

Exit codes: 0 done; 1 an error that pluriform explains; 2 wrong usage; 130 stopped by Ctrl-C (start it again to resume).
"""

import sys
from collections.abc import Sequence
from importlib import import_module

from pluriform.errors import PluriformError

__all__ = ["main"]

COMMANDS = {
    "compare": "fit several forms of one network and judge them side by side",
    "fit": "fit one form",
    "evaluate": "measure a fitted form",
    "kernel": "compute kernels of the infinitely wide network into a store",
    "report": "write one page from stored results",
    "search": "grow a better network from yours",
    "translate": "fit a translator of images, or translate a folder",
}

RESUMED = ("compare", "fit", "kernel", "search", "translate")

OVERVIEW = """pluriform: every form of one network

usage: pluriform COMMAND [options]          pluriform COMMAND --help for its options

commands:
{commands}

examples:
  pluriform compare digits
  pluriform compare fashion-mnist --net lenet --deep-ensemble.members 10 --outliers mnist --threats linf:0.1
  pluriform compare table.csv --target species --net my_package.nets:build
  pluriform fit deep-ensemble digits --members 5 --run runs/ensemble
  pluriform evaluate runs/ensemble digits --out result.json
  pluriform search fashion-mnist --start lenet --minutes 30
  pluriform translate tsit photographs/ --size 64 --run runs/photographs
  pluriform kernel mnist --net mlp --samples 10000 --test 1000 --out kernel.zarr
  pluriform report result.json other.json --out page.html

Data sets are named, or given as a folder of images, a .npz, .csv or .parquet file. Named sets are looked for in the
folder that PLURIFORM_DATA names, in the cache, and then downloaded where there is an official address.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        listed = "\n".join(f"  {name:<10} {text}" for name, text in COMMANDS.items())
        sys.stdout.write(OVERVIEW.format(commands=listed))
        return 0
    if words[0] == "--version":
        sys.stdout.write(f"pluriform {import_module('pluriform').__version__}\n")
        return 0
    if words[0] not in COMMANDS:
        sys.stderr.write(f"pluriform: no command {words[0]!r}; there are {', '.join(COMMANDS)}\n")
        return 2
    return _run(words[0], words[1:])


def _run(command: str, words: Sequence[str]) -> int:
    try:
        import_module(f"pluriform.cli.{command}").run(words)
    except PluriformError as error:
        sys.stderr.write(f"pluriform {command}: {error}\n")
        return 1
    except KeyboardInterrupt:
        again = "; the same command goes on from the last checkpoint" if command in RESUMED else ""
        sys.stderr.write(f"\npluriform {command}: stopped{again}\n")
        return 130
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
