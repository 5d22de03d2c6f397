"""Trace networks that nobody here wrote: architectures of installed third-party packages with random weights.

    pip install transformers kornia
    python reproductions/trace_third_party.py

For each: traced whole, with which opaque leaves, or one opaque node; number of nodes; seconds; and whether
`graph.module` gives the output of the network for another batch size. The table is written to
`trace_third_party.json` beside this file. segmentation-models-pytorch and timm need torchvision, whose index has no
build for this torch; they are left out.
"""

import argparse
import json
import platform
import time
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pluriform.graph.ops import Op
from pluriform.graph.trace import trace

IMAGES, TOKENS = (3, 64, 64), (16,)
SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
TEXT: dict[str, Any] = {**SMALL, "vocab_size": 100, "max_position_embeddings": 32}
GPT2: dict[str, Any] = {
    "n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 100, "n_positions": 32, "bos_token_id": 1, "eos_token_id": 1,
}  # fmt: skip
VISION: dict[str, Any] = {**SMALL, "image_size": 64, "patch_size": 16}
STAGES: dict[str, Any] = {"depths": [1, 1, 2, 1], "hidden_sizes": [8, 16, 24, 32]}
TRANSFORMERS: dict[str, tuple[str, dict[str, Any], tuple[int, ...]]] = {
    "bert": ("BertForSequenceClassification", TEXT, TOKENS),
    "roberta": ("RobertaForSequenceClassification", {**TEXT, "pad_token_id": 0, "type_vocab_size": 1}, TOKENS),
    "albert": ("AlbertForSequenceClassification", {**TEXT, "embedding_size": 16}, TOKENS),
    "electra": ("ElectraForSequenceClassification", {**TEXT, "embedding_size": 16}, TOKENS),
    "distilbert": (
        "DistilBertForSequenceClassification",
        {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "vocab_size": 100, "max_position_embeddings": 32},
        TOKENS,
    ),
    "gpt2": ("GPT2LMHeadModel", {**GPT2, "use_cache": False}, TOKENS),
    "gpt2-with-cache": ("GPT2LMHeadModel", GPT2, TOKENS),
    "opt": (
        "OPTForCausalLM",
        {**TEXT, "ffn_dim": 64, "word_embed_proj_dim": 32, "pad_token_id": 0, "use_cache": False},
        TOKENS,
    ),
    "llama": ("LlamaForCausalLM", {**TEXT, "num_key_value_heads": 2, "use_cache": False}, TOKENS),
    "t5-encoder": (
        "T5EncoderModel",
        {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "vocab_size": 100},
        TOKENS,
    ),
    "vit": ("ViTForImageClassification", VISION, IMAGES),
    "deit": ("DeiTForImageClassification", VISION, IMAGES),
    "beit": ("BeitForImageClassification", VISION, IMAGES),
    "dinov2": ("Dinov2ForImageClassification", VISION, IMAGES),
    "clip-vision": ("CLIPVisionModel", VISION, IMAGES),
    "swin": (
        "SwinForImageClassification",
        {"image_size": 64, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
        IMAGES,
    ),
    "resnet": ("ResNetForImageClassification", {**STAGES, "embedding_size": 8}, IMAGES),
    "regnet": ("RegNetForImageClassification", {**STAGES, "embedding_size": 8, "groups_width": 8}, IMAGES),
    "convnext": ("ConvNextForImageClassification", STAGES, IMAGES),
    "convnextv2": ("ConvNextV2ForImageClassification", STAGES, IMAGES),
    "mobilenet-v1": ("MobileNetV1ForImageClassification", {"image_size": 64, "depth_multiplier": 0.25}, IMAGES),
    "mobilenet-v2": ("MobileNetV2ForImageClassification", {"image_size": 64, "depth_multiplier": 0.25}, IMAGES),
    "efficientnet": (
        "EfficientNetForImageClassification",
        {"image_size": 64, "width_coefficient": 1.0, "depth_coefficient": 1.0, "hidden_dim": 1280},
        IMAGES,
    ),
    "mobilevit": ("MobileViTForImageClassification", {"image_size": 64}, IMAGES),
    "segformer": (
        "SegformerForSemanticSegmentation",
        {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32], "num_attention_heads": [1, 2, 4, 4]},
        IMAGES,
    ),
    "poolformer": ("PoolFormerForImageClassification", {"depths": [1, 1, 1, 1]}, IMAGES),
}
KORNIA: dict[str, tuple[str, dict[str, Any], tuple[int, ...]]] = {
    "hardnet": ("HardNet", {"pretrained": False}, (1, 32, 32)),
    "hardnet8": ("HardNet8", {"pretrained": False}, (1, 32, 32)),
    "hynet": ("HyNet", {"pretrained": False}, (1, 32, 32)),
    "sosnet": ("SOSNet", {"pretrained": False}, (1, 32, 32)),
    "tfeat": ("TFeat", {"pretrained": False}, (1, 32, 32)),
    "mkddescriptor": ("MKDDescriptor", {"whitening": None}, (1, 32, 32)),
    "orinet": ("OriNet", {"pretrained": False}, (1, 32, 32)),
    "keynet": ("KeyNet", {"pretrained": False}, (1, 64, 64)),
    "disk": ("DISK", {}, (3, 64, 64)),
    "sold2": ("SOLD2_detector", {"pretrained": False}, (1, 64, 64)),
}


