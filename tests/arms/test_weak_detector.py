"""V from a part of the pairs while training goes on in all modes."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from short_runs import SHORT

from projected_grpo.arms.directions import PairChoice, load_pair_sets
from projected_grpo.config import ConfigError, SmokeConfig
from projected_grpo.env.errors import InputError
from projected_grpo.pairs.load import load_pairs, pairs_digest
from projected_grpo.runs.banner import labels
from projected_grpo.runs.data import hinted_problems
from projected_grpo.runs.session import prepare
from projected_grpo.train import train

MODES = ("run_tests", "sentinel", "stdout_marker", "file_marker")


def settings(tmp_path: Path, **overrides) -> SmokeConfig:
    return replace(SHORT, out_dir=tmp_path, **overrides)


def test_a_choice_takes_the_pairs_of_its_modes_and_flavours() -> None:
    chosen = PairChoice("katas", ("run_tests", "sentinel"), ("print", "property")).load()
    wanted = [p for p in load_pairs("katas") if p.mechanism in ("print", "property")]
    assert chosen == wanted and {p.mode for p in chosen} == {"run_tests", "sentinel"}
    assert PairChoice("katas").load() == load_pairs("katas")


def test_runs_of_a_pack_measure_and_remove_v_of_their_own_pairs(tmp_path: Path) -> None:
    whole = settings(tmp_path, arm="projected", pair_norm="unit")
    weak = replace(whole, pair_modes=MODES[1:])
    cfgs = [whole, weak, replace(weak, arm="vanilla"), replace(weak, arm="placebo_v")]
    with ExitStack() as stack:
        s, v_hack = prepare(cfgs, stack)
    of_all, of_three = s.treatments
    assert of_all.runs.tolist() == [0] and of_three.runs.tolist() == [1, 2, 3]
    fewer = load_pairs("builtin", modes=MODES[1:])
    digests = [v.metadata["pairs"] for v in v_hack]
    assert digests == [pairs_digest(load_pairs("builtin"))] + [pairs_digest(fewer)] * 3
    placebo = load_pairs("placebo", modes=MODES[1:])
    assert s.own[3].metadata["pairs"] == pairs_digest(placebo) and len(placebo) == len(fewer)
    name = next(iter(of_three.V.keys() & of_all.V.keys()))
    assert torch.equal(of_three.removed[name][0][: len(of_three.V[name])], of_three.V[name])
    assert not of_three.removed[name][1].any()
    assert not torch.allclose(of_three.V[name][:1], of_all.V[name][:1])
    assert labels(cfgs)[:2] == [
        "projected pair_modes=all",
        "projected pair_modes=sentinel,stdout_marker,file_marker",
    ]


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (
            {"pair_modes": ("telepathy",)},
            InputError,
            "no pair of mode 'telepathy': there are",
        ),
        ({"pair_flavours": ("none",)}, InputError, "no pair of flavour 'none': there are"),
        (
            {"pair_modes": ("sentinel",), "v_hack_k": 12},
            ConfigError,
            "v_hack_k 12 asks for more axes than the 8 pairs",
        ),
    ],
)
def test_what_cannot_be_chosen_is_refused_before_the_model_is_loaded(
    tmp_path: Path, overrides: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        train(settings(tmp_path / "runs", model="/no/such/model", **overrides))
    assert not (tmp_path / "runs").exists()


def test_a_basis_from_a_file_leaves_no_choice(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot choose others"):
        settings(tmp_path, v_hack=tmp_path / "v.safetensors", pair_modes=("sentinel",))


def test_several_modes_share_the_problems_out(tmp_path: Path) -> None:
    problems = hinted_problems("katas:validation", ",".join(MODES))
    counts = [sum(p.mode == mode for p in problems) for mode in MODES]
    assert sum(counts) == len(problems) and max(counts) - min(counts) <= 1
    assert hinted_problems("katas:validation", ",".join(MODES)) == problems
    assert load_pair_sets([settings(tmp_path)], [], [], False).keys() == {PairChoice("builtin")}


def test_a_stored_run_keeps_its_choice_and_an_older_one_has_all_pairs(tmp_path: Path) -> None:
    cfg = settings(tmp_path, pair_modes=("sentinel",), v_hack_k=4)
    assert SmokeConfig.from_json(cfg.to_json()) == cfg
    lines = [line for line in cfg.to_json().splitlines() if "pair_flavours" not in line]
    assert SmokeConfig.from_json("\n".join(lines)) == cfg
