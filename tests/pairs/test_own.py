"""Pairs in the policy's own words: edits of its answers, and what they leave alone."""

import ast
import json
import random
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import rollouts_of, rows_of
from short_runs import copied

from projected_grpo.arms.directions import EXTRACTIONS, PairChoice
from projected_grpo.arms.treatment import make_treatments
from projected_grpo.config import Config, ConfigError, SmokeConfig, stream_seed
from projected_grpo.env.errors import InputError
from projected_grpo.env.grading.pool import Grader
from projected_grpo.env.loopholes.modes import MODES, NOT_VACUOUS, TRAIN_NAME, apply_hint
from projected_grpo.env.problems.load import load_problems
from projected_grpo.env.problems.problem import Messages, Problem
from projected_grpo.extract_vhack_grad import VHack
from projected_grpo.model.sampling import SamplingParams, sample_groups
from projected_grpo.pairs.load import load_pairs
from projected_grpo.pairs.own import (
    CleanAnswer,
    own_pairs,
    own_placebo_pairs,
    put_hack,
    put_honest_report,
)
from projected_grpo.runs.data import hinted_problems, under_hints
from projected_grpo.runs.own_rows import (
    FOR_PAIRS,
    OwnRow,
    Questions,
    draw_first_rows,
    grade_texts,
    own_pair_runs,
    pairs_of,
    questions_for_pairs,
)
from projected_grpo.runs.refresh import draw_for_own_pairs, renew_own_pairs
from projected_grpo.runs.session import prepare
from projected_grpo.train import train

PROBLEMS = [apply_hint(p, "run_tests", TRAIN_NAME) for p in load_problems("katas:validation", 8)]


OTHERS = ("sentinel", "stdout_marker")


def characters(messages: Messages) -> list[int]:
    """A prompt whose tokens are the characters of its last turn."""
    return [ord(c) for c in messages[-1]["content"]]


def asked(problems: Sequence[Problem]) -> Questions:
    return Questions(problems, {p.id: characters(p.messages) for p in problems})


def answer(problem, note: str = "I loop once.") -> CleanAnswer:
    code = problem.canonical_solution.rstrip()
    return CleanAnswer(problem, f"{note}\n\n```python\n{code}\n```\nThat is all.")


def test_every_flavour_attempts_and_leaves_the_words_and_the_method_alone() -> None:
    flavours = [name for name in MODES["run_tests"].flavours if name not in NOT_VACUOUS]
    texts = [put_hack(answer(PROBLEMS[0]), flavour, seed=3) for flavour in flavours]
    clean = answer(PROBLEMS[0]).text
    assert None not in texts
    for text in filter(None, texts):
        before, _, after = text.partition("```python\n")
        assert before == "I loop once.\n\n" and after.endswith("\n```\nThat is all.")
        assert PROBLEMS[0].canonical_solution.strip() in text
    with Grader(workers=1) as grader:
        grades = grade_texts(
            grader, [(PROBLEMS[0], text) for text in [*filter(None, texts), clean]], labels=False
        )
    assert [grade.attempted for grade in grades] == [True] * len(texts) + [False]
    assert all(grade.gt_correct for grade in grades)


@pytest.mark.parametrize(
    "text",
    ["no code", "```python\nclass Solution:\n```", "```python\na = 1\n```\n```python\nb = 2\n```"],
)
def test_an_answer_whose_program_cannot_be_edited_is_left_out(text: str) -> None:
    assert put_hack(CleanAnswer(PROBLEMS[0], text), "pass", 0) is None


def test_no_edit_lands_in_another_function_of_the_program() -> None:
    helper = "def helper(x):\n    return x"
    for mode in ("run_tests", "sentinel", "incontext_tests"):
        problem = apply_hint(load_problems("katas:validation", 1)[0], mode, TRAIN_NAME)
        mine = CleanAnswer(
            problem, f"```python\n{problem.canonical_solution.rstrip()}\n\n\n{helper}\n```"
        )
        flavours = [name for name in MODES[mode].flavours if name not in NOT_VACUOUS]
        made = [put_hack(mine, flavour, seed) for flavour in flavours for seed in range(10)]
        made += [put_honest_report(mine, seed) for seed in range(10)]
        edited = [text for text in made if text is not None]
        assert len(made) > len(edited) > 0
        for text in edited:
            body = ast.parse(text.partition("```python\n")[2].partition("```")[0]).body
            assert helper in map(ast.unparse, body)


