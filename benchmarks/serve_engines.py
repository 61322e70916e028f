"""Peers of benchmarks/serve.py that are engines without a server: CTranslate2, and OpenVINO GenAI.

    python serve_engines.py ENGINE MODEL GGUF < PLAN     # ENGINE: ctranslate2, ctranslate2-int8 or openvino

The plan is JSON: `texts`, pairs of a prompt and the number of its new tokens, and `clients`, the number of prompts that
are answered together. The seconds of generating all answers are printed, without those of loading. CTranslate2 gets
the prompts of one length together, as it stops a batch at one length; OpenVINO's continuous batching takes them as
places become free, in float32 arithmetic with the weights of a float16 GGUF file, as it reads none in float32.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any


def ctranslate2_seconds(model: str, plan: dict[str, Any], compute_type: str) -> float:
    """Return the seconds of static batches, sorted by length."""
    import ctranslate2
    from ctranslate2.converters import TransformersConverter
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as folder:
        TransformersConverter(model).convert(folder, force=True)
        settings = Path(folder) / "config.json"
        content = json.loads(settings.read_text())
        for name in ("bos_token", "unk_token"):
            content[name] = content[name] or content["eos_token"]  # it takes no model without these tokens
        settings.write_text(json.dumps(content))
        generator = ctranslate2.Generator(folder, "cpu", compute_type=compute_type, intra_threads=os.cpu_count())
    tokenizer: Any = AutoTokenizer.from_pretrained(model)
    groups = defaultdict(list)
    for text, new in plan["texts"]:
        groups[new].append(tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"]))
    started = time.perf_counter()
    for new, prompts in groups.items():
        fields = {"max_length": new, "min_length": new, "end_token": [], "sampling_topk": 1}
        generator.generate_batch(prompts, max_batch_size=plan["clients"], include_prompt_in_result=False, **fields)
    return time.perf_counter() - started


def openvino_seconds(file: str, plan: dict[str, Any]) -> float:
    """Return the seconds of continuous batching."""
    import openvino_genai

    scheduler = openvino_genai.SchedulerConfig()
    scheduler.cache_size = 2
    precision = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
    pipeline = openvino_genai.ContinuousBatchingPipeline(file, scheduler, "CPU", precision)
    waiting, open_, number = list(plan["texts"]), list[Any](), 0
    started = time.perf_counter()
    while waiting or open_:
        while waiting and len(open_) < plan["clients"]:
            text, new = waiting.pop(0)
            config = openvino_genai.GenerationConfig()
            config.max_new_tokens, config.ignore_eos, config.apply_chat_template = new, True, False
            open_.append(pipeline.add_request(number, text, config))
            number += 1
        pipeline.step()
        open_ = [one for one in open_ if one.get_status() == openvino_genai.GenerationStatus.RUNNING]
    return time.perf_counter() - started


def main() -> None:
    engine, model, file = sys.argv[1:]
    plan = json.load(sys.stdin)
    if engine == "openvino":
        seconds = openvino_seconds(file, plan)
    else:
        seconds = ctranslate2_seconds(model, plan, "int8" if engine.endswith("int8") else "float32")
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
