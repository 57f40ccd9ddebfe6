"""Small Towers Make Big Differences (Wang, Zhao, Dai, Fifty, Lin, Hong, Chi, 2020; "Can Small Heads Help?", WWW 2022).

A shared-bottom multi-task network reads one representation h with one tower per task. Large towers fit conflicting tasks
together but let h specialise; the paper adds, while training only, one small auxiliary tower per task on the same label.

- Sections 3, 4: the model, the loss L = sum_t w_t [l(main_t) + gamma l(aux_t)], the auxiliary towers -> `model`
- Task weights (scalarisation, uncertainty, MGDA-UB) that the idea is orthogonal to -> `weighting`
- Two overlapping digits, left and right: the images, their split before composing -> `data`
- The grid of trainings behind a frontier, as one stack; the learning rate chosen on validation -> `train`
- Recommendation: will a user watch, how will they rate; the pooled auxiliary tower -> `movielens`
- Frontiers, hypervolume, the sweet spot in depth and width -> `frontier`, `evaluate`
"""
