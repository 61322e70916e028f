"""How settings are read: YAML, `key=value` overrides, every fault at once, and the help that is generated from them.

The settings models themselves live beside the code that they steer (`lotune/*/settings.py`).
"""

from __future__ import annotations

import ast
import functools
import itertools
import sys
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo

from lotune.errors import SettingsError
from lotune.text_display import escaped

MAX_INT = 10**9
"""Largest whole number that a setting takes: more rows, steps or tokens than a run gets through."""
MAX_SEED = 2**63 - 1


class Settings(BaseModel):
    """The base of all settings: unknown keys are refused, values do not change, a field's help is its docstring.

    Numbers are finite, and whole ones have a bound, which is that of 64 bits for seeds.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, allow_inf_nan=False)
    tag_field: ClassVar[str] = "name"
    """The setting that decides which model a group of settings has, where there are several."""

    @field_validator("*")
    @classmethod
    def _bounded(cls, value: Any, information: ValidationInfo) -> Any:
        most = MAX_SEED if information.field_name == "seed" else MAX_INT
        if isinstance(value, int) and value > most:
            raise ValueError(f"input should be less than or equal to {most}")
        return value


SettingsType = TypeVar("SettingsType", bound=Settings)


def _switch_word(value: object) -> object:
    """Return the word of a truth value, as which YAML reads a bare on and off."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


Switch = Annotated[Literal["auto", "on", "off"], BeforeValidator(_switch_word)]
"""A setting that is on, off, or decided by lotune."""


class FieldHelp(NamedTuple):
    """One line of the generated help."""

    key: str
    type: str
    default: str
    sentence: str


def read_settings(model: type[SettingsType], path: Path | None, overrides: Sequence[str] = ()) -> SettingsType:
    """The settings in a YAML file, with dotted `key=value` overrides laid over them.

    The value of an override is YAML; of a setting that takes a text it is the text as it stands, but for quotes around
    all of it, null where there may be none, and a list where there may be one.
    Raises: SettingsError naming every fault of the file and of the overrides at once.
    """
    values = read_yaml(path) if path is not None else {}
    where = str(path) if path is not None else "settings"
    given = _read_overrides(model, overrides)
    for key, value in given.items():
        _set_nested(values, key, value, where)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _as_settings_error(model, error, where, set(given)) from None


def describe(model: type[Settings], prefix: str = "") -> list[FieldHelp]:
    """The help of every field, nested ones under dotted keys.

    >>> class Rows(Settings):
    ...     rows: int | None = 5
    >>> describe(Rows)
    [FieldHelp(key='rows', type='int | null', default='5', sentence='')]
    """
    lines: list[FieldHelp] = []
    for name, field in model.model_fields.items():
        groups = _groups(field.annotation)
        if groups:
            lines += _describe_variants(groups, f"{prefix}{name}.", field)
        else:
            default = (
                "required" if field.is_required() else _format_default(field.get_default(call_default_factory=True))
            )
            sentence = field.description or _sentence(model, name)
            lines.append(FieldHelp(prefix + name, _type_name(field.annotation), default, sentence))
    return lines


def _describe_variants(models: Sequence[type[Settings]], prefix: str, field: FieldInfo) -> list[FieldHelp]:
    """The help of a group, a field that is one of several models; a setting that only some have says whose it is."""
    if len(models) == 1:
        return describe(models[0], prefix)
    owners: dict[str, dict[FieldHelp, list[str]]] = {}
    for model in models:
        for line in describe(model, prefix):
            owners.setdefault(line.key, {}).setdefault(line, []).append(_tag(model))
    default, tag_field = _tag(type(field.get_default(call_default_factory=True))), models[0].tag_field
    tag = FieldHelp(prefix + tag_field, " | ".join(map(_tag, models)), default, _sentence(models[0], tag_field))
    return [tag, *(_merged(lines, len(models)) for key, lines in owners.items() if key != tag.key)]


