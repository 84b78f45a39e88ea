"""Fixtures of PyTorch checkpoints: tiny files as the authors' programs write them, and files that a safe reader
refuses.

Writes OUT/pth/*.pth, OUT/pth.json and OUT/pth.safetensors. pth.json: for each file `expect`:
  tensors  read it. `tensors` maps the full path of each tensor (`state_dict/module.base_encoder.norm.weight`) to dtype
           and shape; its values are pth.safetensors["FILE:PATH"] (half types widened to float, exactly; a scalar has
           shape [1] there), or those of the file named by `same_as`. `scalars` are plain values by path. Objects of
           other classes (argparse.Namespace) are to be kept as opaque or skipped, never built by importing or calling
           anything: `opaque` lists their paths.
  refuse   an error that names the file and the reason, no side effect, bounded memory and time. `why` says what is
           wrong. A file `tessera-pwned` in the working directory would be the side effect.
  either   refuse, or read it as stated.
"""
import argparse
import collections
import io
import json
import os
import pickle
import struct
import tarfile
import warnings
import zipfile
import torch
import torch.nn as nn
import oracle

warnings.filterwarnings("ignore", message=".*TypedStorage.*")


# ---------------------------------------------------------------- good files

def save(obj, **options):
    f = io.BytesIO()
    torch.save(obj, f, **options)
    return f.getvalue()


def vit_state(gen, prefix="", head=True, classes=None, dist=False, learned=False):
    """A Vision Transformer of width 4, one block, patch 4, image 8, as an OrderedDict of float tensors."""
    model = oracle.VisionTransformer(8, 4, 4, 1, 2, pos="learned" if learned else "sincos")
    if head:
        model.head = oracle.mlp_head(2, 4, 10, 6)
    if classes:
        model.head = nn.Linear(4, classes)
    state = collections.OrderedDict()
    for k, v in model.state_dict().items():
        state[prefix + k] = torch.randn(v.shape, generator=gen) if v.is_floating_point() else v + 3
    state._metadata = model.state_dict()._metadata            # what nn.Module leaves on it: pickled with BUILD
    if dist:
        state[prefix + "dist_token"] = torch.randn(1, 1, 4, generator=gen)
        state[prefix + "pos_embed"] = torch.randn(1, 6, 4, generator=gen)
    return state


def slim(state):
    """Only the small tensors, where the layout is the point and not a whole model."""
    return collections.OrderedDict((k, v) for k, v in state.items() if v.numel() <= 24)


def optimizer_state(tensors):
    return {"state": {i: {"step": 7, "exp_avg": 0.1 * t, "exp_avg_sq": t * t} for i, t in enumerate(tensors)},
            "param_groups": [{"lr": 1.5e-4, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1, "amsgrad": False,
                              "params": list(range(len(tensors)))}]}


def moco_state(gen):
    state = vit_state(gen, "module.base_encoder.")
    state.update(vit_state(gen, "module.momentum_encoder."))
    for k, v in oracle.mlp_head(2, 6, 10, 6).state_dict().items():
        state["module.predictor." + k] = torch.randn(v.shape, generator=gen) if v.is_floating_point() else v + 3
    return state


