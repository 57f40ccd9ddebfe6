"""Named Entity Recognition for Social Media Texts with Semantic Augmentation (Nie, Tian, Wan, Song, Dai; EMNLP 2020).

Most entities of a message's test set never occur in training. Each word is therefore given the words most like it in a
large embedding, weighted by how well they fit its context, and a gate mixes them with the contextual state.

- Introduction: entities that training never showed -> counted in `evaluate.Analysis`
- The method: attentive semantic augmentation
  - the m most similar words of every word -> `embeddings.neighbours`
  - their attentive sum v_i, and direct summation -> `model.Augmentation`
- The method: the gate module, g_i and u_i = [g * h; (1 - g) * v] -> `model.Gate`
- The method: the tagging procedure
  - word representation -> `model.Tagger.represent`, `layers.CharCNN`, contextual states -> `features`
  - the adapted transformer: relative attention with direction and distance -> `encoders.RelativeAttention`
  - the conditional random field over BIOES tags -> `crf`
- Experiments: data sets -> `text`, `data`; the generated corpus that stands in for them -> `tweetgen`
- Experiments: settings, training -> `train`, `pipelines/saner/params.yaml`
- Results: ablation, unseen entities, number of similar words -> `evaluate`, `report`

Source vectors trained here on unlabelled text (PPMI and SVD) take the place of GloVe -> `embeddings`. All seeds of a
variant are trained at once: every layer has a leading axis of members -> `layers`. Sections are named, not numbered.
"""
