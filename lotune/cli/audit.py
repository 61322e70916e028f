"""The command `lotune audit`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from lotune.cli.execution import run_options, run_verb
from lotune.cli.options import Debug, Json

if TYPE_CHECKING:
    from lotune.evaluate.audit import Audit


def audit(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="TARGET",
            help="Adapter folder, merged model, recipe, adapter_config.json, or YAML of MindFormers.",
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(help="Base model: a name of the catalogue, such as llama-3-8b, a folder, or a config.json."),
    ] = None,
    rank: Annotated[int | None, typer.Option(min=1, help="Rank: claimed, or without TARGET that to compute.")] = None,
    targets: Annotated[
        str | None,
        typer.Option(
            help="Layers: claimed, or without TARGET those to compute; q,v,o or wq,wv,wo or a pattern or all-linear."
        ),
    ] = None,
    count: Annotated[str | None, typer.Option(help="Claimed number of trained parameters, in full.")] = None,
    ratio: Annotated[
        str | None, typer.Option(help="Claimed ratio, as in 0.000424393, 0.0424 % or 3407872/8030000000.")
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Check what is said of an adapter: rank, layers and ratio.

    Print what the configuration predicts, what the tensors show and what is claimed, side by side. The exit status is 1
    if they contradict each other.
    """
    results: list[Audit] = []

    def work() -> Audit:
        from lotune.evaluate.audit_claims import read_claim
        from lotune.stages.audit import audit

        results.append(audit(target, base, read_claim(rank, targets, count, ratio), run_options(False, json, debug)))
        return results[0]

    run_verb(work, json=json, debug=debug)
    if results[0].contradictions:
        raise typer.Exit(1)
