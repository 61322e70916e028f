"""Verify a bundle from outside: its files, its training log, its checkpoints, and its parameter ratio.

Nothing in a bundle is believed: the ratio comes from the tensors of the adapters. `answer_check.py` judges the answers
again.
"""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isclose, prod
from pathlib import Path
from typing import Any

from lotune.contest.archive_reader import Archive, HostileArchiveError
from lotune.contest.bundle import ANSWERS, REQUIRED, SELF_TEST
from lotune.contest.logs import TRAINING_LOG, logged_steps
from lotune.contest.manifest import MANIFEST, Claims, Manifest, five_evenly_spaced
from lotune.errors import LotuneError
from lotune.evaluate.audit_claims import conventions
from lotune.evaluate.parameter_ratio import count_adapter, ratio
from lotune.evaluate.scorecard import Check

HAND_IN = ("README.md", "method.md", "inference.md", SELF_TEST, ANSWERS, "report.html", "report.md", *REQUIRED)
"""Members that the contest asks for; the checkpoints and the answers of the models stand beside them."""
DTYPE_BYTES = {
    **dict.fromkeys(("F64", "I64", "U64"), 8), **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2), **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2"), 1),
}  # fmt: skip
"""Bytes of a number by the names of the safetensors format."""
MERGED_FILES = ("config.json", "tokenizer_config.json")
"""Files of a complete model, beside its weights."""


@dataclass(frozen=True)
class Bundle:
    """An open bundle, with a temporary folder into which its small files may be unpacked."""

    archive: Archive
    manifest: Manifest
    folder: Path

    @property
    def claims(self) -> Claims:
        """The claimed figures."""
        return self.manifest.claims


def file_checks(bundle: Bundle, measured: Callable[[int], None]) -> Iterator[Check]:
    """Yield the checks of the members: which there are, their digests, and what the contest asks for.

    `measured` gets the number of members whose digest has been measured.
    """
    archive, manifest = bundle.archive, bundle.manifest
    listed = {member.path: member for member in manifest.members}
    present = [name for name in archive.names if name != MANIFEST]
    yield outcome("files", _differences(listed, present), f"{len(present)} files, all in the manifest")
    wrong = []
    for number, name in enumerate(present, 1):
        found = archive.measure(name)  # of each member, as this refuses content that its name does not say
        if found != listed.get(name, found):
            wrong.append(f"{name} differs from its digest")
        measured(number)
    yield outcome("checksums", wrong, f"sha256 of {len(present)} files")
    missing = [f"{name} is missing" for name in HAND_IN if name not in archive]
    yield outcome("hand-in", missing, "all that the contest asks for")
    faults = [*_named_twice(manifest), *_never_merged(manifest), *_incomplete(bundle)]
    yield outcome("complete checkpoints", faults, _merged_clause(manifest))


def _differences(listed: Mapping[str, Any], present: Sequence[str]) -> list[str]:
    faults = [f"{name} is missing" for name in listed if name not in present]
    return faults + [f"{name} is not in the manifest" for name in present if name not in listed]


def _incomplete(bundle: Bundle) -> list[str]:
    faults, names = [], bundle.archive.names
    left_out = [member.path for member in bundle.manifest.left_out]
    for one in bundle.manifest.checkpoints:
        places = {"included": names, "left out": left_out}.get(one.merged)
        if places is None:
            continue
        below = f"checkpoints/{one.name}/merged/"
        files = [name.removeprefix(below) for name in places if name.startswith(below)]
        missing = [name for name in MERGED_FILES if name not in files]
        if not any(name.endswith(".safetensors") for name in files):
            missing.append("weights in safetensors")
        faults += [f"{below} lacks {', '.join(missing)}"] if missing else []
    return faults


def _named_twice(manifest: Manifest) -> list[str]:
    counts = Counter(one.name for one in manifest.checkpoints)
    return [f"{name} is named {count} times" for name, count in counts.items() if count > 1]


