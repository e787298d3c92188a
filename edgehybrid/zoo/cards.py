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


CONFORMER_PAPER = (
    "Peng et al., Conformer: Local Features Coupling Global Representations for Visual Recognition, ICCV 2021, "
    "arXiv:2105.03889"
)
CONFORMER_LICENCE = "Apache-2.0 (pengzhiliang/Conformer)"
CONFORMER_DRIVE = "https://drive.google.com/file/d"


def conformer(
    name: str, params: int, macs: int, published: dict[str, str], file: str | None, *, patch: int = 16
) -> ModelCard:
    """One Conformer variant; published figures are those of the README beside the official code.

    `file` is the identifier on Google Drive, None where the authors published no checkpoint.
    """
    note = (
        f"the authors' checkpoint lies behind a browser: save it from {CONFORMER_DRIVE}/{file} and give it with "
        "--weights FILE, as it is (.pth, weights bare or under 'model')"
        if file
        else "the authors published neither a checkpoint nor figures of this variant"
    )
    return ModelCard(
        name=name,
        family="conformer",
        input_size=224,
        params=params,
        macs=macs,
        published=published,
        paper=CONFORMER_PAPER,
        licence=CONFORMER_LICENCE,
        weights_url=None,
        weights_note=note,
        size_step=patch,
    )


CONV2FORMER_PAPER = (
    "Hou et al., Conv2Former: A Simple Transformer-Style ConvNet for Visual Recognition, 2022, arXiv:2211.11943"
)
CONV2FORMER_LICENCE = "Apache-2.0 (HVision-NKU/Conv2Former)"


def conv2former(
    name: str, params: int, macs: int, top1: str, params_printed: str, macs_printed: str, *, pretrained: bool = False
) -> ModelCard:
    """One Conv2Former variant; published figures are those of the README beside the official code.

    The README counts 2.2 G for conv2former_n; the official code, and so ours, makes 2.33 G. It prints the same size
    for both conv2former_b, although conv2former_b_22k has the smaller kernels. `pretrained`: the top-1 was reached
    after training on ImageNet-22k.
    """
    first = {"pretraining": "ImageNet-22k"} if pretrained else {}
    return ModelCard(
        name=name,
        family="conv2former",
        input_size=224,
        params=params,
        macs=macs,
        published={"top1": top1, "params": params_printed, "macs": macs_printed} | first,
        paper=CONV2FORMER_PAPER,
        licence=CONV2FORMER_LICENCE,
        weights_url=None,
        weights_note="the authors' checkpoint lies behind a browser (Baidu): save it from the link in the "
        "README of https://github.com/HVision-NKU/Conv2Former and give it with --weights FILE, as it is (.pth of timm, "
        "weights under 'state_dict_ema' or 'state_dict')",
        size_step=1,
        least_size=31,
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
    conformer(
        "conformer_ti", 23_524_704, 5_225_936_896, {"top1": "81.3", "params": "23.5M", "macs": "5.2G"},
        "19SxGhKcWOR5oQSxNUWUM2MGYiaWMrF1z",
    ),
    conformer(
        "conformer_s", 37_673_424, 10_599_350_272, {"top1": "83.4", "params": "37.7M", "macs": "10.6G"},
        "1mpOlbLaVxOfEwV4-ha78j_1Ebqzj2B83",
    ),
    conformer("conformer_s32", 38_853_072, 7_045_835_776, {}, None, patch=32),
    conformer(
        "conformer_b", 83_289_136, 23_325_745_152, {"top1": "84.1", "params": "83.3M", "macs": "23.3G"},
        "1oeQ9LSOGKEUaYGu7WTlUGl3KDsQIi0MA",
    ),
    conv2former("conv2former_n", 14_992_840, 2_330_299_392, "81.5", "15M", "2.2G"),
    conv2former("conv2former_t", 26_697_204, 4_360_505_024, "83.2", "27M", "4.4G"),
    conv2former("conv2former_s", 50_032_692, 8_708_384_000, "84.1", "50M", "8.7G"),
    conv2former("conv2former_b", 90_029_112, 15_890_112_512, "84.4", "90M", "15.9G"),
    conv2former("conv2former_b_22k", 88_784_952, 15_564_972_032, "86.2", "90M", "15.9G", pretrained=True),
    conv2former("conv2former_l", 198_893_736, 36_037_482_496, "87.0", "199M", "36.0G", pretrained=True),
    BOTNET50,
    BOTNET26T,
)  # fmt: skip
"""Parameters and multiply-accumulates are counted by this code (tests/zoo/test_cards.py)."""
