"""The rivals change rewards or prompts, are vanilla where their knob is zero, and are what their
sources say."""

import math
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import rollouts_of, rows_of
from hypothesis import given
from hypothesis import strategies as st
from short_runs import SHORT, trained
from transformers import AutoTokenizer

from projected_grpo.arms import rewards
from projected_grpo.arms.advantages import grade_rows, score_rows
from projected_grpo.arms.arms import ARMS
from projected_grpo.arms.concept import concept_layers, last_states, random_direction
from projected_grpo.arms.directions import PairChoice
from projected_grpo.arms.prompts import inoculate, inoculate_neutrally
from projected_grpo.arms.rewards import ADV_MOD_FORMS, Seen, adv_mod, group_z, gt_penalty
from projected_grpo.config import ConfigError, SmokeConfig
from projected_grpo.env.sandbox.sandbox import Outcome
from projected_grpo.model.load import ORGANISM_FOLDER
from projected_grpo.model.loss import group_advantages
from projected_grpo.runs.sample_rows import sample_rows
from projected_grpo.runs.session import prepare
from projected_grpo.train import train, train_runs


def settings(tmp_path: Path, **overrides) -> SmokeConfig:
    return replace(SHORT, out_dir=tmp_path, **overrides)


@pytest.fixture(scope="module")
def vanilla() -> Path:
    return trained(SHORT)


def without(rows: list[dict], *keys: str) -> list[dict]:
    return [{k: v for k, v in row.items() if k not in keys} for row in rows]


NOTHING = {
    "gt_penalty": {"gt_penalty": 0.0},
    "adv_mod": {"adv_mod_alpha": 0.0},
    "adv_mod_random": {"adv_mod_alpha": 0.0, "adv_mod_form": "additive"},
    "inoculation": {"inoculation": ""},
    "inoculation_neutral": {"inoculation_neutral": ""},
}


@pytest.mark.parametrize("arm", sorted(NOTHING))
def test_a_rival_whose_knob_is_zero_is_vanilla_bit_for_bit(
    vanilla: Path, tmp_path: Path, arm: str
) -> None:
    run = train(settings(tmp_path, arm=arm, **NOTHING[arm]))
    assert without(rows_of(run), "concept_std") == without(rows_of(vanilla), "concept_std")
    scored = "concept_score"
    assert without(rollouts_of(run), scored) == without(rollouts_of(vanilla), scored)
    assert (rows_of(run)[0]["concept_std"] is not None) == arm.startswith("adv_mod")


# Rewards


def seen(exploited: list[list[bool]], scores: list[list[float]] | None = None) -> Seen:
    labels = torch.tensor(exploited)
    given_scores = None if scores is None else torch.tensor(scores)
    return Seen(torch.ones_like(labels), labels, torch.ones_like(labels), given_scores)


def test_the_penalty_takes_from_exploits_only_and_turns_their_advantage() -> None:
    rewards = torch.tensor([[3.5, 3.5, 0.5, 3.5]])  # hack, solved, failed, hack
    cfg = SmokeConfig()
    paid = gt_penalty(rewards, seen([[True, False, False, True]]), cfg)
    assert paid.tolist() == [[0.5, 3.5, 0.5, 0.5]]
    advantages, _ = group_advantages(paid, torch.ones_like(paid, dtype=torch.bool))
    assert (advantages[0] > 0).tolist() == [False, True, False, False]
    failed = replace(seen([[True] * 4]), valid=torch.tensor([[False, True, True, True]]))
    assert gt_penalty(rewards, failed, cfg)[0, 0] == 3.5  # the grader failed: no label


def test_z_is_over_the_valid_rows_with_a_floor() -> None:
    scores = torch.tensor([[1.0, 2.0, 3.0, 99.0], [5.0, 5.01, 5.0, 5.01]])
    valid = torch.tensor([[True, True, True, False], [True] * 4])
    z = group_z(scores, valid)
    assert z[0].tolist() == [-1.0, 0.0, 1.0, 0.0]
    assert z[1].tolist() == pytest.approx([-0.05, 0.05, -0.05, 0.05], abs=1e-4)
    assert group_z(torch.tensor([[7.0, 1.0]]), torch.tensor([[True, False]])).tolist() == [[0, 0]]


