"""Help of settings: key, type, default and sentence of each field, generated from the settings models."""

from __future__ import annotations

import ast
import functools
import itertools
import sys
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic.fields import FieldInfo

from lotune.settings import Settings, group_models, join_names, tag_of, union_members


class FieldHelp(NamedTuple):
    """One line of the generated help."""

    key: str
    type: str
    default: str
    sentence: str


def describe(model: type[Settings], prefix: str = "") -> list[FieldHelp]:
    """Return the help of all fields, nested ones under dotted keys.

    >>> class Rows(Settings):
    ...     rows: int | None = 5
    >>> describe(Rows)
    [FieldHelp(key='rows', type='int | null', default='5', sentence='')]
    """
    lines: list[FieldHelp] = []
    for name, field in model.model_fields.items():
        groups = group_models(field.annotation)
        if groups:
            lines += _describe_variants(groups, f"{prefix}{name}.", field)
        else:
            default = (
                "required" if field.is_required() else _format_default(field.get_default(call_default_factory=True))
            )
            # The docstring below a field serves the reader of the code and the user of --help alike.
            sentence = field.description or _sentence(model, name)
            lines.append(FieldHelp(prefix + name, _type_name(field.annotation), default, sentence))
    return lines


def _describe_variants(models: Sequence[type[Settings]], prefix: str, field: FieldInfo) -> list[FieldHelp]:
    """Return the help of a group that is one of several models; settings of some models name these."""
    if len(models) == 1:
        return describe(models[0], prefix)
    owners: dict[str, dict[FieldHelp, list[str]]] = {}
    for model in models:
        for line in describe(model, prefix):
            owners.setdefault(line.key, {}).setdefault(line, []).append(tag_of(model))
    default, tag_field = tag_of(type(field.get_default(call_default_factory=True))), models[0].tag_field
    tag = FieldHelp(prefix + tag_field, " | ".join(map(tag_of, models)), default, _sentence(models[0], tag_field))
    return [tag, *(_merged(lines, len(models)) for key, lines in owners.items() if key != tag.key)]


def _merged(lines: Mapping[FieldHelp, Sequence[str]], count: int) -> FieldHelp:
    """Merge the help lines of a setting, each with the names of its models, if not all `count` models share it."""
    first, *_ = lines
    owners: dict[str, list[str]] = {}
    defaults: dict[str, list[str]] = {}
    for line, names in lines.items():
        owners.setdefault(line.sentence, []).extend(names)
        defaults.setdefault(line.default, []).extend(names)
    sentence, default = first.sentence, first.default
    if len(owners) > 1 or len(owners[sentence]) < count:
        sentence = " ".join(f"Of {join_names(names)}: {text}" for text, names in owners.items())
    if len(defaults) > 1:
        default = ", ".join(f"{value} ({join_names(names)})" for value, names in defaults.items())
    return first._replace(sentence=sentence, default=default)


def _sentence(model: type[Settings], field: str) -> str:
    """Return the docstring under a field, from the class that declares it."""
    # A field can be declared in a base class, in another module.
    docstrings = (_docstrings(owner.__module__).get((owner.__name__, field)) for owner in model.__mro__)
    return next(filter(None, docstrings), "")


@functools.cache
def _docstrings(module: str) -> Mapping[tuple[str, str], str]:
    """Return the docstrings under the fields of a module's classes, each on one line.

    pydantic would read them at every start, which takes a fifth of the time limit of `--help`.
    """
    source = getattr(sys.modules.get(module), "__file__", None)
    # Settings that a test or a notebook defines have no file; their help has no sentences.
    if not source or not Path(source).is_file():
        return {}
    sentences: dict[tuple[str, str], str] = {}
    for model in ast.parse(Path(source).read_text(encoding="utf-8")).body:
        if isinstance(model, ast.ClassDef):
            for field, below in itertools.pairwise(model.body):
                match field, below:
                    case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                        sentences[model.name, name] = " ".join(text.split())
    return sentences


def _type_name(annotation: Any) -> str:
    """Return a type in the notation of the help.

    >>> _type_name(int | None), _type_name(typing.Literal["a", "b"]), _type_name(list[str]), _type_name(list[Settings])
    ('int | null', 'a | b', 'list[str]', 'list[mapping]')
    """
    names = []
    for choice in union_members(annotation):
        if typing.get_origin(choice) is typing.Annotated:
            choice = typing.get_args(choice)[0]
        origin = typing.get_origin(choice)
        if choice is type(None):
            names.append("null")
        elif origin is typing.Literal:
            names += [str(value) for value in typing.get_args(choice)]
        elif origin is not None:
            inner = ", ".join(_type_name(argument) for argument in typing.get_args(choice))
            names.append(f"{getattr(origin, '__name__', origin)}[{inner}]")
        elif isinstance(choice, type) and issubclass(choice, Settings):
            names.append("mapping")
        else:
            names.append({"Path": "path"}.get(choice.__name__, choice.__name__))
    return " | ".join(names)


def _format_default(value: Any) -> str:
    """Return a default in YAML."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_format_default, value)) + "]"
    return str(value) if str(value) else '""'
