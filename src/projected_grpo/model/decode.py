"""One token at a time for many rows at once: the cache stays in one place, the GPU gets one launch.

A growing cache is copied whole at every token, and a small model on a GPU waits for Python to
launch its few hundred kernels. So keys and values live in memory of a fixed size, and on a GPU the
forward pass of one token is captured as a CUDA graph and replayed until the shape changes: rows
leave, or attention needs a wider window. On a CPU attention takes the time of reading the cache,
and most of that is prompts: there a prompt's keys and values are read once for all rows of its
group. Models with other layers than full attention keep the growing cache of transformers.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicLayer

WINDOW = {"cuda": 64, "cpu": 16}
"""Attention sees a multiple of so many columns: on a GPU so that the shapes seldom change; on a CPU
a new shape costs nothing, and it need not read columns without a token."""


class Decoder(Protocol):
    """Rows that grow by a token at each step."""

    def step(self, token: Tensor) -> Tensor:
        """Append token (B,) to the rows; logits of the next, (B, vocabulary), valid until the next
        step."""
        ...

    def keep(self, rows: Tensor) -> None:
        """Keep these rows (indices) only, in this order."""
        ...


def make_decoder(
    model: PreTrainedModel, prefilled: DynamicCache, mask: Tensor, group: int, max_new: int
) -> Decoder:
    """`group` rows for each prefilled prompt; mask (P, width) is 1 where a prompt has a token."""
    if any(type(layer) is not DynamicLayer for layer in prefilled.layers):
        return GrowingDecoder(model, prefilled, mask, group)
    on_cpu = mask.device.type == "cpu"
    if on_cpu and model.dtype == torch.float32 and model.config._attn_implementation == "sdpa":
        return GroupDecoder(model, prefilled, mask, group, max_new)
    return FixedDecoder(model, prefilled, mask, group, max_new)


class GrowingDecoder:
    """A decoder with transformers' own cache, whatever its layers are."""

    def __init__(
        self, model: PreTrainedModel, prefilled: DynamicCache, mask: Tensor, group: int
    ) -> None:
        self.model, self.cache = model, prefilled
        self.mask = mask.repeat_interleave(group, 0)
        self._reorder(torch.arange(len(mask), device=mask.device).repeat_interleave(group))

    def _reorder(self, rows: Tensor) -> None:
        # Repeats rows or leaves them out; linear-attention layers know no other way.
        self.cache.reorder_cache(cast(torch.LongTensor, rows))

    def step(self, token: Tensor) -> Tensor:
        """See Decoder."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(token), 1)], 1)
        positions = self.mask.sum(1, keepdim=True) - 1
        return next_logits(self.model, token[:, None], self.mask, positions, self.cache)

    def keep(self, rows: Tensor) -> None:
        """See Decoder."""
        self.mask = self.mask[rows]
        self._reorder(rows)


class _Place:
    """Where all layers of a cache write and how far they see."""

    def __init__(self, column: Tensor) -> None:
        self.column = column  # (1,), moved on in place: a captured graph reads it anew
        self.visible = 0


class _FixedLayer(CacheLayerMixin):
    """Keys and values of one layer in memory of a fixed size, (B, heads, columns, head size)."""

    keys: Tensor  # pyright: ignore[reportIncompatibleVariableOverride]
    values: Tensor  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, keys: Tensor, values: Tensor, place: _Place) -> None:
        super().__init__()
        self.keys, self.values, self.place = keys, values, place
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Do nothing: the memory is there."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args, **kwargs
    ) -> tuple[Tensor, Tensor]:
        """Write one token's keys and values; returns all that attention may look at."""
        self.keys.index_copy_(2, self.place.column, key_states)
        self.values.index_copy_(2, self.place.column, value_states)
        seen = slice(self.place.visible)
        return self.keys[:, :, seen], self.values[:, :, seen]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """How many columns attention sees, and where they start."""
        return self.place.visible, 0

    def get_seq_length(self) -> int:
        """How many columns attention sees; the mask says which of them are written."""
        return self.place.visible

    def get_max_length(self) -> int:
        """How many columns there are."""
        return self.keys.shape[2]


