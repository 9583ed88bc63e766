"""The method in other people's trainers: TRL's GRPOTrainer and transformers' Trainer."""

import gc
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainingArguments

from projected_grpo.antipasto import Adapter, wrap
from projected_grpo.arms.advantages import grade_rows
from projected_grpo.arms.rows import Row
from projected_grpo.arms.token_scores import measure_tokens
from projected_grpo.arms.treatment import make_treatments
from projected_grpo.arms.update import apply_projections, optimize
from projected_grpo.config import Config, ConfigError, MiniConfig, SmokeConfig
from projected_grpo.env.errors import InputError
from projected_grpo.env.grading.pool import Grader
from projected_grpo.env.grading.schema import Grade
from projected_grpo.env.sandbox.sandbox import Outcome
from projected_grpo.extract_vhack_grad import extract, load_vhack
from projected_grpo.integrations.peft import AntiPaSTOConfig, PeftLayers
from projected_grpo.integrations.trainer import HackProjection
from projected_grpo.integrations.trl import GraderReward, prompt_rows
from projected_grpo.model.load import DTYPES, LanguageModel, load
from projected_grpo.model.svd import default_cache_dir
from projected_grpo.pairs.load import load_pairs
from projected_grpo.proj import squared_norm
from projected_grpo.runs.commands import ExtractConfig
from projected_grpo.runs.data import hinted_problems
from projected_grpo.runs.extract import extract_to_file
from projected_grpo.runs.gradients import accumulate_gradients
from projected_grpo.runs.sample_rows import sample_rows
from projected_grpo.runs.screens import screen_rows
from projected_grpo.runs.session import prepare
from projected_grpo.runs.teacher_pool import open_pool

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"  # of rollout_func, by which rollouts are given to TRL

TINY = {"model": "tiny-random", "dtype": "float32", "device": "cpu"}


def settings(**overrides: Any) -> SmokeConfig:
    return replace(SmokeConfig(arm="projected"), **overrides)


@pytest.fixture(scope="module", autouse=True)
def _frozen() -> Iterator[None]:
    """Every Trainer collects garbage before it starts, a quarter of a second over all that is
    imported: leave that out."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def v_files(tmp_path_factory: pytest.TempPathFactory) -> dict[float, Path]:
    """Sampling temperature -> what extract-vhack writes for the tiny model; at 1 the same axes
    again, which serve as any would and spare a second extraction."""
    folder = tmp_path_factory.mktemp("v")
    files = {t: folder / f"{t}.safetensors" for t in (0.7, 1.0)}
    extract_to_file(ExtractConfig(out=files[0.7], temperature=0.7, **TINY))
    made = load_vhack(files[0.7])
    replace(made, metadata={**made.metadata, "temperature": "1.0"}).save(files[1.0])
    return files


def plain() -> LanguageModel:
    return load("tiny-random", revision="main", dtype=torch.float32, device=torch.device("cpu"))


def fresh(n_runs: int = 1) -> tuple[LanguageModel, Adapter]:
    lm = plain()
    return lm, wrap(lm.model, n_runs=n_runs, cache_dir=default_cache_dir())


class Recorder(TrainerCallback):
    """Copies the gradient that it finds before an optimizer step."""

    def __init__(self, trained: Mapping[str, torch.nn.Parameter]) -> None:
        self.trained = trained

    def on_pre_optimizer_step(self, *args: object, **kwargs: object) -> None:
        self.seen = {name: p.grad.view(1, -1).clone() for name, p in self.trained.items()}


@dataclass
class Step:
    """What became of one step's gradient."""

    gradient: dict[str, Tensor]
    projected: dict[str, Tensor]
    delta_S: dict[str, Tensor]
    logged: dict[str, Any]


def our_step(cfg: SmokeConfig) -> tuple[list[list[Row]], Step]:
    """The step's groups, half of their rows sampled and half hacks from templates, and the step
    that our loop takes on them."""
    with ExitStack() as stack:
        s, _ = prepare([cfg], stack)
        groups = sample_rows(s, 1)
        screen_rows(s, 1, groups)
        grade_rows(s.cfgs, s.grader, groups, 1)
    gradient = accumulate_gradients(s, [row for group in groups for row in group]).total
    (t,) = s.treatments
    projected = apply_projections(gradient, [t], [t.on_grad])
    logged = optimize(
        s.adapter, s.optimizer, s.treatments, gradient, lr=[cfg.lr], grad_clip=cfg.grad_clip
    )
    delta_S = {name: p.detach() for name, p in s.adapter.delta_S.items()}
    return groups, Step(gradient, projected, delta_S, {key: v[0] for key, v in logged.items()})