def _merged(lines: Mapping[FieldHelp, Sequence[str]], count: int) -> FieldHelp:
    """One line of help of a setting that some of `count` models have, each line with the names of its models."""
    first, *_ = lines
    if len(lines) == 1 and len(lines[first]) == count:
        return first
    return first._replace(sentence=" ".join(f"Of {_listed(names)}: {line.sentence}" for line, names in lines.items()))


def _listed(names: Sequence[str]) -> str:
    """Return names as a sentence lists them.

    >>> _listed(["a", "b", "c"]), _listed(["a"])
    ('a, b and c', 'a')
    """
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _sentence(model: type[Settings], field: str) -> str:
    """Return the docstring under a field, of the class that declares it."""
    found = (_docstrings(one.__module__).get((one.__name__, field)) for one in model.__mro__)
    return next(filter(None, found), "")


def flatten(settings: Settings | Mapping[str, Any]) -> dict[str, Any]:
    """All values by dotted key, ready for JSON; an absent group stands as None under its own key.

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


@functools.cache
def _docstrings(module: str) -> Mapping[tuple[str, str], str]:
    """The docstring under each field of each class of a module, on one line.

    Read only when help is wanted: pydantic would do it at every start, for a fifth of the time that help may take.
    """
    source = getattr(sys.modules.get(module), "__file__", None)
    if not source or not Path(source).is_file():
        return {}
    found: dict[tuple[str, str], str] = {}
    for model in ast.parse(Path(source).read_text(encoding="utf-8")).body:
        if isinstance(model, ast.ClassDef):
            for field, below in itertools.pairwise(model.body):
                match field, below:
                    case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                        found[model.name, name] = " ".join(text.split())
    return found


def _flat_items(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat_items(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises: SettingsError where it cannot be read or holds something else."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise SettingsError(str(path), f"cannot be read: {reason}", "a YAML file", "check the path") from None
    values = load_yaml(text, str(path))
    if values is None:
        return {}
    if not isinstance(values, dict):
        found, remedy = f"holds a {type(values).__name__}", "recipes/demo.yaml is one; `lotune init` writes one"
        raise SettingsError(str(path), found, "a mapping of `key: value` lines", remedy)
    return values


def load_yaml(text: str, where: str) -> Any:
    """The value that a YAML text holds. Raises: SettingsError where it is none, or a key stands twice."""
    import yaml

    try:
        repeated = _repeated_keys(yaml.compose(text, Loader=yaml.SafeLoader))
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{where}:{mark.line + 1}" if mark is not None else where
        found = f"is not YAML: {getattr(error, 'problem', None) or error}"
        raise SettingsError(place, found, "YAML, as in key: value", "quote texts that hold : # [ { or %") from None
    if repeated:
        raise SettingsError(where, "keys given twice: " + ", ".join(repeated), remedy="keep one of each")
    return value


def _repeated_keys(node: Any) -> list[str]:
    """Keys that stand twice in one mapping of a composed YAML node, with their lines (YAML would keep the last)."""
    found: list[str] = []
    pending = [node]
    while pending:
        node = pending.pop()
        if getattr(node, "id", None) == "sequence":
            pending += node.value
        elif getattr(node, "id", None) == "mapping":
            seen: set[str] = set()
            for key, value in node.value:
                if str(key.value) in seen:
                    found.append(f"{key.value} (line {key.start_mark.line + 1})")
                seen.add(str(key.value))
                pending.append(value)
    return found


def _read_overrides(model: type[Settings], overrides: Sequence[str]) -> dict[str, Any]:
    wrong = [text for text in overrides if not text.partition("=")[1] or not text.partition("=")[0].strip()]
    if wrong:
        raise SettingsError(
            "command line", "cannot read " + ", ".join(map(repr, wrong)), "key=value, as in data.generated_rows=100"
        )
    pairs = [(key.strip(), value) for key, _, value in (text.partition("=") for text in overrides)]
    return {key: _read_value(_annotation(model, key), value, f"command line, {key}") for key, value in pairs}


def _read_value(annotation: Any, value: str, where: str) -> Any:
    """The value of an override for a setting of this type."""
    choices = _union_members(annotation)
    if str not in choices and Path not in choices:
        return load_yaml(value, where)
    try:
        found = load_yaml(value, where)
    except SettingsError:
        return value
    quoted = value.strip()[:1] in ("'", '"') and isinstance(found, str)
    none = found is None and type(None) in choices
    listed = isinstance(found, list) and any(typing.get_origin(choice) is list for choice in choices)
    return found if quoted or none or listed else value


def _annotation(model: type[Settings], key: str) -> Any:
    """The type of the setting under a dotted key, that of its values inside a mapping; None where there is none.

    >>> class Words(Settings):
    ...     labels: dict[str, str] = {}
    >>> _annotation(Words, "labels.yes"), _annotation(Words, "lables")
    (<class 'str'>, None)
    """
    found: Any = model
    for part in key.split("."):
        if groups := _groups(found):
            fields = (group.model_fields.get(part) for group in groups)
            found = next((field.annotation for field in fields if field is not None), None)
        else:
            found = typing.get_args(found)[1] if typing.get_origin(found) is dict else None
    return found


def _set_nested(values: dict[str, Any], key: str, value: Any, where: str) -> None:
    """Put `value` under the dotted `key`, making groups on the way."""
    *groups, last = key.split(".")
    for group in groups:
        inner = values.get(group)
        if inner is None:
            inner = {}
        if not isinstance(inner, dict):
            raise SettingsError(f"command line, {key}", f"{group} is a single value in {where}", "a group of settings")
        values[group] = dict(inner)
        values = values[group]
    values[last] = value


def _as_settings_error(model: type[Settings], error: ValidationError, where: str, given: set[str]) -> SettingsError:
    faults: dict[str, str] = {}
    remedy = "`lotune run --help` lists every setting"
    for fault in error.errors(include_url=False, include_context=False):
        key = _dotted_key(model, fault["loc"])
        variant = _variant(model, fault["loc"])
        if fault["type"] == "extra_forbidden" and variant is not None:
            text = f"{key} is not a setting of {_tag(variant)}, which has {_listed([*variant.model_fields][1:])}"
        elif fault["type"] == "extra_forbidden":
            text = f"{key} is not a setting{_nearest(model, key)}"
        elif fault["type"] == "union_tag_invalid":
            text, remedy = _unknown_tag(model, key, fault["input"])
        elif fault["type"] == "missing":
            text = f"{key} is missing"
        else:
            message = fault["msg"].removeprefix("Value error, ")
            found = "" if isinstance(fault["input"], dict) else f" is {fault['input']!r:.60}"
            text = f"{key}{found}: {message[:1].lower()}{message[1:]}"
            if fault["type"] == "string_type" and isinstance(fault["input"], bool):
                remedy = "quote it: YAML reads a bare yes, no, on and off as truth values"
        if any(name == key or name.startswith(f"{key}.") for name in given):
            text += " (command line)"
        faults[key] = f"{faults[key]}, or {text.partition(': ')[2]}" if key in faults else text
    return SettingsError(where, "; ".join(faults.values()), remedy=remedy)


def _dotted_key(model: type[Settings], place: tuple[int | str, ...]) -> str:
    """The dotted key of a fault's place; what pydantic adds for the branches of a union is left out."""
    key: list[str] = []
    inner: tuple[type[Settings], ...] = (model,)
    for position, part in enumerate(place):
        if not inner:
            key += [str(part)] if isinstance(part, int) else []
            continue
        field = next((one.model_fields[str(part)] for one in inner if part in one.model_fields), None)
        if field is None:
            if position == len(place) - 1:
                key.append(str(part))
            continue
        key.append(str(part))
        inner = _groups(field.annotation)
    return ".".join(key)


