"""Pairs in the policy's own words: edits of its answers, and what they leave alone."""

import ast
import json
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import rows_of

from projected_grpo.arms.directions import EXTRACTIONS, PairChoice
from projected_grpo.arms.treatment import make_treatments
from projected_grpo.config import ConfigError, SmokeConfig
from projected_grpo.env.errors import InputError
from projected_grpo.env.grading.pool import Grader
from projected_grpo.env.loopholes.modes import MODES, NOT_VACUOUS, TRAIN_NAME, apply_hint
from projected_grpo.env.problems.load import load_problems
from projected_grpo.extract_vhack_grad import VHack
from projected_grpo.pairs.load import load_pairs
from projected_grpo.pairs.own import (
    CleanAnswer,
    own_pairs,
    own_placebo_pairs,
    put_hack,
    put_honest_report,
)
from projected_grpo.runs.own_rows import grade_texts, own_pair_runs
from projected_grpo.runs.refresh import draw_for_own_pairs, renew_own_pairs
from projected_grpo.runs.session import prepare
from projected_grpo.train import train

PROBLEMS = [apply_hint(p, "run_tests", TRAIN_NAME) for p in load_problems("katas:validation", 8)]


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
    with pytest.raises(InputError, match="no hack of flavour 'nonsense'"):
        own_pairs(answers, 1, (), ("nonsense",))


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


def test_a_model_that_writes_no_programs_has_no_pairs(tmp_path: Path) -> None:
    cfg = SmokeConfig(out_dir=tmp_path, pairs="own", arm="projected", steps=1)
    with pytest.raises(ConfigError, match="asks for more axes than the 0 pairs give"):
        train(cfg)


def test_runs_make_first_pairs_where_something_is_extracted_from_them() -> None:
    own = SmokeConfig(pairs="own", refresh_every=0)
    cfgs = [
        own,
        replace(own, pairs="builtin"),
        replace(own, refresh_every=2),
        replace(own, arm="placebo_v"),
        replace(own, measure="none"),
    ]

    def wanted(*, has_v: bool, resuming: bool) -> list[int]:
        return own_pair_runs(cfgs, has_v=has_v, resuming=resuming)

    assert wanted(has_v=False, resuming=False) == [0, 2, 3]
    assert wanted(has_v=True, resuming=False) == [2, 3]
    assert wanted(has_v=True, resuming=True) == [2]


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