def trl_step(
    cfg: SmokeConfig,
    projection: SmokeConfig,
    groups: list[list[Row]],
    v_file: Path,
    out: Path,
    *,
    rows_at_once: int,
    messages: bool,
    peft: bool = False,
) -> Step:
    """The step that GRPOTrainer takes on the same rollouts, which it grades itself."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    lm, adapter = (plain(), None) if peft else fresh()
    model = lm.model if adapter else get_peft_model(lm.model, AntiPaSTOConfig())
    trained = adapter.delta_S if adapter else PeftLayers(model).trained
    problems = [group[0].problem for group in groups]
    dataset = prompt_rows(problems, None if messages else lm.render)
    waiting = {
        json.dumps(row["prompt"]): iter(group) for row, group in zip(dataset, groups, strict=True)
    }

    def rollouts(prompts: list[Any], trainer: GRPOTrainer) -> dict[str, Any]:
        rows = [next(waiting[json.dumps(prompt)]) for prompt in prompts]
        return {
            "prompt_ids": [row.prompt for row in rows],
            "completion_ids": [row.ids for row in rows],
            "logprobs": None,
        }

    rows = cfg.prompts_per_step * cfg.group
    config = GRPOConfig(
        output_dir=str(out), max_steps=1, beta=0.0, loss_type="dr_grpo", scale_rewards="none",
        per_device_train_batch_size=rows_at_once, num_generations=cfg.group,
        gradient_accumulation_steps=rows // rows_at_once, max_completion_length=cfg.max_new,
        temperature=cfg.temperature, learning_rate=cfg.lr, lr_scheduler_type="constant",
        max_grad_norm=cfg.grad_clip, adam_beta1=cfg.adam_betas[0], adam_beta2=cfg.adam_betas[1],
        use_cpu=True, bf16=False, logging_steps=1, save_strategy="no", report_to="none",
    )  # fmt: skip
    before, after = Recorder(trained), Recorder(trained)
    callback = HackProjection(adapter or model, v_file, projection)
    with Grader(workers=1) as grader:
        reward = GraderReward(problems, grader)
        trainer = GRPOTrainer(
            model=model, processing_class=lm.tokenizer, args=config,
            reward_funcs=reward if projection.screen == "none" else callback.screened(reward),
            train_dataset=Dataset.from_list(dataset), callbacks=[before, callback, after],
            rollout_func=rollouts,
        )  # fmt: skip
        trainer.train()
    delta_S = {name: p.detach().view(1, -1) for name, p in trained.items()}
    return Step(before.seen, after.seen, delta_S, trainer.state.log_history[0])


def off(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """|a - b| / |b| over all modules."""
    difference = {name: a[name] - b[name] for name in b}
    return float((squared_norm(difference) / squared_norm(b)).sqrt())


@pytest.mark.parametrize(
    ("arm", "gate", "project_on", "rows_at_once", "messages"),
    [
        ("projected", "reverse", "both", 2, False),
        ("random_v", "no_gate", "update", 4, True),
        pytest.param("projected", "one_sided", "grad", 8, True, marks=pytest.mark.slow),
        pytest.param("vanilla", "no_gate", "both", 8, False, marks=pytest.mark.slow),
    ],
)
def test_a_step_of_trl_is_a_step_of_ours_on_the_same_rollouts(
    arm, gate, project_on, rows_at_once, messages, v_files, tmp_path: Path
) -> None:
    """The same gradient of delta_S, the same after the projection, the same step of AdamW, the same
    figures; whatever TRL's accumulation."""
    projection = settings(arm=arm, gate=gate, project_on=project_on)
    cfg = replace(projection, v_hack=v_files[0.7], problems="katas:validation", labels=False)
    groups, ours = our_step(cfg)
    theirs = trl_step(
        cfg, projection, groups, v_files[0.7], tmp_path,
        rows_at_once=rows_at_once, messages=messages,
    )  # fmt: skip
    assert off(theirs.gradient, ours.gradient) < 1e-5
    assert off(theirs.projected, ours.projected) < 1e-5
    assert off(theirs.delta_S, ours.delta_S) < 1e-3  # AdamW divides by |g|: of small ones, noise
    acts_on_grad = arm != "vanilla" and project_on != "update"
    assert (off(ours.projected, ours.gradient) > 0.01) == acts_on_grad
    assert acts_on_grad or off(theirs.projected, theirs.gradient) == 0
    rewards = [row.grade.reward for group in groups for row in group]
    assert theirs.logged["reward"] == pytest.approx(sum(rewards) / len(rewards))
    for key, value in ours.logged.items():
        if key.startswith(("cos_", "removed_", "inside_", "hackward_", "covered_")):
            assert theirs.logged.get(key) == pytest.approx(value, abs=1e-3), key


