"""Print the size of the server's pages together, and fail above the limit.

    python scripts/page_sizes.py

The pages have to arrive quickly on a phone.
"""

from __future__ import annotations

import sys
from pathlib import Path

MAX_BYTES = 80 * 1024
PAGES = Path(__file__).parents[1] / "lotune" / "serve" / "pages"


def main() -> int:
    """Print the size; return 1 above the limit."""
    size = sum(file.stat().st_size for file in PAGES.iterdir())
    print(f"pages of the server: {size:,} bytes, at most {MAX_BYTES:,}")
    return int(size > MAX_BYTES)


if __name__ == "__main__":
    sys.exit(main())
