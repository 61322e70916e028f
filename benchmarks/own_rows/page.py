"""Make the page docs/own-rows.md from the results."""

from __future__ import annotations

from pathlib import Path

from benchmarks.own_rows.measure import GRID, table
from benchmarks.own_rows.real import real_table
from benchmarks.own_rows.sets import HELD_OUT_ROWS, SETS

PAGE = Path(__file__).parents[2] / "docs" / "own-rows.md"
TEXT = """\
# First runs on your own rows

This page shows what `lotune init FILE` and `lotune run RECIPE` reach without any further setting. The base is `nano`,
the practice model of 2 million parameters. *kept* is the smaller of the two gated reading metrics, as a fraction of the
base's, and *seconds* is the time of both commands.

`{command}` measures all of it and writes this page. If it is stopped, it continues
where it was.

## Eight generated sets

{sets}

Each set is generated from a seed (`benchmarks/own_rows/sets.py`). {held_out:,} further rows of each are held out: they
are in a file of their own that no run reads. The last three columns are about these rows: the accuracy of the first
run's checkpoint, the accuracy of the best checkpoint of a grid of {cells} settings, and the paired 95 % interval of the
difference (first run minus grid) in points.

The grid has every combination of the learning rates {rates}, {steps} steps and {replay} replay rows.
Its best run is the one with the highest validation accuracy, whatever it forgets.

{table}
## Four files of public data

The files are in the folder that the environment variable `LOTUNE_REFERENCE_DATA` names. Accuracies are in percent, and
F1 is from 0 to 100. Bits per byte are those of the reference answers; lower is better.

{real}"""


def page(results: Path) -> str:
    """Return the page; what has not been measured is a dash."""
    sets = [f"- `{name}`: {one.about}, {one.rows:,} rows ({one.file})" for name, one in SETS.items()]
    return TEXT.format(
        command="python -m benchmarks.own_rows all FOLDER",
        sets="\n".join(sets),
        held_out=HELD_OUT_ROWS,
        cells=len(GRID),
        rates=_values("tune.learning_rate"),
        steps=_values("tune.steps"),
        replay=_values("retention.replay.rows"),
        table=table(list(SETS), results),
        real=real_table(results),
    )


def _values(key: str) -> str:
    """Return the values of a setting in the grid.

    >>> _values("tune.steps")
    '200 and 600'
    """
    *first, last = (f"{value:g}" for value in dict.fromkeys(cell[key] for cell in GRID))
    return f"{', '.join(first)} and {last}"