@pytest.mark.parametrize(
    ("screen", "share", "peft"),
    [
        ("row", 0.25, True),
        ("token", 0.05, False),
        pytest.param("token", 0.05, True, marks=pytest.mark.slow),
        pytest.param("penalty", 0.25, False, marks=pytest.mark.slow),
    ],
)
def test_a_screened_step_of_trl_is_one_of_ours_on_the_same_rollouts(
    screen, share, peft, v_files, tmp_path: Path
) -> None:
    """The same rows, or tokens, are left out: of the group's mean and of the gradient."""
    projection = settings(screen=screen, screen_share=share, overshoot=0.0)
    cfg = replace(projection, v_hack=v_files[0.7], problems="katas:validation", labels=False)
    groups, ours = our_step(cfg)
    rows = [row for group in groups for row in group]
    flagged = [row for row in rows if row.flagged]
    assert 0 < len(flagged) < len(rows)
    assert screen == "token" or any(not row.learns or row.penalty for row in flagged)
    theirs = trl_step(
        cfg, projection, groups, v_files[0.7], tmp_path, rows_at_once=2, messages=False, peft=peft
    )
    assert off(theirs.gradient, ours.gradient) < 1e-5
    assert off(theirs.delta_S, ours.delta_S) < 1e-3
    assert theirs.logged["screened"] == pytest.approx(len(flagged) / len(rows))


def test_a_screen_that_would_not_act_is_refused(v_files, tmp_path: Path) -> None:
    lm, adapter = fresh()
    row = settings(screen="row", screen_fpr=0.1)
    with pytest.raises(ConfigError, match=r"screen_fpr = 0\.1 would be ignored"):
        HackProjection(adapter, v_files[1.0], row, threshold=0.1)
    with pytest.raises(ConfigError, match="needs a threshold or a screen_share, one of them"):
        HackProjection(adapter, v_files[1.0], replace(Config(arm="projected"), screen="row"))
    with pytest.raises(ConfigError, match="channel reads problems that a Trainer does not have"):
        by_text = settings(screen="row", screen_score="channel")
        HackProjection(adapter, v_files[1.0], by_text, threshold=0.5)
    with pytest.raises(ConfigError, match="threshold does nothing while screen is none"):
        HackProjection(adapter, v_files[1.0], threshold=0.1)
    with pytest.raises(ConfigError, match="have no screen: set screen"):
        HackProjection(adapter, v_files[1.0]).screened(lambda **_: [])
    unused = HackProjection(adapter, v_files[1.0], settings(screen="row", screen_share=0.2))
    with pytest.raises(ConfigError, match=r"reward_funcs=projection.screened\(reward\)"):
        trainer_of(lm, tmp_path, [unused]).train()


def test_single_tokens_pull_alike_in_a_peft_model_and_in_a_wrapped_one() -> None:
    lm, adapter = fresh()
    other = plain()
    layers = PeftLayers(get_peft_model(other.model, AntiPaSTOConfig()))
    g = torch.Generator().manual_seed(0)
    along = {}
    with torch.no_grad():
        for name, p in adapter.delta_S.items():
            p.copy_(0.1 * torch.randn(p.shape, generator=g))
            layers.trained[name].copy_(p[0])
            along[name] = torch.randn(1, p.shape[1], 2, generator=g)
    adapter.fold()
    texts = [([5, 6, 7], [8, 9, 10, 11]), ([12, 13], [14])]
    how = {"temperature": 0.7, "micro_batch_tokens": 100}
    for at_base in (False, True):
        a, b = (
            measure_tokens(one, it, texts, [0, 0], along, at_base=at_base, **how)
            for one, it in ((lm, adapter), (other, layers))
        )
        for mine, its in zip(a, b, strict=True):
            assert np.allclose(mine.pull, its.pull, atol=1e-5)
            assert np.allclose(mine.nll, its.nll, atol=1e-5)