def good(seed):
    gen = torch.Generator().manual_seed(seed)
    r = lambda *s: torch.randn(*s, generator=gen)
    moco = moco_state(gen)
    first = [moco["module.base_encoder.cls_token"], moco["module.base_encoder.norm.weight"]]
    moco_file = {"epoch": 300, "arch": "vit_small", "state_dict": moco, "optimizer": optimizer_state(first),
                 "scaler": {"scale": 65536.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000,
                            "_growth_tracker": 5}}
    namespace = argparse.Namespace(arch="vit_base", lr=1e-3, nested={"a": [1, 2]}, none=None)
    probe = slim(vit_state(gen, "module.", head=False, classes=5))
    mae = slim(vit_state(gen, head=False))
    mae["mask_token"] = r(1, 1, 6)
    student = slim(vit_state(gen, "module.backbone.", head=False, learned=True))
    student["module.head.last_layer.weight_g"], student["module.head.last_layer.weight_v"] = torch.ones(7, 1), r(7, 6)
    teacher = collections.OrderedDict((k[7:], v + 1) for k, v in student.items())
    deit = vit_state(gen, head=False, classes=5, learned=True)
    base = r(6, 8)
    views = {"whole": base, "rows": base[2:4], "column": base[:, 3], "transposed": base.t(),
             "strided": base[::2, 1::3], "expanded": base[0, :1].expand(4, 5),
             "permuted": r(2, 3, 4).permute(2, 0, 1), "again": base}
    types = {"f64": r(3, 2).double(), "f32": r(3, 2), "f16": r(5).half(), "bf16": r(2, 5).bfloat16(),
             "i64": torch.tensor([-(2 ** 62), 3]), "i32": torch.tensor([-7, 2 ** 31 - 1], dtype=torch.int32),
             "i16": torch.tensor([-300], dtype=torch.int16), "i8": torch.tensor([-128, 127], dtype=torch.int8),
             "u8": torch.tensor([0, 255], dtype=torch.uint8), "bool": torch.tensor([True, False]),
             "scalar": torch.tensor(2.5), "empty": torch.zeros(0, 3),
             "nan": torch.tensor([float("nan"), float("-inf"), -0.0])}
    small = {"model": {"w": r(3, 4), "b": r(3).bfloat16()}, "epoch": 2, "name": "caf\u00e9", "big": 2 ** 70,
             "none": None, "flag": True, "list": [1, 2.5, "x"], "tuple": (1, (2, 3)), "bytes": b"\x00\xff"}
    files = {
        "moco_v3.pth": moco_file, "deit.pth": {"model": deit}, "bare.pth": slim(deit),
        "deit_distilled.pth": {"model": slim(vit_state(gen, head=False, classes=5, dist=True, learned=True))},
        "mae.pth": {"model": mae, "epoch": 12, "args": namespace},
        "dino.pth": {"student": student, "teacher": teacher, "epoch": 3, "args": namespace,
                     "dino_loss": collections.OrderedDict(center=r(1, 7))},
        "probe.pth": {"epoch": 90, "arch": "vit_small", "state_dict": probe, "best_acc1": torch.tensor(73.25)},
        "views.pth": views, "types.pth": types,
        "parameters.pth": {"p": nn.Parameter(r(2, 3)), "frozen": nn.Parameter(r(4), False)},
        "small.pth": small,
    }
    out = {k: (save(v), v) for k, v in files.items()}
    out["moco_v3_legacy.pth"] = (save(moco_file, _use_new_zipfile_serialization=False), "moco_v3.pth")
    for k in ("views", "types", "small", "parameters"):
        out[f"{k}_legacy.pth"] = (save(files[f"{k}.pth"], _use_new_zipfile_serialization=False), f"{k}.pth")
    out["small_protocol4.pth"] = (save(small, pickle_protocol=4), "small.pth")
    newer = {"byteorder": b"little", ".data/serialization_id": b"1234"}
    out["small_byteorder.pth"] = (rezip(out["small.pth"][0], newer, drop=newer), "small.pth")
    out["small_other_root.pth"] = (rezip(out["small.pth"][0], root="checkpoint_0007"), "small.pth")
    return out


def walk(obj, path, found):
    """Tensors, scalars and opaque objects of a nest of dictionaries, lists and tuples, by path."""
    if isinstance(obj, torch.Tensor):
        found["tensors"][path] = obj
    elif isinstance(obj, dict):
        for k, v in obj.items():
            walk(v, f"{path}/{k}" if path else str(k), found)
    elif isinstance(obj, (list, tuple)):
        for i, v in enumerate(obj):
            walk(v, f"{path}/{i}", found)
    elif obj is None or isinstance(obj, (bool, int, float, str)):
        found["scalars"][path] = obj if not isinstance(obj, int) or abs(obj) < 2 ** 53 else str(obj)
    else:                                                     # also bytes: before protocol 3 a call of _codecs.encode
        found["opaque"].append(path)
    return found


