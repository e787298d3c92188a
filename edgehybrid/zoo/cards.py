"""What is known about every architecture without building it; no torch here, so that listing is instant."""

from edgehybrid.records import ModelCard

CMT_PAPER = "Guo et al., CMT: Convolutional Neural Networks Meet Vision Transformers, CVPR 2022, arXiv:2107.06263"
CMT_LICENCE = "Apache-2.0 (huawei-noah/Efficient-AI-Backbones, cmt_pytorch)"
CMT_RELEASE = "https://github.com/ggjy/CMT.pytorch/releases/download/release-v1"


def cmt(name: str, size: int, params: int, macs: int, file: str, top1: str, params_printed: str) -> ModelCard:
    """One CMT variant.

    The top-1 is that of the README beside the official code, the printed parameters those of the paper's table (as
    quoted by leondgarse/keras_cv_attention_models). For CMT-S the table says 25.1M; the official code, and so
    ours, has 26.3M.
    """
    return ModelCard(
        name=name,
        family="cmt",
        input_size=size,
        params=params,
        macs=macs,
        published={"top1": top1, "params": params_printed},
        paper=CMT_PAPER,
        licence=CMT_LICENCE,
        weights_url=f"{CMT_RELEASE}/{file}",
    )


BOTNET_PAPER = "Srinivas et al., Bottleneck Transformers for Visual Recognition, CVPR 2021, arXiv:2101.11605"
TIMM_RELEASE = "https://github.com/rwightman/pytorch-image-models/releases/download"

BOTNET50 = ModelCard(
    name="botnet50",
    family="botnet",
    input_size=224,
    params=20_852_008,
    macs=4_021_346_304,
    published={"params": "20.8M"},
    paper=BOTNET_PAPER,
    licence="MIT (lucidrains/bottleneck-transformer-pytorch, whose parameter names are used)",
    weights_url=None,
    weights_note="the authors published no checkpoint, and no other one is known",
)
BOTNET26T = ModelCard(
    name="botnet26t",
    family="botnet",
    input_size=256,
    params=12_488_672,
    macs=3_291_037_696,
    published={"top1": "79.256", "params": "12.49M", "macs": "3.32G"},
    paper=f"{BOTNET_PAPER}; as configured in timm (botnet26t_256.c1_in1k), which follows no table of the paper",
    licence="Apache-2.0 (huggingface/pytorch-image-models, botnet26t_256)",
    weights_url=f"{TIMM_RELEASE}/v0.1-attn-weights/botnet26t_c1_256-167a0e9f.pth",
    crop_pct=0.95,
)
"""What timm prints about it: its results-imagenet.csv and benchmark-infer tables."""


CARDS = (
    cmt("cmt_ti", 160, 9_492_426, 638_904_600, "cmt_tiny.pth", "79.0", "9.5M"),
    cmt("cmt_xs", 192, 15_247_208, 1_546_873_472, "cmt_xs.pth", "81.8", "15.2M"),
    cmt("cmt_s", 224, 26_256_160, 4_031_742_464, "cmt_small.pth", "83.5", "25.1M"),
    cmt("cmt_b", 256, 45_715_076, 9_317_124_096, "cmt_base.pth", "84.5", "45.7M"),
    BOTNET50,
    BOTNET26T,
)
"""Parameters and multiply-accumulates are counted by this code (tests/zoo/test_cards.py)."""
