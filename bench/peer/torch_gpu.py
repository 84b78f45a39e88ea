#!/usr/bin/env python3
"""The same MoCo v3 training step in PyTorch on a GPU, attention and the bf16 product rate beside it: JSON lines.

bf16 autocast, scaled_dot_product_attention, fused AdamW, foreach moving average; eager, torch.compile and its mode
max-autotune; both views stacked in one batch and not; the residual stream in float32, which the class token makes it, and
in bf16. Jobs run in the order of their time to compile until --budget is spent.
"""
import argparse
import contextlib
import gc
import json
import signal
import statistics
import sys
import time

import torch
import torch.nn.functional as F

from torch_step import ViT, head, views

MODELS = {  # size, patch, width, depth, heads, the heads' hidden and output features
    "vit_base_16": (224, 16, 768, 12, 12, 4096, 256),
    "vit_small_16": (224, 16, 384, 12, 12, 4096, 256),
    "vit_large_16": (224, 16, 1024, 24, 16, 4096, 256),
    "vit_huge_14": (224, 14, 1280, 32, 16, 4096, 256),
    "tiny": (28, 7, 96, 4, 3, 64, 32),
}
ATTENTION = [(4096, 197, 12, 64), (4096, 197, 6, 64), (4096, 197, 12, 32), (2048, 257, 16, 80), (256, 1025, 12, 64)]
LARGEST = 4096
MODES = ["eager", "compiled", "max-autotune"]


class OutOfTime(Exception):
    pass


@contextlib.contextmanager
def deadline(seconds):
    def stop(*_):
        raise OutOfTime(f"not done within {seconds:.0f} s")

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


class Clock:
    """Seconds between two marks on the device; on the CPU, of the host."""

    def __init__(self, device):
        self.gpu = device.type == "cuda"

    def mark(self):
        if not self.gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, start, end):
        if not self.gpu:
            return end - start
        end.synchronize()
        return start.elapsed_time(end) / 1e3

    def median(self, body, together=1, runs=15):
        for _ in range(2):
            body()
        times = []
        for _ in range(runs):
            start = self.mark()
            for _ in range(together):
                body()
            times.append(self.between(start, self.mark()) / together)
        return statistics.median(times)


def contrast(q, k, tau=0.2):
    logits = F.normalize(q.float(), dim=1) @ F.normalize(k.float(), dim=1).T / tau
    return F.cross_entropy(logits, torch.arange(len(q), device=q.device)) * 2 * tau


class Step:
    """One training step; `stacked` sends both views through the backbone in one batch."""

    def __init__(self, model, batch, device, mode, stacked, residual):
        size, patch, width, depth, heads, hidden, out = MODELS[model]
        channels = 1 if model == "tiny" else 3
        torch.manual_seed(0)

        low = torch.bfloat16 if residual == "bf16" else None

        def branch():
            return torch.nn.ModuleList([ViT(size, patch, channels, width, depth, heads, low), head(width, hidden, hidden, out)])

        self.student, self.teacher, predict = branch().to(device), branch().to(device), head(out, hidden, out).to(device)
        self.teacher.load_state_dict(self.student.state_dict())
        self.teacher.requires_grad_(False)
        trained = [p for m in (self.student, predict) for p in m.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, 1e-4, weight_decay=0.1, fused=device.type == "cuda")
        self.masters = [p.data for p in self.student.parameters()]
        self.averages = [p.data for p in self.teacher.parameters()]
        levels = torch.randint(0, 256, (2 * batch, channels, size, size), dtype=torch.uint8, device=device)
        self.images = levels.to(torch.bfloat16).div_(255).sub_(0.45).div_(0.225)
        self.autocast = lambda: torch.autocast(device.type, torch.bfloat16)
        self.graphs = mode == "max-autotune"

        def project(branch, x):
            base, projector = branch
            if stacked:
                return views(projector, base(x))
            return torch.cat([projector(base(part)) for part in x.chunk(2)])

        def keys(x):
            return project(self.teacher, x)

        def loss(x, k):
            q1, q2 = views(predict, project(self.student, x)).chunk(2)
            k1, k2 = k.chunk(2)
            return contrast(q1, k2) + contrast(q2, k1)

        flags = {"compiled": {}, "max-autotune": {"mode": "max-autotune"}}
        wrap = (lambda f: f) if mode == "eager" else (lambda f: torch.compile(f, dynamic=False, **flags[mode]))
        self.keys, self.loss = wrap(keys), wrap(loss)

    def __call__(self):
        if self.graphs:
            torch.compiler.cudagraph_mark_step_begin()
        torch._foreach_mul_(self.averages, 0.99)
        torch._foreach_add_(self.averages, self.masters, alpha=0.01)
        with self.autocast():
            with torch.no_grad():
                k = self.keys(self.images)
            loss = self.loss(self.images, k)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.item()  # a training run looks at its loss; so does ours


def measure_step(clock, device, model, batch, *how):
    if clock.gpu:
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    step = Step(model, batch, device, *how)
    first = step()
    for _ in range(3):
        step()
    warm = time.perf_counter() - start
    seconds, marks = [], [clock.mark()]
    while len(seconds) < 5 or (sum(seconds) < 2 and len(seconds) < 50):
        step()
        marks.append(clock.mark())
        seconds.append(clock.between(marks[-2], marks[-1]))
    time_of_step = statistics.median(seconds)
    result = {"batch": batch, "images/s": batch / time_of_step, "ms": time_of_step * 1e3, "warm_up_s": warm, "loss": first}
    if clock.gpu:
        result["peak_bytes"] = torch.cuda.max_memory_reserved()
        result["peak_allocated_bytes"] = torch.cuda.max_memory_allocated()
    return result


