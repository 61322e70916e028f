"""Print the sizes of the server's pages and of all pages with the studio's, and fail above their limits.

    python scripts/page_sizes.py

The pages have to arrive quickly on a phone.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1] / "lotune"
LIMITS = {
    "pages of the server": (("serve",), 80 * 1024),
    "pages of server and studio": (("serve", "studio"), 150 * 1024),
}
"""Rooms whose pages count, and the largest number of bytes, by what is printed."""


def main() -> int:
    """Print the sizes; return 1 if one is above its limit."""
    too_large = False
    for name, (rooms, limit) in LIMITS.items():
        size = sum(file.stat().st_size for room in rooms for file in (ROOT / room / "pages").iterdir())
        print(f"{name}: {size:,} bytes, at most {limit:,}")
        too_large |= size > limit
    return int(too_large)


if __name__ == "__main__":
    sys.exit(main())
