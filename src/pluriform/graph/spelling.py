"""The spellings of every operation: `torch.nn` modules, functions and tensor methods, with their arguments' names."""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from pluriform.graph.ops import Op

__all__ = ["Spelling", "function_spelling", "is_known_module", "method_spelling", "module_spelling"]


@dataclass(frozen=True)
class Spelling:
    """One way to write an operation.

    Attributes:
        op: The operation.
        arguments: Names of the arguments in order, tensors first; a default stands behind `=`.
        fixed: Attributes that this spelling implies.
    """

    op: Op
    arguments: tuple[str, ...] = ()
    fixed: Mapping[str, Any] = field(default_factory=dict)

    def bind(self, args: tuple, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments by name."""
        bound = dict(zip(self.arguments, args, strict=False))
        if len(args) > len(self.arguments) and self.arguments:
            bound[self.arguments[-1]] = args[len(self.arguments) - 1 :]
        return {**bound, **kwargs, **self.fixed}


WITHOUT_MODULE = """
erf erfc sin cos tan sinh cosh asin acos atan asinh acosh atanh exp exp2 expm1 log log2 log10 log1p sqrt rsqrt
abs neg sign square reciprocal floor ceil round trunc frac sinc logit positive
"""

# Activations: name in torch.nn.functional (or torch), arguments behind the input, module class.
ACTIVATIONS: dict[str, tuple[str, type[nn.Module] | None]] = {
    "relu": ("inplace", nn.ReLU),
    "relu6": ("inplace", nn.ReLU6),
    "leaky_relu": ("negative_slope inplace", nn.LeakyReLU),
    "prelu": ("weight", nn.PReLU),
    "rrelu": ("lower upper training inplace", nn.RReLU),
    "elu": ("alpha inplace", nn.ELU),
    "selu": ("inplace", nn.SELU),
    "celu": ("alpha inplace", nn.CELU),
    "gelu": ("approximate", nn.GELU),
    "silu": ("inplace", nn.SiLU),
    "mish": ("inplace", nn.Mish),
    "softplus": ("beta threshold", nn.Softplus),
    "softsign": ("", nn.Softsign),
    "sigmoid": ("", nn.Sigmoid),
    "logsigmoid": ("", nn.LogSigmoid),
    "hardsigmoid": ("inplace", nn.Hardsigmoid),
    "hardswish": ("inplace", nn.Hardswish),
    "hardtanh": ("min_val max_val inplace", nn.Hardtanh),
    "hardshrink": ("lambd", nn.Hardshrink),
    "softshrink": ("lambd", nn.Softshrink),
    "tanh": ("", nn.Tanh),
    "tanhshrink": ("", nn.Tanhshrink),
    "threshold": ("threshold value inplace", nn.Threshold),
    **dict.fromkeys(WITHOUT_MODULE.split(), ("", None)),
    "clamp": ("min max", None),
    "pow": ("exponent", None),
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "leaky_relu": {"negative_slope": 0.01},
    "rrelu": {"lower": 1 / 8, "upper": 1 / 3},
    "elu": {"alpha": 1.0},
    "celu": {"alpha": 1.0},
    "gelu": {"approximate": "none"},
    "softplus": {"beta": 1.0, "threshold": 20.0},
    "hardtanh": {"min_val": -1.0, "max_val": 1.0},
    "hardshrink": {"lambd": 0.5},
    "softshrink": {"lambd": 0.5},
    "clamp": {"min": None, "max": None},
}
ALIASES = {"absolute": "abs", "negative": "neg", "clip": "clamp", "arctan": "atan", "sgn": "sign", "expit": "sigmoid"}

CONV = "input weight bias stride padding dilation groups"
CONV_TRANSPOSE = "input weight bias stride padding output_padding groups dilation"
MAX_POOL = "input kernel_size stride padding dilation ceil_mode return_indices"
AVG_POOL = "input kernel_size stride padding ceil_mode count_include_pad divisor_override"

# (operation, argument names, functions, methods, modules)
TABLE: list[tuple[Op, str, list[Any], str, list[type]]] = [
    (Op.LINEAR, "input weight bias", [F.linear], "", [nn.Linear, nn.modules.linear.NonDynamicallyQuantizableLinear]),
    (Op.BILINEAR, "input1 input2 weight bias", [F.bilinear], "", [nn.Bilinear]),
    (Op.CONV, CONV, [F.conv1d, F.conv2d, F.conv3d], "", [nn.Conv1d, nn.Conv2d, nn.Conv3d]),
    (
        Op.CONV_TRANSPOSE,
        CONV_TRANSPOSE,
        [F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d],
        "",
        [nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d],
    ),
    (
        Op.BATCH_NORM,
        "input running_mean running_var weight bias training momentum eps",
        [F.batch_norm],
        "",
        [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm],
    ),
    (Op.LAYER_NORM, "input normalized_shape weight bias eps", [F.layer_norm], "", [nn.LayerNorm]),
    (Op.GROUP_NORM, "input num_groups weight bias eps", [F.group_norm], "", [nn.GroupNorm]),
    (
        Op.INSTANCE_NORM,
        "input running_mean running_var weight bias use_input_stats momentum eps",
        [F.instance_norm],
        "",
        [nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d],
    ),
    (Op.RMS_NORM, "input normalized_shape weight eps", [F.rms_norm, torch.rms_norm], "", [nn.RMSNorm]),
    (Op.LOCAL_RESPONSE_NORM, "input size alpha beta k", [F.local_response_norm], "", [nn.LocalResponseNorm]),
    (Op.NORMALIZE, "input p dim eps", [F.normalize], "", []),
    (Op.GLU, "input dim", [F.glu], "", [nn.GLU]),
    (
        Op.MAX_POOL,
        MAX_POOL,
        [F.max_pool1d, F.max_pool2d, F.max_pool3d, torch.max_pool1d, torch.max_pool2d, torch.max_pool3d],
        "",
        [nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d],
    ),
    (Op.AVG_POOL, AVG_POOL, [F.avg_pool1d, F.avg_pool2d, F.avg_pool3d], "", [nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d]),
    (
        Op.LP_POOL,
        "input norm_type kernel_size stride ceil_mode",
        [F.lp_pool1d, F.lp_pool2d],
        "",
        [nn.LPPool1d, nn.LPPool2d],
    ),
    (
        Op.ADAPTIVE_AVG_POOL,
        "input output_size",
        [F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d],
        "",
        [nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d],
    ),
    (
        Op.ADAPTIVE_MAX_POOL,
        "input output_size return_indices",
        [F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d],
        "",
        [nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d],
    ),
    (Op.MEAN, "input dim keepdim", [torch.mean], "mean", []),
    (Op.SUM, "input dim keepdim", [torch.sum], "sum", []),
    (Op.MAX, "input dim keepdim", [torch.amax], "amax", []),
    (Op.FLATTEN, "input start_dim end_dim", [torch.flatten], "flatten", [nn.Flatten]),
    (Op.RESHAPE, "input shape", [torch.reshape], "view reshape view_as reshape_as", []),
    (Op.RESHAPE, "input dim sizes", [torch.unflatten], "unflatten", [nn.Unflatten]),
    (Op.RESHAPE, "input dim", [torch.squeeze, torch.unsqueeze], "squeeze unsqueeze", []),
    (Op.PERMUTE, "input dims", [torch.permute], "permute", []),
    (Op.PERMUTE, "input dim0 dim1", [torch.transpose, torch.swapaxes], "transpose swapaxes t", []),
    (Op.PERMUTE, "input source destination", [torch.movedim, torch.moveaxis], "movedim moveaxis", []),
    (Op.EXPAND, "input sizes", [], "expand expand_as", []),
    (Op.PAD, "input pad mode value", [F.pad], "", []),
    (
        Op.UPSAMPLE,
        "input size scale_factor mode align_corners recompute_scale_factor antialias",
        [F.interpolate, F.upsample],
        "",
        [nn.Upsample, nn.UpsamplingBilinear2d, nn.UpsamplingNearest2d],
    ),
    (Op.PIXEL_SHUFFLE, "input upscale_factor", [F.pixel_shuffle], "", [nn.PixelShuffle]),
    (Op.CHANNEL_SHUFFLE, "input groups", [F.channel_shuffle], "", [nn.ChannelShuffle]),
    (Op.UNFOLD, "input kernel_size dilation padding stride", [F.unfold], "", [nn.Unfold]),
    (Op.FOLD, "input output_size kernel_size dilation padding stride", [F.fold], "", [nn.Fold]),
    (Op.ADD, "input other", [torch.add, operator.add, operator.iadd], "add add_", []),
    (Op.SUBTRACT, "input other", [torch.sub, torch.subtract, operator.sub, operator.isub], "sub sub_ subtract", []),
    (Op.MULTIPLY, "input other", [torch.mul, torch.multiply, operator.mul, operator.imul], "mul mul_ multiply", []),
    (Op.DIVIDE, "input other", [torch.div, torch.divide, operator.truediv, operator.itruediv], "div div_ divide", []),
    (Op.MATMUL, "input other", [torch.matmul, torch.bmm, torch.mm, operator.matmul], "matmul bmm mm", []),
    (Op.EINSUM, "equation operands", [torch.einsum], "", []),
    (Op.CONCAT, "tensors dim", [torch.cat, torch.concat, torch.concatenate], "", []),
    (Op.STACK, "tensors dim", [torch.stack], "", []),
    (Op.SLICE, "input index", [operator.getitem], "", []),
    (Op.SLICE, "input dim start length", [torch.narrow], "narrow", []),
    (Op.SLICE, "input dim index", [torch.select, torch.index_select], "select index_select", []),
    (Op.SPLIT, "input size dim", [torch.chunk, torch.split, torch.tensor_split], "chunk split tensor_split", []),
    (Op.SPLIT, "input dim", [torch.unbind], "unbind", []),
    (Op.ROLL, "input shifts dims", [torch.roll], "roll", []),
    (
        Op.DROPOUT,
        "input p training inplace",
        [F.dropout, F.dropout1d, F.dropout2d, F.dropout3d],
        "",
        [nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d],
    ),
    (Op.IDENTITY, "input", [], "contiguous clone detach to float double requires_grad_ type_as", [nn.Identity]),
    (Op.EMBEDDING, "input weight padding_idx", [F.embedding], "", [nn.Embedding]),
    (
        Op.ATTENTION,
        "query key value attn_mask dropout_p is_causal scale",
        [F.scaled_dot_product_attention],
        "",
        [nn.MultiheadAttention],
    ),
]
PAD_MODULES = [
    getattr(nn, f"{kind}Pad{n}d") for kind in ("Zero", "Constant", "Reflection", "Replication") for n in (1, 2, 3)
]
PAD_MODULES += [getattr(nn, f"CircularPad{n}d") for n in (1, 2, 3)]
ALPHA_DROPOUT = {F.alpha_dropout: nn.AlphaDropout, F.feature_alpha_dropout: nn.FeatureAlphaDropout}
SOFTMAX = {"softmax": nn.Softmax, "log_softmax": nn.LogSoftmax, "softmin": nn.Softmin}
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.Transformer, nn.TransformerEncoder, nn.TransformerDecoder)
LAYERS = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)


def _activation_spellings() -> tuple[dict[Any, Spelling], dict[str, Spelling], dict[type, Spelling]]:
    functions: dict[Any, Spelling] = {operator.neg: Spelling(Op.ACTIVATION, ("input",), {"function": "neg"})}
    functions |= {operator.abs: Spelling(Op.ACTIVATION, ("input",), {"function": "abs"})}
    functions |= {operator.pow: Spelling(Op.ACTIVATION, ("input", "exponent"), {"function": "pow"})}
    methods: dict[str, Spelling] = {}
    modules: dict[type, Spelling] = {}
    for alias, name in [*((name, name) for name in ACTIVATIONS), *ALIASES.items()]:
        arguments, module = ACTIVATIONS[name]
        spelling = Spelling(Op.ACTIVATION, ("input", *arguments.split()), {"function": name})
        for place in (F, torch, torch.special):
            for written in (alias, f"{alias}_"):
                if callable(getattr(place, written, None)):
                    functions[getattr(place, written)] = spelling
        for written in (alias, f"{alias}_"):
            if hasattr(torch.Tensor, written):
                methods[written] = spelling
        if module is not None:
            modules[module] = spelling
    return functions, methods, modules


FUNCTIONS, METHODS, MODULES = _activation_spellings()
for _op, _arguments, _functions, _methods, _modules in TABLE:
    _spelling = Spelling(_op, tuple(_arguments.split()))
    FUNCTIONS.update(dict.fromkeys(_functions, _spelling))
    METHODS.update(dict.fromkeys(_methods.split(), _spelling))
    MODULES.update(dict.fromkeys(_modules, _spelling))
for _name, _module in SOFTMAX.items():
    _spelling = Spelling(Op.SOFTMAX, ("input", "dim"), {"function": _name})
    MODULES[_module] = _spelling
    FUNCTIONS[getattr(F, _name)] = _spelling
    if hasattr(torch, _name):
        FUNCTIONS[getattr(torch, _name)] = METHODS[_name] = _spelling
for _function, _module in ALPHA_DROPOUT.items():
    FUNCTIONS[_function] = MODULES[_module] = Spelling(
        Op.DROPOUT, ("input", "p", "training", "inplace"), {"alpha": True}
    )
MODULES.update(dict.fromkeys(PAD_MODULES, Spelling(Op.PAD)))
MODULES[nn.Softmax2d] = Spelling(Op.SOFTMAX, ("input",), {"function": "softmax", "dim": -3})
METHODS["__getitem__"] = FUNCTIONS[operator.getitem]


def function_spelling(function: Callable) -> Spelling | None:
    """The spelling of a function, or `None` where it is none of ours."""
    return FUNCTIONS.get(function)


def method_spelling(name: str) -> Spelling | None:
    """The spelling of a tensor method."""
    return METHODS.get(name)


def module_spelling(module: nn.Module) -> Spelling | None:
    """The spelling of a module; a subclass counts where it has not changed `forward`."""
    for cls in type(module).__mro__:
        if cls in MODULES:
            return MODULES[cls] if type(module).forward is cls.forward else None
    return None


def is_known_module(module: nn.Module) -> bool:
    """Whether the module is one node.

    Spelled here; one of torch's own that is neither container nor layer stack; or of a class with `one_node = True`.
    """
    if module_spelling(module) is not None or getattr(type(module), "one_node", False):
        return True
    return type(module).__module__.startswith("torch.nn") and not isinstance(module, (*CONTAINERS, *LAYERS))