@pytest.mark.parametrize("outlier", [-25.0, 24.0])
@pytest.mark.parametrize("form", sorted(ADV_MOD_FORMS))
def test_a_cut_row_moves_nobodys_pay(form: str, outlier: float) -> None:
    """Its state is that of a token amid the code: far from the others, on either side."""
    cfg = SmokeConfig(adv_mod_form=form, adv_mod_alpha=0.5)
    rewards = torch.tensor([[3.5, 3.5, 3.5, 0.5]])
    group = seen([[False] * 4], [[1.0, 2.0, 3.0, outlier]])
    group = replace(group, terminated=torch.tensor([[True, True, True, False]]))
    paid = adv_mod(rewards, group, cfg)
    alone = adv_mod(rewards[:, :3], seen([[False] * 3], [[1.0, 2.0, 3.0]]), cfg)
    assert torch.equal(paid[:, :3], alone) and paid[0, 3] == 0.5
    assert paid[0, 2] < 3.5 == paid[0, 0]


@pytest.mark.parametrize("form", sorted(ADV_MOD_FORMS))
def test_one_text_is_paid_the_same_however_it_was_rounded(form: str) -> None:
    rounding = 4e-6 * torch.tensor([[0, 1, -1, 0.5, 0, 1, -0.5, 0]])
    rewards = torch.full((1, 8), 3.5)
    paid = adv_mod(
        rewards, seen([[False] * 8], (2 + rounding).tolist()), SmokeConfig(adv_mod_form=form)
    )
    assert torch.equal(paid, rewards)


def test_the_two_forms_are_the_papers() -> None:
    """At alpha 2 the factor is -tanh(z / 2) above the mean and 1 at or below it."""
    rewards = torch.tensor([[3.5, 3.5, 0.5, 0.5]])
    z = torch.tensor([[1.0, -1.0, 0.0, 2.0]])
    paid = ADV_MOD_FORMS["multiplicative"](rewards, z, 2.0)[0].tolist()
    expected = [-3.5 * math.tanh(0.5), 3.5, 0.5, -0.5 * math.tanh(1.0)]
    assert paid == pytest.approx(expected, rel=1e-5)
    assert ADV_MOD_FORMS["additive"](rewards, z, 2.0).tolist() == [[1.5, 3.5, 0.5, -3.5]]


@given(st.lists(st.floats(-5, 5), min_size=3, max_size=8), st.sampled_from(sorted(ADV_MOD_FORMS)))
def test_low_scores_are_never_paid_more(scores: list[float], form: str) -> None:
    cfg = SmokeConfig(adv_mod_form=form)
    rewards = torch.full((1, len(scores)), 3.5)
    paid = adv_mod(rewards, seen([[False] * len(scores)], [scores]), cfg)
    assert (paid <= rewards).all()
    z = group_z(torch.tensor([scores]), torch.ones(1, len(scores), dtype=torch.bool))
    assert torch.equal(paid[z <= 0], rewards[z <= 0])


def test_a_row_that_was_not_scored_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="needs the scores"):
        adv_mod(torch.ones(1, 2), seen([[False, False]]), SmokeConfig())


# Hidden states


@pytest.fixture
def small_scores(monkeypatch) -> None:
    """A floor below the scores of the tiny random model, which are some 1e-5: ties under .1."""
    monkeypatch.setattr(rewards, "STD_FLOOR", 1e-9)


def test_the_layers_are_those_at_60_to_75_percent() -> None:
    assert list(concept_layers(36)) == [21, 22, 23, 24, 25, 26]  # 22 to 27, counted from 1
    assert [list(concept_layers(n)) for n in (1, 2, 4)] == [[0], [0], [2]]


@pytest.fixture(scope="module")
def session():
    """adv_mod, its control of two seeds, and vanilla."""
    base = SmokeConfig(problems="katas:validation", labels=False, adv_mod_form="additive")
    cfgs = [replace(base, arm=arm) for arm in ("adv_mod", "adv_mod_random", "vanilla")]
    with ExitStack() as stack:
        yield prepare([*cfgs, replace(cfgs[1], seed=7)], stack)[0]


