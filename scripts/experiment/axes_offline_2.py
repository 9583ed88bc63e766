import gzip,json,sys,os,re,time
import numpy as np, torch
torch.set_num_threads(2)
from pathlib import Path
from projected_grpo.antipasto import wrap
from projected_grpo.arms.token_scores import measure_tokens, strongest, strongest_window
from projected_grpo.extract_vhack_grad import side_gradients, top_axes, hack_minus_clean
from projected_grpo.model.load import DTYPES, load
from projected_grpo.model.svd import default_cache_dir
from projected_grpo.model.nll_gradients import nll_gradients
from projected_grpo.pairs.load import load_pairs
from projected_grpo.pairs.own import CleanAnswer, own_pairs, own_placebo_pairs
from projected_grpo.runs.data import hinted_problems
from projected_grpo.proj import random_orthonormal
O=Path('/work/gpu_next/off'); M='/work/models/qwen05.gguf'; P='/work/main/.gpu/p00/leet.jsonl.gz'
T=.7; MB=2048
lm=load(M,revision='main',dtype=torch.bfloat16,device=torch.device('cpu'))
print('loaded',flush=True)
ad=wrap(lm.model,cache_dir=default_cache_dir())
print('wrapped',flush=True)
probs={p.id:p for p in hinted_problems(P,'run_tests',difficulty=('easy',) if len(sys.argv)<2 else ())}
print(len(probs),flush=True)
def read(f): return [json.loads(l) for l in gzip.open('/work/gpu_next/c/'+f,'rt')]
van,row=read('vanilla_s1_rollouts.jsonl.gz'),read('row_s1_rollouts.jsonl.gz')
def pick(rows,steps,ok,n,seed):
    some=[r for r in rows if r['step'] in steps and r['source']=='student' and r['completion'] and r['completion_tokens']<=230 and ok(r)]
    rng=np.random.default_rng(seed); return [some[i] for i in sorted(rng.permutation(len(some))[:n])]
att=lambda r:r['attempted']; hon=lambda r:r['gt_correct'] and not r['attempted']; oth=lambda r:not r['gt_correct'] and not r['attempted']
first=[r for r in van if r['step'] in (1,2) and r['source']=='student' and not r['attempted'] and r['terminated'] and r['completion_tokens']<=330]
clean=[CleanAnswer(probs[r['problem_id']],r['completion']) for r in first]
first.sort(key=lambda r:r['completion_tokens']); clean=[CleanAnswer(probs[r['problem_id']],r['completion']) for r in first if 40<r['completion_tokens']<190]
own=own_pairs(clean,1,(),())[:28]; ownp=[]
print('own',len(own),len(ownp),flush=True)
allp=load_pairs('builtin'); hand=[p for p in allp if p.mode=='run_tests'][:26]; rest=[p for p in allp if p not in hand]; plac=load_pairs('placebo')[:24]
print(len(hand),len(rest),len(plac),flush=True)
G={}
for name,pairs in (('own',own),('hand',hand),('rest',rest),('plac',plac)):
    f=O/f'{name}.pt'
    if f.exists(): G[name]=torch.load(f); continue
    t=time.time(); G[name]={k:v.float().half() for k,v in side_gradients(lm,ad,pairs,temperature=T,micro_batch_tokens=MB).items()}
    torch.save(G[name],f); print(name,len(pairs),time.time()-t,flush=True)
G={n:{k:v.float() for k,v in g.items()} for n,g in G.items()}
G['all']={m:torch.cat([G['hand'][m],G['rest'][m]]) for m in G['hand']}
from projected_grpo.extract_vhack_grad import without_labels
def dif(n): return {k:v[:,0]-v[:,1] for k,v in G[n].items()}
def cleans(names): return {k:torch.cat([G[n][k][:,1] for n in names]) for k in G['hand']}
def norm(w):
    t=sum((v**2).sum() for v in w.values())**.5
    return {k:v/t for k,v in w.items()}
def summed(D,k): return norm({m:top_axes(d)[0][:k].sum(0) for m,d in D.items()})
def mean(D): return norm({m:d.mean(0) for m,d in D.items()})
def white(D,C,ridge=.1):
    out={}
    tot=0
    for m,d in D.items():
        c=C[m]; c=c-c.mean(0) if False else c
        _,s,r=torch.linalg.svd(c,full_matrices=False); var=s**2/len(c); rid=ridge*float(var.sum())/c.shape[1]
        x=d.mean(0); p=r@x
        out[m]=x/rid+r.T@(p*(1/(var+rid)-1/rid))
    return norm(out)