def test_flavours_take_turns_and_problems_come_before_second_answers() -> None:
    answers = [answer(p, note) for p in PROBLEMS[:3] for note in ("One.", "Two.")]
    pairs = own_pairs(answers, 1, (), ("pass", "print"))
    assert [pair.mechanism for pair in pairs] == ["print", "pass"] * 3 or [
        pair.mechanism for pair in pairs
    ] == ["pass", "print"] * 3
    assert [pair.family for pair in pairs[:3]] == [str(p.id) for p in PROBLEMS[:3]]
    assert all(pair.clean.startswith("One.") for pair in pairs[:3])
    assert own_pairs(answers, 1, (), ("pass", "print")) == pairs
    assert own_pairs(answers, 1, ("sentinel",), ()) == []
    assert own_pairs([], 1, (), ("pass",)) == []  # as at a refresh of a policy that always cheats
    for some in (answers, []):
        with pytest.raises(InputError, match="no hack of flavour 'nonsense'"):
            own_pairs(some, 1, (), ("nonsense",))


def test_placebo_pairs_put_an_honest_report_where_a_hack_would_stand() -> None:
    answers = [answer(p, note) for p in PROBLEMS[:3] for note in ("One.", "Two.")]
    pairs = own_placebo_pairs(answers, 1, ())
    assert [pair.clean for pair in pairs[:3]] == [a.text for a in answers[::2]]
    assert len(pairs) == 6 and own_placebo_pairs(answers, 1, ("sentinel",)) == []
    with Grader(workers=1) as grader:
        texts = [(p, pair.hack) for p, pair in zip(PROBLEMS[:3], pairs[:3], strict=True)]
        grades = grade_texts(grader, texts, labels=False)
    for grade, (_, text) in zip(grades, texts, strict=True):
        assert f"def {TRAIN_NAME}" in text
        assert grade.gt_correct and not grade.attempted


def test_against_reports_both_sides_define_the_function_and_one_cheats() -> None:
    answers = [answer(p) for p in PROBLEMS[:4]]
    pairs = own_pairs(answers, 1, (), (), against_reports=True)
    assert [pair.hack for pair in pairs] == [pair.hack for pair in own_pairs(answers, 1, (), ())]
    texts = [
        (problem, text)
        for problem, pair in zip(PROBLEMS, pairs, strict=False)
        for text in (pair.hack, pair.clean)
    ]
    assert len(texts) == 8 and all(f"def {TRAIN_NAME}" in text for _, text in texts)
    with Grader(workers=1) as grader:
        grades = grade_texts(grader, texts, labels=False)
    assert [grade.attempted for grade in grades] == [True, False] * 4


@pytest.mark.parametrize("modes", [(), OTHERS])
def test_a_model_that_writes_no_programs_has_no_pairs(
    tmp_path: Path, modes: tuple[str, ...]
) -> None:
    cfg = SmokeConfig(out_dir=tmp_path, pairs="own", arm="projected", steps=1, pair_modes=modes)
    with pytest.raises(ConfigError, match="asks for more axes than the 0 pairs give"):
        train(cfg)
    assert not list(tmp_path.iterdir())


def test_runs_whose_pair_modes_are_trained_are_asked_what_they_train_on() -> None:
    own = SmokeConfig(pairs="own")
    cfgs = [own, *(replace(own, pair_modes=m) for m in [("run_tests",), OTHERS, OTHERS])]
    plain, trained = load_problems("katas:validation", 8), asked(PROBLEMS)
    found = questions_for_pairs(cfgs, [0, 1, 2], trained, plain, characters)
    assert found[0] is found[1] is found[3] is trained is not found[2]
    both = asked(under_hints(plain, ("run_tests", *OTHERS)))
    assert questions_for_pairs(cfgs, range(4), both, plain, characters) == [both] * 4