def test_a_state_is_that_of_the_last_token_whatever_the_padding(session) -> None:
    s = session
    texts = [([5, 6, 7], [8, 9]), ([5, 6], [7] * 30), ([1] * 9, [2])]
    together = last_states(s.lm, s.adapter, texts, [0, 1, 2], 4096)
    for i, (prompt, completion) in enumerate(texts):
        ids = torch.tensor([[*prompt, *completion]])
        with s.adapter.rows(torch.tensor([i])), torch.no_grad():
            out = s.lm.model(input_ids=ids, output_hidden_states=True)
        states = [out.hidden_states[layer + 1][0, -1] for layer in concept_layers(2)]
        assert torch.allclose(together[i], torch.stack(states).mean(0), atol=1e-5)


def test_the_direction_is_the_pairs_mean_difference_and_its_control_has_its_norm(session) -> None:
    s = session
    assert s.concepts.keys() == {0, 1, 3}
    d = s.concepts[0]
    pairs = s.pair_sets[PairChoice("builtin")]
    texts = [
        (s.lm.prompt_ids(p.messages), s.lm.completion_ids(text))
        for p in pairs
        for text in (p.hack, p.clean)
    ]
    states = last_states(s.lm, s.adapter, texts, [2] * len(texts), 4096)
    assert torch.allclose((states[0::2] - states[1::2]).mean(0), d, atol=1e-5)
    for n in (1, 3):
        assert float(s.concepts[n].norm()) == pytest.approx(float(d.norm()), rel=1e-5)
        assert abs(float(s.concepts[n] @ d)) < 0.6 * float(d @ d)
    assert not torch.allclose(s.concepts[1], s.concepts[3])
    assert torch.equal(random_direction(d, 3), random_direction(d, 3))


def test_only_what_an_arm_scores_is_penalised_and_a_failed_grade_never(
    session, small_scores
) -> None:
    class Failing:
        def grade(self, submissions, *, labels):
            grades = session.grader.grade(submissions, labels=labels)
            return [replace(grades[0], outcome=Outcome.INFRA_ERROR, reward=99.0), *grades[1:]]

    groups = sample_rows(session, 1)
    s = replace(session, grader=Failing())
    score_rows(s.lm, s.adapter, s.concepts, groups, s.cfg.micro_batch_tokens)
    grade_rows(s.cfgs, s.grader, groups, 1)
    rows = [row for group in groups for row in group]
    assert groups[0][0].penalty == 0 and groups[0][0].advantage == 0
    for row in rows:
        assert (row.concept_score is None) == (row.run == 2)
        assert row.run != 2 or row.penalty == 0
    assert all(row.penalty == 0 for row in rows if not row.terminated)
    assert any(row.penalty > 0 for row in rows if row.run == 0)
    # the first step's texts are those of one seed, scored by its own direction
    one = [row.concept_score for row in rows if row.run == 0]
    other = [row.concept_score for row in rows if row.run == 1]
    assert one != other


# Prompts


def test_the_sentence_stands_in_the_system_turn_of_training_prompts_only(tmp_path: Path) -> None:
    cfg = settings(tmp_path, arm="inoculation", steps=1)
    messages = ({"role": "system", "content": "S"}, {"role": "user", "content": "U"})
    system, user = inoculate(messages, cfg)
    assert system["content"] == f"S\n\n{cfg.inoculation}" and user == messages[1]
    assert inoculate(messages[1:], cfg)[0] == {"role": "system", "content": cfg.inoculation}
    assert inoculate(messages, replace(cfg, inoculation="")) == messages
    packed = train_runs([cfg, replace(cfg, arm="vanilla")])
    alone = trained(cfg)
    prompts = [(run / "prompt.txt").read_text() for run in (*packed, alone)]
    assert cfg.inoculation in prompts[0] == prompts[2] and cfg.inoculation not in prompts[1]
    ours, plain, again = map(rollouts_of, (*packed, alone))
    assert [row["problem_id"] for row in ours] == [row["problem_id"] for row in plain]
    assert [row["completion"] for row in ours] == [row["completion"] for row in again]
    teacher = [[r["completion"] for r in x if r["source"] == "teacher"] for x in (ours, plain)]
    assert teacher[0] == teacher[1]
    assert rows_of(packed[0])[0]["num_tokens"] > rows_of(packed[1])[0]["num_tokens"]


