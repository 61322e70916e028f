"""Continuous batching: rows enter free slots while other rows run, and a prefix that prompts share is computed once.

Shapes: n running rows, T tokens of a row in a pass, L real tokens of all rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from math import ceil

import torch

from lotune.generate.llama_forward import ForwardInput
from lotune.generate.prefix_cache import PrefixCache, StoredPrefix
from lotune.generate.prefix_sharing import common_prefix_length, group_by_prefix
from lotune.generate.prompt_lookup import MAX_HISTORY, MAX_MATCH, NgramIndex
from lotune.generate.requests import Completion, Request
from lotune.generate.running import RunningRequest, TokenSelector
from lotune.generate.slot_model import SlotModel
from lotune.model.attention import KeySpan
from lotune.model.eval_mode import eval_mode
from lotune.model.logits import largest_logits
from lotune.model.probes import PROBE_ROWS, is_close

PREFILL_TOKENS = 4096
"""Maximum number of prompt tokens in one forward pass, with padding."""
CACHE_GROWTH = 1.25
"""The cache is resized only if this makes room for at least this many times as many rows."""
SLOT_BLOCK = 16
"""Number of neighbouring slots in a block, whose rows attend to the length of the longest row in it."""
MAX_RUNNING = {"cpu": 128, "cuda": 1024}
"""Maximum number of running rows: more rows take memory and make a step longer, but no token cheaper."""
MAX_STEP_TOKENS = {"cpu": 64, "cuda": 256}
"""Maximum number of tokens in a step with drafts: up to here, more tokens cost little more than one."""
MAX_JOINED_ELEMENTS = 2**19
"""Maximum size of the attention mask of a step that also reads a new prompt, as its rows are padded for attention."""
MAX_MASK_ELEMENTS = 2**24
"""Maximum size of an attention mask, queries times keys, above which a short shared prefix is not used."""


class ContinuousBatcher:
    """Rows in the slots of a model: the n running rows are in the first n slots, and the next may hold an ended row.

    A new row copies the prefix that it shares with a row in one of these slots, or with one in `prefix_cache`.
    `waiting` rows enter from the end. `prompt_tokens` counts the tokens of all prompts, `shared_tokens` those that were
    copied.
    """

    def __init__(self, slots: SlotModel) -> None:
        self.slots, self.device = slots, slots.device
        self.max_rows = MAX_RUNNING.get(self.device.type, MAX_RUNNING["cuda"])
        self.max_step_tokens = MAX_STEP_TOKENS.get(self.device.type, MAX_STEP_TOKENS["cuda"])
        self.draft_history = NgramIndex()
        self.prefix_cache = PrefixCache(0)
        self.prompt_tokens = self.shared_tokens = 0
        self.running: list[RunningRequest] = []
        self.waiting: list[RunningRequest] = []
        # Numbers of computed tokens of running rows whose prompt the next step reads, by the number of the row.
        self._entering: dict[int, int] = {}
        self.whole_answers = False
        self._timed = False

    @torch.inference_mode()
    def matches_transformers(self) -> bool:
        """Return whether rows side by side in slots get the logits that each row gets alone and without a cache."""
        try:
            with eval_mode(self.slots.model):
                logits, expected = self._probe_logits(), [self._uncached_logits(row) for row in PROBE_ROWS]
            return is_close(logits, torch.cat(expected), self.slots.dtype)
        except Exception:  # each architecture fails in its own way
            return False
        finally:
            self.running.clear()
            self.slots.clear()

    def _probe_logits(self) -> torch.Tensor:
        """Return logits (n, V) after the probe's rows, computed in three passes: a prompt, one token, three tokens."""
        self._resize(len(PROBE_ROWS), max(map(len, PROBE_ROWS)))
        self.prefill([RunningRequest(number, Request(row[:-3], 4)) for number, row in enumerate(PROBE_ROWS)])
        self._decode_step([[] for _ in PROBE_ROWS])
        ids = torch.tensor([row[-3:] for row in PROBE_ROWS], device=self.device)  # (n, 3)
        positions = torch.tensor([range(len(row) - 3, len(row)) for row in PROBE_ROWS], device=self.device)
        return self._forward(self.running, ForwardInput(0, ids, positions, max(map(len, PROBE_ROWS))))

    def _uncached_logits(self, row: Sequence[int]) -> torch.Tensor:
        """Return logits (1, V) after a row that is computed alone and without a cache."""
        ids = torch.tensor([row], device=self.device)  # (1, T)
        positions = torch.arange(len(row), device=self.device)[None]
        output = self.slots.model(input_ids=ids, position_ids=positions, use_cache=False, logits_to_keep=1)
        logits: torch.Tensor = output.logits[:, -1]  # (1, 1, V) -> (1, V)
        return logits

    def check(self, request: Request) -> None:
        """Accept every request that the model can answer."""

    @contextmanager
    def session(self) -> Iterator[None]:
        """Make the model ready for steps within the block."""
        active = self.slots.active_adapters
        with self.slots.session():
            if self.slots.active_adapters != active:  # keys of another active adapter are of no use
                self.prefix_cache.clear()
            yield

    def add(self, rows: list[RunningRequest]) -> None:
        """Add rows behind those that wait: the longest first, so that short rows fill the slots at the end."""
        self._timed = self._timed or any(row.request.timeout_seconds is not None for row in rows)
        self.waiting[:0] = sorted(rows, key=lambda row: (row.max_length, -row.index))

    def remove_ended(self) -> None:
        """Remove the waiting and running rows that have an outcome."""
        self.waiting = [row for row in self.waiting if row.outcome is None]
        for slot in reversed(range(len(self.running))):
            if self.running[slot].outcome is not None:
                self._evict(slot)

    def reset(self) -> None:
        """Forget the running rows and all cached prompts."""
        self.running.clear()
        self._entering.clear()
        self.slots.clear()
        self.prefix_cache.clear()
        self.draft_history = NgramIndex()

    def step(self, selector: TokenSelector, batch_tokens: int) -> None:
        """Admit waiting rows to free slots, and generate the next tokens of each running row.

        At most `batch_tokens` tokens are held at once, but always one row.
        """
        if self._timed:
            self.waiting = [row for row in self.waiting if not selector.end_if_late(row)]
        if self.waiting:
            self._admit(selector, batch_tokens)
        drafts = self._drafts()
        ended = list(self._accept_tokens(0, self.running, drafts, self._decode_step(drafts), selector))
        for slot in sorted(ended, reverse=True):
            self._evict(slot)

    def _admit(self, selector: TokenSelector, batch_tokens: int) -> None:
        """Compute prompts of waiting rows into free slots, from the end of `waiting`.

        A prompt that is computed alone gets its first token at once, and may end with it. A row that is longer than the
        capacity of the slots waits until they can be resized.
        """
        waiting, slots = self.waiting, self.slots
        capacity = max(row.max_length for row in (*self.running, waiting[-1]))
        max_slots = max(1, batch_tokens // capacity)
        if max_slots <= len(self.running):
            return
        count = len(self.running) + len(waiting)
        if count > slots.slots:
            # Spare slots for rows that may follow, as every growth copies the cache.
            count = max(count, ceil(CACHE_GROWTH * slots.slots))
        count = min(max_slots, count, self.max_rows)
        oversized = not self.running and slots.slots > count and slots.slots * slots.capacity > batch_tokens
        if count >= CACHE_GROWTH * slots.slots or capacity > slots.capacity or oversized:
            self._resize(count, capacity)
        while waiting and waiting[-1].max_length <= slots.capacity and len(self.running) < slots.slots:
            free, rows, longest = slots.slots - len(self.running), [waiting.pop()], 0
            while waiting and waiting[-1].max_length <= slots.capacity and len(rows) < free:
                longest = max(longest, rows[-1].length, waiting[-1].length)
                if longest * (len(rows) + 1) > PREFILL_TOKENS:
                    break
                rows.append(waiting.pop())
            if len(rows) > 1:
                self.prefill(rows)
            elif not self._enter(rows[0]):
                self._prefill_one(rows[0], selector)

    def _resize(self, slots: int, capacity: int) -> None:
        self.slots.resize(slots, capacity, len(self.running) + 1)

    def prefill(self, rows: list[RunningRequest]) -> None:
        """Compute all tokens of the prompts except the last ones, which the next step adds to the running rows' tokens.

        Rows that share a prefix with a slot come first, then rows that share nothing, then rows that share with these.
        """
        cached = [self._cached_prefix(row) for row in rows]
        leaders, followers = group_by_prefix(rows, [shared for shared, _ in cached])
        own = [(*cached[index], rows[index]) for index in leaders]
        fresh = [row for shared, _, row in own if not shared]
        sharing = [(shared, source, row) for shared, source, row in own if shared]
        first = len(self.running)
        # The slot after the running rows may hold a prefix that is still needed, so it is written last.
        for index in reversed(range(len(sharing))):
            shared, source, _ = sharing[index]
            self._copy_prefix(source, first + index, shared)
        self._prefill_suffix([(shared, row) for shared, _, row in sharing])
        self._prefill_from_start(fresh)
        slot_of = {id(row): slot for slot, row in enumerate((*(row for *_, row in sharing), *fresh), first)}
        for slot, (shared, leader, _) in enumerate(followers, len(self.running)):
            self.slots.copy(slot_of[id(leader)], slot, shared)
        self._prefill_suffix([(shared, row) for shared, _, row in followers])
        self._count(rows, [shared for shared, *_ in (*sharing, *followers)])

    def _enter(self, row: RunningRequest) -> bool:
        """Let the next step read a prompt beside the tokens of the running rows; return whether that pays.

        The weights are then read once for both, which is most of the time of a step of a few rows on a CPU.
        """
        slots, slot = self.slots, len(self.running)
        if not self.running or slots.fast is None or (row.request.adapter is not None and not slots.fast_with_names):
            return False
        shared, source = self._cached_prefix(row)
        if (slot + 1) * (row.length + 1 - shared) * max(
            one.length for one in (*self.running, row)
        ) > MAX_JOINED_ELEMENTS:
            return False
        if shared:
            self._copy_prefix(source, slot, shared)
        self._count([row], [shared])
        slots.cached_ids[slot], slots.adapters[slot] = list(row.prompt[:shared]), row.request.adapter
        self._entering[row.index] = shared
        self.running.append(row)
        return True

    def _prefill_one(self, row: RunningRequest, selector: TokenSelector) -> None:
        """Compute one whole prompt and choose the first tokens of its answer, which may end with them."""
        (shared, source), slot = self._cached_prefix(row), len(self.running)
        draft = row.draft(self.draft_history, self.max_step_tokens - 1)
        ids = torch.tensor([[*row.request.prompt_ids[shared:], *draft]], device=self.device)  # (1, T)
        end = row.length + 1 + len(draft)
        positions = torch.arange(shared, end, device=self.device)[None]
        if shared:
            self._copy_prefix(source, slot, shared)
        self._count([row], [shared])
        inputs = ForwardInput(slot, ids, positions, end, fresh=not shared)
        logits = self._forward([row], inputs, keep=1 + len(draft))
        self.slots.cached_ids[slot], self.slots.adapters[slot] = list(row.request.prompt_ids), row.request.adapter
        if list(self._accept_tokens(slot, [row], [draft], logits, selector)):
            self._store(slot)
        else:
            self.running.append(row)

    def _store(self, slot: int) -> None:
        """Keep what the slot of an ended row holds, as a conversation may go on."""
        if self.prefix_cache.max_bytes:
            self.prefix_cache.put(self.slots.save(slot))

    def _count(self, rows: Sequence[RunningRequest], shared: Sequence[int]) -> None:
        self.prompt_tokens += sum(len(row.request.prompt_ids) for row in rows)
        self.shared_tokens += sum(shared)

    def _copy_prefix(self, source: int | StoredPrefix, slot: int, length: int) -> None:
        if isinstance(source, StoredPrefix):
            self.slots.restore(source, slot, length)
        else:
            self.slots.copy(source, slot, length)

    def _cached_prefix(self, row: RunningRequest) -> tuple[int, int | StoredPrefix]:
        """Return the largest number of tokens of a prompt that are computed already, and where they are."""
        slots = range(min(len(self.running) + 1, len(self.slots.cached_ids)))
        candidates = [slot for slot in slots if self.slots.adapters[slot] == row.request.adapter]
        shared, slot = max(
            ((common_prefix_length(row.prompt, self.slots.cached_ids[slot]), slot) for slot in candidates),
            default=(0, 0),
        )
        source: int | StoredPrefix = slot
        stored_length, stored = self.prefix_cache.find(row.prompt, row.request.adapter)
        if stored is not None and stored_length > shared:
            shared, source = stored_length, stored
        # A prompt from its beginning needs no mask, but one that continues a prefix does.
        large = (row.length - shared) * row.length > MAX_MASK_ELEMENTS
        return (0, 0) if large and 2 * shared < row.length else (shared, source)

    def _prefill_from_start(self, rows: list[RunningRequest]) -> None:
        """Compute prompts from their beginning in one pass, without reading the cache."""
        length = max((row.length for row in rows), default=0)
        if length:
            padded = [[*row.prompt, *[0] * (length - row.length)] for row in rows]
            positions = torch.arange(length, device=self.device).expand(len(rows), -1)  # (n, T)
            ids, lengths = torch.tensor(padded, device=self.device), [row.length for row in rows]
            self._forward(rows, ForwardInput(len(self.running), ids, positions, length, lengths, fresh=True))
        self._start_rows(rows)

    def _prefill_suffix(self, rows: list[tuple[int, RunningRequest]]) -> None:
        """Compute the rest of prompts whose first tokens, given as numbers, are in their slots."""
        entering = [row for _, row in rows]
        length = max((row.length - shared for shared, row in rows), default=0)
        if length:
            padded = [[*row.prompt[shared:], *[0] * (length - row.length + shared)] for shared, row in rows]
            positions = self.slots.position_ids([shared for shared, _ in rows], length)  # (n, T)
            ids, lengths = torch.tensor(padded, device=self.device), [row.length - shared for shared, row in rows]
            attended = max(row.length for row in entering)
            self._forward(entering, ForwardInput(len(self.running), ids, positions, attended, lengths))
        self._start_rows(entering)

    def _start_rows(self, rows: list[RunningRequest]) -> None:
        for slot, row in enumerate(rows, len(self.running)):
            self.slots.cached_ids[slot], self.slots.adapters[slot] = list(row.prompt), row.request.adapter
        self.running += rows

    def _drafts(self) -> list[list[int]]:
        """Return a draft for each running row; drafts are empty if many rows run."""
        max_tokens = self.max_step_tokens // max(1, len(self.running)) - 1
        return [row.draft(self.draft_history, max_tokens) for row in self.running]

    def _decode_step(self, drafts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Return logits (L, V) after one more token of each running row, and after those of its draft.

        The prompts of rows that have just entered are read in the same pass.
        """
        if not self.running:
            return torch.empty(0)
        lines, unread = [], [self._unread(row) for row in self.running]
        for cached, row, prompt, draft in zip(self.slots.cached_ids, self.running, unread, drafts, strict=False):
            cached += [*prompt, row.last]
            lines.append([*prompt, row.last, *draft])
        self._entering.clear()
        longest = max(map(len, lines))
        ids, positions = [], []
        for row, prompt, line in zip(self.running, unread, lines, strict=True):
            first = row.length - len(prompt)
            # The padding repeats the last token at its own position, so it writes the same keys again.
            ids.append([*line, *line[-1:] * (longest - len(line))])
            positions.append([first + min(offset, len(line) - 1) for offset in range(longest)])
        attended = max(map(max, positions)) + 1
        read, at = torch.tensor(ids, device=self.device), torch.tensor(positions, device=self.device)  # (n, T) each
        if longest == 1:
            return self._forward(self.running, ForwardInput(0, read, at, attended, key_spans=self._key_spans()))
        scored = [1 + len(draft) for draft in drafts] if any(unread) else None
        inputs = ForwardInput(0, read, at, attended, list(map(len, lines)), scored=scored)
        return self._forward(self.running, inputs, keep=None)

    def _unread(self, row: RunningRequest) -> tuple[int, ...]:
        """Return the tokens of a prompt, except its last one, that are not computed yet."""
        computed = self._entering.get(row.index)
        return () if computed is None else row.prompt[computed:]

    def _accept_tokens(
        self,
        first: int,
        rows: list[RunningRequest],
        drafts: Sequence[Sequence[int]],
        logits: torch.Tensor,
        selector: TokenSelector,
    ) -> Iterator[int]:
        """Give rows, in the slots from `first` on, their next tokens; yield the indices of the rows that end.

        Logits (L, V) follow the last token of each row and each token of its draft. A drafted token is accepted if it
        is the one that is chosen from the logits before it.
        """
        starts = [0, *accumulate(1 + len(draft) for draft in drafts)]
        open_, accepted, largest = list(range(len(rows))), 0, largest_logits(logits) if rows else []
        while open_:
            lines, still_open = [starts[index] + accepted for index in open_], list[int]()
            current = logits if len(open_) == len(logits) else logits[lines]  # (rows left, V)
            chosen = selector.advance(current, [rows[index] for index in open_], [largest[line] for line in lines])
            for index, token in zip(open_, chosen, strict=True):
                row, draft = rows[index], drafts[index]
                if accepted:
                    self.slots.cached_ids[first + index].append(draft[accepted - 1])
                if row.outcome is not None:
                    self._remember(row, token)
                    yield index
                elif accepted < len(draft) and draft[accepted] == token:
                    still_open.append(index)
                    continue
                row.update_draft_budget(len(draft), accepted)
            open_, accepted = still_open, accepted + 1

    def _remember(self, row: RunningRequest, token: int) -> None:
        """Add the end of the prompt and the answer to the history of drafts, as another answer may repeat them."""
        if not isinstance(row.outcome, Completion):
            return
        if len(self.draft_history.ids) > MAX_HISTORY:
            self.draft_history = NgramIndex()
        end = [token] if row.outcome.finish_reason == "eos" else []
        self.draft_history.extend([*row.request.prompt_ids[-MAX_MATCH:], *row.ids, *end])

    def _key_spans(self) -> list[KeySpan] | None:
        """Return the attended length of each block of slots; neighbouring blocks of similar length are merged."""
        rows, spans = self.running, list[KeySpan]()
        if not self.slots.buckets or len(rows) <= SLOT_BLOCK:
            return None
        for first in range(0, len(rows), SLOT_BLOCK):
            last = min(first + SLOT_BLOCK, len(rows))
            length = max(row.length for row in rows[first:last]) + 1
            if spans and spans[-1][2] * CACHE_GROWTH >= length >= spans[-1][2] / CACHE_GROWTH:
                first, _, previous = spans.pop()
                length = max(length, previous)
            spans.append((first, last, length))
        return spans

    def _forward(self, rows: Sequence[RunningRequest], inputs: ForwardInput, keep: int | None = 1) -> torch.Tensor:
        """Return logits as `SlotModel.logits` does, with the adapter that the request of each row names."""
        names = self.slots.names([row.request.adapter for row in rows])
        return self.slots.logits(inputs.with_adapters(names), keep)

    def _evict(self, slot: int) -> None:
        """Remove a row: the last row of its block moves into its slot, the last row of the next block follows, etc.

        Later rows are shorter and further behind, so blocks keep rows of similar length.
        """
        last = len(self.running) - 1
        self._store(slot)
        while slot < last:
            source = slot // SLOT_BLOCK * SLOT_BLOCK + SLOT_BLOCK - 1
            source = min(source if source > slot else slot + SLOT_BLOCK, last)
            self.running[slot] = self.running[source]
            self.slots.copy(source, slot, self.running[slot].length)
            slot = source
        self.running.pop()
