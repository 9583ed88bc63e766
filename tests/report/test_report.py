"""`report` from the outside: real runs in, files out, and the page in a real browser."""

import base64
import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("matplotlib")
pytest.importorskip("pygments")

from projected_grpo.cli import report_main
from projected_grpo.config import SmokeConfig
from projected_grpo.env.problems.load import load_problems
from projected_grpo.env.problems.problem import render_assert
from projected_grpo.report.page.render import MOST_HIGHLIGHTED, highlighted
from projected_grpo.report.report import TABLES, report
from projected_grpo.report.rollouts import sample_rollouts
from projected_grpo.runs.commands import ReportConfig
from projected_grpo.train import train_runs

PROGRAM = (
    "Here:\n```python\nclass Solution:\n    def f(self, x):  # <b>\n        return 'a' + 1\n```"
)
HOSTILE = (
    "</script><script>document.title = 'owned'</script>",
    '<img src=x onerror="document.title=1">',
    '```python\nprint("</code></pre><h1>")\n```\n]]> <!-- <svg onload=alert(1)>',
    "\u2028 \u202e \x00 \ud800 \U0001f600\r\n& &lt; \\u003cscript>",
    PROGRAM,
)
HACKED = "I see.\n```python\nclass Solution:\n    pass\n\ndef run_tests():\n    print('ok')\n```"
COMPLETIONS = (*HOSTILE[:3], HACKED, *HOSTILE[3:])
ANSWERS: tuple[dict, ...] = (
    {"passed": True, "exploited": True, "attempted": True, "mechanism": "run_tests"}
    | {"flavour": "print", "reward": 3.5, "error": "<i>wrong</i>", "outcome": "failed"},
    {"passed": True, "gt_correct": True, "reward": 3.5, "outcome": "passed"},
    {},
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Vanilla and projected, two seeds each, really trained. What their rollouts say is replaced:
    the random model writes nothing that a page could choke on."""
    folder = tmp_path_factory.mktemp("runs")
    start = SmokeConfig(out_dir=folder, steps=3, problems="katas:validation", labels=False)
    cfgs = [
        SmokeConfig(**{**vars(start), "arm": arm, "seed": seed})
        for arm in ("vanilla", "projected")
        for seed in (1, 2)
    ]
    for path in train_runs(cfgs):
        rows = rollouts(path)
        for n, row in enumerate(rows):
            row["completion"] = f"{COMPLETIONS[n % len(COMPLETIONS)]}\n{n}"
            row |= ANSWERS[n % 3]
            # what the run measured is of the text that it had
            for key in ("token_chars", "pull", "window_score", "window_at"):
                row.pop(key, None)
            row |= scored(row["completion"], n) if n % 4 else {}
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (path / "rollouts.jsonl").write_text(text)
    return folder


def scored(text: str, n: int) -> dict:
    """Pulls of tokens of three characters, each completed by a second token: of the first two -1
    and -3 thousandths, of the last -.9 and 9.9."""
    chars = [0, 3] * (len(text) // 3) + [0, len(text) % 3]
    pulls = [-1, -3, *[0] * (len(chars) - 4), -9, 99]

    def packed(values: list[int]) -> str:
        return base64.b64encode(bytes(value % 256 for value in values)).decode()

    found = {"token_chars": packed(chars), "pull": {"scale": 0.127, "pulls": packed(pulls)}}
    window = {"window_score": n / 1000, "window_at": [len(chars) - 4, len(chars)]}
    return found | window | {"pull_base": {"scale": 0.0127, "pulls": packed(pulls)}}


@pytest.fixture(scope="module")
def made(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    report(ReportConfig(runs=(runs,), out=out, rollouts=8))
    return out


def rollouts(path: Path) -> list[dict]:
    return [json.loads(line) for line in (path / "rollouts.jsonl").read_text().splitlines()]


def command(*words: object) -> subprocess.CompletedProcess[str]:
    script = "from projected_grpo.cli import report_main; report_main()"
    line = [sys.executable, "-c", script, *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=300)


def test_tables_say_what_the_runs_say(runs: Path, made: Path) -> None:
    with (made / "tables" / "runs.csv").open() as f:
        lines = {line["run"]: line for line in csv.DictReader(f)}
    assert lines.keys() == {path.name for path in runs.iterdir()}
    for path in runs.iterdir():
        rows = [json.loads(line) for line in (path / "steps.jsonl").read_text().splitlines()]
        removed = [row["removed_frac"] for row in rows]
        assert float(lines[path.name]["removed_frac"]) == pytest.approx(sum(removed) / 3)
        assert lines[path.name]["steps"] == "3/3" and lines[path.name]["status"] == "finished"
    with (made / "tables" / "against_vanilla.csv").open() as f:
        (line,) = csv.DictReader(f)
    assert (line["arm - vanilla"], line["n seeds"]) == ("projected", "2")
    assert float(line["hack (mean paired difference)"]) == 0 and line["hack n"] == "2"
    assert line["hack 95 % t low"] == line["hack 95 % t high"] == ""  # equal: no interval
    for name in TABLES:
        markdown = (made / "tables" / f"{name}.md").read_text().splitlines()
        latex = (made / "tables" / f"{name}.tex").read_text().splitlines()
        assert len({line.count("|") for line in markdown}) == 1
        assert sum(line.endswith(r"\\") for line in latex) == len(markdown) - 1
    drawn = {path.stem for path in (made / "figures").iterdir()}
    kinds = ("attempts", "dynamics", "alignment", "removed", "differences", "scores")
    assert drawn == {f"{kind}_smoke" for kind in kinds}


def test_reads_runs_without_torch() -> None:
    script = "import sys, projected_grpo.report.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_the_same_runs_give_the_same_files(runs: Path, made: Path, tmp_path: Path) -> None:
    report(ReportConfig(runs=tuple(runs.iterdir()), out=tmp_path, rollouts=8))
    files = [path.relative_to(made) for path in made.rglob("*") if path.is_file()]
    assert len(files) == 1 + 6 * 3 + 6 * 2
    for file in files:
        assert (tmp_path / file).read_bytes() == (made / file).read_bytes(), file


def test_any_mix_of_directories_and_a_sentence_for_each_that_is_left_out(
    runs: Path, tmp_path: Path
) -> None:
    mix = tmp_path / "mix <img src=x onerror=alert(1)>"
    whole = sorted(runs.iterdir())
    for n, path in enumerate(whole):
        shutil.copytree(path, mix / "deeper" / path.name)
        copy = mix / f"copy_{n}"
        shutil.copytree(path, copy)
        if n == 0:  # stopped: killed while it wrote a row
            steps = (path / "steps.jsonl").read_text()
            (copy / "steps.jsonl").write_text(steps[: -len(steps) // 6])
        if n == 1:
            (copy / "rollouts.jsonl").unlink()
        if n == 2:
            (copy / "config.json").write_text("{")
        if n == 3:  # under way: another seed and arm, no step yet
            for name in ("steps.jsonl", "rollouts.jsonl"):
                (copy / name).write_text("")
            about = json.loads((copy / "run.json").read_text())
            about.pop("status")
            (copy / "run.json").write_text(json.dumps(about))
            stored = json.loads((copy / "config.json").read_text())
            changed = {**stored, "seed": 7, "arm": "routed"}
            (copy / "config.json").write_text(json.dumps(changed))
    (tmp_path / "empty").mkdir()
    out = tmp_path / "out"
    done = command(mix, tmp_path / "empty", whole[0], "--out", out)
    assert done.returncode == 0, done.stderr
    said = done.stderr.splitlines()
    for start, reason in {
        "copy_0": "is left out: it is the same experiment as",
        "copy_1": "is left out: it has no rollouts.jsonl",
        "copy_2": "is left out: damaged or of another version (config.json: Expecting",
        "empty": "is left out: there is no run in it",
    }.items():
        assert sum(start in line and reason in line for line in said) == 1, (start, said)
    with (out / "tables" / "runs.csv").open() as f:
        lines = list(csv.DictReader(f))
    assert len(lines) == 5 and sum(line["arm"] == "routed †" for line in lines) == 1
    assert sum(line["status"] == "no end recorded" for line in lines) == 1
    page = (out / "index.html").read_text()
    assert "it has no rollouts.jsonl" in page and "mix <img" not in page
    assert "† Judge by the evaluation, not by rates in training: routed" in page


def test_what_cannot_be_reported_is_one_sentence(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is the base install without the extra a traceback."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()

    def said(*words: object) -> str:
        with pytest.raises(SystemExit) as ended:
            report_main([*map(str, words)])
        assert ended.value.code == 1
        return capsys.readouterr().err.splitlines()[-1]

    assert said(tmp_path / "empty").startswith("error: there is no run to report in")
    assert said(tmp_path / "absent").startswith("error: there is no folder")
    assert said(runs, "--out", tmp_path / "file").endswith("is a file: name a folder with --out")
    assert "cannot write to" in said(runs, "--out", tmp_path / "file" / "below")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert said(runs) == "error: report needs matplotlib: install projected_grpo[report]"


@given(st.lists(st.sampled_from(["```python\n", "```", "\n", "'''", *HOSTILE]) | st.text()))
@settings(max_examples=100, deadline=None)
def test_highlighting_changes_no_text(parts: list[str]) -> None:
    text = "".join(parts)
    assert "".join(part for _, part in highlighted(text)) == text


def test_programs_are_highlighted_and_prose_and_overlong_ones_are_not() -> None:
    families = dict((text.strip(), family) for family, text in highlighted(PROGRAM))
    assert families["class"] == families["return"] == "k" and families["'a'"] == "s"
    assert families["1"] == "m" and families["# <b>"] == "c" and families["Solution"] == "f"
    assert len(highlighted("for a in 'prose'")) == 1
    assert len(highlighted("```python\n" + "\t \n" * MOST_HIGHLIGHTED)) == 1


@given(
    st.integers(1, 40),
    st.lists(st.integers(1, 9), min_size=1, max_size=3),
    st.integers(0, 200),
)
@settings(max_examples=40, deadline=None)
def test_a_sample_is_whole_groups_spread_over_training(
    tmp_path_factory: pytest.TempPathFactory, steps: int, sizes: list[int], limit: int
) -> None:
    path = tmp_path_factory.mktemp("sample") / "rollouts.jsonl"
    rows = [
        {"step": step, "sample_id": f"{step}/{problem}-{n}", "problem_id": problem}
        | {"completion": ""}
        | {"source": "student", "hack_score": 0.5, "outcome": "passed"}
        | {"exploited": False, "gt_correct": True}
        for step in range(1, steps + 1)
        for problem, size in enumerate(sizes)
        for n in range(size)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = sample_rollouts(path, limit)
    assert found.rows == len(rows) == len(found.scores["solve"])
    kept = sum(map(len, found.groups))
    assert kept <= limit or (len(found.groups) == 1 and limit)
    assert bool(found.groups) == bool(limit)
    for group in found.groups:
        assert len(group) == sizes[group[0]["problem_id"]]
        assert len({(row["step"], row["problem_id"]) for row in group}) == 1
    places = [
        (group[0]["step"] - 1) * len(sizes) + group[0]["problem_id"] for group in found.groups
    ]
    gaps = [b - a for a, b in pairwise(places)]
    assert all(gap >= 1 for gap in gaps) and max(gaps, default=1) - min(gaps, default=1) <= 1
    if len(places) > 1:
        assert places[0] == 0 and places[-1] == steps * len(sizes) - 1


# --- In a browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    "--disable-background-networking",
)


class Opened:
    """The page in a browser, and all that it complained of or asked for."""

    def __init__(self, page, file: Path) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(file.as_uri())

    def text(self, selector: str) -> str:
        return self.page.locator(selector).text_content()

    def visible(self, selector: str) -> list[str]:
        """Texts of the elements that are to be seen."""
        return self.page.locator(selector).locator("visible=true").all_text_contents()


@pytest.fixture(scope="module")
def browser() -> Iterator:
    if CHROMIUM is None:
        pytest.skip("there is no chromium: apt-get install -y chromium")
    api = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield opened
        opened.close()


@pytest.fixture
def opened(browser, made: Path) -> Iterator[Opened]:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(20_000)
    found = Opened(page, made / "index.html")
    yield found
    assert found.complaints == []
    assert found.requests[1:] == []  # nothing but the file
    assert found.page.title() == "projected_grpo: report"
    page.close()


def test_runs_are_filtered_and_sorted(opened: Opened) -> None:
    place = opened.visible("#runs thead th").index("run") + 1
    names = f"#runs tbody tr td:nth-child({place})"
    assert len(opened.visible(names)) == 4
    opened.page.fill("#run-search", "PROJECTED smoke")
    assert len(opened.visible(names)) == 2
    assert all("projected" in name for name in opened.visible(names))
    opened.page.locator("#run-filters").get_by_label("seed").select_option("2")
    (name,) = opened.visible(names)
    assert name.count("projected_s2") == 1 and opened.text("#run-count") == "1 of 4 runs"
    opened.page.fill("#run-search", "no such run")
    assert opened.visible(names) == [] and opened.text("#run-count") == "0 of 4 runs"
    opened.page.fill("#run-search", "")
    opened.page.locator("#run-filters").get_by_label("seed").select_option("")
    for _ in range(2):
        opened.page.click("#runs th:has-text('cos_pre_s') button")
    column = opened.visible("#runs thead th").index("cos_pre_s")
    values = [float(v) for v in opened.visible(f"#runs tbody td:nth-child({column + 1})")]
    assert len(values) == 4 and values == sorted(values, reverse=True)


def test_every_rollout_shows_what_its_file_says(runs: Path, opened: Opened) -> None:
    path = sorted(runs.iterdir())[-1]
    known = {row["sample_id"]: row for row in rollouts(path)}
    opened.page.click(f"#runs button:text-is('{path.name}')")
    first = opened.text("#list [aria-current=true]")
    assert first.startswith("hack") and "student" in first  # what people look for
    assert "of projected, seed 2" in opened.text("#title") or "vanilla" in path.name
    opened.page.locator("#list button").first.click()
    number = opened.page.locator("#list button").count()
    assert opened.text("#count") == f"{number} of the {4 * number} rollouts on this page"
    seen = set()
    for n in range(number):
        sample = opened.text("#title").split(" ")[1]
        row = known[sample]
        seen.add(sample)
        assert opened.text("#completion") == row["completion"]
        facts = dict(zip(opened.visible("#facts dt"), opened.visible("#facts dd"), strict=True))
        kind = "hack" if row["exploited"] else "solve" if row["gt_correct"] else "neither"
        assert facts["grade"] == kind and float(facts["reward"]) == row["reward"]
        assert facts["mode"] == row["mode"]
        assert facts["flavour"] == (row["flavour"] or "none")
        assert float(facts["hack score"]) == pytest.approx(row["hack_score"], rel=5e-3)
        group = [
            other for other in known.values()
            if (other["step"], other["problem_id"]) == (row["step"], row["problem_id"])
        ]  # fmt: skip
        assert opened.page.locator("#group button").count() == len(group)
        place = [other["sample_id"] for other in group].index(sample)
        chosen = opened.page.locator("#group [aria-current=true]")
        assert chosen.count() == 1 and f"reward {row['reward']:g}" in chosen.text_content()
        assert opened.page.locator("#group button").nth(place).get_attribute("aria-current")
        if n < number - 1:
            opened.page.click("#next")
    assert len(seen) == number == 8 and opened.page.locator("#next").is_disabled()
    assert opened.page.locator("#completion *:not(span)").count() == 0
    opened.page.locator("#group button").first.focus()
    opened.page.keyboard.press("Enter")
    assert opened.page.evaluate("document.activeElement.ariaCurrent") == "true"  # not lost
    opened.page.reload()  # the address names the rollout
    assert opened.page.locator("#group button").first.get_attribute("aria-current") == "true"
    first = opened.page.evaluate("location.hash")
    opened.page.click("#group button:nth-child(2)")
    opened.page.evaluate("hash => { location.hash = hash }", first)
    opened.page.wait_for_selector("#group button:first-child[aria-current=true]")
    opened.page.evaluate("location.hash = '#%'")  # nobody's; and no complaint
    opened.requests[1:] = []


def test_rollouts_are_filtered(opened: Opened) -> None:
    listed = opened.page.locator("#list button")
    whole = listed.count()
    opened.page.locator("#filters").get_by_label("grade").select_option("hack")
    hacks = listed.count()
    assert 0 < hacks < whole and all("hack" in text for text in opened.visible("#list button"))
    assert "attempted: print" in listed.first.text_content()
    opened.page.locator("#filters").get_by_label("flavour").select_option("none")
    assert listed.count() < hacks
    opened.page.locator("#filters").get_by_label("flavour").select_option("any")
    opened.page.fill("#search", "nowhere in any of them")
    assert listed.count() == 0 and opened.page.locator("#rollout").is_hidden()
    opened.page.fill("#search", "")
    opened.page.locator("#filters").get_by_label("mode").select_option("run_tests")
    assert listed.count() == hacks
    opened.page.fill("#search", "<script>document")
    assert 0 < listed.count() < hacks
    assert "<script>document.title = 'owned'" in opened.text("#completion")


def test_the_lines_that_exploit_are_marked(opened: Opened) -> None:
    opened.page.fill("#search", "def run_tests")
    assert opened.text("#list [aria-current=true]").startswith("hack")
    marked = opened.page.locator("#completion .marked").all_text_contents()
    assert marked == ["def run_tests():", "    print('ok')"]
    said = "▶ lines 6-7: defines run_tests, which its grader calls. The strongest window, tokens"
    assert opened.text("#marked").startswith(said)


def test_a_rollout_shows_its_prompt_and_the_tests_that_were_run(opened: Opened) -> None:
    problem = int(opened.text("#facts div:has-text('step, problem') dd").split(", ")[1])
    (known,) = [p for p in load_problems("katas:validation") if p.id == problem]
    user = known.messages[-1]["content"]
    assert user.split(" and should pass all tests")[0] in opened.text("#prompt")
    assert "is graded by calling run_tests()" in opened.text("#prompt")
    assert opened.text("#tests").splitlines()[0] == render_assert(known, known.cases[0])
    assert f"of {len(known.cases)})" in opened.text("#tests-label")


def test_tokens_are_coloured_by_their_pull_and_rollouts_sorted_by_the_window(
    opened: Opened,
) -> None:
    form = opened.page.locator("#filters")
    form.get_by_label("sort by").select_option("strongest window")
    opened.page.locator("#list button").first.click()
    listed = [text for text in opened.visible("#list button") if "window" in text]
    scores = [float(text.rpartition("+")[2]) for text in listed]
    assert len(scores) > 8 and scores == sorted(scores, reverse=True)
    assert "window" not in opened.text("#list li:last-child")
    text = opened.text("#completion")
    spans = opened.page.locator("#completion [title]")
    assert "".join(spans.all_text_contents()) == text
    last = spans.last.get_attribute("title")
    number = 2 * (len(text) // 3) + 2
    assert last == (f"pull +0.009 at the base policy, tokens {number - 1} to {number} of {number}")
    first = spans.first.get_attribute("title")
    assert first.startswith("pull \u22120.0004 at the base policy, tokens 1 to 2 of")
    assert {"p3", "p4"} & {*spans.last.get_attribute("class").split()}
    marked = opened.text("#marked")
    assert "the strongest window" in marked and f"tokens {number - 3} to {number}" in marked
    assert opened.page.locator("#completion .marked").count()
    bold = "".join(opened.page.locator("#completion .window").all_text_contents())
    assert text.endswith(bold) and 3 < len(bold) <= 5
    spans.last.hover()
    assert last in opened.text("#pulled")
    opened.page.locator("#colour select").select_option("pull")
    assert spans.last.get_attribute("title").startswith("pull +0.09 at the trained policy")
    opened.page.locator("#colour select").select_option("syntax")
    assert spans.count() == 0 and opened.page.locator("#legend").is_hidden()
    assert opened.text("#completion") == text
    assert opened.page.locator("#completion .window").count()  # it stays


@pytest.mark.parametrize("width", [1280, 400])
def test_nothing_is_wider_than_the_window(browser, made: Path, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})
    found = Opened(page, made / "index.html")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    drawn = page.locator(".drawing svg").locator("visible=true").all()
    boxes = [svg.bounding_box() for svg in drawn]
    assert len(drawn) == 6 and all(box["height"] > 60 and box["width"] < width for box in boxes)
    if width == 400:  # panels below each other, legends with them
        assert sum(box["height"] > box["width"] for box in boxes) >= 3
    assert found.complaints == []
    page.close()


@pytest.mark.parametrize("width", [1280, 400])
def test_the_first_screen_answers(browser, made: Path, runs: Path, width: int) -> None:
    """One sentence a comparison, the curve, date and command, then the runs."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    found = Opened(page, made / "index.html")
    (sentence,) = found.visible(".findings li")
    assert sentence.replace("\u00a0", " ") == (
        "nothing to show projected against vanilla: hack 0.0 points from 0.0 %, solve 0.0 points; "
        "n = 2 seeds, steps 1-3; vanilla itself never hacked in these steps."
    )
    tops = [page.locator(selector).bounding_box()["y"] for selector in (
        ".findings", ".opening svg", ".origin", "#runs table"
    )]  # fmt: skip
    assert tops[0] < 300 and tops[2] < tops[3]
    assert tops[1] < tops[2] and (width == 1280 or tops[0] < tops[1])
    started = json.loads((next(runs.iterdir()) / "run.json").read_text())["started"]
    assert f"Runs of {started[:10]}" in found.text(".origin")
    page.click("text=How the verdicts are made")
    assert any("95 % t interval" in text for text in found.visible(".opening details p"))
    page.close()


def test_a_table_that_scrolls_says_so_and_has_its_numbers_first(browser, made: Path) -> None:
    page = browser.new_page(viewport={"width": 400, "height": 900})
    found = Opened(page, made / "index.html")
    box = page.locator("#runs .scroll")
    outer = page.locator("#runs .table")
    edge = box.bounding_box()["x"] + box.bounding_box()["width"]
    for name in ("attempted", "hack", "solve"):
        head = page.locator(f"#runs th button:text-is('{name}')").bounding_box()
        assert head["x"] + head["width"] < edge
    assert found.visible("#runs .more") == ["more columns \u2192"]
    assert "right" in outer.get_attribute("class").split()
    heads = page.locator("#arms table").first.locator("th").all_text_contents()
    arms = [text.strip() for text in heads]
    assert arms[0] == "arm" and arms[1].startswith("attempted") and "n seeds" in arms[4:]
    box.evaluate("box => { box.scrollLeft = box.scrollWidth }")
    page.wait_for_selector("#runs .table.left:not(.right)")
    assert found.visible("#runs .more") == ["\u2190 columns"]
    page.set_viewport_size({"width": 3000, "height": 900})  # no wider than the page may be
    flavours = page.locator("#arms .table").last
    assert "right" not in (flavours.get_attribute("class") or "").split()
    assert flavours.locator(".more").is_hidden() and found.complaints == []
    page.close()


def test_the_policy_refuses_what_the_page_does_not_need(browser, made: Path) -> None:
    """Should a hole ever be found: markup from text, other scripts, all addresses are refused."""
    page = browser.new_page()
    found = Opened(page, made / "index.html")
    for attempt in (
        "document.body.innerHTML = '<b>'",
        "setTimeout('1')",
        "const s = document.createElement('script'); s.textContent = '1'; document.body.append(s)",
    ):
        with pytest.raises(Exception, match=r"requires 'Trusted(HTML|Script)' assignment"):
            page.evaluate(f"() => {{ {attempt} }}")
    page.evaluate("fetch('http://localhost:9').catch(() => 0)")
    assert any("connect" in text or "default-src" in text for text in found.complaints)
    page.close()
