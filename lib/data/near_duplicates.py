"""Texts that stand in several splits, exactly or nearly.

Near-duplicates are found as in chapter 3 of Leskovec, Rajaraman and Ullman, "Mining of Massive
Datasets": MinHash signatures of word shingles, banded into a locality-sensitive hash index. The
index only proposes pairs; each is then verified by the exact Jaccard similarity of its shingles.
"""

from itertools import chain

import numpy as np
import pandas as pd
from datasets import DatasetDict
from datasketch import LeanMinHash, MinHash, MinHashLSH

from lib.data.tables import SPLITS
from lib.data.words import find_words, normal_form

# Chosen here, as every number in this file whose comment names no source.
SHINGLE = 3  # words; two words changed in 60 leave a similarity of 0.82, with five it were 0.70
PERMUTATIONS = 64  # with threshold 0.8: 16 bands of 4, which miss 1 in 4,500 pairs at 0.8
MISS_RATE = 1e-3  # of pairs right at the threshold
BUCKET = 128  # indexed texts of one bucket: thousands that share a template stay linear
VERIFIED = 64  # candidates of a text that are verified, those of the most similar signatures first
PIECE = 4_000_000  # characters whose shingles are in memory at once


def find_duplicates(splits: DatasetDict, *, threshold: float = 0.8) -> pd.DataFrame:
    """Each held-out document that also stands in an earlier split, with its most similar text.

    Test is compared with train and validation, validation with train. Texts are the same if they
    are in `lib.data.words.normal_form` and lower case; otherwise their similarity is the Jaccard
    similarity of their shingles of three words, upper case and punctuation apart. The end counts
    as two more words, so that texts of one or two words have shingles too.

    Parameters
    ----------
    splits, threshold
        As in `audit`.

    Returns
    -------
    DataFrame
        `id`, `split`, `other_id`, `other_split` str; `similarity` float in [threshold, 1].

    Raises
    ------
    ValueError
        `threshold` is not in (0, 1], or `splits` holds no split of a known name.

    Notes
    -----
    No pair is reported falsely. One at the threshold is overlooked with a chance of 0.001, or more
    where hundreds of texts are nearly as similar: such a crowd is only sampled.
    """
    found = duplicates(tabulate(splits), threshold)
    return found.drop(columns="exact")


def tabulate(splits: DatasetDict) -> pd.DataFrame:
    """All documents in the order of the splits, with `split`, `rank` of the split, `key`, `code`.

    Documents of the same `key` have the same `code`, which counts up from 0 at first appearance.
    """
    names = [name for name in SPLITS if name in splits]
    if not names:
        raise ValueError(f"splits: holds none of {', '.join(SPLITS)}")
    frames = [splits[name].to_pandas().assign(split=name) for name in names]
    table = pd.concat(frames, ignore_index=True)
    table["text"] = table["text"].fillna("")
    table["key"] = [normal_form(text.lower()) for text in table["text"]]
    return table.assign(
        code=pd.factorize(table["key"])[0], rank=table["split"].map(SPLITS.index).astype(int)
    )


