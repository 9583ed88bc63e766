"""Models and problems of the hub, and the cards of what may be put there: the console commands of
other people, against a hub of this host (fake_hub.py)."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import gguf
import pytest
import torch
from conftest import assert_same_rows
from fake_hub import FakeHub, fake_hub
from huggingface_hub import DatasetCard, ModelCard
from transformers import Qwen2Config, Qwen2ForCausalLM

from projected_grpo.config import FastConfig, SmokeConfig, stored_config
from projected_grpo.env.errors import InputError
from projected_grpo.env.problems.leetcode import write_file
from projected_grpo.env.problems.load import load_problems
from projected_grpo.extract_vhack_grad import VHack, extract
from projected_grpo.model.load import CHATML, LanguageModel, load, template_variables
from projected_grpo.pairs.load import load_pairs
from projected_grpo.runs.adapters import adapter_of
from projected_grpo.runs.cards import FIELDS, base_lines, model_card
from projected_grpo.runs.commands import DistillConfig
from projected_grpo.runs.directory import RunDir
from projected_grpo.runs.distill import distill
from projected_grpo.runs.sweep.command import extraction
from projected_grpo.train import train

BIN = Path(sys.executable).parent
MODEL, DATA = "some/tiny", "some/katas"
THINKING = (
    f"{CHATML}{{% if add_generation_prompt and enable_thinking is defined and not enable_thinking "
    "%}<no thoughts>{% endif %}"
)
SMALL = SmokeConfig(problems="katas:validation", steps=1, max_new=24)
MESSAGES = ({"role": "user", "content": "def f(x):"},)


def tiny(source: str = "tiny-random", **settings) -> LanguageModel:
    cpu = torch.device("cpu")
    return load(source, **{"revision": "main", "dtype": torch.float32, "device": cpu, **settings})


def save_model(folder: Path, template: str) -> Path:
    lm = tiny()
    lm.model.save_pretrained(folder)
    lm.tokenizer.chat_template = template
    lm.tokenizer.save_pretrained(folder)
    return folder


def save_gguf(path: Path) -> Qwen2ForCausalLM:
    """A random Qwen2 with the vocabulary of the tiny model."""
    bpe = json.loads(tiny().tokenizer.backend_tokenizer.to_str())["model"]
    config = Qwen2Config(
        vocab_size=len(bpe["vocab"]), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config).eval()
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_block_count(2)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(128)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(list(bpe["vocab"]))
    kinds = (gguf.TokenType.NORMAL, gguf.TokenType.CONTROL)
    writer.add_token_types([kinds[token.startswith("<|")] for token in bpe["vocab"]])
    writer.add_token_merges([" ".join(pair) for pair in bpe["merges"]])
    writer.add_eos_token_id(bpe["vocab"]["<|im_end|>"])
    writer.add_chat_template(CHATML)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, 2)
    for key, value in model.state_dict().items():
        if key != "lm_head.weight":
            writer.add_tensor(names.get_name(key, (".weight", ".bias")), value.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def save_code(folder: Path, model: Path) -> Path:
    """A model of a kind that only its own code knows, which leaves a file where it is run."""
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text())
    own = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"}
    config |= {"model_type": "own", "auto_map": own}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(
        "open('it_ran', 'w').close()\nfrom transformers import Qwen3Config, Qwen3ForCausalLM\n"
        "class OwnConfig(Qwen3Config):\n    model_type = 'own'\n"
        "class Own(Qwen3ForCausalLM):\n    config_class = OwnConfig\n"
    )
    return folder


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeHub]:
    root = tmp_path_factory.mktemp("repositories")
    new = save_model(root / "new", CHATML)
    shutil.copy(new / "model.safetensors", new / "consolidated.safetensors")
    (new / "flax_model.msgpack").write_text("of no use here")
    old = save_model(root / "old", THINKING)
    other = shutil.copytree(old, root / "bin")
    torch.save(tiny().model.state_dict(), other / "pytorch_model.bin")
    (other / "model.safetensors").unlink()
    (root / "gguf" / "few bits").mkdir(parents=True)
    save_gguf(root / "gguf" / "few bits" / "tiny.Q4.gguf")
    (root / "gguf" / "tiny.F32.gguf").write_text("not asked for")
    katas = load_problems("katas:validation", 12)
    for name, splits in {
        "all": {"train": katas},
        "v1": {"train": katas[:7], "test": katas[7:]},
    }.items():
        (root / name).mkdir()
        for split, some in splits.items():
            write_file(root / name / f"{split}.jsonl", some)
    refs = {
        f"models/{MODEL}": {"main": new, "v1": old},
        "models/some/few-bits": {"main": root / "gguf"},
        "models/some/bin": {"main": other},
        "models/some/code": {"main": save_code(root / "code", old)},
        f"datasets/{DATA}": {"main": root / "all", "v1": root / "v1"},
    }
    with fake_hub(refs) as served:
        yield served


class Outside:
    """Another person's shell: a cache of their own, this hub."""

    def __init__(self, hub: FakeHub, home: Path) -> None:
        self.hub, self.home = hub, home
        named = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home / ".cache")}
        self.env = {
            k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSF"))
        } | named

    def __call__(self, *command: object, **variables: str) -> subprocess.CompletedProcess[str]:
        self.hub.asked.clear()
        return subprocess.run(
            [BIN / str(command[0]), *map(str, command[1:])], cwd=self.home, check=False,
            env={**self.env, **variables}, capture_output=True, text=True, input="y\n" * 9,
        )  # fmt: skip

    def refused(self, sentence: str, *command: object, **variables: str) -> None:
        done = self(*command, **variables)
        said = [line for line in done.stderr.splitlines() if "error: " in line]
        assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
        assert len(said) == 1 and re.search(sentence, said[0]), done.stderr


