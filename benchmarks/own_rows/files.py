"""Write the files of the sets as users have them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.own_rows.sets import SETS, Row, RowSet, generate, held_out


def write_set(name: str, folder: Path) -> tuple[Path, Path]:
    """Write the file of a set and, in the same format, its rows held out; return both paths."""
    row_set = SETS[name]
    file = folder / row_set.file
    unseen = file.with_stem(f"{file.stem}-held-out")
    folder.mkdir(parents=True, exist_ok=True)
    encoding = "utf-8-sig" if row_set.byte_order_mark else "utf-8"
    for path, rows in ((file, generate(name)), (unseen, held_out(name))):
        path.write_text(_content(row_set, rows), encoding=encoding, newline="")
    return file, unseen


def _content(row_set: RowSet, rows: Sequence[Row]) -> str:
    records = [_record(row_set, number, row) for number, row in enumerate(rows, 1)]
    suffix = Path(row_set.file).suffix
    if suffix == ".jsonl":
        return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    if suffix == ".json":
        return json.dumps(records, ensure_ascii=False, indent=1)
    table = io.StringIO()
    delimiter, end = ("\t", "\n") if suffix == ".tsv" else (",", "\r\n")  # as spreadsheets write csv
    writer = csv.DictWriter(table, list(records[0]), delimiter=delimiter, lineterminator=end)
    writer.writeheader()
    writer.writerows(records)
    return table.getvalue()


def _record(row_set: RowSet, number: int, row: Row) -> dict[str, Any]:
    """Return a row as its file holds it."""
    if row_set.as_messages:
        return {
            "messages": [
                {"role": "user", "content": row["question"]},
                {"role": "assistant", "content": row["answer"]},
            ]
        }
    return {"id": str(number), **row} if row_set.numbered else dict(row)
