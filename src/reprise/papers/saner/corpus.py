"""A prepared corpus in memory: its sentences as padded numbers, and batches of them for S members."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.numpy import load_file

from reprise.errors import ReproError
from reprise.papers.saner.features import TokenFeatures
from reprise.papers.saner.model import Batch, Sizes

SPLITS = ["train", "dev", "test"]


class Corpus:
    """One prepared corpus. Labels are read when asked for: `tags("test")` belongs to evaluation alone.

    Args:
        folder: what `preprocess` wrote.
        device: where batches go.
        features: whether to open the contextual features.
    """

    def __init__(self, folder: Path, device: str = "cpu", features: bool = False):
        self.folder, self.device = folder, torch.device(device)
        self.types: list[str] = json.loads((folder / "types.json").read_text())
        self.forms, self.words = pd.read_parquet(folder / "forms.parquet"), pd.read_parquet(folder / "words.parquet")
        arrays = load_file(folder / "arrays.safetensors")
        self.letters_FL, self.near_WM = arrays["letters"], arrays["neighbours"] + 1  # 0: none
        self.vectors_RV = torch.from_numpy(np.pad(arrays["vectors"], ((1, 0), (0, 0))))
        self.word_of_form = self.forms.word.to_numpy()
        self.row_of_word = self.words.row.to_numpy() + 1
        seen = self.words.train.to_numpy()
        self.unk_or_word = np.where(seen, np.cumsum(seen), 0)  # learned vectors: training words from 1, all others 0
        tokens = pd.read_parquet(folder / "tokens.parquet")
        self.form_N, self.token_begin, begin = {}, {}, 0
        self.lengths, self.first_N = {}, {}
        for split in SPLITS:
            part = tokens[tokens.split == split]
            self.form_N[split] = part.form.to_numpy()
            first = np.append(True, part.sentence.to_numpy()[1:] != part.sentence.to_numpy()[:-1])
            self.first_N[split] = first
            self.lengths[split] = np.diff(np.append(np.flatnonzero(first), len(part)))
            self.token_begin[split], begin = begin, begin + len(part)
        self.features = None
        if features:
            if not (folder / "features.safetensors").exists():
                raise ReproError(f"{folder} has no contextual features: give preprocess the parameter `features`, or choose another `input`")
            self.features = TokenFeatures(folder / "features.safetensors", begin)

    @property
    def sizes(self) -> Sizes:
        """What a tagger has to know."""
        seen = int(self.unk_or_word.max())
        return Sizes(words=seen + 1, letters=int(self.letters_FL.max()) + 1, types=len(self.types), features=self.features.size if self.features else 0)

    def tags(self, split: str) -> np.ndarray:
        """The gold BIOES tags of a split's tokens."""
        return pd.read_parquet(self.folder / f"labels.{split}.parquet").tag.to_numpy()

    def batch(self, split: str, sentence_SB: np.ndarray, near_WM: np.ndarray, tags_N: np.ndarray | None = None) -> Batch:
        """The sentences `sentence_SB` of each member, padded to the longest; `near_WM`: similar words of each word, 0 for none."""
        lengths = self.lengths[split]
        begin = np.cumsum(lengths) - lengths
        length_SB = lengths[sentence_SB]
        steps_T = np.arange(length_SB.max())
        mask_SBT = steps_T < length_SB[..., None]
        token_SBT = np.where(mask_SBT, begin[sentence_SB][..., None] + steps_T, 0)
        form_SBT = self.form_N[split][token_SBT]
        word_SBT = self.word_of_form[form_SBT]
        distinct_U, place = np.unique(form_SBT, return_inverse=True)
        letters_UL = self.letters_FL[distinct_U]
        letters_UL = letters_UL[:, : (letters_UL > 0).sum(1).max()]

        def tensor(x):
            return torch.from_numpy(np.ascontiguousarray(x)).to(self.device)

        return Batch(
            mask_SBT=tensor(mask_SBT),
            word_SBT=tensor(self.unk_or_word[word_SBT]),
            row_SBT=tensor(self.row_of_word[word_SBT]),
            near_SBTM=tensor(near_WM[word_SBT]),
            form_SBT=tensor(place.reshape(form_SBT.shape)),
            letters_UL=tensor(letters_UL),
            feature_SBTC=self.features[self.token_begin[split] + token_SBT].to(self.device) if self.features else None,
            tag_SBT=None if tags_N is None else tensor(np.where(mask_SBT, tags_N[token_SBT], 0)),
        )

    def order(self, size: int, members: int, rng: np.random.Generator) -> list[np.ndarray]:
        """The batches (S, B) of one epoch: sentences of like length together, which ones drawn for each member.

        Each member sorts by length plus noise, so the k-th batches of all members are about equally long; the batches
        come in one random order.
        """
        lengths = self.lengths["train"]
        noisy = lengths + rng.uniform(-1.5, 1.5, (members, len(lengths)))
        batches = np.array_split(np.argsort(noisy, axis=1, kind="stable"), -(-len(lengths) // size), axis=1)
        return [batches[k] for k in rng.permutation(len(batches))]

    def in_order(self, split: str, members: int, size: int = 64) -> list[np.ndarray]:
        """The batches (S, B) of a whole split, by length, the same for all members."""
        by_length = np.argsort(self.lengths[split], kind="stable")
        return [np.broadcast_to(by_length[k : k + size], (members, len(by_length[k : k + size]))) for k in range(0, len(by_length), size)]

    def predict(self, tagger, split: str, members: int, near_WM: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tags and mean gate of all tokens of a split, (S, N) each, in the corpus's order."""
        lengths = self.lengths[split]
        begin = np.cumsum(lengths) - lengths
        tags_SN, gate_SN = np.zeros((members, lengths.sum()), np.int64), np.ones((members, lengths.sum()), np.float32)
        for sentence_SB in self.in_order(split, members):
            batch = self.batch(split, sentence_SB, near_WM)
            tags, gate = (x.cpu().numpy() for x in tagger.predict(batch))
            mask = batch.mask_SBT.cpu().numpy()
            token = (begin[sentence_SB][..., None] + np.arange(mask.shape[2]))[mask]
            member = np.broadcast_to(np.arange(members)[:, None, None], mask.shape)[mask]
            tags_SN[member, token], gate_SN[member, token] = tags[mask], gate[mask]
        return tags_SN, gate_SN