@pytest.fixture
def outside(hub: FakeHub, tmp_path: Path) -> Outside:
    return Outside(hub, tmp_path)


# --- models


def test_what_was_downloaded_is_there_without_a_network(outside: Outside) -> None:
    done = outside("download-model", MODEL, "--revision=v1")
    assert done.returncode == 0, done.stderr
    said, folder = done.stdout.splitlines()
    commit = outside.hub.commit(f"models/{MODEL}", "v1")
    assert said.startswith(f"{MODEL} at commit {commit}: ") and Path(folder).name == commit
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {*os.listdir(folder)}
    again = outside("download-model", MODEL, "--revision=v1", TRANSFORMERS_OFFLINE="1")
    assert again.stdout == done.stdout and not outside.hub.asked


def test_only_what_a_run_needs_is_downloaded(outside: Outside) -> None:
    folder = Path(outside("download-model", MODEL).stdout.splitlines()[1])
    assert "model.safetensors" in os.listdir(folder)
    assert not {"consolidated.safetensors", "flax_model.msgpack"} & {*os.listdir(folder)}


REFUSED = {
    "some/none": "there is no model some/none, neither a path here nor on the hub",
    "'so me/tiny'": "there is no model so me/tiny: it is neither a path here nor a hub",
    f"{MODEL} --revision=v9": "some/tiny has no revision v9 on the hub: name a branch",
    f"{MODEL} --pattern=*.gguf": r"some/tiny at main has no weights named \*.gguf",
    "some/bin": r"some/bin at main has no weights named \*.safetensors: only safet",
    "some/few-bits/no.gguf": r"some/few-bits at revision main has no no\.gguf",
    "some/few-bits/../../no.gguf": r"no\.gguf: it is neither a path here nor a hub id",
    f"{MODEL}/a.gguf --pattern=*.gguf": r"a\.gguf names one file: leave --pattern",
}
"""What `download-model` is asked for -> why it cannot be had."""
ONE_BY_ONE = """
import shlex, sys
from projected_grpo.cli import download_main
for words in sys.argv[1:]:
    try:
        download_main(shlex.split(words))
        code = 0
    except SystemExit as end:
        code = end.code
    print("exit code", code, file=sys.stderr)
"""


