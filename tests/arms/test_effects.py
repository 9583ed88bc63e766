"""A setting that is given and has no effect is refused, by one table."""

import re
import shlex
from pathlib import Path

import pytest

from projected_grpo.arms.effects import EFFECTS, require_effect, without_effect
from projected_grpo.arms.token_scores import SCORES
from projected_grpo.config import PER_RUN, PRESETS, SCORES_BY_TEXT, SETTINGS, ConfigError
from projected_grpo.runs.commands import named_settings, train_settings


def idle(*words: str) -> dict[str, str]:
    return without_effect(train_settings(["smoke", *words]), named_settings(words))


def test_the_table_names_settings_and_all_that_belong_to_arms_or_remedies() -> None:
    assert set(EFFECTS) <= set(SETTINGS)
    always = {"lr", "v_hack", "measure", "screen"}
    assert set(PER_RUN) - always <= set(EFFECTS)


def test_no_preset_is_refused_for_what_it_sets_itself() -> None:
    for name in PRESETS:
        require_effect([(train_settings([name]), set())])


def test_a_setting_for_one_arm_of_a_pack_is_heeded() -> None:
    assert "gate" in idle("--gate=reverse")
    assert not idle("--arms", "vanilla", "projected", "--gate=reverse")


def test_the_value_named_may_be_the_one_that_it_has_anyway() -> None:
    assert set(idle("--gate=one_sided", "--lora-rank=16")) == {"gate", "lora_rank"}


def test_that_something_is_not_wanted_may_be_said_anywhere() -> None:
    assert not idle("--mix-ratio=0", "--teacher-steps=0", "--trust=0", "--no-running-replaces")
    assert set(idle("--overshoot=0", "--seeds", "1", "--seed=0")) == {"overshoot", "seed"}


@pytest.mark.parametrize(
    "beside", ["--refresh-every=2", "--arm=shuffled_v", "--arm=adv_mod", "--arm=placebo_v"]
)
def test_pairs_beside_a_file_of_directions_have_an_effect_where_something_else_is_made_of_them(
    beside: str,
) -> None:
    assert set(idle("--v-hack=v", "--pairs=katas")) == {"pairs"}
    assert not idle("--v-hack=v", "--pairs=katas", beside)


def test_of_screens_a_detector_of_flavours_alone_reads_pairs(tmp_path: Path) -> None:
    said = ("--arm=projected", f"--v-hack={tmp_path}", "--pairs=framing", "--screen=row")
    screened = (*said, "--screen-fpr=0.25")
    assert "pairs" not in idle(*screened, "--screen-score=flavour")
    for name in SCORES:
        assert name == "flavour" or "pairs" in idle(*screened, f"--screen-score={name}")


def test_a_v_of_the_same_pairs_at_the_base_is_not_new() -> None:
    renewed = ("--arm=projected", "--screen=row", "--refresh-every=2", "--screen-fpr=0.25")
    assert set(idle(*renewed)) == {"refresh_every"}
    for beside in ("--pairs=own", "--screen-at=policy", "--screen-score=nll_tokens"):
        assert not idle(*renewed, beside)


def test_without_a_loophole_no_text_shows_one() -> None:
    for name in SCORES_BY_TEXT:
        found = idle("--arm=projected", "--screen=row", f"--screen-score={name}", "--mode=none")
        assert set(found) == {"screen_score"}


def test_where_a_screen_is_scored_matters_to_scores_of_a_model_alone() -> None:
    screened = ("--arm=projected", "--screen=row", "--screen-fpr=0.25", "--screen-at=policy")
    for name, score in SCORES.items():
        found = idle(*screened, f"--screen-score={name}")
        assert ("screen_at" in found) == (score.of not in ("pull", "nll")), name
    said = idle(*screened, "--screen-score=shortness")["screen_at"]
    assert said == (
        "--screen-at has no effect beside --screen-score=shortness, which counts tokens and asks "
        "no model: leave it out"
    )


def test_how_to_project_is_not_said_where_nothing_is_projected() -> None:
    alone = ("--arm=projected", "--screen=row", "--screen-fpr=0.25", "--overshoot=0")
    assert not idle(*alone, "--no-preserve-magnitude", "--project-on=grad")
    found = idle(*alone, "--gate=no_gate", "--preserve-magnitude")
    assert set(found) == {"gate", "preserve_magnitude"}
    assert found["gate"] == (
        "--gate has no effect beside --overshoot=0, with which nothing is projected: leave one of "
        "the two out"
    )
    assert not idle("--arm=projected", "--gate=no_gate", "--overshoot=0.5")


def test_a_sweep_may_give_all_cells_what_acts_in_one_that_is_given_it() -> None:
    cells = [
        (train_settings(["smoke", f"--arm={arm}", *flags]), named_settings(flags))
        for arm in ("vanilla", "projected")
        for flags in (["--gate=reverse"], ["--lr=1"])
    ]
    require_effect(cells)
    with pytest.raises(ConfigError, match="--gate has no effect in an arm that removes nothing"):
        require_effect([cells[0], cells[3]])


def test_every_sentence_says_what_to_do() -> None:
    for needs in EFFECTS.values():
        for need in needs:
            assert need.lacking and need.remedy


def test_commands_of_the_docs_are_not_refused() -> None:
    """In fenced and indented blocks, continued lines joined; flags after a shell variable aside."""
    root = Path(__file__).parents[2]
    files = [root / "README.md", *sorted((root / "docs").rglob("*.md"))]
    found = 0
    for file in files:
        text = file.read_text(encoding="utf-8").replace("\\\n", " ")
        for command in re.findall(
            rf"(?:uv run|projected_grpo) train ((?:{'|'.join(PRESETS)}) [^`&|#<$\n]*)", text
        ):
            words = [word for word in shlex.split(command) if word != "--dry-run"]
            files = ("--teacher-pool", "--config")  # of the reader's
            cfg = train_settings([word for word in words if not word.startswith(files)])
            require_effect([(cfg, named_settings(words) - {"teacher_pool"})])
            found += 1
    assert found > 10
