from lib.report.study import parts_by_truncation


def test_truncated_documents_are_those_with_more_tokens_than_are_read(tokenizer):
    parts = parts_by_truncation(["one two", "one two three"], tokenizer, max_length=2)
    assert list(parts) == ["up to 2 tokens", "cut"]
