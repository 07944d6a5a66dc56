"""The first public script's scheme, written out with diffusers' own parts, against the preset `seed`."""

import copy
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import CogVideoXAttnProcessor2_0
from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from cogvideo_core.diffusion import editing
from cogvideo_core.models.model import VideoModel
from cogvideo_core.settings.presets import PRESETS
from cogvideo_core.settings.specs import ModelSpec
from cogvideo_core.shapes import build
from cogvideo_core.study import flops

STEPS = 4


class ScriptAttention(CogVideoXAttnProcessor2_0):
    """Reference attention as first published: rows [edits | references], each edit also sees its own reference row."""

    def __call__(self, attn, hidden_states, encoder_hidden_states, attention_mask=None, image_rotary_emb=None):  # type: ignore[no-untyped-def,override]
        tokens, n = torch.cat([encoder_hidden_states, hidden_states], dim=1), encoder_hidden_states.shape[1]
        rows, length, _ = tokens.shape
        q, k, v = (
            f(tokens).view(rows, length, attn.heads, -1).transpose(1, 2) for f in (attn.to_q, attn.to_k, attn.to_v)
        )
        q, k = attn.norm_q(q), attn.norm_k(k)
        if image_rotary_emb is not None:
            for x in (q, k):
                x[:, :, n:] = apply_rotary_emb(x[:, :, n:], image_rotary_emb)
        (q, q_ref), (k, k_ref), (v, v_ref) = (x.chunk(2) for x in (q, k, v))
        edits = scaled_dot_product_attention(q, torch.cat([k, k_ref], dim=2), torch.cat([v, v_ref], dim=2))
        out = torch.cat([edits, scaled_dot_product_attention(q_ref, k_ref, v_ref)])
        out = attn.to_out[0](out.transpose(1, 2).reshape(rows, length, -1))
        return out[:, n:], out[:, :n]


@torch.inference_mode()
def script_edit(pipe: Any, x: Tensor, trajectory: Tensor, text: Tensor, scale: float) -> Tensor:
    """The first public script's loop with diffusers' own scheduler; x [1,f,C,h,w], text [uncond, cond]."""
    for block in pipe.transformer.transformer_blocks:
        block.attn1.set_processor(ScriptAttention())
    frames, height, width = x.shape[1], x.shape[3] * 4, x.shape[4] * 4
    rope = pipe.transformer.config.use_rotary_positional_embeddings
    tables = pipe._prepare_rotary_positional_embeddings(height, width, frames, x.device) if rope else None
    pipe.scheduler.set_timesteps(len(trajectory) - 1)
    for t, state in zip(pipe.scheduler.timesteps, reversed(trajectory), strict=False):
        rows = torch.cat([x, x, state[None], state[None]])
        v = pipe.transformer(rows, torch.cat([text, text]), t.expand(4), image_rotary_emb=tables).sample[:2]
        x = pipe.scheduler.step(v[:1] + scale * (v[1:] - v[:1]), t, x, return_dict=False)[0]
    return x


@pytest.mark.parametrize("variant", ["5b", "2b", "1.5-5b"])
def test_seed_preset_equals_an_implementation_of_its_own(variant: str) -> None:
    """Explicit start latents and trajectory: the script, spelled out with diffusers' scheduler, agrees within 1e-4."""
    model = VideoModel(build.build_pipeline(variant), ModelSpec())
    given, recipe, schedule = flops.given(model, 3, STEPS), PRESETS["seed"], model.schedule(STEPS)
    trajectory = torch.stack(given.trajectory)
    ours = editing.edited(model.velocity, given.x, given.texts, trajectory, schedule, recipe, model.layers)
    pipe = copy.deepcopy(model.pipe)
    for row in range(3):
        one = given.one(row)
        text = torch.cat([one.texts.uncond, one.texts.cond])
        theirs = script_edit(pipe, one.x, trajectory, text, recipe.guidance_scale)
        assert (ours[row] - theirs[0]).abs().max() < 1e-4
