"""Reading of settings: YAML, `key=value` overrides, all errors at once.

The settings models are in `lotune/*/settings.py`, beside the code that uses them.
"""

from __future__ import annotations

import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from lotune.errors import SettingsError
from lotune.settings_elsewhere import meant_setting
from lotune.text_display import escaped

# Beyond it, a typing error would allocate memory or count rows for ever; seeds may be any that torch takes.
MAX_INT = 10**9
"""Largest integer that a setting accepts; seeds have MAX_SEED."""
MAX_SEED = 2**63 - 1


class Settings(BaseModel):
    """Base class of all settings: immutable, without unknown keys; the docstring of a field is its help.

    Numbers are finite. Integers are at most MAX_INT, seeds MAX_SEED.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, allow_inf_nan=False)
    tag_field: ClassVar[str] = "name"
    """The setting that selects the model of a group if it has several."""
    remedy: ClassVar[str] = "`lotune run --help` lists every setting"
    """What an error says that names a setting which there is not."""

    @field_validator("*")
    @classmethod
    def _bounded(cls, value: Any, information: ValidationInfo) -> Any:
        # pydantic has no bound for all integers of a model, and one per field would be forgotten somewhere.
        limit = MAX_SEED if information.field_name == "seed" else MAX_INT
        if isinstance(value, int) and value > limit:
            raise ValueError(f"input should be less than or equal to {limit}")
        return value


SettingsType = TypeVar("SettingsType", bound=Settings)


def _switch_word(value: object) -> object:
    """Return on or off for the boolean that YAML reads a bare on or off as."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


Switch = Annotated[Literal["auto", "on", "off"], BeforeValidator(_switch_word)]
"""A setting that is on, off, or decided by lotune."""
if TYPE_CHECKING:
    # Stages resolve "auto" before anything below them reads such a number.
    AutoPositiveFloat = float
    AutoRate = float
    AutoFraction = float
    AutoCount = int
else:
    AutoPositiveFloat = Literal["auto"] | Annotated[float, Field(gt=0)]
    AutoRate = Literal["auto"] | Annotated[float, Field(gt=0, le=1)]
    AutoFraction = Literal["auto"] | Annotated[float, Field(ge=0, lt=1)]
    AutoCount = Literal["auto"] | Annotated[int, Field(ge=1)]
AUTO: Any = "auto"
"""The value of a number that lotune is to decide, such as the default of a field of type AutoCount."""


def is_auto(value: object) -> bool:
    """Return whether a setting leaves its value to lotune."""
    return value == "auto"


def read_settings(model: type[SettingsType], path: Path | None, overrides: Sequence[str] = ()) -> SettingsType:
    """Return the settings in a YAML file, with dotted `key=value` overrides applied.

    The value of an override is YAML. For a setting of type str or path it is taken literally, apart from enclosing
    quotes, and null or a list if the setting accepts them.
    Raises: SettingsError listing all errors of the file and the overrides at once.
    """
    values = read_yaml(path) if path is not None else {}
    where = str(path) if path is not None else "settings"
    overridden = _read_overrides(model, overrides)
    for key, value in overridden.items():
        _set_nested(values, key, value, where)
    return validated(model, values, where, set(overridden))


