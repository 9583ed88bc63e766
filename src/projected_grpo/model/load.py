"""Load a causal language model and its tokenizer, and put messages into its chat template."""

import functools
import logging
import struct
from codecs import getincrementaldecoder
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import accumulate
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import jinja2
import torch
import transformers
from huggingface_hub.errors import (
    HTTPError,  # pyright: ignore[reportPrivateImportUsage] (httpx's, or whatever it uses)
    StrictDataclassError,
)
from jinja2.ext import Extension
from jinja2.meta import find_undeclared_variables
from jinja2.nodes import Node
from jinja2.parser import Parser
from safetensors import SafetensorError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.utils.checkpoint import checkpoint
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    modeling_gguf_pytorch_utils,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from projected_grpo.env.errors import InputError
from projected_grpo.env.hub import one_line
from projected_grpo.env.problems.problem import Messages
from projected_grpo.model.allocator import map_large_tensors
from projected_grpo.model.checks import (
    embedding_rows,
    require_finite,
    require_ids,
    require_no_adapter,
    require_plain_head,
    require_whole,
    warn_of_endless_turns,
)
from projected_grpo.model.download import (
    fetch,
    hub_request,
    lacks_safetensors,
    no_weights,
    split_gguf,
)
from projected_grpo.pairs.load import load_pairs

TINY_RANDOM = "tiny-random"
ORGANISM = "organism"
ORGANISM_FOLDER = Path(__file__).with_name("organism")
"""The small model that ships with the package; its card is README.md there."""
ORGANISM_V = Path(__file__).with_name("organism_v.safetensors")
"""The organism's hack directions as preset mini has them (scripts/organism/ship_v.py)."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""The names that `--dtype` takes."""
OWN_CODE = {"trust_remote_code": False}
"""Said, not left out: then transformers asks on the terminal, and runs a repository's code."""
UNLOADABLE = (
    *(OSError, HTTPError),  # files are missing or cannot be fetched
    *(ValueError, StrictDataclassError),  # no model, or a config.json that contradicts itself
    *(SafetensorError, struct.error, RuntimeError, EOFError, UnpicklingError),  # part of a file
    ImportError,  # a package for its format
)
"""What transformers raises for a model that it cannot load."""
RMS_NORMS = (Qwen3RMSNorm, Qwen2RMSNorm, LlamaRMSNorm)
"""Those that are weight * x / sqrt(mean(x^2) + eps); others (Gemma's) are not, and stay."""
BYTE_OF = {character: byte for byte, character in bytes_to_unicode().items()}
"""How byte-level tokenizers write bytes: the inverse of GPT-2's table."""
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


TEMPLATE_DATE = datetime(2024, 7, 26)
"""The day that every prompt is written on, where a chat template writes one: the day that Llama
3.1's writes where it has no clock. With today's, a run could not go on tomorrow with the prompts
that it began with, and V, arms and evaluations of two days would have different ones."""


def pin_date(template: str) -> str:
    """A chat template in which `strftime_now` tells `TEMPLATE_DATE`, whatever the clock says."""
    codes = "aAbBdHIjmMpSyYUwWxXcfGuVFDTeRZz%"
    written = "".join(
        f"|replace({f'%{code}'!r}, {TEMPLATE_DATE.strftime(f'%{code}')!r})" for code in codes
    )
    # a macro hides the function of that name; the empty expression keeps a newline that follows
    macro = f"{{% macro strftime_now(format) %}}{{{{ format{written} }}}}{{% endmacro %}}"
    return f"{macro}{{{{ '' }}}}{template}"