def _unknown_tag(model: type[Settings], key: str, given: Any) -> tuple[str, str]:
    """The clause and the remedy for a group whose name is that of none of its models."""
    import difflib

    groups = _groups(_annotation(model, key))
    tags, tag_field = [_tag(group) for group in groups], groups[0].tag_field
    name = str(given.get(tag_field) if isinstance(given, dict) else given)
    near = difflib.get_close_matches(name, tags, 1)
    remedy = f"did you mean {near[0]}?" if near else "`lotune run --help` lists every setting"
    return f"{key}.{tag_field}: {name!r} is not known: expected one of {', '.join(tags)}", remedy


def _variant(model: type[Settings], place: tuple[int | str, ...]) -> type[Settings] | None:
    """The model that a fault's place is in, where its group has one of several; else None."""
    if len(place) < 2 or str(place[0]) not in model.model_fields:
        return None
    groups = _groups(model.model_fields[str(place[0])].annotation)
    return next((group for group in groups if len(groups) > 1 and _tag(group) == place[1]), None)


def _nearest(model: type[Settings], key: str) -> str:
    """The clause that names the known key nearest to an unknown one, empty where none is near."""
    import difflib

    known = [line.key for line in describe(model)] + _group_names(model)
    group, _, last = key.rpartition(".")
    siblings = {
        name.removeprefix(f"{group}.").split(".")[0] for name in known if not group or name.startswith(f"{group}.")
    }
    near = difflib.get_close_matches(last, sorted(siblings), n=1)
    if near:
        return f", the nearest is {group + '.' if group else ''}{near[0]}"
    elsewhere = [name for name in known if name.rpartition(".")[2] == last]
    near = elsewhere or difflib.get_close_matches(key, known, n=1)
    return f", the nearest is {near[0]}" if near else ""


