"""One token at a time for many rows at once: the cache stays in one place, the GPU gets one launch.

A growing cache is copied whole at every token, and a small model on a GPU waits for Python to
launch its few hundred kernels. So keys and values live in memory of a fixed size, and on a GPU the
forward pass of one token is captured as a CUDA graph and replayed until the shape changes: rows
leave, or attention needs a wider window. Models with other layers than full attention keep the
growing cache of transformers.
"""

from typing import Protocol, cast

import torch
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


def next_logits(
    model: PreTrainedModel, ids: Tensor, mask: Tensor, positions: Tensor, cache: Cache
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