def transformers_network(spec: tuple[str, dict[str, Any], tuple[int, ...]]) -> nn.Module:
    """A small network of the class with random weights."""
    import transformers

    cls = getattr(transformers, spec[0])
    return cls(cls.config_class(**spec[1]))


def kornia_network(spec: tuple[str, dict[str, Any], tuple[int, ...]]) -> nn.Module:
    """A kornia feature network with random weights."""
    import kornia.feature

    return getattr(kornia.feature, spec[0])(**spec[1])


def kornia_filter(name: str) -> Callable[[], nn.Module]:
    """A kornia network outside `kornia.feature`."""

    def build() -> nn.Module:
        import importlib

        module, cls = name.rsplit(".", 1)
        found = getattr(importlib.import_module(module), cls)
        return found(pretrained=False) if cls == "DexiNed" else found()

    return build


def batch(shape: tuple[int, ...], count: int) -> Tensor:
    """A batch of images in [0, 1], or of token numbers."""
    generator = torch.Generator().manual_seed(count)
    if len(shape) == 1:
        return torch.randint(2, 99, (count, *shape), generator=generator)
    return torch.rand(count, *shape, generator=generator)


def tensors(value: Any) -> list[Tensor]:
    """All tensors of an output, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    elif not isinstance(value, tuple | list) and hasattr(value, "__dict__"):
        value = list(vars(value).values())
    return [item for part in value for item in tensors(part)] if isinstance(value, tuple | list) else []


def look(name: str, package: str, build: Callable[[], nn.Module], shape: tuple[int, ...]) -> dict[str, Any]:
    """Trace one network and compare it with itself on another batch."""
    row: dict[str, Any] = {"name": name, "package": package}
    torch.manual_seed(0)
    network = build().eval()
    row |= {"class": type(network).__name__, "parameters": sum(p.numel() for p in network.parameters())}
    state = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    kept = {key: set(vars(part)) for key, part in network.named_modules()}
    started = time.perf_counter()
    try:
        graph = trace(network, batch(shape, 2))
    except Exception as error:
        return row | {"outcome": "crash", "error": f"{type(error).__name__}: {error}"[:300]}
    opaque = [node for node in graph.nodes if node.op is Op.OPAQUE]
    leaves = [node.module for node in opaque if node.module]
    root = len(graph) == len(graph.inputs) + 2 and bool(leaves)
    row |= {
        "outcome": "one opaque node" if root else "opaque leaves" if leaves else "whole",
        "opaque_modules": leaves,
        "opaque_functions": sorted({str(node.attributes.get("function")) for node in opaque if not node.module}),
        "nodes": len(graph),
        "seconds": round(time.perf_counter() - started, 3),
        "unchanged": all(torch.equal(state[key], tensor) for key, tensor in network.state_dict().items())
        and all(kept[key] == set(vars(part)) for key, part in network.named_modules()),
    }
    for count in (2, 3):
        with torch.no_grad():
            try:
                expected, got = tensors(network(batch(shape, count))), tensors(graph.module(batch(shape, count)))
                equal = len(expected) == len(got) and all(map(torch.allclose, got, expected, [1e-5] * 99, [1e-6] * 99))
            except Exception as error:
                equal = f"{type(error).__name__}: {error}"[:300]
        row["equal_same_batch" if count == 2 else "equal_other_batch"] = equal
    return row


def main() -> None:
    """Trace all, print a line each, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=None)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    networks = [
        (name, "transformers", lambda s=spec: transformers_network(s), spec[2]) for name, spec in TRANSFORMERS.items()
    ]
    networks += [(name, "kornia", lambda s=spec: kornia_network(s), spec[2]) for name, spec in KORNIA.items()]
    networks += [
        ("dexined", "kornia", kornia_filter("kornia.models.dexined.DexiNed"), (3, 64, 64)),
        ("tiny-vit", "kornia", kornia_filter("kornia.models.tiny_vit.TinyViT"), (3, 224, 224)),
        ("vision-transformer", "kornia", kornia_filter("kornia.models.vit.VisionTransformer"), (3, 224, 224)),
    ]
    rows = []
    for name, package, build, shape in networks:
        if arguments.only and name not in arguments.only:
            continue
        try:
            rows.append(look(name, package, build, shape))
        except Exception as error:
            rows.append({"name": name, "package": package, "outcome": "not built", "error": f"{error!r}"[:300]})
        print(json.dumps(rows[-1]), flush=True)
    packages = {}
    for package in ("torch", "transformers", "kornia"):
        try:
            packages[package] = version(package)
        except PackageNotFoundError:
            packages[package] = "not installed"
    outcomes = [row["outcome"] for row in rows]
    summary = {outcome: outcomes.count(outcome) for outcome in sorted(set(outcomes))}
    record = {"versions": packages | {"python": platform.python_version()}, "summary": summary, "networks": rows}
    print(json.dumps(summary))
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
