#!/usr/bin/env python3
"""Writes the fixtures that the library is compared with, or compares what it would write with tests/fixtures.

    python3 tests/reference/make_fixtures.py --out FOLDER      # writes all of them
    python3 tests/reference/make_fixtures.py --check           # compares those that tests/fixtures holds

README.md beside this file says what is needed. Most tensors are float64, so that an implementation in double must agree
to 1e-9 and one in float to 1e-4.
"""
import argparse
import copy
import os
import sys
import tempfile
import torch
import torch.nn.functional as F
import compare
import image_fixtures
import oracle
import picture_formats
import pth_fixtures
import safetensors_io as st
import study_fixtures
from tools import grads, prefixed, randomize

FIXTURES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fixtures")

# Sizes are small and mutually different, so that a swapped dimension cannot go unnoticed.
SIZES = dict(img=24, patch=6, dim=20, depth=2, heads=5, mlp_dim=36, out_dim=16, batch=6, tau=0.2,
             conv_img=32, conv_patch=16, conv_dim=32, conv_heads=4,
             resnet_width=4, resnet_img=40, mae_img=24, mae_patch=6, mae_dim=20, mae_heads=5,
             mae_dec_dim=16, mae_dec_depth=1, mae_dec_heads=2, mae_ratio=0.7)


def encoder(c, **options):
    size = [c[("conv_" if options.get("stem") == "conv" else "") + k] for k in ("img", "patch", "dim", "heads")]
    img, patch, dim, heads = size
    return oracle.VisionTransformer(img, patch, dim, c["depth"], heads, **options).double()


def vit_case(c, gen, **options):
    m = encoder(c, **options)
    randomize(m, gen)
    m.train()
    img = c["conv_img"] if options.get("stem") == "conv" else c["img"]
    x = torch.randn(c["batch"], 3, img, img, generator=gen, dtype=torch.float64)
    x.requires_grad_(True)
    out = {"x": x, **prefixed("before.", m.state_dict())}
    y = m(x)
    g = torch.randn(y.shape, generator=gen, dtype=torch.float64)
    y.backward(g)
    out.update({"tokens": copy.deepcopy(m).tokens(x), "features": y, "grad_features": g, "grad_x": x.grad,
                **prefixed("grad.", grads(m)), **prefixed("after.", dict(m.named_buffers()))})
    m.eval()
    out["features_eval"] = m(x)
    _, out["block0_attention"] = m.blocks[0].attn(m.blocks[0].norm1(m.embed(x)), return_weights=True)
    return out


def moco_model(c, gen, frozen_patch, **options):
    model = oracle.MoCo(lambda: encoder(c, **options),
                        c["conv_dim"] if options.get("stem") == "conv" else c["dim"],
                        c["out_dim"], c["mlp_dim"], c["tau"]).double()
    randomize(model, gen)
    for p in model.momentum_encoder.parameters():
        p.requires_grad = False
    if frozen_patch:
        for p in model.base_encoder.patch_embed.parameters():
            p.requires_grad = False
    return model.train()


def moco_step_case(c, gen, frozen_patch, m=0.99, lr=3e-3, wd=0.1, **options):
    model = moco_model(c, gen, frozen_patch, **options)
    img = c["conv_img"] if options.get("stem") == "conv" else c["img"]
    x1, x2 = (torch.randn(c["batch"], 3, img, img, generator=gen, dtype=torch.float64) for _ in range(2))
    opt = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr, weight_decay=wd)
    out = {"x1": x1, "x2": x2, **prefixed("before.", model.state_dict())}
    loss = model(x1, x2, m)
    loss.backward()
    out.update({"loss": loss, **model.last, **prefixed("grad.", grads(model))})
    opt.step()
    out.update(prefixed("after.", model.state_dict()))
    return out


