"""Fixtures of the study: one whole step and eight steps of every objective, probes, geometry, instruments.

In every file of a training method: step t takes the images x*[t % 4] (the ResNets always r*[0]) of `study_images`
(uint8 u, the model's input is (u - 128) / 64); `before.` is stored as float where that is exact; momentum encoders and
teachers start with the parameters of their partner, of theirs only buffers are stored; `loss` has one value per step;
`grad.` and `after` are of step 0. A tensor named `..._digest` is (T, 4), tools.digest of T tensors: `after_digest` (the
state after step 0) and `end_digest` (after the last) have their rows in the byte order of the names of the whole state,
BatchNorm's step counters left out; `..grad_digest` those of the names of all gradients. Sizes are in the metadata.
`zero_gradient` in the metadata names the tensors whose gradient is zero but for rounding (a bias in front of a
BatchNorm): Adam divides that rounding by its epsilon, so they agree to ~1e-8 only. The same holds for the middle third
of every qkv bias.
"""
import copy
import math
import torch
import torch.nn as nn
import torch.nn.functional as F
import evaluation as ev
import masked
import objectives as ob
import oracle
import supervised as sup
from tools import digests, grads, pool_images, prefixed, randomize_single, real, single, tensors_of

STEPS, BATCHES = 8, 4
FULL = False                                                  # --full: also store what else is given only as digests

# Small and mutually different. local: side of the small crops; decoder: width, blocks, heads; out: contrastive width
# (DINO: bottleneck); mlp: hidden width of the heads.
SIZES = dict(img=15, local=9, patch=3, dim=8, depth=2, heads=4, mlp=14, out=6, batch=6, tau=0.3, prototypes=11,
             decoder=(12, 1, 3), ratio=0.7, width=2, resnet_img=33, blocks18=(1, 1, 1, 1), blocks50=(1, 1, 1, 1))


def vit(c, cls=oracle.VisionTransformer, **options):
    return cls(c["img"], c["patch"], c["dim"], c["depth"], c["heads"], **options).double()


def images_case(c, seed):
    """x1, x2 large crops, x3, x4 small ones: (4, B, 3, S, S); r1, r2 for the ResNets: (1, B, 3, S, S)."""
    gen = torch.Generator().manual_seed(seed + 1000)
    sides = dict(x1=c["img"], x2=c["img"], x3=c["local"], x4=c["local"], r1=c["resnet_img"], r2=c["resnet_img"])
    return {k: pool_images(gen, 1 if k[0] == "r" else BATCHES, c["batch"], 3, s, s) for k, s in sides.items()}


def at(c, t, *names):
    """The inputs of step t."""
    return [real(c["images"][n][t % len(c["images"][n])]) for n in names]


def cosine_rates(base):
    return [oracle.learning_rate(base, t, 0, STEPS + 2) for t in range(STEPS)]


def adamw(groups, lr, wd, betas=(0.9, 0.999)):
    return torch.optim.AdamW(groups, lr, betas=betas, weight_decay=wd)


def trainable(model):
    return [p for p in model.parameters() if p.requires_grad]


def run(model, opt, rates, forward, step, more=lambda model: {}, drop="", brief=()):
    """before, then the gradients of step 0 (on a copy), then the steps. forward(model, t) -> loss. drop: a prefix of
    the names to leave out; brief: names of gradients that are given only as part of `grad_digest`."""
    named = lambda mapping: {k.removeprefix(drop): v for k, v in mapping.items()}
    out = single(prefixed("before.", named(tensors_of(model))))
    twin = copy.deepcopy(model)
    first = forward(twin, 0)
    first.backward()
    g = named(grads(twin))
    out.update(prefixed("grad.", {k: v for k, v in g.items() if FULL or not any(b in k for b in brief)}))
    if brief:
        out["grad_digest"] = digests(g)
    out.update({k: v.detach() for k, v in getattr(twin, "last", {}).items()})
    losses, trail = [], []
    for t in range(STEPS):
        for g in opt.param_groups:
            g["lr"] = rates[t] * g.get("lr_scale", 1.0)
        losses.append(step(model, opt, t))
        trail.append(more(model))
        if t == 0:
            out["after_digest"] = digests(named(tensors_of(model)))
            if FULL:
                out.update(prefixed("after.", named(tensors_of(model))))
    assert torch.equal(first.detach(), losses[0])
    out.update({"loss": torch.stack(losses), "lr": torch.tensor(rates, dtype=torch.float64),
                "end_digest": digests(named(tensors_of(model)))})
    for k in trail[0]:
        out[k] = torch.stack([t[k] for t in trail])
    return out


