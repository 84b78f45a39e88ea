"""What a disk may hold after a power loss, by the calls that changed files.

Before a file's fsync returns, any of its writes may be on the disk, and of a write any of its blocks. Before a folder's
fsync returns, any of its changes may be: files and folders made, renamed and removed, but none before an earlier change
of the same names."""

import itertools
import os

from injection import check

BLOCK = 4096


class File:
    """`content` is what the file holds after its last write; it is known when the run has ended."""

    def __init__(self):
        self.writes, self.synced, self.size, self.content = [], 0, 0, None

    def state(self):
        """The file now: how many of its writes are on the disk for certain, and how many may be."""
        return self, self.synced, len(self.writes)


class Folder:
    """`names` is what processes see, `durable` what the disk holds; `pending` are the changes in between."""

    def __init__(self):
        self.names, self.durable, self.pending = {}, {}, []

    def change(self, changes):
        self.pending.append(changes)
        apply(self.names, changes)

    def sync(self):
        self.durable, self.pending = dict(self.names), []


def apply(names, changes):
    for name, node in changes.items():
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


class Disk:
    """Follows the calls of a run. A checkpoint counts as saved when its folder's fsync has returned, or the program
    writes something else."""

    def __init__(self, checkpoint):
        self.root, self.checkpoint = Folder(), checkpoint
        self.checkpoints, self.files, self.saved = [], [], 0

    def find(self, path):
        node = self.root
        for name in path.split("/") if path else []:
            node = node.names.get(name) if isinstance(node, Folder) else None
        return node

    def place(self, path):
        """The folder of a path, and the name in it."""
        return self.find(os.path.dirname(path)), os.path.basename(path)

    def follow(self, call):
        """True if the call changed what may be on the disk."""
        if call.result is None or call.result < 0:
            return False
        follow = getattr(self, "follow_" + call.name, None)
        return follow is not None and follow(call) is not False  # most return nothing

    def follow_openat(self, call):
        file = self.find(call.path)
        if "O_CREAT" not in call.text or isinstance(file, Folder):
            return False
        if file is not None:
            check("O_TRUNC" not in call.text or file.size == 0, f"{call.path} is emptied in place")
            return False
        folder, name = self.place(call.path)
        self.files.append(File())
        folder.change({name: self.files[-1]})

    def follow_write(self, call):
        self.saved = len(self.checkpoints)
        file = self.find(call.path)
        file.writes.append((file.size, file.size + call.result))
        file.size += call.result

    def follow_ftruncate(self, call):
        check(self.find(call.path).size == 0, f"{call.path} is cut in place")
        return False

    def follow_fsync(self, call):
        node = self.find(call.path)
        if isinstance(node, File):
            node.synced = len(node.writes)
            return
        node.sync()
        if call.path == os.path.dirname(self.checkpoint):
            self.saved = len(self.checkpoints)

    def follow_rename(self, call):
        folder, name = self.place(call.path)
        to, new_name = self.place(call.target)
        check(to is folder, f"{call.path} moves to another folder")
        if call.target == self.checkpoint:
            self.checkpoints.append(folder.names[name])
        folder.change({new_name: folder.names[name], name: None})

    def follow_unlink(self, call):
        folder, name = self.place(call.path)
        folder.change({name: None})

    def follow_mkdir(self, call):
        folder, name = self.place(call.path)
        folder.change({name: Folder()})

    def follow_pwrite64(self, call):
        check(False, f"{call.name} on {call.path} is not modelled")

    follow_writev = follow_renameat = follow_renameat2 = follow_unlinkat = follow_pwrite64
    follow_fdatasync = follow_fsync

    def end(self, checkpoints, folder):
        """What files hold: checkpoints in their order; others what is there at the end, or anything."""
        check(len(self.checkpoints) == len(checkpoints), f"{len(self.checkpoints)} saves, not {len(checkpoints)}")
        for file, content in zip(self.checkpoints, checkpoints):
            file.content = content
        for path, (file, _, _) in next(trees(self.root, latest=True)).items():
            if file.content is None:
                file.content = (folder / path).read_bytes()
        for file in self.files:
            if file.content is None:
                file.content = bytes(file.size)
            check(len(file.content) == file.size, f"{len(file.content)} bytes came by calls that write {file.size}")


def closed_subsets(pending):
    """Changes that may be on the disk together; only prefixes where there are very many."""
    if len(pending) > 12:
        yield from (pending[:count] for count in range(len(pending) + 1))
        return
    for chosen in itertools.product((False, True), repeat=len(pending)):
        earlier = [(set(pending[i]), chosen[i]) for i in range(len(pending))]
        if all(
            earlier[i][1] or not chosen[j] or not earlier[i][0] & earlier[j][0]
            for j in range(len(pending))
            for i in range(j)
        ):
            yield [change for change, there in zip(pending, chosen) if there]


def trees(folder, latest=False):
    """The names that may be on the disk, as {path: state of the file}; the latest are those that processes see."""
    for changes in [folder.pending] if latest else closed_subsets(folder.pending):
        names = dict(folder.durable)
        for change in changes:
            apply(names, change)
        below = []
        for name, node in names.items():
            if isinstance(node, File):
                below.append([{name: node.state()}])
            else:
                below.append([{f"{name}/{path}": one for path, one in tree.items()} for tree in trees(node, latest)])
        for parts in itertools.product(*below):
            yield {path: state for part in parts for path, state in part.items()}


def blocks(write):
    """The parts of a write that reach the disk as one."""
    first, last = write
    cuts = [first, *range((first // BLOCK + 1) * BLOCK, last, BLOCK), last]
    return list(zip(cuts, cuts[1:]))


def arrivals(pending, random):
    """Writes, or parts of them, that may have arrived: all subsets of few; of many none, all, all but one, the first,
    and some by chance. And one write torn."""
    if len(pending) <= 3:
        whole = [list(some) for count in range(len(pending) + 1) for some in itertools.combinations(pending, count)]
    else:
        at = random.randrange(len(pending))
        some = [write for write in pending if random.random() < 0.5]
        whole = [[], pending, pending[1:], pending[:-1], pending[:at] + pending[at + 1 :], pending[:at], some]
    yield from whole
    torn = [write for write in pending if len(blocks(write)) > 1]
    if torn:
        victim = random.choice(torn)
        parts = [part for part in blocks(victim) if random.random() < 0.5]
        yield [write for write in pending if write != victim] + parts


def contents_of(state, random):
    """What the file may hold on the disk; the holes of what has not arrived are zeros."""
    file, synced, total = state
    if synced == len(file.writes):
        yield file.content
        return
    for arrived in arrivals(file.writes[synced:total], random):
        there = file.writes[:synced] + arrived
        content = bytearray(max((last for _, last in there), default=0))
        for first, last in there:
            content[first:last] = file.content[first:last]
        yield bytes(content)
