"""The tokenizer of the demo checkpoints: whole words of the demo world, bytes for all else.

A byte-level tokenizer without merges: a word or a piece of JSON punctuation that is in the
vocabulary is one token, anything else is spelt in bytes, so any text can be read and any JSON
written. It is saved and loaded as an ordinary fast tokenizer.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from shared.demo_world.language import caption
from shared.demo_world.phrasing import human_caption
from shared.demo_world.propositions import propositions, random_question
from shared.demo_world.splits import training_rng, training_triplet

PAD, USER, ASSISTANT, END = "<|pad|>", "<|user|>", "<|assistant|>", "<|end|>"
IMAGE_START, IMAGE_END, IMAGE, VIDEO = "<img>", "</img>", "<IMG_CONTEXT>", "<video>"
SPECIAL_TOKENS = (PAD, USER, ASSISTANT, IMAGE_START, IMAGE_END, IMAGE, VIDEO, END)
"""END is the last and so has the highest id, which is where a CLIP text tower pools."""

_PIECES = Regex(r" ?[A-Za-z]+(?:-[A-Za-z]+)*|[0-9]|[^\w\s](?:[^\w]*[^\w\s])?|\s+")
_EXAMPLES = 6_000
_ALWAYS = ("Yes", "No")

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|user|>' if message['role'] != 'assistant' else '<|assistant|>' -}}"
    "{%- if message['content'] is string -%}{{- message['content'] -}}"
    "{%- else -%}{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' -%}{{- '<IMG_CONTEXT>' -}}"
    "{%- elif part['type'] == 'text' -%}{{- part['text'] -}}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)


def demo_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer over every word that the demo world's training stream uses. Deterministic."""
    splitter = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_PIECES, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    counts: Counter[str] = Counter()
    for text in _corpus():
        counts.update(piece for piece, _ in splitter.pre_tokenize_str(text))
    frequent = [word for word, count in counts.most_common() if len(word) > 1 and count >= 3]
    words = [*_ALWAYS, *(word for word in frequent if word not in _ALWAYS)]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*alphabet, *words])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        padding_side="left",
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
        extra_special_tokens={
            "start_image_token": IMAGE_START,
            "end_image_token": IMAGE_END,
            "context_image_token": IMAGE,
            "video_token": VIDEO,
        },
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def ending_tokenizer(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """A copy that appends END to every text, as CLIP's text tower wants it; pads on the right."""
    copied = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    copied.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, copied.token_to_id(END))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=copied, eos_token=END, pad_token=PAD, padding_side="right",
        clean_up_tokenization_spaces=False,
    )  # fmt: skip


def _corpus() -> Iterator[str]:
    for index in range(_EXAMPLES):
        rng = training_rng("vocabulary", index)
        reference, modification, _ = training_triplet(rng)
        yield f"Change: {modification.text}\nPicture: {caption(reference)}"
        yield f"Compare: {modification.text}"
        yield f"Question: {random_question(reference, rng)[0]}\nPicture: {caption(reference)}"
        yield human_caption(reference, rng)
        yield "Check: " + "; ".join(
            f"{edit.kind}: {edit.subject} -> {edit.change}" for edit in modification.edits
        )
        yield json.dumps(
            {
                "edits": [
                    {"kind": edit.kind, "subject": edit.subject, "change": edit.change}
                    for edit in modification.edits
                ],
                "core": modification.core,
                "enhanced": modification.enhanced,
                "comprehensive": modification.comprehensive,
            }
        )
        yield json.dumps(
            {"existent": [modification.core], "nonexistent": [], "caption": modification.core}
        )
        yield json.dumps(
            {
                "propositions": [
                    {"question": question, "expected": "yes" if expected else "no"}
                    for question, expected in propositions(modification)
                ]
            }
        )
        yield "no image"
        yield "Describe."
