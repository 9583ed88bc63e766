"""Each arm is what its name says, is vanilla where its knob is zero, and packs with the others."""

import re
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import assert_same_rollouts, assert_same_rows, rollouts_of, rows_of
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from short_runs import SHORT, copied, trained

from projected_grpo.arms.arms import ARMS, Arm, controls_of, require_arms
from projected_grpo.arms.concept import CONCEPTS
from projected_grpo.arms.directions import EXTRACTIONS, REMOVED, PairChoice, own_directions
from projected_grpo.arms.prompts import PROMPTS
from projected_grpo.arms.rewards import REWARDS
from projected_grpo.arms.treatment import make_treatments
from projected_grpo.cli import train_main
from projected_grpo.config import ConfigError, SmokeConfig
from projected_grpo.env.errors import InputError
from projected_grpo.extract_vhack_grad import hack_minus_clean, without_labels
from projected_grpo.pairs.load import pairs_digest
from projected_grpo.proj import Projection, project, random_orthonormal, turn
from projected_grpo.report.report import report
from projected_grpo.runs.commands import ReportConfig, train_settings
from projected_grpo.runs.session import prepare
from projected_grpo.train import train, train_runs

CONTROLS = ("shuffled_v", "placebo_v", "norm_matched")


def settings(tmp_path: Path, **overrides) -> SmokeConfig:
    return replace(SHORT, out_dir=tmp_path, **overrides)


@pytest.fixture(scope="module")
def vanilla() -> Path:
    return trained(SHORT)


@pytest.fixture(scope="module")
def unmeasured(tmp_path_factory) -> tuple[Path, bool]:
    """The same run with nothing to measure along, and whether anything was extracted for it."""
    folder = tmp_path_factory.mktemp("unmeasured")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROJECTED_GRPO_CACHE", str(folder / "cache"))
        run = train(settings(folder / "runs", measure="none", print_every=1))
    return run, (folder / "cache" / "v").exists()


@pytest.fixture(scope="module")
def v_hack() -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return {
        "a": random_orthonormal(5, 64, g),
        "b": random_orthonormal(3, 64, g),
        "c": torch.eye(5, 64),
    }


def test_vanilla_is_the_identity_and_projected_is_v(v_hack) -> None:
    assert REMOVED[ARMS["vanilla"].removes](v_hack, 1) == {}
    assert REMOVED[ARMS["projected"].removes](v_hack, 1) == v_hack


ALONG_V = {"hack_auroc", "covered_energy", "hackward_frac"}


def test_without_a_v_vanilla_is_the_same_run_and_what_is_along_v_is_null(
    vanilla: Path, unmeasured
) -> None:
    run, extracted = unmeasured
    assert not extracted and not (run / "v_hack.safetensors").exists()
    assert "nothing is measured along it" in (run / "train.log").read_text()
    for row, measured in zip(rows_of(run), rows_of(vanilla), strict=True):
        for key, value in row.items():
            along = key in ALONG_V or key.startswith(("cos_", "inside_"))
            assert value == (None if along else measured[key]), key
    for row, measured in zip(rollouts_of(run), rollouts_of(vanilla), strict=True):
        along = {"hack_score", "pull", "token_chars", "window_score", "window_at"}
        assert row == {k: v for k, v in measured.items() if k not in along} | {"hack_score": None}


def test_without_a_v_a_run_goes_on_and_is_reported(unmeasured, tmp_path: Path) -> None:
    run = copied(unmeasured[0], tmp_path / "run", steps=1)
    train(SmokeConfig(resume=run))
    assert rows_of(run) == rows_of(unmeasured[0])
    report(ReportConfig(runs=(run,), out=tmp_path / "report"))
    assert (tmp_path / "report" / "index.html").is_file()


