#!/usr/bin/env python3
"""Status 1 where a scorecard is not valid or its target figure too low: check_scorecard.py SCORECARD.json LEAST."""

import json
import sys
from pathlib import Path

path, least = Path(sys.argv[1]), float(sys.argv[2])
card = json.loads(path.read_text(encoding="utf-8"))
faults = list(card["reasons"])
if not card["valid"] and not faults:
    faults = ["not valid"]
if card["target"]["value"] < least:
    faults.append(f"{card['target']['metric']} is {card['target']['value']:.3f}, {least} needed")
if faults:
    sys.exit(f"{path}: {'; '.join(faults)}")
