#!/usr/bin/env python3
"""The same MoCo v3 training step in PyTorch on the CPU: images/s and peak memory as one JSON line.

Both views in one batch, scaled_dot_product_attention where PyTorch has it, torch.optim.AdamW, two threads. --compile:
torch.compile of every network and of the update of the momentum network. --precision bf16: autocast.
"""
import argparse
import json
import resource
import time

import torch
import torch.nn as nn
import torch.nn.functional as F


class Block(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def attention(self, x):
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        if hasattr(F, "scaled_dot_product_attention"):
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = ((q * (c // self.heads) ** -0.5) @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.proj(y.transpose(1, 2).reshape(b, n, c))

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class ViT(nn.Module):
    def __init__(self, size, patch, channels, dim, depth, heads, residual=None):
        """residual: the type of the residual stream under autocast; None: that of the class token, float32."""
        super().__init__()
        self.residual = residual
        self.patch = nn.Conv2d(channels, dim, patch, patch).requires_grad_(False)
        self.cls = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos = nn.Parameter(torch.randn(1, (size // patch) ** 2 + 1, dim) * 0.02, requires_grad=False)
        self.blocks = nn.Sequential(*(Block(dim, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.pos
        x = x if self.residual is None else x.to(self.residual)
        return self.norm(self.blocks(x)[:, 0])


def head(*widths):
    layers = []
    for i, (a, b) in enumerate(zip(widths, widths[1:])):
        last = i == len(widths) - 2
        layers += [nn.Linear(a, b, bias=False), nn.BatchNorm1d(b, affine=not last)] + ([] if last else [nn.ReLU()])
    return nn.Sequential(*layers)


def views(module, x):
    """Each view is a BatchNorm batch of its own."""
    return torch.cat([module(part) for part in x.chunk(2)])


def contrast(q, k, tau=0.2):
    logits = F.normalize(q, dim=1) @ F.normalize(k, dim=1).T / tau
    return F.cross_entropy(logits, torch.arange(len(q))) * 2 * tau


def measure(name, batch, seconds, compiled, precision, encoder, hidden, out, width):
    base, momentum = encoder(), encoder()
    project, project_m = head(width, hidden, hidden, out), head(width, hidden, hidden, out)
    predict = head(out, hidden, out)
    parameters = [p for m in (base, project, predict) for p in m.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, 1e-4, weight_decay=0.1)
    pairs = [pair for s, t in ((base, momentum), (project, project_m)) for pair in zip(s.parameters(), t.parameters())]
    x = torch.randn(2 * batch, base.patch.in_channels, *([224, 224] if batch < 256 else [28, 28]))

    make = torch.compile if compiled else lambda function: function
    query = make(lambda x: views(predict, views(project, base(x))))
    key = make(lambda x: views(project_m, momentum(x)))
    loss_of = make(lambda q, k: contrast(q[:batch], k[batch:]) + contrast(q[batch:], k[:batch]))
    update = make(optimizer.step)

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            q = query(x)
            with torch.no_grad():
                torch._foreach_mul_([t for _, t in pairs], 0.99)
                torch._foreach_add_([t for _, t in pairs], [s for s, _ in pairs], alpha=0.01)
                k = key(x)
            loss = loss_of(q.float(), k.float())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        update()

    for m in (momentum, project_m):
        m.requires_grad_(False)
    for _ in range(2):
        step()
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        step()
        count += 1
    rate = count * batch / (time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(json.dumps({
        "name": name, "compiled": compiled, "precision": precision, "images_per_second": rate, "peak_MB": peak,
        "torch": torch.__version__,
        "products": "oneDNN" if precision == "bf16" else "MKL" if torch.backends.mkl.is_available() else "its BLAS",
    }), flush=True)


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("model", choices=["vit_tiny", "vit_small_16"])
    arguments.add_argument("--seconds", type=float, default=10)
    arguments.add_argument("--compile", action="store_true")
    arguments.add_argument("--precision", choices=["float", "bf16"], default="float")
    arguments.add_argument("--threads", type=int, default=2)
    a = arguments.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    if a.model == "vit_tiny":
        measure(a.model, 256, a.seconds, a.compile, a.precision, lambda: ViT(28, 7, 1, 96, 4, 3), 512, 128, 96)
    else:
        measure(a.model, 16, a.seconds, a.compile, a.precision, lambda: ViT(224, 16, 3, 384, 12, 12), 4096, 256, 384)


if __name__ == "__main__":
    main()
