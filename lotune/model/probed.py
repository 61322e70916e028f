"""Keeping out libraries that transformers and PEFT import only to check whether a model is theirs.

Importing them costs a second or more. `let_in` undoes `hold_back` once weights in 8 or 4 bit are needed.
"""

from __future__ import annotations

import sys
from importlib import reload

PROBED = ("torchao", "bitsandbytes", "scipy", "sklearn")
"""torchao and bitsandbytes hold weights; scipy and sklearn serve losses and decodings that lotune never uses."""
ASKED = {
    "transformers.utils.import_utils": ("_is_package_available", "is_torchao_available", "is_bitsandbytes_available"),
    "peft.import_utils": (
        *("is_bnb_available", "is_bnb_4bit_available"),
        *("is_torchao_available", "is_torchao_ge_v0_18_0"),
    ),
}
"""Functions, by module, that cache whether a library is installed."""
BUILT_ON_IT = (
    "transformers.quantizers.quantizer_torchao",
    "transformers.integrations.torchao",
    "transformers.integrations.bitsandbytes",
)
"""Modules that use the libraries only if these can be imported along with the module."""


def hold_back() -> None:
    """Make libraries that are not imported yet look as if they were not installed, unless transformers is imported.

    transformers and PEFT cache what is installed when they are imported.
    """
    if "transformers" in sys.modules:
        return
    for name in PROBED:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # how Python spells it


def let_in() -> None:
    """Undo `hold_back`, also for modules that are already imported."""
    held = [name for name in PROBED if name in sys.modules and sys.modules[name] is None]
    if not held:
        return
    for name in held:
        del sys.modules[name]
    for module, functions in ASKED.items():
        if module in sys.modules:
            for function in functions:
                getattr(getattr(sys.modules[module], function, None), "cache_clear", lambda: None)()
    for module in BUILT_ON_IT:
        if module in sys.modules:
            reload(sys.modules[module])