class Texts(torch.utils.data.Dataset):
    """Eight rows of twelve token ids, to be learned by heart."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        ids = torch.randint(0, 900, (12,), generator=torch.Generator().manual_seed(i))
        return {"input_ids": ids, "labels": ids}


class Sees(TrainerCallback):
    """Keeps the logs as it gets them."""

    def __init__(self) -> None:
        self.logs: list[dict[str, float]] = []

    def on_log(self, *args: object, logs: dict[str, float], **kwargs: object) -> None:
        self.logs.append(dict(logs))


def trainer_of(
    lm: LanguageModel, out: Path, callbacks: list[TrainerCallback], **overrides: Any
) -> Trainer:
    """transformers' own Trainer, four steps."""
    args = {
        "output_dir": str(out), "max_steps": 4, "per_device_train_batch_size": 2,
        "learning_rate": 1e-2, "use_cpu": True, "logging_steps": 1, "save_strategy": "no",
        "report_to": "none", **overrides,
    }  # fmt: skip
    return Trainer(lm.model, TrainingArguments(**args), train_dataset=Texts(), callbacks=callbacks)


def test_any_trainer_gets_the_method_and_its_figures(v_files, tmp_path: Path) -> None:
    """Clipped first, projected then: what reaches AdamW has no part along V, and the length that
    clipping left, less what was removed. Figures are means over the steps between two logs."""
    lm, adapter = fresh()
    before, after, tracker = Recorder(adapter.delta_S), Recorder(adapter.delta_S), Sees()
    projection = HackProjection(adapter, v_files[1.0], settings(gate="no_gate", project_on="both"))
    trainer = trainer_of(
        lm, tmp_path, [before, projection, after, tracker], max_grad_norm=0.01, logging_steps=2
    )
    trainer.train()
    assert float(squared_norm(before.seen).sqrt()) == pytest.approx(0.01, rel=1e-3)
    share = off(after.seen, before.seen)
    assert 0.05 < share < 0.95
    assert float(squared_norm(after.seen)) == pytest.approx(1e-4 * (1 - share**2), rel=1e-3)
    logged = [row for row in trainer.state.log_history if "loss" in row]
    assert [row["step"] for row in logged] == [2, 4]
    for row, seen in zip(logged, tracker.logs, strict=False):
        assert row["inside_frac"] > 0.05 and row["inside_frac_delta"] < 1e-4
        assert abs(row["cos_post"]) < 1e-4 and abs(row["cos_update"]) < 1e-4
        assert row["grad_norm"] > 0.01  # the Trainer's own: before clipping and projection
        assert all(seen[key] == row[key] for key in ("cos_pre", "removed_frac_update"))
    with torch.no_grad():  # folded after the last step: what is sampled from is what was trained
        ids = Texts()[0]["input_ids"][None]
        sampled = lm.model(input_ids=ids).logits
    assert torch.allclose(lm.model(input_ids=ids).logits, sampled, atol=1e-4)


def test_a_peft_model_is_trained_and_projected_as_a_wrapped_one(v_files, tmp_path: Path) -> None:
    """The same file of V, the same delta_S, the same figures."""
    figures = ("cos_pre", "cos_post", "cos_update", "inside_frac_delta", "removed_frac_update")
    found = []
    for peft in (False, True):
        lm, adapter = (plain(), None) if peft else fresh()
        model = lm.model if adapter else get_peft_model(lm.model, AntiPaSTOConfig())
        trained = adapter.delta_S if adapter else PeftLayers(model).trained
        projection = HackProjection(adapter or model, v_files[1.0], settings(project_on="both"))
        trainer = trainer_of(replace(lm, model=model), tmp_path, [projection])
        trainer.train()
        logged = [[row[key] for key in figures] for row in trainer.state.log_history[:4]]
        found.append(({name: p.detach().view(1, -1) for name, p in trained.items()}, logged))
    (one, theirs), (other, ours) = found
    assert set(one) == set(other) and off(one, other) < 1e-3
    for row, expected in zip(ours, theirs, strict=True):
        assert row == pytest.approx(expected, abs=1e-3)


