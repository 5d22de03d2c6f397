"""The facts of an operation, the same for every spelling: per-axis tuples, positive axes, explicit padding."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pluriform.graph.ops import Op
from pluriform.graph.spelling import DEFAULTS, Spelling

__all__ = ["Meaning", "module_facts", "normalise"]

Meaning = tuple[Op, dict[str, Any]]
PLAIN = (bool, int, float, str, type(None))
NOT_FACTS = ("inplace", "training", "num_batches_tracked")


def module_facts(module: nn.Module, spelling: Spelling) -> dict[str, Any]:
    """Public plain attributes of a module, named as in `torch.nn`."""
    facts = {name: value for name, value in vars(module).items() if not name.startswith("_") and _plain(value)}
    facts.update(dict(module.named_parameters(recurse=False)))
    facts.update(_computed_weights(module))
    facts.update(spelling.fixed)
    facts["training"] = module.training
    if spelling.op is Op.PAD:
        facts.update(pad=facts.pop("padding"), mode=_pad_mode(module), value=facts.get("value", 0.0))
    return facts


def _computed_weights(module: nn.Module) -> dict[str, Tensor]:
    """Weights that a parametrization computes; on copies, since spectral norm counts its calls."""
    if not parametrize.is_parametrized(module):
        return {}
    with torch.no_grad():
        copies = copy.deepcopy(dict(module.get_submodule("parametrizations").named_children()))
        return {name: computed() for name, computed in copies.items()}


def normalise(spelling: Spelling, raw: Mapping[str, Any], output: Any, first: Any) -> Meaning:
    """Operation and attributes.

    Args:
        spelling: How it was written.
        raw: Arguments or module attributes by name, with example values for tensors.
        output: Example value of the result.
        first: Example value of the first tensor it reads.
    """
    rule = RULES.get(spelling.op, lambda op, raw, *_: (op, dict(raw)))
    op, facts = rule(spelling.op, dict(raw), output, first)
    return op, {
        name: value
        for name, value in facts.items()
        if (_plain(value) and name not in NOT_FACTS) or name == "batch_statistics"
    }


def _plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(_plain(item) for item in value)
    return isinstance(value, (*PLAIN, slice)) or value is Ellipsis


def _pad_mode(module: nn.Module) -> str:
    name = type(module).__name__
    kinds = {"Reflection": "reflect", "Replication": "replicate", "Circular": "circular"}
    return next((mode for kind, mode in kinds.items() if name.startswith(kind)), "constant")


def _per_axis(value: Any, axes: int) -> tuple:
    if isinstance(value, tuple | list):
        return tuple(value) if len(value) == axes else tuple(value) * axes
    return (value,) * axes


def _axis(dim: int, tensor: Tensor) -> int:
    return int(dim) % tensor.dim() if tensor.dim() else 0


def _axes(dim: Any, tensor: Tensor) -> tuple[int, ...]:
    if dim is None or (isinstance(dim, tuple | list) and not dim):
        return tuple(range(tensor.dim()))
    return tuple(sorted(_axis(axis, tensor) for axis in (dim if isinstance(dim, tuple | list) else (dim,))))


def _padding(padding: Any, kernel: tuple, dilation: tuple) -> tuple[tuple[int, int], ...]:
    if padding == "valid":
        return ((0, 0),) * len(kernel)
    if padding == "same":
        total = [spread * (size - 1) for size, spread in zip(kernel, dilation, strict=True)]
        return tuple((whole // 2, whole - whole // 2) for whole in total)
    return tuple((side, side) for side in _per_axis(padding, len(kernel)))


def _linear(op: Op, raw: dict, output: Any, first: Any) -> Meaning:
    weight = raw["weight"]
    return op, {"in_features": weight.shape[1], "out_features": weight.shape[0], "bias": raw.get("bias") is not None}


def _conv(op: Op, raw: dict, output: Any, first: Any) -> Meaning:
    weight: Tensor = raw["weight"]
    kernel = tuple(weight.shape[2:])
    axes, groups = len(kernel), raw.get("groups", 1)
    dilation = _per_axis(raw.get("dilation", 1), axes)
    wide, narrow = weight.shape[0], weight.shape[1] * groups
    facts = {
        "in_channels": narrow if op is Op.CONV else wide,
        "out_channels": wide if op is Op.CONV else narrow,
        "kernel_size": kernel,
        "stride": _per_axis(raw.get("stride", 1), axes),
        "padding": _padding(raw.get("padding", 0), kernel, dilation),
        "dilation": dilation,
        "groups": groups,
        "padding_mode": raw.get("padding_mode", "zeros"),
        "bias": raw.get("bias") is not None,
    }
    if op is Op.CONV_TRANSPOSE:
        facts["output_padding"] = _per_axis(raw.get("output_padding", 0), axes)
    return op, facts


def _batch_norm(op: Op, raw: dict, output: Any, first: Any) -> Meaning:
    tracked = raw.get("track_running_stats", raw.get("running_mean") is not None)
    running = raw.get("use_input_stats", raw.get("training", False)) if op is Op.BATCH_NORM else not tracked
    return op, {
        "num_features": first.shape[1],
        "eps": raw.get("eps", 1e-5),
        "momentum": raw.get("momentum", 0.1),
        "affine": raw.get("weight") is not None,
        "track_running_stats": tracked,
        "batch_statistics": bool(running or not tracked),
    }


def _layer_norm(op: Op, raw: dict, output: Any, first: Any) -> Meaning:
    shape = raw["normalized_shape"]
    return op, {
        "normalized_shape": tuple(shape) if isinstance(shape, tuple | list) else (shape,),
        "eps": raw.get("eps", 1e-5 if op is Op.LAYER_NORM else None),
        "elementwise_affine": raw.get("weight") is not None,
        "bias": raw.get("bias") is not None,
    }


def _group_norm(op: Op, raw: dict, output: Any, first: Any) -> Meaning:
    affine = raw.get("weight") is not None
    return op, {
        "num_groups": raw["num_groups"],
        "num_channels": first.shape[1],
        "eps": raw.get("eps", 1e-5),
        "affine": affine,
    }


def _activation(op: Op, raw: dict, output: Any, first: Any) -> Meaning:
    name = raw["function"]
    known = {
        **DEFAULTS.get(name, {}),
        **{key: value for key, value in raw.items() if key not in ("input", "weight", "init")},
    }
    if name == "prelu":
        known["num_parameters"] = raw["weight"].numel()
    if name == "pow" and isinstance(raw.get("input"), int | float):
        known["base"] = raw["input"]
    return op, known


def _pool(op: Op, raw: dict, output: Any, first: Any) -> Meaning:
    axes = first.dim() - 2
    kernel = _per_axis(raw["kernel_size"], axes)
    stride = raw.get("stride")
    facts = {
        "kernel_size": kernel,
        "stride": kernel if stride is None or stride == () else _per_axis(stride, axes),
        "padding": _padding(raw.get("padding", 0), kernel, (1,) * axes),
        "ceil_mode": bool(raw.get("ceil_mode", False)),
    }
    if op is Op.MAX_POOL:
        facts["dilation"] = _per_axis(raw.get("dilation", 1), axes)
    if op is Op.AVG_POOL:
        facts["count_include_pad"] = raw.get("count_include_pad", True)
        facts["divisor_override"] = raw.get("divisor_override")
    if op is Op.LP_POOL:
        facts["norm_type"] = raw["norm_type"]
    return op, facts


def _adaptive(op: Op, raw: dict, output: Any, first: Any) -> Meaning:
    result = output[0] if isinstance(output, tuple) else output
    return op, {"output_size": tuple(result.shape[2:])}


def _reduce(op: Op, raw: dict, output: Any, first: Any) -> Meaning:
    return op, {"dim": _axes(raw.get("dim"), first), "keepdim": bool(raw.get("keepdim", False))}


def _flatten(op: Op, raw: dict, output: Any, first: Any) -> Meaning:
    start, end = raw.get("start_dim", 0), raw.get("end_dim", -1)
    return op, {"start_dim": _axis(start, first), "end_dim": _axis(end, first)}


def _reshape(op: Op, raw: dict, output: Any, first: Any) -> Meaning:
    before, after = tuple(first.shape), tuple(output.shape)
    if before == after:
        return Op.IDENTITY, {}
    if len(before) > 2 and len(after) == 2 and before[0] == after[0]:
        return Op.FLATTEN, {"start_dim": 1, "end_dim": len(before) - 1}
    return op, {"shape": after}


def _permute(op: Op, raw: dict, output: Any, first: Any) -> Meaning:
    order = list(range(first.dim()))
    if "dims" in raw:
        given = raw["dims"]
        given = given[0] if len(given) == 1 and isinstance(given[0], tuple | list) else given
        order = [_axis(axis, first) for axis in given]
    elif "source" in raw:
        source = [_axis(axis, first) for axis in _tuple(raw["source"])]
        target = [_axis(axis, first) for axis in _tuple(raw["destination"])]
        order = [axis for axis in order if axis not in source]
        for place, axis in sorted(zip(target, source, strict=True)):
            order.insert(place, axis)
    else:
        one, two = _axis(raw.get("dim0", 0), first), _axis(raw.get("dim1", 1), first)
        order[one], order[two] = order[two], order[one]
    return op, {"dims": tuple(order)}


def _tuple(value: Any) -> tuple:
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def _pad(op: Op, raw: dict, output: Any, first: Any) -> Meaning:
    flat = tuple(raw["pad"]) if isinstance(raw["pad"], tuple | list) else (raw["pad"],) * 2 * (first.dim() - 2)
    pairs = tuple((flat[place], flat[place + 1]) for place in range(len(flat) - 2, -1, -2))
    return op, {"padding": pairs, "mode": raw.get("mode", "constant"), "value": raw.get("value") or 0.0}


def _binary(op: Op, raw: dict, output: Any, first: Any) -> Meaning:
    left, right = raw["input"], raw["other"]
    facts = {key: raw[key] for key in ("alpha", "rounding_mode") if raw.get(key) not in (None, 1)}
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return op, facts
    if isinstance(left, Tensor) and op is Op.SUBTRACT and not facts:
        return Op.ADD, {"scalar": -right}
    if isinstance(left, Tensor) and op is Op.DIVIDE and right != 0 and not facts:
        return Op.MULTIPLY, {"scalar": 1 / right}
    scalar = right if isinstance(left, Tensor) else left
    facts |= {"reversed": True} if op in (Op.SUBTRACT, Op.DIVIDE) else {}
    return op, {"scalar": scalar, **facts}


def _joined(op: Op, raw: dict, output: Any, first: Any) -> Meaning:
    return op, {"dim": _axis(raw.get("dim", 0), output)}


def _slice(op: Op, raw: dict, output: Any, first: Any) -> Meaning:
    if not isinstance(raw["input"], Tensor):
        return Op.ITEM, {"index": raw["index"]}
    return op, {name: value for name, value in raw.items() if name != "input"}


def _split(op: Op, raw: dict, output: Any, first: Any) -> Meaning:
    dim = _axis(raw.get("dim", 0), first)
    lengths = tuple(part.shape[dim] if part.dim() == first.dim() else 1 for part in output)
    return op, {"dim": dim, "lengths": lengths, "unbind": output[0].dim() < first.dim()}


def _softmax(op: Op, raw: dict, output: Any, first: Any) -> Meaning:
    dim = raw.get("dim")
    return op, {"function": raw["function"], "dim": _axis(1 if dim is None else dim, first)}


def _dropout(op: Op, raw: dict, output: Any, first: Any) -> Meaning:
    alpha = {"alpha": True} if raw.get("alpha") else {}  # Units are set to a negative value.
    return op, {"p": raw.get("p", 0.5), "active": bool(raw.get("training", True)), **alpha}


def _upsample(op: Op, raw: dict, output: Any, first: Any) -> Meaning:
    return op, {
        "size": tuple(output.shape[2:]),
        "mode": raw.get("mode", "nearest"),
        "scale_factor": None if raw.get("recompute_scale_factor") else raw.get("scale_factor"),
        "align_corners": raw.get("align_corners"),
        **({"antialias": True} if raw.get("antialias") else {}),
    }


def _embedding(op: Op, raw: dict, output: Any, first: Any) -> Meaning:
    count, width = raw["weight"].shape
    return op, {"num_embeddings": count, "embedding_dim": width, "padding_idx": raw.get("padding_idx")}


def _same_or_opaque(op: Op, raw: dict, output: Any, first: Any) -> Meaning:
    return op, {}


RULES: dict[Op, Callable[[Op, dict, Any, Any], Meaning]] = {
    Op.LINEAR: _linear,
    Op.CONV: _conv,
    Op.CONV_TRANSPOSE: _conv,
    Op.BATCH_NORM: _batch_norm,
    Op.INSTANCE_NORM: _batch_norm,
    Op.LAYER_NORM: _layer_norm,
    Op.RMS_NORM: _layer_norm,
    Op.GROUP_NORM: _group_norm,
    Op.ACTIVATION: _activation,
    Op.MAX_POOL: _pool,
    Op.AVG_POOL: _pool,
    Op.LP_POOL: _pool,
    Op.ADAPTIVE_AVG_POOL: _adaptive,
    Op.ADAPTIVE_MAX_POOL: _adaptive,
    Op.MEAN: _reduce,
    Op.SUM: _reduce,
    Op.MAX: _reduce,
    Op.FLATTEN: _flatten,
    Op.RESHAPE: _reshape,
    Op.PERMUTE: _permute,
    Op.PAD: _pad,
    Op.ADD: _binary,
    Op.SUBTRACT: _binary,
    Op.MULTIPLY: _binary,
    Op.DIVIDE: _binary,
    Op.CONCAT: _joined,
    Op.STACK: _joined,
    Op.SLICE: _slice,
    Op.SPLIT: _split,
    Op.SOFTMAX: _softmax,
    Op.DROPOUT: _dropout,
    Op.UPSAMPLE: _upsample,
    Op.EMBEDDING: _embedding,
    Op.IDENTITY: _same_or_opaque,
}