# ---------------------------------------------------------------- bad files

def rezip(data, extra=None, root=None, replace=None, drop=(), compress=()):
    """The same archive with members added, replaced (by name without the root), dropped, or deflated."""
    src, out = zipfile.ZipFile(io.BytesIO(data)), io.BytesIO()
    old = src.namelist()[0].split("/")[0]
    with zipfile.ZipFile(out, "w") as z:
        for name in src.namelist():
            short = name.split("/", 1)[1]
            if short not in drop:
                z.writestr(zipfile.ZipInfo(f"{root or old}/{short}"), (replace or {}).get(short, src.read(name)),
                           zipfile.ZIP_DEFLATED if short in compress else zipfile.ZIP_STORED)
        for short, body in (extra or {}).items():
            z.writestr(zipfile.ZipInfo(f"{root or old}/{short}"), body)
    return out.getvalue()


def archive(pickled, members=(("0", bytes(40)),)):
    """A torch zip archive around a hand-written pickle."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as z:
        z.writestr(zipfile.ZipInfo("archive/data.pkl"), pickled)
        for name, body in members:
            z.writestr(zipfile.ZipInfo(f"archive/data/{name}"), body)
        z.writestr(zipfile.ZipInfo("archive/version"), b"3\n")
    return out.getvalue()


P = b"\x80\x02"                                               # protocol 2
COMMAND = b"touch tessera-pwned"


def glob(module, name):
    return b"c" + module + b"\n" + name + b"\n"


def text(s):
    return b"X" + struct.pack("<I", len(s)) + s


def number(n):
    if -2 ** 31 <= n < 2 ** 31:
        return b"J" + struct.pack("<i", n)
    body = n.to_bytes(n.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(body)]) + body


def tensor(size=(2, 5), stride=(5, 1), offset=0, numel=10, kind=b"FloatStorage", key=b"0", module=b"torch"):
    """The opcodes of one tensor."""
    tup = lambda v: b"(" + b"".join(number(x) for x in v) + b"t"
    storage = b"(" + text(b"storage") + glob(module, kind) + text(key) + text(b"cpu") + number(numel) + b"tQ"
    return (glob(b"torch._utils", b"_rebuild_tensor_v2") + b"(" + storage + number(offset) + tup(size) + tup(stride) +
            b"\x89" + glob(b"collections", b"OrderedDict") + b")R" + b"tR")


def one(t):
    return P + b"}" + text(b"w") + t + b"s."                  # {"w": t}


def bad(seed, files):
    small, legacy = files["small.pth"][0], files["small_legacy.pth"][0]
    call = lambda module, name, argument: glob(module, name) + b"(" + argument + b"tR"
    run = {
        "reduce": call(b"os", b"system", text(COMMAND)),
        "eval": call(b"builtins", b"eval", text(b"__import__('os').system('touch tessera-pwned')")),
        "inst": b"(" + text(COMMAND) + b"ios\nsystem\n",
        "obj": b"(" + glob(b"os", b"system") + text(COMMAND) + b"o",
        "newobj": glob(b"subprocess", b"Popen") + b"(" + text(COMMAND) + b"t\x81",
        "stack_global": b"\x8c\x02os\x8c\x06system\x93" + b"(" + text(COMMAND) + b"tR",
        "build": (glob(b"argparse", b"Namespace") + b")R}" + text(b"__setstate__") + glob(b"os", b"system") + b"sb" +
                  text(COMMAND) + b"b"),
        "getattr": call(b"builtins", b"getattr", glob(b"torch", b"hub") + text(b"load")),
        "torch_load": call(b"torch", b"load", text(b"/etc/passwd")),
        "dotted": call(b"torch.serialization", b"os.system", text(COMMAND)),
    }
    legacy_parts = [pickle.dumps(0x1950a86a20f9469cfc6c, 2), pickle.dumps(1001, 2), pickle.dumps(
        {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}, 2)]
    join = lambda *body: b"".join(legacy_parts) + b"".join(body)
    deep = 200_000
    out = {f"exec_{how}.pth": (archive(one(code)), f"executes code ({how})") for how, code in run.items()}
    out.update({
        "exec_legacy.pth": (join(one(run["reduce"]), pickle.dumps([], 2)), "executes code (legacy format)"),
        "exec_beside_tensor.pth": (archive(P + b"}(" + text(b"w") + tensor() + text(b"x") + run["reduce"] + b"u."),
                                   "executes code beside a good tensor"),
        "exec_as_name.pth": (archive(P + b"}" + run["reduce"] + tensor() + b"s."), "executes code for a key"),
        "exec_in_storage.pth": (archive(P + b"(" + run["reduce"] + b"tQ."), "executes code inside a persistent id"),
        "bare_pickle.pth": (one(run["reduce"]), "a pickle, neither zip nor torch's legacy format"),
        "memo_index.pth": (archive(P + b"}r\xff\xff\xff\x7f."), "memo index 2^31 - 1: must not allocate that many"),
        "long_text.pth": (archive(b"\x80\x04\x8d" + struct.pack("<Q", 2 ** 60) + b"abc."), "text of 2^60 bytes"),
        "long_number.pth": (archive(P + b"\x8b\xff\xff\xff\x7f\x01."), "integer of 2^31 - 1 bytes"),
        "negative_length.pth": (archive(P + b"\x8b\xff\xff\xff\xff\x01."), "integer of negative length"),
        "frame.pth": (archive(b"\x80\x04\x95" + struct.pack("<Q", 2 ** 62) + b"}."), "frame of 2^62 bytes"),
        "deep.pth": (rezip(archive(P + b"]" * deep + b"a" * (deep - 1) + b"."), compress=("data.pkl",)),
                     "lists nested 200,000 deep (pickle is deflated): no stack overflow, also when freeing"),
        "self_reference.pth": (archive(P + b"]q\x00h\x00a."), "a list that contains itself"),
        "laughs.pth": (archive(P + b"K\x01" + b"q\x00h\x00\x86" * 60 + b"."),
                       "60 pairs of pairs: 2^60 leaves when expanded"),
        "underflow.pth": (archive(P + b"a."), "stack underflow"),
        "no_mark.pth": (archive(P + b"t."), "tuple without mark"),
        "no_stop.pth": (archive(P + b"}"), "no STOP"),
        "absent_memo.pth": (archive(P + b"h\x05."), "memo entry that was never stored"),
        "unknown_opcode.pth": (archive(P + b"\xf0."), "unknown opcode"),
        "protocol_9.pth": (archive(b"\x80\x09}."), "unknown pickle protocol"),
        "extension.pth": (archive(P + b"\x82\x01."), "extension registry opcode"),
        "size_over_storage.pth": (archive(one(tensor((1000, 1000), (1000, 1)))), "tensor larger than its storage"),
        "stride_over_storage.pth": (archive(one(tensor((2, 5), (50, 1)))), "stride leaves the storage"),
        "offset_over_storage.pth": (archive(one(tensor(offset=1))), "offset leaves the storage"),
        "negative_size.pth": (archive(one(tensor((-2, 5)))), "negative size"),
        "negative_stride.pth": (archive(one(tensor(stride=(5, -1), offset=9))), "negative stride"),
        "negative_offset.pth": (archive(one(tensor(offset=-1))), "negative offset"),
        "overflow_size.pth": (archive(one(tensor((2 ** 62, 4), (0, 0)))), "number of elements overflows 64 bits"),
        "expanded_huge.pth": (archive(one(tensor((2 ** 20, 2 ** 20), (0, 0)))), "2^40 elements from one by stride 0"),
        "overflow_numel.pth": (archive(one(tensor(numel=2 ** 62 + 10))), "bytes of the storage overflow 64 bits"),
        "negative_numel.pth": (archive(one(tensor(numel=-10))), "negative storage length"),
        "rank_mismatch.pth": (archive(one(tensor((2, 5), (1,)))), "sizes and strides of different rank"),
        "short_storage.pth": (archive(one(tensor()), (("0", bytes(36)),)), "member shorter than the storage"),
        "long_storage.pth": (archive(one(tensor()), (("0", bytes(44)),)), "member longer than the storage"),
        "missing_storage.pth": (archive(one(tensor(key=b"7"))), "no such member"),
        "path_key.pth": (archive(one(tensor(key=b"../../../../etc/passwd"))), "path in a storage key"),
        "unknown_storage.pth": (archive(one(tensor(kind=b"ComplexMagicStorage"))), "unknown storage type"),
        "storage_elsewhere.pth": (archive(one(tensor(module=b"os"))), "storage class of another module"),
        "quantized.pth": (save({"q": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.quint8)}),
                          "quantized tensor"),
        "sparse.pth": (save({"s": torch.eye(3).to_sparse()}), "sparse tensor"),
        "module.pth": (save(nn.Linear(2, 2)), "a pickled module, not a dictionary of tensors"),
        "not_a_dictionary.pth": (save(5), "a number: no tensors"),
        "big_endian.pth": (rezip(small, {"byteorder": b"big"}, drop=("byteorder",)), "big-endian archive"),
        "no_pickle.pth": (rezip(small, drop=("data.pkl",)), "no data.pkl"),
        "two_pickles.pth": (rezip(small, {"data.pkl": one(run["reduce"])}), "two members of one name"),
        "truncated.pth": (small[:len(small) * 2 // 3], "truncated zip"),
        "truncated_end.pth": (small[:-10], "zip without its last bytes"),
        "zip_bomb_pickle.pth": (rezip(archive(P + b"}" + b"0}" * 2_000_000 + b"."), compress=("data.pkl",)),
                                "4 MB of pickle in 4 kB"),
        "wrong_crc.pth": (wrong_crc(small), "checksum of a member is wrong"),
        "local_name.pth": (small.replace(b"data.pkl", b"dota.pkl", 1), "local and central names differ"),
        "jit.pth": (jit(), "a TorchScript archive"),
        "legacy_magic.pth": (legacy.replace(legacy_parts[0], pickle.dumps(0x1950a86a20f9469cfc6d, 2), 1),
                             "wrong magic number"),
        "legacy_version.pth": (legacy.replace(legacy_parts[1], pickle.dumps(1002, 2), 1), "wrong protocol version"),
        "legacy_truncated.pth": (legacy[:-7], "last storage is short"),
        "legacy_big_endian.pth": (legacy.replace(b"little_endianq\x02\x88", b"little_endianq\x02\x89", 1),
                                  "big-endian"),
        "legacy_numel.pth": (legacy_numel(legacy), "a storage's own length differs from the pickle's"),
        "tar.pth": (tar(), "the tar format from before 0.1.10"),
        "jpeg.pth": (b"\xff\xd8\xff\xe0" + bytes(50), "a JPEG"), "empty.pth": (b"", "empty"),
        "huge_entry.pth": (huge_entry(archive(one(tensor()))),
                           "central directory claims a member of 2^62 bytes (zip64)"),
        "entries_lie.pth": (small[:-14] + b"\xff\xff" + small[-12:], "directory claims 65535 entries on this disk"),
        "nested_exec.pth": (archive(one(b"N" * 3 + run["reduce"] + b"0000" + tensor())), "code whose result is popped"),
    })
    return out


def wrong_crc(data):
    i = data.index(b"data/0") + 6
    j = data.index(struct.pack("<f", torch.load(io.BytesIO(data), weights_only=False)["model"]["w"][0, 0].item()), i)
    return data[:j] + bytes([data[j] ^ 1]) + data[j + 1:]


def huge_entry(data):
    """The central entry of data/0: sizes 0xffffffff and a zip64 extra field with 2^62."""
    i = data.rindex(b"PK\x01\x02", 0, data.rindex(b"data/0"))
    n, m, k = struct.unpack("<HHH", data[i + 28: i + 34])
    extra = struct.pack("<HHQQ", 1, 16, 2 ** 62, 2 ** 62)
    entry = data[i:i + 20] + b"\xff" * 8 + struct.pack("<HHH", n, len(extra), k) + data[i + 34:i + 46 + n] + extra
    rest = data[i + 46 + n + m:]
    end = rest.rindex(b"PK\x05\x06")
    size = struct.unpack("<I", rest[end + 12:end + 16])[0] + len(extra) - m
    return data[:i] + entry + rest[:end + 12] + struct.pack("<I", size) + rest[end + 16:]


def legacy_numel(data):
    """The first storage block of the file is preceded by its length as int64."""
    i = len(data) - (8 + 6) - (8 + 48)                        # bf16 x 3 and float x 12, in the order of their keys
    for at in (len(data) - 14, len(data) - 56, i, len(data) - 62):
        n = struct.unpack("<q", data[at:at + 8])[0]
        if n in (3, 12):
            return data[:at] + struct.pack("<q", 2 ** 40) + data[at + 8:]
    raise AssertionError("storage block not found")


def jit():
    f = io.BytesIO()
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), f)
    return f.getvalue()


def tar():
    f = io.BytesIO()
    with tarfile.open(fileobj=f, mode="w") as t:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            t.addfile(tarfile.TarInfo(name), io.BytesIO(b""))
    return f.getvalue()[:1536]


EITHER = {"long_storage.pth", "self_reference.pth", "laughs.pth", "deep.pth", "big_endian.pth", "legacy_big_endian.pth",
          "not_a_dictionary.pth", "frame.pth", "entries_lie.pth", "memo_index.pth"}


KEPT = (torch.float64, torch.float32, torch.uint8)            # other whole numbers are stored as int64, bool as uint8


def write_all(out, seed, write, wanted):
    if not wanted("pth"):
        return
    os.makedirs(os.path.join(out, "pth"), exist_ok=True)
    notes, values = {}, {}
    files = good(seed)
    for name, (data, content) in files.items():
        note = notes[name] = dict(expect="tensors", bytes=len(data))
        same = content if isinstance(content, str) else None
        found = walk(files[same][1] if same else content, "", dict(tensors={}, scalars={}, opaque=[]))
        loaded = walk(torch.load(io.BytesIO(data), weights_only=False), "", dict(tensors={}, scalars={}, opaque=[]))
        assert loaded["scalars"] == found["scalars"], name
        for k, v in found["tensors"].items():
            again = loaded["tensors"][k]
            assert torch.equal(again.nan_to_num(), v.nan_to_num()) and again.dtype == v.dtype
        if same:
            note["same_as"] = same
        else:
            note["tensors"] = {k: [str(v.dtype)[6:], list(v.shape)] for k, v in found["tensors"].items()}
            note["scalars"] = found["scalars"]
            if found["opaque"]:
                note["opaque"] = found["opaque"]
            for k, v in found["tensors"].items():
                v = v.detach().float() if v.dtype in (torch.float16, torch.bfloat16) else v.detach()
                values[f"{name}:{k}"] = v.byte() if v.dtype == torch.bool else v if v.dtype in KEPT else v.long()
        write_bytes(out, name, data)
    for name, (data, why) in bad(seed, files).items():
        notes[name] = dict(expect="either" if name in EITHER else "refuse", why=why, bytes=len(data))
        write_bytes(out, name, data)
    with open(os.path.join(out, "pth.json"), "w") as f:
        json.dump(notes, f, indent=0, sort_keys=True)
        f.write("\n")
    write("pth", lambda: (values, dict(torch=torch.__version__)), {})


def write_bytes(out, name, data):
    with open(os.path.join(out, "pth", name), "wb") as f:
        f.write(data)