def moco_trajectory_case(c, gen, optimizer, steps=8, per_epoch=4, epochs=2, warmup=0.5, m=0.9):
    """The loss of every step under the per-iteration schedules; the batch of step t is x1[t], x2[t]."""
    base_lr, wd = {"adamw": (2e-3, 0.1), "lars": (2.0, 1e-4), "lamb": (5e-3, 0.05)}[optimizer]
    model = moco_model(c, gen, frozen_patch=True)
    params = [p for p in model.parameters() if p.requires_grad]
    opt = {"adamw": lambda: torch.optim.AdamW(params, base_lr, weight_decay=wd),
           "lars": lambda: oracle.LARS(params, base_lr, weight_decay=wd),
           "lamb": lambda: oracle.LAMB(params, base_lr, weight_decay=wd)}[optimizer]()
    x1, x2 = (torch.randn(steps, c["batch"], 3, c["img"], c["img"], generator=gen, dtype=torch.float64)
              for _ in range(2))
    out = {"x1": x1.float(), "x2": x2.float(), **prefixed("before.", model.state_dict())}
    losses, lrs, ms = [], [], []
    for t in range(steps):
        epoch = t / per_epoch
        lr, mt = oracle.learning_rate(base_lr, epoch, warmup, epochs), oracle.momentum_coefficient(m, epoch, epochs)
        for g in opt.param_groups:
            g["lr"] = lr
        opt.zero_grad()
        loss = model(x1[t].float().double(), x2[t].float().double(), mt)
        loss.backward()
        opt.step()
        losses.append(loss.detach()), lrs.append(lr), ms.append(mt)
    return {**out, "loss": torch.stack(losses), "lr": torch.tensor(lrs, dtype=torch.float64),
            "m": torch.tensor(ms, dtype=torch.float64), **prefixed("after.", model.state_dict())}, dict(
                optimizer=optimizer, base_lr=base_lr, weight_decay=wd, steps=steps, steps_per_epoch=per_epoch,
                epochs=epochs, warmup_epochs=warmup, momentum=m)


def ranks_case(c, gen, ranks):
    """The same step on `ranks` processes, batch rows dealt out in contiguous blocks: BatchNorm statistics over all
    rows, keys gathered from all ranks, and the parameter gradient of the mean of the ranks' losses. `loss_per_rank`
    is what each rank computes on its own rows."""
    model = moco_model(c, gen, frozen_patch=True)
    n = c["batch"] // ranks * ranks
    x1, x2 = (torch.randn(n, 3, c["img"], c["img"], generator=gen, dtype=torch.float64) for _ in range(2))
    out = {"x1": x1, "x2": x2, **prefixed("before.", model.state_dict())}
    q1, q2 = model.predictor(model.base_encoder(x1)), model.predictor(model.base_encoder(x2))
    with torch.no_grad():
        model.update_momentum_encoder(0.99)
        k1, k2 = model.momentum_encoder(x1), model.momentum_encoder(x2)
    per = n // ranks
    losses = []
    for r in range(ranks):
        rows, tau, total = slice(r * per, (r + 1) * per), model.tau, 0
        for q, k in ((q1, k2), (q2, k1)):
            logits = F.normalize(q[rows], dim=1) @ F.normalize(k, dim=1).T / tau
            total = total + F.cross_entropy(logits, torch.arange(per) + r * per) * 2 * tau
        losses.append(total)
    torch.stack(losses).mean().backward()
    return {**out, "loss_per_rank": torch.stack(losses), **prefixed("grad.", grads(model)),
            **prefixed("after.", dict(model.named_buffers()))}


def resnet_case(c, gen):
    m = oracle.ResNet((1, 2, 1, 1), c["resnet_width"]).double()
    randomize(m, gen)
    m.train()
    x = torch.randn(c["batch"], 3, c["resnet_img"], c["resnet_img"], generator=gen, dtype=torch.float64)
    x.requires_grad_(True)
    out = {"x": x, **prefixed("before.", m.state_dict())}
    y = m(x)
    g = torch.randn(y.shape, generator=gen, dtype=torch.float64)
    y.backward(g)
    out.update({"features": y, "grad_features": g, "grad_x": x.grad, **prefixed("grad.", grads(m)),
                **prefixed("after.", dict(m.named_buffers()))})
    m.eval()
    return {**out, "features_eval": m(x)}