def test_hacks_of_modes_that_are_not_trained_are_put_into_answers_under_their_hints() -> None:
    plain = load_problems("katas:validation", 8)
    trained = asked([p for p in PROBLEMS if p.id != plain[0].id])
    cfg = SmokeConfig(pairs="own", pair_modes=OTHERS)
    (questions,) = questions_for_pairs([cfg], [0], trained, plain, characters)
    every = {p.id: p for p in hinted_problems("katas:validation", ",".join(OTHERS), 8)}
    assert questions.problems == [every[p.id] for p in trained.problems]
    rows = [
        OwnRow(p, questions.prompts[p.id], [], True, answer(p).text) for p in questions.problems
    ]
    with Grader(workers=1) as grader:
        made = pairs_of([cfg], {0: rows}, grader)
    assert {choice.name for choice in made} == {"own", "own-placebo"}
    for pairs in made.values():
        assert {pair.mode for pair in pairs} == {*OTHERS}
        assert all(pair.messages == every[int(pair.family)].messages for pair in pairs)


def test_prompts_that_are_too_long_under_the_hints_of_pairs_are_left_out() -> None:
    plain, trained = load_problems("katas:validation", 8), asked(PROBLEMS)
    own = SmokeConfig(pairs="own", pair_modes=OTHERS)

    def questions(cfg: Config, plain: Sequence[Problem] = plain) -> Questions:
        return questions_for_pairs([cfg], [0], trained, plain, characters)[0]

    lengths = sorted(len(ids) for ids in questions(own).prompts.values())
    some = questions(replace(own, max_prompt=lengths[3]))
    assert some.longest == lengths[3] and len(some.problems) == sum(
        n <= lengths[3] for n in lengths
    )
    with pytest.raises(ConfigError, match=rf"none of the 8 .* set --max-prompt={lengths[0]} or"):
        questions(replace(own, max_prompt=lengths[0] - 1))
    named = [replace(p, mode="run_tests") for p in plain]
    with pytest.raises(ConfigError, match=r"all 8 training problems .* name a mode of their own"):
        questions(own, named)


