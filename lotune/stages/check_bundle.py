"""`lotune bundle --check`: verify a bundle from outside, and perhaps ask some of its rows again."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from lotune.console import Progress
from lotune.contest.answer_check import JudgedRows, answer_checks
from lotune.contest.archive_reader import Archive, HostileArchiveError, open_archive
from lotune.contest.bundle import RECIPE
from lotune.contest.bundle_check import (
    Bundle,
    checked,
    file_checks,
    ratio_checks,
    training_checks,
)
from lotune.contest.manifest import MANIFEST, read_manifest
from lotune.contest.names import is_web_address, same_name
from lotune.errors import CheckError, DataError
from lotune.evaluate.retention import MIN_RETAINED
from lotune.evaluate.scorecard import Check
from lotune.model.catalogue import CATALOGUE, catalogue_name
from lotune.model.known_bases import known_base
from lotune.model.loading import NANO
from lotune.model.settings import ADAPTER_CONFIG
from lotune.recipe import Recipe, RunOptions
from lotune.settings import load_yaml
from lotune.stages.abilities import abilities_of
from lotune.tasks.registry import build_task
from lotune.text_display import print_visible

MAX_RECIPE = 1 << 20
"""Most characters of a recipe."""
MAX_DEPTH = 20
"""Most lists and mappings of a recipe inside one another."""


def check_bundle(path: Path, rerun: int | None, base: str | None, options: RunOptions) -> dict[str, Any]:
    """Return the checks of a bundle, after printing them; with `rerun`, its model answers that many rows again.

    `base` is the base model of its adapter; a bundle without merged models needs it for `rerun`, and to have the ratio
    measured if its recipe does not name a base of the catalogue.
    Raises: HostileArchiveError if the archive must not be unpacked; CheckError if a check fails.
    """
    with opened_bundle(path) as bundle:
        if rerun is not None:
            from lotune.stages.rerun_bundle import check_base, rerun_check

            check_base(bundle, base)
        checks = list(bundle_checks(bundle, base))
        if rerun is not None:
            target = judged_rows(bundle)[0]
            recipe = bundle_recipe(bundle.archive)
            checks.append(checked("rerun", lambda: rerun_check(bundle, recipe, target, rerun, base)))
        team = bundle.manifest.team
    failed = [check.name for check in checks if check.passed is False]
    result = {"bundle": str(path), "team": team, "passed": not failed, "checks": [dump(check) for check in checks]}
    if not options.json:
        print_visible(f"{path.name}: team {team}")
        print_visible("\n".join(f"{check.result}: {check.name}: {check.detail}" for check in checks))
    if failed:
        fault = f"{len(failed)} of {len(checks)} checks failed: {', '.join(failed)}"
        raise CheckError(str(path), fault, result=result)
    return result


def dump(check: Check) -> dict[str, Any]:
    """Return a check as a JSON object, with its result in words."""
    return {**check.model_dump(mode="json"), "result": check.result}


@contextmanager
def opened_bundle(path: Path) -> Iterator[Bundle]:
    """Open a bundle with a temporary folder, which is removed at the end of the block.

    Raises: HostileArchiveError if the archive must not be unpacked; DataError if it holds no manifest.
    """
    with open_archive(path) as archive:
        if MANIFEST not in archive:
            raise DataError(str(path), f"holds no {MANIFEST}", "a bundle that `lotune bundle` wrote")
        manifest = read_manifest(archive.read(MANIFEST), str(path))
        _refuse_disguised_adapters(archive)
        with tempfile.TemporaryDirectory(prefix="lotune-bundle-") as folder:
            yield Bundle(archive, manifest, Path(folder))


def _refuse_disguised_adapters(archive: Archive) -> None:
    """Raise HostileArchiveError for a merged model that would load as an adapter, of whatever base it names."""
    for name in archive.names:
        if PurePosixPath(same_name(name)).parts[-2:] == ("merged", ADAPTER_CONFIG):
            raise HostileArchiveError(archive.path, name, "turns a merged model into an adapter of another model")


def bundle_checks(bundle: Bundle, base: str | None = None) -> Iterator[Check]:
    """Yield all checks of a bundle that need no model to answer; `base` is the model that its team tuned."""
    with Progress("checking", len(bundle.archive.names) - 1) as progress:
        yield from file_checks(bundle, progress.advance)
    link = bundle.manifest.link
    if link is not None:
        yield Check(name="link", passed=is_web_address(link), detail=link)
    yield from training_checks(bundle)
    recipes = list[Recipe]()
    yield checked("recipe", lambda: _recipe_check(bundle, recipes))
    yield from ratio_checks(bundle, _base_parameters(base, recipes))
    if recipes:
        target, *abilities = _judged_rows(bundle, recipes[0])
        yield from answer_checks(bundle, target, abilities)


def _base_parameters(base: str | None, recipes: Sequence[Recipe]) -> int | None:
    """Return the number of parameters of a base, or of the one that a recipe names; None if the catalogue lacks it.

    Other names in a recipe are not followed, as they may stand for any folder or model of the hub.
    """
    if base is not None:
        return known_base(base).shape.total
    named = recipes[0].base.model if recipes else ""
    if named == NANO:
        return known_base(NANO, hub=False).shape.total
    # The table itself, as a folder of such a name may stand here.
    known = catalogue_name(named)
    return None if known is None else CATALOGUE[known].shape.total


def _recipe_check(bundle: Bundle, recipes: list[Recipe]) -> Check:
    recipe = bundle_recipe(bundle.archive)
    claims = bundle.claims
    found = {"task": recipe.task.name, "convention": recipe.score.base_total}
    said = {"task": claims.task, "convention": claims.convention}
    if claims.rule is not None:
        found, said = {**found, "rule": recipe.score.rule}, {**said, "rule": claims.rule}
    _judged_rows(bundle, recipe)  # raises an error for settings of which no task can be built
    recipes.append(recipe)
    differing = [name for name in found if found[name] != said[name]]
    faults = [f"{name}: {said[name]} claimed, {found[name]} in the recipe" for name in differing]
    return Check(name="recipe", passed=not faults, detail="; ".join(faults) or ", ".join(found.values()))


def bundle_recipe(archive: Archive) -> Recipe:
    """Return the recipe in a bundle. Raises: SettingsError if it cannot be read."""
    import yaml

    text = archive.read(RECIPE).decode()
    if len(text) > MAX_RECIPE:
        raise DataError(RECIPE, "is too large", f"the recipe of a run, of at most {MAX_RECIPE:,} characters")
    depth = 0
    for event in _events(text):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        # A few aliases of aliases stand for billions of values; a recipe that lotune wrote has none.
        if depth > MAX_DEPTH or isinstance(event, yaml.AliasEvent):
            raise DataError(RECIPE, "is nested too deep or has aliases", "the recipe of a run")
    return Recipe.model_validate(load_yaml(text, RECIPE))


def _events(text: str) -> Iterator[object]:
    import yaml

    try:
        yield from yaml.parse(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise DataError(RECIPE, f"is not YAML: {error}", "the recipe of a run") from None


def judged_rows(bundle: Bundle) -> Sequence[JudgedRows]:
    """Return the sets of rows in a bundle: first the one of the task, then those of the abilities."""
    return _judged_rows(bundle, bundle_recipe(bundle.archive))


def _judged_rows(bundle: Bundle, recipe: Recipe) -> list[JudgedRows]:
    task = build_task(recipe.task)
    least = max(recipe.retention.min_retained, MIN_RETAINED)  # the contest's gate, whatever a recipe says
    return [
        JudgedRows(task, "data/test.jsonl", task.name),
        *(
            JudgedRows(one.task, f"data/{one.test_set}.jsonl", one.predictions_folder(task.name), one.settings, least)
            for one in abilities_of(recipe)
        ),
    ]
