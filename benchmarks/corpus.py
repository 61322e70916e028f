"""Cleaning and deduplication of a corpus, beside plain loops with datasketch.

    python benchmarks/corpus.py [--megabytes 64] [--pairs 1000] [--json FILE]

The articles are made from a seed: Chinese sentences of random characters with what WikiExtractor leaves in them. Each
figure is of a process of its own, in seconds of its processor time, beside the peer's in the same run. The peer cleans
with one regular expression, finds exact duplicates in a set, and near ones with datasketch (pip install datasketch);
without that package it has no figure for them. `--pairs` texts are planted with a near copy of Jaccard similarity .8
and with an unlike text of .4.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from lotune.data.corpus import Corpus
from lotune.data.corpus_split import SplitSettings, split_corpus
from lotune.data.duplicates import SHINGLE, Deduplicate, NearDuplicates, shingles

SIMILARITY, UNLIKE = 0.8, 0.4
RESIDUE = ("（）", "-{}-", "「」", "（，）", "\n", "<div>", "《》")
PLAIN_PATTERN = re.compile(r"-\{\s*\}-|</?div[^<>]*>|（[；，\s]*）|\([;,\s]*\)|「\s*」|《\s*》|“\s*”|[\r\n]+")
Measure = Callable[[Path], None]


def write_articles(file: Path, size: int, seed: int = 1) -> None:
    """Write articles of about 3 KB, `size` bytes together."""
    rng, written = random.Random(seed), 0
    characters = [chr(code) for code in range(0x4E00, 0x4E00 + 3000)]
    with file.open("w", encoding="utf-8") as lines:
        while written < size:
            sentences = ("".join(rng.choices(characters, k=30)) + rng.choice(("，", "。", *RESIDUE)) for _ in range(30))
            text = f"{''.join(rng.choices(characters, k=4))}\n\n{'。'.join(sentences)}。"
            written += lines.write(json.dumps({"text": text}, ensure_ascii=False) + "\n") * 3


def ours(deduplicate: Deduplicate) -> Measure:
    """Return a function that reads, cleans, deduplicates and divides a file."""
    return lambda file: (split_corpus(Corpus(file, "wiki"), SplitSettings(0.05, 0, deduplicate)), None)[1]


def plain_exact(file: Path) -> None:
    """Clean with one pattern until it matches nothing, and keep the texts that are new."""
    seen = set[str]()
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            seen.add(_plainly_cleaned(line))


def plain_near(file: Path) -> None:
    """The same, and near copies are found by datasketch."""
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=SIMILARITY, num_perm=128)
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            sketch = MinHash(num_perm=128)
            sketch.update_batch([shingle.encode() for shingle in shingles(_plainly_cleaned(line))])
            if not index.query(sketch):
                index.insert(str(number), sketch)


def _plainly_cleaned(line: str) -> str:
    body = json.loads(line)["text"].partition("\n\n")[2]
    while (shorter := PLAIN_PATTERN.sub("", body)) != body:
        body = shorter
    return str(body.strip())


MEASURES: dict[str, Measure] = {
    "exact": ours("exact"), "near": ours("near"), "plain exact": plain_exact, "plain near": plain_near,
}  # fmt: skip


def measured(name: str, file: Path) -> tuple[float, float] | None:
    """Return megabytes a second and the peak memory in MiB of a measure in a process of its own; None if it fails."""
    result = subprocess.run([sys.executable, __file__, "--measure", name, str(file)], capture_output=True, text=True)
    if result.returncode:
        print(f"{name}: {result.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return None
    seconds, memory = map(float, result.stdout.split())
    return file.stat().st_size / 1e6 / seconds, memory


def planted(pairs: int) -> tuple[float, float]:
    """Return the fraction of the near copies that are found, and of the unlike texts that are taken for copies."""
    rng, finder = random.Random(1), NearDuplicates(SIMILARITY)
    texts = ["".join(chr(rng.randrange(0x4E00, 0x9FA5)) for _ in range(600)) for _ in range(pairs)]
    for number, text in enumerate(texts):
        finder.first_like(number, text)
    unlike = sum(finder.first_like(pairs, _changed(text, UNLIKE, rng)) is not None for text in texts)
    found = sum(finder.first_like(pairs, _changed(text, SIMILARITY, rng)) == n for n, text in enumerate(texts))
    return found / pairs, unlike / pairs


def _changed(text: str, similarity: float, rng: random.Random) -> str:
    kept, characters = 2 * similarity / (1 + similarity), list(text)
    for place in rng.sample(range(0, len(text) - SHINGLE, SHINGLE), round((1 - kept) * len(text) / SHINGLE)):
        characters[place + 2] = "※"
    return "".join(characters)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=64, help="size of the corpus")
    parser.add_argument("--pairs", type=int, default=1000, help="number of planted texts")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--measure", nargs=2, metavar=("NAME", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        started = time.process_time()
        MEASURES[options.measure[0]](Path(options.measure[1]))
        print(time.process_time() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "articles.jsonl"
        write_articles(file, options.megabytes * 1_000_000)
        for name, reach in (("exact", 20), ("near", 4)):
            own, peer = measured(name, file), measured(f"plain {name}", file)
            assert own is not None
            ratio = own[0] / peer[0] if peer else None
            beside = f"; plain: {peer[0]:.1f} MB/s, ratio {ratio:.2f}" if peer else ""
            print(f"{name}: {own[0]:.1f} MB/s, {own[1]:,.0f} MiB{beside}; to reach: {reach} MB/s")
            figures.append({
                "name": f"{name} duplicates", "ours": own[0], "peer": peer and peer[0], "peer_name": "plain loop",
                "ratio": ratio, "reach": reach, "unit": "MB/s",
            })  # fmt: skip
            figures.append({"name": f"memory, {name}", "ours": own[1], "reach": 2048, "unit": "MiB"})
    found, unlike = planted(options.pairs)
    print(f"near copies found: {found:.1%} (to reach: 95 %); unlike texts removed: {unlike:.1%} (at most 1 %)")
    figures.append({"name": "near copies found", "ours": found, "reach": 0.95, "unit": "fraction"})
    figures.append({"name": "unlike texts removed", "ours": unlike, "reach": 0.01, "unit": "fraction"})
    if options.json:
        options.json.write_text(json.dumps({"figures": figures}))


if __name__ == "__main__":
    main()