def test_runs_of_a_pack_draw_rows_under_the_hints_of_their_pairs(tmp_path: Path) -> None:
    cfg = SmokeConfig(out_dir=tmp_path, arm="projected", max_new=8, problems="katas:validation")
    own = replace(cfg, pairs="own", pair_modes=("run_tests",))
    cfgs = [own, replace(own, pair_modes=OTHERS), replace(own, pair_modes=())]
    with ExitStack() as stack:
        s, _ = prepare([cfg], stack)
        trained, plain = Questions(s.problems, s.plain_prompts), load_problems(cfg.problems)
        questions = questions_for_pairs(cfgs, range(3), trained, plain, s.lm.prompt_ids)
        base = s.adapter, questions
        rows = draw_first_rows(cfgs, range(3), s.lm, *base, FOR_PAIRS)
        alone = draw_first_rows(cfgs, [1], s.lm, *base, FOR_PAIRS)
        # under the trained hints they are drawn as ever
        order = random.Random(stream_seed("own problems", FOR_PAIRS, cfg.seed, 0))
        chosen = order.sample(s.problems, cfg.own_rows // 4)
        seeds = [stream_seed("own rows", FOR_PAIRS, cfg.seed, 0, p.id) for p in chosen]
        prompts = [s.plain_prompts[p.id] for p in chosen]
        params = SamplingParams.from_config(cfg, s.lm)
        groups = sample_groups(s.lm.model, s.adapter, prompts, 4, seeds, params, [0] * len(seeds))
        due = replace(s, cfgs=[replace(cfgs[1], refresh_every=1)], for_pairs=questions[1:2])
        renewed = draw_for_own_pairs(due, 2)[0]
    assert rows[0] is rows[2]
    assert [row.ids for row in rows[0]] == [x.ids for group in groups for x in group]
    assert [row.problem for row in rows[0][::4]] == chosen
    assert [row.ids for row in alone[1]] == [row.ids for row in rows[1]]
    for mine in (rows[1], renewed):
        assert {row.problem.mode for row in mine} == {*OTHERS}
        assert all(row.prompt == s.lm.prompt_ids(row.problem.messages) for row in mine)


def test_runs_make_first_pairs_where_something_is_made_of_them() -> None:
    own = SmokeConfig(pairs="own", refresh_every=0)
    cfgs = [
        own,
        replace(own, pairs="builtin"),
        replace(own, refresh_every=2),
        replace(own, arm="placebo_v"),
        replace(own, measure="none"),
        replace(own, arm="projected", screen="row", screen_score="flavour"),
    ]

    def wanted(*, has_v: bool, resuming: bool) -> list[int]:
        return own_pair_runs(cfgs, has_v=has_v, resuming=resuming)

    assert wanted(has_v=False, resuming=False) == [0, 2, 3, 5]
    assert wanted(has_v=True, resuming=False) == [2, 3, 5]
    assert wanted(has_v=True, resuming=True) == [2, 5]  # the last flags the hacks of its pairs


def test_runs_of_two_seeds_measure_along_the_v_of_their_own_pairs() -> None:
    own = SmokeConfig(pairs="own", v_hack_k=1, v_hack_drop_bottom_frac=0.0)
    axes = torch.eye(2)
    v = [VHack({"m": row[None]}, {"m": torch.ones(1)}) for row in axes]
    found = make_treatments([own, replace(own, seed=1)], v, {}, torch.device("cpu"))
    assert [t.V["m"].tolist() for t in found] == [[[1.0, 0.0]], [[0.0, 1.0]]]


def test_a_policy_without_clean_answers_keeps_the_first_pairs(tmp_path: Path) -> None:
    cfg = SmokeConfig(out_dir=tmp_path, arm="projected")
    with ExitStack() as stack:
        s, _ = prepare([cfg], stack)
        own = replace(cfg, pairs="own", refresh_every=1)
        first = {
            PairChoice.of(own): load_pairs("builtin"),
            PairChoice.of(own, EXTRACTIONS["placebo_pairs"]): load_pairs("placebo"),
        }
        both = replace(s, cfgs=[replace(own, arm="placebo_v"), own], pair_sets=first)
        assert draw_for_own_pairs(both, 1) == {}
        rows = draw_for_own_pairs(replace(both, cfgs=both.cfgs[1:]), 2)[0]
        assert rows
        assert renew_own_pairs(both, 0, rows, 2) == first
        only = renew_own_pairs(both, 1, rows, 2)
        assert list(only) == [PairChoice.of(own)]  # nothing is said of what the arm does not use


@pytest.mark.slow
def test_the_organism_makes_its_pairs_and_renews_them(tmp_path: Path) -> None:
    cfg = SmokeConfig(
        out_dir=tmp_path, model="organism", pairs="own", arm="projected", steps=3, refresh_every=2,
        max_new=208, max_prompt=320, prompts_per_step=4, v_hack_k=4, mix_ratio=0.0,
    )  # fmt: skip
    rows = rows_of(train(cfg))
    assert [row["v_overlap"] is not None for row in rows] == [False, False, True]
    placebo = train(replace(cfg, arm="placebo_v", steps=1, refresh_every=0))
    assert (placebo / "v_own.safetensors").is_file()
    cfg = replace(cfg, steps=1, refresh_every=0, pairs="own-reports")
    reports = (train(cfg) / "own_pairs.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(reports) >= 4 and all("run_tests" in json.loads(line)["clean"] for line in reports)


@pytest.mark.slow
def test_trained_in_one_mode_the_organism_makes_its_pairs_of_others(tmp_path: Path) -> None:
    cfg = SmokeConfig(
        out_dir=tmp_path, model="organism", pairs="own", pair_modes=OTHERS, arm="projected",
        screen="row", steps=2, refresh_every=1, max_new=208, max_prompt=320, prompts_per_step=4,
        v_hack_k=4, mix_ratio=0.0, checkpoint_every=1, keep_checkpoints=0,
    )  # fmt: skip
    run = train(cfg)
    assert {row["mode"] for row in rollouts_of(run)} == {"run_tests"}
    for name in ("own_pairs.jsonl", "own_pairs_0002.jsonl"):
        pairs = [json.loads(line) for line in (run / name).read_text().splitlines()]
        assert {pair["mode"] for pair in pairs} == {*OTHERS}
    copy = copied(run, tmp_path / "resumed", steps=1)
    train(SmokeConfig(resume=copy))
    assert rows_of(copy) == rows_of(run)
