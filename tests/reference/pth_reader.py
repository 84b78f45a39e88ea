#!/usr/bin/env python3
"""A safe reader of PyTorch checkpoints in plain Python and NumPy, to be compared with: it shows which files a reader
takes and which it refuses. `python3 pth_reader.py FIXTURES` checks it on every file of FIXTURES/pth against
FIXTURES/pth.json.

Nothing is imported or called on behalf of a file. Three kinds of globals: those understood (tensors, containers), those
stepped over (their objects become Opaque and may not be where a tensor is needed), and all others, which are refused.
"""
import io
import json
import os
import struct
import sys
import zipfile
import zlib
import numpy as np
import safetensors_io

LIMIT = 1 << 30                                               # bytes of one member, elements of one tensor
TYPES = {"Double": "<f8", "Float": "<f4", "Half": "<f2", "BFloat16": "bf16", "Long": "<i8", "Int": "<i4",
         "Short": "<i2", "Char": "i1", "Byte": "u1", "Bool": "?"}
UNDERSTOOD = {("collections", "OrderedDict"), ("torch._utils", "_rebuild_tensor_v2"), ("torch", "Size"),
              ("torch._utils", "_rebuild_parameter")} | {("torch", f"{t}Storage") for t in TYPES}
STEPPED_OVER = {("argparse", "Namespace"), ("_codecs", "encode"), ("numpy.core.multiarray", "scalar"),
                ("numpy._core.multiarray", "scalar"), ("numpy", "dtype"), ("pathlib", "PosixPath")}


class Refused(Exception):
    pass


def need(condition, why):
    if not condition:
        raise Refused(why)


class Opaque:
    pass


class Global:
    def __init__(self, module, name):
        self.key = (module, name)


class Storage:
    def __init__(self, kind, key, count):
        self.kind, self.key, self.count = kind, key, count


class Tensor:
    """A view of a storage; `array` is made when the bytes are known. bf16 becomes float."""
    def __init__(self, storage, offset, size, stride):
        ints = [offset, *size, *stride]
        need(all(type(v) is int and 0 <= v for v in ints), "a negative or odd number in a tensor's shape")
        need(len(size) == len(stride), "sizes and strides of different rank")
        count = 1
        for s in size:
            count *= s
        need(count <= LIMIT, "a tensor of too many elements")
        last = offset + sum((n - 1) * s for n, s in zip(size, stride)) if count else offset - 1
        need(last < storage.count, "a tensor that leaves its storage")
        self.storage, self.offset, self.size, self.stride = storage, offset, size, stride

    def array(self, storages):
        flat = storages[self.storage.key]
        step = flat.itemsize
        return np.lib.stride_tricks.as_strided(flat[self.offset:], self.size, [s * step for s in self.stride]).copy()


