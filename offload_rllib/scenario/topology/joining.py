"""Joining the pieces of a graph."""

from __future__ import annotations

import networkx as nx
import numpy as np


def _pieces(graph: nx.Graph) -> list[list[int]]:
    """Return the pieces, the largest first, of equals the one with the smallest vertex."""
    return sorted((sorted(piece) for piece in nx.connected_components(graph)), key=lambda piece: (-len(piece), piece))


def join_at_random(graph: nx.Graph, rng: np.random.Generator) -> None:
    """Link every piece to those before it, the largest first, by one link between two drawn vertices."""
    first, *others = _pieces(graph)
    joined = list(first)
    for piece in others:
        graph.add_edge(joined[rng.integers(len(joined))], piece[rng.integers(len(piece))])
        joined += piece


def join_nearest(graph: nx.Graph, positions: np.ndarray) -> None:
    """Join the pieces by the shortest links that do it: those of a minimum spanning tree that lead between pieces.

    The tree is that of the positions [N, 2]; it lies within their Delaunay triangulation (Shamos and Hoey,
    "Closest-point problems", FOCS 1975), so that only the triangulation's edges are candidates.
    """
    pieces = _pieces(graph)
    if len(pieces) == 1:
        return
    if len(positions) < 4:
        candidates = np.array([(a, b) for a in range(len(positions)) for b in range(a)])
    else:
        from scipy.spatial import Delaunay

        corners = Delaunay(positions).simplices
        candidates = np.unique(
            np.sort(np.concatenate([corners[:, [0, 1]], corners[:, [1, 2]], corners[:, [0, 2]]]), axis=1), axis=0
        )
    lengths = np.linalg.norm(positions[candidates[:, 0]] - positions[candidates[:, 1]], axis=1)
    piece_of = nx.utils.UnionFind()
    for piece in pieces:
        piece_of.union(*piece)
    for a, b in candidates[np.argsort(lengths, kind="stable")].tolist():
        if piece_of[a] != piece_of[b]:
            piece_of.union(a, b)
            graph.add_edge(a, b)
