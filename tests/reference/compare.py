"""Compares two fixtures: names, shapes, types and metadata must be equal, whole numbers too, and other values within a
tolerance. Results in double differ from one version or build of PyTorch to another, since sums have another order."""
import numpy as np
import safetensors_io as st

TOLERANCE = 1e-8                                              # of the largest value, or of 0.01 if all are smaller
# What is added in states and their digests: Adam's steps along gradients that are zero but for rounding
# (docs/method.md, 6.2).
ROUNDING = 1e-7
VERSIONS = {"torch", "pillow"}                                # metadata that may differ


def off(name, made, stored):
    """How far apart the values are, in units of what is allowed."""
    if not np.issubdtype(stored.dtype, np.floating):
        return 0.0 if np.array_equal(made, stored) else np.inf
    finite = np.isfinite(stored)
    if not np.array_equal(made[~finite], stored[~finite], equal_nan=True) or not np.isfinite(made[finite]).all():
        return np.inf
    if not finite.any():
        return 0.0
    x, y = (np.where(finite, v.astype(np.float64), 0) for v in (made, stored))
    largest = np.abs(y).max(axis=-1 if name.endswith("digest") else None, keepdims=True)      # of each tensor's digest
    allowed = (TOLERANCE + (1e-7 if stored.dtype == np.float32 else 0)) * np.maximum(largest, 1e-2)
    if name.startswith("after.") or name.endswith(("after_digest", "end_digest")):
        allowed += ROUNDING
    return (np.abs(x - y) / allowed).max()


def differences(made, stored):
    """(what is wrong, the largest difference in words) of two files."""
    (a, meta_a), (b, meta_b) = st.load(made), st.load(stored)
    faults = [f"{k} is in one of them only" for k in sorted(a.keys() ^ b.keys())]
    faults += [f"metadata {k}: {meta_a.get(k)!r}, stored {meta_b.get(k)!r}"
               for k in sorted((meta_a.keys() | meta_b.keys()) - VERSIONS) if meta_a.get(k) != meta_b.get(k)]
    worst, where = 0.0, ""
    for k in a.keys() & b.keys():
        if a[k].shape != b[k].shape or a[k].dtype != b[k].dtype:
            faults.append(f"{k} is {a[k].dtype}{list(a[k].shape)}, stored {b[k].dtype}{list(b[k].shape)}")
            continue
        distance = off(k, a[k], b[k])
        if distance > worst:
            worst, where = distance, k
        if distance > 1:
            faults.append(f"{k} is off by {distance:.3g} times what is allowed")
    return faults, f"at most {worst:.2g} of what is allowed, in {where}" if worst > 0 else "to the bit"
