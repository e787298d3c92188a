"""A product with 1 behind every GELU that is one operator: something that factors per channel can hide in.

Written out, y = 0.5 x (1 + erf(x / sqrt 2)) ends in a product with a constant, which takes factors. The operator Gelu
of opset 20, which torch's newer exporter writes, has no constant. What no factors went into is taken away again.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edgehybrid.graph import Graph, add_constant, constant, name_of, unused, values


def add_gains(graph: Graph) -> list[ir.Node]:
    """Put a product with 1 behind every Gelu, in place; the products, which get the names of the tensors."""
    taken, products = {value.name for value in values(graph)}, []
    for node in tuple(graph.nodes("Gelu")):
        output = node.outputs[0]
        if output.is_graph_output():
            continue
        name = name_of(output)
        one = add_constant(graph, f"{name}_gain", np.ones((), np.float32), taken=taken)
        product = ir.node("Mul", [output, one], name=f"{node.name}/gain")
        scaled = product.outputs[0]
        scaled.shape, scaled.type = output.shape, output.type
        ir.convenience.replace_all_uses_with(output, scaled)
        product.replace_input_with(0, output)
        output.name, scaled.name = unused(f"{name}_plain", taken), name
        graph.body.insert_after(node, product)
        products.append(product)
    return products


def drop_idle_gains(graph: Graph, products: Sequence[ir.Node]) -> None:
    """Take away, in place, those of the products that are still with 1."""
    for product in products:
        (output, one), scaled = product.inputs, product.outputs[0]
        gain = constant(one)
        if output is None or one is None or gain is None or gain.shape or gain != 1:
            continue
        name = name_of(scaled)
        ir.convenience.replace_all_uses_with(scaled, output)
        graph.body.remove(product, safe=True)
        del graph.body.initializers[name_of(one)]
        output.name = name