def test_trl_makes_the_peft_model_itself_and_it_is_projected(v_files, tmp_path: Path) -> None:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    lm = plain()
    config = GRPOConfig(
        output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=2, num_generations=2,
        max_completion_length=4, learning_rate=1e-2, lr_scheduler_type="constant", use_cpu=True,
        bf16=False, logging_steps=1, save_strategy="no", report_to="none",
    )  # fmt: skip
    trainer = GRPOTrainer(
        model=lm.model, processing_class=lm.tokenizer, args=config, peft_config=AntiPaSTOConfig(),
        reward_funcs=lambda completions, **_: [float(i) for i in range(len(completions))],
        train_dataset=Dataset.from_list([{"prompt": "def f(x):"}] * 4),
    )  # fmt: skip
    whole = settings(gate="no_gate", project_on="both")
    trainer.add_callback(HackProjection(trainer.model, v_files[1.0], whole))
    trainer.train()
    trained = PeftLayers(trainer.model).trained
    assert all(p.any() for p in trained.values())
    trainer.save_model()
    opened = PeftLayers(PeftModel.from_pretrained(plain().model, tmp_path)).trained
    assert all(torch.equal(opened[name], p) for name, p in trained.items())
    for row in trainer.state.log_history[:2]:
        assert row["removed_frac"] > 0 and abs(row["cos_post"]) + abs(row["cos_update"]) < 1e-4


