"""Nemotron-H in PyTorch for CPU training: Mamba-2 (chunked), attention without positions, relu2 MLP, sigmoid-routed MoE.

`Model(config)` takes the dictionary of config.json. Parameter names follow the released checkpoints, with one exception:
the experts of a layer are stacked here (experts_up [E, I, D], experts_down [E, D, I]) and written one by one by export.py.
"""
import math

import torch
import torch._dynamo
import torch.nn.functional as F
from torch import nn


def rms(x, weight, eps):
    x = x.float()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def gated_rms(y, z, weight, groups, eps):
    g = y.float() * F.silu(z.float())
    g = g.unflatten(-1, (groups, -1))
    g = g * torch.rsqrt(g.square().mean(-1, keepdim=True) + eps)
    return g.flatten(-2) * weight


def conv_silu(x, weight, bias):
    """Causal depthwise convolution over time, then SiLU. x [B, T, C], weight [C, 1, K]."""
    T, K = x.shape[1], weight.shape[-1]
    x = F.pad(x.float(), (0, 0, K - 1, 0))
    out = bias
    for k in range(K):
        out = out + x[:, k:k + T] * weight[:, 0, k]
    return F.silu(out)


def ssd(x, dt, A, B, C, L):
    """y_t = S_t C_t with S_t = exp(dt_t A) S_{t-1} + dt_t x_t (x) B_t, from a zero state, in blocks of L tokens.

    x [b, T, H, P], dt [b, T, H], A [H], B and C [b, T, G, N]; T must be a multiple of L.
    """
    b, T, H, P = x.shape
    G, N = B.shape[2:]
    n = T // L
    x = (x * dt[..., None]).view(b, n, L, H, P).permute(0, 1, 3, 2, 4)                    # b n H L P
    a = (dt * A).view(b, n, L, H).permute(0, 1, 3, 2).cumsum(-1)                          # b n H L
    B = B.reshape(b, n, L, G, N).permute(0, 1, 3, 2, 4)                                   # b n G L N
    C = C.reshape(b, n, L, G, N).permute(0, 1, 3, 2, 4)
    later = torch.ones(L, L, dtype=torch.bool, device=x.device).triu(1)
    decay = (a[..., :, None] - a[..., None, :]).masked_fill(later, float("-inf")).exp()   # b n H L L
    scores = (C @ B.transpose(-1, -2)).unsqueeze(3)                                       # b n G 1 L L
    scores = (scores * decay.view(b, n, G, H // G, L, L)).view(b, n, H, L, L)
    y = scores @ x
    Bh = B.unsqueeze(3).expand(b, n, G, H // G, L, N).reshape(b, n, H, L, N)
    Ch = C.unsqueeze(3).expand(b, n, G, H // G, L, N).reshape(b, n, H, L, N)
    states = (x * (a[..., -1:] - a).exp()[..., None]).transpose(-1, -2) @ Bh              # b n H P N
    s = F.pad(a[..., -1].cumsum(1), (0, 0, 1, 0))                                         # b n+1 H: decay up to a block's start
    gap = s[:, :-1, None] - s[:, None, 1:]                                                # from the end of block j to the start of i
    earlier = torch.ones(n, n, dtype=torch.bool, device=x.device).tril(-1)
    gap = gap.masked_fill(~earlier[None, :, :, None], float("-inf")).exp().permute(0, 3, 1, 2)
    entry = (gap @ states.permute(0, 2, 1, 3, 4).reshape(b, H, n, P * N)).view(b, H, n, P, N).transpose(1, 2)
    y = y + (Ch * a.exp()[..., None]) @ entry.transpose(-1, -2)
    return y.permute(0, 1, 3, 2, 4).reshape(b, T, H, P)


def relu2_mlp(x, up, down):
    r = F.relu(F.linear(x, up))
    return F.linear(r * r, down)


class Mamba(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.H, self.P, self.N, self.G, self.K = c["mamba_num_heads"], c["mamba_head_dim"], c["ssm_state_size"], c["n_groups"], c["conv_kernel"]
        self.inner, self.eps = self.H * self.P, c["layer_norm_epsilon"]
        self.conv_dim = self.inner + 2 * self.G * self.N
        self.block = c.get("train_block", c["chunk_size"])
        self.in_proj = nn.Linear(c["hidden_size"], self.inner + self.conv_dim + self.H, bias=False)
        self.conv1d = nn.Conv1d(self.conv_dim, self.conv_dim, self.K, groups=self.conv_dim)
        self.A_log = nn.Parameter(torch.empty(self.H))
        self.D = nn.Parameter(torch.ones(self.H))
        self.dt_bias = nn.Parameter(torch.empty(self.H))
        self.norm = Norm(self.inner)
        self.out_proj = nn.Linear(self.inner, c["hidden_size"], bias=False)

    def core(self, p):
        z, xbc, dt = p.split([self.inner, self.conv_dim, self.H], dim=-1)
        b, T = p.shape[:2]
        x, B, C = conv_silu(xbc, self.conv1d.weight, self.conv1d.bias).split([self.inner, self.G * self.N, self.G * self.N], dim=-1)
        x = x.unflatten(-1, (self.H, self.P))
        dt = F.softplus(dt.float() + self.dt_bias)
        y = ssd(x, dt, -self.A_log.exp(), B.unflatten(-1, (self.G, self.N)), C.unflatten(-1, (self.G, self.N)), self.block)
        y = y + self.D[:, None] * x
        return gated_rms(y.flatten(-2), z, self.norm.weight, self.G, self.eps)

    def forward(self, u):
        T = u.shape[1]
        p = F.pad(self.in_proj(u), (0, 0, 0, -T % self.block))    # trailing padding cannot reach earlier tokens
        return self.out_proj(self.core(p)[:, :T])


class Norm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.Q, self.KV, self.hd = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
        D = c["hidden_size"]
        self.q_proj = nn.Linear(D, self.Q * self.hd, bias=False)
        self.k_proj = nn.Linear(D, self.KV * self.hd, bias=False)
        self.v_proj = nn.Linear(D, self.KV * self.hd, bias=False)
        self.o_proj = nn.Linear(self.Q * self.hd, D, bias=False)

    def forward(self, u):
        q = self.q_proj(u).unflatten(-1, (self.Q, self.hd)).transpose(1, 2)
        k = self.k_proj(u).unflatten(-1, (self.KV, self.hd)).transpose(1, 2)
        v = self.v_proj(u).unflatten(-1, (self.KV, self.hd)).transpose(1, 2)
        k, v = k.repeat_interleave(self.Q // self.KV, 1), v.repeat_interleave(self.Q // self.KV, 1)
        T = u.shape[1]
        score = (q @ k.transpose(-1, -2)).float() / math.sqrt(self.hd)
        score = score.masked_fill(torch.ones(T, T, dtype=torch.bool, device=u.device).triu(1), float("-inf"))
        y = score.softmax(-1).to(v.dtype) @ v
        return self.o_proj(y.transpose(1, 2).flatten(-2))


class MLP(nn.Module):
    def __init__(self, D, I):
        super().__init__()
        self.up_proj = nn.Linear(D, I, bias=False)
        self.down_proj = nn.Linear(I, D, bias=False)

    def forward(self, u):
        r = F.relu(self.up_proj(u))
        return self.down_proj(r * r)


class Gate(nn.Module):
    def __init__(self, E, D):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(E, D))
        self.register_buffer("e_score_correction_bias", torch.zeros(E))


class MoE(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.E, self.k, self.scale = c["n_routed_experts"], c["num_experts_per_tok"], c["routed_scaling_factor"]
        D, I = c["hidden_size"], c["moe_intermediate_size"]
        self.gate = Gate(self.E, D)
        self.experts_up = nn.Parameter(torch.empty(self.E, I, D))
        self.experts_down = nn.Parameter(torch.empty(self.E, D, I))
        self.shared_experts = MLP(D, c["moe_shared_expert_intermediate_size"])
        self.load = None                  # tokens per expert in the last forward pass

    @torch._dynamo.disable        # the split by expert has data-dependent shapes
    def forward(self, u):
        shape = u.shape
        u = u.reshape(-1, shape[-1])
        with torch.autocast("cpu", enabled=False):
            score = torch.sigmoid(u.float() @ self.gate.weight.T)
            pick = torch.topk(score.detach() + self.gate.e_score_correction_bias, self.k, dim=-1, sorted=False).indices
            w = score.gather(1, pick)
            w = w / (w.sum(-1, keepdim=True) + 1e-20) * self.scale
        flat = pick.flatten()
        order = flat.argsort(stable=True)
        self.load = torch.bincount(flat, minlength=self.E)
        token = order // self.k
        rows = u.index_select(0, token)
        parts = [relu2_mlp(r, up, down) for r, up, down in
                 zip(rows.split(self.load.tolist()), self.experts_up.unbind(), self.experts_down.unbind())]
        y = torch.cat(parts).float() * w.flatten().index_select(0, order)[:, None]
        out = torch.zeros(u.shape, dtype=torch.float32).index_add(0, token, y)
        return (out + self.shared_experts(u)).view(shape)


class Layer(nn.Module):
    def __init__(self, kind, c):
        super().__init__()
        self.kind = kind
        self.norm = Norm(c["hidden_size"])
        self.mixer = {"M": lambda: Mamba(c), "*": lambda: Attention(c), "E": lambda: MoE(c),
                      "-": lambda: MLP(c["hidden_size"], c["intermediate_size"])}[kind]()


class Model(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c, self.eps = c, c["layer_norm_epsilon"]
        self.embeddings = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.layers = nn.ModuleList(Layer(k, c) for k in c["hybrid_override_pattern"])
        self.norm_f = Norm(c["hidden_size"])
        self.lm_head = nn.Linear(c["hidden_size"], c["vocab_size"], bias=False)

    def initialise(self, seed):
        g = torch.Generator().manual_seed(seed)
        depth = len(self.layers)
        for name, p in self.named_parameters():
            if name.endswith("norm.weight") or name == "norm_f.weight" or name.endswith(".D"):
                continue
            if name.endswith("A_log"):
                p.data.copy_(torch.empty(p.shape).uniform_(1, 16, generator=g).log())
            elif name.endswith("dt_bias"):
                dt = torch.exp(torch.empty(p.shape).uniform_(math.log(1e-3), math.log(1e-1), generator=g))
                p.data.copy_(dt + torch.log(-torch.expm1(-dt)))
            elif name.endswith("conv1d.bias"):
                p.data.zero_()
            elif name.endswith("conv1d.weight"):
                p.data.uniform_(-0.5, 0.5, generator=g)
            else:
                std = {"embeddings.weight": 0.1, "lm_head.weight": 0.02}.get(name, 1 / math.sqrt(p.shape[-1]))
                if name.endswith(("out_proj.weight", "o_proj.weight", "down_proj.weight", "experts_down")):
                    std /= math.sqrt(depth)
                p.data.normal_(0, std, generator=g)
        return self

    def hidden(self, ids):
        h = self.embeddings(ids)
        for layer in self.layers:
            h = h + layer.mixer(rms(h, layer.norm.weight, self.eps))
        return rms(h, self.norm_f.weight, self.eps)

    def forward(self, ids):
        return self.lm_head(self.hidden(ids)).float()

    def loss(self, ids):
        """Summed next-token cross-entropy of rows ids [B, T+1]."""
        return F.cross_entropy(self.forward(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten(), reduction="sum")
