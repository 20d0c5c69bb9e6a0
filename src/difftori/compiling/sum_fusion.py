"""A sum of products as one product, in compiled graphs: A₁B₁ + A₂B₂ + … = [A₁ A₂ …][B₁; B₂; …].

A weight that is used at each step of a plan has a gradient that is a sum over the steps, for one
observation of outer products. One by one each of them reads and writes a matrix of the weight's
size; together they write it once.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files
from torch.fx import Graph, Node

aten = torch.ops.aten


class FuseMatmulSums(CustomGraphPass):
    """For inductor's ``post_grad_custom_pre_pass``."""

    def __call__(self, graph: Graph) -> None:
        """Rewrite each sum in ``graph`` with two or more products among its terms."""
        for node in list(graph.nodes):
            if _is_sum(node) and not _is_inside_a_sum(node):
                _fuse_terms(graph, node)
        graph.eliminate_dead_code()

    def uuid(self) -> bytes:
        """Of this file: what was compiled and cached with another one is compiled again."""
        return get_hash_for_files((__file__,))


def _fuse_terms(graph: Graph, total: Node) -> None:
    terms = list(_terms(total))
    products = [term for term in terms if term.target == aten.mm.default and len(term.users) == 1]
    if len(products) < 2:
        return
    with graph.inserting_before(total):
        left = call(graph, aten.cat.default, [product.args[0] for product in products], 1)
        right = call(graph, aten.cat.default, [product.args[1] for product in products], 0)
        merged = call(graph, aten.mm.default, left, right)
        for term in terms:
            if term not in products:
                merged = call(graph, aten.add.Tensor, merged, term)
    total.replace_all_uses_with(merged)


def _terms(node: Node) -> Iterator[Node]:
    """What a sum adds up, through sums that nothing else uses."""
    for operand in node.args:
        assert isinstance(operand, Node)
        if _is_sum(operand) and len(operand.users) == 1:
            yield from _terms(operand)
        else:
            yield operand


def _is_sum(node: Node) -> bool:
    """Of two tensors of one shape and dtype."""
    if node.target != aten.add.Tensor or node.kwargs:
        return False
    kinds = {
        (operand.meta["val"].shape, operand.meta["val"].dtype) if isinstance(operand, Node) else ()
        for operand in node.args
    }
    return len(kinds) == 1 and () not in kinds


def _is_inside_a_sum(node: Node) -> bool:
    return len(node.users) == 1 and _is_sum(next(iter(node.users)))


def call(graph: Graph, target: torch._ops.OpOverload, *args: Any) -> Node:
    """A new node, with the fake value that inductor's later passes read."""
    node = graph.call_function(target, args)
    node.meta["val"] = target(*torch.fx.map_arg(args, lambda arg: arg.meta["val"]))
    return node