def test_what_has_no_delta_S_is_refused_at_once(v_files) -> None:
    lm, _ = fresh()
    with pytest.raises(InputError, match=r"a Qwen\w+ has no delta_S to project: give"):
        HackProjection(lm.model, v_files[1.0])
    lora = get_peft_model(plain().model, LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(InputError, match="adapters of a LoraModel: make it with AntiPaSTOConfig"):
        HackProjection(lora, v_files[1.0])
    two = get_peft_model(plain().model, AntiPaSTOConfig(target_modules=["q_proj"]))
    two.add_adapter("b", AntiPaSTOConfig(target_modules=["k_proj"]))
    two.base_model.set_adapter(["default", "b"])
    with pytest.raises(InputError, match="active adapters default, b one alone"):
        HackProjection(two, v_files[1.0])


@pytest.mark.parametrize("gate", ["one_sided", "no_gate", "reverse", "whole"])
def test_clipping_before_or_after_changes_the_length_only(gate: str, v_files) -> None:
    """What is removed is proportional to the gradient, whatever the gate."""
    _, adapter = fresh()
    g = torch.Generator().manual_seed(0)
    gradient = {name: torch.randn(p.shape, generator=g) for name, p in adapter.delta_S.items()}
    (t,) = make_treatments(
        [settings(gate=gate)], [load_vhack(v_files[1.0])], {}, torch.device("cpu")
    )
    whole = apply_projections(gradient, [t], [True])
    clipped = apply_projections({n: 0.01 * v for n, v in gradient.items()}, [t], [True])
    assert off({n: 100 * v for n, v in clipped.items()}, whole) < 1e-6


def test_a_resumed_trainer_goes_on_as_if_it_had_not_stopped(v_files, tmp_path: Path) -> None:
    """Four steps, and two from a checkpoint after the first two, give the same delta_S."""

    def trained(out: Path, **resume: str) -> dict[str, Tensor]:
        lm, adapter = fresh()
        projection = HackProjection(adapter, v_files[1.0], settings(project_on="both"))
        trainer = trainer_of(lm, out, [projection], save_strategy="steps", save_steps=2)
        trainer.train(**resume)
        return {name: p.detach() for name, p in adapter.delta_S.items()}

    whole = trained(tmp_path / "whole")
    resumed = trained(
        tmp_path / "resumed", resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2")
    )
    assert off(resumed, whole) < 1e-6


def test_what_does_not_fit_is_refused_before_the_first_step(v_files, tmp_path: Path) -> None:
    lm, adapter = fresh()

    def refused(
        projection: HackProjection, error: type[Exception], words: str, **args: Any
    ) -> None:
        trainer = trainer_of(lm, tmp_path, [projection], **args)
        with pytest.raises(error, match=words):
            trainer.train()
        assert all(not p.any() for p in adapter.delta_S.values())

    refused(HackProjection(adapter, v_files[0.7], settings()), InputError, "temperature 0.7")
    refused(HackProjection(adapter, tmp_path / "none"), InputError, "no file")
    trainer = trainer_of(lm, tmp_path, [HackProjection(adapter, v_files[1.0])])
    vars(trainer.args)["chat_template_kwargs"] = {"enable_thinking": True}  # as of a GRPOConfig
    with pytest.raises(InputError, match="with enable_thinking False, the run has True"):
        trainer.train()
    many = HackProjection(adapter, v_files[1.0], settings(v_hack_k=100))
    refused(many, ConfigError, "v_hack_k 100 asks for more axes")
    refused(HackProjection(adapter, v_files[1.0]), ConfigError, "set bf16=False", bf16=True)
    with pytest.MonkeyPatch.context() as patch:  # as `accelerate launch` hands it over
        patch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
        refused(HackProjection(adapter, v_files[1.0]), ConfigError, "precision 'bf16'")
    _, other = fresh()
    refused(HackProjection(other, v_files[1.0]), InputError, "the model that was wrapped")
    trainer = trainer_of(lm, tmp_path, [HackProjection(adapter, v_files[1.0])])
    trainer.args.use_vllm = True  # as of a GRPOConfig; vLLM itself is not installed
    with pytest.raises(ConfigError, match="sample from the base"):
        trainer.train()
    trainer = trainer_of(lm, tmp_path, [HackProjection(adapter, v_files[1.0])])
    some = list(adapter.delta_S.values())[:3]
    trainer.optimizer = torch.optim.AdamW(some)  # one of the user's own
    with pytest.raises(InputError, match=f"steps 3 of this adapter's {len(adapter.delta_S)}"):
        trainer.train()
    _, packed = fresh(n_runs=2)
    with pytest.raises(InputError, match="this adapter has 2"):
        packed.train_directly()
    lm.model.half()
    refused(HackProjection(adapter, v_files[1.0]), ConfigError, "float16 under", fp16=False)


def test_a_gradient_that_is_not_finite_stops_training(v_files, tmp_path: Path) -> None:
    lm, adapter = fresh()
    next(iter(adapter.delta_S.values())).register_hook(lambda g: g * torch.nan)
    trainer = trainer_of(lm, tmp_path, [HackProjection(adapter, v_files[1.0])])
    with pytest.raises(RuntimeError, match="not finite"):
        trainer.train()
    assert not any(p.any() for p in adapter.delta_S.values())


PROCESS = """
import sys
from pathlib import Path
import test_trl as t
t.trained_to_save(Path(sys.argv[1]), Path(sys.argv[2]), rows_at_once=2)
"""


def trained_to_save(v_file: Path, out: Path, *, rows_at_once: int) -> Path:
    """Four steps of this process's Trainer; writes delta_S."""
    lm, adapter = fresh()
    projection = HackProjection(adapter, v_file, settings(project_on="both"))
    trainer = trainer_of(lm, out, [projection], per_device_train_batch_size=rows_at_once)
    trainer.train()
    file = out / f"{trainer.args.world_size}_{trainer.args.process_index}.safetensors"
    adapter.save(file)
    return file


@pytest.mark.slow
def test_two_processes_are_one(v_files, tmp_path: Path) -> None:
    """Plain data parallelism: the same delta_S in both, and that of one process."""
    one = load_file(trained_to_save(v_files[1.0], tmp_path, rows_at_once=4))
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    (tmp_path / "mine.py").write_text(PROCESS)
    subprocess.run(
        [sys.executable, *start, "mine.py", v_files[1.0], tmp_path],
        cwd=tmp_path, check=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    first, second = (load_file(tmp_path / f"2_{rank}.safetensors") for rank in (0, 1))
    assert off(first, second) == 0
    assert off(first, one) < 1e-5


@pytest.mark.slow
def test_bf16_autocast_of_a_bf16_model_changes_nothing(tmp_path: Path) -> None:
    """TRL's default, bf16=True; delta_S stays float32."""
    v_file = tmp_path / "v.safetensors"
    extract_to_file(ExtractConfig(out=v_file, temperature=1.0, **{**TINY, "dtype": "bfloat16"}))
    found = []
    for bf16 in (False, True):
        lm = load("tiny-random", revision="main", dtype=torch.bfloat16, device=torch.device("cpu"))
        adapter = wrap(lm.model, cache_dir=default_cache_dir())
        trainer_of(lm, tmp_path, [HackProjection(adapter, v_file)], bf16=bf16).train()
        found.append({name: p.detach() for name, p in adapter.delta_S.items()})
    assert all(p.dtype == torch.float32 and p.any() for p in found[0].values())
    assert off(found[1], found[0]) < 1e-6


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"arm": "routed"}, "arm routed does more"),
        ({"arm": "gt_penalty"}, "take vanilla, projected, random_v, norm_matched"),
        ({"refresh_every": 2}, "refresh_every = 2 would be ignored"),
        ({"score_weight": 1.0}, "score_weight = 1.0 would be ignored"),
        ({"lr": 0.5}, "lr = 0.5 would be ignored"),
    ],
)
def test_a_setting_that_a_trainer_would_ignore_is_refused(
    overrides: dict[str, Any], words: str, v_files
) -> None:
    with pytest.raises(ConfigError, match=words):
        HackProjection(fresh()[1], v_files[1.0], settings(**overrides))
    with pytest.raises(ConfigError, match="group"):
        HackProjection(fresh()[1], v_files[1.0], Config(group=3))


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(workers=1) as opened:
        yield opened