def _group_names(model: type[Settings]) -> list[str]:
    return [name for name, field in model.model_fields.items() if _groups(field.annotation)]


def _groups(annotation: Any) -> tuple[type[Settings], ...]:
    """The settings models inside an annotation (`Inner`, `Inner | None` or one of several), if there are any."""
    return tuple(one for one in _union_members(annotation) if isinstance(one, type) and issubclass(one, Settings))


def _tag(model: type[Settings]) -> str:
    return str(model.model_fields[model.tag_field].default)


def _union_members(annotation: Any) -> tuple[Any, ...]:
    if typing.get_origin(annotation) in (UnionType, typing.Union):
        return typing.get_args(annotation)
    return (annotation,)


def _type_name(annotation: Any) -> str:
    """A type as people write it.

    >>> _type_name(int | None), _type_name(typing.Literal["a", "b"]), _type_name(list[str])
    ('int | null', 'a | b', 'list[str]')
    """
    names = []
    for choice in _union_members(annotation):
        origin = typing.get_origin(choice)
        if choice is type(None):
            names.append("null")
        elif origin is typing.Literal:
            names += [str(value) for value in typing.get_args(choice)]
        elif origin is not None:
            inner = ", ".join(_type_name(argument) for argument in typing.get_args(choice))
            names.append(f"{getattr(origin, '__name__', origin)}[{inner}]")
        else:
            names.append({"Path": "path"}.get(choice.__name__, choice.__name__))
    return " | ".join(names)


def _format_default(value: Any) -> str:
    """A default as it would be written in YAML."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_format_default, value)) + "]"
    return str(value) if str(value) else '""'


def as_json(result: Any) -> str:
    r"""Return the result of a verb as JSON; models become objects, and what has no form in JSON its text.

    >>> as_json({"done": Path("a/b")})
    '{\n  "done": "a/b"\n}'
    """
    import orjson

    def plain(value: Any) -> Any:
        if hasattr(value, "model_dump"):
            return value.model_dump(mode="json")
        return list(value) if isinstance(value, tuple) else str(value)

    content = orjson.dumps(result, default=plain, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS)
    return escaped(content.decode())
