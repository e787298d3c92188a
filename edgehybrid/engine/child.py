"""The child's side: read an order, let NVIDIA's library carry it out, answer in JSON."""

import importlib
import json
import os
import sys
from dataclasses import asdict

from edgehybrid.engine.bridge import compile_engine, log, try_engine, version_of
from edgehybrid.engine.order import ERROR, REFUSAL, REFUSED, Made, Order, RefusedError
from edgehybrid.errors import NotReadyError
from edgehybrid.store import decode


def main() -> None:
    """Carry out the order in `sys.argv[1]`: JSON of `Made` on stdout, NVIDIA's log and progress on stderr."""
    order = decode(Order, json.loads(sys.argv[1]))
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # NVIDIA's libraries print to stdout as well
    try:
        made = _carry_out(order)
    except ImportError as error:
        log(f"{ERROR}{error}")
        sys.exit(NotReadyError.exit_code)
    except RefusedError as refusal:
        log(f"{REFUSAL}{refusal}" if str(refusal) else "")
        sys.exit(REFUSED)
    json.dump(asdict(made), answer)
    answer.close()


def _carry_out(order: Order) -> Made:
    trt = importlib.import_module(order.module)
    if order.task == "version":
        return Made(version_of(trt))
    if order.task == "torch-tensorrt" or order.module == "torch_tensorrt":
        # torch is no business of the other tasks, which a board does without it
        compiler = importlib.import_module("edgehybrid.engine.torch_tensorrt")
        work = compiler.try_program if order.task == "load" else compiler.compile_program
        made: Made = work(trt, order)
        return made
    return try_engine(trt, order) if order.task == "load" else compile_engine(trt, order)
