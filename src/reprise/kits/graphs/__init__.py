"""Undirected simple graphs as edge lists, and the ways in which generated graphs are judged.

- `graph`: the edge-list graph and its checks
- `orbits`: triangles and the 15 node orbits of graphlets with up to four nodes (Przulj 2007), by counting and inclusion-exclusion
- `statistics`: degree, clustering, orbit and spectrum vectors of a graph (protocol of Liao et al. 2019, GRAN)
- `mmd`: squared maximum mean discrepancy between two sets of such vectors
- `shapes`: is it a lobster, is it a grid, are these two the same graph
- `trees`: the same question for trees, in linear time
"""
