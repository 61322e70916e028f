"""Libraries that transformers and PEFT import only to ask whether a model is theirs: a command keeps them out.

They cost a second or more. `let_in` undoes `hold_back` once weights in 8 or 4 bit are asked for.
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
"""Functions, by module, that remember whether a library is there."""
BUILT_ON_IT = (
    "transformers.quantizers.quantizer_torchao",
    "transformers.integrations.torchao",
    "transformers.integrations.bitsandbytes",
)
"""Modules that have names of the libraries only if these are there while the module is imported."""


def hold_back() -> None:
    """Make the libraries that are not imported yet look as if they were not installed, unless transformers is there.

    transformers and PEFT remember from their import on what is installed.
    """
    if "transformers" in sys.modules:
        return
    for name in PROBED:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # how Python spells it


def let_in() -> None:
    """Undo `hold_back`, for modules that are imported already, too."""
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
