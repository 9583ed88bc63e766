"""The table of mistakes: enough rows, and those that cost nothing are good."""

from mistakes import LINES, environment, verdicts

SLOW = ("katas", "placebo", "list-modes", "report", "status", "grade", "dry-run", "help-all")


def test_the_table_has_at_least_ninety_rows_and_none_twice() -> None:
    commands = [row.command for row in LINES]
    assert len(set(commands)) == len(commands) >= 90


def test_what_needs_no_torch_is_said_in_one_sentence() -> None:
    rows = [row for row in LINES if not (row.torch or any(word in row.command for word in SLOW))]
    assert len(rows) >= 90
    with environment({"HF_HUB_OFFLINE": "1", "COLUMNS": "120"}):
        found = verdicts(rows, quick=True)
    assert [(row.command, faults) for row, _, faults in found if faults] == []
