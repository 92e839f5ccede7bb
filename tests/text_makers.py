"""Small text encoders with random weights in the layouts of the real ones: what a folder of weights looks like."""

import json
from pathlib import Path


def _t5(folder: Path, vocabulary: int) -> Path:
    from transformers import T5Config, T5EncoderModel

    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
    T5EncoderModel(T5Config(vocab_size=vocabulary, feed_forward_proj="gated-silu", **sizes)).save_pretrained(folder)
    return folder


def ul2(folder: Path) -> Path:
    """A T5 encoder with a tokenizer of a dozen words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "</s>", "<unk>", *["a", "red", "fox", "runs", "over", "snow", "past", "sign", "that", "says", ".", "A"]]
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token=special["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    return _t5(folder, len(words))


def byt5(folder: Path) -> Path:
    """A T5 encoder of bytes."""
    return _t5(folder, 384)


def metaclip(folder: Path) -> Path:
    """A text tower in the layout of open_clip."""
    import open_clip
    from safetensors.torch import save_file

    described = {
        "embed_dim": 8,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 16, "layers": 1, "width": 8, "head_width": 4, "patch_size": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 12, "heads": 2, "layers": 2},
    }
    folder.mkdir()
    model = open_clip.model.CLIP(**described)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": described}))
    return folder
