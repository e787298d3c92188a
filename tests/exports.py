"""ONNX files as users export them with torch."""

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn


def export(
    module: nn.Module, images: Tensor, path: Path, *, dynamo: bool = False, open_batch: bool = True, opset: int = 17
) -> None:
    """Write a module for images (N, 3, S, S) with the older or the newer exporter; `input` -> `logits`.

    The newer one chooses its opset itself.
    """
    names = {"input_names": ["input"], "output_names": ["logits"]}
    with warnings.catch_warnings():
        if dynamo:
            warnings.simplefilter("ignore")  # much besides what it is about
            shapes = ({0: torch.export.Dim("n", min=1, max=64)},) if open_batch else None
            torch.onnx.export(module, (images,), path, dynamo=True, dynamic_shapes=shapes, verbose=False, **names)
        else:
            warnings.simplefilter("ignore", DeprecationWarning)  # it announces its end
            warnings.filterwarnings("ignore", "Constant folding", UserWarning)  # of which it leaves some
            axes = {"input": {0: "n"}, "logits": {0: "n"}} if open_batch else None
            torch.onnx.export(module, (images,), path, dynamo=False, opset_version=opset, dynamic_axes=axes, **names)
