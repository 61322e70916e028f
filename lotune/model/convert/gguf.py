"""Write a Llama-shaped model as a GGUF file, for llama.cpp, Ollama and their kin.

Names of tensors and keys are those of the gguf package. llama.cpp turns pairs of neighbouring elements by the rotary
angle in the architecture `llama`, where transformers turns elements half a head apart, so the rows of queries and keys
change places there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from lotune.data.templates import Template
from lotune.errors import ModelError, install_extra

if TYPE_CHECKING:
    import torch

ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""Architecture of GGUF for each type of model in transformers."""
BLOCK_TENSORS = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
WHOLE_TENSORS = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_PUNCTUATION = r"[\p{P}\$\+<=>\^~\|]+"
_CONTRACTIONS = r"'s|'t|'re|'ve|'m|'ll|'d"
_LOWER_OR_UPPER = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
PRE_TOKENIZERS: Mapping[str, tuple[str, ...]] = {
    "default": (
        _PUNCTUATION, _CONTRACTIONS + r"| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)", r"\p{N}+",
        "[0-9][0-9][0-9]",
    ),
    "llama-bpe": (
        _LOWER_OR_UPPER
        + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    "qwen2": (
        _LOWER_OR_UPPER + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    "gpt-2": (_CONTRACTIONS + r"| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",),
}  # fmt: skip
"""Regular expressions by which llama.cpp splits a text before its byte pairs, by their name there, one after the other
(llama.cpp, src/llama-vocab.cpp)."""
PROBE_TEXTS = (
    "Hello world, it's John's; they'll say I'm the BEST!! (really?)",
    "计算 12.5 + 3×4 等于多少？答：24。“你好”，世界——再见……",
    "def f(x):\n    return x**2 - 1.0e-5  # comment\n\n\tprint(f'{x:>10}')\r\n",
    "   leading and  double   spaces\n\n\nnew lines \n  and trailing   ",
    "1234567890 3.14159 1,000,000 ½ x² ① Ⅳ 2026-11-25 12:30",
    "Ünïcödé Привет мир שלום こんにちは 안녕하세요 👋🏽 𝒳 e\u0301",
    "### Instruction:\nWrite.\n\n### Response:<|user|>##'tis 'twas O'Neil",
    "a<b>c & d|e ^f ~g $h +i =j \\k /l @m %n _o `p` {q} [r]",
)
"""Texts that a tokeniser must split in one way here and there."""
FILE_TYPES = {"float32": 0, "float16": 1, "bfloat16": 32}
"""GGUF's number of the format of most tensors (`LlamaFileType` of the gguf package), without which OpenVINO refuses."""
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
"""Types of tokens in GGUF."""


@dataclass(frozen=True)
class GgufOptions:
    """`dtype` of the matrices (float32, float16 or bfloat16), and what else the file names."""

    dtype: str = "float32"
    name: str = "model"
    chat_template: str | None = None


def write_gguf(model: Any, tokenizer: Any, file: Path, options: GgufOptions) -> None:
    """Write a model with its tokeniser to a file, which appears whole.

    Raises: ModelError for an architecture, a tokeniser or rotary embeddings that GGUF cannot hold exactly, or without
    the gguf package.
    """
    try:
        import gguf
    except ModuleNotFoundError:
        raise ModelError("export", "the package gguf is missing", remedy=install_extra("gguf")) from None
    config = model.config
    if config.model_type not in ARCHITECTURES:
        expected = ", ".join(ARCHITECTURES)
        raise ModelError(options.name, f"is of the type {config.model_type}", f"one of {expected}")
    temporary = file.with_name(f".{file.name}.tmp")
    writer = gguf.GGUFWriter(temporary, ARCHITECTURES[config.model_type])
    try:
        _write_shape(writer, config, options)
        _write_tokenizer(writer, tokenizer, config, options)
        for name, tensor in gguf_tensors(model):
            _add(writer, gguf, name, tensor, options.dtype)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def gguf_tensors(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors of a model under their names in GGUF.

    Raises: ModelError for a tensor that has no name there.
    """
    config = model.config
    permuted = ARCHITECTURES[config.model_type] == "llama"
    tied = config.tie_word_embeddings
    for name, tensor in model.state_dict().items():
        module, _, kind = name.rpartition(".")
        if module == "lm_head" and tied:
            continue
        if module in WHOLE_TENSORS:
            yield f"{WHOLE_TENSORS[module]}.{kind}", tensor
            continue
        parts = module.split(".", 3)
        if parts[:2] != ["model", "layers"] or len(parts) < 4 or parts[3] not in BLOCK_TENSORS:
            raise ModelError(config.name_or_path or "the model", f"has a tensor {name}, which GGUF has no name for")
        if permuted and parts[3] in ("self_attn.q_proj", "self_attn.k_proj"):
            is_query = parts[3] == "self_attn.q_proj"
            tensor = _interleaved(tensor, config.num_attention_heads if is_query else config.num_key_value_heads)
        yield f"blk.{parts[2]}.{BLOCK_TENSORS[parts[3]]}.{kind}", tensor
    frequencies = _rope_factors(config)
    if frequencies is not None:
        yield "rope_freqs.weight", frequencies


def _interleaved(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """Return rows (heads · E, ...) in which the two halves of each head alternate."""
    rows: torch.Tensor = tensor.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)
    return rows


def _rope_factors(config: Any) -> torch.Tensor | None:
    """Return what llama.cpp divides the rotary frequencies by, None for plain ones. Raises: ModelError for others."""
    import math

    import torch

    rope = dict(getattr(config, "rope_parameters", None) or {})
    kind = rope.get("rope_type", "default")
    if kind == "default":
        return None
    if kind != "llama3":
        raise ModelError("the model", f"has rotary embeddings of the type {kind}", "default or llama3")
    size = _head_size(config)
    frequencies = float(rope["rope_theta"]) ** -(torch.arange(0, size, 2, dtype=torch.float64) / size)
    low, high, length = rope["low_freq_factor"], rope["high_freq_factor"], rope["original_max_position_embeddings"]
    wavelengths = 2 * math.pi / frequencies
    smooth = ((length / wavelengths - low) / (high - low)).clamp(0, 1)
    factors: torch.Tensor = 1 / ((1 - smooth) / rope["factor"] + smooth)
    return factors.float()


def _head_size(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _add(writer: Any, gguf: Any, name: str, tensor: torch.Tensor, dtype: str) -> None:
    values = tensor.detach().float().cpu().contiguous().numpy()
    # llama.cpp computes norms and biases in float32.
    if dtype == "float32" or values.ndim == 1:
        writer.add_tensor(name, values)
    elif dtype == "float16":
        writer.add_tensor(name, values.astype("float16"))
    else:
        kind = gguf.GGMLQuantizationType.BF16
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)


def _write_shape(writer: Any, config: Any, options: GgufOptions) -> None:
    rope = dict(getattr(config, "rope_parameters", None) or {})
    writer.add_name(options.name)
    writer.add_file_type(FILE_TYPES[options.dtype])
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(_head_size(config))
    writer.add_value_length(_head_size(config))
    writer.add_rope_dimension_count(_head_size(config))
    writer.add_rope_freq_base(float(rope.get("rope_theta", 10_000.0)))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _write_tokenizer(writer: Any, tokenizer: Any, config: Any, options: GgufOptions) -> None:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(options.name, "has a tokeniser without tokenizer.json", "one in Hugging Face's format")
    state = orjson.loads(backend.to_str())
    kind = state["model"].get("type")
    if kind != "BPE":
        raise ModelError(options.name, f"has a tokeniser of the type {kind}", "BPE")
    tokens, types = _tokens(tokenizer, config.vocab_size, byte_fallback=bool(state["model"].get("byte_fallback")))
    if state["model"].get("byte_fallback"):
        _write_sentencepiece(writer, state, tokens, options)
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre_tokenizer_name(backend, options.name))
        writer.add_token_list(tokens)
        writer.add_token_merges(
            [" ".join(pair) if isinstance(pair, list) else pair for pair in state["model"]["merges"]]
        )
    writer.add_token_types(types)
    for name in ("bos", "eos", "unk", "pad"):
        id = getattr(tokenizer, f"{name}_token_id", None)
        if id is not None:
            getattr(writer, f"add_{name}_token_id")(id)
    begins = tokenizer("x", add_special_tokens=True)["input_ids"][:1] == [tokenizer.bos_token_id]
    writer.add_add_bos_token(tokenizer.bos_token_id is not None and begins)
    writer.add_add_eos_token(False)
    if options.chat_template:
        writer.add_chat_template(options.chat_template)


def _tokens(tokenizer: Any, size: int, *, byte_fallback: bool) -> tuple[list[str], list[int]]:
    """Return the texts and types of all tokens; rows of the embedding without a token get a name of their own."""
    added = tokenizer.added_tokens_decoder
    texts, types = [], []
    for id in range(size):
        text = tokenizer.convert_ids_to_tokens(id) if id < len(tokenizer) else None
        texts.append(f"[PAD{id}]" if text is None else text)
        if text is None or (id in added and added[id].special):
            types.append(UNKNOWN if id == tokenizer.unk_token_id and byte_fallback else CONTROL)
        elif id in added:
            types.append(USER_DEFINED)
        else:
            is_byte = byte_fallback and len(text) == 6 and text.startswith("<0x")
            types.append(BYTE if is_byte else NORMAL)
    return texts, types


def _write_sentencepiece(writer: Any, state: Mapping[str, Any], tokens: list[str], options: GgufOptions) -> None:
    """Write a tokeniser of SentencePiece's kind, whose pairs are joined in the order of their ids."""
    vocabulary = state["model"]["vocab"]
    pairs = (pair if isinstance(pair, list) else pair.split(" ") for pair in state["model"]["merges"])
    joined = [vocabulary["".join(pair)] for pair in pairs]
    firsts = list(dict.fromkeys(joined))
    if firsts != sorted(firsts):
        raise ModelError(options.name, "joins pairs in another order than that of their ids", "Llama's tokeniser")
    prefix = "prepend" in orjson.dumps(state.get("normalizer") or state.get("pre_tokenizer") or {}).decode().lower()
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([token.encode() for token in tokens])
    writer.add_token_scores([-float(id) for id in range(len(tokens))])
    writer.add_add_space_prefix(prefix)


def pre_tokenizer_name(backend: Any, name: str) -> str:
    """Return llama.cpp's name for the way in which a byte-level tokeniser splits texts.

    The same byte pairs behind each of llama.cpp's splits encode PROBE_TEXTS; the first that agrees is the one.

    Raises: ModelError if none does.
    """
    from tokenizers import Regex, Tokenizer, pre_tokenizers

    normalizer = orjson.loads(backend.to_str())["normalizer"]
    if normalizer is not None and normalizer["type"] != "NFC":  # llama.cpp leaves NFC out, as all of its converters do
        found = f"has a normaliser ({normalizer['type']}), which llama.cpp does not apply"
        raise ModelError(name, found, "a tokeniser without one", "serve it with lotune serve")
    expected = [backend.encode(text, add_special_tokens=False).ids for text in PROBE_TEXTS]
    for pre, patterns in PRE_TOKENIZERS.items():
        other = Tokenizer.from_str(backend.to_str())
        splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
        other.pre_tokenizer = pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(False, use_regex=False)])
        if [other.encode(text, add_special_tokens=False).ids for text in PROBE_TEXTS] == expected:
            return pre
    found = "has a tokeniser that splits texts in a way that llama.cpp does not know"
    raise ModelError(name, found, f"that of one of {', '.join(PRE_TOKENIZERS)}", "serve it with lotune serve")


def jinja_of(template: Template) -> str:
    """Return a prompt template of lotune as a chat template, which renders what `Template.render_conversation` does.

    >>> jinja_of(Template("qa", "{instruction}##", "{instruction}##"))[-70:]
    "- else %}{{ message['content'] + eos_token }}{%- endif %}{%- endfor %}"
    """

    def text(part: str) -> str:
        return orjson.dumps(part).decode()

    first = [text(part) for part in template.without_input.partition("{instruction}")[::2]]
    later = [text(part) for part in (template.follow_up or template.without_input).partition("{instruction}")[::2]]
    prefix = text(template.instruction_prefix)
    return (
        "{%- set ns = namespace(first=true) %}{%- for message in messages %}"
        "{%- if message['role'] == 'system' %}{{ message['content'] + '\\n\\n' }}"
        "{%- elif message['role'] == 'user' %}"
        f"{{%- if ns.first %}}{{{{ {first[0]} + {prefix} + message['content'] + {first[1]} }}}}"
        "{%- set ns.first = false %}"
        f"{{%- else %}}{{{{ {later[0]} + message['content'] + {later[1]} }}}}{{%- endif %}}"
        "{%- else %}{{ message['content'] + eos_token }}{%- endif %}{%- endfor %}"
    )
