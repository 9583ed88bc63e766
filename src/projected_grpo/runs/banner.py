"""Two completions of a step to look at, as text: a table of rates does not show what a model
writes."""

from collections.abc import Iterator, Sequence

from projected_grpo.arms.rows import Row

MOST_LINES, MOST_COLUMNS = 30, 160
"""What is shown of a completion: of more lines the first and the last. rollouts.jsonl has all."""


def best_and_hack(names: Sequence[str], rows: Sequence[Sequence[Row]]) -> Iterator[str]:
    """Of a step's rollouts the best student one that is no hack, and the best hack, by reward, one
    of each for all runs of a pack together; `names` and `rows` run by run."""
    student = [row for mine in rows for row in mine if row.source == "student"]
    for title, hacked in (("best", False), ("hack", True)):
        some = [row for row in student if row.grade.exploited == hacked]
        if not some:
            yield f"{title}: none of {len(student)} student rollouts"
            continue
        row = max(some, key=lambda row: row.grade.reward)  # the first of several
        g = row.grade
        solved = "solved" if g.gt_correct else "not solved"
        how = ", ".join(filter(None, (g.mechanism, g.flavour))) if hacked else solved
        score = "" if row.hack_score is None else f", hack score {row.hack_score:+.3f}"
        about = f"problem {row.problem.id} ({row.mode}), reward {g.reward:.3g}, {how}{score}"
        yield f"{title}: {names[row.run]}, {about}\n{_shown(row.text)}"


def _shown(text: str) -> str:
    """Indented, its middle left out where it is long, and nothing in it that a terminal obeys."""
    lines = text.splitlines()
    if len(lines) > MOST_LINES:
        half = MOST_LINES // 2
        lines[half:-half] = [f"[{len(lines) - 2 * half} lines left out]"]
    cut = (line.expandtabs(4)[:MOST_COLUMNS] for line in lines)
    plain = ("".join(c if c.isprintable() else "\ufffd" for c in line) for line in cut)
    return "\n".join(f"    | {line}" for line in plain)
