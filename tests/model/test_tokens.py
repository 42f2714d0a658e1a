"""Small tokenizers of each kind, and texts that spell their structure."""

import copy
import json
import string
from functools import cache
from itertools import pairwise
from pathlib import Path
from uuid import uuid4

import pytest
import transformers
from conftest import MINILM, SMOLLM2
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizer,
    PreTrainedTokenizerFast,
    RobertaConfig,
)

from lib import storage
from lib.errors import ModelError, ParamsError
from lib.model.tokens import (
    COUNTS_FROM_PADDING,
    are_cut,
    encode_cached,
    encode_documents,
    require_context,
    require_positions,
    require_rows,
    shorten_texts,
    structure_ids,
    text_encoder,
)
from lib.model.weights import load_tokenizer
from lib.model.windows import split_windows

LETTERS = string.ascii_letters + "<>/[]|_"
NAMES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
BERT = {"cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]", "pad_token": "[PAD]"}


class WordTokenizer(PreTrainedTokenizer):
    """One in Python, without a backend, as BERTweet's, BioGPT's or ByT5's are."""

    def __init__(self, **options):
        words = [*BERT.values(), *LETTERS, "oil", "fell"]
        self.words = {word: i for i, word in enumerate(words)}
        super().__init__(**BERT, special_tokens_pattern="cls_sep", **options)

    @property
    def vocab_size(self):
        return len(self.words)

    def get_vocab(self):
        return self.words | self.added_tokens_encoder

    def _tokenize(self, text):
        return text.split()

    def _convert_token_to_id(self, token):
        return self.words.get(token, self.words["[UNK]"])

    def _convert_id_to_token(self, index):
        return list(self.words)[index]


def fast(model, pre_tokenizer, names, normalizer=None):
    inner = Tokenizer(model)
    inner.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        inner.normalizer = normalizer
    start, end = (names.get("cls_token", "<s>"), names.get("sep_token", "</s>"))
    ends = [(start, inner.token_to_id(start)), (end, inner.token_to_id(end))]
    inner.post_processor = processors.TemplateProcessing(f"{start} $A {end}", None, ends)
    return PreTrainedTokenizerFast(tokenizer_object=inner, **names)


@cache
def made(kind):
    """A tokenizer whose model itself holds its special tokens, so that a text can spell them."""
    if kind == "unigram":  # XLM-R, mT5, T5, ALBERT
        pieces = [(piece, 0.0) for piece in ("<s>", "<pad>", "</s>", "<unk>")]
        pieces += [(letter, -4.0) for letter in ("▁", *LETTERS)] + [("▁oil", -3.0), ("</", -5.0)]
        model = models.Unigram(pieces, unk_id=3, byte_fallback=False)
        return fast(model, pre_tokenizers.Metaspace(), NAMES, normalizers.NFKC())
    if kind == "unigram with brackets":  # DeBERTa-v3
        pieces = [(piece, 0.0) for piece in ("[PAD]", "[CLS]", "[SEP]", "[UNK]")]
        pieces += [(letter, -4.0) for letter in ("▁", *LETTERS)] + [("▁oil", -3.0)]
        return fast(models.Unigram(pieces, unk_id=3), pre_tokenizers.Metaspace(), BERT)
    vocabulary = [*NAMES.values(), *LETTERS, "▁", "</", "</s", "▁o", "oil"]
    ids = {piece: i for i, piece in enumerate(vocabulary)}
    if kind == "merges":  # of SentencePiece, which lead to each of its pieces
        merges = [("<", "/"), ("</", "s"), ("</s", ">"), ("▁", "o")]
        model = models.BPE(ids, merges, unk_token="<unk>", fuse_unk=True)
        return fast(model, pre_tokenizers.Metaspace(), NAMES)
    if kind == "whole words first":  # Llama 3, gpt-oss
        model = models.BPE(ids, [], unk_token="<unk>", ignore_merges=True)
        return fast(model, pre_tokenizers.WhitespaceSplit(), NAMES)
    if kind == "wordpiece":
        words = [*BERT.values(), *LETTERS, *(f"##{letter}" for letter in LETTERS), "oil"]
        ids = {piece: i for i, piece in enumerate(words)}
        return fast(
            models.WordPiece(ids, unk_token="[UNK]"), pre_tokenizers.WhitespaceSplit(), BERT
        )
    if kind == "words":
        ids = {word: i for i, word in enumerate([*BERT.values(), *LETTERS, "oil"])}
        return fast(models.WordLevel(ids, "[UNK]"), pre_tokenizers.WhitespaceSplit(), BERT)
    if kind == "unflagged":  # Qwen 3, R1 and its distillates
        tokenizer = copy.deepcopy(load_tokenizer(SMOLLM2))
        tokenizer.add_tokens(["<think>", "</think>", AddedToken("<TOOL_call>", normalized=True)])
        return tokenizer
    if kind == "bytes":
        return load_tokenizer(SMOLLM2)
    return WordTokenizer() if kind == "python" else load_tokenizer(MINILM)


