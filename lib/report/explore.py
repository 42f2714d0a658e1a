"""Figures and tables of labelled documents, for 01_explore_data.

Limits without a source are our choices.
"""

from collections.abc import Callable, Sequence
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
from scipy.sparse import coo_array, csr_array, issparse
from sklearn.feature_extraction.text import CountVectorizer
from transformers import PreTrainedTokenizerBase

from lib.data.labels import LabelSpace
from lib.data.words import find_words, normal_form
from lib.model.tokens import encode_documents
from lib.report.figures.fonts import tick_labels

MAX_LABELS, MAX_COOCCURRING = 45, 20  # labels of a figure of counts, and of a heat map
SPLIT_MARKERS = "osD"
MAX_WORDS = 8  # words per label
MIN_Z = 1.96  # standard deviations from which a word is certain: two-sided 5 % of one test
PRIOR = 10.0  # weight of the prior, in documents that contain each word at its overall rate


def plot_class_counts(splits: DatasetDict, label_space: LabelSpace) -> Figure:
    """Documents of each label in each split, on a log scale, the most frequent labels first.

    With more than `MAX_LABELS`, a second panel shows the training documents of all labels by rank.
    `splits` are those of `lib.data.load_splits`.
    """
    # Counts per label and split
    table = pd.DataFrame(
        {name: label_space.encode(split["labels"]).sum(axis=0) for name, split in splits.items()},
        index=label_space.names,
    ).sort_values("train", ascending=False, kind="stable")
    counts, panels = table[:MAX_LABELS], 1 + (len(table) > MAX_LABELS)
    ticks = tick_labels(counts.index)
    ratios = {"width_ratios": [len(counts), 15][:panels]}
    size = (max(5.0, 1.5 + 0.16 * len(counts)) + 2.3 * (panels - 1), 3.8)
    fig, axs = plt.subplots(1, panels, figsize=size, squeeze=False, gridspec_kw=ratios)
    # A mark per label and split, a little apart
    ax, places = axs[0, 0], np.arange(len(counts))
    looks = zip(counts.items(), SPLIT_MARKERS, (-0.2, 0, 0.2), strict=True)
    for (name, column), marker, aside in looks:
        ax.plot(places + aside, column.replace(0, np.nan), marker, ms=3.5, label=name)
    ax.set(yscale="log", ylabel="documents", xlim=(-1, len(counts)))
    ax.set_xticks(places, ticks, rotation=90, size=7)
    ax.legend(frameon=False)
    # All labels by rank
    if panels > 1:
        ax.set_title(f"the {MAX_LABELS} most frequent of {len(table)} labels", size=9)
        ax = axs[0, 1]
        ax.plot(range(1, len(table) + 1), table["train"].replace(0, np.nan), color="black")
        ax.axvline(MAX_LABELS, color="0.5", ls=":")
        ax.set_title("all labels", size=9)
        ax.set(xscale="log", yscale="log", xlabel="rank", ylabel="training documents")
        ax.xaxis.set_major_formatter("{x:g}")
    for ax in axs[0]:
        ax.yaxis.set_major_formatter("{x:g}")
    fig.tight_layout()
    return fig


def plot_labels_per_document(splits: DatasetDict) -> Figure:
    """Share of each split's documents with one label, two, three and so on."""
    fig, ax = plt.subplots(figsize=(6, 2.8))
    for (name, split), marker in zip(splits.items(), SPLIT_MARKERS, strict=True):
        share = pd.Series(map(len, split["labels"])).value_counts(normalize=True).sort_index()
        ax.plot(share.index, share, marker=marker, ms=4, lw=1, label=name)
    ax.set(xlabel="labels per document", ylabel="share of the split", yscale="log")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.yaxis.set_major_formatter("{x:g}")
    ax.legend(frameon=False)
    fig.tight_layout()
    return fig


def cooccurrence(y: np.ndarray) -> np.ndarray:
    """P(column | row), (C, C) float32: the share of a row label's documents with the column label.

    `y` is (N, C) bool. The row of a label without documents is 0.
    """
    counts = y.T.astype(np.float32) @ y.astype(np.float32)  # exact up to 2^24 documents
    return counts / np.maximum(np.diag(counts), 1)[:, None]


def plot_cooccurrence(y: np.ndarray, names: Sequence[str]) -> Figure:
    """Heat map of `cooccurrence` among the 20 most frequent labels, without the diagonal.

    `y` is (N, C) bool, dense or sparse; `names` are those of the C labels.
    """
    top = np.argsort(-y.sum(axis=0), kind="stable")[:MAX_COOCCURRING]
    ticks = tick_labels(names[c] for c in top)
    size = 2.4 + 0.24 * len(top)
    fig, ax = plt.subplots(figsize=(size + 1.2, size))
    of_top = y[:, top]
    of_top = of_top.toarray() if issparse(of_top) else of_top  # of very many labels
    sns.heatmap(cooccurrence(of_top), ax=ax, mask=np.eye(len(top), dtype=bool), vmin=0,
                cmap="cividis", square=True, linewidths=0.3, xticklabels=ticks, yticklabels=ticks,
                cbar_kws={"label": "share of the row's documents", "shrink": 0.8})  # fmt: skip
    ax.tick_params(axis="x", labelrotation=90, labelsize=7)
    ax.tick_params(axis="y", labelrotation=0, labelsize=7)
    ax.grid(visible=False)
    ax.set(xlabel="have this label too", ylabel="of the documents with this label")
    fig.tight_layout()
    return fig


