"""POST /tokenize and /detokenize, GET /tokenizer_info, in vLLM's form: clients then need no tokeniser of their own."""

from __future__ import annotations

from typing import Any

from lotune.data.chat_template import ChatTemplate
from lotune.serve.errors import invalid
from lotune.serve.gateway import Gateway
from lotune.serve.models import ServedModel
from lotune.serve.protocol import DetokenizeRequest, TokenizeRequest


def tokenize(gateway: Gateway, body: TokenizeRequest) -> dict[str, Any]:
    """Return the token ids of a text or of a conversation."""
    served = gateway.models.named(body.model)
    if (body.prompt is None) == (body.messages is None):
        raise invalid("either prompt or messages is needed", "prompt")
    if body.messages is not None:
        ids = served.render([message.plain() for message in body.messages])
    else:
        ids = served.encode(body.prompt or "", special=body.add_special_tokens)
    texts = [served.token_text(id) for id in ids] if body.return_token_strs else None
    return {"count": len(ids), "max_model_len": served.context, "tokens": ids, "token_strs": texts}


def detokenize(gateway: Gateway, body: DetokenizeRequest) -> dict[str, Any]:
    """Return the text of token ids, with the names of special tokens."""
    served = gateway.models.named(body.model)
    size = len(served.tokenizer)
    if body.tokens and max(body.tokens) >= size:
        raise invalid(f"a token id of {max(body.tokens)}, the tokeniser has {size} tokens", "tokens")
    return {"prompt": served.decode(body.tokens, special=True)}


def tokenizer_info(served: ServedModel) -> dict[str, Any]:
    """Return what a client must know of a model's tokeniser: special tokens, context, chat template.

    `template` is the name of lotune's prompt template, in which the model was tuned.
    """
    tokenizer = served.tokenizer
    return {
        "model": served.name,
        "tokenizer_class": type(tokenizer).__name__,
        "model_max_length": served.context,
        "vocab_size": len(tokenizer),
        **{name: getattr(tokenizer, name) for name in ("bos_token", "eos_token", "pad_token", "unk_token")},
        "chat_template": served.form.source if isinstance(served.form, ChatTemplate) else None,
        "template": None if isinstance(served.form, ChatTemplate) else served.form.name,
    }