def test_what_needs_a_v_is_refused_without_one(tmp_path: Path) -> None:
    for name, arm in ARMS.items():
        acts = bool(REMOVED[arm.removes]({"a": torch.eye(2)}, 0))
        cfg = settings(tmp_path, arm=name, measure="none")
        if not acts:
            require_arms(cfg)
            continue
        with pytest.raises(ConfigError, match=f"arm {name} acts on directions, of which --measure"):
            require_arms(cfg)
    for needing in (
        {"v_hack": Path("v.safetensors")}, {"refresh_every": 2}, {"score_weight": 1.0},
        {"running_k": 2}, {"trust": 0.5}, {"v_hack_k_end": 9},
    ):  # fmt: skip
        (name,) = needing
        with pytest.raises(ConfigError, match=f"^{name} .* needs a V, of which --measure=none"):
            settings(tmp_path, measure="none", **needing)


@pytest.mark.slow
def test_arms_that_score_hidden_states_need_no_v(tmp_path: Path) -> None:
    run = train(settings(tmp_path, arm="adv_mod", measure="none"))
    rows = rows_of(run)
    assert all(row["concept_std"] is not None and row["cos_pre"] is None for row in rows)


def test_random_v_has_the_rank_of_v_and_nothing_else_of_it(v_hack) -> None:
    random = REMOVED[ARMS["random_v"].removes](v_hack, 1)
    assert random.keys() == v_hack.keys()
    for name, V in random.items():
        k, r = v_hack[name].shape
        assert V.shape == (k, r) and V.dtype == v_hack[name].dtype
        assert torch.allclose(V @ V.T, torch.eye(k), atol=1e-6)
        overlap = float((V @ v_hack[name].T).square().sum() / k)  # 1 for V itself, k/r by chance
        assert overlap < 4 * k / r


def test_random_v_repeats_for_a_seed_and_differs_between_seeds_and_modules(v_hack) -> None:
    basis = REMOVED[ARMS["random_v"].removes]
    first, again, other = basis(v_hack, 1), basis(v_hack, 1), basis(v_hack, 2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.allclose(first[name], other[name], atol=0.1) for name in first)
    assert not torch.allclose(first["a"], first["c"], atol=0.1)


def test_every_arm_says_what_it_is() -> None:
    assert all(len(arm.meaning) > 5 for arm in ARMS.values())
    cautious = {name for name, arm in ARMS.items() if arm.caution}
    assert cautious == {"routed", "gt_penalty", "inoculation", "inoculation_neutral"}
    for arm in ARMS.values():  # what is not sampled as it is deployed must say so
        assert arm.caution or not (arm.routes or arm.prompt != "as_evaluated")
    assert controls_of("projected") == ["random_v", *CONTROLS]
    assert controls_of("adv_mod") == ["adv_mod_random"]


def test_every_name_in_the_table_is_one_of_a_function() -> None:
    for arm in ARMS.values():
        assert {arm.removes, arm.turns_about} <= REMOVED.keys()
        assert arm.reward in REWARDS and arm.prompt in PROMPTS
        assert arm.extraction in ("", *EXTRACTIONS) and arm.concept in ("", *CONCEPTS)
        assert arm.control_of in ("", *ARMS)
        assert all(hasattr(SmokeConfig, refusal.setting) for refusal in arm.refuses)


