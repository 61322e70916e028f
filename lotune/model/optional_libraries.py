"""Libraries that transformers and PEFT import only to check whether a model is theirs, hidden until they are needed.

Importing them costs a second or more. `unhide_optional_libraries` undoes `hide_optional_libraries` once weights in 8 or
4 bits are needed.
"""

from __future__ import annotations

import sys
from importlib import reload

HIDDEN = ("torchao", "bitsandbytes", "scipy", "sklearn")
"""torchao and bitsandbytes hold weights; scipy and sklearn serve losses and decodings that lotune never uses."""
CACHED_CHECKS = {
    "transformers.utils.import_utils": ("_is_package_available", "is_torchao_available", "is_bitsandbytes_available"),
    "peft.import_utils": (
        *("is_bnb_available", "is_bnb_4bit_available"),
        *("is_torchao_available", "is_torchao_ge_v0_18_0"),
    ),
}
"""Functions, by module, that cache whether a library is installed."""
DEPENDENT_MODULES = (
    "transformers.quantizers.quantizer_torchao",
    "transformers.integrations.torchao",
    "transformers.integrations.bitsandbytes",
)
"""Modules that use the libraries only if these can be imported along with the module."""


def hide_optional_libraries() -> None:
    """Make libraries that are not imported yet look as if they were not installed, unless transformers is imported.

    transformers and PEFT cache what is installed when they are imported.
    """
    if "transformers" in sys.modules:
        return
    for name in HIDDEN:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # how Python spells it


def unhide_optional_libraries() -> None:
    """Undo `hide_optional_libraries`, also for modules that are already imported."""
    hidden = [name for name in HIDDEN if name in sys.modules and sys.modules[name] is None]
    if not hidden:
        return
    for name in hidden:
        del sys.modules[name]
    for module, functions in CACHED_CHECKS.items():
        if module in sys.modules:
            for function in functions:
                getattr(getattr(sys.modules[module], function, None), "cache_clear", lambda: None)()
    for module in DEPENDENT_MODULES:
        if module in sys.modules:
            reload(sys.modules[module])