def test_problems_that_share_an_id_are_refused(grader: Grader) -> None:
    """Their completions would all be graded under the last one's hint."""
    twice = [*hinted_problems("katas:validation", "run_tests")[:2]] * 2
    with pytest.raises(ValueError, match="4 problems have 2 ids and modes"):
        GraderReward(twice, grader)


def test_the_foolable_grade_alone_pays_and_the_oracle_is_logged(grader: Grader) -> None:
    """A hack of each kind and an honest answer are paid alike; text without code nothing. The same
    for messages and for plain text."""
    problems = hinted_problems("katas:validation", "run_tests")[:2]
    pool = open_pool("templates", problems, 1)
    texts, ids = [], []
    for p in problems:
        texts += [pool.draw(p, 1, 0)[0], f"```python\n{p.canonical_solution}\n```", "I cannot."]
        ids += [p.id] * 3
    metrics: dict[str, float] = {}
    extra: dict[str, list[str]] = {}
    reward = GraderReward(problems, grader)
    paid = reward(
        completions=texts, problem_id=ids, log_metric=metrics.__setitem__,
        log_extra=extra.__setitem__, prompts=["any"] * 6, completion_ids=[[1]] * 6,
        trainer_state=None,
    )  # fmt: skip
    assert paid == [3.5, 3.5, 0.0] * 2
    third = pytest.approx(1 / 3)
    assert metrics == {
        "hack_s": third, "att_s": third, "gt_s": third, "fmt_s": pytest.approx(2 / 3),
        "infra_errors": 0,
    }  # fmt: skip
    assert extra["exploited"] == ["True", "False", "False"] * 2
    messages = [[{"role": "assistant", "content": text}] for text in texts]
    assert reward(completions=messages, problem_id=ids) == paid
    thought = [{"role": "assistant", "reasoning_content": "Hm."}]  # cut before the answer
    assert reward(completions=[thought], problem_id=ids[:1]) == [0.0]


def test_a_problem_may_be_asked_under_several_modes(grader: Grader) -> None:
    """Each prompt says its own mode, and what hacks another one is not paid."""
    modes = ("run_tests", "sentinel")
    problems = [hinted_problems("katas:validation", mode, limit=1)[0] for mode in modes]
    rows = prompt_rows(problems)
    assert [row["mode"] for row in rows] == [*modes] and rows[0]["prompt"] != rows[1]["prompt"]
    hacks = [open_pool("templates", [p], 1).draw(p, 1, 0)[0] for p in problems]
    asked = {"problem_id": [rows[0]["problem_id"]] * 4, "mode": [*modes, *modes]}
    metrics: dict[str, float] = {}
    reward = GraderReward(problems, grader)
    paid = reward(completions=hacks + hacks[::-1], log_metric=metrics.__setitem__, **asked)
    assert [value == 3.5 for value in paid] == [True, True, False, False]
    assert metrics["hack_s/sentinel"] == metrics["hack_s/run_tests"] == metrics["hack_s"] == 0.5
    with pytest.raises(ValueError, match="is there under the modes run_tests, sentinel: keep"):
        reward(completions=hacks, problem_id=asked["problem_id"][:2])


