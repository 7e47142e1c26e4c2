"""Train the demo model on the CPU with a few single-threaded workers (data parallel, gradients summed once a step).

    python train.py WORK --steps N [--decay-start K] [--workers 2] [--resume] [--early DIR]

WORK/plan.json may change {"steps": N, "decay_start": K} while the run is going (both must lie ahead). WORK/curve.csv has
the values in force; if they did not change after step K, `--steps N --decay-start K` repeats the run.
"""
import argparse
import csv
import json
import os
import shutil
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import export
from config import config
from data import Mix, Tokens, windows
from model import Model, MoE
from optim import Optimiser

LENGTH, TEXT_ROWS, CHAT_ROWS, MICRO, WARMUP = 512, 4, 4, 4, 60
BIAS_SPEED = 0.008


def evaluate(model, work, name, rank, world, limit, length=LENGTH):
    """Mean nats per token over the first `limit` tokens of a held-out file (all workers share the work)."""
    total = torch.zeros(2, dtype=torch.float64)
    seen = 0
    for i, (_, row) in enumerate(windows(Tokens(work, name), length)):
        if seen >= limit:
            break
        seen += len(row) - 1
        if len(row) > 1 and i % world == rank:
            with torch.no_grad():
                total += torch.tensor([model.loss(torch.from_numpy(row)[None]).item(), len(row) - 1], dtype=torch.float64)
    dist.all_reduce(total)
    return (total[0] / total[1]).item()


def worker(rank, a):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    store = dist.FileStore(os.path.join(a.work, "rendezvous"), a.workers)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=a.workers)
    c = config(train_block=32)
    model = Model(c).initialise(a.seed)
    opt = Optimiser(model)
    mix = Mix(a.work, LENGTH, TEXT_ROWS, CHAT_ROWS)
    loss_fn = torch.compile(model.loss, dynamic=False)
    params = list(model.parameters())
    moes = [m for m in model.modules() if isinstance(m, MoE)]
    flat = torch.zeros(sum(p.numel() for p in params) + len(moes) * c["n_routed_experts"] + 1)
    step, plan = 0, {"steps": a.steps, "decay_start": a.decay_start or int(a.steps * 0.6)}
    checkpoint = os.path.join(a.work, "model.pt")
    spent = 0.0
    if a.resume and os.path.exists(checkpoint):
        saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
        model.load_state_dict(saved["model"])
        opt.load(saved["optimiser"])
        step, spent = saved["step"], saved["seconds"]
        for _ in range(step):
            mix.next()
    begin, last_save, recent = time.time() - spent, time.time(), []
    out = None
    if rank == 0:
        out = open(os.path.join(a.work, "curve.csv"), "a" if step else "w", newline="")
        log = csv.writer(out)
        if not step:
            log.writerow(["step", "tokens", "seconds", "lr_scale", "train_nats", "eval_text_nats", "eval_chat_nats", "least_load", "most_load", "steps", "decay_start"])

    def save():
        part = checkpoint + ".part"
        torch.save({"config": c, "model": model.state_dict(), "optimiser": opt.state(), "step": step,
                    "seconds": time.time() - begin, "plan": plan}, part)
        os.replace(part, checkpoint)
        if a.early:
            export.write(a.early, c, model.state_dict())

    while step < plan["steps"]:
        rows = torch.from_numpy(mix.next())
        mine = rows[rank::a.workers]
        load = [torch.zeros(c["n_routed_experts"]) for _ in moes]
        lost = 0.0
        for p in params:
            p.grad = None
        for part in mine.split(MICRO):
            with torch.autocast("cpu", torch.bfloat16):
                loss = loss_fn(part)
            (loss / (rows.shape[0] * LENGTH)).backward()
            lost += loss.item()
            for l, m in zip(load, moes):
                l += m.load
        torch.cat([p.grad.flatten() for p in params] + load + [torch.tensor([lost])], out=flat)
        dist.all_reduce(flat)
        at = 0
        for p in params:
            p.grad.copy_(flat[at:at + p.numel()].view_as(p))
            at += p.numel()
        load = flat[at:-1].view(len(moes), -1)
        recent.append(flat[-1].item() / (rows.shape[0] * LENGTH))

        if step % 10 == 0 and os.path.exists(os.path.join(a.work, "plan.json")):
            news = [None]
            if rank == 0:
                try:
                    with open(os.path.join(a.work, "plan.json")) as f:
                        news = [{k: max(int(v), step + 1) for k, v in json.load(f).items() if k in plan and (k == "steps" or step < plan["decay_start"])}]
                except (OSError, ValueError):
                    pass
            dist.broadcast_object_list(news, 0)
            plan.update(news[0] or {})
        scale = min(1.0, (step + 1) / WARMUP, max(0.01, (plan["steps"] - step) / max(1, plan["steps"] - plan["decay_start"])))
        norm = torch.linalg.vector_norm(flat[:at])
        if norm > 1.0:
            for p in params:
                p.grad.mul_(1.0 / norm)
        opt.step(scale)
        for m, l in zip(moes, load):
            m.gate.e_score_correction_bias += BIAS_SPEED * scale * torch.sign(l.mean() - l)
        step += 1
        last = step >= plan["steps"]
        if step % 10 == 0 or last:
            ev = ["", ""]
            if step % 250 == 0 or last:
                ev = [round(evaluate(model, a.work, n, rank, a.workers, 16000), 4) for n in ("eval_text", "eval_chat")]
            if rank == 0:
                share = load / load.sum(-1, keepdim=True)
                log.writerow([step, step * rows.shape[0] * LENGTH, round(time.time() - begin, 1), round(scale, 4), round(sum(recent) / len(recent), 4), *ev,
                              round(share.min().item(), 3), round(share.max().item(), 3), plan["steps"], plan["decay_start"]])
                out.flush()
            recent = []
        if rank == 0 and (last or step == 20 or time.time() - last_save > 180):
            save()
            last_save = time.time()
    dist.barrier()


def main():
    a = argparse.ArgumentParser()
    a.add_argument("work")
    a.add_argument("--steps", type=int, required=True)
    a.add_argument("--decay-start", type=int)
    a.add_argument("--workers", type=int, default=2)
    a.add_argument("--seed", type=int, default=0)
    a.add_argument("--resume", action="store_true")
    a.add_argument("--early", help="also export every checkpoint to this folder")
    a = a.parse_args()
    rendezvous = os.path.join(a.work, "rendezvous")
    if os.path.exists(rendezvous):
        os.remove(rendezvous)
    if a.early:
        os.makedirs(a.early, exist_ok=True)
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            shutil.copy(os.path.join(export.ASSETS, name), a.early)
    mp.spawn(worker, args=(a,), nprocs=a.workers)


if __name__ == "__main__":
    main()