def count_tokens(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> np.ndarray:
    """The number of tokens of each of N texts, (N,) int, without special tokens around them."""
    ids = encode_documents(tokenizer, texts, max_length=10_000_000, add_special_tokens=False)
    return np.array([len(document) for document in ids], dtype=int)


def plot_token_lengths(lengths: Sequence[int], max_length: int) -> Figure:
    """Histogram of `lengths`, in tokens per document; the line shows where texts are cut."""
    fig, ax = plt.subplots(figsize=(6, 2.8))
    bins = int(np.clip(2 * np.sqrt(len(lengths)), 8, 60))
    sns.histplot(np.maximum(lengths, 1), ax=ax, bins=bins, log_scale=True)
    ax.axvline(max_length, color="black", ls="--")
    ax.set_title(f"dashed: {max_length} tokens are read", size=9)
    ax.set(xlabel="tokens per document", ylabel="documents")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter("{x:g}")
    fig.tight_layout()
    return fig


def distinctive_words(texts: Sequence[str], y: np.ndarray, names: Sequence[str]) -> pd.DataFrame:
    """The most distinctive words of each label, the label with most documents first.

    A row per label: `label documents words`. `words` are joined by spaces, "" if none is certain.

    Words are ranked by the log-odds of a word in the label's documents against all others, with a
    Dirichlet prior in proportion to the whole, over its standard deviation: Monroe, Colaresi and
    Quinn (2008), "Fightin' Words", Political Analysis 16(4), equations 16, 20 and 22. A word counts
    once per document and must be in two documents of the label, so that no single text decides.
    There is no list of stop words: they are seldom distinctive, and where they are ("who",
    "where"), they are shown. Texts without spaces are cut into pairs of characters.

    `texts` are N, `y` is (N, C) bool, dense or sparse, and `names` are those of the C labels.
    """
    support = y.sum(axis=0)
    order = np.argsort(-support, kind="stable")
    result = pd.DataFrame({"label": np.array(names, dtype=object), "documents": support})
    # Documents that contain each word, (N, V)
    options = {"binary": True, "max_features": 50_000, "dtype": np.float64}
    vectorizer = CountVectorizer(tokenizer=_cutter(texts), token_pattern=None, **options)
    try:
        counts = csr_array(vectorizer.fit_transform(texts))
    except ValueError:  # no word at all
        return result.assign(words="").iloc[order].reset_index(drop=True)
    y_kw = (csr_array(y.T.astype(np.float64)) @ counts).tocoo()  # (C, V): label k, word w
    words = vectorizer.get_feature_names_out()[y_kw.col]
    table = pd.DataFrame({"label": y_kw.row, "word": words, "z": _z_scores(y_kw, counts)})
    # The words that are certain, the most distinctive first
    table = table[(table["z"] >= MIN_Z) & (y_kw.data > 1)]
    table = table.sort_values(["label", "z"], ascending=[True, False])
    best = table.groupby("label").head(MAX_WORDS).groupby("label")["word"].agg(" ".join)
    result["words"] = best.reindex(range(len(result)), fill_value="")
    return result.iloc[order].reset_index(drop=True)


def _z_scores(y_kw: coo_array, counts: csr_array) -> np.ndarray:
    """Log-odds ratio over its standard deviation for each entry of `y_kw`, (label k, word w).

    Names are those of the paper: y are counts, n their sums, alpha the prior. `counts` is (N, V).
    """
    y_w = counts.sum(axis=0)  # (V,)
    n = y_w.sum()
    alpha_w = PRIOR * y_w[y_kw.col] / counts.shape[0]
    alpha_0 = PRIOR * n / counts.shape[0]
    # The label, k, and all other documents, j
    y_k, n_k = y_kw.data, y_kw.sum(axis=1)[y_kw.row]
    y_j, n_j = y_w[y_kw.col] - y_k, n - n_k
    with np.errstate(divide="ignore", invalid="ignore"):  # a vocabulary of one word
        odds_k = (y_k + alpha_w) / (n_k + alpha_0 - y_k - alpha_w)
        odds_j = (y_j + alpha_w) / (n_j + alpha_0 - y_j - alpha_w)
        return np.log(odds_k / odds_j) / np.sqrt(1 / (y_k + alpha_w) + 1 / (y_j + alpha_w))


def _cutter(texts: Sequence[str]) -> Callable[[str], list[str]]:
    """A function that cuts a text into words of at least two characters.

    If most texts have no spaces, it cuts into pairs of characters, with their combining marks.
    """
    if np.median([len(text) / max(len(text.split()), 1) for text in texts]) < 20:
        return partial(find_words, least=2)
    return lambda text: list(map("".join, pairwise(regex.findall(r"\X", normal_form(text)))))
