"""A small tokenizer of the Qwen2 kind: byte-level BPE, Qwen's special tokens and chat template.

It encodes any text, since every byte is a token; the words it was made for are one token each,
which keeps prompts and replies short.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

END_OF_TEXT, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
VISION = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")
BOXES = tuple(f"<|{name}_{side}|>" for name in ("object_ref", "box", "quad") for side in ("start", "end"))
"""What Qwen2-VL writes names and boxes between."""
CHAT_TEMPLATE = """\
{%- if messages[0].role != 'system' %}{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{% endif %}
{%- for message in messages %}
  {{- '<|im_start|>' + message.role + '\\n' }}
  {%- if message.content is string %}{{- message.content }}{% else %}
    {%- for part in message.content %}
      {%- if part.type == 'image' %}{{- '<|vision_start|><|image_pad|><|vision_end|>' }}
      {%- else %}{{- part.text }}{% endif %}
    {%- endfor %}
  {%- endif %}
  {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}
"""
"""The structure of Qwen2.5-VL's template, without tools and videos."""


def build(texts: Iterable[str], *, special: Sequence[str] = (), whole: Sequence[str] = ()) -> Any:
    """Return a tokenizer in which every word of ``texts`` is one token.

    Words are what Qwen2's own splitting makes of a text, which libraries apply whatever the folder
    says. A bracket is kept apart from the word behind it (Qwen2 would join ``>red``), so that a word
    looks the same inside and outside a tag.

    Args:
        texts: What the tokenizer is made for.
        special: Special tokens besides those of every Qwen2-VL, such as ``BOXES``.
        whole: Further texts of one token each, which Qwen2 would take apart, such as numbers.
    """
    splitter = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    pieces = {piece for text in texts for piece, _ in splitter.pre_tokenize_str(text)}
    words = sorted({piece.lstrip(">|") or piece for piece in pieces})
    bpe = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(
        # More than the merges there can be: training ends when every word is one token.
        vocab_size=256 + sum(map(len, words)),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(words, trainer)
    model = json.loads(bpe.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=model["vocab"],
        merges=[tuple(merge) for merge in model["merges"]],
        unk_token=None,
        eos_token=END,
        pad_token=END_OF_TEXT,
        chat_template=CHAT_TEMPLATE,
        model_max_length=1024,
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [END_OF_TEXT, START, END, *VISION, *special]})
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in whole])
    return tokenizer