class Machine:
    """Pickle's stack machine over bytes that end where they end."""
    def __init__(self, data, at=0):
        self.data, self.at, self.stack, self.marks, self.memo, self.storages = data, at, [], [], {}, {}

    def take(self, n):
        need(0 <= n <= len(self.data) - self.at, "a length beyond the end of the pickle")
        self.at += n
        return self.data[self.at - n:self.at]

    def line(self):
        end = self.data.find(b"\n", self.at)
        need(end >= 0, "a line without end")
        out, self.at = self.data[self.at:end], end + 1
        return out.decode("utf-8", "replace")

    def unpack(self, form):
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def pop(self):
        need(len(self.stack) > (self.marks[-1] if self.marks else 0), "stack underflow")
        return self.stack.pop()

    def since_mark(self):
        need(self.marks, "no mark")
        i = self.marks.pop()
        out, self.stack = self.stack[i:], self.stack[:i]
        return out

    def top(self, kind):
        need(self.stack and isinstance(self.stack[-1], (kind, Opaque)), "an operation on the wrong object")
        return self.stack[-1]

    def into(self, kind):
        """The container on top, or one that is thrown away where the top is opaque."""
        top = self.top(kind)
        return kind() if isinstance(top, Opaque) else top

    def find(self, module, name):
        need((module, name) in UNDERSTOOD | STEPPED_OVER, f"global {module}.{name}")
        return Global(module, name)

    def call(self, f, args):
        need(isinstance(f, Global), "a call of what is no global")
        if f.key in STEPPED_OVER:
            return Opaque()
        need(isinstance(args, tuple), "arguments that are no tuple")
        if f.key == ("collections", "OrderedDict"):
            return dict(self.pairs(args[0])) if args else {}
        if f.key[1] == "_rebuild_tensor_v2":
            need(len(args) >= 4 and isinstance(args[0], Storage) and isinstance(args[2], tuple) and
                 isinstance(args[3], tuple), "a tensor of odd parts")
            return Tensor(*args[:4])
        if f.key[1] == "_rebuild_parameter":
            need(args and isinstance(args[0], Tensor), "a parameter that is no tensor")
            return args[0]
        need(f.key[1] == "Size" and len(args) == 1, "a call of a storage")
        return tuple(args[0])

    def pairs(self, items):
        need(isinstance(items, list) and all(isinstance(p, (list, tuple)) and len(p) == 2 for p in items), "odd items")
        return [(self.key(k), v) for k, v in items]

    def key(self, k):
        need(isinstance(k, (str, int, float, bool, bytes, type(None))), "a key that is no plain value")
        return k

    def persistent(self, pid):
        need(isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == "storage" and isinstance(pid[1], Global) and
             pid[1].key[0] == "torch" and pid[1].key[1].endswith("Storage") and isinstance(pid[2], str) and
             type(pid[4]) is int and 0 <= pid[4] <= LIMIT, "an odd storage")
        need(len(pid) == 5 or pid[5] is None, "a view of a storage")
        new = Storage(pid[1].key[1][:-7], pid[2], pid[4])
        old = self.storages.setdefault(pid[2], new)
        need((old.kind, old.count) == (new.kind, new.count), "one storage described twice")
        return old

    def run(self):
        while True:
            op = self.take(1)
            push = self.stack.append
            if op == b".":
                need(len(self.stack) == 1 and not self.marks, "more or less than one object at the end")
                return self.stack[0]
            elif op == b"\x80":
                need(self.unpack("B") in (2, 3, 4, 5), "an unknown pickle protocol")
            elif op == b"\x95":
                need(self.unpack("<Q") <= len(self.data) - self.at, "a frame beyond the end")
            elif op == b"(":
                self.marks.append(len(self.stack))
            elif op == b"0":
                self.pop()
            elif op in b"N\x88\x89":
                push({b"N": None, b"\x88": True, b"\x89": False}[op])
            elif op in (b"J", b"K", b"M", b"G"):
                push(self.unpack({b"J": "<i", b"K": "B", b"M": "<H", b"G": ">d"}[op]))
            elif op in (b"\x8a", b"\x8b"):
                push(int.from_bytes(self.take(self.unpack("B" if op == b"\x8a" else "<i")), "little", signed=True))
            elif op in (b"X", b"\x8c", b"\x8d"):
                raw = self.take(self.unpack({b"X": "<I", b"\x8c": "B", b"\x8d": "<Q"}[op]))
                push(raw.decode("utf-8", "replace"))
            elif op in (b"B", b"C", b"\x8e", b"T", b"U"):
                push(self.take(self.unpack({b"B": "<I", b"C": "B", b"\x8e": "<Q", b"T": "<i", b"U": "B"}[op])))
            elif op in (b"}", b"]", b")"):
                push({b"}": dict, b"]": list, b")": tuple}[op]())
            elif op == b"t":
                items = self.since_mark()
                self.stack.append(tuple(items))
            elif op in (b"\x85", b"\x86", b"\x87"):
                items = [self.pop() for _ in range(op[0] - 0x84)]
                push(tuple(items[::-1]))
            elif op == b"a":
                v = self.pop()
                self.into(list).append(v)
            elif op == b"e":
                items = self.since_mark()
                self.into(list).extend(items)
            elif op in (b"s", b"u"):
                items = [self.pop(), self.pop()][::-1] if op == b"s" else self.since_mark()
                need(len(items) % 2 == 0, "a key without value")
                self.into(dict).update((self.key(k), v) for k, v in zip(items[::2], items[1::2]))
            elif op == b"c":
                push(self.find(self.line(), self.line()))
            elif op == b"\x93":
                name, module = self.pop(), self.pop()
                need(isinstance(name, str) and isinstance(module, str), "an odd global")
                push(self.find(module, name))
            elif op in (b"R", b"\x81"):
                args, f = self.pop(), self.pop()
                push(self.call(f, args))
            elif op == b"b":                                  # attributes of an OrderedDict or of what is stepped over
                self.pop()
                self.top(dict)
            elif op in (b"q", b"r", b"\x94"):
                need(self.stack, "nothing to remember")
                i = len(self.memo) if op == b"\x94" else self.unpack("B" if op == b"q" else "<I")
                self.memo[i] = self.stack[-1]
            elif op in (b"h", b"j"):
                i = self.unpack("B" if op == b"h" else "<I")
                need(i in self.memo, "a memo entry that was never stored")
                push(self.memo[i])
            elif op == b"Q":
                push(self.persistent(self.pop()))
            else:
                raise Refused(f"opcode {op!r}")