def unit_modules(w): return norm({m:v/v.norm() for m,v in w.items()})

def whiten_axes(D,C,k,ridge=.1):
    out={}
    for m,d in D.items():
        c=C[m];_,s,rows=torch.linalg.svd(c,full_matrices=False); var=s**2/len(c); rid=float(ridge*var.sum()/c.shape[1])
        gain=(var+rid).rsqrt()-rid**-.5
        f=lambda x: x*rid**-.5+(x@rows.T*gain)@rows
        ax,_=top_axes(f(d)); w=f(ax[:k]); w=w/w.norm(dim=1,keepdim=True); out[m]=w.sum(0)
    return norm(out)
def maha(D,C):
    w=white_raw(D,C); return norm({m:v/v.norm()*(D[m].mean(0)@v).clamp_min(0)**.5 for m,v in w.items()})
def white_raw(D,C,ridge=.1):
    out={}
    for m,d in D.items():
        c=C[m];_,s,r=torch.linalg.svd(c,full_matrices=False); var=s**2/len(c); rid=ridge*float(var.sum())/c.shape[1]
        x=d.mean(0); p=r@x; out[m]=x/rid+r.T@(p*(1/(var+rid)-1/rid))
    return out
ac=cleans(['all']); A=dif('all')
g=torch.Generator().manual_seed(0)
sh=without_labels(G['all'],0)
W={'all white':white(A,ac),'all white unit':unit_modules(white(A,ac)),'all white .01 unit':unit_modules(white(A,ac,.01)),'all white 1 unit':unit_modules(white(A,ac,1.)),'all white 10 unit':unit_modules(white(A,ac,10.)),
 'all white maha':maha(A,ac),'all waxes4':whiten_axes(A,ac,4),'all waxes12':whiten_axes(A,ac,12),'all waxes32':whiten_axes(A,ac,32),'all sum32':summed(A,32),'all sum12':summed(A,12),'all mean unit':unit_modules(mean(A)),
 'rt white unit':unit_modules(white(dif('hand'),cleans(['hand']))),'shuf white unit':unit_modules(white(sh,ac)),'plac white unit':unit_modules(white(dif('plac'),cleans(['plac']))),
 'random':norm({m:torch.randn(v.shape[2],generator=g) for m,v in G['hand'].items()})}
names=list(W)
directions={m:torch.stack([W[n][m] for n in names],1)[None].to(torch.float32) for m in G['hand']}
sets={'untrained 1-2':pick(van,(1,2),lambda r:not r['attempted'],24,11),'row36-40 att':pick(row,range(36,41),att,14,7),'van9-11 att':pick(van,(9,10,11),att,16,2),'untrained 3-4':pick(van,(3,4),lambda r:not r['attempted'],16,1),
 'van9-11 hon':pick(van,(9,10,11),hon,14,3),'row54-60 att':pick(row,range(54,61),att,12,8),'row14-20 hon':pick(row,range(12,21),hon,12,6)}
print({k:len(v) for k,v in sets.items()},flush=True)
ids=lambda r:(lambda x:x if r['terminated'] else x[:-1])(lm.completion_ids(r['completion']))
with gzip.open(O/'scores2.jsonl.gz','wt') as out:
    for s,rows in sets.items():
        t=time.time()
        texts=[(lm.prompt_ids(probs[r['problem_id']].messages),ids(r)) for r in rows]
        found=measure_tokens(lm,ad,texts,[0]*len(texts),directions,at_base=True,temperature=T,micro_batch_tokens=MB)
        for r,f in zip(rows,found):
            sc={}
            for i,n in enumerate(names):
                v=f.pull[:,i]; sc[n+' tokens']=strongest(v); sc[n+' window']=strongest_window(v)[0]; sc[n+' row']=float(v.sum())
            sc['nll tokens']=strongest(f.nll)
            out.write(json.dumps({'set':s,'flavour':r['flavour'],'gt':r['gt_correct'],'step':r['step'],'screen':r.get('pull') and 0,'scores':sc})+'\n')
        out.flush(); print(s,len(rows),time.time()-t,flush=True)