def pair(leader, follower):
    for q, k in zip(leader.parameters(), follower.parameters()):
        k.data.copy_(q.data)


def without(out, prefix, module):
    """Without the stored parameters of `module`, which start as copies."""
    same = {f"before.{prefix}.{n}" for n, _ in module.named_parameters()}
    return {k: v for k, v in out.items() if k not in same}


def restored(model, out, drop=""):
    """`model` with the state that `out` was made from."""
    full = {k.removeprefix(drop): k for k in model.state_dict()}
    state = {full[k[7:]]: v.double() for k, v in out.items() if k.startswith("before.")}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and all("num_batches" in k for k in missing)
    return model


# ---------------------------------------------------------------- objectives

def simclr_case(c, gen, lr=3e-3, wd=0.1):
    make = lambda **o: ob.SimCLR(vit(c), c["dim"], c["out"], c["mlp"], c["tau"], **o).double().train()
    model = make()
    randomize_single(model, gen)
    x = lambda t: at(c, t, "x1", "x2")
    out = run(model, adamw(trainable(model), lr, wd), cosine_rates(lr), lambda m, t: m(*x(t)),
              lambda m, o, t: m.step(o, *x(t)))
    apart = restored(make(joint=False), out)                  # the same weights, each view its own BatchNorm batch
    loss = apart(*x(0))
    loss.backward()
    return {**out, "loss_release": 2 * out["loss"], "separate.loss": loss,
            "separate.grad_digest": digests(grads(apart))}, dict(lr=lr, weight_decay=wd, tau=c["tau"])


def byol_case(c, gen, lr=2e-3, wd=0.03, base=0.97):
    model = ob.BYOL(lambda: vit(c), c["dim"], c["out"], c["mlp"]).double().train()
    randomize_single(model, gen)
    pair(model.base_encoder, model.momentum_encoder)
    decays = [ob.byol_decay(base, t, STEPS) for t in range(STEPS)]
    x = lambda t: at(c, t, "x1", "x2")
    out = run(model, adamw(trainable(model), lr, wd), cosine_rates(lr), lambda m, t: m(*x(t)),
              lambda m, o, t: m.step(o, *x(t), decays[t]))
    out = without(out, "momentum_encoder", model.momentum_encoder)
    return {**out, "decay": torch.tensor(decays, dtype=torch.float64)}, dict(lr=lr, weight_decay=wd, base_decay=base)


def swav_case(c, gen, bn, lr=3e-3, wd=0.02, frozen_steps=2, queue_from=2, queue_batches=3):
    encoder = vit(c, ob.MultiCropViT, pos="sincos")
    model = ob.SwAV(encoder, c["dim"], c["out"], c["mlp"], c["prototypes"], bn=bn).double().train()
    randomize_single(model, gen)
    x = lambda t: at(c, t, "x1", "x2", "x3", "x4")

    def forward(m, t):
        m.normalize_prototypes()
        return m(x(t))

    def step(m, o, t):
        if t == queue_from:
            m.start_queue(queue_batches * c["batch"])
        return m.step(o, x(t), freeze_prototypes=t < frozen_steps)

    out = run(model, adamw(trainable(model), lr, wd), cosine_rates(lr), forward, step, brief=('blocks.',) if bn else (),
              more=lambda m: {} if bn else {"step_q0": m.last["q0"], "step_q1": m.last["q1"]})
    return {**out, "queue": model.queue}, dict(
        lr=lr, weight_decay=wd, swav_tau=0.1, eps=0.05, iterations=3, frozen_steps=frozen_steps, queue_from=queue_from,
        queue_batches=queue_batches, head_batch_norm=int(bn), grad_note="the prototypes' gradient before it is dropped")


