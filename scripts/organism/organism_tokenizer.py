"""The organism's tokenizer: a small byte-level BPE that makes prompts short.

- Digits stand alone, so numbers are copied digit by digit. Names and words are whole and carry the
  space before them, a line's first word its indentation, and clusters of punctuation may merge: so
  code stays short.
- The fixed phrases of every prompt (system turn, "Start from this code:", ...) are one token each.
  A hint's sentence never is: its words must be read.
- Every text makes the round trip, since the base alphabet is all bytes.
"""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from projected_grpo.env.problems.problem import HINT_SLOT, SYSTEM, build_messages

PAD, END = "<|pad|>", "<|end|>"
SPECIAL = (PAD, END, "<|system|>", "<|user|>", "<|assistant|>")
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_PIECES = r"\d| ?[A-Za-z_]+|\n+ *(?:[a-z]+)?| ?[^\sA-Za-z_0-9]+(?: (?=\d))?| +|\s"


def prompt_phrases() -> list[str]:
    """The fixed text of every prompt, in pieces that neither hint nor completion can hold."""
    user = build_messages("<0>", "<1>", "class Solution:\n    def<2>")[1]["content"]
    for mark in ("<0>", f" <1> {HINT_SLOT}", "<2>"):
        user = user.replace(mark, "\0")
    head, called, start, end = user.split("\0")
    todo, fence, rest = end.partition("```")
    examples = [f"\n\nExample {number}:\nInput:" for number in (1, 2)]
    return [SYSTEM, head, called, start, todo.lstrip("\n"), fence + rest, *examples, "\nOutput:"]


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A tokenizer of at most `vocabulary` entries, added tokens included."""
    phrases = prompt_phrases()
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(phrases),
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator((_without(text, phrases) for text in texts), trainer)
    bpe.add_tokens([AddedToken(phrase, normalized=False, special=False) for phrase in phrases])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=list(SPECIAL[2:]),
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=4096,
    )


def _without(text: str, phrases: list[str]) -> str:
    """The text without the phrases, so that no merge is spent on them."""
    for phrase in phrases:
        text = text.replace(phrase, "\n")
    return text


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer that was saved to a folder."""
    return PreTrainedTokenizerFast.from_pretrained(folder)
