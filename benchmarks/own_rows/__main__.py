"""`python -m benchmarks.own_rows write FOLDER`: write the eight files and the rows held out."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.own_rows.files import write_set
from benchmarks.own_rows.sets import SETS


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.own_rows", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    write = commands.add_parser("write", help="write the files of the sets")
    write.add_argument("folder", type=Path)
    write.add_argument("sets", nargs="*", choices=[*SETS, []], default=[], help="default: all")
    options = parser.parse_args()
    for name in options.sets or SETS:
        file, unseen = write_set(name, options.folder)
        print(f"{file}: {SETS[name].rows} rows, {SETS[name].about}; held out: {unseen}")


if __name__ == "__main__":
    main()
