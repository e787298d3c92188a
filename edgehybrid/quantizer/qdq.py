"""Int8 scales, and the QuantizeLinear and DequantizeLinear nodes that carry them."""

from collections.abc import Collection, Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgehybrid.errors import StageError
from edgehybrid.graph import Graph, add_constant, constant, name_of, unused, values
from edgehybrid.graph.half import FLOAT16_MAX
from edgehybrid.graph.products import raise_bias, unfold
from edgehybrid.graph.tuning import Tuning
from edgehybrid.records import LEVELS, Decision, Dialect, Ranges

MIN_SCALE = 2.0**-15
"""Smallest scale of an activation. Its reciprocal is finite in float16, and float16 holds it to 1 part in 1024."""

MIN_WEIGHT_SCALE = 2.0**-20
"""Smallest scale of a weight, by which no device divides. Float16 holds it to 1 part in 16, and weights are
rounded to what it holds. A layer behind a small gain, as of LayerScale, would else get few levels."""

CLIPS = np.linspace(1.0, 0.7, 13)
"""Fractions of a channel's largest weight that are tried as its clipping threshold."""


def choose_weight_scales(weight: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """The scale per channel with the smallest squared rounding error.

    Tried are thresholds of 1.00, 0.975 ... 0.70 times the largest absolute weight of the channel; a smaller step is
    worth clipping few weights. The scale is rounded to float16 before the weights are rounded to it, so that both
    dialects hold the same int8 weights.

    Args:
        weight: Any shape, finite.
        axis: Output channel.

    Returns:
        (channels,), each at least `MIN_WEIGHT_SCALE`; `MIN_SCALE` where all weights are too small for it, and become 0.
    """
    rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
    peak = np.abs(rows).max(axis=1)
    least = np.where(peak < LEVELS * MIN_WEIGHT_SCALE, MIN_SCALE, MIN_WEIGHT_SCALE).astype(np.float32)
    best = np.full(len(rows), np.inf, np.float32)
    scales = np.empty(len(rows), np.float32)
    for clip in CLIPS:
        scale = _round_to_float16(np.maximum(peak * np.float32(clip) / LEVELS, least))
        error = np.square(_round_to_levels(rows, scale[:, None]) * scale[:, None] - rows).sum(axis=1)
        better = error < best
        best[better], scales[better] = error[better], scale[better]
    return scales


def _round_to_float16(scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """The nearest scales that float16 can hold; those beyond its range as they are."""
    fits = scale <= FLOAT16_MAX
    return np.where(fits, np.where(fits, scale, 1).astype(np.float16), scale).astype(np.float32)


def _round_to_levels(x: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """As QuantizeLinear does: half to even, then clipped; -128 is left out, so that the grid is symmetric."""
    return np.asarray(np.clip(np.rint(x / scale), -LEVELS, LEVELS), np.float32)


def correct_biases(graph: Graph, names: Mapping[ir.Node, str], tuning: Tuning, int8: Collection[str]) -> None:
    """Add the corrections of int8 nodes to their biases, in place; a convolution without a bias gets one.

    Raises:
        StageError: A correction that finds no bias, or another number of channels.
    """
    taken = {value.name for value in values(graph)}
    for node, label in names.items():
        if label not in int8 or label not in tuning.biases:
            continue
        try:
            raise_bias(graph, node, tuning.biases[label], taken)
        except ValueError as error:
            raise StageError(
                f"the bias correction of '{label}' finds no bias of its size",
                why="it was made for another graph",
                fix="tune the very graph that is quantized",
            ) from error


class Writer:
    """Makes each Q/DQ pair once and remembers it for later readers of the tensor."""

    def __init__(
        self,
        graph: Graph,
        ranges: Ranges,
        dialect: Dialect,
        wide: Collection[str] = (),
        tuning: Tuning | None = None,
    ) -> None:
        self.graph = graph
        self.tuning = tuning
        self.ranges = ranges
        self.dialect = dialect
        self.wide = wide  # nodes that read float32 in the typed dialect too
        self.taken = {value.name for value in values(graph)}
        self.nodes = {node.name for node in graph.nodes()}  # TensorRT refuses two layers of one name
        self.made: dict[tuple[ir.Value, int | None, str], ir.Value] = {}
        self.zero = self._constant("int8_zero", np.zeros((), np.int8))

    def dequantize(self, reader: ir.Node, value: ir.Value, decision: Decision) -> ir.Value:
        """What `reader` is to read instead of `value`; new nodes stand before their first reader.

        Raises:
            StageError: As `quantize`.
        """
        tuned = decision.kind == "weight" and self.tuning is not None and decision.node in self.tuning.levels
        key = (value, decision.axis, decision.node if tuned else "")
        if key not in self.made:
            weight = decision.kind == "weight"
            self.made[key] = (self._weight if weight else self._activation)(reader, value, decision)
        return self.made[key]

    def _activation(self, reader: ir.Node, value: ir.Value, decision: Decision) -> ir.Value:
        name = name_of(value)
        scale = self._constant(f"{name}_scale", self._activation_scale(decision))
        node = ir.node("QuantizeLinear", [value, scale, self.zero], name=unused(f"{name}_QuantizeLinear", self.nodes))
        reader.prepend(node)
        result = node.outputs[0]
        result.name, result.type = unused(f"{name}_quantized", self.taken), ir.TensorType(ir.DataType.INT8)
        return self._dequantized(reader, result, scale, self.zero, name, None)

    def _weight(self, reader: ir.Node, value: ir.Value, decision: Decision) -> ir.Value:
        name, array, axis = name_of(value), constant(value), decision.axis
        if array is None or axis is None or array.dtype != np.float32:
            raise wrong_plan(decision)
        weight = array.astype(np.float32, copy=False)
        if self.tuning is not None and decision.node in self.tuning.levels:
            scales = self.tuning.scales[decision.node]
            levels = unfold(reader, self.tuning.levels[decision.node], weight.shape)
            if levels.shape != weight.shape or scales.shape != (weight.shape[axis],):
                raise wrong_plan(decision)
        else:
            scales = choose_weight_scales(weight, axis)
            column = scales.reshape([-1 if i == axis else 1 for i in range(weight.ndim)])
            levels = _round_to_levels(weight, column).astype(np.int8)
        quantized = self._constant(f"{name}_quantized", levels)
        scale = self._constant(f"{name}_scale", scales)
        zero = self._constant(f"{name}_zero", np.zeros(len(scales), np.int8))
        return self._dequantized(reader, quantized, scale, zero, name, axis)

    def _dequantized(
        self, reader: ir.Node, value: ir.Value, scale: ir.Value, zero: ir.Value, name: str, axis: int | None
    ) -> ir.Value:
        attributes = {} if axis is None else {"axis": axis}
        label = unused(f"{name}_DequantizeLinear", self.nodes)
        node = ir.node("DequantizeLinear", [value, scale, zero], attributes, name=label)
        reader.prepend(node)
        result = node.outputs[0]
        result.name, result.type = unused(f"{name}_dequantized", self.taken), ir.TensorType(ir.DataType.FLOAT)
        return result

    def _constant(self, name: str, array: NDArray[np.generic]) -> ir.Value:
        return add_constant(self.graph, name, array, taken=self.taken)

    def _activation_scale(self, decision: Decision) -> NDArray[np.float32]:
        """The scale amax / 127 as a scalar; a tensor that was always zero gets the smallest scale.

        Raises:
            StageError: No range, an impossible one, or one beyond float16 in the typed dialect.
        """
        tensor = decision.tensor
        amax = self.ranges.tensors.get(tensor)
        if amax is None:
            raise StageError(
                f"no calibrated range for '{tensor}', input {decision.input} of '{decision.node}'",
                why=f"the plan quantizes it, and the {len(self.ranges.tensors)} ranges given do not name it",
                fix="calibrate the graph that the plan was made for, with all its activation tensors",
            )
        if not np.isfinite(amax) or amax < 0:
            raise StageError(
                f"the calibrated range of '{tensor}' is {amax}",
                why="a range is the largest absolute value seen, finite and not negative",
                fix="check the calibration images and the weights for NaN and infinity",
            )
        if self.dialect == "typed" and amax > FLOAT16_MAX and decision.node not in self.wide:
            raise StageError(
                f"'{tensor}' does not fit float16",
                why=f"calibration saw {amax:.4g}, float16 ends at {FLOAT16_MAX:.0f}",
                fix="build for a float32-typed target, or fold the large scale into the layer before",
            )
        scale = np.asarray(max(amax / LEVELS, MIN_SCALE), np.float32)
        return _round_to_float16(scale) if self.dialect == "typed" else scale


def wrong_plan(decision: Decision) -> StageError:
    """The error for a decision that finds no place."""
    return StageError(
        f"the plan does not fit the graph at '{decision.node}', input {decision.input}",
        why=f"the plan wants to quantize '{decision.tensor}' there as {decision.kind}",
        fix="make the plan from the very graph that is quantized",
    )
