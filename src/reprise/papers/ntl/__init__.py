"""Non-Transferable Learning (Lixu Wang, Shichao Xu, Ruiqi Xu, Xiao Wang, Qi Zhu; ICLR 2022, arXiv 2106.06916).

A classifier is trained so that it keeps its accuracy on the source domain and loses it on an auxiliary domain, and so that
the loss is written into its features: L_ntl = L_S - min(beta, alpha L_A L_dis), L_dis = min(beta', alpha' MMD). What the
auxiliary domain is decides what it is good for.

- Section 3: the objective, its forms and the MMD -> `loss`; the network cut at the split layer -> `model`
- Section 3: the training algorithm, shared by all -> `fit`; supervised learning, the start of NTL -> `pretrain`
- Target-specified, source-only, ownership verification (section 4.2), authorisation (section 4.3) -> `train`
- The patch, and the domains -> `data`, `domains`
- Source-only: conditional GAN -> `gan`; distances and directions of augmentation -> `augment`
- Six removal attacks on NTL and on a conventional watermark -> `attack`
- Drops, verification, authorisation, what a thief achieves at best -> `evaluate`, `report`
"""
