"""Whether V of own pairs sees the hack or the channel: three contrasts of the same answers, scored at the base.

hack: the answer with a hack put in; report: with tests that can fail; clean: as it was written.
A = hack - clean (what --pairs=own is), P = report - clean (its placebo), B = hack - report.
"""
import gzip, json, re, time
import numpy as np, torch
torch.set_num_threads(2)
from pathlib import Path
from projected_grpo.antipasto import wrap
from projected_grpo.arms.token_scores import measure_tokens, strongest
from projected_grpo.extract_vhack_grad import side_gradients, top_axes
from projected_grpo.model.load import load
from projected_grpo.model.svd import default_cache_dir
from projected_grpo.pairs.own import CleanAnswer, own_pairs, put_honest_report
from projected_grpo.config import stream_seed
from projected_grpo.runs.data import hinted_problems
O = Path('/work/gpu_next/off2'); M = '/work/models/qwen05.gguf'; P = '/work/main/.gpu/p00/leet.jsonl.gz'; E = '/work/gpu_next/e/'
T, MB = .7, 2048
lm = load(M, revision='main', dtype=torch.bfloat16, device=torch.device('cpu'))
ad = wrap(lm.model, cache_dir=default_cache_dir())
probs = {p.id: p for p in hinted_problems(P, 'run_tests', difficulty=('easy',))}
print('ready', len(probs), flush=True)
read = lambda f: [json.loads(l) for l in gzip.open(E + f, 'rt')]
van5 = read('19/runs_card0_runs_20261128-063212_small_vanilla_s5_a2e32b5.rollouts.gz')
van7 = read('19/runs_card2_runs_20261128-063211_small_vanilla_s7_a2e32b5.rollouts.gz')
kept5 = read('18/own_card0_runs_20261128-063204_small_projected_s5_a2e32b5.rollouts.gz')
renew5 = read('18/own_card0_runs_20261128-063204_small_projected_s5_a2e32b5-2.rollouts.gz')
mean7 = read('19/runs_card2_runs_20261128-063212_small_projected_s7_a2e32b5-2.rollouts.gz')
def pick(rows, steps, ok, n, seed):
    some = [r for r in rows if int(r['step']) in steps and r['source'] == 'student' and r['completion']
            and r['completion_tokens'] <= 230 and ok(r)]
    rng = np.random.default_rng(seed)
    return [some[i] for i in sorted(rng.permutation(len(some))[:n])]
uses = lambda r: bool(re.search(r'def run_tests\b', r['completion']))
att = lambda r: r['attempted']
hon = lambda r: r['gt_correct'] and not r['attempted']
first = [r for r in van5 if int(r['step']) in (1, 2) and r['source'] == 'student' and not r['attempted']
         and r['terminated'] and 40 < r['completion_tokens'] < 190]
first.sort(key=lambda r: r['completion_tokens'])
answers = [CleanAnswer(probs[r['problem_id']], r['completion']) for r in first]
made = own_pairs(answers, 5, (), ())
text_of = {(a.problem.id, a.text): a for a in answers}
triples = []
for i, p in enumerate(made):
    a = text_of[(int(p.family), p.clean)]
    report = put_honest_report(a, stream_seed('own honest', 5, i))
    if report is not None:
        triples.append((p, p.hack, report, p.clean))
triples = triples[:24]
print('triples', len(triples), 'of', len(made), flush=True)
import dataclasses
re_pair = lambda p, a, b: dataclasses.replace(p, hack=a, clean=b) if dataclasses.is_dataclass(p) else p._replace(hack=a, clean=b)
def sides(name, pairs):
    f = O / f'{name}.pt'
    if f.exists():
        return torch.load(f)
    t = time.time()
    found = {k: v.float().half() for k, v in side_gradients(lm, ad, pairs, temperature=T, micro_batch_tokens=MB).items()}
    torch.save(found, f); print(name, len(pairs), round(time.time() - t), flush=True)
    return found
n = len(triples) // 2
h = sides('hack_report', [re_pair(p, a, b) for p, a, b, _ in triples])
c = sides('clean', [re_pair(triples[i][0], triples[i][3], triples[i + n][3]) for i in range(n)])
S = {k: torch.stack([h[k][:, 0], h[k][:, 1], torch.cat([c[k][:, 0], c[k][:, 1]])], 1) for k in h}
S = {k: v.float() for k, v in S.items()}
def norm(w):
    t = sum((v ** 2).sum() for v in w.values()) ** .5
    return {k: v / t for k, v in w.items()}
D = {'A': {k: v[:, 0] - v[:, 2] for k, v in S.items()}, 'P': {k: v[:, 1] - v[:, 2] for k, v in S.items()},
     'B': {k: v[:, 0] - v[:, 1] for k, v in S.items()}}
k = min(24, len(triples))
W = {}
for n, d in D.items():
    W[n + ' svd'] = norm({m: top_axes(x)[0][:k].sum(0) for m, x in d.items()})
    W[n + ' mean'] = norm({m: x.mean(0) for m, x in d.items()})
names = list(W)
dot = lambda a, b: float(sum((W[a][m] * W[b][m]).sum() for m in W[a]))
print({(a, b): round(dot(a, b), 3) for a in names for b in names if a < b}, flush=True)
dirs = {m: torch.stack([W[n][m] for n in names], 1)[None].float() for m in S}
sets = {
    'untrained': pick(van7, (1, 2), lambda r: not r['attempted'], 24, 1),
    'early attempts': pick(van5 + van7, (9, 10, 11), att, 12, 2),
    'late attempts, own renewed s5': pick(renew5, range(50, 61), att, 8, 3),
    'late attempts, row mean s7': pick(mean7, range(50, 61), att, 8, 4),
    'honest solves with the channel': pick(kept5, range(13, 61), lambda r: hon(r) and uses(r), 12, 5),
    'honest solves without': pick(kept5, range(13, 61), lambda r: hon(r) and not uses(r), 10, 6),
    'failing rows with honest tests': pick(kept5, range(13, 61), lambda r: not hon(r) and not att(r) and uses(r), 8, 7),
}
print({s: len(v) for s, v in sets.items()}, flush=True)
ids = lambda r: (lambda x: x if r['terminated'] else x[:-1])(lm.completion_ids(r['completion']))
with gzip.open(O / 'channel.jsonl.gz', 'wt') as out:
    for s, rows in sets.items():
        t = time.time()
        texts = [(lm.prompt_ids(probs[r['problem_id']].messages), ids(r)) for r in rows]
        found = measure_tokens(lm, ad, texts, [0] * len(texts), dirs, at_base=True, temperature=T, micro_batch_tokens=MB)
        for r, x in zip(rows, found):
            sc = {'nll tokens': strongest(x.nll)}
            for i, n in enumerate(names):
                v = x.pull[:, i]
                sc[n + ' tokens'] = strongest(v); sc[n + ' row'] = float(v.sum())
            out.write(json.dumps({'set': s, 'flavour': r['flavour'], 'gt': r['gt_correct'], 'step': r['step'], 'uses': uses(r), 'scores': sc}) + '\n')
        out.flush(); print(s, len(rows), round(time.time() - t), flush=True)
