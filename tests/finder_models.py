"""Small random models of the classes that find masks, in folders as the hub has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", "a", "the", "red", "blue", "circle", "square"]


def sam2(folder: Path, video: bool = True) -> Path:
    """A SAM 2 of 64 pixels; as a model of videos or of pictures."""
    backbone = {
        "model_type": "sam2_hiera_det_model",
        **{"hidden_size": 8, "image_size": [64, 64], "embed_dim_per_stage": [8, 16, 32, 64]},
        **{"blocks_per_stage": [1, 1, 2, 1], "num_attention_heads_per_stage": [1, 1, 1, 1]},
        **{"window_size_per_stage": [4, 4, 4, 2], "global_attention_blocks": [3]},
        "window_positional_embedding_background_size": [4, 4],
    }
    sizes = {"backbone_channel_list": [64, 32, 16, 8], "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]]}
    kind = "Sam2Video" if video else "Sam2"
    inside = {"hidden_size": 128, "mlp_dim": 16, "num_attention_heads": 2, "iou_head_hidden_dim": 16}
    own: dict[str, Any] = {
        "vision_config": {"backbone_config": backbone, "fpn_hidden_size": 128} | sizes,
        "prompt_encoder_config": {"hidden_size": 128, "image_size": 64, "mask_input_channels": 4},
        "mask_decoder_config": inside,
    }
    if video:
        own |= {"image_size": 64, "num_maskmem": 3, "memory_attention_hidden_size": 128}
        own |= {"memory_attention_num_layers": 1, "memory_attention_feed_forward_hidden_size": 16}
        own |= {
            "memory_encoder_hidden_size": 128,
            "memory_encoder_output_channels": 64,
            "mask_downsampler_embed_dim": 128,
        }
        own |= {"memory_attention_rope_feat_sizes": [4, 4], "memory_fuser_embed_dim": 128}
        own |= {"memory_fuser_intermediate_dim": 16, "memory_fuser_num_layers": 1}
    torch.manual_seed(0)
    made = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**own))
    made.save_pretrained(folder)
    return folder


def tokenizer() -> transformers.PreTrainedTokenizerFast:
    """A tokenizer of whole words."""
    made = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, "[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, mask_token="[MASK]", **names)


def owlv2(folder: Path) -> Path:
    """An OWLv2 of 64 pixels."""
    text = {"vocab_size": 20, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 2, "max_position_embeddings": 16, "bos_token_id": 2, "eos_token_id": 3}
    sight = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sight |= {"image_size": 64, "patch_size": 16}
    torch.manual_seed(0)
    config = transformers.Owlv2Config(text_config=text, vision_config=sight, projection_dim=16)
    made = transformers.Owlv2ForObjectDetection(config)
    for values in made.box_head.parameters():  # its boxes are those of the patches
        torch.nn.init.zeros_(values)
    made.save_pretrained(folder)
    words = tokenizer()
    words.model_max_length = 16
    pictures = transformers.Owlv2ImageProcessorPil(size={"height": 64, "width": 64})
    transformers.Owlv2Processor(pictures, words).save_pretrained(folder)
    return folder


def grounding_dino(folder: Path) -> Path:
    """A Grounding DINO with a small Swin and a small BERT."""
    text = {"model_type": "bert", "vocab_size": 20, "hidden_size": 16, "intermediate_size": 16}
    text |= {"num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 64}
    sight = {"model_type": "swin", "image_size": 64, "embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1]}
    sight |= {"window_size": 4, "out_indices": [2, 3, 4]}
    torch.manual_seed(0)
    config = transformers.GroundingDinoConfig(
        text_config=text,
        backbone_config=sight,
        **{"d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "num_queries": 12, "num_feature_levels": 4},
        **{"encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "encoder_attention_heads": 2, "decoder_attention_heads": 2},
        **{"max_text_len": 64, "disable_custom_kernels": True},
    )
    transformers.GroundingDinoForObjectDetection(config).save_pretrained(folder)
    pictures = transformers.GroundingDinoImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 96})
    transformers.GroundingDinoProcessor(pictures, tokenizer()).save_pretrained(folder)
    return folder
