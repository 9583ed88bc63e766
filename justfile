# Recipes of projected_grpo. `uv run just` works where `just` is not installed.

# List the recipes.
default:
    @just --list

# Two steps of the real pipeline on the tiny model: is anything broken at all? (seconds)
fast-dev-run:
    uv run train smoke --arm=projected --steps=2

# The smoke run of plain GRPO. (CPU, under a minute)
smoke-vanilla:
    uv run train smoke --arm=vanilla

# The smoke run with the hack directions projected out. (CPU, under a minute)
smoke-projected:
    uv run train smoke --arm=projected

# The tests, as CI runs them.
test *args:
    uv run pytest {{args}}

# The slow tests, of which CI runs four only. (half an hour on two cores)
test-slow *args:
    uv run pytest -n 2 -rs -m slow {{args}}

# Format and lint.
lint:
    uv run ruff format --check .
    uv run ruff check .

# Rewrite the sources as the formatter wants them.
fmt:
    uv run ruff format .
    uv run ruff check --fix .

# Check the types (basic mode).
types:
    uv run basedpyright

# Everything that must be green before a commit.
check: lint types test

# Fetch a model for runs without a network; one of several .gguf by a pattern such as '*Q4_1.gguf'.
download-model model="Qwen/Qwen3-4B" revision="main" pattern="":
    uv run download-model {{quote(model)}} --revision={{quote(revision)}} \
        {{ if pattern == "" { "" } else { "--pattern " + quote(pattern) } }}

# Write docs/metrics.md anew from the columns of step_logger.py.
metrics:
    uv run python -c "from projected_grpo.step_logger import glossary; print(glossary(), end='')" > docs/metrics.md

# The headline on the organism, reduced, with tables and figures. (2 cores, under 30 minutes)
headline:
    #!/usr/bin/env bash
    # 4 seeds x vanilla, projected, random_v for 28 steps at 1.5 times the preset's learning rate
    set -euo pipefail
    mkdir -p runs/headline
    export OMP_NUM_THREADS=1 # a process for each core: two threads in one are slower
    half() {
        uv run python scripts/experiment/experiment.py reduced --seeds "$1" "$2" \
            --steps 28 --lr 0.045 --threads 1 --device cpu --eval-problems 24 \
            --out "runs/headline/$1_$2" --rows "runs/headline/seeds_$1_$2.jsonl.gz"
    }
    half 1 2 >runs/headline/seeds_1_2.log 2>&1 &
    half 3 4
    wait $! || { tail -n 20 runs/headline/seeds_1_2.log >&2; exit 1; }
    uv run python scripts/experiment/headline.py runs/headline
    uv run python scripts/experiment/headline.py docs/results/experiment

# Every plan of docs/spec.md as it was run. (on paper 2 hours on an H100)
experiment out="runs/experiment":
    #!/usr/bin/env bash
    # stopped, the same command goes on with the packs that are left
    set -euo pipefail
    run() {
        uv run python scripts/experiment/experiment.py "$@" --device cuda --pack 56 --eval-problems 32 \
            --out "{{out}}/$1" --rows "{{out}}/$1.jsonl.gz"
    }
    for plan in confirm long pool; do run "$plan" --seeds {201..216}; done
    run modes --seeds {201..208} --steps 100 --warmup-frac 0.03
    run flavours --seeds {201..208} --steps 60 --warmup-frac 0.05
    run remedies --seeds {301..308} --steps 100 --warmup-frac 0.03
    uv run python scripts/experiment/headline.py "{{out}}"

# Redraw every table and figure of docs/results from its rows.
figures:
    uv run python scripts/experiment/headline.py docs/results/experiment
    uv run python scripts/experiment/draw_dynamics.py docs/results/organism
    uv run python scripts/experiment/draw_dynamics.py docs/results/organism_first_build
    uv run python scripts/experiment/draw_dynamics.py docs/results/smollm2

# Run the README's commands one after another in a fresh copy. (5 minutes on two busy cores)
readme:
    uv run python scripts/readme_commands.py

# Record the golden smoke run anew; only when its rows are meant to change.
golden:
    uv run python scripts/golden.py

# The verdict on your own model: the runs that decide H2, queued with pueue. (a night on a card of 80 GB)
verdict model="Qwen/Qwen3-4B" *flags:
    uv run python scripts/experiment/queue_verdict.py \
        --model={{quote(trim_start_match(model, "model="))}} {{flags}}

# Queue with pueue: one extraction, then 3 seeds of vanilla and 3 of projected, preset fast.
queue-full model="Qwen/Qwen3-4B" problems="hub:newfacade/LeetCodeDataset" *flags:
    uv run sweep run fast --arms vanilla projected --seeds 41 42 43 --launcher=pueue \
        --extract=runs/v_hack.safetensors \
        --why="H1, does projection keep GRPO from hacking where vanilla learns to?" \
        --resolve="hack rate 30 points or more below vanilla's, solve rate within 10, of 3 seeds" \
        -- --model={{quote(model)}} --problems={{quote(problems)}} {{flags}}