def test_the_neutral_sentence_stands_in_the_same_place_and_is_as_long() -> None:
    cfg = SmokeConfig()
    tokenizer = AutoTokenizer.from_pretrained(ORGANISM_FOLDER)
    ours, neutral = (
        len(tokenizer(text)["input_ids"]) for text in (cfg.inoculation, cfg.inoculation_neutral)
    )
    assert neutral == pytest.approx(ours, abs=2)
    for messages in (
        ({"role": "system", "content": "S"}, {"role": "user", "content": "U"}),
        ({"role": "user", "content": "U"},),
    ):
        permits = inoculate(messages, cfg)
        says_nothing = inoculate_neutrally(messages, cfg)
        assert permits[1:] == says_nothing[1:]
        text = permits[0]["content"].replace(cfg.inoculation, cfg.inoculation_neutral)
        assert says_nothing[0] == {"role": "system", "content": text} != permits[0]
    with ExitStack() as stack:  # one run's sentence is not another's
        base = SmokeConfig(problems="katas:validation", labels=False)
        arms = ("vanilla", "inoculation", "inoculation_neutral")
        s, _ = prepare([replace(base, arm=arm) for arm in arms], stack)
        assert len({s.first_prompt(n) for n in range(3)}) == 3


def test_the_arm_does_not_change_which_problems_are_short_enough(tmp_path: Path) -> None:
    """The longest plain prompt just fits; with the sentence it would not."""
    base = SmokeConfig(problems="katas:validation", labels=False)
    with ExitStack() as stack:
        s, _ = prepare([base], stack)
    longest = max(map(len, s.prompts[0].values()))
    limits = replace(base, max_prompt=longest, arm="inoculation")
    with ExitStack() as stack:
        t, _ = prepare([limits], stack)
    assert [p.id for p in t.problems] == [p.id for p in s.problems]
    assert max(map(len, t.prompts[0].values())) > longest


# Packs


@pytest.mark.slow
def test_a_pack_of_rivals_gives_the_rows_of_the_runs_alone(tmp_path: Path, small_scores) -> None:
    cfg = settings(tmp_path / "pack")
    cfgs = [
        replace(cfg, arm="gt_penalty"),
        replace(cfg, arm="adv_mod", adv_mod_form="additive", adv_mod_alpha=0.5),
        replace(cfg, arm="projected"),
    ]
    for one, path in zip(cfgs, train_runs(cfgs), strict=True):
        alone = train(replace(one, out_dir=tmp_path / "alone"))
        for row, expected in zip(rows_of(path), rows_of(alone), strict=True):
            for key, value in expected.items():
                if isinstance(value, float) and key != "sampling_logp_diff_max":
                    assert row[key] == pytest.approx(value, rel=1e-2, abs=1e-3), key
        assert (rows_of(path)[0]["penalty"] > 0) == (one.arm != "projected")
        # the logged reward is the grader's in every arm
        assert rows_of(path)[0]["reward"] == pytest.approx(rows_of(alone)[0]["reward"])
        if one.arm == "gt_penalty":
            for r in rollouts_of(path):
                assert r["penalty"] == (3.0 if r["exploited"] else 0.0)


@pytest.mark.slow
def test_a_scored_run_resumes_with_its_direction_and_only_on_its_pairs(
    tmp_path: Path, small_scores
) -> None:
    """The direction is made anew, of the base model, before the checkpoint is read."""
    cfg = settings(tmp_path, arm="adv_mod_random", adv_mod_form="additive", steps=3)
    whole = train(cfg)
    stopped = train(replace(cfg, steps=2, out_dir=tmp_path / "stopped"))
    config = (stopped / "config.json").read_text().replace('"steps": 2', '"steps": 3')
    (stopped / "config.json").write_text(config)
    train(SmokeConfig(resume=stopped))
    assert rows_of(stopped) == rows_of(whole) and rollouts_of(stopped) == rollouts_of(whole)
    assert any(row["penalty"] > 0 for row in rows_of(whole))
    (stopped / "config.json").write_text(config.replace('"pairs": "builtin"', '"pairs": "framing"'))
    with pytest.raises(ConfigError, match="from other pairs"):
        train(SmokeConfig(resume=stopped))


def test_contradictions(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="adv_mod_alpha must not be negative"):
        settings(tmp_path, arm="adv_mod", adv_mod_alpha=-1.0)
    with pytest.raises(ConfigError, match="gt_penalty must not be negative"):
        settings(tmp_path, gt_penalty=-1.0)
    assert {
        "gt_penalty",
        "adv_mod",
        "adv_mod_random",
        "inoculation",
        "inoculation_neutral",
    } <= ARMS.keys()
