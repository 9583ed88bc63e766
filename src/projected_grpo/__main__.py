"""`python -m projected_grpo train ...`: the console commands, of this very interpreter and
installation. What a sweep hands to a queue is written so, as a queue may have another PATH."""

import sys

from projected_grpo import cli

COMMANDS = {
    "train": cli.train_main,
    "extract-vhack": cli.extract_main,
    "probe-distill": cli.distill_main,
    "download-model": cli.download_main,
    "report": cli.report_main,
    "sweep": cli.sweep_main,
    "grade": cli.grade_main,
    "evaluate": cli.evaluate_main,
    "sample": cli.sample_main,
    "merge": cli.merge_main,
}

if __name__ == "__main__":
    del sys.argv[0]  # from here on the command line is the command's own
    if not sys.argv or sys.argv[0] not in COMMANDS:
        sys.exit(f"usage: python -m projected_grpo {{{','.join(COMMANDS)}}} ...")
    COMMANDS[sys.argv[0]]()