def dino_case(c, gen, gain=False, lr=3e-3, wd=(0.04, 0.4), per_epoch=2, warm=(0.04, 0.07, 3), base=0.9, clip=0.3,
              frozen_epochs=1):
    branch = lambda: ob.Branch(vit(c, ob.MultiCropViT, pos="learned"),
                               ob.DINOHead(c["dim"], c["mlp"], c["out"], c["prototypes"], train_gain=gain))
    model = ob.DINO(branch, c["prototypes"]).double().train()
    randomize_single(model, gen)
    pair(model.student, model.teacher)
    model.center.copy_((0.1 * torch.randn(model.center.shape, generator=gen)).double())
    x = lambda t: at(c, t, "x1", "x2", "x3", "x4")
    temp = [ob.teacher_temperature(t // per_epoch, *warm) for t in range(STEPS)]
    decay = [ob.dino_schedule(t, base, 1, STEPS) for t in range(STEPS)]
    wds = [ob.dino_schedule(t, *wd, STEPS) for t in range(STEPS)]
    rates = [ob.dino_schedule(t, lr, 1e-6, STEPS) for t in range(STEPS)]
    opt = torch.optim.AdamW(model.parameter_groups(), lr)

    def step(m, o, t):
        o.param_groups[0]["weight_decay"] = wds[t]
        return m.step(o, x(t), temp[t], decay[t], clip, t // per_epoch < frozen_epochs)

    out = run(model, opt, rates, lambda m, t: m(x(t), temp[t]), step, more=lambda m: {"center": m.center[0]},
              brief=("backbone", "mlp") if gain else ())
    out = without(out, "teacher", model.teacher)
    if gain and not FULL:                                     # the start is that of study_dino
        out = {k: v for k, v in out.items() if not k.startswith("before.")}
    as_t = lambda v: torch.tensor(v, dtype=torch.float64)
    return {**out, "decay": as_t(decay), "weight_decay": as_t(wds), "teacher_temperature": as_t(temp)}, dict(
        lr=lr, per_epoch=per_epoch, student_temperature=0.1, center_momentum=0.9, clip=clip,
        frozen_epochs=frozen_epochs, weight_decays=str(wd), teacher_temperatures=str(warm), base_decay=base,
        train_gain=int(gain),
        grad_note="before clipping and before the last layer's gradients are dropped")


def plain_step(forward):
    def step(m, o, t):
        o.zero_grad(set_to_none=True)
        loss = forward(m, t)
        loss.backward()
        o.step()
        return loss.detach()
    return step


def mae_step_case(c, gen, lr=2e-3, wd=0.05):
    make = lambda **o: oracle.MaskedAutoencoder(c["img"], c["patch"], c["dim"], c["depth"], c["heads"],
                                                *c["decoder"], **o).double()
    model = make()
    randomize_single(model, gen)
    noise = torch.rand(STEPS, c["batch"], (c["img"] // c["patch"]) ** 2, generator=gen)

    def forward(m, t):
        loss, pred, mask = m(*at(c, t, "x1"), noise[t].double(), c["ratio"])
        m.last = dict(pred=pred[0], mask=mask)                # pred: the first image's
        return loss

    groups = masked.decay_groups(model, wd)
    out = run(model, adamw(groups, lr, wd, (0.9, 0.95)), cosine_rates(lr), forward, plain_step(forward),
              brief=("decoder_blocks.",))
    raw = restored(make(norm_pixels=False), out)
    loss = forward(raw, 0)
    loss.backward()
    return {"noise": noise, **out, "raw.loss": loss, "raw.grad_digest": digests(grads(raw))}, dict(
        lr=lr, weight_decay=wd, beta1=0.9, beta2=0.95, undecayed="one-dimensional tensors and biases",
        raw="the same step without normalised pixels")


def patch_prediction_case(c, gen, lr=2e-3, wd=0.05):
    model = masked.MaskedPatchPrediction(vit(c), c["dim"]).double()
    randomize_single(model, gen)
    tokens = (c["img"] // c["patch"]) ** 2
    rand = lambda: torch.rand(STEPS * c["batch"], tokens, generator=gen)
    action = masked.choose_actions(rand(), rand()).reshape(STEPS, -1, tokens)
    action[0, 0, :3] = torch.tensor([1, 2, 3])                # every kind occurs in step 0
    source = torch.randint(0, tokens, action.shape, generator=gen)
    target = torch.stack([masked.colour_classes(u.double() / 255, c["patch"]) for u in c["images"]["x1"]])

    def forward(m, t):
        return m(*at(c, t, "x1"), action[t], source[t], target[t % BATCHES])

    out = run(model, adamw(masked.decay_groups(model, wd), lr, wd), cosine_rates(lr), forward, plain_step(forward),
              brief=("head.weight", "blocks.1."))
    out["logits"] = out["logits"][0, 0]                       # of the first image's first patch
    return {"action": action.to(torch.uint8), "source": source.to(torch.uint8), "target": target,
            **out}, dict(lr=lr, weight_decay=wd, bits=3, actions="0 keep, 1 mask, 2 other, 3 same",
                         colours="classes of u / 255, target[t % 4]")


# ---------------------------------------------------------------- supervised

def supervised_case(c, gen, pool, lr=4e-3, wd=0.05, drop=0.3, layer_decay=0.65, smoothing=0.1, classes=7):
    make = lambda: sup.Classifier(vit(c, pos="learned"), c["dim"], classes, drop, pool).double()
    model = make()
    randomize_single(model, gen)
    b = c["batch"] // 2 * 2                                   # mixing needs an even batch
    labels = torch.randint(0, classes, (STEPS, b), generator=gen)
    draws = torch.rand(STEPS, c["depth"], 2, b, generator=gen)
    lam = 0.1 + 0.8 * torch.rand(STEPS, generator=gen)
    centre = torch.randint(0, c["img"], (STEPS, 2), generator=gen)

    def batch(t):
        x, l = at(c, t, "x1")[0][:b], lam[t].double().item()
        if t % 2:
            x, l = sup.cutmix(x, l, *centre[t].tolist())
        else:
            x = sup.mixup(x, l)
        return x, sup.mixed_target(labels[t], classes, l, smoothing), draws[t].double()

    def forward(m, t):
        x, target, d = batch(t)
        return sup.soft_cross_entropy(m(x, d), target)

    opt = torch.optim.AdamW(sup.layer_decay_groups(model, wd, layer_decay), lr)
    rates = [sup.rate_with_floor(lr, 1e-5, 1 + t / 4, 1, 4) for t in range(STEPS)]
    out = run(model, opt, rates, forward, lambda m, o, t: sup.step(m, o, *batch(t)),
              brief=() if pool == "cls" else ("blocks.",), drop="encoder.")
    fresh = restored(make(), out, "encoder.")
    with torch.no_grad():
        logits = fresh(at(c, 0, "x1")[0][:b])
    forward(fresh, 0).backward()                              # global clipping on the same first batch
    norm = sup.clip_global(fresh.parameters(), 0.5)
    out.update({
        "labels": labels, "draws": draws, "lam": lam, "centre": centre, "target0": batch(0)[1], "target1": batch(1)[1],
        "mixed1": batch(1)[0][:2], "logits_eval": logits,
        "smoothed_loss_eval": sup.smoothed_cross_entropy(logits, labels[0], smoothing), "gradient_norm": norm,
        "clipped.grad_digest": digests({k.removeprefix("encoder."): v for k, v in grads(fresh).items()})})
    return out, dict(
        lr=lr, weight_decay=wd, drop_path=drop, layer_decay=layer_decay, smoothing=smoothing, classes=classes,
        pool=pool, clip=0.5, mixing="even steps mixup, odd steps cutmix with the centre (row, column)",
        undecayed="cls_token, pos_embed, one-dimensional tensors", floor=1e-5,
        rates="lr is the rate of the head; layer l of L has lr * layer_decay^(L + 1 - l)")


# ---------------------------------------------------------------- ResNet

def resnet_moco_case(c, gen, block, blocks, lr=0.01, wd=1e-3, m=0.97):
    width = c["width"]
    features = block.expansion * width * 2 ** (len(blocks) - 1)
    model = oracle.MoCo(lambda: oracle.ResNet(blocks, width, block=block), features, c["out"], c["mlp"], tau=1.0,
                        projector_layers=2, predictor_last_bn=False).double().train()
    randomize_single(model, gen, scaled=True)
    pair(model.base_encoder, model.momentum_encoder)
    ms = [oracle.momentum_coefficient(m, t, STEPS) for t in range(STEPS)]
    forward = lambda mod, t: mod(*at(c, t, "r1", "r2"), ms[t])
    lars = oracle.LARS(trainable(model), lr, weight_decay=wd)
    out = run(model, lars, cosine_rates(lr), forward, plain_step(forward), brief=("layer",))
    out = without(out, "momentum_encoder", model.momentum_encoder)
    return {**out, "m": torch.tensor(ms, dtype=torch.float64)}, dict(
        lr=lr, weight_decay=wd, momentum=m, resnet_tau=1.0, blocks=str(blocks), block=block.__name__,
        images="r1, r2")


# ---------------------------------------------------------------- evaluation and instruments

def features_of(gen, n, classes, d):
    """Clusters that overlap, labels, float precision."""
    labels = torch.randint(0, classes, (n,), generator=gen)
    means = torch.randn(classes, d, generator=torch.Generator().manual_seed(7))
    return (means[labels] + 1.3 * torch.randn(n, d, generator=gen)).float(), labels


def evaluation_case(c, gen, classes=5, d=11, epochs=3, lrs=(0.03, 0.3, 3.0, 30.0)):
    train, labels = features_of(gen, 60, classes, d)
    test, test_labels = features_of(gen, 37, classes, d)
    w = (0.01 * torch.randn(classes, d, generator=gen)).float()
    b = torch.zeros(classes)
    order = torch.stack([torch.randperm(60, generator=gen) for _ in range(epochs)])
    batches = [o.split(13) for o in order]                    # the last one of every epoch is smaller
    x, y = train.double(), test.double()
    out = {"train": train, "labels": labels, "test": test, "test_labels": test_labels, "weight": w, "order": order}
    best = []
    for lr in lrs:
        for name, kind, norm in ((f"sgd_{lr}", "sgd", False), (f"lars_bn_{lr}", "lars", True)):
            wt, bt, losses, bn = ev.linear_probe(x, labels, batches, w.double(), b.double(), lr, epochs, 0.9, kind,
                                                 norm)
            scores = bn(y) @ wt.T + bt
            hits = [ev.topk_hits(scores, test_labels, k).sum() for k in (1, 2)]
            out.update({f"{name}.loss": losses, f"{name}.weight": wt, f"{name}.bias": bt,
                        f"{name}.hits": torch.stack(hits)})
            if norm:
                out.update({f"{name}.running_mean": bn.running_mean, f"{name}.running_var": bn.running_var})
            else:
                best.append(hits[0])
    out["best_lr"] = torch.tensor([lrs[int(torch.stack(best).argmax())]], dtype=torch.float64)
    for k, tau in ((1, 0.07), (7, 0.07), (20, 0.1)):
        votes = oracle.knn_predict(x, labels, y, classes, k, tau)
        out[f"knn_{k}_{tau}.votes"] = votes
        out[f"knn_{k}_{tau}.hits"] = torch.stack([ev.topk_hits(votes, test_labels, j).sum() for j in (1, 2)])
    out["alignment"] = ev.alignment(x[:30], x[30:])
    out["uniformity"] = ev.uniformity(x)
    wide = torch.randn(9, 17, generator=gen).double()         # fewer rows than columns
    out["wide"] = wide.float()
    wide = wide.float().double()
    near = (torch.ones(20, 6) + 1e-3 * torch.randn(20, 6, generator=gen)).float()      # almost collapsed
    out["near"] = near
    for name, z in (("train", x), ("wide", wide), ("near", near.double())):
        out[f"rankme.{name}"] = ev.rankme(z)
        out.update({f"collapse.{name}.{k}": v for k, v in ev.collapse(z).items()})
    return out, dict(classes=classes, epochs=epochs, lrs=str(lrs), momentum=0.9, batch=13, probe_bn_eps=1e-6,
                     note="weight of the probe starts from `weight`, bias from 0; hits are top-1 and top-2 counts")


def instruments_case(c, gen):
    out = {}
    b, p, d = c["batch"], c["patch"], c["dim"]
    g = torch.randn(b, d, generator=gen).double()
    out["grad_features"] = g
    for name, make in (("plain", None), ("weight_norm", ev.WeightNormPatchEmbed),
                       ("batch_norm", ev.BatchNormPatchEmbed)):
        m = vit(c)
        if make:
            m.patch_embed = make(p, 3, d).double()
        randomize_single(m, gen)
        if make:                                              # everything but the patch embedding is that of `plain`
            m.load_state_dict({k: v for k, v in plain.items() if "patch_embed" not in k}, strict=False)
            out.update(single(prefixed(f"{name}.before.patch_embed.", tensors_of(m.patch_embed))))
        else:
            plain = {k: v.clone() for k, v in tensors_of(m).items()}
            out.update(single(prefixed("plain.before.", plain)))
        m.train()
        y = m(*at(c, 0, "x1"))
        (y * g).sum().backward()
        out.update({f"{name}.features": y, **prefixed(f"{name}.grad.patch_embed.", grads(m.patch_embed)),
                    f"{name}.grad_digest": digests(grads(m)),
                    **prefixed(f"{name}.after.", {k: v for k, v in m.named_buffers() if "num" not in k})})
        norms = ev.gradient_norms(grads(m).items())
        out.update({f"{name}.l2.{k}": v[0] for k, v in norms.items()})
        out.update({f"{name}.max.{k}": v[1] for k, v in norms.items()})
        if not make:                                          # the paper's clipping of the patch projection alone
            norm = sup.clip_global(m.patch_embed.parameters(), 0.05)
            out["plain.clip_norm"] = norm
            out.update(prefixed("plain.clipped.patch_embed.", grads(m.patch_embed)))
    series = torch.rand(260, generator=gen).double() * 0.5 + 1
    series[[40, 41, 130, 259]] = torch.tensor([9.0, 2.9, 25.0, 4.6]).double()
    series[90:95] = torch.linspace(1, 5, 5).double()
    detector = ev.SpikeDetector()
    marks = [detector(v.item()) for v in series]
    out.update({"series": series, "relative": torch.tensor([m[0] for m in marks], dtype=torch.float64),
                "spike": torch.tensor([m[1] for m in marks]).to(torch.uint8)})
    table = (0.5 * torch.randn(1, 10, 4, generator=gen)).float()              # a class token and 3 x 3 positions
    out["positions.table"] = table
    for name, grid, extra in (("dino_2x4", (2, 4), 0.1), ("exact_2x4", (2, 4), 0), ("exact_5x5", (5, 5), 0)):
        p = table.double().requires_grad_()
        y = ob.resample_positions(p, (3, 3), grid, extra)
        (y * y).sum().backward()
        out.update({f"positions.{name}": y, f"positions.{name}.grad_of_squares": p.grad})
    acc = torch.cat([torch.linspace(1, 40, 30), torch.linspace(35, 39, 10), torch.linspace(38.1, 50, 20)]).double()
    out.update({"accuracy": acc, "dip": torch.tensor(ev.dips(acc.tolist())).to(torch.uint8)})
    return out, dict(window=200, threshold=3.0, least=10, dip_points=2.0, clip=0.05)


def schedules_case():
    """Every schedule at every step of a short run."""
    t = lambda v: torch.tensor(list(v), dtype=torch.float64)
    n = 24
    out = {
        "moco.lr": t(oracle.learning_rate(1.2, i / 4, 2, 6) for i in range(n)),
        "moco.m": t(oracle.momentum_coefficient(0.99, i / 4, 6) for i in range(n)),
        "byol.decay": t(ob.byol_decay(0.996, i, n) for i in range(n + 1)),
        "swav.lr": t(swav_rate(i, 4.8, 0.3, 0.0048, 4, 6, 2) for i in range(n)),
        "dino.lr": t(ob.dino_schedule(i, 0.002, 1e-6, n, 8) for i in range(n)),
        "dino.wd": t(ob.dino_schedule(i, 0.04, 0.4, n) for i in range(n)),
        "dino.m": t(ob.dino_schedule(i, 0.996, 1.0, n) for i in range(n)),
        "dino.temperature": t(ob.teacher_temperature(e, 0.04, 0.07, 5) for e in range(8)),
        "mae.lr": t(sup.rate_with_floor(1.5, 1e-3, i / 4, 2, 6) for i in range(n)),
        "deit.lr": t(sup.deit_rate(1e-3, e, 20) for e in range(20)),
        "layer_decay_0.65_12": t(0.65 ** (13 - i) for i in range(14)),
    }
    return out, dict(
        note="moco: base 1.2, warm-up 2, 6 epochs of 4 steps; byol: base 0.996, total 24; swav: base 4.8, "
        "start 0.3, final 0.0048, 4 steps per epoch, 6 epochs, warm-up 2; dino.lr: base 0.002, final 1e-6, "
        "24 steps, warm-up 8; dino.wd 0.04 to 0.4; dino.m 0.996 to 1; temperature 0.04 to 0.07, 5 warm-up "
        "epochs; mae: base 1.5, floor 1e-3, warm-up 2, 6 epochs; deit: base 1e-3, 20 epochs, warm-up 5")


def swav_rate(step, base, start, final, per_epoch, epochs, warmup_epochs):
    """A line from `start` to `base` with both ends included, then half a cosine to `final` by iteration."""
    warm = warmup_epochs * per_epoch
    if step < warm:
        return start + (base - start) * step / (warm - 1)
    rest = per_epoch * (epochs - warmup_epochs)
    return final + 0.5 * (base - final) * (1 + math.cos(math.pi * (step - warm) / rest))


def with_zeros(made):
    tensors, more = made if isinstance(made, tuple) else (made, {})
    zero = [k[5:] for k, v in tensors.items() if k.startswith("grad.") and v.abs().max() < 1e-11]
    return tensors, {**more, "zero_gradient": " ".join(zero)} if zero else more


def write_all(seed, write):
    """write(name, make, sizes) with make() -> (tensors, metadata)."""
    c = {**SIZES, "images": images_case(SIZES, seed)}
    gen = lambda: torch.Generator().manual_seed(seed)
    cases = {
        "study_images": lambda: c["images"],
        "study_simclr": lambda: simclr_case(c, gen()),
        "study_byol": lambda: byol_case(c, gen()),
        "study_swav": lambda: swav_case(c, gen(), False),
        "study_swav_bn": lambda: swav_case(c, gen(), True),
        "study_dino": lambda: dino_case(c, gen()),
        "study_dino_gain": lambda: dino_case(c, gen(), True),
        "study_mae": lambda: mae_step_case(c, gen()),
        "study_patch_prediction": lambda: patch_prediction_case(c, gen()),
        "study_supervised": lambda: supervised_case(c, gen(), "cls"),
        "study_supervised_gap": lambda: supervised_case(c, gen(), "gap_fc"),
        "study_resnet18": lambda: resnet_moco_case(c, gen(), oracle.BasicBlock, c["blocks18"]),
        "study_resnet50": lambda: resnet_moco_case(c, gen(), oracle.Bottleneck, c["blocks50"]),
        "study_evaluation": lambda: evaluation_case(c, gen()),
        "study_instruments": lambda: instruments_case(c, gen()),
        "study_schedules": schedules_case,
    }
    for name, make in cases.items():
        write(name, lambda: with_zeros(make()), SIZES)
