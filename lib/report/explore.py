"""What 01_explore_data shows of labelled documents: figures and tables."""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import regex
import seaborn as sns
from datasets import DatasetDict
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from scipy.sparse import csr_array
from sklearn.feature_extraction.text import CountVectorizer
from transformers import PreTrainedTokenizerBase

from lib.data.labels import LabelSpace
from lib.data.words import find_words, normal_form
from lib.model.tokens import encode_documents
from lib.report.figures.fonts import tick_labels


def plot_class_counts(splits: DatasetDict, label_space: LabelSpace, *, most: int = 45) -> Figure:
    """Documents of each label in each split, on a log scale, the most frequent labels first.

    With more than `most` labels, a second panel shows the training documents of all of them.
    """
    table = pd.DataFrame(
        {name: label_space.encode(split["labels"]).sum(axis=0) for name, split in splits.items()},
        index=label_space.names,
    ).sort_values("train", ascending=False, kind="stable")
    counts, panels = table[:most], 1 + (len(table) > most)
    ticks = tick_labels(counts.index)
    ratios = {"width_ratios": [len(counts), 15][:panels]}
    size = (max(5.0, 1.5 + 0.16 * len(counts)) + 2.3 * (panels - 1), 3.8)
    fig, axs = plt.subplots(1, panels, figsize=size, squeeze=False, gridspec_kw=ratios)
    places = np.arange(len(counts))
    for (name, column), marker, aside in zip(counts.items(), "osD", (-0.2, 0, 0.2), strict=True):
        axs[0, 0].plot(places + aside, column.replace(0, np.nan), marker, ms=3.5, label=name)
    axs[0, 0].set(yscale="log", ylabel="documents", xlim=(-1, len(counts)))
    axs[0, 0].set_xticks(places, ticks, rotation=90, size=7)
    axs[0, 0].legend(frameon=False)
    if panels > 1:
        axs[0, 0].set_title(f"the {most} most frequent of {len(table)} labels", size=9)
        axs[0, 1].plot(range(1, len(table) + 1), table["train"].replace(0, np.nan), color="black")
        axs[0, 1].axvline(most, color="0.5", ls=":")
        axs[0, 1].set_title("all labels", size=9)
        axs[0, 1].set(xscale="log", yscale="log", xlabel="rank", ylabel="training documents")
        axs[0, 1].xaxis.set_major_formatter("{x:g}")
    for ax in axs[0]:
        ax.yaxis.set_major_formatter("{x:g}")
    fig.tight_layout()
    return fig


def plot_labels_per_document(splits: DatasetDict) -> Figure:
    """Share of each split's documents that have one label, two, three and so on."""
    shares = {
        name: pd.Series([len(labels) for labels in split["labels"]]).value_counts(normalize=True)
        for name, split in splits.items()
    }
    fig, ax = plt.subplots(figsize=(6, 2.8))
    for (name, share), marker in zip(shares.items(), "osD", strict=True):
        share = share.sort_index()
        ax.plot(share.index, share, marker=marker, ms=4, lw=1, label=name)
    ax.set(xlabel="labels of a document", ylabel="share of the split", yscale="log")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.yaxis.set_major_formatter("{x:g}")
    ax.legend(frameon=False)
    fig.tight_layout()
    return fig


def cooccurrence(y: np.ndarray) -> np.ndarray:
    """P(column | row), (C, C) float: the share of a row label's documents that have the column's.

    `y` is (N, C) bool. The row of a label without documents is 0.
    """
    counts = y.T.astype(np.float32) @ y.astype(np.float32)  # exact up to 2^24 documents
    return counts / np.maximum(np.diag(counts), 1)[:, None]


def plot_cooccurrence(y: np.ndarray, names: Sequence[str], *, most: int = 20) -> Figure:
    """Heat map of P(column | row) among the most frequent labels; the diagonal is left out."""
    top = np.argsort(-y.sum(axis=0), kind="stable")[:most]
    ticks = tick_labels(names[c] for c in top)
    size = 2.4 + 0.24 * len(top)
    fig, ax = plt.subplots(figsize=(size + 1.2, size))
    sns.heatmap(cooccurrence(y[:, top]), ax=ax, mask=np.eye(len(top), dtype=bool), vmin=0,
                cmap="cividis", square=True, linewidths=0.3, xticklabels=ticks, yticklabels=ticks,
                cbar_kws={"label": "share of the row's documents", "shrink": 0.8})  # fmt: skip
    ax.tick_params(axis="x", labelrotation=90, labelsize=7)
    ax.tick_params(axis="y", labelrotation=0, labelsize=7)
    ax.grid(visible=False)
    ax.set(xlabel="have this label too", ylabel="of the documents with this label")
    fig.tight_layout()
    return fig


