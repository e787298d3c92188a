"""Hand-made Q/DQ networks: for every rule of the linter one that breaks it, and its clean twin."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray
from onnx import TensorProto, helper, numpy_helper

ZERO = np.int8(0)


@dataclass
class Maker:
    """Collects nodes and constants; the last tensor becomes the output."""

    opset: int = 17
    float16: bool = False
    shape: tuple[int | str, ...] = (1, 32, 8, 8)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def op(self, kind: str, *inputs: str, domain: str = "", **attributes: object) -> str:
        """A node; its output has the name of the operator and its number."""
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [f"{name}_out"], name=name, domain=domain, **attributes))
        return f"{name}_out"

    def const(self, array: ArrayLike | np.generic, dtype: type | None = None) -> str:
        """A constant; floats in the type of the network."""
        made = np.asarray(array, dtype)
        if dtype is None and made.dtype.kind == "f" and made.dtype == np.float64:
            made = made.astype(np.float16 if self.float16 else np.float32)
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(made, name))
        return name

    def rounded(
        self, x: str, scale: ArrayLike = 0.1, zero: ArrayLike = ZERO, axis: int = 1, back: float | None = None
    ) -> str:
        """A pair, per channel if there are several scales."""
        given, offset = self.const(scale), self.const(zero)
        other = given if back is None else self.const(back)
        levels = self.op("QuantizeLinear", x, given, offset, axis=axis)
        return self.op("DequantizeLinear", levels, other, offset, axis=axis)

    def weight(self, *shape: int, axis: int = 0, scale: ArrayLike | None = None, zero: ArrayLike | None = None) -> str:
        """A dequantized int8 constant, one scale per channel."""
        levels: NDArray[np.int8] = np.random.default_rng(0).integers(-9, 9, shape).astype(np.int8)
        given = np.full(shape[axis], 0.01) if scale is None else scale
        offset = np.zeros(np.shape(given), np.int8) if zero is None else zero
        return self.op("DequantizeLinear", self.const(levels), self.const(given), self.const(offset), axis=axis)

    def conv(self, x: str, weight: str | None = None, *more: str, side: int = 1, group: int = 1) -> str:
        """A convolution of 32 channels, int8 if x is dequantized."""
        pads = [side // 2] * 4
        kernel = self.weight(32, 32 // group, side, side) if weight is None else weight
        return self.op("Conv", x, kernel, *more, pads=pads, group=group, kernel_shape=[side, side])

    def model(self, last: str) -> onnx.ModelProto:
        """The file."""
        kind = TensorProto.FLOAT16 if self.float16 else TensorProto.FLOAT
        info = helper.make_tensor_value_info
        self.nodes.append(helper.make_node("Identity", [last], ["logits"], name="end"))
        body = helper.make_graph(
            self.nodes, "net", [info("input", kind, self.shape)], [info("logits", kind, None)], self.constants
        )
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(body, opset_imports=opsets, ir_version=9)


def plain(scale: ArrayLike = 0.1, zero: ArrayLike = ZERO, axis: int = 1) -> onnx.ModelProto:
    """One int8 convolution."""
    net = Maker()
    return net.model(net.conv(net.rounded("input", scale, zero, axis)))


def half(opset: int = 19, scale: float = 0.1, dtype: type = np.float16) -> onnx.ModelProto:
    """One int8 convolution of a float16 graph; `scale` of its activation."""
    net = Maker(opset=opset, float16=True)
    return net.model(net.conv(net.rounded("input", np.asarray(scale, dtype))))


def second_type(dtype: type, scale: float = 0.1) -> onnx.ModelProto:
    """Two convolutions, the second between Casts with scales of another type."""
    net = Maker(opset=19, float16=True)
    x = net.conv(net.rounded("input"))
    kind = {np.float32: TensorProto.FLOAT, np.float16: TensorProto.FLOAT16}[dtype]
    x = net.rounded(net.op("Cast", x, to=kind), np.asarray(scale, dtype))
    x = net.conv(x, net.weight(32, 32, 1, 1, scale=np.full(32, 0.01, dtype)))
    return net.model(net.op("Cast", x, to=TensorProto.FLOAT16))


def integer(kind: str) -> onnx.ModelProto:
    """A convolution in integers, or the same around a float one."""
    net = Maker()
    if kind == "Conv":
        return plain()
    scale, zero = net.const(0.1), net.const(ZERO)
    levels = net.op("QuantizeLinear", "input", scale, zero)
    weight = net.const(np.ones((32, 32, 1, 1), np.int8))
    levels = net.op(kind, levels, scale, zero, weight, scale, zero, scale, zero)
    return net.model(net.op("DequantizeLinear", levels, scale, zero))


def foreign(kind: str, domain: str) -> onnx.ModelProto:
    """One operator that only ONNX Runtime knows, or one that all know."""
    net = Maker()
    return net.model(net.op(kind, net.conv(net.rounded("input")), domain=domain))


def bias(dtype: type) -> onnx.ModelProto:
    """A bias in int32 or in float."""
    net = Maker()
    x = net.rounded("input")
    if dtype is np.float32:
        return net.model(net.conv(x, net.weight(32, 32, 1, 1), net.const(np.ones(32))))
    levels, scale, zero = net.const(np.ones(32, dtype)), net.const(np.full(32, 0.001)), net.const(np.zeros(32, dtype))
    term = net.op("DequantizeLinear", levels, scale, zero, axis=0)
    return net.model(net.conv(x, net.weight(32, 32, 1, 1), term))


def lengths(scales: int) -> onnx.ModelProto:
    """So many scales for 32 output channels."""
    net = Maker()
    return net.model(net.conv(net.rounded("input"), net.weight(32, 32, 1, 1, scale=np.full(scales, 0.01))))


def computed(*, scale: bool) -> onnx.ModelProto:
    """A scale that depends on the image."""
    net = Maker()
    given = net.op("ReduceMax", "input", keepdims=0) if scale else net.const(0.1)
    zero = net.const(ZERO)
    levels = net.op("QuantizeLinear", "input", given, zero)
    return net.model(net.conv(net.op("DequantizeLinear", levels, given, zero)))


def rescaled(back: float) -> onnx.ModelProto:
    """A pair whose second half has a scale of its own."""
    net = Maker()
    return net.model(net.conv(net.rounded("input", back=back)))


def moved(back: ArrayLike = 0.1, zero: int = 0, kind: str = "Transpose") -> onnx.ModelProto:
    """A pair with an operator between that moves its levels; what its second half says."""
    net = Maker()
    levels = net.op("QuantizeLinear", "input", net.const(0.1), net.const(ZERO))
    if kind == "Transpose":
        levels = net.op(kind, levels, perm=[0, 1, 3, 2])
    elif kind:
        levels = net.op(kind, levels, *([net.const([1, 32, 8, 8], np.int64)] if kind == "Reshape" else []))
    offset = net.const(np.full(np.shape(back), zero, np.int8))
    return net.model(net.conv(net.op("DequantizeLinear", levels, net.const(back), offset)))


def turned(axis: int, *, rounded: bool) -> onnx.ModelProto:
    """A product whose weight is turned between its levels and their DequantizeLinear, which has scales per column.

    Args:
        axis: Along which the float weight is quantized, if it is.
        rounded: Whether the file holds the float weight, behind an Identity, and not its levels.
    """
    net = Maker(shape=(8, 32))
    scale, zero = net.const(np.full(16, 0.01)), net.const(np.zeros(16, np.int8))
    weight = net.const(np.ones((16, 32), np.float32 if rounded else np.int8))
    if rounded:
        weight = net.op("QuantizeLinear", net.op("Identity", weight), scale, zero, axis=axis)
    weight = net.op("DequantizeLinear", net.op("Transpose", weight, perm=[1, 0]), scale, zero, axis=1)
    return net.model(net.op("MatMul", net.rounded("input"), weight))


def large(value: float) -> onnx.ModelProto:
    """A constant factor."""
    net = Maker()
    return net.model(net.op("Mul", net.conv(net.rounded("input")), net.const(value)))


def weighed(scale: float) -> onnx.ModelProto:
    """A convolution, and the scale of one output channel of its weight."""
    net = Maker()
    scales = np.where(np.arange(32) == 5, scale, 0.01)
    return net.model(net.conv(net.rounded("input"), net.weight(32, 32, 1, 1, scale=scales)))


def clipped(least: float, kind: str = "MatMul") -> onnx.ModelProto:
    """A layer of tokens, its bias, and a ReLU6 or another Clip."""
    net = Maker(shape=(64, 32))
    weight, bias = net.weight(32, 32, axis=1), net.const(np.ones(32))
    made = net.op("Gemm", net.rounded("input"), weight, bias) if kind == "Gemm" else None
    made = made or net.op("Add", net.op("MatMul", net.rounded("input"), weight), bias)
    return net.model(net.op("Clip", made, net.const(least), net.const(6.0)))


def shaped(batch: int | str) -> onnx.ModelProto:
    """A batch of any or of a known size."""
    net = Maker(shape=(batch, 32, 8, 8))
    return net.model(net.conv(net.rounded("input")))


def attention(
    head: int = 32, queries: int = 64, *, int8: str = "qkpv", before: str = "", behind: str = ""
) -> onnx.ModelProto:
    """An attention core with some of queries, keys, softmax and values rounded.

    Args:
        head: Its size.
        queries: As many as there are keys.
        int8: What is rounded.
        before: An operator between the scores and the softmax.
        behind: One between the softmax and the values.
    """
    net = Maker(shape=(1, 4, queries, head))
    mask = net.const(np.ones((queries, queries)), np.bool_)
    more: dict[str, list[str]] = {
        "Clip": [net.const(-9.0), net.const(9.0)],
        "Max": [net.const(-9.0)],
        "Min": [net.const(9.0)],
        "Mul": [net.const(0.5)],
        "Div": [net.const(2.0)],
        "Slice": [net.const([0]), net.const([queries]), net.const([3])],
    }

    def changed(x: str, kind: str) -> str:
        if kind == "Where":
            return net.op(kind, mask, x, net.const(0.0))
        return net.op(kind, x, *more.get(kind, []), **({"to": TensorProto.FLOAT} if kind == "Cast" else {}))

    last = {part: net.op("Relu", "input") for part in "qkv"}
    last["k"] = net.op("Transpose", last["k"], perm=[0, 1, 3, 2])
    for part in "qkv":
        last[part] = net.rounded(last[part]) if part in int8 else last[part]
    scores = net.op("MatMul", last["q"], last["k"])
    p = net.op("Softmax", changed(scores, before) if before else scores, axis=-1)
    p = changed(p, behind) if behind else p
    return net.model(net.op("MatMul", net.rounded(p, 1 / 127) if "p" in int8 else p, last["v"]))


def halves(*, activation: bool, weight: bool = True) -> onnx.ModelProto:
    """A convolution with one operand or both in int8."""
    net = Maker()
    kernel = net.weight(32, 32, 1, 1) if weight else net.const(np.ones((32, 32, 1, 1)))
    return net.model(net.conv(net.rounded("input") if activation else "input", kernel))


def product(axis: int, kind: str = "MatMul", **attributes: int) -> onnx.ModelProto:
    """A matrix product with its scales along an axis."""
    net = Maker(shape=(8, 32))
    return net.model(net.op(kind, net.rounded("input"), net.weight(32, 32, axis=axis), **attributes))


def transposed(axis: int, times: int = 1) -> onnx.ModelProto:
    """A matrix product with a weight that is transposed so often after it is dequantized."""
    net = Maker(shape=(8, 32))
    weight = net.weight(*((16, 32) if times % 2 else (32, 16)), axis=axis)
    for _ in range(times):
        weight = net.op("Transpose", weight)
    return net.model(net.op("MatMul", net.rounded("input"), weight))


def reshaped(axis: int) -> onnx.ModelProto:
    """A convolution whose weight is written as that of a linear layer."""
    net = Maker()
    weight = net.op("Reshape", net.weight(32, 32, axis=axis), net.const([32, 32, 1, 1], np.int64))
    return net.model(net.conv(net.rounded("input"), weight))


def grouped(group: int) -> onnx.ModelProto:
    """A convolution in groups."""
    net = Maker()
    return net.model(net.conv(net.rounded("input"), side=3, group=group))


def padded(*, after: bool, kind: str = "Conv", then: str = "", late: bool = False) -> onnx.ModelProto:
    """Q/DQ after or before a Pad.

    Args:
        after: Which of them.
        kind: The operator that reads it.
        then: An operator that follows the Pad.
        late: Whether that follows the Q/DQ as well.
    """
    net = Maker()
    sides = net.const([0, 0, 1, 1, 0, 0, 1, 1], np.int64)
    x = net.op("Pad", "input" if after else net.rounded("input"), sides)
    x = net.op(then, x) if then else x
    x = net.rounded(x) if after else x
    x = net.op(then, x) if late else x
    return net.model(net.op(kind, x, net.weight(32, 32, 1, 1, axis=1 if kind == "ConvTranspose" else 0)))


def residual(
    *, skip: bool, branch: bool = False, then: str = "", between: bool = False, add: str = "Add"
) -> onnx.ModelProto:
    """Two convolutions with a sum between them.

    Args:
        skip: Whether it is rounded.
        branch: Whether that is.
        then: What follows the convolution of the branch: a batch normalisation or a bias.
        between: Whether Q/DQ stands between these two.
        add: The operator that adds.
    """
    net = Maker()
    x = net.op("Relu", "input")
    y = net.conv(net.rounded(x))
    y = net.rounded(y) if between else y
    if then == "BatchNormalization":
        y = net.op(then, y, *(net.const(np.ones(32)) for _ in range(4)))
    elif then:
        y = net.op(then, net.const(np.ones((32, 1, 1))), y)
    y = net.op(add, net.rounded(x) if skip else x, net.rounded(y) if branch else y)
    return net.model(net.conv(net.rounded(y)))


def epilogue(*, between: bool) -> onnx.ModelProto:
    """Q/DQ between a convolution and its ReLU, or after both."""
    net = Maker()
    x = net.conv(net.rounded("input"))
    x = net.op("Relu", net.rounded(x) if between else x)
    return net.model(net.conv(net.rounded(x)))


def pointwise(*, rounded: bool) -> onnx.ModelProto:
    """A sigmoid that reads int8."""
    net = Maker()
    return net.model(net.op("Sigmoid", net.rounded("input") if rounded else "input"))


def joined(second: float, last: float | None = 0.1, third: float | None = 0.1, pool: str = "") -> onnx.ModelProto:
    """A Concat of three tensors, each rounded with its scale or float, the second behind a pooling."""
    net = Maker()
    parts = [net.rounded("input"), net.rounded(net.op("Relu", "input"), second), net.op("Neg", "input")]
    if pool:
        parts[1] = net.op(pool, parts[1], kernel_shape=[3, 3], pads=[1] * 4)
    if third is not None:
        parts[2] = net.rounded(parts[2], third)
    x = net.op("Concat", *parts, axis=1)
    return net.model(net.conv(x if last is None else net.rounded(x, last), net.weight(32, 96, 1, 1)))


def pooled(second: float, then: str = "") -> onnx.ModelProto:
    """A pooling, and perhaps another operator, between two rounded tensors."""
    net = Maker()
    x = net.op("MaxPool", net.rounded("input"), kernel_shape=[2, 2], strides=[2, 2])
    x = net.op(then, x) if then else x
    return net.model(net.conv(net.rounded(x, second)))


def halved(second: float) -> onnx.ModelProto:
    """A Split between rounded tensors: the scale of its second half."""
    net = Maker()
    net.nodes.append(helper.make_node("Split", [net.rounded("input")], ["first", "second"], name="Split", axis=1))
    halves = [net.rounded("first"), net.rounded("second", second)]
    made = [net.conv(x, net.weight(32, 16, 1, 1)) for x in halves]
    return net.model(net.op("Mul", *made))


def branching(*, branches: bool) -> onnx.ModelProto:
    """A convolution, or an If around it."""
    net = Maker()
    x = net.conv(net.rounded("input"))
    if not branches:
        return net.model(x)
    bodies = []
    for kind in ("Relu", "Neg"):
        node = helper.make_node(kind, [x], [f"{kind}_result"], name=f"inner_{kind}")
        info = helper.make_tensor_value_info(f"{kind}_result", TensorProto.FLOAT, (1, 32, 8, 8))
        bodies.append(helper.make_graph([node], kind, [], [info]))
    asked = net.op("Greater", net.op("ReduceMax", x, keepdims=0), net.const(0.0))
    return net.model(net.op("If", asked, then_branch=bodies[0], else_branch=bodies[1]))


Make = Callable[[], onnx.ModelProto]

CASES: dict[str, tuple[str, Make, Make]] = {
    "operators of integers": ("integer-operator", lambda: integer("QLinearConv"), lambda: integer("Conv")),
    "fused operator": (
        "unknown-operator",
        lambda: foreign("QuickGelu", "com.microsoft"),
        lambda: foreign("Relu", ""),
    ),
    "uint8": ("not-int8", lambda: plain(zero=np.uint8(0)), plain),
    "int16": ("not-int8", lambda: plain(zero=np.int16(0)), plain),
    "offset activation": ("zero-point", lambda: plain(zero=np.int8(3)), plain),
    "offset behind a Transpose": ("zero-point", lambda: moved(zero=3), moved),
    "scale 0 behind a Reshape": ("scale-value", lambda: moved(0.0, kind="Reshape"), lambda: moved(kind="Reshape")),
    "int32 bias": ("int32-bias", lambda: bias(np.int32), lambda: bias(np.float32)),
    "scale 0": ("scale-value", lambda: plain(scale=0.0), plain),
    "scale -1": ("scale-value", lambda: plain(scale=-1.0), plain),
    "scale inf": ("scale-value", lambda: plain(scale=np.inf), plain),
    "scale nan": ("scale-value", lambda: plain(scale=np.nan), plain),
    "too few scales": ("scale-length", lambda: lengths(8), lambda: lengths(32)),
    "float16 scale of float32": ("scale-type", lambda: plain(scale=np.float16(0.1)), plain),
    "float32 scale of float16": ("scale-type", lambda: half(dtype=np.float32), half),
    "float16 in opset 17": ("opset", lambda: half(17), half),
    "a float32 island": ("mixed-scale-types", lambda: second_type(np.float32), lambda: second_type(np.float16)),
    "scale per channel": (
        "channel-activation",
        lambda: plain(scale=np.full(32, 0.1, np.float32), zero=np.zeros(32, np.int8)),
        plain,
    ),
    "dynamic scale": ("computed-scale", lambda: computed(scale=True), lambda: computed(scale=False)),
    "subnormal scale": ("small-scale", lambda: half(scale=2.0**-17), lambda: half(scale=2.0**-15)),
    "rescaling pair": ("unequal-pair", lambda: rescaled(0.2), lambda: rescaled(0.1)),
    "rescaling behind a Transpose": ("unequal-pair", lambda: moved(0.2), moved),
    "large constant": ("float16-range", lambda: large(1e5), lambda: large(6e4)),
    "tiny constant": ("float16-range", lambda: large(1e-12), lambda: large(1e-5)),
    "large scale": ("float16-range", lambda: plain(scale=516.0), lambda: plain(scale=515.0)),
    "large float16 scale": ("float16-range", lambda: half(scale=516.0), lambda: half(scale=515.0)),
    "large scale of a weight": ("float16-range", lambda: weighed(516.0), lambda: weighed(515.0)),
    "ReLU6 of tokens": ("lost-bound", lambda: clipped(0.0), lambda: clipped(-1.0)),
    "ReLU6 of a Gemm": ("lost-bound", lambda: clipped(0.0, "Gemm"), lambda: clipped(-1.0, "Gemm")),
    "open batch": ("open-shape", lambda: shaped("n"), lambda: shaped(2)),
    "an If": ("control-flow", lambda: branching(branches=True), lambda: branching(branches=False)),
    "head size 46": ("illegal-int8-attention", lambda: attention(46), attention),
    "1024 queries": ("illegal-int8-attention", lambda: attention(32, 1024), lambda: attention(32, 512)),
    "float softmax": ("partial-int8-attention", lambda: attention(int8="qkv"), attention),
    "float activation": ("half-quantized", lambda: halves(activation=False), lambda: halves(activation=True)),
    "float weight": (
        "half-quantized",
        lambda: halves(activation=True, weight=False),
        lambda: halves(activation=False, weight=False),
    ),
    "MatMul by rows": ("weight-axis", lambda: product(0), lambda: product(1)),
    "Gemm by rows": ("weight-axis", lambda: product(0, "Gemm"), lambda: product(1, "Gemm")),
    "transposed Gemm": (
        "weight-axis",
        lambda: product(1, "Gemm", transB=1),
        lambda: product(0, "Gemm", transB=1),
    ),
    "MatMul by rows, transposed": ("weight-axis", lambda: transposed(1), lambda: transposed(0)),
    "MatMul by rows, transposed twice": ("weight-axis", lambda: transposed(0, 2), lambda: transposed(1, 2)),
    "reshaped by columns": ("weight-axis", lambda: reshaped(1), lambda: reshaped(0)),
    "depthwise": ("grouped-int8", lambda: grouped(32), lambda: grouped(1)),
    "pad": ("pad-conv", lambda: padded(after=True), lambda: padded(after=False)),
    "pad before a ConvTranspose": (
        "pad-conv",
        lambda: padded(after=True, kind="ConvTranspose"),
        lambda: padded(after=False, kind="ConvTranspose"),
    ),
    "pad and identity": (
        "pad-conv",
        lambda: padded(after=True, then="Identity"),
        lambda: padded(after=False, then="Identity"),
    ),
    "pad between identities": (
        "pad-conv",
        lambda: padded(after=True, then="Identity", late=True),
        lambda: padded(after=False, then="Identity", late=True),
    ),
    "float skip": ("float-skip", lambda: residual(skip=False), lambda: residual(skip=True)),
    "float skip of a Sum": (
        "float-skip",
        lambda: residual(skip=False, add="Sum"),
        lambda: residual(skip=True, add="Sum"),
    ),
    "float skip behind batch norm": (
        "float-skip",
        lambda: residual(skip=False, then="BatchNormalization"),
        lambda: residual(skip=True, then="BatchNormalization"),
    ),
    "float skip behind a bias": (
        "float-skip",
        lambda: residual(skip=False, then="Add"),
        lambda: residual(skip=True, then="Add"),
    ),
    "rounded branch": (
        "rounded-output",
        lambda: residual(skip=True, branch=True),
        lambda: residual(skip=True),
    ),
    "rounded before ReLU": ("rounded-output", lambda: epilogue(between=True), lambda: epilogue(between=False)),
    "rounded before sigmoid": ("float-operator", lambda: pointwise(rounded=True), lambda: pointwise(rounded=False)),
    "concat": ("unequal-scales", lambda: joined(0.2), lambda: joined(0.1)),
    "concat rescaled": ("unequal-scales", lambda: joined(0.1, 0.2), lambda: joined(0.1, None)),
    "concat of a pool": ("unequal-scales", lambda: joined(0.2, pool="MaxPool"), lambda: joined(0.1, pool="MaxPool")),
    "concat, one float": ("unequal-scales", lambda: joined(0.2, third=None), lambda: joined(0.1, third=None)),
    "concat, one float and read": ("half-quantized", lambda: joined(0.1, None, None), lambda: joined(0.1, None)),
    "pool": ("unequal-scales", lambda: pooled(0.2), lambda: pooled(0.1)),
    "pool and identity": (
        "unequal-scales",
        lambda: pooled(0.2, "Identity"),
        lambda: pooled(0.1, "Identity"),
    ),
    "split": ("unequal-scales", lambda: halved(0.2), lambda: halved(0.1)),
}
"""What is wrong -> the rule that says so, the file, its clean twin."""
