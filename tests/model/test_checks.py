"""Models that would be trained or sampled wrongly are refused, or said to be, by name."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import gguf
import pytest
import torch
from loguru import logger
from safetensors.torch import load_file, save_file
from test_hub import save_gguf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import (
    GptOssConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from projected_grpo.antipasto import wrap
from projected_grpo.config import SmokeConfig
from projected_grpo.env.errors import InputError
from projected_grpo.model.checks import position_limit
from projected_grpo.model.load import CHATML, LanguageModel, load
from projected_grpo.model.lora import LoRA
from projected_grpo.model.sampling import SamplingParams, sample_groups
from projected_grpo.train import train

Weights = dict[str, Tensor]
SIZE = {
    "vocab_size": 1024, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1,
}  # fmt: skip


def open_model(source: Path | str) -> LanguageModel:
    return load(str(source), revision="main", dtype=torch.float32, device=torch.device("cpu"))


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    """What is said as a warning."""
    said: list[str] = []
    sink = logger.add(lambda line: said.append(str(line)), level="WARNING", format="{message}")
    yield said
    logger.remove(sink)


def save(
    folder: Path,
    change: Callable[[Weights], Weights] = lambda weights: weights,
    *,
    template: str = CHATML,
    told: dict[str, object] | None = None,
    **config: object,
) -> Path:
    """A random Llama with the tiny model's tokenizer; `change` is made to its weights and `told`
    to its config.json."""
    LlamaForCausalLM(LlamaConfig(**{**SIZE, **config})).save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    save_file(change(weights), folder / "model.safetensors", {"format": "pt"})
    text = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(text | (told or {})))
    tokenizer = open_model("tiny-random").tokenizer
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder


# --- weights


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "base_model.model."])
def test_weights_under_other_names_are_refused(prefix: str, tmp_path: Path) -> None:
    save(tmp_path, lambda weights: {prefix + name: w for name, w in weights.items()})
    with pytest.raises(InputError) as caught:
        open_model(tmp_path)
    said = str(caught.value)
    assert "missing: lm_head.weight, model.embed_tokens.weight, " in said and " more" in said
    assert f"without a place: {prefix}lm_head.weight" in said and f"without {prefix!r}" in said


def test_a_base_layer_inside_names_is_refused(tmp_path: Path) -> None:
    save(tmp_path, lambda w: {n.replace("proj.", "proj.base_layer."): t for n, t in w.items()})
    with pytest.raises(InputError, match=r"missing: model\.layers\.0\.mlp\.down_proj\.weight.*"
                       r"place: model\.layers\.0\.mlp\.down_proj\.base_layer\.weight"):  # fmt: skip
        open_model(tmp_path)


@pytest.mark.parametrize(
    "told,sentence",
    [
        ({"num_hidden_layers": 3}, r"config\.json, missing: model\.layers\.2\..* and 6 more$"),
        ({"num_hidden_layers": 1}, r"without a place: model\.layers\.1\..* and 6 more: does its"),
        ({"vocab_size": 1025}, r"embed_tokens\.weight is \(1024, 16\) .* and \(1025, 16\) by its"),
    ],
)
def test_a_config_of_another_shape_is_refused(told: dict, sentence: str, tmp_path: Path) -> None:
    save(tmp_path, told=told)
    with pytest.raises(InputError, match="lm_head" if "vocab_size" in told else sentence):
        open_model(tmp_path)
    tied = save(tmp_path / "tied", told=told, tie_word_embeddings=True)
    with pytest.raises(InputError, match=sentence):
        open_model(tied)


def test_an_absent_head_is_refused_and_a_tied_one_is_not_absent(tmp_path: Path) -> None:
    def headless(weights: Weights) -> Weights:
        return {name: w for name, w in weights.items() if name != "lm_head.weight"}

    with pytest.raises(InputError, match=r"config\.json, missing: lm_head\.weight$"):
        open_model(save(tmp_path / "a", headless))
    open_model(save(tmp_path / "b", headless, tie_word_embeddings=True))
    # as some makers save a tied model
    both = save(
        tmp_path / "c",
        lambda w: {**w, "lm_head.weight": w["model.embed_tokens.weight"].clone()},
        tie_word_embeddings=True,
    )
    open_model(both)


def test_weights_that_are_not_finite_are_named(tmp_path: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"

    def spoil(weights: Weights) -> Weights:
        weights[name][3, 5] = torch.nan
        weights["model.norm.weight"][0] = torch.inf
        return weights

    with pytest.raises(InputError, match=f"are not finite: {name}, model.norm.weight$"):
        open_model(save(tmp_path, spoil))


def test_an_adapter_is_no_model(tmp_path: Path) -> None:
    adapter = wrap(open_model("tiny-random").model)
    adapter.save_pretrained(tmp_path, base_model="tiny-random")
    with pytest.raises(InputError, match=r"is an adapter, not a model .*: give its base model"):
        open_model(tmp_path)


@pytest.mark.parametrize("share", [0.0001, 0.01, 0.5, 0.999])
def test_a_gguf_that_is_cut_is_refused(share: float, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    save_gguf(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=r"cannot load the model .*m\.gguf: "):
        open_model(path)


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_so_is_any_other_file(file: str, tmp_path: Path) -> None:
    path = save(tmp_path) / file
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match="cannot load the model "):
        open_model(tmp_path)


# --- tokens


def test_a_pad_token_beyond_the_embeddings_is_not_used(tmp_path: Path) -> None:
    tokenizer = open_model(save(tmp_path)).tokenizer
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    tokenizer.save_pretrained(tmp_path)
    lm = open_model(tmp_path)
    assert lm.tokenizer.pad_token_id == 1024 and lm.pad_id == lm.eos_id
    adapter = wrap(lm.model)
    sampling = SamplingParams.from_config(SmokeConfig(max_new=4), lm)
    groups = sample_groups(lm.model, adapter, [[5], [7, 8, 9]], 2, [1, 2], sampling)
    alone = sample_groups(lm.model, adapter, [[5]], 2, [1], sampling)
    assert [s.ids for s in groups[0]] == [s.ids for s in alone[0]]


def test_a_token_of_the_template_beyond_the_embeddings_is_named(tmp_path: Path) -> None:
    save(tmp_path, template=CHATML.replace("<|im_end|>", "<|eot|>"))
    tokenizer = open_model("tiny-random").tokenizer
    tokenizer.add_special_tokens({"eos_token": "<|eot|>"})
    tokenizer.chat_template = CHATML.replace("<|im_end|>", "<|eot|>")
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"no embedding for: <\|eot\|> \(1024\), of 1024"):
        open_model(tmp_path)


def test_a_turn_that_no_eos_ends_is_said(tmp_path: Path, warnings: list[str]) -> None:
    tokenizer = open_model(save(tmp_path)).tokenizer
    assert not warnings
    tokenizer.eos_token = "<|endoftext|>"
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 0}')
    open_model(tmp_path)
    (said,) = warnings
    assert "ends a turn with <|im_end|>, but only <|endoftext|> ends an answer" in said
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [0, 2]}')
    open_model(tmp_path)
    assert len(warnings) == 1


@pytest.mark.parametrize("clean", [True, False])
def test_decoded_code_is_what_was_encoded(clean: bool, tmp_path: Path) -> None:
    texts = ['return " ,".join(xs) + " ."', "x = [1 , 2] ; do n't  ( 's )", "a\n  b ?\n\n c !"]
    pieces = sorted({c for text in texts for c in text} | {"▁", "▁,", "▁."})
    unigram = Tokenizer(models.Unigram([("<unk>", 0.0), *((p, -1.0) for p in pieces)], 0))
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    unigram.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=unigram, eos_token="</s>", unk_token="<unk>",
        clean_up_tokenization_spaces=clean, chat_template=CHATML,
    )  # fmt: skip
    save(tmp_path)
    for file in tmp_path.glob("tok*"):
        file.unlink()
    tokenizer.save_pretrained(tmp_path)
    lm = open_model(tmp_path)
    for text in texts:
        assert lm.decode(lm.completion_ids(text)) == text


# --- positions

LONGROPE = {
    "rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 40,
    "short_factor": [1.0] * 4, "long_factor": [2.0] * 4,
}  # fmt: skip
DEFAULT = {"rope_type": "default", "rope_theta": 1e4}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}


@pytest.mark.parametrize(
    "rope,limit,columns",
    [
        (LONGROPE, 40, 160),
        (DYNAMIC, 40, 40),
        (DEFAULT, None, 40),
    ],
)
def test_a_length_that_moves_all_positions_is_refused_at_the_start(
    rope: dict, limit: int | None, columns: int, tmp_path: Path
) -> None:
    save(tmp_path, rope_parameters=rope, max_position_embeddings=columns)
    lm = open_model(tmp_path)
    assert position_limit(lm.model.config) == limit
    settings = SmokeConfig(
        model=str(tmp_path), arm="vanilla", steps=1, max_new=8, out_dir=tmp_path / "runs"
    )
    sampling = SamplingParams.from_config(settings, lm)
    adapter = wrap(lm.model)
    sample_groups(lm.model, adapter, [[5] * 32], 1, [1], sampling)
    if limit is None:
        return
    sentence = "rope scaling changes all positions above 40 tokens, which a prompt of"
    with pytest.raises(InputError, match=f"{sentence} 33 and an answer of 8 cross"):
        sample_groups(lm.model, adapter, [[5], [5] * 33], 1, [1, 2], sampling)
    with pytest.raises(InputError, match=sentence):
        train(settings)
    assert not (tmp_path / "runs").exists()


# --- experts

MOE = {**SIZE, "vocab_size": 64, "num_hidden_layers": 1, "num_experts_per_tok": 1}


def moe(config: object) -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize(
    "config",
    [
        Qwen3MoeConfig(**MOE, head_dim=8, moe_intermediate_size=8, num_experts=4),
        MixtralConfig(**MOE, num_local_experts=4),
        GptOssConfig(**MOE, head_dim=8, num_local_experts=4, layer_types=["full_attention"]),
    ],
    ids=lambda config: config.model_type,
)
@pytest.mark.parametrize("make", [wrap, lambda model: LoRA(model, 2, 4)], ids=["svd", "lora"])
def test_experts_without_a_vector_are_said(
    config: object, make: Callable, warnings: list[str]
) -> None:
    model = moe(config)
    inside = {n: p.numel() for n, p in model.named_parameters() if ".layers." in n and p.dim() > 1}
    attention = sum(size for name, size in inside.items() if name.endswith("_proj.weight"))
    share = 1 - attention / sum(inside.values())
    make(model)
    (said,) = warnings
    assert share > 0.5 and said.startswith(f"{share:.1%} of the weights inside the layers get no")
    assert "experts.gate_up_proj the largest" in said


@pytest.mark.parametrize("make", [wrap, lambda model: LoRA(model, 2, 4)], ids=["svd", "lora"])
def test_a_shared_expert_sees_each_rows_own_vector(make: Callable) -> None:
    """It gets the tokens of all rows as one list (Megatron-Bridge#2321)."""
    config = Qwen2MoeConfig(
        **MOE, moe_intermediate_size=8, shared_expert_intermediate_size=16, num_experts=2,
        decoder_sparse_step=1,
    )  # fmt: skip
    plain = moe(config)
    ids = torch.randint(0, 64, (2, 5), generator=torch.Generator().manual_seed(0))
    expected = plain(input_ids=ids).logits
    adapter = make(moe(config))
    names = [name for name in adapter.trained if "shared_expert.down_proj" in name]
    assert names

    def gradients(rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        with adapter.rows(torch.zeros(len(rows), dtype=torch.long)) as leaves:
            logits = adapter.model(input_ids=rows).logits
            logits.log_softmax(-1)[..., 3].sum().backward()
        return logits.detach(), {name: leaves[name].grad for name in adapter.trained}

    logits, both = gradients(ids)
    assert torch.allclose(logits, expected, atol=1e-5)
    for row in range(2):
        _, alone = gradients(ids[row : row + 1])
        for name, gradient in both.items():
            assert torch.allclose(gradient[row], alone[name][0], atol=1e-5), name
    assert any(both[name].abs().max() > 1e-4 for name in names)


def test_a_layer_that_gets_some_of_the_tokens_is_refused() -> None:
    model = LlamaForCausalLM(LlamaConfig(**MOE)).eval()
    adapter = wrap(model)
    up = adapter.modules["model.layers.0.mlp.up_proj"]
    ids = torch.ones((2, 5), dtype=torch.long)
    with adapter.rows(torch.zeros(2, dtype=torch.long)):
        model(input_ids=ids)
        assert up(torch.ones(10, 16)).shape == (10, 32)
        with pytest.raises(InputError, match="gets 4 of 10 tokens"):
            up(torch.ones(4, 16))


def test_a_trainer_may_pass_tokens_without_rows() -> None:
    model = LlamaForCausalLM(LlamaConfig(**MOE)).eval()
    adapter = wrap(model)
    adapter.train_directly()
    up = adapter.modules["model.layers.0.mlp.up_proj"]
    x = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    up(x).sum().backward()
    flat, up.delta_S.grad = up.delta_S.grad, None
    up(x[None]).sum().backward()
    assert torch.allclose(flat, up.delta_S.grad, atol=1e-6)


# --- a head that is also the embedding


def test_a_tied_head_is_no_target_and_an_untied_one_merges_exactly() -> None:
    ids = torch.arange(8)[None]

    def model(tied: bool) -> LlamaForCausalLM:
        torch.manual_seed(0)
        config = LlamaConfig(**MOE, tie_word_embeddings=tied)
        return LlamaForCausalLM(config).eval()

    targets = ("q_proj", "lm_head")
    with pytest.raises(InputError, match=r"lm_head shares its weight with model\.embed_tokens"):
        wrap(model(True), targets=targets)
    adapter = wrap(model(False), targets=targets)
    for delta in adapter.delta_S.values():
        delta.data += 0.1
    adapter.fold()
    expected = adapter.model(input_ids=ids).logits
    assert torch.allclose(adapter.merge()(input_ids=ids).logits, expected, atol=1e-5)


def test_the_header_of_a_gguf_is_read_once_for_tokenizer_config_and_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_gguf(tmp_path / "m.gguf")
    opened: list[str] = []

    class Counted(gguf.GGUFReader):
        def __init__(self, path: Path) -> None:
            opened.append(str(path))
            super().__init__(path)

    monkeypatch.setattr(gguf, "GGUFReader", Counted)
    open_model(tmp_path / "m.gguf")
    assert len(opened) == 1 and gguf.GGUFReader is Counted
