"""Change the float type of what a graph holds."""

import numpy as np
import onnx_ir as ir

from edgehybrid.graph import Graph, values


def narrow_doubles(graph: Graph) -> int:
    """Compute in float32 what a file computes in float64, in place: no engine has a double.

    Such islands come from a constant of NumPy's default type. TensorRT's parser narrows them as well.

    Returns:
        How many tensors were narrowed.
    """
    found = [value for value in values(graph) if value.dtype == ir.DataType.DOUBLE]
    for value in found:
        if value.const_value is not None and value.is_initializer():
            value.const_value = ir.tensor(value.const_value.numpy().astype(np.float32), name=value.name)
        value.type = ir.TensorType(ir.DataType.FLOAT)
    for node in graph.nodes() if found else ():
        retype_attributes(node, ir.DataType.DOUBLE, ir.DataType.FLOAT)
    return len(found)


def retype_attributes(node: ir.Node, old: ir.DataType, new: ir.DataType) -> None:
    """Attributes that fix the type of a result: of Cast, Constant, ConstantOfShape and the like."""
    for name in ("to", "dtype"):
        if node.attributes.get_int(name, 0) == old:
            node.attributes[name] = ir.AttrInt64(name, new)
    fill = node.attributes.get_tensor("value", None)
    if fill is not None and fill.dtype == old:
        node.attributes["value"] = ir.AttrTensor("value", ir.tensor(fill.numpy().astype(new.numpy())))
