"""Words of any script, cleaned or not; word vectors in every format; a model's vectors."""

import struct
import unicodedata

import numpy as np
import pytest

from mmray.errors import TableError
from mmray.features.text import clean, tokenize
from mmray.features.word_vectors import WordVectors


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("Don't STOP, it's 5 o'clock!", {"lowercase": True}, "don't stop, it's 5 o'clock!"),
        ("Don't stop, it's 5!", {"punctuation": False}, "Don't stop it's 5"),
        ("The end of IT all, it's over", {"stop_words": {"the", "of", "it"}}, "end all, it's over"),
        ("今天天气很好!真的。", {"punctuation": False}, "今天天气很好 真的"),
        ("今天的天气", {"stop_words": {"的"}}, "今天 天气"),
        ("مرحبا، كيف حالك؟", {"punctuation": False}, "مرحبا كيف حالك"),
        ("नमस्ते, दुनिया।", {"punctuation": False}, "नमस्ते दुनिया"),
        ("cafe\u0301 ☕ 👍🏽", {"lowercase": True}, "café ☕ 👍🏽"),
        ("ÇA VA? ÉTÉ", {"lowercase": True, "punctuation": False}, "ça va été"),
        ("!!! ...", {"punctuation": False}, ""),
    ],
)
def test_cleaning_takes_out_what_was_asked_and_nothing_else(text, options, expected):
    assert clean(text, **{"lowercase": False, **options}) == expected


def test_words_of_a_clean_text():
    assert tokenize("don't stop, 好的!") == ["don't", "stop", ",", "好", "的", "!"]
    assert tokenize("a b c", max_tokens=2) == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("co\u00adoperate soft\u00adly", ["cooperate", "softly"]),
        ("\ufeffsun\u200bshine so\u2060good \u200fyes\u200e", ["sunshine", "sogood", "yes"]),
        ("bell\x07 nul\x00l\ttab", ["bell", "null", "tab"]),
        ("می\u200cخواهم", ["می\u200cخواهم"]),  # ZWNJ spells
        ("क्\u200dष र\u200dय", ["क्\u200dष", "र\u200dय"]),  # so does ZWJ
        ("re\u200cadd re\u200dadd", ["readd", "readd"]),  # not in Latin
        ("ภาษา\u200bไทย", ["ภาษา", "ไทย"]),
        ("re\u0301sume\u0301 q\u0323\u0307", ["résumé", "q\u0323\u0307"]),
        ("שָׁלוֹם צה״ל col·lega", ["שָׁלוֹם", "צה״ל", "col·lega"]),
        ("I ❤\ufe0f you ☹\ufe0e", ["i", "❤\ufe0f", "you", "☹\ufe0e"]),
        (
            "👨\u200d👩\u200d👧👍🏽🇩🇪🇫🇷1\ufe0f\u20e3",
            ["👨\u200d👩\u200d👧", "👍🏽", "🇩🇪", "🇫🇷", "1\ufe0f\u20e3"],
        ),
        ("🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f!", None),
        ("か\u3099く", ["が", "く"]),
        ("a=\u0338b", ["a", "≠", "b"]),
        ("\u0606\u06dd١٢", ["\u0606", "\u06dd١٢"]),
        ("\u00ad \u200b", []),
    ],
)
def test_words_are_told_by_what_is_seen_in_every_script(text, words):
    found = tokenize(clean(text, lowercase=True))
    assert found == (words if words is not None else [text[:-1], "!"])
    assert tokenize(text.lower()) == found


def test_no_letter_of_any_script_is_lost():
    """Every letter, digit and mark of Unicode stays in a word, alone and after another."""
    for code in range(0x110000):
        character = chr(code)
        if unicodedata.category(character)[0] in "LNMS":
            whole = unicodedata.normalize("NFC", character)
            assert "".join(tokenize(character)) == whole
            assert "".join(tokenize(f"x{character}")) == unicodedata.normalize("NFC", f"x{character}")


WORDS = ["好", "don't", "a . b", "naïve"]
VECTORS = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)


def text_lines() -> str:
    return "".join(f"{w} {' '.join(repr(float(x)) for x in v)}\n" for w, v in zip(WORDS, VECTORS))


def binary() -> bytes:
    rows = b"".join(w.encode() + b" " + struct.pack("<3f", *v) + b"\n" for w, v in zip(WORDS, VECTORS))
    return b"4 3\n" + rows


@pytest.mark.parametrize(
    "content",
    [
        text_lines().encode(),
        f"4 3\n{text_lines()}".encode(),
        binary().replace(b"a . b", b"a_._b"),
        binary().replace(b"a . b", b"a_._b").replace(b"\n", b"").replace(b"4 3", b"4 3\n"),
    ],
    ids=["glove", "word2vec-text", "word2vec-binary", "word2vec-binary-without-newlines"],
)
def test_word_vectors_of_every_format(tmp_path, content):
    (tmp_path / "vectors").write_bytes(content)
    vectors = WordVectors(str(tmp_path / "vectors"))
    np.testing.assert_array_equal(vectors.of(["naïve", "unheard", "好"]), VECTORS[[3, 0]])
    assert vectors.of(["unheard"]).shape == (0, 3)
    assert vectors.dim == 3


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"word 1 2\nother 1\n", "line 2"),
        (b"2 2\na 1 2\n", "1 words; its first line says 2"),
        (binary()[:-6], "ends in word 4 of 4"),
        (b"a nan 1\n", "not finite"),
    ],
)
def test_a_damaged_file_of_vectors_is_refused(tmp_path, content, said):
    (tmp_path / "vectors").write_bytes(content)
    with pytest.raises(TableError, match=said):
        WordVectors(str(tmp_path / "vectors"))
