"""What a model must be before a run trusts it: every weight loaded and finite, logits that the loss
can take apart, token ids inside the embeddings, positions that keep their meaning.

Each check raises InputError with one sentence, or warns where the run would only be wasted.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import jinja2
import torch
from loguru import logger
from transformers import PretrainedConfig, PreTrainedModel

from projected_grpo.env.errors import InputError

PREFIXES = ("_orig_mod.", "module.", "base_layer.", "base_model.model.")
"""What torch.compile, data parallelism and PEFT put before or into the names of weights."""


def require_no_adapter(source: str, path: Path) -> None:
    """Raises InputError for a folder that PEFT wrote: its base model is what can be trained."""
    if (path / "adapter_config.json").is_file():
        raise InputError(
            f"{source} is an adapter, not a model (it has an adapter_config.json): give its base "
            "model"
        )


def require_whole(source: str, info: dict[str, Any]) -> None:
    """Raises InputError where weights and architecture do not fit each other.

    info: what `from_pretrained(..., output_loading_info=True)` says. transformers fills a weight
    that is missing, or of another shape, with random numbers, and drops one that it has no place
    for. A head that is tied to the embeddings is not missing.
    """
    for name, theirs, mine in sorted(info["mismatched_keys"]):
        raise InputError(
            f"cannot load the model {source}: {name} is {tuple(theirs)} in its weights and "
            f"{tuple(mine)} by its config.json"
        )
    missing, unused = info["missing_keys"], info["unexpected_keys"]
    if not missing and not unused:
        return
    found = [prefix for prefix in PREFIXES if any(prefix in name for name in unused)]
    why = ""
    if found:
        why = f"; rename the weights without {found[0]!r}, or save the model as it was before it"
    elif not missing:
        why = ": does its config.json say fewer layers than there are?"
    raise InputError(
        f"cannot load the model {source}: its weights do not fit its config.json"
        f"{_some(', missing', missing)}{_some(', without a place', unused)}{why}"
    )


def _some(what: str, names: Collection[str], most: int = 3) -> str:
    if not names:
        return ""
    listed = ", ".join(sorted(names)[:most])
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{what}: {listed}{more}"


@torch.no_grad()
def require_finite(model: PreTrainedModel, source: str) -> None:
    """Raises InputError that names the weights which hold a NaN or an infinity."""
    bad = [name for name, weight in model.named_parameters() if not torch.isfinite(weight).all()]
    if bad:
        raise InputError(f"the weights of {source} are not finite{_some('', bad)}")


@torch.no_grad()
def require_plain_head(model: PreTrainedModel, source: str) -> None:
    """Raises InputError where logits are more than a Linear of the last hidden state: the loss
    takes them apart (loss.completion_logprobs)."""
    ids = torch.arange(4, device=model.device)[None]
    hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
    head, logits = model.get_output_embeddings(), model(input_ids=ids, use_cache=False).logits
    if not isinstance(head, torch.nn.Linear) or not torch.allclose(
        logits, torch.nn.functional.linear(hidden, head.weight), atol=1e-3, rtol=1e-2
    ):
        raise InputError(
            f"{source} scales, caps or shifts its logits; only models whose logits are a plain "
            "Linear of the last hidden state are supported"
        )


def embedding_rows(model: PreTrainedModel) -> int:
    """How many token ids the model has an embedding for."""
    return len(model.get_input_embeddings().weight)  # pyright: ignore[reportArgumentType]


def require_ids(ids: Sequence[int], rows: int, tokenizer: Any) -> None:
    """Raises InputError for a token that has no embedding: it was added to the tokenizer and the
    model was not resized."""
    beyond = sorted({i for i in ids if i >= rows})
    if beyond:
        named = ", ".join(f"{tokenizer.convert_ids_to_tokens(i)} ({i})" for i in beyond[:3])
        raise InputError(
            f"the tokenizer has tokens that the model has no embedding for: {named}, of {rows}; "
            "resize the model's embeddings"
        )


def position_limit(config: PretrainedConfig) -> int | None:
    """Tokens above which every position is turned by other angles, None where there is no such
    length.

    Under longrope and dynamic NTK scaling the angles depend on the length of the whole sequence.
    The sampler's cache holds keys from when a sequence was shorter, the loss sees it at its end, so
    above that length they are two policies (transformers#33129).
    """
    text = config.get_text_config()
    told = getattr(text, "rope_parameters", None) or {}
    kinds = [told] if "rope_type" in told else [one for one in told.values() if one]
    limits = []
    for kind in kinds:
        if kind["rope_type"] == "longrope":
            limits.append(kind["original_max_position_embeddings"])
        elif kind["rope_type"] == "dynamic":
            limits.append(text.max_position_embeddings)
    return min(limits, default=None)


def require_positions(model: PreTrainedModel, longest_prompt: int, max_new: int) -> None:
    """Raises InputError where the longest row crosses the model's `position_limit`."""
    limit = position_limit(model.config)
    if limit is not None and longest_prompt + max_new > limit:
        raise InputError(
            f"the model's rope scaling changes all positions above {limit} tokens, which a prompt "
            f"of {longest_prompt} and an answer of {max_new} cross: lower --max-new or --max-prompt"
        )


def warn_of_endless_turns(tokenizer: Any, eos_ids: frozenset[int], source: str) -> None:
    """Warn where the chat template ends the assistant's turn with a token that is no eos: answers
    would run to max_new, as those of a base model do."""
    content = "0"
    messages = [{"role": "user", "content": "0"}, {"role": "assistant", "content": content}]
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False)
    except jinja2.TemplateError:  # it takes no such conversation, and so shows no end of a turn
        return
    after = tokenizer.encode(text.rpartition(content)[2], add_special_tokens=False)
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    ends = [i for i in after if i in special][:1]
    if ends and ends[0] not in eos_ids:
        names = ", ".join(map(tokenizer.convert_ids_to_tokens, sorted(eos_ids)))
        logger.warning(
            "the chat template of {} ends a turn with {}, but only {} ends an answer: each may "
            "run to --max-new; use an instruction-tuned model, or put {} into eos_token_id of its "
            "generation_config.json",
            source,
            tokenizer.convert_ids_to_tokens(ends[0]),
            names,
            ends[0],
        )
