"""What is known about every architecture without building it; no torch here, so that listing is instant."""

from types import MappingProxyType

from edgehybrid.records import ModelCard

CMT_PAPER = (
    "Guo et al., CMT: Convolutional Neural Networks Meet Vision Transformers, CVPR 2022, arXiv:2107.06263"
)
CMT_LICENCE = "Apache-2.0 (huawei-noah/Efficient-AI-Backbones, cmt_pytorch)"
CMT_RELEASE = "https://github.com/ggjy/CMT.pytorch/releases/download/release-v1"


def cmt(
    name: str, size: int, params: int, macs: int, file: str, published: tuple[str, str, str]
) -> ModelCard:
    """One CMT variant; `published` is its top-1, parameters and multiply-accumulates as printed."""
    return ModelCard(
        name=name,
        family="cmt",
        input_size=size,
        params=params,
        macs=macs,
        published=MappingProxyType(dict(zip(("top1", "params", "macs"), published, strict=True))),
        paper=CMT_PAPER,
        licence=CMT_LICENCE,
        weights_url=f"{CMT_RELEASE}/{file}",
    )


CARDS = (
    cmt("cmt_ti", 160, 9_492_426, 639_000_000, "cmt_tiny.pth", ("79.0", "9.5M", "0.6G")),
    cmt("cmt_xs", 192, 15_247_208, 1_547_000_000, "cmt_xs.pth", ("81.8", "15.2M", "1.5G")),
    cmt("cmt_s", 224, 26_256_160, 4_032_000_000, "cmt_small.pth", ("83.5", "25.1M", "4.0G")),
    cmt("cmt_b", 256, 45_715_076, 9_317_000_000, "cmt_base.pth", ("84.5", "45.7M", "9.3G")),
)