@pytest.fixture(scope="module")
def refusals(hub: FakeHub, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What is said to each, by one process: imports take longer than all the rest."""
    outside = Outside(hub, tmp_path_factory.mktemp("home"))
    said = outside("python", "-c", ONE_BY_ONE, *REFUSED).stderr
    return dict(zip(REFUSED, re.split(r"(?<=exit code \d)\n", said)[:-1], strict=True))


@pytest.mark.parametrize("words", REFUSED)
def test_what_cannot_be_downloaded_is_said_in_a_sentence(
    words: str, refusals: dict[str, str]
) -> None:
    *others, last = refusals[words].splitlines()
    said = [line for line in others if "error: " in line]
    assert last == "exit code 1" and "Traceback" not in refusals[words]
    assert len(said) == 1 and re.search(REFUSED[words], said[0]), refusals[words]


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_what_is_not_in_the_cache_is_not_asked_for_offline(name: str, outside: Outside) -> None:
    sentence = (
        f"{name} is set, and some/tiny at revision main is not in the cache .* by "
        "`just download-model some/tiny`"
    )
    outside.refused(sentence, "download-model", MODEL, **{name: "1"})
    assert not outside.hub.asked


FETCH = """
import sys
from projected_grpo.env.errors import InputError
from projected_grpo.model.download import fetch, split_gguf
repo, file = split_gguf(sys.argv[1])
try:
    fetch(repo, "main", file or "config.json")
except InputError as error:
    print("said:", error)
"""


@pytest.mark.parametrize(
    "status,kind",
    [
        (403, "model"),
        # asked for again and again, some ten seconds long
        pytest.param(403, "file", marks=pytest.mark.slow),
        pytest.param(403, "data", marks=pytest.mark.slow),
        pytest.param(503, "model", marks=pytest.mark.slow),
        pytest.param(503, "file", marks=pytest.mark.slow),
        pytest.param(503, "data", marks=pytest.mark.slow),
    ],
)
def test_what_the_hub_refuses_is_told_in_its_words(
    status: int, kind: str, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outside.hub, "refuses", status)
    sentence = (
        rf"the hub \({outside.hub.url}\) answers {status}: not to you, and .*not in the cache"
    )
    if kind == "model":
        outside.refused(sentence, "download-model", MODEL)
    else:
        script, source = (FETCH, MODEL) if kind == "file" else (READ, f"hub:{DATA}")
        done = outside("python", "-c", script, source)
        assert re.search(f"said: .*{sentence}", done.stdout), done.stdout + done.stderr
    assert outside.hub.asked


def test_one_gguf_is_fetched_by_the_command_that_its_absence_names(outside: Outside) -> None:
    file = "some/few-bits/few bits/tiny.Q4.gguf"
    done = outside("python", "-c", FETCH, file, HF_HUB_OFFLINE="1")
    command = re.search("or `(download-model .*)`", done.stdout)
    assert command, done.stdout + done.stderr
    done = outside(*shlex.split(command[1]))
    said, path = done.stdout.splitlines()
    assert said.startswith(f"{file} at commit {outside.hub.commit('models/some/few-bits')}: 1 file")
    assert Path(path).name == "tiny.Q4.gguf" and Path(path).is_file()
    again = outside(*shlex.split(command[1]), HF_HUB_OFFLINE="1")
    assert again.stdout == done.stdout and not outside.hub.asked


@pytest.mark.slow
@pytest.mark.parametrize("file", ["model.safetensors", "train.jsonl"])
def test_a_connection_that_breaks_off_is_said_in_a_sentence(file: str, outside: Outside) -> None:
    outside.hub.breaks_off = file
    try:
        if file == "train.jsonl":
            done = outside("python", "-c", READ, f"hub:{DATA}")
            assert done.stdout.startswith(f"said: cannot fetch {DATA} at revision main: ")
        else:
            outside.refused(f"cannot fetch {MODEL} at revision main: ", "download-model", MODEL)
    finally:
        outside.hub.breaks_off = ""


@pytest.mark.skipif(shutil.which("uv") is None, reason="the recipes call uv")
def test_the_recipe_takes_a_revision_and_a_pattern(outside: Outside) -> None:
    here = ["--justfile", Path(__file__).parents[2] / "justfile", "download-model"]
    done = outside("just", *here, MODEL, "v1", UV_NO_SYNC="1")
    commit = outside.hub.commit(f"models/{MODEL}", "v1")
    assert done.stdout.splitlines()[-1].endswith(commit), done.stderr
    done = outside("just", *here, "some/few-bits", "main", "*Q4.gguf", UV_NO_SYNC="1")
    (path,) = done.stdout.splitlines()[1:]
    assert Path(path).name == "tiny.Q4.gguf" and "1 files" in done.stdout, done.stderr


LOAD = """
import sys, torch
from projected_grpo.env.errors import InputError
from projected_grpo.model.load import load
for source, revision in zip(sys.argv[1::2], sys.argv[2::2]):
    try:
        lm = load(source, revision=revision, dtype=torch.float32, device=torch.device("cpu"))
        print(lm.commit, lm.enable_thinking, type(lm.model).__name__)
    except InputError as error:
        print("said:", error)
"""


@pytest.mark.slow
def test_models_load_by_id_and_revision_and_by_gguf(outside: Outside) -> None:
    hub, file = outside.hub, "some/few-bits/few bits/tiny.Q4.gguf"
    wanted = [MODEL, "main", MODEL, "v1", file, "main", "some/few-bits/no.gguf", "main"]
    lines = outside("python", "-c", LOAD, *wanted).stdout.splitlines()
    main, v1 = (hub.commit(f"models/{MODEL}", name) for name in ("main", "v1"))
    assert lines == [
        f"{main} None Qwen3ForCausalLM",
        f"{v1} False Qwen3ForCausalLM",
        f"{hub.commit('models/some/few-bits')} None Qwen2ForCausalLM",
        "said: some/few-bits at revision main has no no.gguf",
    ]
    offline = outside("python", "-c", LOAD, *wanted[:6], HF_HUB_OFFLINE="1").stdout.splitlines()
    assert offline == lines[:3] and not hub.asked


@pytest.mark.slow
def test_code_and_bin_files_of_a_repository_are_not_loaded(outside: Outside) -> None:
    """Standard input says y to all that may be asked."""
    done = outside("python", "-c", LOAD, "some/code", "main", "some/bin", "main")
    code, no_safetensors = done.stdout.splitlines()
    assert code.startswith("said: cannot load the model some/code: "), done.stderr
    assert not [*outside.home.rglob("it_ran")]
    assert no_safetensors.startswith("said: some/bin at main has no weights named *.safetensors: ")
    assert not any(path.endswith(".bin") or "discussions" in path for path in outside.hub.asked)


@pytest.mark.slow
def test_a_half_fetched_model_is_said_to_be_one(outside: Outside) -> None:
    folder = Path(outside("download-model", MODEL).stdout.splitlines()[1])
    (folder / "model.safetensors").unlink()
    done = outside("python", "-c", LOAD, MODEL, "main", HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE is set, and some/tiny at revision main is not whole" in done.stdout


def test_a_local_gguf_is_the_model_that_was_saved(tmp_path: Path) -> None:
    model, lm = save_gguf(tmp_path / "a.gguf"), tiny(str(tmp_path / "a.gguf"))
    ids = torch.tensor([lm.prompt_ids(MESSAGES)])
    assert torch.allclose(lm.model(ids).logits, model(ids).logits, atol=1e-5)


def test_local_models_that_cannot_be_meant_are_refused(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "a", CHATML)
    with pytest.raises(InputError, match="is a path here, which has no revision v1: leave"):
        tiny(str(folder), revision="v1")
    for path in ("b.gguf", "some/few-bits/../../b.gguf"):
        with pytest.raises(InputError, match=rf"there is no model at {path}"):
            tiny(path)
    for name in ("tiny-random", "organism"):
        with pytest.raises(InputError, match=f"{name} is part of this package and has no revision"):
            tiny(name, revision="v1")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cannot load the model"):
        tiny(str(folder))


# --- enable_thinking


@pytest.mark.parametrize(
    "template,knows",
    [
        (THINKING, True),
        (CHATML, False),
        ("{% set enable_thinking = enable_thinking | default(true) %}{{ enable_thinking }}", True),
        ("{% set enable_thinking = true %}{{ enable_thinking }}", False),
        ("{# enable_thinking #}{% for m in messages %}{% generation %}{{ m['content'] }}"
         "{% endgeneration %}{% break %}{% endfor %}", False),
    ],
)  # fmt: skip
def test_a_template_knows_a_variable_that_it_reads(template: str, knows: bool) -> None:
    assert ("enable_thinking" in template_variables(template)) == knows


def test_a_template_that_cannot_be_used_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the chat template of .*a cannot be used: .*oops"):
        tiny(str(save_model(tmp_path / "a", CHATML + "{% oops %}")))
    lm = tiny()
    lm.tokenizer.chat_template = {"rag": CHATML, "tool_use": CHATML}
    lm.model.save_pretrained(tmp_path / "b")
    lm.tokenizer.save_pretrained(tmp_path / "b")
    with pytest.raises(InputError, match="multiple chat templates with no default"):
        tiny(str(tmp_path / "b"))
    lm.tokenizer.chat_template = "{{ raise_exception('System role not supported') }}"
    with pytest.raises(InputError, match="used for a prompt of user: System role not supported"):
        lm.render(MESSAGES)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ strftime_now('%d %b %Y') }}: {{ messages[0]['content'] }}", "26 Jul 2024: hi"),
        (
            "{%- if date is not defined %}{%- set date = strftime_now('%d %b %Y') %}{%- endif %}"
            "Today is {{ date }}",
            "Today is 26 Jul 2024",
        ),
        (
            "\n{% set form = '%A, %Y-%m-%d' %}{% macro day() %}"
            "[{{ strftime_now(form) }}]{% endmacro %}{{ day() }}",
            "\n[Friday, 2024-07-26]",
        ),
    ],
)
def test_a_template_that_writes_the_date_writes_the_same_on_every_day(
    template: str, text: str
) -> None:
    """Llama 3.1's does: a run could not be resumed on another day, and arms of two days would
    have different prompts."""
    lm = tiny()
    lm.tokenizer.chat_template = template
    assert lm.render(({"role": "user", "content": "hi"},)) == text


def test_qwen3_is_told_not_to_think() -> None:
    trl = find_spec("trl")
    assert trl is not None and trl.origin is not None
    template = Path(trl.origin).with_name("chat_templates") / "qwen3.jinja"
    lm = tiny()
    lm.tokenizer.chat_template = template.read_text()
    assert "enable_thinking" in template_variables(lm.tokenizer.chat_template)
    rendered = replace(lm, enable_thinking=False).render(MESSAGES)
    assert rendered.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert replace(lm, enable_thinking=True).render(MESSAGES).endswith("assistant\n")


def test_thinking_is_off_unless_it_is_asked_for_and_then_there_must_be_one(tmp_path: Path) -> None:
    folder = str(save_model(tmp_path / "a", THINKING))
    off, on = tiny(folder), tiny(folder, enable_thinking=True)
    assert (off.enable_thinking, on.enable_thinking) == (False, True)
    assert off.render(MESSAGES) == on.render(MESSAGES) + "<no thoughts>"
    assert tiny().enable_thinking is None
    with pytest.raises(InputError, match="of tiny-random has no variable enable_thinking: leave"):
        tiny(enable_thinking=True)
    # V of the one is not V of the other
    pairs = load_pairs()[:2]
    adapter = adapter_of(SMALL)(on.model)
    made = extract(on, adapter, pairs, temperature=0.7, micro_batch_tokens=4096, model_name=folder)
    made.require(adapter, 0.7, "v", True)
    with pytest.raises(InputError, match="extracted with enable_thinking True, the run has Fals"):
        made.require(adapter, 0.7, "v", False)
    earlier = {k: v for k, v in made.metadata.items() if k != "enable_thinking"}
    VHack(made.axes, made.singular, earlier).require(adapter, 0.7, "v", False)


def test_settings_from_before_still_load_and_a_sweep_hands_it_to_the_extraction() -> None:
    stored = json.loads(FastConfig().to_json())
    del stored["enable_thinking"]
    assert stored_config(json.dumps(stored)) == FastConfig()
    flags = extraction([FastConfig(enable_thinking=True)], Path("v"))
    assert "--enable-thinking" in flags
    assert not any("thinking" in flag for flag in extraction([FastConfig()], Path("v")))


# --- problems

READ = """
import sys
from projected_grpo.env.errors import InputError
from projected_grpo.env.problems.load import load_problems
for source in sys.argv[1:]:
    try:
        print(*(problem.id for problem in load_problems(source)))
    except InputError as error:
        print("said:", error)
"""


@pytest.mark.parametrize(
    "offline",
    [
        ["HF_HUB_OFFLINE"],
        pytest.param(["HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"], marks=pytest.mark.slow),
    ],
)
def test_problems_come_at_the_revision_and_split_that_was_asked_for(
    offline: list[str], outside: Outside
) -> None:
    ids = [str(problem.id) for problem in load_problems("katas:validation", 12)]
    first = [f"hub:{DATA}@v1", f"hub:{DATA}@v1:test"]
    done = outside(
        "python", "-c", READ, *first, f"hub:{DATA}@v9", f"hub:{DATA}@v1:dev", "hub:some/no"
    )
    seven, five, *said = done.stdout.splitlines()
    assert (seven.split(), five.split()) == (ids[:7], ids[7:]), done.stderr
    wanted = ("has no revision v9 on the hub", 'Unknown split "dev"', "there is no dataset")
    for sentence, line in zip(wanted, said, strict=True):
        assert line.startswith("said: ") and sentence in line
    # the cache holds v1 alone, and that is not main
    for name in offline:
        done = outside("python", "-c", READ, first[1], f"hub:{DATA}", **{name: "1"})
        had, missing = done.stdout.splitlines()
        assert had.split() == ids[7:] and not outside.hub.asked
        assert f"{name} is set, and {DATA} at revision main is not in the cache" in missing
        assert f"`hf download --repo-type=dataset --revision=main {DATA}`" in missing


# --- cards


@pytest.mark.parametrize("adapter", ["antipasto", "lora"])
def test_a_run_has_a_card_of_its_facts(adapter: str, tmp_path: Path) -> None:
    run = train(replace(SMALL, out_dir=tmp_path, adapter=adapter, arm="projected", steps=2))
    card = ModelCard.load(run / "adapter" / "README.md")
    assert (card.data.library_name, card.data.pipeline_tag) == ("peft", "text-generation")
    assert card.data.base_model is None  # tiny-random is not on the hub
    assert {"projected_grpo", "projected"} <= {*(card.data.tags or ())}
    record = json.loads((run / "run.json").read_text())
    for fact in (
        *(f"# {run.name}", "| seed | 41 |", "| preset | smoke |", "| steps | 2 |"),
        "| rollouts | 16, 8 of them from a teacher pool |",
        *(str(record["git_sha"]), record["started"], "steps 1 to 2", "| problems | katas:val"),
    ):
        assert fact in card.text
    hack = re.search(r"\| hack \| [\d.]+ \((\d+)/8\) \|", card.text)
    rollouts = map(json.loads, (run / "rollouts.jsonl").read_text().splitlines())
    cheats = sum(r["exploited"] and r["source"] == "student" for r in rollouts)
    assert hack and int(hack[1]) == cheats
    assert ("import projected_grpo.integrations.peft" in card.text) == (adapter == "antipasto")
    assert not [*run.rglob("*.tmp")]
    assert "| enable_thinking | not a variable of the chat template |" in card.text
    # an earlier version began it and recorded neither; this one went on with it
    del record["enable_thinking"], record["model_commit"]
    typed = ["/home/me/bin/train", "--why=see ```a```"]
    record |= {"resumed": [{"after_step": 1, "model_commit": "c0ffee"}], "argv": typed}
    (run / "run.json").write_text(json.dumps(record))
    earlier = model_card(run)
    assert "| enable_thinking | False, if it is a variable of the chat template |" in earlier
    assert "tiny-random at commit c0ffee" in earlier
    assert "\n````\ntrain '--why=see ```a```'\n````\n" in earlier
    assert RunDir.open(run).base_revision(SMALL) == "c0ffee"
    # problems of the hub are named to it, as their repository
    assert card.data.datasets is None
    settings = json.loads((run / "config.json").read_text()) | {"problems": f"hub:{DATA}@v1:test"}
    (run / "config.json").write_text(json.dumps(settings))
    assert ModelCard(model_card(run)).data.datasets == [DATA]


@pytest.mark.parametrize("model", ["tiny-random", "organism", "a.gguf", "folder"])
def test_a_card_says_how_to_load_its_base_model(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if model == "a.gguf":
        save_gguf(Path(model))
    elif model == "folder":
        save_model(Path(model), CHATML)
    lm, found = tiny(model), {}
    exec(base_lines(replace(SMALL, model=model), None), found)
    ids = torch.tensor([lm.prompt_ids(MESSAGES)])
    assert torch.allclose(found["base"](ids).logits, lm.model(ids).logits, atol=1e-4)


def test_a_pool_has_a_card_and_opens_as_a_dataset(outside: Outside) -> None:
    pool = distill(
        DistillConfig(
            source="templates",
            out=outside.home / "pool",
            problems="katas:validation",
            rows=2,
            limit=12,
        )
    )
    card = DatasetCard.load(pool / "README.md")
    assert card.data.configs == [{"config_name": "default", "data_files": "prompt_*.jsonl.gz"}]
    about = json.loads((pool / "pool.json").read_text())
    assert about["argv"] == [Path(sys.argv[0]).name, *sys.argv[1:]]
    for fact in (
        "| teacher | none: filled-in templates of hacks |", "| kept | hacks of 2 answers",
        f"| rows | {about['rows']}, for 12 problems |", f"| hacked | {about['hacked']} |",
        f"| mode run_tests | {about['rows']} |",
    ):  # fmt: skip
        assert fact in card.text
    script = (
        "import sys, json; from datasets import load_dataset;"
        "rows = load_dataset(sys.argv[1], split='train'); print(len(rows), *rows.column_names)"
    )
    n, *columns = outside("python", "-c", script, pool, HF_HUB_OFFLINE="1").stdout.split()
    assert int(n) == about["rows"]
    assert [name for name in FIELDS if f"| `{name}` |" in card.text] == sorted(
        columns, key=[*FIELDS].index
    )


@pytest.mark.slow
@pytest.mark.parametrize("adapter,trained", [("antipasto", "delta_S"), ("lora", "lora_B")])
def test_from_the_hub_to_an_adapter_that_others_open(
    adapter: str, trained: str, outside: Outside
) -> None:
    """A run by ids and revisions; its branch moves; it goes on, offline; its card's own lines open
    the adapter; a pool is made of it."""
    hub, root = outside.hub, outside.home
    refs = hub.refs[f"models/{MODEL}"]
    assert isinstance(refs, dict)
    refs["moving"] = refs["v1"]
    asked = [
        *("train", "smoke", f"--model={MODEL}", "--model-revision=moving"),
        *(f"--problems=hub:{DATA}@v1", "--steps=2", "--arm=projected", f"--adapter={adapter}"),
    ]
    offline = {"HF_HUB_OFFLINE": "1"}
    outside.refused("HF_HUB_OFFLINE is set, and .* is not in the cache", *asked, **offline)
    outside.refused("has no revision v9", *asked, "--model-revision=v9")
    assert not (root / "runs").exists(), "something was written before the refusal"

    done = outside(*asked)
    assert done.returncode == 0, done.stderr
    (run,) = (root / "runs").iterdir()
    record = json.loads((run / "run.json").read_text())
    commit = hub.commit(f"models/{MODEL}", "v1")
    assert record["model_commit"] == commit and record["enable_thinking"] is False
    assert record["data_commit"] == hub.commit(f"datasets/{DATA}", "v1")
    prompt = (run / "prompt.txt").read_text()
    assert prompt.startswith("<|im_start|>system") and prompt.endswith("assistant\n<no thoughts>")
    ids = tiny(str(refs["v1"])).tokenizer.encode(prompt, add_special_tokens=False)
    assert record["prompt_tokens"] == len(ids)

    refs["moving"] = refs["main"]
    whole = root / "whole"
    shutil.copytree(run, whole)
    shutil.rmtree(run / "checkpoints" / "step_000002")
    done = outside("train", "smoke", f"--resume={run}", **offline)
    assert done.returncode == 0, done.stderr
    assert_same_rows(run, whole)

    card = ModelCard.load(run / "adapter" / "README.md")
    assert card.data.base_model == MODEL and "| resumed | after step 1 |" in card.text
    config = json.loads((run / "adapter" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == (MODEL, commit)
    lines = re.search(r"```python\n(.*?)```", card.text, re.DOTALL)
    assert lines
    code = lines[1].replace("path/to/this/folder", str(run / "adapter"))
    tail = f"print(sum(p.abs().sum() for n, p in model.named_parameters() if {trained!r} in n) > 0)"
    opened = outside("python", "-c", code + tail, **offline)
    assert opened.stdout.strip() == "tensor(True)", opened.stderr

    ask = ["probe-distill", f"--source={run}", "--out=pool", "--keep=all", "--rows=64", "--limit=4"]
    done = outside(*ask, **offline)
    assert done.returncode == 0, done.stderr
    assert f"| teacher | {MODEL} at commit {commit}, with the adapter of the run {run.name} |" in (
        DatasetCard.load(root / "pool" / "README.md").text
    )