def duplicates(table: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """`find_duplicates` of a table, with the column `exact`, bool."""
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold: {threshold} is not in (0, 1]")
    first = table.drop_duplicates("code")  # in the order of codes; each text's earliest document
    earliest = first["rank"].to_numpy()
    match, similarity = _most_similar(first["key"].tolist(), earliest, threshold)
    code, rank = table["code"].to_numpy(), table["rank"].to_numpy()
    exact = (rank > earliest[code]) & (table["key"] != "").to_numpy()
    rows = np.flatnonzero(exact | (rank == earliest[code]) & (match[code] >= 0))
    exact, code = exact[rows], code[rows]
    held_out = table.iloc[rows].reset_index(drop=True)
    other = first.iloc[np.where(exact, code, match[code])].reset_index(drop=True)
    return pd.DataFrame(
        {
            "id": held_out["id"],
            "split": held_out["split"],
            "other_id": other["id"],
            "other_split": other["split"],
            "similarity": np.where(exact, 1.0, similarity[code]),
            "exact": exact,
        }
    )


def _most_similar(
    keys: list[str], rank: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """The most similar text of an earlier split, -1 if none, and its similarity.

    Parameters
    ----------
    keys, rank
        N distinct texts and, (N,) int, the split of each, ascending.
    """
    match, similarity = np.full(len(keys), -1), np.zeros(len(keys))
    held_out = np.flatnonzero(rank > rank.min(initial=len(SPLITS)))
    if not len(held_out):
        return match, similarity
    signatures = _signatures(keys)
    index = _index(signatures[rank < rank.max()], threshold)
    for query in held_out:
        found = np.array(index.query(_lean(signatures[query])), dtype=int)
        found = np.sort(found[rank[found] < rank[query]])
        agreement = (signatures[found] == signatures[query]).sum(axis=1)
        shingles = _shingles(keys[query]) if len(found) else set()
        for other in found[np.argsort(-agreement, kind="stable")[:VERIFIED]]:
            others = _shingles(keys[other])
            common = len(shingles & others)
            jaccard = common / max(len(shingles) + len(others) - common, 1)
            if jaccard >= threshold and jaccard > similarity[query]:
                match[query], similarity[query] = other, jaccard
    return match, similarity


def _padded_words(key: str) -> list[str]:
    return find_words(key) + [""] * (SHINGLE - 1)


def _shingles(key: str) -> set[tuple[str, ...]]:
    words = _padded_words(key)
    return set(zip(*(words[i:] for i in range(SHINGLE)), strict=False))


def _signatures(keys: list[str]) -> np.ndarray:
    """MinHash signatures, (N, PERMUTATIONS) uint32, the largest number where there are no words.

    The affine permutations are those of `datasketch.MinHash`, applied to all texts of a piece at
    once: 13 times faster than one object a text.
    """
    a, b = MinHash(num_perm=PERMUTATIONS).permutations  # (PERMUTATIONS,) uint32 each
    signatures = np.full((len(keys), PERMUTATIONS), np.iinfo(np.uint32).max, dtype=np.uint32)
    edges = np.flatnonzero(np.diff(np.cumsum([len(key) for key in keys]) // PIECE)) + 1
    pad = pd.util.hash_array(np.array([""], dtype=object))
    for piece in np.split(np.arange(len(keys)), edges):
        words = [_padded_words(keys[i]) for i in piece]
        sizes = np.array([len(padded) - SHINGLE + 1 for padded in words])
        hashed = pd.util.hash_array(np.array(list(chain(*words)), dtype=object))  # uint64
        shingles = np.zeros(len(hashed) - SHINGLE + 1, dtype=np.uint64)
        for i in range(SHINGLE):
            shingles = shingles * np.uint64(0x9E3779B97F4A7C15) + hashed[i:][: len(shingles)]
        shingles = shingles[hashed[: len(shingles)] != pad]  # none starts after a text's last word
        upper = (shingles >> np.uint64(32)).astype(np.uint32)
        starts = (np.cumsum(sizes) - sizes)[sizes > 0]
        for k in range(PERMUTATIONS if len(starts) else 0):
            least = np.minimum.reduceat(a[k] * upper + b[k], starts)  # wraps: modulo 2^32
            signatures[piece[sizes > 0], k] = least
    return signatures


def _lean(signature: np.ndarray) -> LeanMinHash:
    return LeanMinHash(seed=1, hashvalues=signature, scheme="affine32")


def _index(signatures: np.ndarray, threshold: float) -> MinHashLSH:
    """Index of (N, PERMUTATIONS) signatures, whose buckets hold at most BUCKET texts each.

    A bucket that is full takes no more: the texts in it agree so well that a query as similar to
    those left out meets those inside, or the others in one of its other bands.
    """
    sizes = range(1, PERMUTATIONS // 2 + 1)  # the index wants two bands or more
    misses = [(1 - threshold**size) ** (PERMUTATIONS // size) for size in sizes]
    size = max([s for s, miss in zip(sizes, misses, strict=True) if miss <= MISS_RATE], default=1)
    bands = PERMUTATIONS // size
    bounded = signatures.copy()
    for start in range(0, bands * size, size):
        band = pd.DataFrame(signatures[:, start : start + size])
        full = np.flatnonzero(band.groupby(list(band.columns)).cumcount() >= BUCKET)
        bounded[full, start : start + size] = full[:, None]  # a bucket that no query asks for
    index = MinHashLSH(num_perm=PERMUTATIONS, params=(bands, size))
    for row, signature in enumerate(bounded):
        index.insert(row, _lean(signature), check_duplication=False)
    return index
