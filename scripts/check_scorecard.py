#!/usr/bin/env python3
"""Exit with status 1 if a scorecard is not valid or its target figure is too low.

check_scorecard.py SCORECARD.json MINIMUM
"""

import json
import sys
from pathlib import Path

path, minimum = Path(sys.argv[1]), float(sys.argv[2])
card = json.loads(path.read_text(encoding="utf-8"))
faults = list(card["reasons"])
if not card["valid"] and not faults:
    faults = ["not valid"]
if card["target"]["value"] < minimum:
    faults.append(f"{card['target']['metric']} is {card['target']['value']:.3f}, {minimum} needed")
if faults:
    sys.exit(f"{path}: {'; '.join(faults)}")