def mae_case(c, gen):
    m = oracle.MaskedAutoencoder(*(c["mae_" + k] for k in ("img", "patch", "dim")), c["depth"], c["mae_heads"],
                                 *(c["mae_dec_" + k] for k in ("dim", "depth", "heads"))).double()
    randomize(m, gen)
    x = torch.randn(c["batch"], 3, c["mae_img"], c["mae_img"], generator=gen, dtype=torch.float64)
    noise = torch.rand(c["batch"], (c["mae_img"] // c["mae_patch"]) ** 2, generator=gen, dtype=torch.float64)
    loss, pred, mask = m(x, noise, c["mae_ratio"])
    loss.backward()
    return {"x": x, "noise": noise, **prefixed("before.", m.state_dict()), "loss": loss, "pred": pred, "mask": mask,
            **prefixed("grad.", grads(m))}


def objectives_case(c, gen):
    d, b, kk = c["out_dim"], c["batch"], 2 * c["out_dim"] - 3
    r = lambda *s: torch.randn(*s, generator=gen, dtype=torch.float64)
    out = {}
    for name, fn in {
        "info_nce": lambda a, z: oracle.info_nce(a, z, c["tau"]),
        "nt_xent": lambda a, z: oracle.nt_xent(a, z, 0.5),
        "byol": oracle.byol_loss,
    }.items():
        a, z = r(b, d).requires_grad_(), r(b, d).requires_grad_()
        loss = fn(a, z)
        loss.backward()
        out.update({f"{name}.a": a, f"{name}.b": z, f"{name}.loss": loss, f"{name}.grad_a": a.grad})
        if z.grad is not None:
            out[f"{name}.grad_b"] = z.grad
    a, z = r(b, d).requires_grad_(), r(b, d).requires_grad_()
    p = F.normalize(r(kk, d), dim=1).requires_grad_()
    loss = oracle.swav_loss(a, z, p)
    loss.backward()
    out.update({"swav.a": a, "swav.b": z, "swav.prototypes": p, "swav.loss": loss, "swav.grad_a": a.grad,
                "swav.grad_b": z.grad, "swav.grad_prototypes": p.grad,
                "swav.assignment_a": oracle.sinkhorn((F.normalize(a, dim=1) @ p.T).detach())})
    train, labels, query = r(60, d), torch.randint(0, 5, (60,), generator=gen), r(9, d)
    out.update({"knn.train": train, "knn.labels": labels, "knn.query": query,
                "knn.votes": oracle.knn_predict(train, labels, query, 5, k=7, tau=0.1)})
    return out


def augment_case(gen):
    """Single operations of torchvision on 8-bit RGB images with fixed parameters, each from the same input."""
    import numpy as np
    from PIL import Image, ImageFilter, ImageOps
    import torchvision.transforms.functional as tf
    from torchvision.transforms import InterpolationMode as I
    h, w = 45, 61
    yy, xx = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    smooth = torch.stack([(yy * 5 + xx) % 256, (xx * 4) % 256, ((yy - 20) ** 2 + (xx - 30) ** 2) // 6 % 256], -1)
    noise = torch.randint(0, 256, (h, w, 3), generator=gen)
    image = torch.where((xx > 30)[..., None], smooth, (smooth + noise) // 2).to(torch.uint8).numpy()
    pil = Image.fromarray(image)
    ops = {
        "crop_resize_bilinear_24": lambda i: tf.resized_crop(i, 7, 9, 30, 41, [24, 24], I.BILINEAR),
        "crop_resize_bicubic_24": lambda i: tf.resized_crop(i, 7, 9, 30, 41, [24, 24], I.BICUBIC),
        "crop_upsample_bilinear_50": lambda i: tf.resized_crop(i, 3, 5, 17, 13, [50, 50], I.BILINEAR),
        "crop_upsample_bicubic_50": lambda i: tf.resized_crop(i, 3, 5, 17, 13, [50, 50], I.BICUBIC),
        "hflip": tf.hflip,
        "brightness_1.35": lambda i: tf.adjust_brightness(i, 1.35),
        "brightness_0.62": lambda i: tf.adjust_brightness(i, 0.62),
        "contrast_1.4": lambda i: tf.adjust_contrast(i, 1.4),
        "contrast_0.6": lambda i: tf.adjust_contrast(i, 0.6),
        "saturation_1.2": lambda i: tf.adjust_saturation(i, 1.2),
        "saturation_0.8": lambda i: tf.adjust_saturation(i, 0.8),
        "hue_0.1": lambda i: tf.adjust_hue(i, 0.1),
        "hue_-0.07": lambda i: tf.adjust_hue(i, -0.07),
        "grayscale_3": lambda i: tf.rgb_to_grayscale(i, 3),
        "gaussian_blur_0.1": lambda i: i.filter(ImageFilter.GaussianBlur(0.1)),
        "gaussian_blur_0.9": lambda i: i.filter(ImageFilter.GaussianBlur(0.9)),
        "gaussian_blur_2.0": lambda i: i.filter(ImageFilter.GaussianBlur(2.0)),
        "solarize_128": lambda i: ImageOps.solarize(i),
    }
    out = {"input": torch.from_numpy(image)}
    out.update({name: torch.from_numpy(np.array(op(pil))) for name, op in ops.items()})
    chain = tf.adjust_hue(tf.adjust_saturation(tf.adjust_contrast(tf.adjust_brightness(
        tf.resized_crop(pil, 2, 4, 38, 40, [32, 32], I.BILINEAR), 1.2), 0.8), 1.1), 0.05)
    chain = tf.hflip(chain.filter(ImageFilter.GaussianBlur(1.3)))
    out["chain_uint8"] = torch.from_numpy(np.array(chain))
    out["chain_normalized"] = tf.normalize(tf.to_tensor(chain), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    return out


def write_all(seed, write, out, wanted):
    """Calls write(name, make, sizes) for every fixture; make() -> tensors, or (tensors, metadata)."""
    c = SIZES

    def gen():
        return torch.Generator().manual_seed(seed)

    torch.manual_seed(seed)
    write("vit", lambda: vit_case(c, gen()))
    for name, o in {"vit_gap": dict(pool="gap", pos="none"),
                    "vit_gap_norm_learned": dict(pool="gap_norm", pos="learned"),
                    "vit_mlp_batchnorm": dict(mlp_norm="bn"), "vit_conv_stem": dict(stem="conv")}.items():
        write(name, lambda: (vit_case(c, gen(), **o), o))
    write("resnet", lambda: (resnet_case(c, gen()), dict(resnet_blocks="1,2,1,1")))
    write("mae", lambda: mae_case(c, gen()))
    for name, frozen in (("moco_step", False), ("moco_step_frozen_patch", True)):
        write(name, lambda: (moco_step_case(c, gen(), frozen),
                             dict(frozen_patch=int(frozen), m=0.99, lr=3e-3, weight_decay=0.1)))
    for o in ("adamw", "lars", "lamb"):
        write(f"moco_trajectory_{o}", lambda: moco_trajectory_case(c, gen(), o))
    for r in (2, 3):
        write(f"moco_ranks_{r}", lambda: (ranks_case(c, gen(), r), dict(ranks=r, m=0.99)))
    write("objectives", lambda: (objectives_case(c, gen()), dict(
        info_nce_tau=c["tau"], nt_xent_tau=0.5, swav_tau=0.1, swav_eps=0.05, swav_iterations=3, knn_k=7, knn_tau=0.1,
        knn_classes=5)))
    write("augment", lambda: augment_case(gen()))
    study_fixtures.write_all(seed, write)
    image_fixtures.write_all(out, seed, write, wanted)
    picture_formats.write_all(out, seed, write, wanted)
    pth_fixtures.write_all(out, seed, write, wanted)


def main():
    ap = argparse.ArgumentParser(description="Writes the fixtures that the library is compared with.")
    ap.add_argument("--out", metavar="FOLDER", help="where to write; without --check all fixtures are written")
    ap.add_argument("--check", action="store_true", help="compare with tests/fixtures; other fixtures are left out")
    ap.add_argument("--only", default="", metavar="PREFIX", help="only the fixtures whose name starts with this")
    ap.add_argument("--seed", type=int, default=1, help="other values; those of tests/fixtures have 1")
    ap.add_argument("--full", action="store_true", help="whole tensors where study_* has digests")
    a = ap.parse_args()
    if not a.out and not a.check:
        ap.error("give --out FOLDER or --check")
    if a.check and (a.seed != 1 or a.full):
        ap.error("tests/fixtures was written without --seed and --full")
    study_fixtures.FULL = a.full
    stored = {f.removesuffix(".safetensors") for f in os.listdir(FIXTURES) if f.endswith(".safetensors")}
    made, wrong, skipped = 0, [], []

    def wanted(name):
        return name.startswith(a.only) and (not a.check or name in stored)

    with tempfile.TemporaryDirectory() as temporary:
        out = a.out or temporary
        os.makedirs(out, exist_ok=True)

        def write(name, make, sizes=SIZES):
            nonlocal made
            if not wanted(name):
                return
            try:
                tensors = make()
            except ModuleNotFoundError as e:
                skipped.append(name)
                return print(f"{name}: skipped, {e}")
            tensors, more = tensors if isinstance(tensors, tuple) else (tensors, {})
            path = os.path.join(out, name + ".safetensors")
            st.save(path, tensors, {**sizes, "seed": a.seed, "variant": "a", **more})
            made += 1
            if not a.check:
                return print(f"{os.path.getsize(path) / 1e3:9.1f} kB  {name}")
            faults, furthest = compare.differences(path, os.path.join(FIXTURES, name + ".safetensors"))
            print(f"{name}: " + ("; ".join(faults[:5]) if faults else f"equal, {furthest}"))
            if faults:
                wrong.append(name)

        write_all(a.seed, write, out, wanted)
    print(f"{made} fixtures, {len(wrong)} different, {len(skipped)} skipped")
    return 1 if wrong or skipped or made == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