def _never_merged(manifest: Manifest) -> list[str]:
    never = [one.name for one in manifest.checkpoints if one.merged == "none"]
    return [f"the contest asks for complete models, and {', '.join(never)} were never merged"] if never else []


def _merged_clause(manifest: Manifest) -> str:
    counts = Counter(one.merged for one in manifest.checkpoints)
    clause = "merged models: " + ", ".join(f"{number} {kind}" for kind, number in sorted(counts.items()))
    # No fault: the learning rate of a very short training may be 0 between two checkpoints.
    adapters = [one.sha256 for one in manifest.members if one.path.endswith("/adapter/adapter_model.safetensors")]
    copies = len(adapters) - len(set(adapters))
    return clause + (f"; {copies} adapters have the weights of another" if copies else "")


def training_checks(bundle: Bundle) -> Iterator[Check]:
    """Yield the checks of the training: its complete log, and the number and spacing of the checkpoints."""
    claims, manifest = bundle.claims, bundle.manifest
    yield checked("training log", lambda: _training_log(bundle))
    spacing = five_evenly_spaced([one.step for one in manifest.checkpoints], claims.steps, claims.training)
    yield spacing
    yield outcome(
        "claimed spacing",
        [] if spacing == claims.spacing else [f"claimed {claims.spacing.detail!r}, found {spacing.detail!r}"],
        "as found",
    )


def _training_log(bundle: Bundle) -> Check:
    log = bundle.archive.read(TRAINING_LOG).decode()
    steps, claimed = logged_steps(log, bundle.claims.training), bundle.claims.steps
    complete = len(steps) == claimed and steps == list(range(1, len(steps) + 1))
    faults = [] if complete else [f"{len(steps)} steps in the log, {claimed} claimed"]
    last = max((one.step for one in bundle.manifest.checkpoints), default=0)
    faults += [f"the last checkpoint follows step {last} of {claimed}"] if last > claimed else []
    return outcome("training log", faults, f"{len(steps)} steps")


def ratio_checks(bundle: Bundle, base_parameters: int | None) -> Iterator[Check]:
    """Yield the checks of the parameter ratio, from the tensors of the adapters and of merged models.

    `base_parameters` is the number of parameters of the base, None if it is not known which base that is.
    """
    yield checked("adapters", lambda: _adapters(bundle))
    yield checked("base total", lambda: _base_total(bundle, base_parameters))
    yield checked("ratio", lambda: _ratio(bundle))


def _trainable(bundle: Bundle, name: str) -> int:
    below = f"checkpoints/{name}/adapter/"
    if not (bundle.folder / below).exists():
        bundle.archive.extract(below, bundle.folder)
    return count_adapter(bundle.folder / below).trainable


def _adapters(bundle: Bundle) -> Check:
    found = {one.name: _trainable(bundle, one.name) for one in bundle.manifest.checkpoints}
    faults = [
        f"{one.name} holds {found[one.name]:,} trained parameters, {one.trainable:,} claimed"
        for one in bundle.manifest.checkpoints
        if found[one.name] != one.trainable
    ]
    return outcome("adapters", faults, f"{len(found)} in safetensors, {min(found.values(), default=0):,} parameters")


def _base_total(bundle: Bundle, base_parameters: int | None) -> Check:
    claims = bundle.claims
    included = [one.name for one in bundle.manifest.checkpoints if one.merged == "included"]
    totals = {name: _parameters(bundle.archive, f"checkpoints/{name}/merged/") for name in included}
    if base_parameters is not None:
        totals["the base"] = base_parameters
    if not totals:
        detail = "no merged model is included, and the recipe names no base of the catalogue: --base MODEL counts it"
        return Check(name="base total", passed=None, detail=detail)
    faults = [
        f"{name} has {total:,} parameters, {claims.base_total:,} claimed"
        for name, total in totals.items()
        if total != claims.base_total
    ]
    counted = [f"each of {len(included)} merged models"] if included else []
    counted += [] if base_parameters is None else ["the base"]
    return outcome("base total", faults, f"{claims.base_total:,} parameters in {' and in '.join(counted)}")


