"""Which operation has which rule."""

from collections.abc import Callable
from typing import Any

from pluriform.graph.ops import Op
from pluriform.infinite.plan import Step
from pluriform.infinite.translation.joins import concat_step, join_step
from pluriform.infinite.translation.layers import attention_step, conv_step, linear_step, transposed_step
from pluriform.infinite.translation.nonlinear import activation_step, dropout_step, identity_step
from pluriform.infinite.translation.norms import batch_norm_step, group_norm_step, layer_norm_step
from pluriform.infinite.translation.place import WEIGHTED, Place
from pluriform.infinite.translation.pools import adaptive_step, avg_pool_step, reduction_step, upsample_step
from pluriform.infinite.translation.shapes import pad_step, permute_step, reshape_step, roll_step, slice_step
from pluriform.infinite.translation.splits import glu_step, item_step, split_step

__all__ = ["Place", "RULES", "WEIGHTED"]

RULES: dict[Op, Callable[[Place, Any], Step]] = {
    Op.LINEAR: linear_step,
    Op.CONV: conv_step,
    Op.CONV_TRANSPOSE: transposed_step,
    Op.ACTIVATION: activation_step,
    Op.IDENTITY: identity_step,
    Op.DROPOUT: dropout_step,
    Op.BATCH_NORM: batch_norm_step,
    Op.LAYER_NORM: layer_norm_step,
    Op.RMS_NORM: layer_norm_step,
    Op.GROUP_NORM: group_norm_step,
    Op.AVG_POOL: avg_pool_step,
    Op.ADAPTIVE_AVG_POOL: adaptive_step,
    Op.UPSAMPLE: upsample_step,
    Op.MEAN: reduction_step,
    Op.SUM: reduction_step,
    Op.FLATTEN: reshape_step,
    Op.RESHAPE: reshape_step,
    Op.SLICE: slice_step,
    Op.SPLIT: split_step,
    Op.ITEM: item_step,
    Op.GLU: glu_step,
    Op.ROLL: roll_step,
    Op.PAD: pad_step,
    Op.PERMUTE: permute_step,
    Op.ADD: join_step,
    Op.SUBTRACT: join_step,
    Op.MULTIPLY: join_step,
    Op.DIVIDE: join_step,
    Op.CONCAT: concat_step,
    Op.OPAQUE: attention_step,
}