def test_a_new_entry_of_the_table_is_all_that_an_arm_needs(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setitem(
        ARMS,
        "projected_quietly",
        Arm("the same under a sentence", prompt="inoculation_neutral", removes="basis"),
    )
    with pytest.raises(SystemExit):
        train_settings(["smoke", "--help"])
    assert "projected_quietly" in capsys.readouterr().out
    words = ["smoke", "--arms", "vanilla", "projected_quietly", "--steps=1", "--no-labels"]
    words += [f"--problems={SHORT.problems}", f"--max-new={SHORT.max_new}"]
    with pytest.raises(SystemExit) as ended:
        train_main([*words, f"--out-dir={tmp_path / 'runs'}"])
    said = capsys.readouterr().out
    assert ended.value.code == 0
    runs = sorted((tmp_path / "runs").iterdir(), key=lambda run: "vanilla" not in run.name)
    # a pack ends with what it showed, and a picture of it
    assert "Steps 1-1: vanilla hacks in " in said and f"by step: {runs[0] / 'pack.png'}" in said
    assert rows_of(runs[1])[0]["removed_frac"] > 0
    report(ReportConfig(runs=tuple(runs), out=tmp_path / "report"))
    assert "projected_quietly" in (tmp_path / "report" / "index.html").read_text()


def test_what_an_arm_does_not_take_is_refused(tmp_path: Path) -> None:
    for changed, sentence in (
        ({"arm": "projeted"}, "there is no arm projeted: did you mean projected?"),
        ({"arms": ("vanilla", "xyz")}, "there is no arm xyz: there are vanilla, projected"),
        ({"arm": "routed", "preserve_magnitude": True}, "leave --preserve-magnitude out"),
    ):
        for entry in (require_arms, train):
            with pytest.raises(ConfigError, match=re.escape(sentence)):
                entry(replace(settings(tmp_path / "never"), **changed))
    assert not (tmp_path / "never").exists()


# Controls


def test_a_shuffle_has_no_row_between_a_hack_and_a_clean_text() -> None:
    """Every text is a coordinate of its own, so a row shows what it is the difference of."""
    n = 8
    texts = torch.eye(2 * n).unflatten(0, (n, 2))  # (pair, side) -> coordinate 2 * pair + side
    D = without_labels({"m": texts, "other": 2 * texts}, seed=3)
    sides = []
    for row in D["m"]:
        plus, minus = int(row.argmax()), int(row.argmin())
        assert sorted(row[row != 0].tolist()) == [-1, 1]
        assert plus % 2 == minus % 2 and plus // 2 != minus // 2
        sides.append(plus % 2)
    assert sorted(sides) == [0] * 4 + [1] * 4  # hack - hack as often as clean - clean
    assert {int(row.argmax()) // 2 for row in D["m"]} == set(range(n))  # each pair once a side
    assert {int(row.argmin()) // 2 for row in D["m"]} == set(range(n))
    assert torch.equal(D["other"], 2 * D["m"])  # the same shuffle in all modules
    assert torch.equal(without_labels({"m": texts}, seed=3)["m"], D["m"])
    assert not torch.equal(without_labels({"m": texts}, seed=4)["m"], D["m"])


def test_a_shuffle_sees_nothing_of_a_difference_that_all_pairs_share() -> None:
    g = torch.Generator().manual_seed(0)
    shared = torch.nn.functional.normalize(torch.randn(40, generator=g), dim=0)
    sides = 0.1 * torch.randn(20, 2, 40, generator=g)
    sides[:, 0] += 3 * shared  # of hacks
    real, shuffled = hack_minus_clean({"m": sides})["m"], without_labels({"m": sides}, 1)["m"]
    assert (real @ shared).abs().min() > 2 and (shuffled @ shared).abs().max() < 1


@given(st.integers(0, 2**31), st.sampled_from(["one_sided", "no_gate", "reverse", "whole"]))
def test_norm_matched_removes_as_much_at_the_same_angle_elsewhere(seed: int, gate: str) -> None:
    g = torch.Generator().manual_seed(seed)
    r, N = 24, 3
    V = random_orthonormal(4, r, g).double()
    before = torch.randn(N, r, generator=g, dtype=torch.float64)
    about = torch.nn.functional.normalize(
        torch.randn(N, r, generator=g, dtype=torch.float64), dim=1
    )
    about[2] = 0  # a run of another arm
    projected = project({"m": before}, {"m": V}, Projection(gate, 1.3))["m"]
    after = turn({"m": before}, {"m": projected}, {"m": about})["m"]
    assert torch.equal(after[2], projected[2])
    for n in (0, 1):
        was, now = before[n] - projected[n], before[n] - after[n]
        assert torch.allclose(now.norm(), was.norm(), rtol=1e-9, atol=1e-12)
        assert torch.allclose(now @ before[n], was @ before[n], rtol=1e-9, atol=1e-9)
        assert torch.allclose(after[n].norm(), projected[n].norm(), rtol=1e-9)
        if was.norm() > 1e-6:
            assert (now - was).norm() > 1e-3 * was.norm()
            # nothing but g itself and the random direction
            plane = torch.linalg.qr(torch.stack([before[n], about[n]]).T)[0]
            assert torch.allclose(plane @ (plane.T @ now), now, atol=1e-9)
        else:
            assert torch.equal(after[n], before[n])


def test_turned_about_a_direction_whose_own_component_is_as_long_is_projected_on_it() -> None:
    h = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    before = torch.tensor([[-3.0, 1.0, 2.0, 0.0]])
    after = torch.tensor([[-3.0, 1.0, 2.0, 0.0]])
    # of |g|^2 = 14 a projection that removed 9 left 5: remove 3 along some unit vector u, u.g = 3
    u = before / 14 * 3 + (1 - 9 / 14) ** 0.5 * torch.tensor([[0.0, 0.0, 0.0, 1.0]])
    after = before - 3 * u
    left = turn({"m": before}, {"m": after}, {"m": h})["m"]
    assert torch.allclose(left, torch.tensor([[0.0, 1.0, 2.0, 0.0]]), atol=1e-5)


@pytest.fixture(scope="module")
def controls():
    """A prepared pack of the controls, each of two seeds."""
    cfgs = [SmokeConfig(arm=arm, seed=s, labels=False) for arm in CONTROLS for s in (1, 2)]
    with ExitStack() as stack:
        yield prepare(cfgs, stack)[0]


def test_the_controls_have_directions_of_their_own_and_measure_v(controls) -> None:
    (t,) = controls.treatments
    assert controls.own.keys() == {0, 1, 2, 3}
    shuffled, other_seed, placebo, placebo_again = (controls.own[n] for n in range(4))
    assert same_axes(placebo, placebo_again)
    assert not same_axes(shuffled, other_seed)
    digest = pairs_digest(controls.pair_sets[PairChoice("placebo")])
    assert placebo.metadata["pairs"] == digest != shuffled.metadata["pairs"]
    axes = sum(len(V) for V in t.V.values())
    for n in range(6):
        mine = {name: rows[n][rows[n].any(1)] for name, rows in t.removed.items()}
        assert sum(map(len, mine.values())) == pytest.approx(axes, abs=2)  # the same rank in all
        for V in mine.values():
            assert torch.allclose(V @ V.T, torch.eye(len(V)), atol=1e-5)
        differs = any(not torch.equal(mine[name], V) for name, V in t.V.items())
        assert differs == (n < 4)  # norm_matched turns what V would remove
    for name, h in t.turn_axes.items():
        assert not h[:4].any() and torch.allclose(h[4:].norm(dim=1), torch.ones(2))
        assert name in t.V


def same_axes(a, b) -> bool:
    return all(torch.equal(a.axes[name], b.axes[name]) for name in a.axes)


def test_controls_that_remove_nothing_are_vanilla_bit_for_bit(
    vanilla: Path, tmp_path: Path
) -> None:
    for arm, project_on in zip(CONTROLS, ("update", "grad", "both"), strict=True):
        run = train(settings(tmp_path, arm=arm, overshoot=0.0, project_on=project_on))
        ours = [{k: v for k, v in row.items() if "removed" not in k} for row in rows_of(run)]
        plain = [{k: v for k, v in row.items() if "removed" not in k} for row in rows_of(vanilla)]
        assert ours == plain and rollouts_of(run) == rollouts_of(vanilla)


@pytest.mark.slow
def test_a_pack_of_all_projecting_arms_gives_the_rows_of_the_runs_alone(tmp_path: Path) -> None:
    arms = ("projected", *CONTROLS)
    cfg = settings(tmp_path / "pack", arms=arms, gate="no_gate", project_on="both")
    packed = dict(zip(arms, train_runs(cfg.runs()), strict=True))
    for arm, path in packed.items():
        alone = trained(replace(cfg, arms=(), arm=arm))
        assert_same_rows(path, alone)
        assert_same_rollouts(path, alone, "advantage")
        assert (path / "v_own.safetensors").exists() == (arm in ("shuffled_v", "placebo_v"))
        first, mine = rows_of(packed["projected"])[0], rows_of(path)[0]
        for key in ("reward", "loss", "cos_pre", "grad_norm_pre", "hackward_frac"):
            assert mine[key] == pytest.approx(first[key], rel=1e-3, abs=1e-5)
    one, other = rows_of(packed["projected"])[0], rows_of(packed["norm_matched"])[0]
    assert other["removed_frac"] == pytest.approx(one["removed_frac"], rel=1e-3)
    assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-3)
    assert one["removed_frac"] > 0
    assert abs(other["cos_post"] - one["cos_post"]) > 1e-3


@pytest.mark.slow
def test_a_gate_that_opens_and_shuts_in_a_pack_does_so_alone(tmp_path: Path) -> None:
    """With this seed the whole removed vector points hack-ward at the first step only."""
    arms = ("vanilla", "projected")
    cfg = settings(tmp_path / "pack", arms=arms, gate="whole", project_on="both", seed=10)
    packed = train_runs(cfg.runs())[1]
    alone = trained(replace(cfg, arms=(), arm="projected"))
    assert_same_rows(packed, alone)
    assert_same_rollouts(packed, alone, "advantage")
    first, second = rows_of(packed)
    for key in ("removed_frac", "removed_frac_update"):
        assert first[key] > 0.1 and second[key] == 0


@pytest.mark.slow
@pytest.mark.parametrize("arm", CONTROLS)
def test_a_control_is_refreshed_and_resumed_with_its_own_directions(
    tmp_path: Path, arm: str
) -> None:
    whole = trained(replace(SHORT, arm=arm, steps=4, refresh_every=2))
    own = sorted(path.name for path in whole.glob("v_own*"))
    assert own == ([] if arm == "norm_matched" else ["v_own.safetensors", "v_own_0003.safetensors"])
    if own:
        first, again = load_file(whole / own[0]), load_file(whole / own[1])
        assert any(not torch.equal(first[name][:5], again[name]) for name in again)
    stopped = copied(whole, tmp_path / "stopped", steps=3)
    train(SmokeConfig(resume=stopped))
    assert rows_of(stopped) == rows_of(whole)


def test_own_directions_of_another_model_are_refused(controls, tmp_path: Path) -> None:
    own = controls.own[0]
    of_others = {name: -one for name, one in own.sketches.items()}
    stale = replace(own, metadata={**own.metadata, "fingerprint": "0" * 64}, sketches=of_others)
    stale.save(tmp_path / "v_own.safetensors")
    with pytest.raises(ValueError, match="was extracted from another model"):
        own_directions(
            controls.cfgs[:1], controls.lm, controls.adapter, {}, [tmp_path / "v_own.safetensors"]
        )


def test_a_resumed_run_has_the_directions_of_its_own_file(controls, tmp_path: Path) -> None:
    """Also where another of the pack has extracted of the same pairs, elsewhere."""
    cfgs, own = controls.cfgs[2:4], controls.own[2]
    assert [cfg.arm for cfg in cfgs] == ["placebo_v"] * 2
    other = replace(own, axes={name: -rows for name, rows in own.axes.items()})
    paths = [tmp_path / "one.safetensors", tmp_path / "other.safetensors"]
    own.save(paths[0])
    other.save(paths[1])
    found = own_directions(cfgs, controls.lm, controls.adapter, {}, paths)
    assert same_axes(found[0], own) and same_axes(found[1], other)
    (first, second) = make_treatments(cfgs, [own, other], found, torch.device("cpu"))
    assert [t.run for t in (first, second)] == [0, 1]
    assert all(torch.equal(first.V[name], -second.V[name]) for name in first.V)


def test_pairs_without_a_placebo_are_refused_before_the_model_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="only builtin, katas, own and own-reports have"):
        train(settings(tmp_path, arm="placebo_v", pairs="framing", model="/no/such/model"))
    with pytest.raises(InputError):
        train(settings(tmp_path, arm="shuffled_v", pairs="/no/such.toml", model="/no/such/model"))
    assert not list(tmp_path.iterdir())
