"""A map of the documents, and a browser of them, for 01_explore_data.

Limits and sizes without a source are our choices.
"""

import html
import textwrap
from collections import Counter
from collections.abc import Mapping
from itertools import chain

import ipywidgets as widgets
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.io
import seaborn as sns
from datasets import Dataset, DatasetDict
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits
from transformers import PreTrainedTokenizerBase

from lib.config.arms import StudyParams
from lib.head import frozen
from lib.machine import choose_device, choose_dtype, configure_process
from lib.model.load import load_backbone
from lib.model.tokens import encode_documents
from lib.model.weights import load_tokenizer
from lib.report.figures.style import set_plot_style
from lib.report.wording import beginning, printable, shorten

# As many symbols as colours, so that grey print works
SYMBOLS = ["circle", "square", "diamond", "cross", "x"]
SYMBOLS += ["triangle-up", "triangle-down", "star", "hexagon"]
PALETTE = [colour for i, colour in enumerate(sns.color_palette("colorblind").as_hex()) if i != 7]
MAX_COLOURED = 9  # labels that have a colour of their own in the map
TWIN_CHARACTERS, HOVER_CHARACTERS = 160, 240  # of a text in the table of twins, and in the map


def side_by_side(splits: DatasetDict, pairs: pd.DataFrame) -> pd.DataFrame:
    """Pairs of `lib.data.find_duplicates` with both texts' beginnings, the most similar first."""
    texts = {(n, i): t for n, s in splits.items() for i, t in zip(s["id"], s["text"], strict=True)}
    table = pairs.sort_values("similarity", ascending=False, kind="stable", ignore_index=True)
    for side in ("", "other_"):
        keys = zip(table[f"{side}split"], table[f"{side}id"], strict=True)
        table[f"{side}text"] = [beginning(texts[key], TWIN_CHARACTERS) for key in keys]
    return table[["similarity", "split", "id", "text", "other_split", "other_id", "other_text"]]


def embed(
    documents: Dataset, model_id: str, *, max_length: int, token_budget: int, device: str
) -> np.ndarray:
    """Mean-pooled embeddings of N documents by a frozen encoder, (N, H) float32.

    At most `max_length` tokens of a document are read, and `token_budget` tokens are in one
    micro-batch. `device` is "auto", "cpu" or "cuda".
    """
    place = choose_device(device)
    dtype = choose_dtype(place)
    backbone = load_backbone(model_id, quantization="none", dtype=dtype, device=place)
    options = {"max_length": max_length, "add_special_tokens": True}
    tokens = encode_documents(load_tokenizer(model_id), documents["text"], **options)
    budget = {"dtype": dtype, "token_budget": token_budget}
    return frozen.embed(backbone, tokens, ("mean", 1), **budget)


def project(embeddings: np.ndarray, *, seed: int) -> np.ndarray:
    """Points in the plane, (N, 2) float32, of N >= 3 embeddings (N, H): t-SNE of cosine distance.

    For t-SNE see van der Maaten and Hinton (2008), JMLR 9. It starts from the first principal
    components, which keeps more of the large-scale order (Kobak and Berens 2019, Nature
    Communications 10:5416).
    """
    perplexity = min(30, (len(embeddings) - 1) / 3)
    tsne = TSNE(metric="cosine", init="pca", perplexity=perplexity, random_state=seed)
    # One thread: thousands of short parallel steps wait for each other where other work shares the
    # cores.
    with threadpool_limits(1):
        return tsne.fit_transform(embeddings)


def set_up(params: StudyParams) -> None:
    """Set seeds, threads, and the way in which a notebook shows figures, tables and maps."""
    configure_process(seed=params.seed, num_threads=params.threads)
    set_plot_style()
    draw_maps_locally()
    pd.set_option("display.max_colwidth", 200)
    pd.set_option("display.html.use_mathjax", False)  # a dollar is no formula


def draw_maps_locally() -> None:
    """Let JupyterLab draw plotly's figures with plotly's own extension, without a network.

    The button that uploads a figure, with the texts in it, to Plotly's cloud is left out.
    """
    config = {"showSendToCloud": False, "plotlyServerURL": "", "displaylogo": False}
    plotly.io.renderers["plotly_mimetype"].config = config
    plotly.io.renderers.default = "plotly_mimetype"


