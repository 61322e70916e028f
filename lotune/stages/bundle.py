"""`lotune bundle`: the hand-in of a finished run as one zip archive."""

from __future__ import annotations

import getpass
import platform
import shlex
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from lotune.console import Progress, print_status
from lotune.contest.archive_writer import Source, measure, write_archive
from lotune.contest.bundle import (
    ANSWERS,
    SELF_TEST,
    CheckpointFolder,
    answers_to_test,
    checkpoint_folders,
    contents_text,
    inference_text,
    method_text,
    run_sources,
    self_test,
    weight_sources,
    written_sources,
)
from lotune.contest.leaderboard import Entry
from lotune.contest.leaderboard_page import result_plot
from lotune.contest.manifest import (
    MANIFEST,
    BundledCheckpoint,
    Manifest,
    Member,
    claims_of,
    to_canonical_json,
    training_of,
)
from lotune.contest.names import archive_name, check_link, check_team
from lotune.contest.redaction import Private, private_texts
from lotune.disk_space import require_free_space
from lotune.errors import RunError, SettingsError
from lotune.evaluate.parameter_ratio import count_adapter
from lotune.evaluate.predict import read_predictions
from lotune.evaluate.scorecard import Scorecard, read_scorecard
from lotune.files import read_json
from lotune.recipe import Recipe, RunOptions, input_files, read_recipe
from lotune.report.html import pictures, render_page, svg_file
from lotune.report.markdown import render_markdown
from lotune.report.plots import WIDE
from lotune.report.report_data import Report, collect_report
from lotune.stages.compare import predictions_file
from lotune.stages.output_files import refuse_overwriting_inputs
from lotune.stages.report import changed_settings, write_report
from lotune.tasks.registry import build_task


def bundle(
    run: Path, team: str, out: Path | None, link: str | None, without_merged: bool, options: RunOptions
) -> dict[str, Any]:
    """Write the hand-in of a finished run, and return its path, its size and the claims of its manifest.

    Raises: RunError if the run is not finished or lacks a file; SettingsError for a team or link that cannot be used;
    DataError if a text holds a secret; CheckError if the run has changed since it was finished.
    """
    team, link = check_team(team), check_link(link)
    out = out or Path(archive_name(team))
    if out.suffix != ".zip":
        raise SettingsError("--out", f"{out} is no zip archive", "a name that ends in .zip")
    refuse_overwriting_inputs(out, run)
    if not (run / "recipe.yaml").is_file():
        remedy = "name the folder of a run, such as runs/demo"
        raise RunError(str(run), "holds no run: recipe.yaml is missing", "the folder of a finished run", remedy)
    write_report(run, shlex.join(["lotune", "run", str(run / "recipe.yaml")]))
    recipe, card = read_recipe(run / "recipe.yaml"), read_scorecard(run / "scorecard.json")
    training = training_of(card, read_json(run / "training.json")["steps"])
    checkpoints = checkpoint_folders(run, training)
    _require_merged(run, checkpoints)
    private = _private_texts(run, recipe)
    included = [path for one in checkpoints for path in (*one.adapter, *(() if without_merged else one.merged))]
    left_out = [path for one in checkpoints for path in one.merged] if without_merged else []
    code = _code_version(run)
    sources = [
        *run_sources(run, private),
        *weight_sources(run, private, included),
        *written_sources(_texts(run, recipe, card, team, link, code), private),
    ]
    with Progress("measuring", len(sources) + len(left_out)) as progress:
        members = _measured(sources, progress)
        omitted = _measured(weight_sources(run, private, left_out), progress)
    manifest = Manifest(
        team=team, link=link, lotune=code["lotune"], git_revision=code["git_revision"],
        claims=claims_of(card, training),
        checkpoints=tuple(_bundled(run, one, without_merged) for one in checkpoints),
        members=tuple(member for _, member in members), left_out=tuple(member for _, member in omitted),
    )  # fmt: skip
    content = to_canonical_json(manifest)
    [first] = _measured([Source(MANIFEST, lambda: [content])], None)
    require_free_space(out.absolute().parent, sum(member.bytes for _, member in members), "the bundle")
    with Progress("bundling", len(members) + 1) as progress:
        write_archive(out, [first, *members], progress.advance)
    return _finish(out, manifest, options)


