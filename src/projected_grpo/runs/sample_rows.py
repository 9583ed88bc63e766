"""The rollouts of a step: sampled, mixed with the teacher's, and on their way to the grader."""

from projected_grpo.arms.advantages import start_grading
from projected_grpo.arms.rows import Row
from projected_grpo.config import stream_seed
from projected_grpo.env.problems.problem import Problem
from projected_grpo.model.sampling import Sample, SamplingParams, sample_groups
from projected_grpo.runs.data import problems_of_step
from projected_grpo.runs.session import Session
from projected_grpo.runs.teacher_pool import draw_seed


def sample_rows(s: Session, step: int) -> list[list[Row]]:
    """The step's groups of all runs: student rows first, then teacher rows.

    N * P lists of G rows, run by run; of several processes each has its part. They are not graded
    yet, but the grader has begun: with a row that has ended while others still grow.
    """
    cfg = s.cfg
    sampling = SamplingParams.from_config(cfg, s.lm)
    chosen = [
        (n, one.seed, problem)
        for n, one in enumerate(s.cfgs)
        for problem in problems_of_step(s.problems, cfg.prompts_per_step, one.seed, step)
    ]
    chosen = chosen[s.world.part(len(chosen))]
    prompts = [s.prompt(n, problem, step) for n, _, problem in chosen]
    seeds = [stream_seed("sample", seed, step, problem.id) for _, seed, problem in chosen]
    runs = [n for n, _, _ in chosen]
    taught = cfg.teacher_rows_at(step)
    teacher = [
        _teacher_rows(s, n, problem, prompt, taught, draw_seed(seed, step, problem.id))
        for (n, seed, problem), prompt in zip(chosen, prompts, strict=True)
    ]
    taught_texts = [(row.problem, row.text) for rows in teacher for row in rows]
    start_grading(s.grader, taught_texts, labels=cfg.labels)
    student: list[dict[int, Row]] = [{} for _ in chosen]

    def add(place: int, number: int, x: Sample) -> None:
        n, _, problem = chosen[place]
        text = s.lm.decode(x.ids)
        row = Row(problem, "student", prompts[place], x.ids, x.terminated, x.logps, text, run=n)
        student[place][number] = row
        start_grading(s.grader, [(problem, text)], labels=cfg.labels)

    wanted = cfg.group - taught
    sample_groups(s.lm.model, s.adapter, prompts, wanted, seeds, sampling, runs, add)
    return [
        [*(mine[number] for number in range(wanted)), *taught_rows]
        for mine, taught_rows in zip(student, teacher, strict=True)
    ]


def _teacher_rows(
    s: Session, run: int, problem: Problem, prompt: list[int], count: int, seed: int
) -> list[Row]:
    """So many answers of the pool to one problem."""
    if s.pool is None or not count:
        return []
    rows = []
    for ids in map(s.lm.completion_ids, s.pool.draw(problem, count, seed)):
        cut = ids[: s.cfg.max_new]  # as a student's row would be; graded as cut
        whole = len(ids) <= s.cfg.max_new
        rows.append(Row(problem, "teacher", prompt, cut, whole, None, s.lm.decode(cut), run=run))
    return rows