def validated(model: type[SettingsType], values: Any, where: str, overridden: Collection[str] = ()) -> SettingsType:
    """Return values as settings; `overridden` are the keys of those from the command line.

    Raises: SettingsError listing all errors at once.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _as_settings_error(model, error, where, set(overridden)) from None


def join_names(names: Sequence[str]) -> str:
    """Join names with commas and a final "and".

    >>> join_names(["a", "b", "c"]), join_names(["a"])
    ('a, b and c', 'a')
    """
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def flatten(settings: Settings | Mapping[str, Any]) -> dict[str, Any]:
    """Return all values by dotted key, ready for JSON; an absent group is None under its own key.

    >>> class Inner(Settings):
    ...     rows: int = 5
    >>> class Outer(Settings):
    ...     data: Inner = Inner()
    ...     more: Inner | None = None
    >>> flatten(Outer())
    {'data.rows': 5, 'more': None}
    """
    values = settings.model_dump(mode="json") if isinstance(settings, Settings) else settings
    return dict(_flat_items(values, ""))


def _flat_items(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat_items(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file. Raises: SettingsError if it cannot be read or is not a mapping."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise SettingsError(str(path), f"cannot be read: {reason}", "a YAML file", "check the path") from None
    values = load_yaml(text, str(path))
    if values is None:
        return {}
    if not isinstance(values, dict):
        remedy = "copy a recipe with `lotune init --from demo`, or let `lotune init` write one for your rows"
        raise SettingsError(str(path), f"holds a {type(values).__name__}", "lines of the form `key: value`", remedy)
    return values


def load_yaml(text: str, where: str) -> Any:
    """Return the value of a YAML text. Raises: SettingsError for invalid YAML or a repeated key."""
    import yaml

    try:
        repeated = _repeated_keys(yaml.compose(text, Loader=yaml.SafeLoader))
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # a ValueError: a date such as 2024-13-01
        problem_mark = getattr(error, "problem_mark", None)
        position = f"{where}:{problem_mark.line + 1}" if problem_mark is not None else where
        problem = f"is not YAML: {getattr(error, 'problem', None) or error}"
        raise SettingsError(position, problem, "YAML, as in key: value", "quote texts with : # [ { or %") from None
    if repeated:
        raise SettingsError(where, "repeated keys: " + ", ".join(repeated), remedy="keep one of each")
    return value


def _repeated_keys(node: Any) -> list[str]:
    """Return repeated keys in the mappings of a composed YAML node, with their lines (YAML keeps the last)."""
    repeated: list[str] = []
    pending, seen_nodes = [node], set[int]()
    while pending:
        node = pending.pop()
        # References can lead to a node again and again, or in a circle.
        if id(node) in seen_nodes:
            continue
        seen_nodes.add(id(node))
        if getattr(node, "id", None) == "sequence":
            pending += node.value
        elif getattr(node, "id", None) == "mapping":
            seen: set[str] = set()
            for key, value in node.value:
                if str(key.value) in seen:
                    repeated.append(f"{key.value} (line {key.start_mark.line + 1})")
                seen.add(str(key.value))
                pending.append(value)
    return repeated


def _read_overrides(model: type[Settings], overrides: Sequence[str]) -> dict[str, Any]:
    wrong = [text for text in overrides if not text.partition("=")[1] or not text.partition("=")[0].strip()]
    if wrong:
        raise SettingsError(
            "command line", "cannot read " + ", ".join(map(repr, wrong)), "key=value, as in data.generated_rows=100"
        )
    pairs = [(key.strip(), value) for key, _, value in (text.partition("=") for text in overrides)]
    return {key: override_value(model, key, value) for key, value in pairs}


def override_value(model: type[Settings], key: str, value: str) -> Any:
    """Return the value that a text stands for in an override of a setting. Raises: SettingsError if it is not YAML."""
    annotation, where = _annotation(model, key), f"command line, {key}"
    # A text such as 007, no or a: b is meant as it stands, though YAML would read a number, False or a mapping.
    choices = union_members(annotation)
    if str not in choices and Path not in choices:
        return load_yaml(value, where)
    try:
        parsed = load_yaml(value, where)
    except SettingsError:
        return value
    quoted = value.strip()[:1] in ("'", '"') and isinstance(parsed, str)
    is_null = parsed is None and type(None) in choices
    is_list = isinstance(parsed, list) and any(typing.get_origin(choice) is list for choice in choices)
    return parsed if quoted or is_null or is_list else value


def _annotation(model: type[Settings], key: str) -> Any:
    """Return the type of the setting under a dotted key (inside a mapping, of its values); None if unknown.

    >>> class Words(Settings):
    ...     labels: dict[str, str] = {}
    >>> _annotation(Words, "labels.yes"), _annotation(Words, "lables")
    (<class 'str'>, None)
    """
    annotation: Any = model
    for part in key.split("."):
        if groups := group_models(annotation):
            fields = (group.model_fields.get(part) for group in groups)
            annotation = next((field.annotation for field in fields if field is not None), None)
        else:
            annotation = typing.get_args(annotation)[1] if typing.get_origin(annotation) is dict else None
    return annotation


def _set_nested(values: dict[str, Any], key: str, value: Any, where: str) -> None:
    """Store `value` under the dotted `key`, creating missing groups."""
    *groups, last = key.split(".")
    for group in groups:
        inner = values.get(group)
        if inner is None:
            inner = {}
        if not isinstance(inner, dict):
            raise SettingsError(f"command line, {key}", f"{group} is a single value in {where}", "a group of settings")
        values[group] = dict(inner)  # a copy, as YAML anchors can make two groups one object
        values = values[group]
    values[last] = value


def _as_settings_error(
    model: type[Settings], error: ValidationError, where: str, overridden: set[str]
) -> SettingsError:
    faults: dict[str, str] = {}
    remedy = model.remedy
    for fault in error.errors(include_url=False, include_context=False):
        key = _dotted_key(model, fault["loc"])
        variant = _variant(model, fault["loc"])
        if fault["type"] == "extra_forbidden":
            text = _unknown_setting(model, key, variant)
        elif fault["type"] == "union_tag_invalid":
            text, remedy = _unknown_tag(model, key, fault["input"])
        elif fault["type"] == "missing":
            text = f"{key} is missing"
        else:
            message = fault["msg"].removeprefix("Value error, ")
            value = "" if isinstance(fault["input"], dict) else f" is {fault['input']!r:.60}"
            text = f"{key}{value}: {message[:1].lower()}{message[1:]}"
            if fault["type"] == "string_type" and isinstance(fault["input"], bool):
                remedy = "quote it: YAML reads a bare yes, no, on and off as truth values"
        # A union reports one fault per branch; they become alternatives in one clause.
        faults[key] = f"{faults[key]}, or {text.partition(': ')[2]}" if key in faults else text
    clauses = [f"{text} (command line)" if _is_overridden(key, overridden) else text for key, text in faults.items()]
    settings_error = SettingsError(where, "; ".join(clauses), remedy=remedy)
    settings_error.faults = faults
    return settings_error


def _is_overridden(key: str, overridden: set[str]) -> bool:
    return any(name == key or name.startswith(f"{key}.") for name in overridden)


def _dotted_key(model: type[Settings], location: tuple[int | str, ...]) -> str:
    """Return the dotted key of a pydantic location, without the parts that name branches of a union."""
    key: list[str] = []
    inner: tuple[type[Settings], ...] = (model,)
    for position, part in enumerate(location):
        if isinstance(part, int):  # the place in a list of groups
            key.append(str(part))
            continue
        if not inner:
            continue
        field = next((group.model_fields[str(part)] for group in inner if part in group.model_fields), None)
        if field is None:
            if position == len(location) - 1:
                key.append(str(part))
            continue
        key.append(str(part))
        inner = group_models(field.annotation) or listed_models(field.annotation)
    return ".".join(key)


def _unknown_tag(model: type[Settings], key: str, value: Any) -> tuple[str, str]:
    """Return the clause and the remedy for a group whose `name` is unknown."""
    import difflib

    groups = group_models(_annotation(model, key))
    tags, tag_field = [tag_of(group) for group in groups], groups[0].tag_field
    name = str(value.get(tag_field) if isinstance(value, dict) else value)
    near = difflib.get_close_matches(name, tags, 1)
    remedy = f"did you mean {near[0]}?" if near else model.remedy
    return f"{key}.{tag_field}: {name!r} is unknown; expected one of {', '.join(tags)}", remedy


def _variant(model: type[Settings], location: tuple[int | str, ...]) -> type[Settings] | None:
    """Return the model that a pydantic location is in if its group is one of several models, else None."""
    if len(location) < 2 or str(location[0]) not in model.model_fields:
        return None
    groups = group_models(model.model_fields[str(location[0])].annotation)
    return next((group for group in groups if len(groups) > 1 and tag_of(group) == location[1]), None)


def _unknown_setting(model: type[Settings], key: str, variant: type[Settings] | None) -> str:
    """Return the clause for an unknown key; `variant` is the model of its group if there are several."""
    if near := _nearest(model, key, variant):
        return f"{key}: did you mean {near}?"
    if variant is None:
        return f"{key} is not a setting"
    return f"{key} is not a setting of {tag_of(variant)}, which has {join_names([*variant.model_fields][1:])}"


def _nearest(model: type[Settings], key: str, variant: type[Settings] | None) -> str:
    """Return the key that is meant by an unknown one; empty if none is close."""
    import difflib

    group, _, last = key.rpartition(".")
    if items := listed_models(_annotation(model, group.rpartition(".")[0])):
        near = difflib.get_close_matches(last, list(items[0].model_fields), n=1)
        return near[0] if near else ""
    keys = _keys(model) + _group_names(model)
    prefix = f"{group}." if group else ""
    siblings = {name.removeprefix(prefix).split(".")[0] for name in keys if name.startswith(prefix)}
    if variant is not None:
        # A setting of another variant of the group is no misspelling: the message lists what this one has.
        if last in siblings:
            return ""
        siblings = set(variant.model_fields)
        keys = [name for name in keys if not name.startswith(prefix) or name.removeprefix(prefix) in siblings]
    if meant := meant_setting(last):
        here = prefix + meant.rpartition(".")[2]
        meant = here if here in keys else meant
    # Another program's name comes first: `lr` is nearer to many settings than to the one that it means.
    if meant in keys:
        return meant
    # Then the same group: most unknown keys are misspelt. Then the same name elsewhere: the group was wrong.
    if near := difflib.get_close_matches(last, sorted(siblings), n=1):
        return prefix + near[0]
    elsewhere = [name for name in keys if name.rpartition(".")[2] == last]
    return next(iter(elsewhere or difflib.get_close_matches(key, keys, n=1)), "")


def _group_names(model: type[Settings]) -> list[str]:
    return [name for name, field in model.model_fields.items() if group_models(field.annotation)]


def _keys(model: type[Settings], prefix: str = "") -> list[str]:
    """Return the dotted keys of all settings, each once, groups left out."""
    keys: dict[str, None] = {}
    for name, field in model.model_fields.items():
        models = group_models(field.annotation)
        inner = [key for group in models for key in _keys(group, f"{prefix}{name}.")]
        keys |= dict.fromkeys(inner if models else [prefix + name])
    return list(keys)


def group_models(annotation: Any) -> tuple[type[Settings], ...]:
    """Return the settings models in an annotation: `Inner`, `Inner | None` or a union of several."""
    members = union_members(annotation)
    return tuple(member for member in members if isinstance(member, type) and issubclass(member, Settings))


def listed_models(annotation: Any) -> tuple[type[Settings], ...]:
    """Return the settings models of the items of a list: `list[Inner]`."""
    return group_models(typing.get_args(annotation)[0]) if typing.get_origin(annotation) is list else ()


def tag_of(model: type[Settings]) -> str:
    return str(model.model_fields[model.tag_field].default)


def union_members(annotation: Any) -> tuple[Any, ...]:
    if typing.get_origin(annotation) in (UnionType, typing.Union):
        return typing.get_args(annotation)
    return (annotation,)


def as_json(result: Any) -> str:
    r"""Return the result of a command as JSON; models become objects, other values their `str`.

    >>> as_json({"done": Path("a/b")})
    '{\n  "done": "a/b"\n}'
    """
    import orjson

    def plain(value: Any) -> Any:
        if hasattr(value, "model_dump"):
            return value.model_dump(mode="json")
        return list(value) if isinstance(value, tuple) else str(value)

    # orjson leaves hidden characters as they are, and some of them control a terminal.
    content = orjson.dumps(result, default=plain, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS)
    return escaped(content.decode())