def _finish(out: Path, manifest: Manifest, options: RunOptions) -> dict[str, Any]:
    spacing = manifest.claims.spacing
    if not spacing.passed:
        print_status(f"warning: not the contest's checkpoints: {spacing.detail}; a check of the bundle will say so")
    if any(one.merged == "none" for one in manifest.checkpoints):
        print_status("warning: not all checkpoints are merged, as the contest asks: checkpoints.merged=all merges them")
    if not options.json:
        print_status(f"bundle: {out}, {out.stat().st_size:,} bytes, {len(manifest.members) + 1} files")
    return {
        "bundle": str(out), "bytes": out.stat().st_size, "files": len(manifest.members) + 1,
        "claims": manifest.claims.model_dump(mode="json"),
    }  # fmt: skip


def _measured(sources: list[Source], progress: Progress | None) -> list[tuple[Source, Member]]:
    """Return the sources, sorted by path, with their sizes and digests."""
    measured = []
    for source in sorted(sources, key=lambda source: source.path):
        measured.append((source, measure(source)))
        if progress is not None:
            progress.advance(len(measured))
    return measured


def _bundled(run: Path, one: CheckpointFolder, without_merged: bool) -> BundledCheckpoint:
    trainable = count_adapter(run / "checkpoints" / one.name / "adapter").trainable
    merged = "none" if not one.merged else "left out" if without_merged else "included"
    return BundledCheckpoint.model_validate(
        {"name": one.name, "step": one.step, "trainable": trainable, "merged": merged}
    )


def _require_merged(run: Path, checkpoints: list[CheckpointFolder]) -> None:
    """Raise RunError if the run has merged a checkpoint whose merged model is no longer there."""
    merged = read_json(run / "merging.json") if (run / "merging.json").is_file() else {}
    gone = [one.name for one in checkpoints if one.name in merged and not one.merged]
    if gone:
        remedy = shlex.join(["lotune", "run", str(run / "recipe.yaml")])
        raise RunError(str(run), f"the merged models of {', '.join(gone)} are missing", "those it has checked", remedy)


def _code_version(run: Path) -> dict[str, str | None]:
    """Return the version and the git revision of lotune that the run recorded."""
    recorded = read_json(run / "environment.json")
    return {name: recorded.get(name) for name in ("lotune", "git_revision")}


def _texts(
    run: Path, recipe: Recipe, card: Scorecard, team: str, link: str | None, code: dict[str, str | None]
) -> dict[str, str | bytes]:
    """Return the texts that only the bundle has, by path."""
    settings = changed_settings(recipe)
    report = _report(run, recipe, card)
    answers = read_predictions(predictions_file(run))
    task = build_task(recipe.task)
    hyper_parameters = [(setting.key, setting.value) for setting in settings]
    return {
        "README.md": contents_text(team, code["lotune"], code["git_revision"], link),
        "method.md": method_text(team, recipe.adapter.method, hyper_parameters, card),
        "inference.md": inference_text(task, card, answers),
        SELF_TEST: self_test(card),
        ANSWERS: answers_to_test(answers),
        "report.html": render_page(report),
        "report.md": render_markdown(report),
        **{f"pictures/{name}.svg": picture for name, picture in pictures(report).items()},
        **_accuracy_and_ratio(team, card),
    }


def _accuracy_and_ratio(team: str, card: Scorecard) -> dict[str, str]:
    """Return the picture of accuracy and ratio by path; nothing for a metric that is no accuracy."""
    target = card.target
    if card.score is None or target.is_mean:
        return {}
    entry = Entry(team, None, target.value, target.interval, card.parameters.ratio, card.score.rule)
    return {"pictures/accuracy-ratio.svg": svg_file(result_plot(entry, WIDE))}


def _report(run: Path, recipe: Recipe, card: Scorecard) -> Report:
    """Return the report of a run with commands that name no folder of this machine."""
    name = recipe.name or run.name
    report = collect_report(run, name, changed_settings(recipe), f"lotune run recipe.yaml name={name}-again")
    place = Path(run.name) / "recipe.yaml"
    steps = tuple(step.model_copy(update={"recipe": place}) for step in card.next_steps)
    return replace(report, card=card.model_copy(update={"next_steps": steps}))


def _private_texts(run: Path, recipe: Recipe) -> Private:
    """Return the private texts of this machine and of a run."""
    package = Path(__file__).parent.parent
    folders = {
        Path(tempfile.gettempdir()): "TMP", Path.home(): "HOME", Path(sys.prefix): "PYTHON",
        package.parent: "LOTUNE", package: "lotune", recipe.runs.absolute(): "runs",
        run.absolute().parent: "runs", run.absolute(): recipe.name or run.name,
        run.resolve().parent: "runs", run.resolve(): recipe.name or run.name,
    }  # fmt: skip
    files = [*input_files(recipe).values(), Path(recipe.base.model)]
    named = {path: path.name for path in files if path.is_absolute()}
    return private_texts({**folders, **named}, getpass.getuser(), platform.node())