@dataclass(frozen=True, slots=True)
class LanguageModel:
    """A frozen model in eval mode, its tokenizer, and the ids that end a turn."""

    model: PreTrainedModel
    tokenizer: Any
    eos_ids: frozenset[int]
    pad_id: int
    enable_thinking: bool | None
    """What the chat template is told; None where it has no such variable."""
    commit: str | None
    """The hub's commit that it was loaded from; None where it was on this disk."""
    encoded: dict[str, list[int]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """What `ids_of` has encoded: text -> ids."""

    def render(self, messages: Messages) -> str:
        """The prompt as text. Raises InputError where the chat template refuses it."""
        told: dict[str, Any] = {}
        if self.enable_thinking is not None:
            told["enable_thinking"] = self.enable_thinking
        template = self.tokenizer.chat_template
        if isinstance(template, str) and "strftime_now" in template:
            told["chat_template"] = pin_date(template)
        try:
            return self.tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=True, **told
            )
        except jinja2.TemplateError as error:
            roles = ", ".join(message["role"] for message in messages)
            raise InputError(
                f"the model's chat template cannot be used for a prompt of {roles}: {error}"
            ) from error

    def prompt_ids(self, messages: Messages) -> list[int]:
        """Ids of the rendered prompt. The template has written its special tokens, so none is
        added."""
        return self.ids_of(self.render(messages))

    def ids_of(self, text: str) -> list[int]:
        """Ids of a text that is asked for again, as prompts and pairs are: encoded once."""
        if text not in self.encoded:
            self.encoded[text] = self.tokenizer.encode(text, add_special_tokens=False)
        return [*self.encoded[text]]

    def completion_ids(self, completion: str) -> list[int]:
        """Ids of a whole given answer, ended by the eos.

        Encoded apart from its prompt: encoding both together could merge tokens across the
        boundary, and the sampler never produces such a token.
        """
        return [*self.tokenizer.encode(completion, add_special_tokens=False), self.eos_id]

    @property
    def eos_id(self) -> int:
        return self.tokenizer.eos_token_id

    def decode(self, ids: list[int]) -> str:
        """A sampled completion as text, without its special tokens and with every space it has:
        a clean-up would make another program of it."""
        return self.tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )

    def characters(self, ids: list[int]) -> list[int]:
        """How many characters each token adds to `decode(ids)`; 0 for a token that completes
        nothing, such as a special one or the first bytes of a character."""
        text = self.decode(ids)
        length = {token: len(self.decode([token])) for token in set(ids)}
        alone = [length[token] for token in ids]
        if text.isascii() and sum(alone) == len(text):
            return alone
        ends = self._byte_level_ends(ids, text)
        if ends is None:  # another decoder: what each beginning has in common with the whole
            ends = [_common(self.decode(ids[: i + 1]), text) for i in range(len(ids))]
        ends = list(accumulate(ends, max))
        return [end - start for start, end in zip([0, *ends], ends, strict=False)]

    def _byte_level_ends(self, ids: list[int], text: str) -> list[int] | None:
        """How many characters of `text` are there after each token; None where the tokenizer's
        decoder is no byte-level one, under which tokens are bytes of UTF-8."""
        special = set(self.tokenizer.all_special_ids)
        pieces = {token: _token_bytes(self.tokenizer, token) for token in set(ids) - special}
        decoder = getincrementaldecoder("utf-8")("replace")
        done, ends = "", []
        for token in ids:
            done += decoder.decode(pieces.get(token, b""))
            begun, _ = decoder.getstate()  # at most three bytes, of a character that is not whole
            shown = begun.decode("utf-8", "replace")
            ends.append(len(done) + _common(shown, text[len(done) : len(done) + len(shown)]))
        return ends if done + decoder.decode(b"", True) == text else None


def _token_bytes(tokenizer: Any, token: int) -> bytes:
    """Of a token of a byte-level tokenizer, which writes each byte as one printable character."""
    written = tokenizer.convert_ids_to_tokens(token)
    if all(character in BYTE_OF for character in written):
        return bytes(BYTE_OF[character] for character in written)
    return written.encode()  # one that was added to the vocabulary as it is


def _common(begun: str, text: str) -> int:
    """How many characters the two texts have in common at their start."""
    return next((i for i, (a, b) in enumerate(zip(begun, text, strict=False)) if a != b),
                min(len(begun), len(text)))  # fmt: skip