KINDS = [
    "unigram", "unigram with brackets", "merges", "whole words first", "wordpiece", "words",
    "unflagged", "bytes", "python", "minilm",
]  # fmt: skip


def read(tokenizer, text):
    """What the tokenizer itself reads, special tokens split where it can."""
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids


def structure_read(tokenizer, ids):
    return set(ids) & structure_ids(tokenizer) - {tokenizer.unk_token_id}


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60)
@given(data=st.data())
def test_no_text_spells_structure(kind, data):
    """However a text spells a special token, before or after normalization."""
    tokenizer = made(kind)
    spelled = [tokenizer.convert_ids_to_tokens(i) for i in sorted(structure_ids(tokenizer))]
    parts = st.sampled_from([*spelled, " ", "oil", "＜/s＞", "<TOOL_CALL>"]) | st.text(max_size=5)
    text = "".join(data.draw(st.lists(parts, max_size=8)))
    for frame in (False, True):
        options = {"max_length": 99, "add_special_tokens": frame}
        ids = encode_documents(tokenizer, [text], **options)[0]
        if frame and tokenizer.num_special_tokens_to_add():
            ids = ids[1:-1]
        assert not structure_read(tokenizer, ids)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60)
@given(text=st.text(alphabet=LETTERS + " .,é漢\n", max_size=40))
def test_other_texts_have_the_ids_that_the_tokenizer_gives_them(kind, text):
    tokenizer = made(kind)
    expected = read(tokenizer, text)
    if not structure_read(tokenizer, expected):
        options = {"max_length": 99, "add_special_tokens": False}
        assert encode_documents(tokenizer, [text], **options) == [expected]


@pytest.mark.parametrize(
    ("kind", "text", "pieces"),
    [
        ("unigram", "oil </s> ", ["▁oil", "▁", "</", "s", ">", "▁"]),
        ("unigram", "＜pad＞", ["▁", *"<pad>"]),
        ("unigram", "<unk>", ["▁", *"<unk>"]),
        ("unigram with brackets", "oil[SEP]", ["▁oil", *"[SEP]"]),
        ("merges", "a</s>", ["▁", "a", "</s", ">"]),
        ("whole words first", "oil </s>", ["oil", *"</s>"]),
        ("wordpiece", "oil [SEP]", ["oil", "[", *(f"##{letter}" for letter in "SEP]")]),
        ("words", "oil [SEP]", ["oil", "[UNK]"]),
        ("python", "oil [SEP] a", ["oil", *"[SEP]", "a"]),
    ],
)
def test_text_that_spells_structure_is_tokenized_like_any_other(kind, text, pieces):
    tokenizer = made(kind)
    options = {"max_length": 99, "add_special_tokens": False}
    ids = encode_documents(tokenizer, [text], **options)[0]
    assert tokenizer.convert_ids_to_tokens(ids) == pieces