def step_job(clock, device, model, batch, *how):
    if batch is not None:
        return measure_step(clock, device, model, batch, *how)
    batch = LARGEST
    while True:
        try:
            return measure_step(clock, device, model, batch, *how)
        except torch.OutOfMemoryError:
            if batch <= 2:
                raise
        release(clock)
        batch //= 2


def product_job(clock, device, n):
    left, right = (torch.rand(n, n, device=device, dtype=torch.bfloat16) * 2 - 1 for _ in range(2))
    seconds = clock.median(lambda: left @ right.T, together=10)
    return {"TFLOP/s": 2 * n**3 / seconds * 1e-12, "ms": seconds * 1e3}


def attention_job(clock, device, backend, batch, tokens, heads, dim):
    from torch.nn.attention import SDPBackend, sdpa_kernel

    kernel = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": getattr(SDPBackend, "CUDNN_ATTENTION", None)}[backend]
    qkv = torch.rand(batch, tokens, 3, heads, dim, device=device, dtype=torch.bfloat16) * 2 - 1
    q, k, v = (part.detach().requires_grad_() for part in qkv.permute(2, 0, 3, 1, 4))
    with sdpa_kernel(kernel):
        with torch.no_grad():
            forward = clock.median(lambda: F.scaled_dot_product_attention(q, k, v), together=5)
        out = F.scaled_dot_product_attention(q, k, v)
        gradient = torch.rand_like(out)
        backward = clock.median(lambda: torch.autograd.grad(out, (q, k, v), gradient, retain_graph=True), together=5)
    flops = 4 * batch * tokens**2 * heads * dim
    return {"forward_ms": forward * 1e3, "forward_TFLOP/s": flops / forward * 1e-12,
            "backward_ms": backward * 1e3, "backward_TFLOP/s": 2.5 * flops / backward * 1e-12}


def release(clock):
    gc.collect()
    torch.compiler.reset()
    if clock.gpu:
        torch.cuda.empty_cache()


def jobs(a):
    """(name, flags of the job, function); what takes longest to compile comes last."""
    n = 256 if a.tiny else 8192
    yield f"product_{n}", {}, lambda clock, device: product_job(clock, device, n)
    shapes = [(2, 17, 3, 32)] if a.tiny else ATTENTION
    for shape in shapes:
        for backend in ["flash"] if a.tiny else ["flash", "cudnn"]:
            yield ("attention/" + "x".join(map(str, shape)), {"backend": backend},
                   lambda clock, device, s=shape, b=backend: attention_job(clock, device, b, *s))
    for mode in (one for one in MODES if one in a.modes):
        for batch in a.batches:
            for model in a.models:
                for stacked in (one == "stacked" for one in a.views):
                    for residual in a.residual:
                        flags = {"mode": mode, "stacked": stacked, "residual": residual,
                                 "asked": "largest" if batch is None else batch}
                        yield (f"step_{model}", flags,
                               lambda clock, device, m=model, b=batch, how=(mode, stacked, residual):
                               step_job(clock, device, m, b, *how))


def main():
    choices = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)

    def several(kind):
        return lambda text: [kind(one) for one in text.split(",")]

    choices.add_argument("--device", default="cuda")
    choices.add_argument("--tiny", action="store_true", help="a small model and small shapes, to test this program")
    choices.add_argument("--models", type=several(str), help="of " + ", ".join(MODELS))
    choices.add_argument("--batches", type=several(lambda one: None if one == "largest" else int(one)),
                         help="numbers, or largest: of the powers of two, the largest that fits")
    choices.add_argument("--modes", type=several(str), default=MODES)
    choices.add_argument("--views", type=several(str), default=["stacked", "separate"])
    choices.add_argument("--residual", type=several(str), default=["float32", "bf16"])
    choices.add_argument("--budget", type=float, default=3600, help="seconds for everything; what is left out is said")
    choices.add_argument("--warm-up", type=float, default=240, help="seconds that one job may take, compilation included")
    choices.add_argument("--only", default="", help="run only the jobs whose name contains this")
    a = choices.parse_args()
    a.models = a.models or (["tiny"] if a.tiny else [m for m in MODELS if m != "tiny"])
    a.batches = a.batches or ([8] if a.tiny else [256, None])
    for name, known in (("modes", MODES), ("views", ["stacked", "separate"]), ("residual", ["float32", "bf16"])):
        wrong = [one for one in getattr(a, name) if one not in known]
        if wrong:
            choices.error(f"--{name} {wrong[0]}: there are {', '.join(known)}")
    unknown = [m for m in a.models if m not in MODELS]
    if unknown:
        choices.error(f"there is no model {unknown[0]}; there are {', '.join(MODELS)}")
    device = torch.device(a.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("torch_gpu.py: PyTorch sees no CUDA device on this machine")
    clock = Clock(device)
    place = torch.cuda.get_device_name() if clock.gpu else "cpu"
    start = time.perf_counter()
    for name, flags, job in jobs(a):
        if a.only not in name:
            continue
        left = a.budget - (time.perf_counter() - start)
        try:
            with deadline(min(left, a.warm_up)):
                result = job(clock, device)
        except Exception as problem:  # one job's failure is its result
            result = {"error": f"{type(problem).__name__}: {problem}".splitlines()[0]}
        print(json.dumps({"name": name, **flags, **result, "torch": torch.__version__, "device": place}), flush=True)
        release(clock)


if __name__ == "__main__":
    main()
