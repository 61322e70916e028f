"""Continuous batching over the slots of one cache, in which prompts that begin alike are read from there on only.

Shapes: n running rows, T tokens read at once, W width of what is attended to, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from math import ceil
from typing import TYPE_CHECKING, Any

import torch

from lotune.generate.kv_cache import SlotCache
from lotune.generate.llama_forward import ForwardInput, LlamaForward, logits_close
from lotune.generate.prefix_sharing import common_prefix_length, group_by_prefix
from lotune.generate.prompt_lookup import MAX_HISTORY, MAX_MATCH, NgramIndex
from lotune.generate.requests import Completion, Request
from lotune.generate.running import RequestQueue, RunningRequest, TokenSelector
from lotune.model.attention import KeySpan
from lotune.model.eval_mode import eval_mode
from lotune.model.logits import largest_logits

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PREFILL_TOKENS = 4096
"""Most tokens of prompts, with padding, in one forward pass."""
CACHE_GROWTH = 1.25
"""The cache is laid out anew where that makes room for this many times as many rows."""
SLOT_BLOCK = 16
"""So many neighbouring slots hold rows of similar length, which attend to the width of their longest."""
MAX_RUNNING = {"cpu": 128, "cuda": 1024}
"""Rows that run at once at most: more of them make a step longer and a token no cheaper, and take memory."""
MAX_STEP_TOKENS = {"cpu": 64, "cuda": 256}
"""Tokens of a step, drafts included: more of them make a step longer on a processor, where a few cost like one."""
MAX_MASK_ELEMENTS = 2**24
"""Pairs of a token that is read and one that it may see: where there are more, a short shared beginning is not used."""
_PROBE = ((5, 3, 7, 2, 9, 4, 8, 6, 2), (6, 3, 2, 8, 4))
"""Rows of token ids that every vocabulary has."""


class ContinuousBatcher:
    """Rows under way in slots: running ones are always the first n, and the one after them may hold an ended row.

    `cached_ids` are the token ids whose keys each slot holds, computed with one of `adapters`; a new row takes over
    what it has in common with one of them.
    """

    def __init__(
        self, model: PreTrainedModel, kinds: dict[str, int | None], blocks: bool, lean: LlamaForward | None = None
    ) -> None:
        """`blocks`: whether the model's attention takes `widths` (`lotune.model.attention`); `lean`: its lean pass."""
        self.model, self.kinds, self.blocks, self.lean = model, kinds, blocks, lean
        self.device, self.dtype = model.device, model.dtype
        self.most_slots = MAX_RUNNING.get(self.device.type, MAX_RUNNING["cuda"])
        self.most_read = MAX_STEP_TOKENS.get(self.device.type, MAX_STEP_TOKENS["cuda"])
        self.draft_history = NgramIndex()
        self.running: list[RunningRequest] = []
        self.cached_ids: list[list[int]] = []
        self.adapters: list[str | None] = []
        self.active_adapters: Any = None
        self.cache = SlotCache(0, 0)

    @torch.inference_mode()
    def matches_transformers(self) -> bool:
        """Whether the model bears slots: rows side by side are what each is alone and without a cache."""
        try:
            with eval_mode(self.model):
                found, expected = self._probe_logits(), [self._uncached_logits(row) for row in _PROBE]
            return logits_close(found, torch.cat(expected), self.dtype)
        except Exception:  # each architecture fails in its own way
            return False
        finally:
            self.running.clear()
            self.cache, self.cached_ids, self.adapters = SlotCache(0, 0), [], []

    def _probe_logits(self) -> torch.Tensor:
        """Logits (n, V) after the probe's rows, which are read in three parts: a prompt, one token, and three."""
        self._resize(len(_PROBE), max(map(len, _PROBE)))
        self._prefill([RunningRequest(number, Request(row[:-3], 4)) for number, row in enumerate(_PROBE)])
        self._decode_step([[] for _ in _PROBE])
        ids = torch.tensor([row[-3:] for row in _PROBE], device=self.device)
        places = torch.tensor([range(len(row) - 3, len(row)) for row in _PROBE], device=self.device)
        return self._forward(self.running, ForwardInput(0, ids, places, max(map(len, _PROBE))))

    def _uncached_logits(self, row: Sequence[int]) -> torch.Tensor:
        """Logits (1, V) after a row that is read alone and without a cache."""
        ids = torch.tensor([row], device=self.device)
        places = torch.arange(len(row), device=self.device)[None]
        logits: torch.Tensor = self.model(input_ids=ids, position_ids=places, use_cache=False, logits_to_keep=1).logits
        return logits[:, -1]

    def run(self, arrivals: RequestQueue, ending: TokenSelector, batch_tokens: int) -> Iterator[tuple[int, Completion]]:
        """(number of the answer, answer) as answers end; at most `batch_tokens` tokens are held at once."""
        self._begin()
        try:
            yield from self._run(arrivals, ending, batch_tokens)
        except GeneratorExit:
            raise
        except BaseException:  # a pass may have been cut off: nobody knows what the slots hold
            self.cache, self.cached_ids, self.adapters = SlotCache(0, 0), [], []
            raise

    def continuation_logits(self, rows: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> Sequence[torch.Tensor]:
        """Logits (len(ids), V) of the ids that follow a prompt, for rows of (prompt, ids): a prompt is read once.

        It takes a slot for each row and one for each prompt; the first prompt is remembered for the next call.
        """
        self._begin()
        prompts = list(dict.fromkeys(prompt for prompt, _ in rows))
        slots, need = len(prompts) + len(rows), max(len(prompt) + len(ids) for prompt, ids in rows)
        if slots > self.cache.shared.slots or need > self.cache.shared.capacity:
            self._resize(slots, need)
        asked, part = (
            [RunningRequest(number, Request(prompt, 1)) for number, prompt in enumerate(prompts)],
            PREFILL_TOKENS // need,
        )
        for first in range(0, len(asked), max(1, part)):
            self._prefill(asked[first : first + max(1, part)])
        slot_of = {prompts[row.index]: slot for slot, row in enumerate(self.running)}
        for place, (prompt, _) in enumerate(rows, len(prompts)):
            self._copy(slot_of[prompt], place, len(prompt) - 1)
        lengths = [len(ids) for _, ids in rows]
        width = max(lengths)
        read = [[prompt[-1], *ids[:-1], *[0] * (width - len(ids))] for prompt, ids in rows]
        places = self._places([len(prompt) - 1 for prompt, _ in rows], width)
        what = ForwardInput(len(prompts), torch.tensor(read, device=self.device), places, need - 1, lengths)
        logits: Sequence[torch.Tensor] = self._forward([], what, keep=None).split(lengths)
        return logits

    def _begin(self) -> None:
        """No row runs; what the slots hold was computed with the adapters that are active now, or is forgotten."""
        self.running.clear()
        now = active_adapters(self.model)
        if now != self.active_adapters:
            self.active_adapters, self.cached_ids = now, [[] for _ in self.cached_ids]

    def _run(
        self, arrivals: RequestQueue, ending: TokenSelector, batch_tokens: int
    ) -> Iterator[tuple[int, Completion]]:
        waiting, timed = list[RunningRequest](), False
        while True:
            if new := arrivals.take(idle=not waiting and not self.running):
                timed = timed or any(row.request.timeout_seconds is not None for row in new)
                new.sort(key=lambda row: (row.max_length, -row.index))  # the longest first: short ones fill up the end
                waiting = [*new, *waiting]
            if not waiting and not self.running:
                return
            if timed:
                late = {row.index: answer for row in waiting if (answer := ending.check_deadline(row)) is not None}
                yield from late.items()
                waiting = [row for row in waiting if row.index not in late]
            if waiting:
                yield from self._admit(waiting, ending, batch_tokens)
            drafts, done = self._drafts(), []
            for place, completion in self._accept_tokens(0, self.running, drafts, self._decode_step(drafts), ending):
                done.append(place)
                yield self.running[place].index, completion
            for place in sorted(done, reverse=True):
                self._evict(place)

    def _admit(
        self, waiting: list[RunningRequest], ending: TokenSelector, batch_tokens: int
    ) -> Iterator[tuple[int, Completion]]:
        """Read prompts into the free slots; the next row is the last of `waiting`.

        A prompt that is read alone has its first token at once, and may be answered with it. A row that came later and
        is longer than those that run waits until there is room for it.
        """
        need = max(row.max_length for row in (*self.running, waiting[-1]))
        room = max(1, batch_tokens // need)
        if room <= len(self.running):
            return
        there, wanted = self.cache.shared, len(self.running) + len(waiting)
        if wanted > there.slots:
            wanted = max(wanted, ceil(CACHE_GROWTH * there.slots))  # with room for some that may come
        slots = min(room, wanted, self.most_slots)
        too_many = not self.running and there.slots > slots and there.slots * there.capacity > batch_tokens
        if slots >= CACHE_GROWTH * there.slots or need > there.capacity or too_many:
            self._resize(slots, need)
        while waiting and waiting[-1].max_length <= there.capacity and len(self.running) < there.slots:
            free, rows, longest = there.slots - len(self.running), [waiting.pop()], 0
            while waiting and waiting[-1].max_length <= there.capacity and len(rows) < free:
                longest = max(longest, rows[-1].length, waiting[-1].length)
                if longest * (len(rows) + 1) > PREFILL_TOKENS:
                    break
                rows.append(waiting.pop())
            if len(rows) > 1:
                self._prefill(rows)
            elif (answer := self._prefill_one(rows[0], ending)) is not None:
                yield rows[0].index, answer

    def _resize(self, slots: int, capacity: int) -> None:
        """Other numbers of slots and of places; what running rows hold stays, and the slot after them."""
        kept = min(len(self.running) + 1, slots, self.cache.shared.slots)
        self.cache.resize(slots, capacity, kept)
        self.cached_ids = [*(ids[:capacity] for ids in self.cached_ids[:kept]), *([] for _ in range(slots - kept))]
        self.adapters = [*self.adapters[:kept], *[None] * (slots - kept)]

    def _prefill(self, rows: list[RunningRequest]) -> None:
        """Read prompts but for their last tokens, which the next step reads together with the running rows'.

        First those that share nothing, then those that share with a slot, last those that share with one of these.
        """
        found = [self._cached_prefix(row) for row in rows]
        apart, followers = group_by_prefix(rows, [shared for shared, _ in found])
        own = [(*found[place], rows[place]) for place in apart]
        fresh = [row for shared, _, row in own if not shared]
        taken = [(shared, slot, row) for shared, slot, row in own if shared]
        first = len(self.running)
        for place in reversed(range(len(taken))):  # the slot after the running rows is written to last
            shared, slot, _ = taken[place]
            self._copy(slot, first + place, shared)
        self._prefill_suffix([(shared, row) for shared, _, row in taken])
        self._prefill_from_start(fresh)
        places = {id(row): first + place for place, row in enumerate((*(row for *_, row in taken), *fresh))}
        for place, (shared, leader, _) in enumerate(followers, len(self.running)):
            self._copy(places[id(leader)], place, shared)
        self._prefill_suffix([(shared, row) for shared, _, row in followers])

    def _prefill_one(self, row: RunningRequest, ending: TokenSelector) -> Completion | None:
        """Read one prompt to its end and choose the first token of its answer; the answer where that ends it."""
        (shared, slot), place = self._cached_prefix(row), len(self.running)
        draft = row.draft(self.draft_history, self.most_read - 1)
        rest = torch.tensor([[*row.request.prompt_ids[shared:], *draft]], device=self.device)
        end = row.length + 1 + len(draft)
        places = torch.arange(shared, end, device=self.device)[None]
        if shared:
            self._copy(slot, place, shared)
        logits = self._forward([row], ForwardInput(place, rest, places, end, fresh=not shared), keep=1 + len(draft))
        self.cached_ids[place], self.adapters[place] = list(row.request.prompt_ids), row.request.adapter
        ended = list(self._accept_tokens(place, [row], [draft], logits, ending))
        if not ended:
            self.running.append(row)
        return ended[0][1] if ended else None

    def _cached_prefix(self, row: RunningRequest) -> tuple[int, int]:
        """How many tokens of a prompt a slot holds already, and which."""
        there = range(min(len(self.running) + 1, len(self.cached_ids)))
        slots = [slot for slot in there if self.adapters[slot] == row.request.adapter]
        shared, slot = max(
            ((common_prefix_length(row.prompt, self.cached_ids[slot]), slot) for slot in slots), default=(0, 0)
        )
        wide = (row.length - shared) * row.length > MAX_MASK_ELEMENTS
        return (0, 0) if wide and 2 * shared < row.length else (shared, slot)

    def _copy(self, source: int, target: int, length: int) -> None:
        if source != target:
            self.cache.copy(source, target, length)
        self.cached_ids[target], self.adapters[target] = self.cached_ids[source][:length], self.adapters[source]

    def _prefill_from_start(self, rows: list[RunningRequest]) -> None:
        """Prompts from their beginning, in one pass, in which each attends to itself."""
        width = max((row.length for row in rows), default=0)
        if width:
            padded = [[*row.prompt, *[0] * (width - row.length)] for row in rows]
            places = torch.arange(width, device=self.device).expand(len(rows), -1)
            ids, lengths = torch.tensor(padded, device=self.device), [row.length for row in rows]
            self._forward(rows, ForwardInput(len(self.running), ids, places, width, lengths, fresh=True))
        self._start_rows(rows)

    def _prefill_suffix(self, rows: list[tuple[int, RunningRequest]]) -> None:
        """Prompts from the token on up to which their slots hold them."""
        entering = [row for _, row in rows]
        width = max((row.length - shared for shared, row in rows), default=0)
        if width:
            padded = [[*row.prompt[shared:], *[0] * (width - row.length + shared)] for shared, row in rows]
            places = self._places([shared for shared, _ in rows], width)
            ids, lengths = torch.tensor(padded, device=self.device), [row.length - shared for shared, row in rows]
            seen = max(row.length for row in entering)
            self._forward(entering, ForwardInput(len(self.running), ids, places, seen, lengths))
        self._start_rows(entering)

    def _places(self, starts: list[int], width: int) -> torch.Tensor:
        """So many places (n, T) from those at which rows start."""
        places = torch.tensor(starts, device=self.device)[:, None] + torch.arange(width, device=self.device)
        return places.clamp_(max=self.cache.shared.capacity - 1)  # only padding lies beyond

    def _start_rows(self, rows: list[RunningRequest]) -> None:
        for place, row in enumerate(rows, len(self.running)):
            self.cached_ids[place], self.adapters[place] = list(row.prompt), row.request.adapter
        self.running += rows

    def _drafts(self) -> list[list[int]]:
        """What is read along with the last token of each running row; nothing where many run."""
        room = self.most_read // max(1, len(self.running)) - 1
        return [row.draft(self.draft_history, room) for row in self.running]

    def _decode_step(self, drafts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Logits (L, V) after one more token of each running row, and after those of its draft."""
        if not self.running:
            return torch.empty(0)
        longest = max(map(len, drafts))
        ids, places = [], []
        for held, row, its in zip(self.cached_ids, self.running, drafts, strict=False):
            held.append(row.last)
            padded = [row.last, *its]
            ids.append([*padded, *padded[-1:] * (longest - len(its))])  # what pads it is written again where it stands
            places.append([row.length + min(place, len(its)) for place in range(longest + 1)])
        seen, lengths = max(map(max, places)) + 1, [1 + len(its) for its in drafts]
        read, at = torch.tensor(ids, device=self.device), torch.tensor(places, device=self.device)
        if longest == 0:
            return self._forward(self.running, ForwardInput(0, read, at, seen, widths=self._widths()))
        return self._forward(self.running, ForwardInput(0, read, at, seen, lengths), keep=None)

    def _accept_tokens(
        self,
        first: int,
        rows: list[RunningRequest],
        drafts: Sequence[Sequence[int]],
        logits: torch.Tensor,
        ending: TokenSelector,
    ) -> Iterator[tuple[int, Completion]]:
        """(place of a row, answer) as rows in the slots from `first` on end; each gets a token, and what it drafted.

        Logits (L, V) are those after the last token of each row and after each of its draft: a drafted token is taken
        as read where the choice before it is the same.
        """
        starts = [0, *accumulate(1 + len(its) for its in drafts)]
        going, taken, largest = list(range(len(rows))), 0, largest_logits(logits) if rows else []
        while going:
            places, onward = [starts[place] + taken for place in going], []
            there = logits if len(going) == len(logits) else logits[places]
            chosen = ending.choose(there, [rows[place] for place in going], [largest[place] for place in places])
            for place, token in zip(going, chosen, strict=True):
                row, its = rows[place], drafts[place]
                if taken:
                    self.cached_ids[first + place].append(its[taken - 1])
                answer = ending.append(row, token)
                if answer is not None:
                    self._remember(row, token, answer)
                    yield place, answer
                elif taken < len(its) and its[taken] == token:
                    onward.append(place)
                    continue
                row.update_draft_budget(len(its), taken)
            going, taken = onward, taken + 1

    def _remember(self, row: RunningRequest, token: int, answer: Completion) -> None:
        """An answer may be given again: what it was, after the end of its prompt, is kept to draft from."""
        if len(self.draft_history.ids) > MAX_HISTORY:
            self.draft_history = NgramIndex()
        end = [token] if answer.finish_reason == "eos" else []
        self.draft_history.extend([*row.request.prompt_ids[-MAX_MATCH:], *row.ids, *end])

    def _widths(self) -> list[KeySpan] | None:
        """What the rows of each block of slots attend to; blocks of nearly one width are put together."""
        rows, widths = self.running, list[KeySpan]()
        if not self.blocks or len(rows) <= SLOT_BLOCK:
            return None
        for first in range(0, len(rows), SLOT_BLOCK):
            last = min(first + SLOT_BLOCK, len(rows))
            width = max(row.length for row in rows[first:last]) + 1
            if widths and widths[-1][2] * CACHE_GROWTH >= width >= widths[-1][2] / CACHE_GROWTH:
                first, _, other = widths.pop()
                width = max(width, other)
            widths.append((first, last, width))
        return widths

    def _mask(self, places: torch.Tensor, width: int, window: int | None) -> torch.Tensor:
        """What is added to the attention scores, (n, 1, T, W)."""
        columns = torch.arange(width, device=self.device)
        hidden = columns > places[..., None]
        if window is not None:
            hidden |= columns <= places[..., None] - window
        mask = torch.zeros(hidden.shape, dtype=self.dtype, device=self.device)
        return mask.masked_fill_(hidden, torch.finfo(self.dtype).min)[:, None]

    def _forward(self, rows: Sequence[RunningRequest], what: ForwardInput, keep: int | None = 1) -> torch.Tensor:
        """Logits (n * keep, V) after the last tokens of each row, or (L, V) after each real token where `keep` is None.

        Where rows are padded and not each token is asked for it is something that nobody needs.
        """
        adapters, (count, tokens) = self._chosen_adapters(rows), what.places.shape
        if self.lean is not None and not adapters:
            one = count == tokens == 1
            mask = None if what.fresh or one else self._mask(what.places, what.seen, None)
            hidden = self.lean.forward(what, mask, self.cache)
            if keep is None:
                return self.lean.logits(hidden)
            if what.lengths is not None:
                return hidden
            return self.lean.logits(hidden.unflatten(0, (count, tokens))[:, -keep:].flatten(0, 1))
        masks: Any = None
        if what.fresh:
            self.cache.fill_from(what.first)
        else:
            self.cache.write_at(what.first, what.places, what.seen)
            masks = {kind: self._mask(what.places, what.seen, window) for kind, window in self.kinds.items()}
            masks = masks if len(masks) > 1 else next(iter(masks.values()))
        output = self.model(
            input_ids=what.input_ids,
            attention_mask=masks,
            position_ids=what.places,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=keep or 0,
            **adapters,
            **({} if what.widths is None else {"widths": what.widths}),
        )
        logits: torch.Tensor = output.logits
        if keep is None and what.lengths is not None:
            return torch.cat([its[:length] for its, length in zip(logits, what.lengths, strict=True)])
        return logits.flatten(0, 1)

    def _chosen_adapters(self, rows: Sequence[RunningRequest]) -> dict[str, Any]:
        """What tells PEFT the adapter of each row, where any row names one."""
        if all(row.request.adapter is None for row in rows):
            return {}
        [active] = self.active_adapters
        return {"adapter_names": [active if row.request.adapter is None else row.request.adapter for row in rows]}

    def _evict(self, place: int) -> None:
        """Take a row out; the last row of its block takes its slot, the last of the next block that one's, and so on.

        Rows that came later are shorter and stand behind, so blocks keep rows of similar length.
        """
        last = len(self.running) - 1
        while place < last:
            source = place // SLOT_BLOCK * SLOT_BLOCK + SLOT_BLOCK - 1
            source = min(source if source > place else place + SLOT_BLOCK, last)
            self.running[place] = self.running[source]
            self._copy(source, place, self.running[place].length)
            place = source
        self.running.pop()


def active_adapters(model: Any) -> list[str]:
    """The adapters with which a model answers where a request names none; empty where they are turned off."""
    if not hasattr(model, "peft_config"):
        return []
    # a layer has a flag of this name; transformers' models have a method
    off = any(getattr(layer, "disable_adapters", False) is True for layer in model.modules())
    return [] if off else list(model.active_adapters)