def resolve_device(device: str) -> torch.device:
    """ "auto" is the GPU where there is one. Raises InputError for a cuda that is not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "--device=cuda was asked for, but torch sees no CUDA device: use --device=cpu"
        )
    return torch.device(device)


def load(
    source: str,
    *,
    revision: str,
    dtype: torch.dtype,
    device: torch.device,
    enable_thinking: bool = False,
) -> LanguageModel:
    """Load from the hub (owner/name, or owner/name/file.gguf), a folder or a .gguf file;
    "tiny-random" builds a small random Qwen3, "organism" is the small trained one that ships with
    the package.

    Raises InputError when the source cannot be found or read, has no chat template, or has one
    without a thinking that could be enabled.
    """
    if device.type == "cpu" and source not in (TINY_RANDOM, ORGANISM):
        map_large_tensors()
    transformers.utils.logging.disable_progress_bar()
    # The reader of .gguf files takes tqdm's own bar, which does not ask that switch.
    setattr(modeling_gguf_pytorch_utils, "tqdm", transformers.utils.logging.tqdm)  # noqa: B010
    transformers.utils.logging.set_verbosity_error()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    commit = None
    if source in (TINY_RANDOM, ORGANISM) and revision != "main":
        raise InputError(
            f"{source} is part of this package and has no revision {revision}: leave "
            "--model-revision out"
        )
    if source == TINY_RANDOM:
        model, tokenizer = _make_tiny_random(dtype)
    else:
        path = str(ORGANISM_FOLDER) if source == ORGANISM else source
        model, tokenizer, commit = _load_pretrained(path, revision, dtype)
    if not tokenizer.chat_template:
        raise InputError(f"{source} has no chat template: use an instruction-tuned model")
    knows = "enable_thinking" in _template_variables(tokenizer, source)
    if enable_thinking and not knows:
        raise InputError(
            f"the chat template of {source} has no variable enable_thinking: leave "
            "--enable-thinking out"
        )
    # eval: no dropout, in sampling or in the loss
    model.eval().requires_grad_(False)
    torch.nn.Module.to(model, device)
    fuse_norms(model)
    require_finite(model, source)
    require_plain_head(model, source)
    eos_ids, rows = _eos_ids(model, tokenizer), embedding_rows(model)
    warn_of_endless_turns(tokenizer, eos_ids, source)
    pad_id = tokenizer.pad_token_id
    if pad_id is None or pad_id >= rows:  # one that the embeddings were not resized for
        pad_id = tokenizer.eos_token_id
    told = enable_thinking if knows else None
    lm = LanguageModel(model, tokenizer, eos_ids, pad_id, told, commit)
    require_ids([*lm.prompt_ids(({"role": "user", "content": "0"},)), lm.eos_id], rows, tokenizer)
    return lm


class _Generation(Extension):
    """transformers' own tag, around what the assistant says: here only its content counts."""

    tags = {"generation"}  # noqa: RUF012 (as Extension declares it)

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def template_variables(chat_template: str) -> set[str]:
    """The variables that a chat template reads and does not make itself."""
    environment = jinja2.Environment(extensions=[_Generation, "jinja2.ext.loopcontrols"])
    return find_undeclared_variables(environment.parse(chat_template))


def _template_variables(tokenizer: Any, source: str) -> set[str]:
    """The variables that its chat template reads. Raises InputError where that is none."""
    try:
        return template_variables(tokenizer.get_chat_template())
    except (jinja2.TemplateError, ValueError) as error:  # ValueError: several, and no default
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"the chat template of {source} cannot be used: {reason}") from error


def layers_of(model: PreTrainedModel, purpose: str) -> torch.nn.ModuleList:
    """The decoder's layers. Raises InputError for a model without a list of them; `purpose` says
    what they were wanted for."""
    layers = dict(model.get_decoder().named_children()).get("layers")
    if not isinstance(layers, torch.nn.ModuleList):
        raise InputError(f"a {type(model).__name__} has no list of layers to {purpose}")
    return layers


def checkpoint_layers(model: PreTrainedModel, on: bool) -> None:
    """Let every layer's forward keep its input only and be repeated in the backward, or no longer.

    Not transformers' own switch: that asks for training mode, in which sampling has no cache.
    Raises InputError for a model without a list of layers.
    """
    for layer in layers_of(model, "checkpoint"):
        layer.__dict__.pop("forward", None)
        if on:
            layer.forward = _Recompute(layer.forward)


@contextmanager
def checkpointed(model: PreTrainedModel, wanted: bool) -> Iterator[None]:
    """The model with its layers checkpointed while the context lasts, if that is wanted and they
    are not already."""
    layers = layers_of(model, "checkpoint") if wanted else ()
    wanted = not any(isinstance(layer.__dict__.get("forward"), _Recompute) for layer in layers)
    if not layers or not wanted:
        yield
        return
    checkpoint_layers(model, True)
    try:
        yield
    finally:
        checkpoint_layers(model, False)


