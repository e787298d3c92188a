"""Vision models of Hugging Face's transformers as their users bring them: exported by torch, taken as an ONNX file.

    pip install --target HF --no-deps transformers huggingface_hub tokenizers regex pyyaml requests tqdm filelock \
        fsspec packaging certifi idna urllib3 charset_normalizer httpx httpcore anyio h11 sniffio hf-xet typer-slim \
        shellingham click
    PYTHONPATH=HF python benchmarks/transformers_models.py [--only NAME ...] [--output FILE]

Classifiers, detectors, segmenters, depth and pose estimators of transformers' own code, most with fewer or narrower
layers than published and all with seeded weights, so no accuracy: what is asked is whether files as torch writes them
(its newer exporter, where that fails the older) go through adoption, rewrites, both quantizations, linter and NVIDIA's
compiler. What fails is written down with its words. Writes `benchmarks/results/transformers_models.json` after every
model.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from timm_models import examine, stand_in
from torch import Tensor, nn

from edgehybrid import device
from edgehybrid.errors import EdgeHybridError
from edgehybrid.graph.adoption import adopt
from edgehybrid.records import Preprocess
from edgehybrid.stages.agreement import check_agreement
from edgehybrid.store import write_atomic

RESULT = Path(__file__).parent / "results" / "transformers_models.json"
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
TOKENS = {"hidden_size": 192, "num_attention_heads": 3, "num_hidden_layers": 4, "intermediate_size": 768}
DINO = {"hidden_size": 192, "num_attention_heads": 3, "num_hidden_layers": 4, "image_size": 224}
WINDOWS = {"embed_dim": 48, "depths": [2, 2, 2, 2], "num_heads": [2, 4, 8, 16]}
MAPS = {"hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2], "layer_type": "basic", "embedding_size": 64}
STAGES = [f"stage{i}" for i in range(1, 5)]
DECODER = {
    "d_model": 128,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_ffn_dim": 256,
    "decoder_ffn_dim": 256,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "num_queries": 20,
    "num_labels": 10,
    "use_timm_backbone": False,
    "use_pretrained_backbone": False,
    "backbone": None,
}
QUERIES = {"num_queries": 50, "decoder_layers": 2, "num_labels": 10, "anchor_image_size": [256, 256]}
RELATIVE = {"use_relative_position_bias": True, "use_absolute_position_embeddings": False}

Maker = Callable[[], nn.Module]


def models() -> dict[str, tuple[int | tuple[int, int], Maker]]:
    """Name -> px (height, width where they differ), what makes the model."""
    import transformers as hf

    def classifier(kind: str, **settings: object) -> Maker:
        return lambda: getattr(hf, f"{kind}ForImageClassification")(
            getattr(hf, f"{kind}Config")(num_labels=100, **settings)
        )

    def plain(model: str, config: str, **settings: object) -> Maker:
        return lambda: getattr(hf, model)(getattr(hf, f"{config}Config")(**settings))

    def detector(kind: str) -> Maker:
        backbone = hf.ResNetConfig(out_features=["stage4"], **MAPS)
        return plain(f"{kind}ForObjectDetection", kind, backbone_config=backbone, **DECODER)

    depth_backbone = hf.Dinov2Config(
        **DINO, patch_size=14, out_features=STAGES, apply_layernorm=True, reshape_hidden_states=False
    )
    neck = {"neck_hidden_sizes": [24, 48, 96, 96], "fusion_hidden_size": 32}
    convnext = hf.ConvNextConfig(hidden_sizes=[40, 80, 160, 320], depths=[2, 2, 4, 2], out_features=STAGES)
    r18 = hf.RTDetrResNetConfig(out_features=STAGES[1:], **MAPS)
    pose = hf.VitPoseBackboneConfig(
        image_size=[256, 192],
        hidden_size=192,
        num_attention_heads=3,
        num_hidden_layers=4,
        out_features=["stage4"],
        out_indices=[4],
    )
    return {
        "beit": (224, classifier("Beit", **TOKENS, **RELATIVE)),
        "bit": (224, classifier("Bit", depths=[1, 1, 2, 1])),
        "clip-vision": (224, plain("CLIPVisionModelWithProjection", "CLIPVision", **TOKENS, projection_dim=128)),
        "conditional-detr-r18": (256, detector("ConditionalDetr")),
        "convnextv2": (224, classifier("ConvNextV2", hidden_sizes=[40, 80, 160, 320], depths=[2, 2, 4, 2])),
        "cvt-13": (224, classifier("Cvt")),
        "deit": (224, classifier("DeiT", **TOKENS)),
        "depth-anything": (
            224,
            plain(
                "DepthAnythingForDepthEstimation",
                "DepthAnything",
                backbone_config=depth_backbone,
                reassemble_hidden_size=192,
                patch_size=14,
                **neck,
            ),
        ),
        "detr-r18": (256, detector("Detr")),
        "d-fine": (256, plain("DFineForObjectDetection", "DFine", **QUERIES)),
        "dinov2": (224, classifier("Dinov2", **DINO)),
        "dinov3-convnext": (
            224,
            plain("DINOv3ConvNextModel", "DINOv3ConvNext", hidden_sizes=[32, 64, 128, 256], depths=[2, 2, 3, 2]),
        ),
        "dinov3-vit": (224, plain("DINOv3ViTModel", "DINOv3ViT", **TOKENS)),
        "donut-swin": (224, plain("DonutSwinModel", "DonutSwin", **WINDOWS)),
        "dpt": (
            224,
            plain("DPTForDepthEstimation", "DPT", **TOKENS, image_size=224, backbone_out_indices=[0, 1, 2, 3], **neck),
        ),
        "efficientnet-b0": (
            224,
            classifier("EfficientNet", width_coefficient=1.0, depth_coefficient=1.0, hidden_dim=1280),
        ),
        "focalnet": (224, classifier("FocalNet", embed_dim=48, depths=[2, 2, 2, 2])),
        "glpn": (224, plain("GLPNForDepthEstimation", "GLPN")),
        "hiera": (224, classifier("Hiera", embed_dim=48, depths=[1, 2, 4, 2], num_heads=[1, 2, 4, 8])),
        "i-jepa": (224, classifier("IJepa", **TOKENS)),
        "levit": (224, classifier("Levit")),
        "mobilenet-v1": (224, classifier("MobileNetV1")),
        "mobilenet-v2 segmentation": (256, plain("MobileNetV2ForSemanticSegmentation", "MobileNetV2", num_labels=21)),
        "mobilevit segmentation": (256, plain("MobileViTForSemanticSegmentation", "MobileViT", num_labels=21)),
        "mobilevitv2-0.5": (256, classifier("MobileViTV2", width_multiplier=0.5)),
        "poolformer-s12": (224, classifier("PoolFormer")),
        "pvt": (224, classifier("Pvt", depths=[1, 1, 1, 1])),
        "pvtv2-b0": (224, classifier("PvtV2")),
        "regnet": (
            224,
            classifier(
                "RegNet", embedding_size=32, hidden_sizes=[32, 64, 160, 384], depths=[1, 2, 7, 1], groups_width=16
            ),
        ),
        "resnet-18": (224, classifier("ResNet", **MAPS)),
        "rt-detr-r18": (
            256,
            plain(
                "RTDetrForObjectDetection",
                "RTDetr",
                backbone_config=r18,
                encoder_in_channels=[128, 256, 512],
                **QUERIES,
            ),
        ),
        "sam encoder": (
            256,
            plain(
                "SamVisionModel",
                "SamVision",
                image_size=256,
                hidden_size=192,
                num_hidden_layers=4,
                num_attention_heads=3,
                global_attn_indexes=[1, 3],
                window_size=8,
                output_channels=64,
            ),
        ),
        "segformer-b0": (224, classifier("Segformer")),
        "segformer-b0 segmentation": (256, plain("SegformerForSemanticSegmentation", "Segformer", num_labels=19)),
        "siglip-vision": (224, plain("SiglipVisionModel", "SiglipVision", **TOKENS)),
        "swiftformer-xs": (224, classifier("SwiftFormer")),
        "swin": (224, classifier("Swin", **WINDOWS)),
        "swinv2": (256, classifier("Swinv2", image_size=256, window_size=8, **WINDOWS)),
        "textnet": (224, classifier("TextNet")),
        "upernet-convnext": (
            256,
            plain(
                "UperNetForSemanticSegmentation",
                "UperNet",
                backbone_config=convnext,
                hidden_size=64,
                auxiliary_in_channels=160,
                auxiliary_channels=32,
                num_labels=19,
            ),
        ),
        "vit": (224, classifier("ViT", **TOKENS)),
        "vit-msn": (224, classifier("ViTMSN", **TOKENS)),
        "vitpose": ((256, 192), plain("VitPoseForPoseEstimation", "VitPose", backbone_config=pose, num_labels=17)),
        "yolos": (
            256,
            plain(
                "YolosForObjectDetection",
                "Yolos",
                **TOKENS,
                image_size=[256, 256],
                num_detection_tokens=20,
                num_labels=10,
            ),
        ),
    }


class Outputs(nn.Module):
    """The first two outputs of floats, as one tensor or a tuple: an ONNX file knows no named tuples."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, pixel_values: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Images (N, 3, H, W)."""
        found = self.net(pixel_values=pixel_values).values()
        floats = [value for value in found if torch.is_tensor(value) and value.is_floating_point()][:2]
        return floats[0] if len(floats) == 1 else tuple(floats)