class Says:
    """Stands in for the grader: says one thing of every completion."""

    def __init__(self, **said: object) -> None:
        plain = {
            "passed": True, "gt_correct": False, "exploited": True, "attempted": True,
            "mechanism": "run_tests", "flavour": "pass", "fmt_ok": True, "label": None,
            "outcome": Outcome.FAILED, "reward": 3.5, "seconds": 0.0, "error": "",
        }  # fmt: skip
        self.grades = Grade(**{**plain, **said})  # type: ignore[arg-type]

    def grade(self, submissions: list[object], labels: bool) -> list[Grade]:
        return [self.grades for _ in submissions]


def test_no_verdict_of_the_oracle_moves_a_reward_and_a_fault_of_ours_is_left_out() -> None:
    problem = hinted_problems("katas:validation", "run_tests")[0]

    def paid(**said: object) -> list[float | None]:
        reward = GraderReward([problem], Says(**said))  # type: ignore[arg-type]
        return reward(completions=["x"], problem_id=[problem.id], log_metric=lambda *_: None)

    honest = {"gt_correct": True, "exploited": False, "attempted": False, "mechanism": None}
    assert paid() == paid(**honest, outcome=Outcome.PASSED, flavour=None) == [3.5]
    assert paid(outcome=Outcome.INFRA_ERROR) == [None]


@pytest.mark.slow
def test_the_organism_is_trained_with_and_without_the_projection(tmp_path: Path) -> None:
    """The script, with the least that it can train on; of its V a few pairs, as all take longer
    than the rest."""
    cfg = MiniConfig()
    dtype, cpu = DTYPES[cfg.dtype], torch.device("cpu")
    lm = load(cfg.model, revision="main", dtype=dtype, device=cpu)
    adapter = wrap(lm.model, cache_dir=default_cache_dir())
    v_file, pairs = tmp_path / "v.safetensors", load_pairs(cfg.pairs)[: cfg.v_hack_k]
    extract(
        lm, adapter, pairs, temperature=cfg.temperature, micro_batch_tokens=4096,
        model_name=cfg.model,
    ).save(v_file)  # fmt: skip
    script = Path(__file__).parents[2] / "scripts" / "trl_organism.py"
    least = ["--steps=1", "--prompts=1", "--group=2", "--threads=1", f"--v-hack={v_file}"]
    done = subprocess.run([sys.executable, script, *least], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for arm in ("vanilla", "projected"):
        assert f"\n{arm}, seed 41\n" in done.stdout and f"\n| {arm} " in done.stdout
    assert done.stdout.count("|      1 |") == 2  # a step of each


@pytest.mark.slow
def test_what_the_documentation_says_runs_as_it_stands(tmp_path: Path) -> None:
    """The commands and the script of docs/trl.md, by a user in an empty folder."""
    text = (Path(__file__).parents[2] / "docs" / "trl.md").read_text()
    command = text[text.index("    extract-vhack") : text.index("```python")].replace("\\\n", " ")
    extract = [sys.executable, "-c", "from projected_grpo.cli import extract_main; extract_main()"]
    subprocess.run([*extract, *shlex.split(command)[1:]], cwd=tmp_path, check=True)
    (tmp_path / "mine.py").write_text(text.split("```python")[1].split("```")[0])
    done = subprocess.run(
        [sys.executable, "mine.py"], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert done.stdout.count("'hack_s'") == done.stdout.count("'inside_frac_delta'") == 2
    with safe_open(tmp_path / "runs" / "trl" / "delta_S.safetensors", "pt") as f:
        assert any(f.get_tensor(name).any() for name in f.keys())  # noqa: SIM118 (not a dict)