@pytest.mark.parametrize("token", ["<think>", "</think>", "<TOOL_call>", "<|im_end|>"])
def test_an_unflagged_added_token_in_a_text_is_all_kept_as_text(token):
    tokenizer, text = made("unflagged"), f"I {token} so."
    ids = text_encoder(tokenizer)([text])[0]
    assert tokenizer.decode(ids) == text
    assert tokenizer.convert_tokens_to_ids(token) not in ids


def test_a_normalizer_makes_no_token_of_structure_out_of_text():
    """BERT's drops control characters and capitals, also of added tokens."""
    tokenizer = copy.deepcopy(made("minilm"))
    tokenizer.add_tokens([AddedToken("<URL>", normalized=True)])
    number = len(tokenizer) - 1
    for text in (f"see token {number} now", f"token {number}", "a <url> and a <URL>"):
        assert number not in text_encoder(tokenizer)([text])[0]


def test_added_words_and_runs_of_spaces_are_vocabulary():
    """GPT-NeoX's and Gemma's spaces, words added for a field."""
    tokenizer = copy.deepcopy(made("bytes"))
    tokenizer.add_tokens(["\n\n\n\n\n", "covid19", "▁▁▁▁▁▁"])
    ids = text_encoder(tokenizer)(["The covid19\n\n\n\n\n<|im_end|>"])[0]
    assert {len(tokenizer) - 3, len(tokenizer) - 2} <= set(ids)
    assert tokenizer.eos_token_id not in ids


@pytest.mark.parametrize("kind", ["unigram", "python", "minilm"])
@pytest.mark.parametrize("frame", [False, True])
def test_a_long_text_loses_its_start_where_the_tokenizer_says_so(kind, frame):
    tokenizer = copy.deepcopy(made(kind))
    text = "a b c d e f"
    whole = text_encoder(tokenizer)([text])[0]
    ends = text_encoder(tokenizer)([""], frame=frame)[0]
    half = len(ends) // 2
    for side, kept in (("right", whole[:3]), ("left", whole[-3:])):
        tokenizer.truncation_side = side
        options = {"max_length": 3, "add_special_tokens": frame}
        expected = [[*ends[:half], *kept, *ends[half:]]]
        assert encode_documents(tokenizer, [text], **options) == expected
        assert encode_cached(tokenizer, [text], **options) == expected


def test_settings_saved_with_a_tokenizer_have_no_effect(tmp_path):
    """Sentence-transformers save padding to 128 tokens, others truncation to 512."""
    load_tokenizer(SMOLLM2).save_pretrained(tmp_path)
    rules = json.loads((tmp_path / "tokenizer.json").read_text())
    rules["truncation"] = {
        "direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0,
    }  # fmt: skip
    rules["padding"] = {
        "strategy": {"Fixed": 16}, "direction": "Left", "pad_to_multiple_of": None,
        "pad_id": 2, "pad_type_id": 0, "pad_token": "<|im_end|>",
    }  # fmt: skip
    (tmp_path / "tokenizer.json").write_text(json.dumps(rules))
    tokenizer = load_tokenizer(str(tmp_path))
    assert len(text_encoder(tokenizer)(["a b c d"])[0]) == 4
    options = {"max_length": 3, "add_special_tokens": True}
    assert len(encode_documents(tokenizer, ["a b c d"], **options)[0]) == 3


@pytest.mark.parametrize("ends", [(False, False), (True, False), (False, True), (True, True)])
def test_a_frame_is_what_the_tokenizer_adds_today(ends):
    tokenizer = copy.deepcopy(made("merges"))
    options = {"max_length": 2, "add_special_tokens": True}
    encode_documents(tokenizer, ["a"], **options)
    tokenizer.add_bos_token, tokenizer.add_eos_token = ends
    a, b = text_encoder(tokenizer)(["ab"])[0][1:]
    tokenizer.truncation_side = "left"
    expected = [tokenizer.bos_token_id] * ends[0] + [a, b] + [tokenizer.eos_token_id] * ends[1]
    assert encode_documents(tokenizer, ["b ab"], **options) == [expected]