def main() -> None:
    """Take each model through."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME")
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    stand_in()
    import transformers

    known = models()
    document = json.loads(options.output.read_bytes()) if options.output.is_file() else {"models": {}}
    document |= {"device": dataclasses.asdict(device.state(0)), "transformers": transformers.__version__}
    names = options.only or list(known)
    for name in names:
        size, make = known[name]
        found = document["models"][name] = take(make, size if isinstance(size, tuple) else (size, size))
        write_atomic(options.output, json.dumps(document, indent=1).encode() + b"\n")
        print(name, found.get("failed", "accepted"), flush=True)
    sys.exit(int(any("failed" in document["models"][name] for name in names)))


def take(make: Maker, size: tuple[int, int]) -> dict[str, object]:
    """What each stage says of one model; `failed` is what the first refusal said."""
    module = make().eval()
    scatter(module)
    found: dict[str, object] = {"px": size, "params": sum(p.numel() for p in module.parameters())}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        found["exporter"] = export(Outputs(module), torch.zeros(1, 3, *size), path)
        try:
            adopted = adopt(path)
            check_agreement(path, adopted)
            examine(adopted, Preprocess(size, 1.0, *IMAGENET, "bicubic"), found)
            refused = [f"{p}: {found[p]['reason']}" for p in ("int8", "fp16") if found[p]["status"] != "checked"]
            found |= {"failed": "; ".join(refused)} if refused else {}
        except EdgeHybridError as error:
            found["failed"] = str(error)
    return found


def scatter(module: nn.Module) -> None:
    """Seeded weights under which what the image says survives to the outputs, and statistics that are not 0 and 1."""
    torch.manual_seed(1)
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            part.weight.data.normal_(0, (1.3 if isinstance(part, nn.Conv2d) else 1.0) / part.weight[0].numel() ** 0.5)
        elif isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.5, 1.5)


def export(module: nn.Module, images: Tensor, path: Path) -> str:
    """Write the file as users do; which of torch's exporters managed to."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(module, (images,), path, dynamo=True, opset_version=18, verbose=False)
        except Exception:  # foreign code, of any type
            torch.onnx.export(module, (images,), path, dynamo=False, opset_version=17)
            return "older"
    return "newer"


if __name__ == "__main__":
    main()