class _Recompute:
    """Activation checkpointing (arXiv 1604.06174) of one function, where a gradient is wanted."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        self.forward = forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.forward(*args, **kwargs)
        return checkpoint(
            self.forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs
        )


def _locate(source: str, revision: str) -> tuple[Path | None, str | None]:
    """(path, commit) of a model: the path of what is on this disk or was one .gguf file on the hub,
    the commit of what is on the hub. Raises InputError."""
    path, (repo, file) = Path(source), split_gguf(source)
    if path.exists():
        if revision != "main":
            raise InputError(
                f"{source} is a path here, which has no revision {revision}: leave "
                "--model-revision out"
            )
        return path, None
    on_hub = not (path.is_absolute() or source.startswith(".") or ".." in path.parts)
    if on_hub and file:
        return fetch(repo, revision, file)
    if not on_hub or path.suffix == ".gguf":
        raise InputError(f"there is no model at {path}")
    return None, fetch(source, revision).commit


@contextmanager
def _gguf_read_once() -> Iterator[None]:
    """transformers makes a reader each for tokenizer, config and weights, and each takes the header
    apart, with 150,000 tokens: most of the time that loading takes."""
    import gguf  # a second of its own, for these files only

    reader = gguf.GGUFReader
    setattr(gguf, "GGUFReader", functools.cache(reader))  # noqa: B010
    try:
        yield
    finally:
        setattr(gguf, "GGUFReader", reader)  # noqa: B010


def _load_pretrained(
    source: str, revision: str, dtype: torch.dtype
) -> tuple[PreTrainedModel, Any, str | None]:
    path, commit = _locate(source, revision)
    if path is not None:
        require_no_adapter(source, path)
    # What does not fit is told in `info`, and refused.
    how = {**OWN_CODE, "output_loading_info": True, "ignore_mismatched_sizes": True}
    loaded: Any
    try:
        if path is not None and path.suffix == ".gguf":
            file = {"gguf_file": path.name}
            whole = GgufConfig(dequantize=True)
            with _gguf_read_once():
                tokenizer = AutoTokenizer.from_pretrained(path.parent, **OWN_CODE, **file)
                loaded = AutoModelForCausalLM.from_pretrained(
                    path.parent, dtype=dtype, quantization_config=whole, **file, **how
                )
        else:
            # the commit, not the branch: that may move between the two
            at = {"revision": commit or "main", **OWN_CODE}
            tokenizer = AutoTokenizer.from_pretrained(source, **at)
            # of the hub no .bin: transformers would also have it converted there, in a thread
            safe = True if commit else None
            loaded = AutoModelForCausalLM.from_pretrained(
                source, dtype=dtype, use_safetensors=safe, revision=at["revision"], **how
            )
    except UNLOADABLE as error:
        if commit is not None and path is None:
            asked = hub_request(source, revision)
            if asked.offline is not None:
                raise InputError(asked.not_in_cache("is not whole")) from error
            if lacks_safetensors(source, commit):
                raise InputError(no_weights(source, revision)) from error
        why = "the file is cut short" if isinstance(error, struct.error) else one_line(error)
        raise InputError(f"cannot load the model {source}: {why}") from error
    model, info = loaded
    if hasattr(model, "peft_config"):
        raise InputError(f"{source} has an adapter beside its weights: give its base model")
    require_whole(source, info)
    return model, tokenizer, commit


def fuse_norms(model: PreTrainedModel) -> None:
    """Put torch's RMSNorm, one kernel, in the place of transformers' seven.

    The same function with the same weight, bit for bit in float32 on a CPU; in bf16 it rounds once
    instead of twice, in float64 it stays float64. On an H100 forward and backward at Qwen3-4B's
    dimensions took a tenth less time; without the float32 copies that the seven keep for their
    gradients a token's activations take an eighth less memory (docs/performance.md).
    """
    for name, module in [*model.named_modules()]:
        # a subclass may compute something else
        if isinstance(module, RMS_NORMS) and type(module) in RMS_NORMS:
            (width,) = module.weight.shape
            fused = torch.nn.RMSNorm(width, eps=module.variance_epsilon, device="meta")
            fused.weight = module.weight
            model.set_submodule(name, fused.train(module.training))


def _eos_ids(model: PreTrainedModel, tokenizer: Any) -> frozenset[int]:
    """Every id that ends a completion: the tokenizer's and all of the generation config's."""
    ids = model.generation_config.eos_token_id
    listed = [] if ids is None else [ids] if isinstance(ids, int) else list(ids)
    if tokenizer.eos_token_id is None:
        raise InputError("the tokenizer names no eos token: a completion could never end")
    return frozenset([*listed, tokenizer.eos_token_id])


@functools.cache
def _tiny_bpe() -> str:
    """A small byte-level BPE of the contrast pairs' text, as a file of tokenizers holds it."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [
        text
        for pair in load_pairs()
        for text in (pair.messages[-1]["content"], pair.hack, pair.clean)
    ]
    bpe.train_from_iterator(texts, trainer)
    return bpe.to_str()


def _make_tiny_random(dtype: torch.dtype) -> tuple[PreTrainedModel, Any]:
    """A two-layer Qwen3 with seeded random weights, and a tokenizer of `_tiny_bpe`.

    Leaves the global random state as it was.
    """
    bpe = Tokenizer.from_str(_tiny_bpe())
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=CHATML,
    )
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        eos_token_id=bpe.token_to_id("<|im_end|>"),
        pad_token_id=bpe.token_to_id("<|endoftext|>"),
        dtype=dtype,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Qwen3ForCausalLM(config)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model, tokenizer
