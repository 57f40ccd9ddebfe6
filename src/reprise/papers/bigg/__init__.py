"""Scalable Deep Generative Modeling for Sparse Graphs (Dai, Nazi, Li, Dai and Schuurmans, ICML 2020): BiGG.

- Section 2, p(G) = p(|V|) prod_u p(N_u | N_0 .. N_{u-1}), node by node in a fixed order -> `orders`, `plan.Rows`
- Section 3.1, a row as a binary tree over column intervals, of which only those with an edge are expanded:
  O((n + m) log n) decisions instead of n^2 / 2; top-down and bottom-up states, equations 5 to 10 -> `plan.plan_trees`,
  `model.BiGG.subtrees`, `model.BiGG.decisions`; one decision at a time, as a reference -> `recursive`, `exact`
- Section 3.2, rows summarised by a Fenwick forest; equations 11 and 12 -> `plan._forest`, `model.BiGG.row_blocks`, `.row_states`
- Section 3.3, training in O(log n) sequential steps over all rows and graphs at once -> `plan.plan_batch`, `model`;
  intervals up to B columns as bits -> `plan._patterns`; memory of one block of rows -> `blocks`
- The cells, light and in the authors' form -> `cells`; sampling many graphs at once -> `sample`
- Section 4, grid, lobster, Protein, point cloud and SAT -> `data`, `sat`; node orders -> `orders`; squared MMD of four
  statistics -> `reprise.kits.graphs`; Erdos-Renyi, rows at random -> `evaluate`; a dense autoregressive model (GraphRNN) -> `dense`
- Figures on cost: what is counted -> `costs`; what is timed -> `benchmarks/bigg.py`; learning rates -> `benchmarks/bigg_rates.py`
"""
