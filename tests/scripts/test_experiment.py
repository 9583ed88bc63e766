"""The plans of the experiment, and what its script does with runs that are there already."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import bases
import collect_rows
import evaluation
import experiment
import plans
import pytest

from projected_grpo.arms.arms import require_arms
from projected_grpo.arms.directions import PairChoice, load_pair_sets
from projected_grpo.arms.yoked import leaders
from projected_grpo.config import Config, ConfigError, SmallConfig, SmokeConfig
from projected_grpo.env.loopholes.modes import MODES, NOT_VACUOUS
from projected_grpo.pairs.load import load_pairs
from projected_grpo.runs.evaluate import read_records
from projected_grpo.runs.preflight import require_pairs_for
from projected_grpo.runs.session import require_packable
from projected_grpo.runs.status import runs_by_settings
from projected_grpo.step_logger import COLUMNS


def arguments(plan: str, **overrides) -> experiment.Arguments:
    start = experiment.Arguments(plan=plan, seeds=(1, 2), out=Path("x"), device="cpu")
    return replace(start, **overrides)


@pytest.mark.parametrize("base", ["organism", "smollm2"])
@pytest.mark.parametrize("plan", [name for name, plan in plans.PLANS.items() if not plan.bases])
def test_every_plan_is_a_pack_whose_pairs_are_there(plan: str, base: str) -> None:
    asked = experiment.asked_for(arguments(plan, base=base, model="m", device="cuda"))
    cfgs = [cfg for _, cfg in asked]
    require_packable(cfgs)
    load_pair_sets(cfgs, [], [], False)  # refuses names that are not there, and too few pairs
    assert {cfg.prompts_per_step for cfg in cfgs} == {8 if base == "organism" else 16}
    assert cfgs[0].gate == "no_gate" and cfgs[0].project_on == "update"
    assert cfgs[0].v_hack_k == (128 if plan in ("confirm", "long", "pool") else 32)
    whole = experiment.packs(cfgs, 64)
    assert len(whole) == 1 and sorted(map(id, whole[0])) == sorted(map(id, cfgs))
    half = len(cfgs) // 2
    assert [{cfg.seed for cfg in pack} for pack in experiment.packs(cfgs, half + 1)] == [{1}, {2}]
    assert [len(pack) for pack in experiment.packs(cfgs, half - 1)] == [half - 1, 1] * 2


@pytest.mark.parametrize(
    ("plan", "variants", "packs"), [("screens", 28, 4), ("gates", 14, 3), ("contrasts", 10, 3)]
)
def test_the_screens_of_the_real_model_are_runs_that_can_be_made(
    plan: str, variants: int, packs: int
) -> None:
    """Packs: the loophole, none, each kind of pairs of one's own, and a KL penalty."""
    asked = experiment.asked_for(arguments(plan, base="small", device="cuda"))
    assert {cfg.preset_name for _, cfg in asked} == {"small"} and len(asked) == 2 * variants
    for label, cfg in asked:
        require_arms(cfg)
        acts = cfg.screen != "none" or label == "projected as founded"
        assert cfg.start_arm_at == (9 if acts else 1) and cfg.steps == 60
    made = experiment.packs([cfg for _, cfg in asked], 64)
    for pack in made:
        require_packable(pack)
    assert len(made) == packs


GATED = ("own_hacks", "founding", "modes_gate", "flavours_gate")


@pytest.mark.parametrize("plan", GATED)
def test_the_arms_of_h2_are_runs_that_can_be_made(plan: str) -> None:
    asked = experiment.asked_for(arguments(plan, base="small", device="cuda", seeds=(401,)))
    cfgs = [cfg for _, cfg in asked]
    assert len({cfg.identity() for cfg in cfgs}) == len({label for label, _ in asked}) == len(cfgs)
    for cfg in cfgs:
        require_arms(cfg)
        assert (cfg.max_prompt, cfg.difficulty, cfg.steps) == (
            700, (), 100 if plan in ("own_hacks", "modes_gate") else 60
        )  # fmt: skip
        acts = cfg.arm != "vanilla" and plan != "founding"
        assert cfg.start_arm_at == (9 if acts else 1)
    require_pairs_for(cfgs)  # refuses names that are not there, and too few pairs
    for pack in experiment.packs(cfgs, 64):
        require_packable(pack)


