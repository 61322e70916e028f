"""A peer of benchmarks/serve.py: LitServe around transformers' `generate`, in batches, with streams.

    python serve_litserve.py MODEL PORT

The form that LitServe's documentation gives: requests are put into batches of up to 64 as they come within 50 ms, and
one call of `generate` with greedy choice answers a batch. Tokens of all rows of a batch come as they are chosen.
"""

from __future__ import annotations

import json
import sys
from queue import Queue
from threading import Thread
from typing import Any

import litserve
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

BATCH = 64


class Streamer:
    """Passes the tokens (n,) of each step on."""

    def __init__(self) -> None:
        self.steps: Queue[Any] = Queue()
        self.started = False

    def put(self, tokens: torch.Tensor) -> None:
        if self.started:
            self.steps.put(tokens.tolist())
        self.started = True  # the first call brings the prompts

    def end(self) -> None:
        self.steps.put(None)


class Completions(litserve.LitAPI):
    """Greedy completions as server-sent events."""

    def setup(self, device: str) -> None:
        folder = sys.argv[1]
        self.tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # LitServe reads annotations, but not as strings
        return request

    def batch(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return inputs

    def predict(self, requests: list[dict[str, Any]]) -> Any:
        encoded = self.tokenizer([request["prompt"] for request in requests], return_tensors="pt", padding=True)
        wanted, streamer = [request["max_tokens"] for request in requests], Streamer()
        fields = {"max_new_tokens": max(wanted), "do_sample": False, "streamer": streamer, "eos_token_id": None}
        inputs = {name: encoded[name] for name in ("input_ids", "attention_mask")}
        Thread(target=self.model.generate, kwargs={**inputs, **fields}, daemon=True).start()
        count = 0
        while (step := streamer.steps.get()) is not None:
            texts = self.tokenizer.batch_decode([[token] for token in step])
            yield [text if count < most else "" for text, most in zip(texts, wanted, strict=True)]
            count += 1

    def unbatch(self, outputs: Any) -> Any:
        yield from outputs

    def encode_response(self, outputs: Any) -> Any:
        for texts in outputs:
            yield [f"data: {json.dumps({'choices': [{'text': text}]})}\n\n" for text in texts]


if __name__ == "__main__":
    api = Completions(max_batch_size=BATCH, batch_timeout=0.05, stream=True, api_path="/v1/completions")
    litserve.LitServer(api, accelerator="cpu").run(port=int(sys.argv[2]), host="127.0.0.1", generate_client_file=False)