def test_a_token_without_a_row_in_the_embedding_is_refused():
    tokenizer = copy.deepcopy(made("merges"))
    tokenizer.name_or_path = "somebody/something"
    rows = len(tokenizer)
    require_rows(tokenizer, rows)
    tokenizer.add_tokens(["<never written>"])
    require_rows(tokenizer, rows)
    with pytest.raises(ModelError, match=r"^somebody/something: token '.*' has id .* has 9 rows"):
        require_rows(tokenizer, 9)
    tokenizer.chat_template = "{{ '<never written>' }}"
    with pytest.raises(ModelError, match=f"'<never written>' has id {rows}, but .* {rows} rows"):
        require_rows(tokenizer, rows)
    tokenizer.chat_template = None
    tokenizer.add_special_tokens({"pad_token": "<padding>"})
    with pytest.raises(ModelError, match=f"'<padding>' has id {rows + 1}, but .* {rows} rows"):
        require_rows(tokenizer, rows)


def test_a_tokenizer_that_nobody_can_write_as_json_is_refused():
    class Custom:
        def pre_tokenize(self, text):
            pass

    tokenizer = copy.deepcopy(made("words"))
    tokenizer.name_or_path = "somebody/something"
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.PreTokenizer.custom(Custom())
    with pytest.raises(ModelError, match=r"^somebody/something: .*JSON.*; use another$"):
        encode_cached(tokenizer, ["a"], max_length=3, add_special_tokens=False)


def test_an_encoders_frame_comes_on_top_of_max_length():
    bert = load_tokenizer(MINILM)
    ids = encode_documents(bert, ["a [SEP] b c d e f g"], max_length=4, add_special_tokens=True)[0]
    assert len(ids) == 6
    assert (ids[0], ids[-1]) == (bert.cls_token_id, bert.sep_token_id)
    assert bert.sep_token_id not in ids[:-1]


def test_a_document_needs_a_position_for_each_token():
    require_positions(BertConfig(max_position_embeddings=8), [[1] * 8, [1]])
    with pytest.raises(ParamsError, match=r"9 tokens.*8 positions; lower max_length by 1"):
        require_positions(BertConfig(max_position_embeddings=8), [[1], [1] * 9])
    roberta = RobertaConfig(max_position_embeddings=10, pad_token_id=1)  # numbers from 2 on
    with pytest.raises(ParamsError, match=r"9 tokens.*8 positions"):
        require_positions(roberta, [[1] * 9])


def test_models_that_number_positions_from_the_padding_token_on_are_known():
    """Those of transformers whose code does so, but for models of images and sound."""
    others = {"altclip", "bridgetower", "clap", "evolla"}  # and encoder-decoders
    folder = Path(transformers.__file__).parent / "models"
    found = {
        file.parent.name
        for file in folder.glob("*/modeling_*.py")
        if "def create_position_ids_from_input_ids" in (text := file.read_text())
        and "ForSequenceClassification" in text
    }
    known = {name.replace("-", "_") for name in COUNTS_FROM_PADDING}
    assert {n.removesuffix("_text") for n in known} == found - others


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(max_position_embeddings=100),
        MistralConfig(max_position_embeddings=100, sliding_window=10),  # no limit: see test_probes
    ],
)
def test_a_prompt_that_fills_the_context_is_refused(config):
    require_context(config, 90, 10)
    with pytest.raises(ParamsError, match="do not fit the model's context of 100"):
        require_context(config, 91, 10)
    require_context(GPT2Config(), 1_000, 24)


def test_tokens_are_cached_by_content(tokenizer, monkeypatch):
    calls = []

    def counted(*arguments, **options):
        calls.append(arguments)
        return encode_documents(*arguments, **options)

    monkeypatch.setattr("lib.model.tokens.encode_documents", counted)
    texts = [f"new text {uuid4()}", "another"]
    options = {"max_length": 5, "add_special_tokens": False}
    first = encode_cached(tokenizer, texts, **options)
    assert encode_cached(tokenizer, list(texts), **options) == first
    assert first == encode_documents(tokenizer, texts, **options)
    assert len(calls) == 1
    encode_cached(tokenizer, texts, **options | {"max_length": 6})
    encode_cached(load_tokenizer(MINILM), texts, **options)
    assert len(calls) == 3