def count_tokens(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> np.ndarray:
    """Tokens of each of N texts, (N,) int, without the frame that the model puts around them."""
    ids = encode_documents(tokenizer, texts, max_length=10_000_000, add_special_tokens=False)
    return np.array([len(document) for document in ids], dtype=int)


def plot_token_lengths(lengths: Sequence[int], max_length: int) -> Figure:
    """Histogram of tokens a document, with the line behind which texts are cut."""
    fig, ax = plt.subplots(figsize=(6, 2.8))
    bins = int(np.clip(2 * np.sqrt(len(lengths)), 8, 60))
    sns.histplot(np.maximum(lengths, 1), ax=ax, bins=bins, log_scale=True)
    ax.axvline(max_length, color="black", ls="--")
    ax.set_title(f"dashed: max_length = {max_length}", size=9)
    ax.set(xlabel="tokens of a document", ylabel="documents")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter("{x:g}")
    fig.tight_layout()
    return fig


def _pairs(text: str) -> list[str]:
    """Pairs of characters with their marks, spaces counted."""
    characters = regex.findall(r"\X", normal_form(text))
    return list(map("".join, pairwise(characters)))


def telling_terms(
    texts: Sequence[str],
    y: np.ndarray,
    names: Sequence[str],
    *,
    terms: int = 8,
    least_z: float = 1.96,
    prior: float = 10.0,
) -> pd.DataFrame:
    """The words whose presence tells most for each label, the label with most documents first.

    Log-odds of a word in the label's documents against all others, with a Dirichlet prior in
    proportion to the whole, over their standard deviation: Monroe, Colaresi and Quinn (2008),
    "Fightin' Words", Political Analysis 16(4), equations 16, 20 and 22. A word counts once a
    document and must stand in two of the label's, so that no single text decides. Stop words need
    no list: they tell little, and where they do ("who", "where"), they are shown. Texts without
    spaces are cut into pairs of characters.

    Parameters
    ----------
    texts, y
        N texts and their labels, (N, C) bool.
    names
        C names of labels.
    terms
        Words to show a label.
    least_z
        Standard deviations below which a word is not shown; 1.96 is the two-sided 5 % of one test.
    prior
        Weight of the prior: so many documents that hold each word at its overall rate.

    Returns
    -------
    DataFrame
        `label` str, `documents` int, `terms` str, joined by spaces; "" if nothing is certain.
    """
    spaced = np.median([len(text) / max(len(text.split()), 1) for text in texts]) < 20
    cut = partial(find_words, least=2) if spaced else _pairs
    vectorizer = CountVectorizer(
        binary=True, max_features=50_000, dtype=np.float64, tokenizer=cut, token_pattern=None
    )
    support = y.sum(axis=0)
    order = np.argsort(-support, kind="stable")
    result = pd.DataFrame({"label": np.array(names, dtype=object), "documents": support})
    try:
        counts = csr_array(vectorizer.fit_transform(texts))  # (N, V)
    except ValueError:  # no word at all
        return result.assign(terms="").iloc[order].reset_index(drop=True)
    here = (csr_array(y.T.astype(np.float64)) @ counts).tocoo()  # (C, V), words that occur
    total = counts.sum(axis=0)  # (V,)
    mass = prior * total.sum() / len(texts)
    alpha = prior * total[here.col] / len(texts)
    size = here.sum(axis=1)[here.row]
    there, others = total[here.col] - here.data, total.sum() - size
    with np.errstate(divide="ignore", invalid="ignore"):  # a vocabulary of one word
        odds_here = (here.data + alpha) / (size + mass - here.data - alpha)
        odds_there = (there + alpha) / (others + mass - there - alpha)
        z = np.log(odds_here / odds_there) / np.sqrt(1 / (here.data + alpha) + 1 / (there + alpha))
    words = vectorizer.get_feature_names_out()[here.col]
    table = pd.DataFrame({"row": here.row, "word": words, "z": z})
    certain = (table["z"] >= least_z) & (here.data > 1)
    table = table[certain].sort_values(["row", "z"], ascending=[True, False])
    best = table.groupby("row").head(terms).groupby("row")["word"].agg(" ".join)
    result["terms"] = best.reindex(range(len(result)), fill_value="")
    return result.iloc[order].reset_index(drop=True)