def values(storage, raw):
    kind = TYPES[storage.kind]
    width = 2 if kind == "bf16" else np.dtype(kind).itemsize
    need(len(raw) == storage.count * width, f"storage {storage.key!r} has {len(raw)} bytes")
    if kind == "bf16":
        return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(raw, kind)


def read_zip(data):
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        names = archive.namelist()
        need(len(names) == len(set(names)), "two members of one name")
        root = names[0].split("/")[0] if names else ""
        need(f"{root}/data.pkl" in names, "no data.pkl: not a checkpoint")
        need(f"{root}/constants.pkl" not in names, "a TorchScript archive")

        def member(name):
            info = archive.getinfo(f"{root}/{name}")
            need(info.file_size <= LIMIT and info.compress_size <= len(data), "a member of impossible size")
            need(info.file_size <= 20 * info.compress_size + 1024, "a member that was squeezed too far")
            return archive.read(info)
        need(f"{root}/byteorder" not in names or member("byteorder") == b"little", "big-endian")
        machine = Machine(member("data.pkl"))
        tree = machine.run()
        for s in machine.storages.values():
            need(f"{root}/data/{s.key}" in names, f"no member for storage {s.key!r}")
        return tree, {k: values(s, member(f"data/{k}")) for k, s in machine.storages.items()}
    except (zipfile.BadZipFile, zlib.error, KeyError, ValueError, OverflowError, RuntimeError, EOFError) as e:
        raise Refused(f"zip: {e}") from None


def read_legacy(data):
    at, parts = 0, []
    for i in range(5):
        machine = Machine(data, at)
        parts.append(machine.run())
        at = machine.at
        if i == 0:
            need(parts[0] == 0x1950a86a20f9469cfc6c, "neither of PyTorch's formats")
        if i == 1:
            need(parts[1] == 1001, "an unknown version of the legacy format")
        if i == 2:
            need(isinstance(parts[2], dict) and parts[2].get("little_endian") is True, "big-endian")
        if i == 3:
            described = machine.storages
    out = {}
    need(isinstance(parts[4], list), "no list of storages")
    for key in parts[4]:
        need(isinstance(key, str) and key in described, "a storage that nobody described")
        need(at + 8 <= len(data), "a storage that is cut off")
        need(struct.unpack("<q", data[at:at + 8])[0] == described[key].count, "a storage of another length")
        kind = TYPES[described[key].kind]
        n = described[key].count * (2 if kind == "bf16" else np.dtype(kind).itemsize)
        out[key] = values(described[key], data[at + 8:at + 8 + n])
        at += 8 + n
    need(set(out) == set(described), "a storage without data")
    return parts[3], out


def read(data):
    """bytes -> {path: array} of all tensors in dictionaries, lists and tuples. Walks with a stack, each object once."""
    tree, storages = (read_zip if data[:4] == b"PK\x03\x04" else read_legacy)(data)
    found, seen, todo = {}, set(), [("", tree)]
    while todo:
        path, v = todo.pop()
        if isinstance(v, Tensor):
            found[path] = v.array(storages)
        elif isinstance(v, (dict, list, tuple)) and v:
            need(id(v) not in seen or not isinstance(v, list), "a list inside itself")
            if id(v) in seen:
                continue
            seen.add(id(v))
            todo += [(f"{path}/{k}" if path else str(k), x) for k, x in
                     (v.items() if isinstance(v, dict) else enumerate(v))]
    need(found, "no tensors")
    return found


def main(folder):
    notes = json.load(open(os.path.join(folder, "pth.json")))
    stored, _ = safetensors_io.load(os.path.join(folder, "pth.safetensors"))
    wrong = 0
    for name, note in notes.items():
        try:
            got = read(open(os.path.join(folder, "pth", name), "rb").read())
            result = f"{len(got)} tensors"
        except Refused as e:
            got, result = None, f"refused: {e}"
        ok = note["expect"] == "either" or (got is None) == (note["expect"] == "refuse")
        if ok and note["expect"] == "tensors":
            source = note.get("same_as", name)
            want = {k[len(source) + 1:]: v for k, v in stored.items() if k.startswith(source + ":")}
            shapes = {k: tuple(v[1]) for k, v in notes[source]["tensors"].items()}
            ok = set(want) == set(got) == set(shapes) and all(
                shapes[k] == got[k].shape and np.array_equal(
                    want[k].reshape(shapes[k]), got[k].astype(want[k].dtype), equal_nan=want[k].dtype.kind == "f")
                for k in want)
        wrong += not ok
        print(f"{'ok  ' if ok else 'WRONG'} {name}: {note['expect']}; {result}")
    print(f"{len(notes)} files, {wrong} wrong")
    return wrong


if __name__ == "__main__":
    sys.exit(1 if main(sys.argv[1]) else 0)
