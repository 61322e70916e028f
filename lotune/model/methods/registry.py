"""The table of PEFT methods: a row makes a method available to recipes and to saved adapters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from lotune.model.methods.full import FULL
from lotune.model.methods.lora import LORA
from lotune.model.methods.method import Method
from lotune.model.methods.prompt_tuning import PROMPT_TUNING
from lotune.model.settings import AdapterSettings

METHODS: Mapping[str, Method] = {method.name: method for method in (LORA, PROMPT_TUNING, FULL)}
"""Methods by name."""
DEFAULT_METHOD = LORA.name
"""The method of settings that name none."""

if TYPE_CHECKING:
    AnyAdapterSettings = AdapterSettings
else:
    AnyAdapterSettings = Annotated[
        reduce(or_, (method.settings for method in METHODS.values())), Field(discriminator="method")
    ]
"""The settings of a method, discriminated by `method`."""


def adapter_settings(method: str = DEFAULT_METHOD, **values: Any) -> AdapterSettings:
    """Return the settings of a method.

    >>> adapter_settings("lora", rank=4).method
    'lora'
    """
    return METHODS[method].settings(**values)


def method_name(config: Any) -> str:
    """Return the name of the method of a PEFT configuration, whether or not lotune supports it."""
    kind = config.peft_type
    return str(getattr(kind, "value", kind)).lower()


def adapter_methods(model: Any) -> Iterator[tuple[Method | None, Any]]:
    """Yield the method and PEFT's configuration of each adapter of a model; an unknown method is None."""
    for config in getattr(model, "peft_config", {}).values():
        yield METHODS.get(method_name(config)), config


def is_selectable(model: Any) -> bool:
    """Return whether each request of a batch can choose its adapter."""
    return all(method is not None and method.selectable(config) for method, config in adapter_methods(model))


def needs_wrapper(model: Any) -> bool:
    """Return whether PEFT's wrapper decides in each call whether an adapter is applied."""
    return any(method is not None and method.needs_wrapper(config) for method, config in adapter_methods(model))