def plot_map(points: np.ndarray, documents: Dataset) -> go.Figure:
    """Interactive map of N documents at `points`, (N, 2); hovering shows id, labels and text.

    The nine most frequent labels have a colour and a symbol each; all others share "other". A
    document with several of the nine is drawn as the rarest of these.
    """
    # Each document's label, by rank
    counts = Counter(chain.from_iterable(documents["labels"]))
    shown = [name for name, _ in counts.most_common(MAX_COLOURED)]
    rank = {name: i for i, name in enumerate(shown)}
    ranks = [[rank[x] for x in row if x in rank] for row in documents["labels"]]
    group = np.array([max(row, default=len(shown)) for row in ranks])
    # A trace per label
    hover = np.array([_hover(document) for document in documents], dtype=object)
    looks = zip([*shown, "other"], [*PALETTE[: len(shown)], "#bbbbbb"],
                [*SYMBOLS[: len(shown)], "circle-open"], strict=True)  # fmt: skip
    fig = go.Figure(layout={"template": "plotly_white", "width": 900, "height": 620})
    for number, (name, colour, symbol) in enumerate(looks):
        rows = np.flatnonzero(group == number)
        if len(rows):
            fig.add_scatter(
                x=points[rows, 0].round(2), y=points[rows, 1].round(2), mode="markers",
                marker={"color": colour, "symbol": symbol, "size": 6},
                name=html.escape(shorten(name)),
                hovertext=hover[rows], hoverinfo="text",
            )  # fmt: skip
    # No axes: neither directions nor distances have a unit
    fig.update_xaxes(visible=False)
    fig.update_yaxes(visible=False, scaleanchor="x")
    fig.update_layout(
        margin={"l": 10, "r": 10, "t": 30, "b": 10}, legend={"itemsizing": "constant"},
        hoverlabel={"align": "left", "bgcolor": "white", "font": {"color": "black"}},
    )  # fmt: skip
    return fig


def document_html(document: Mapping, *, tokenizer: PreTrainedTokenizerBase, max_length: int) -> str:
    """One document as HTML, escaped: id, labels, and text, pale behind `max_length` tokens."""
    text = printable(document["text"])  # of the same length, so that offsets are those of the text
    offsets = tokenizer(
        text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
    ).offset_mapping
    end = len(text) if len(offsets) <= max_length else offsets[max_length - 1][1]
    labels = printable("; ".join(document["labels"]))
    cut = f"{max(len(offsets) - max_length, 0):,} of {len(offsets):,} tokens are cut"
    return (
        '<div class="tex2jax_ignore mathjax_ignore" style="max-width: 60em; line-height: 1.4">'
        f"<b>{html.escape(printable(document['id']))}</b> · {html.escape(labels)} · {cut}"
        '<div style="white-space: pre-wrap; max-height: 24em; overflow: auto">'
        f'{html.escape(text[:end])}<span style="opacity: 0.45">{html.escape(text[end:])}</span>'
        "</div></div>"
    )


def browse(
    splits: DatasetDict, *, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> widgets.VBox:
    """A widget that steps through the documents of a chosen split and label."""
    # Controls
    labels = {name: list(split["labels"]) for name, split in splits.items()}
    split = widgets.Dropdown(options=list(splits), description="split")
    names = sorted(set(chain.from_iterable(chain.from_iterable(labels.values()))))
    options = [("(all)", ""), *((printable(name), name) for name in names)]
    label = widgets.Dropdown(options=options, description="label")
    number = widgets.BoundedIntText(1, min=1, max=1, description="document")
    back, forth = (widgets.Button(description=x, tooltip=x) for x in ("previous", "next"))
    found, shown, rows = widgets.Label(), widgets.HTML(), []

    def show(_=None) -> None:
        options = {"tokenizer": tokenizer, "max_length": max_length}
        document = splits[split.value][rows[number.value - 1]] if rows else None
        shown.value = document_html(document, **options) if document else ""

    def choose(_=None) -> None:
        of_split = enumerate(labels[split.value])
        rows[:] = [i for i, row in of_split if label.value in row or not label.value]
        found.value = f"of {len(rows):,}"
        number.max, number.value = max(len(rows), 1), 1
        show()

    def step(button: widgets.Button) -> None:
        number.value += 1 if button is forth else -1  # the widget itself keeps within its bounds

    # Controls react, and the first document is shown
    for widget, react in ((split, choose), (label, choose), (number, show)):
        widget.observe(react, "value")
    for button in (back, forth):
        button.on_click(step)
    choose()
    controls = map(widgets.HBox, ([split, label], [number, found, back, forth]))
    return widgets.VBox([*controls, shown])


def _hover(document: Mapping) -> str:
    lines = [document["id"], *textwrap.wrap("; ".join(document["labels"]), 70)[:4], ""]
    lines += textwrap.wrap(beginning(document["text"], HOVER_CHARACTERS), 70)
    return "<br>".join(html.escape(printable(line)) for line in lines)
