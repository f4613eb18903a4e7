"""Scaled dot-product attention."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from converter.graph.twin.table import operator
from converter.graph.twin.values import Flag


@operator("Attention", softcap=0)
def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    *,
    is_causal: Flag = 0,
    kv_num_heads: int | None = None,
    q_num_heads: int | None = None,
    scale: float | None = None,
    outputs: Literal[1, 3] = 1,
) -> Tensor | tuple[Tensor, Tensor, Tensor]:
    flat = query.ndim == 3
    query, key = _split_heads(query, q_num_heads), _split_heads(key, kv_num_heads)
    value, past = _split_heads(value, kv_num_heads), 0
    if past_key is not None and past_value is not None:
        past = past_key.shape[2]
        key, value = torch.cat((past_key, key), 2), torch.cat((past_value, value), 2)
    if mask is not None and mask.shape[-1] < key.shape[2]:  # what it doesn't reach is hidden
        hidden = False if mask.dtype == torch.bool else -torch.inf
        mask = F.pad(mask, (0, key.shape[2] - mask.shape[-1]), value=hidden)
    if is_causal:
        seen = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).tril(past)
        if mask is None or mask.dtype == torch.bool:
            mask = seen if mask is None else mask & seen
        else:
            mask = mask.masked_fill(~seen, -torch.inf)
    groups = query.shape[1] // key.shape[1]
    keys, values = (x.repeat_interleave(groups, 1) if groups > 1 else x for x in (key, value))
    result = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=scale)
    result = result.transpose(1, 2).flatten(2) if flat else result
    return result if outputs == 1 else (result, key, value)


def _split_heads(x: Tensor, heads: int | None) -> Tensor:
    if x.ndim == 4 or heads is None:
        return x
    split: Tensor = x.unflatten(2, (heads, -1)).transpose(1, 2)
    return split
