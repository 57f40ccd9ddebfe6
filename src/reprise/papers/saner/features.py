"""Token features: the one door for frozen contextual states (BERT, MiniLM, any encoder), computed once, kept in half precision.

A features file is a safetensors file with `features` (tokens, C) in float16, the tokens of train, dev and test one after
the other. It is read as a memory map, so a training step touches only the rows of its batch.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

from reprise.errors import ReproError


class TokenFeatures:
    """Rows of a features file, by token number."""

    def __init__(self, path: Path, tokens: int):
        """Raises:
        ReproError: the file does not hold one row for each of `tokens` tokens.
        """
        self.slice = safe_open(path, "pt").get_tensor("features")  # mapped, not read
        if len(self.slice) != tokens:
            raise ReproError(f"{path} has features of {len(self.slice)} tokens, the corpus has {tokens}: compute them again")

    @property
    def size(self) -> int:
        """C, the number of features of a token."""
        return self.slice.shape[1]

    def __getitem__(self, tokens: np.ndarray) -> torch.Tensor:
        """Token numbers (...) -> features (..., C), float32."""
        return self.slice[torch.as_tensor(tokens)].float()


def write(path: Path, sentences: Iterable[list[str]], encode: Callable[[list[str]], np.ndarray]) -> None:
    """Write the features of all tokens; `encode` maps the n words of a sentence to (n, C)."""
    save_file({"features": np.concatenate([np.asarray(encode(tokens), np.float16) for tokens in sentences])}, path)


def transformer(folder: Path, layers: int) -> Callable[[list[str]], np.ndarray]:
    """A frozen Hugging Face encoder as `encode`: the first sub-word of each word, the mean of the last `layers` layers.

    Needs the package `transformers`; `folder` holds the model (config, tokenizer, safetensors weights). A word that the
    model's longest input cuts off has features 0.

    Raises:
        ReproError: the package or the model is missing.
    """
    try:
        from transformers import AutoModel, AutoTokenizer
    except ImportError:
        raise ReproError("contextual features need the package 'transformers': pip install transformers, or leave out the parameter `features`") from None
    if not (folder / "config.json").exists():
        raise ReproError(f"{folder} holds no model (config.json is missing): put a Hugging Face model there, or leave out the parameter `features`")
    tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True)
    model = AutoModel.from_pretrained(folder, use_safetensors=True).eval()

    @torch.no_grad()
    def encode(tokens: list[str]) -> np.ndarray:
        pieces = tokenizer(tokens, is_split_into_words=True, truncation=True, max_length=model.config.max_position_embeddings, return_tensors="pt")
        states = torch.stack(model(**pieces, output_hidden_states=True).hidden_states[-layers:]).mean(0)[0]
        owner = [-1 if w is None else w for w in pieces.word_ids()]
        features = np.zeros((len(tokens), states.shape[-1]), np.float32)
        words, first = np.unique(owner, return_index=True)
        features[words[words >= 0]] = states.numpy()[first[words >= 0]]
        return features

    return encode