class FixedDecoder:
    """A decoder with a cache in fixed memory and, on a GPU, CUDA graphs."""

    def __init__(
        self,
        model: PreTrainedModel,
        prefilled: DynamicCache,
        mask: Tensor,
        group: int,
        max_new: int,
    ) -> None:
        self.model = model
        width = mask.shape[1]
        self.window = WINDOW[mask.device.type]
        columns = -(-(width + max_new) // self.window) * self.window
        rows = len(mask) * group
        self.place = _Place(torch.tensor([width], device=mask.device))

        def room(prompt: Tensor) -> Tensor:
            out = prompt.new_zeros(rows, prompt.shape[1], columns, prompt.shape[3])
            out[:, :, :width] = prompt.repeat_interleave(group, 0)
            return out

        self.layers = [
            _FixedLayer(room(layer.keys), room(layer.values), self.place)
            for layer in cast(list[_FixedLayer], prefilled.layers)
        ]
        self.cache = Cache(layers=[*self.layers])
        # Added to the scores of attention: 0 where a row may look, -inf elsewhere.
        self.mask = torch.full((rows, columns), -torch.inf, device=mask.device, dtype=model.dtype)
        self.mask[:, :width].masked_fill_(mask.bool().repeat_interleave(group, 0), 0.0)
        self.positions = mask.sum(1).repeat_interleave(group)[:, None]  # (B, 1), of the next token
        self.token = torch.zeros_like(self.positions)
        self.written = width
        self.logits: Tensor | None = None
        self.graph: torch.cuda.CUDAGraph | None = None
        self.stream: torch.cuda.Stream | None = None
        self._new_shape()

    def _new_shape(self) -> None:
        self.is_warm = self.is_captured = False

    def step(self, token: Tensor) -> Tensor:
        """See Decoder."""
        self.token.copy_(token[:, None])
        self.written += 1
        if self.written > self.place.visible:
            self.place.visible = -(-self.written // self.window) * self.window
            self._new_shape()
        if self.token.device.type != "cuda" or not self.is_warm:
            self.is_warm = True  # the first token of a shape: a capture allows no lazy set-up
            return self._forward()
        if not self.is_captured:
            self._capture()
        assert self.graph is not None and self.logits is not None
        self.graph.replay()
        return self.logits

    def _capture(self) -> None:
        """Record the launches of one token; nothing is computed yet."""
        graph = torch.cuda.CUDAGraph()
        # The old graph's memory, which only the stream that took it can use again.
        pool = self.graph.pool() if self.graph is not None else None
        stream = self.stream = self.stream or torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            # Only this thread's calls are watched: others may go on using the GPU.
            graph.capture_begin(pool, capture_error_mode="thread_local")
            try:
                self.logits = self._forward()
            finally:  # a stream left in capture would hide the error behind one of its own
                graph.capture_end()
        torch.cuda.current_stream().wait_stream(stream)
        self.graph, self.is_captured = graph, True

    def keep(self, rows: Tensor) -> None:
        """See Decoder."""
        # Only those who change their place are copied, and of them what has been written.
        moved = (rows != torch.arange(len(rows), device=rows.device)).nonzero()[:, 0]
        for layer in self.layers:
            for cached in (layer.keys, layer.values):
                cached[moved, :, : self.written] = cached[rows[moved], :, : self.written]
            layer.keys, layer.values = layer.keys[: len(rows)], layer.values[: len(rows)]
        self.mask, self.positions = self.mask[rows], self.positions[rows]
        self.token = self.token[rows]
        self._new_shape()

    def _forward(self) -> Tensor:
        self.mask.index_fill_(1, self.place.column, 0.0)
        mask = self.mask[:, None, None, : self.place.visible]
        logits = next_logits(self.model, self.token, mask, self.positions, self.cache)
        self.place.column.add_(1)
        self.positions.add_(1)
        return logits


class _Groups:
    """The rows of each prompt, and how many tokens they have added to it: the same for all layers.

    P prompts, G rows of the largest group, B rows, R query heads of a key-value head.
    """

    def __init__(self, mask: Tensor, group: int) -> None:
        # Added to the scores of attention, (P, 1, 1, width)
        self.mask = torch.zeros(mask.shape).masked_fill_(~mask.bool(), -torch.inf)[:, None, None]
        self.added = 0
        self.arrange([prompt for prompt in range(len(mask)) for _ in range(group)])

    def arrange(self, prompt_of_row: Sequence[int]) -> None:
        """From now on there are these rows; every prompt has one."""
        self.prompt_of_row = prompt_of_row
        rows: list[list[int]] = [[] for _ in self.mask]
        for row, prompt in enumerate(prompt_of_row):
            rows[prompt].append(row)
        most = max(map(len, rows))
        # A group that has fewer asks for its first row again; nobody reads the answer.
        slots = [[*some, *[some[0]] * (most - len(some))] for some in rows]
        places = {r: p * most + g for p, some in enumerate(rows) for g, r in enumerate(some)}
        self.slots = torch.tensor(slots)  # (P, G), of rows
        self.places = torch.tensor([places[row] for row in range(len(places))])  # (B,), of slots

    def by_prompt(self, x: Tensor) -> Tensor:
        """(B, heads, R, d) -> (P, heads, G * R, d)."""
        return x[self.slots].transpose(1, 2).flatten(2, 3)

    def by_row(self, x: Tensor) -> Tensor:
        """(P, heads, G * R, d) -> (B, heads, R, d)."""
        return x.unflatten(2, (self.slots.shape[1], -1)).transpose(1, 2).flatten(0, 1)[self.places]


class _GroupLayer(CacheLayerMixin):
    """Keys and values of one layer: of the prompts (P, heads, width, head size), and of what the
    rows have added to them (B, heads, max_new, head size)."""

    keys: Tensor  # pyright: ignore[reportIncompatibleVariableOverride]
    values: Tensor  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(
        self, prompt_keys: Tensor, prompt_values: Tensor, groups: _Groups, max_new: int
    ) -> None:
        super().__init__()
        self.prompt_keys, self.prompt_values, self.groups = prompt_keys, prompt_values, groups
        rows, heads = len(groups.places), prompt_keys.shape[1]
        self.keys = prompt_keys.new_zeros(rows, heads, max_new, prompt_keys.shape[3])
        self.values = prompt_values.new_zeros(rows, heads, max_new, prompt_values.shape[3])
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Do nothing: the memory is there."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args, **kwargs
    ) -> tuple[Tensor, Tensor]:
        """Write one token's keys and values; returns the rows' own, and the keys know the way to
        the prompts'."""
        end = self.groups.added + 1
        self.keys[:, :, end - 1 : end] = key_states
        self.values[:, :, end - 1 : end] = value_states
        keys = self.keys[:, :, :end].as_subclass(_KeysBesidePrompts)
        keys.layer = self
        return keys, self.values[:, :, :end]

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
        """Attention of one token a row, query (B, query heads, 1, head size), to its prompt and to
        what it has added (B, heads, added, head size)."""
        by_prompt, by_row, width = (
            self.groups.by_prompt,
            self.groups.by_row,
            self.prompt_keys.shape[2],
        )
        q = query.reshape(*keys.shape[:2], -1, query.shape[-1]) * scale  # (B, heads, R, d)
        scores = q.new_empty(*q.shape[:3], width + keys.shape[2])
        scores[..., :width] = by_row(by_prompt(q) @ self.prompt_keys.mT + self.groups.mask)
        scores[..., width:] = q @ keys.mT
        weights = scores.softmax(-1)
        out = by_row(by_prompt(weights[..., :width]) @ self.prompt_values)
        return (out + weights[..., width:] @ values).reshape(*query.shape[:-1], -1)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """How many columns attention is given, and where they start."""
        return self.groups.added + query_length, 0

    def get_seq_length(self) -> int:
        """How many columns attention is given."""
        return self.groups.added

    def get_max_length(self) -> int:
        """How many columns there are."""
        return self.keys.shape[2]


class _KeysBesidePrompts(Tensor):
    """Keys that rows have added; attention to them is attention to their prompts as well."""

    layer: _GroupLayer

    @classmethod
    def __torch_function__(
        cls,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is not F.scaled_dot_product_attention:
            return super().__torch_function__(func, types, args, kwargs or {})
        query, keys, values = args
        settings = kwargs or {}
        if settings.get("attn_mask") is not None or settings.get("dropout_p"):
            raise RuntimeError("this model's attention has a mask where every row sees all it has")
        scale = settings.get("scale") or query.shape[-1] ** -0.5
        return keys.layer.attend(query, keys.as_subclass(Tensor), values, scale)


class GroupDecoder:
    """A decoder for a CPU whose rows share the memory of their prompt."""

    def __init__(
        self,
        model: PreTrainedModel,
        prefilled: DynamicCache,
        mask: Tensor,
        group: int,
        max_new: int,
    ) -> None:
        self.model = model
        self.groups = _Groups(mask, group)
        self.layers = [
            _GroupLayer(layer.keys, layer.values, self.groups, max_new)
            for layer in cast(list[_FixedLayer], prefilled.layers)
        ]
        self.cache = Cache(layers=[*self.layers])
        self.positions = mask.sum(1).repeat_interleave(group)[:, None]  # (B, 1), of the next token

    def step(self, token: Tensor) -> Tensor:
        """See Decoder."""
        logits = next_logits(self.model, token[:, None], None, self.positions, self.cache)
        self.groups.added += 1
        self.positions += 1
        return logits

    def keep(self, rows: Tensor) -> None:
        """See Decoder."""
        groups, added = self.groups, self.groups.added
        moved = (rows != torch.arange(len(rows))).nonzero()[:, 0]
        for layer in self.layers:
            for cached in (layer.keys, layer.values):
                cached[moved, :, :added] = cached[rows[moved], :, :added]
            layer.keys, layer.values = layer.keys[: len(rows)], layer.values[: len(rows)]
        self.positions = self.positions[rows]
        prompts, prompt_of_row = torch.tensor(groups.prompt_of_row)[rows].unique(
            return_inverse=True
        )
        if len(prompts) < len(groups.mask):
            groups.mask = groups.mask[prompts]
            for layer in self.layers:
                layer.prompt_keys = layer.prompt_keys[prompts]
                layer.prompt_values = layer.prompt_values[prompts]
        groups.arrange(prompt_of_row.tolist())


def next_logits(
    model: PreTrainedModel, ids: Tensor, mask: Tensor | None, positions: Tensor, cache: Cache
) -> Tensor:
    """Logits after the last column, (B, vocabulary)."""
    return model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits[:, -1]