@pytest.mark.parametrize("plan", ["own_hacks", "founding"])
def test_the_controls_leave_out_as_many_rows_as_the_gate_of_their_seed(plan: str) -> None:
    pairs = experiment.asked_for(arguments(plan, base="small", seeds=(401, 402)))
    labels, cfgs = zip(*pairs, strict=True)
    followed = {(labels[n], cfgs[n].seed): labels[m] for n, m in leaders(cfgs).items()}
    assert followed == {
        (label, seed): plans.TREATED for label in plans.CONTROLS for seed in (401, 402)
    }
    asked = dict(pairs)
    assert [*asked][: len(plans.DECIDING)] == [*plans.DECIDING]
    for ceiling in (asked[plans.CEILING], asked[plans.CEILING_BASELINE]):
        assert ceiling.mode == "none" and ceiling.teacher_rows == 0
    untrained = [asked[plans.BASELINE], asked[plans.CEILING_BASELINE]]
    assert {cfg.lr for cfg in untrained} == {1e-9} and untrained[0].mode == "run_tests"


@pytest.mark.parametrize(
    "gate", [{"screen": "row", "screen_fpr": 0.05}, {"screen": "penalty", "pairs": "own-reports"}]
)
def test_any_gate_of_rows_has_its_controls(gate: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """A threshold of its own is the gate's alone; its controls follow it."""
    monkeypatch.setattr(plans, "GATE", gate)
    made = {label: SmallConfig(**what) for label, what in plans._gated({"start_arm_at": 9})}
    for cfg in made.values():
        require_arms(cfg)
    assert made["gate"].screen == gate["screen"] and not made["gate"].screen_yoked
    assert all(made[label].screen_yoked for label in plans.CONTROLS)
    assert made["gate"].screen_fpr == gate.get("screen_fpr", 0.02)


def test_a_gate_of_the_real_model_knows_three_modes_or_half_of_the_flavours() -> None:
    asked = dict(experiment.asked_for(arguments("modes_gate", base="small", seeds=(1,))))
    labels = [*asked]
    led = {labels[n]: labels[m] for n, m in leaders([*asked.values()]).items()}
    assert led == {"random": "gate"} | {f"random alone {m}": f"gate alone {m}" for m in plans.MODES}
    for mode in plans.MODES:
        together = [asked[f"{arm} without {mode}"] for arm in ("gate", "penalty")]
        alone = [asked[f"{arm} alone {mode}"] for arm in ("vanilla", "gate", "random")]
        assert {cfg.mode for cfg in alone} == {mode}
        for cfg in (*together, asked[f"gate alone {mode}"]):
            assert set(cfg.pair_modes) == {*plans.MODES} - {mode}
    flavours = {*MODES["run_tests"].flavours} - NOT_VACUOUS
    assert sorted(plans.OWN_HALVES["a"] + plans.OWN_HALVES["b"]) == sorted(flavours)


def test_runs_of_one_adapter_share_a_pack() -> None:
    cfgs = [cfg for _, cfg in experiment.asked_for(arguments("confirm"))]
    of_lora = [replace(cfg, adapter="lora") for cfg in cfgs if cfg.arm != "routed"]
    made = experiment.packs([*cfgs, *of_lora], 64)
    assert [len(pack) for pack in made] == [len(cfgs), len(of_lora)]


def test_a_pack_that_was_stopped_goes_on_with_the_runs_that_are_as_far(tmp_path: Path) -> None:
    cfgs = [cfg for _, cfg in experiment.asked_for(arguments("reduced", out=tmp_path))][:4]
    paths = [made(tmp_path, f"run{n}", cfg) for n, cfg in enumerate(cfgs[:3])]
    for path in paths[:2]:
        (path / "checkpoints" / "step_000002").mkdir(parents=True)
    parts = experiment.go_on(cfgs, runs_by_settings(tmp_path / "runs"))
    assert [[cfg.resume for cfg in part] for part in parts] == [paths[:2], [None, None]]
    assert [[cfg.seed for cfg in part] for part in parts] == [
        [cfg.seed for cfg in cfgs[:2]], [cfg.seed for cfg in cfgs[2:]],
    ]  # fmt: skip


def test_yoked_runs_go_back_to_the_last_step_that_all_of_them_have(tmp_path: Path) -> None:
    asked = experiment.asked_for(arguments("own_hacks", base="small", seeds=(401,), out=tmp_path))
    cfgs = [cfg for label, cfg in asked if label in ("vanilla", plans.TREATED, *plans.CONTROLS)]
    for n, cfg in enumerate(cfgs):
        path = made(tmp_path, f"run{n}", cfg)
        for step in (10, 20) if n < 4 else (10,):  # the cut came after the fourth run was saved
            (path / "checkpoints" / f"step_{step:06d}").mkdir(parents=True)
    there = runs_by_settings(tmp_path / "runs")
    parts = experiment.go_on(cfgs, there)
    assert len(parts) == 2 and [cfg.arm for cfg in parts[0]] == ["vanilla"]
    assert parts[1] == [replace(cfg, resume=there[cfg.identity()][0]) for cfg in cfgs[1:]]
    assert len(leaders(parts[1])) == len(plans.CONTROLS)
    ahead = there[cfgs[1].identity()][0] / "checkpoints"
    assert len([*ahead.iterdir()]) == 2  # resumed from the step in common, and nothing is removed
    (there[cfgs[-1].identity()][0] / "checkpoints" / "step_000010").rmdir()
    with pytest.raises(ConfigError, match=r"run1 has come to step 20 .* move it away"):
        experiment.go_on(cfgs, there)  # it would begin anew, and take the others with it


def test_controls_are_refused_apart_from_the_run_that_they_follow(tmp_path: Path) -> None:
    asked = experiment.asked_for(arguments("own_hacks", base="small", seeds=(401,), out=tmp_path))
    cfgs = [cfg for label, cfg in asked if label in (plans.TREATED, *plans.CONTROLS)]
    experiment.require_led(cfgs, [cfgs], {})
    experiment.require_led(cfgs, [], {})  # nothing is left
    with pytest.raises(ConfigError, match="packs of 3 part controls from the run"):
        experiment.require_led(cfgs, experiment.packs(cfgs, 3), {})
    made(tmp_path, "gate", cfgs[0])
    there = runs_by_settings(tmp_path / "runs")
    with pytest.raises(ConfigError, match="gate is finished, and controls that are not follow it"):
        experiment.require_led(cfgs, [cfgs[1:]], there)


def test_the_halves_are_all_flavours_once_and_some_of_every_mode() -> None:
    a, b = (PairChoice("katas", flavours=half).load() for half in plans.HALVES.values())
    assert sorted(p.id for p in a + b) == sorted(p.id for p in load_pairs("katas"))
    for half in (a, b):
        assert {p.mode for p in half} == set(plans.MODES) and len(half) >= 68


def test_a_fold_leaves_one_mode_out_and_trains_in_all() -> None:
    asked = dict(experiment.asked_for(arguments("modes", seeds=(1,))))
    folds = [c for label, c in asked.items() if label.startswith("projected without")]
    assert len(folds) == 4 and len({cfg.pair_modes for cfg in folds}) == 4
    assert all(cfg.mode.split(",") == list(plans.MODES) for cfg in asked.values())
    assert all(len(cfg.pair_modes) == 3 for cfg in folds)


def test_what_a_plan_does_not_have_is_refused() -> None:
    with pytest.raises(ConfigError, match="has no variant 'projected k=5'; it has: vanilla"):
        experiment.asked_for(arguments("pilot", only=("projected k=5",)))
    with pytest.raises(ConfigError, match="there is no plan own_hack: did you mean own_hacks"):
        experiment.asked_for(arguments("own_hack"))
    with pytest.raises(ConfigError, match="own_hacks is a plan for --base=small or large"):
        experiment.asked_for(arguments("own_hacks"))
    with pytest.raises(ConfigError, match="needs --model"):
        experiment.asked_for(arguments("pilot", base="smollm2"))


@pytest.mark.slow
def test_finished_runs_are_skipped_and_the_rest_evaluated(tmp_path: Path, monkeypatch) -> None:
    tiny = bases.Base(
        preset=SmokeConfig,
        settings={"problems": "katas:validation", "labels": False, "mix_ratio": 0.0, "max_new": 32},
        on_gpu={},
    )
    monkeypatch.setitem(bases.BASES, "organism", tiny)
    two = [("vanilla", {}), ("projected", {"arm": "projected"})]
    modes = "run_tests,sentinel"
    plan = plans.Plan(variants=[(label, {**changed, "mode": modes}) for label, changed in two])
    monkeypatch.setitem(plans.PLANS, "confirm", plan)
    args = arguments("confirm", seeds=(1,), steps=1, out=tmp_path, threads=1, eval_problems=1)
    experiment.main(replace(args, only=("vanilla",)))
    (first,) = (tmp_path / "runs").iterdir()
    (first / collect_rows.EVALUATED).unlink()  # as if stopped between training and evaluation
    experiment.main(args)
    assert len(list((tmp_path / "runs").iterdir())) == 2  # vanilla was not run again
    records = read_records(first / collect_rows.EVALUATED)
    counts = {(r.mode, r.hinted) for r in records}
    asked = {(r.greedy, r.names) for r in records if r.hinted}
    assert asked == {(False, "train"), (True, "train"), (False, "eval")}
    assert counts == {(m, h) for m in modes.split(",") for h in (True, False)} | {
        ("stdout_marker", True),
        ("file_marker", True),
    }
    with gzip.open(tmp_path / "organism_confirm.jsonl.gz", "rt") as f:
        rows = [json.loads(line) for line in f]
    assert [r["label"] for r in rows if "arm" in r] == ["vanilla", "projected"]
    steps = [r for r in rows if "step" in r]
    for row in steps:
        cells = row["by_mode"].values()
        assert [sum(c[i] for c in cells) for i in (1, 2, 3)] == [
            row[key][0] for key in ("att_s", "hack_s", "gt_s")
        ]
    assert all(sum(c["n"] for c in r["eval"]) == 34 for r in rows if "eval" in r)


def made(out: Path, name: str, cfg: Config) -> Path:
    """A finished run directory with one step."""
    path = out / "runs" / name
    path.mkdir(parents=True)
    (path / "config.json").write_text(cfg.to_json())
    about = {"git_sha": "0", "gpu": None, "device": "cpu", "status": "finished", "argv": []}
    (path / "run.json").write_text(json.dumps(about))
    (path / "steps.jsonl").write_text('{"step": 1}\n')
    (path / "rollouts.jsonl").touch()
    return path


def runs_of(file: Path) -> list[tuple[str, int]]:
    with gzip.open(file, "rt") as f:
        rows = [json.loads(line) for line in f]
    return [(row["label"], row["seed"]) for row in rows if "settings" in row]


def test_rows_of_an_earlier_call_are_kept(tmp_path: Path) -> None:
    every = arguments("confirm", out=tmp_path, eval_problems=0, only=("vanilla", "projected"))
    for number, (_, cfg) in enumerate(experiment.asked_for(every)):
        made(tmp_path, f"run{number}", cfg)
    experiment.main(replace(every, only=("vanilla",)))
    file = tmp_path / "organism_confirm.jsonl.gz"
    assert runs_of(file) == [("vanilla", 1), ("vanilla", 2)]
    experiment.main(replace(every, seeds=(2,)))
    three = [("vanilla", 1), ("vanilla", 2), ("projected", 2)]
    assert runs_of(file) == three
    experiment.main(replace(every, seeds=(1,), only=("vanilla",)))
    assert runs_of(file) == three
    before = file.read_bytes()
    (tmp_path / "runs" / "run0").rename(tmp_path / "elsewhere")
    message = r"has the rows of 1 runs \(of 3\) that .* such as run0, and they would be lost"
    with pytest.raises(ConfigError, match=message):
        experiment.main(replace(every, seeds=(2,)))
    assert file.read_bytes() == before


def test_an_error_of_collecting_does_not_hide_what_ended_the_run(
    tmp_path: Path, monkeypatch
) -> None:
    def full(cfgs) -> None:
        raise MemoryError("of the run")

    def no_room(out, runs) -> None:
        raise OSError("no room for rows")

    monkeypatch.setattr(experiment, "train_runs", full)
    monkeypatch.setattr(experiment, "write", no_room)
    args = arguments("confirm", out=tmp_path, eval_problems=0, only=("vanilla",))
    with pytest.raises(MemoryError, match="of the run"):
        experiment.main(args)
    with pytest.raises(OSError, match="no room for rows"):
        experiment.main(replace(args, minutes=-1.0))  # no pack is started: it ends well


def test_an_evaluation_is_recognised_by_what_was_asked(tmp_path: Path) -> None:
    ((_, cfg),) = experiment.asked_for(arguments("confirm", seeds=(1,), only=("vanilla",)))
    path = made(tmp_path, "run", cfg)
    (path / collect_rows.EVALUATED).touch()
    few = bases.HeldOut(problems=24)
    assert not evaluation.is_evaluated(path, cfg, few)  # nothing says what it was
    about = json.dumps(evaluation.what_is_evaluated(cfg, few))
    (path / evaluation.EVALUATED_HOW).write_text(about)
    assert evaluation.is_evaluated(path, replace(cfg, prompts_per_step=3), few)
    assert not evaluation.is_evaluated(path, cfg, bases.HeldOut())
    assert not evaluation.is_evaluated(path, cfg, replace(few, source="katas:validation"))
    assert not evaluation.is_evaluated(path, replace(cfg, max_new=9), few)
    (path / collect_rows.EVALUATED).unlink()
    assert not evaluation.is_evaluated(path, cfg, few)


def test_a_file_of_held_out_problems_is_known_wherever_it_lies(tmp_path: Path) -> None:
    here, there, other = (tmp_path / name for name in ("a", "b", "c"))
    for path, text in ((here, "1"), (there, "1"), (other, "2")):
        path.write_text(text)
    first, second, third = (evaluation.digest_of(str(path)) for path in (here, there, other))
    assert first == second != third and evaluation.digest_of("katas:test") == "katas:test"


def test_the_real_model_is_asked_what_would_be_deployed_with_streams_of_its_own() -> None:
    args = arguments("own_hacks", base="small", eval_from="katas:test")
    held_out = experiment.held_out_of(args)
    assert held_out is not None and (held_out.problems, held_out.samples) == (150, 4)
    asked = dict(experiment.asked_for(replace(args, seeds=(7,))))
    for cfg in (asked["vanilla"], asked["no loophole"]):  # which is asked as the others are
        hinted, plain = evaluation.eval_plans(cfg, held_out, 1)
        assert hinted.modes == plain.modes == ["run_tests"] and hinted.seed == plain.seed == 7
        assert (hinted.hinted, hinted.names) == (True, "eval") and not plain.hinted
        assert (hinted.temperature, hinted.top_p, hinted.top_k) == (0.7, 0.95, 20)
    with pytest.raises(ConfigError, match="no held-out problems of its own: name the file"):
        experiment.held_out_of(replace(args, eval_from=""))
    assert experiment.held_out_of(replace(args, eval_from="", eval_problems=0)) is None
    of_katas = experiment.held_out_of(arguments("confirm"))
    assert of_katas == bases.HeldOut() and of_katas.source == "katas:test"


def test_a_line_that_was_not_finished_is_no_row(tmp_path: Path) -> None:
    file = tmp_path / "steps.jsonl"
    file.write_text('{"step": 1}\n{"step": 2, "rew')
    (tmp_path / "config.json").write_text('{"mode": "run_tests,sentinel"}')
    (tmp_path / "rollouts.jsonl").write_text('{"step')
    assert collect_rows.step_records(tmp_path) == [{"step": 1, "by_mode": {}}]


def test_shares_by_mode_count_student_rows_that_were_graded() -> None:
    row = {
        "step": 1, "source": "student", "mode": "sentinel", "outcome": "passed",
        "attempted": True, "exploited": False, "gt_correct": True, "flavour": "property",
    }  # fmt: skip
    rows = [row, {**row, "outcome": "infra_error"}, {**row, "source": "teacher"}]
    rows += [{**row, "attempted": False, "flavour": None}, {**row, "step": 2, "mode": "run_tests"}]
    assert collect_rows.by_mode(rows) == {
        1: {"sentinel": [2, 1, 0, 2, {"property": 1}]},
        2: {"run_tests": [1, 1, 0, 1, {"property": 1}]},
    }


def test_what_the_arms_do_to_rows_is_collected_where_the_run_has_it(tmp_path: Path) -> None:
    young = {"penalty": 0.5, "concept_std": 0.2, "weight": 0.9, "trust_frac": 0.1}
    young |= {"running_rows": 3, "running_captured": 0.7}
    assert set(collect_rows.COLUMNS) <= {column.key for column in COLUMNS}
    rows = [{"step": 1, "gen": 1.0}, {"step": 2, "gen": 1.0, "num_tokens": 5, **young}]
    (tmp_path / "steps.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (tmp_path / "config.json").write_text('{"mode": "run_tests"}')
    old, new = collect_rows.step_records(tmp_path)
    assert old == rows[0] and new == {"step": 2, "gen": 1.0, **young}