def _parameters(archive: Archive, below: str) -> int:
    """Return the number of elements in the safetensors files below a path, from their headers."""
    files = [name for name in archive.names if name.startswith(below) and name.endswith(".safetensors")]
    return sum(prod(entry["shape"]) for name in files for entry in tensor_entries(archive, name).values())


def tensor_entries(archive: Archive, path: str) -> dict[str, Any]:
    """Return the entries of a safetensors header by the name of the tensor; only the header is read.

    Raises: HostileArchiveError if it is damaged, or its tensors do not fill the file.
    """
    head = b""
    for chunk in archive.chunks(path):
        head += chunk
        # The reader has checked that eight bytes of a size of at most 100 MiB come first.
        if len(head) >= 8 + struct.unpack("<Q", head[:8])[0]:
            break
    try:
        header = json.loads(head[8 : 8 + struct.unpack("<Q", head[:8])[0]])
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        start = 8 + struct.unpack("<Q", head[:8])[0]
        if _fills(entries, archive.file.getinfo(path).file_size - start):
            return entries
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        pass
    raise HostileArchiveError(archive.path, path, "is not in the format of safetensors, as its name says")


def _fills(entries: Mapping[str, Any], data_bytes: int) -> bool:
    """Return whether tensors of such shapes lie one after the other in so many bytes, as the format demands."""
    last = 0
    for entry in sorted(entries.values(), key=lambda entry: tuple(entry["data_offsets"])):
        first, end = entry["data_offsets"]
        sizes = entry["shape"]
        if first != last or not all(isinstance(size, int) and size >= 0 for size in sizes):
            return False
        if end - first != prod(sizes) * DTYPE_BYTES[entry["dtype"]]:
            return False
        last = end
    return last == data_bytes


def _ratio(bundle: Bundle) -> Check:
    claims, faults = bundle.claims, []
    names = [one.name for one in bundle.manifest.checkpoints]
    if claims.chosen_checkpoint not in names:
        return Check(name="ratio", passed=False, detail=f"{claims.chosen_checkpoint} is no checkpoint of the bundle")
    trainable = _trainable(bundle, claims.chosen_checkpoint)
    if trainable != claims.trainable:
        faults.append(f"{trainable:,} trained parameters in {claims.chosen_checkpoint}, {claims.trainable:,} claimed")
    if claims.convention not in conventions(claims.base_total):
        faults.append(
            f"the convention {claims.convention} is of another base than one of {claims.base_total:,} parameters"
        )
    measured = ratio(trainable, claims.base_total, claims.convention)
    if not equal(measured, claims.ratio):
        faults.append(f"{measured!r} measured, {claims.ratio!r} claimed")
    return outcome("ratio", faults, f"{measured!r} by the convention {claims.convention}")


def equal(a: float, b: float) -> bool:
    """Return whether two figures are equal but for the order of their sums."""
    # Means are added up in another order where rows come back in another order.
    return isclose(a, b, rel_tol=1e-9, abs_tol=1e-12)


def checked(name: str, check: Callable[[], Check]) -> Check:
    """Return the result of a check; content that cannot be read fails it.

    Raises: HostileArchiveError, as such a bundle is refused as a whole.
    """
    try:
        return check()
    except HostileArchiveError:
        raise
    except LotuneError as error:
        return Check(name=name, passed=False, detail=f"{error.where}: {error.found}")
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
        reason = str(error).splitlines()[0] if str(error) else ""
        return Check(name=name, passed=False, detail=f"cannot be read: {type(error).__name__} {reason}")


def outcome(name: str, faults: Sequence[str], evidence: str) -> Check:
    """Return a check that passed, with its evidence, unless there are faults, of which five are shown."""
    shown = "; ".join(faults[:5]) + (f"; and {len(faults) - 5} more" if len(faults) > 5 else "")
    return Check(name=name, passed=not faults, detail=shown or evidence)
