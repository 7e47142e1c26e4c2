"""Muon for the matrices (orthogonalised momentum), Adam for everything else."""
import torch


def orthogonalise(g, steps=5):
    """Newton-Schulz iteration towards U V^T of each matrix of the stack g [n, r, c]; bf16 is accurate enough."""
    a, b, c = 3.4445, -4.7750, 2.0315
    flip = g.shape[-2] > g.shape[-1]
    x = g.transpose(-1, -2) if flip else g
    x = (x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)).bfloat16()
    for _ in range(steps):
        m = x @ x.transpose(-1, -2)
        x = a * x + (b * m + c * (m @ m)) @ x
    x = x.float()
    return x.transpose(-1, -2) if flip else x


class Optimiser:
    ADAM_LR = {"embeddings.weight": 6e-3, "lm_head.weight": 3e-3}

    def __init__(self, model, muon_lr=0.02, adam_lr=3e-3, decay=0.05):
        self.muon_lr, self.decay, self.t = muon_lr, decay, 0
        groups, self.adam = {}, []
        for name, p in model.named_parameters():
            if p.ndim >= 2 and "conv1d" not in name and "gate" not in name and name not in self.ADAM_LR:
                groups.setdefault(tuple(p.shape[-2:]), []).append(p)
            else:
                self.adam.append((p, self.ADAM_LR.get(name, adam_lr), torch.zeros_like(p), torch.zeros_like(p)))
        self.muon = [(ps, [torch.zeros_like(p) for p in ps]) for ps in groups.values()]

    @torch.no_grad()
    def step(self, scale):
        self.t += 1
        for ps, moms in self.muon:
            for p, m in zip(ps, moms):
                m.lerp_(p.grad, 0.05)
            stack = torch.cat([p.grad.lerp(m, 0.95).view(-1, *p.shape[-2:]) for p, m in zip(ps, moms)])
            update, at = orthogonalise(stack), 0
            lr = self.muon_lr * scale
            for p in ps:
                n = p.numel() // (p.shape[-1] * p.shape[-2])
                u = update[at:at + n].view_as(p) * max(1, p.shape[-2] / p.shape[-1]) ** 0.5
                p.mul_(1 - lr * self.decay).sub_(u, alpha=lr)
                at += n
        c1, c2 = 1 - 0.9 ** self.t, 1 - 0.95 ** self.t
        for p, lr, m, v in self.adam:
            m.lerp_(p.grad, 0.1)
            v.mul_(0.95).addcmul_(p.grad, p.grad, value=0.05)
            p.sub_(m / c1 / ((v / c2).sqrt() + 1e-10), alpha=lr * scale)

    def state(self):
        return {"t": self.t, "muon": [m for _, m in self.muon], "adam": [(m, v) for _, _, m, v in self.adam]}

    def load(self, s):
        self.t = s["t"]
        for (_, mine), saved in zip(self.muon, s["muon"]):
            for a, b in zip(mine, saved):
                a.copy_(b)
        for (_, _, m, v), (sm, sv) in zip(self.adam, s["adam"]):
            m.copy_(sm), v.copy_(sv)
