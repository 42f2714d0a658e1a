"""Texts that are in several splits, exactly or nearly.

Near-duplicates are found as in chapter 3 of Leskovec, Rajaraman and Ullman, "Mining of Massive
Datasets": MinHash signatures of word shingles, banded into a locality-sensitive hash index. The
index only proposes pairs; each is then verified by the exact Jaccard similarity of its shingles.
"""

import numpy as np
import pandas as pd
from datasets import DatasetDict
from datasketch import LeanMinHash, MinHash, MinHashLSH

from lib.data.tables import SPLITS
from lib.data.words import find_words, normal_form

# Our choices.
THRESHOLD = 0.8  # Jaccard similarity from which two texts are near-duplicates
SHINGLE = 3  # words; two words changed in 60 leave a similarity of 0.82; shingles of five, 0.71
BANDS, ROWS = 16, 4  # of a signature: 1 of 4,500 pairs at the threshold shares no band
MAX_BUCKET = 128  # indexed texts per bucket, so that thousands of one template take linear time
MAX_VERIFIED = 64  # candidates per text, those of the most similar signatures first


def find_duplicates(splits: DatasetDict) -> pd.DataFrame:
    """Each held-out document that is in an earlier split too, with its most similar text there.

    Test is compared with train and validation, validation with train (see `audit` for the columns
    of `splits`). Texts are the same if they are in `lib.data.words.normal_form` and lower case;
    otherwise their similarity is the Jaccard similarity of their shingles of three words, without
    regard to case and punctuation. The end counts as two more words, so that texts of one or two
    words have shingles too.

    No pair is reported falsely. A pair at the threshold is overlooked with a chance of 0.0002, or
    of more where hundreds of texts are nearly as similar: these are only sampled.

    Returns
    -------
    DataFrame
        `id`, `split`, `other_id`, `other_split` str; `similarity` float in [0.8, 1]; `exact` bool.

    Raises
    ------
    ValueError
        `splits` contains no split of a known name.
    """
    table = tabulate(splits)

    # Compare distinct texts, each by its earliest document.
    first = table.drop_duplicates("text_id")  # in the order of text ids
    earliest = first["split_rank"].to_numpy()
    match, similarity = _most_similar(first["normalised_text"].tolist(), earliest)

    # A document is an exact duplicate, or in the earliest split of a text that has a similar one.
    text_id, rank = table["text_id"].to_numpy(), table["split_rank"].to_numpy()
    exact = (rank > earliest[text_id]) & (table["normalised_text"] != "").to_numpy()
    rows = np.flatnonzero(exact | (rank == earliest[text_id]) & (match[text_id] >= 0))
    exact, text_id = exact[rows], text_id[rows]
    held_out = table[["id", "split"]].iloc[rows].reset_index(drop=True)
    other = first[["id", "split"]].iloc[np.where(exact, text_id, match[text_id])]
    found = held_out.join(other.add_prefix("other_").reset_index(drop=True))
    return found.assign(similarity=np.where(exact, 1.0, similarity[text_id]), exact=exact)


def tabulate(splits: DatasetDict) -> pd.DataFrame:
    """All documents in the order of the splits, with four columns more.

    `split` str; `split_rank` int, 0 for train; `normalised_text` str; `text_id` int, the same for
    documents of the same normalised text, counted from 0 at its first appearance.

    Raises `ValueError` if `splits` contains no split of a known name.
    """
    names = [name for name in SPLITS if name in splits]
    if not names:
        raise ValueError(f"splits: contains none of {', '.join(SPLITS)}")
    frames = [splits[name].to_pandas().assign(split=name) for name in names]
    table = pd.concat(frames, ignore_index=True)
    table["text"] = table["text"].fillna("")
    table["normalised_text"] = [normal_form(text.lower()) for text in table["text"]]
    return table.assign(
        text_id=pd.factorize(table["normalised_text"])[0],
        split_rank=table["split"].map(SPLITS.index).astype(int),
    )


def _most_similar(texts: list[str], rank: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The most similar text of an earlier split, -1 if none, and its similarity, each (N,).

    `rank`, (N,) int and ascending, is the earliest split of each of the N distinct texts.
    """
    match, similarity = np.full(len(texts), -1), np.zeros(len(texts))
    held_out = np.flatnonzero(rank > rank.min(initial=len(SPLITS)))
    if not len(held_out):
        return match, similarity
    signatures = _signatures(texts)
    index = _index(signatures[rank < rank.max()])
    for query in held_out:
        # Candidates of earlier splits, those whose signatures agree most first.
        found = np.array(index.query(_lean(signatures[query])), dtype=int)
        found = np.sort(found[rank[found] < rank[query]])
        agreement = (signatures[found] == signatures[query]).sum(axis=1)
        shingles = _shingles(texts[query]) if len(found) else set()
        # Their exact similarity decides.
        for other in found[np.argsort(-agreement, kind="stable")[:MAX_VERIFIED]]:
            others = _shingles(texts[other])
            common = len(shingles & others)
            jaccard = common / max(len(shingles) + len(others) - common, 1)
            if jaccard >= THRESHOLD and jaccard > similarity[query]:
                match[query], similarity[query] = other, jaccard
    return match, similarity


def _shingles(text: str) -> set[str]:
    """Runs of `SHINGLE` words, the last ones filled up with empty words."""
    words = find_words(text) + [""] * (SHINGLE - 1)
    return set(map(" ".join, zip(*(words[i:] for i in range(SHINGLE)), strict=False)))


def _signatures(texts: list[str]) -> np.ndarray:
    """MinHash signatures, (N, BANDS * ROWS) uint32, the largest number where there are no words."""
    encoded = ([shingle.encode() for shingle in _shingles(text)] for text in texts)
    minhashes = MinHash.generator(encoded, num_perm=BANDS * ROWS)
    return np.array([minhash.hashvalues for minhash in minhashes], dtype=np.uint32)


def _lean(signature: np.ndarray) -> LeanMinHash:
    return LeanMinHash(seed=1, hashvalues=signature, scheme="affine32")


def _index(signatures: np.ndarray) -> MinHashLSH:
    """Index of (N, BANDS * ROWS) signatures, whose buckets contain up to MAX_BUCKET texts each.

    A full bucket takes no further text. A query that is similar to a text left out is mostly
    similar to those inside too, or meets that text in another band.
    """
    bounded = signatures.copy()
    for start in range(0, BANDS * ROWS, ROWS):
        band = pd.DataFrame(signatures[:, start : start + ROWS])
        full = np.flatnonzero(band.groupby(list(band.columns)).cumcount() >= MAX_BUCKET)
        bounded[full, start : start + ROWS] = full[:, None]  # a bucket that no query asks for
    index = MinHashLSH(num_perm=BANDS * ROWS, params=(BANDS, ROWS))
    for row, signature in enumerate(bounded):
        index.insert(row, _lean(signature), check_duplication=False)
    return index