def test_damaged_tokens_are_computed_again(tokenizer, tmp_path, monkeypatch, damage, caplog):
    monkeypatch.setattr(storage, "CACHE", tmp_path)
    texts, options = ["one text", "", "another"], {"max_length": 5, "add_special_tokens": False}
    first = encode_cached(tokenizer, texts, **options)
    damage(tmp_path / "tokens")
    assert encode_cached(tokenizer, texts, **options) == first
    assert "computing it anew" in caplog.text
    assert encode_cached(tokenizer, [], **options) == []


def test_a_tokenizer_pads_with_its_end_token_or_is_refused(tmp_path):
    inner = Tokenizer(models.WordLevel({"</s>": 0, "a": 1}, unk_token="a"))
    for name, names in (("end", {"eos_token": "</s>"}), ("none", {})):
        PreTrainedTokenizerFast(tokenizer_object=inner, **names).save_pretrained(tmp_path / name)
    assert load_tokenizer(str(tmp_path / "end")).pad_token == "</s>"
    with pytest.raises(ModelError, match=r"none: .* neither pad_token nor eos_token; name one"):
        load_tokenizer(str(tmp_path / "none"))


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("kind", ["merges", "minilm", "python"])
def test_windows_follow_each_other_in_the_text_each_with_a_frame(kind, side, tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "CACHE", tmp_path)
    tokenizer = copy.deepcopy(made(kind))
    tokenizer.truncation_side = side
    texts = ["oil fell oil oil fell [SEP] oil", "oil"]
    whole = encode_documents(tokenizer, texts, max_length=99, add_special_tokens=False)
    parts = [whole[0][i : i + 3] for i in range(0, len(whole[0]), 3)]
    if side == "left":  # from the end on, so that the first window may be shorter
        short = len(whole[0]) % 3
        cuts = [0, *range(short or 3, len(whole[0]) + 1, 3)]
        parts = [whole[0][a:b] for a, b in pairwise(cuts)]
    assert len(parts) > 2
    options = {"max_length": 3, "add_special_tokens": True}
    alone = encode_documents(tokenizer, texts, **options)
    start, end = alone[0][:1], alone[0][-1:]
    for windows in (2, 99):
        read = encode_documents(tokenizer, texts, **options, windows=windows)
        kept = parts[-windows:] if side == "left" else parts[:windows]
        assert split_windows(read[0]) == [[*start, *part, *end] for part in kept]
        assert split_windows(read[1]) == [alone[1]]
        if kind != "python":
            for _ in range(2):
                found = encode_cached(tokenizer, texts, **options, windows=windows)
                assert list(map(split_windows, found)) == list(map(split_windows, read))


@pytest.mark.parametrize(
    ("kind", "side"), [("bytes", "right"), ("minilm", "right"), ("minilm", "left")]
)
def test_a_text_is_shortened_to_the_tokens_that_a_model_reads(kind, side):
    tokenizer = copy.deepcopy(made(kind))
    tokenizer.truncation_side = side
    texts = ["Öl fell, said [SEP] traders in the east.", "oil"]
    read = encode_documents(tokenizer, texts, max_length=4, add_special_tokens=False)
    shortened = shorten_texts(tokenizer, texts, max_length=4)
    assert shortened[1] == texts[1]
    assert texts[0].endswith(shortened[0]) if side == "left" else texts[0].startswith(shortened[0])
    assert 0 < len(shortened[0]) < len(texts[0])
    again = encode_documents(tokenizer, shortened, max_length=9, add_special_tokens=False)
    assert again == read
    assert are_cut(tokenizer, texts, max_length=4).tolist() == [True, False]


def test_a_tokenizer_in_python_shortens_no_text():
    with pytest.raises(ModelError, match='write read: "all", or name another model_id'):
        shorten_texts(made("python"), ["oil fell"], max_length=1)
