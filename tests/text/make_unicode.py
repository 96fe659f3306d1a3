#!/usr/bin/env python3
"""Writes goldens/unicode.json: hashes of what Python's unicodedata and str make of every character, and of sequences of marks and Hangul letters.

Needs nothing but the Python whose Unicode version the engine's tables have (engine/text/unicode/make_tables.py: 14.0).
"""
import json
import unicodedata
from pathlib import Path

from text_generator import fnv1a

LAST = 0x323AF
EVERY = [chr(c) for c in range(LAST + 1) if not 0xD800 <= c <= 0xDFFF]
FORMS = ("NFC", "NFD", "NFKC", "NFKD")
# Marks of many classes, letters that compose with them, Hangul letters and syllables, exclusions.
PARTS = [chr(c) for c in (0x41, 0x65, 0x6F, 0x73, 0x1E69, 0x1EC7, 0x0344, 0x0958, 0x2126, 0x212B, 0xFB1D, 0x1D15E, 0x1100, 0x1161, 0x11A8, 0xAC00, 0xAC01, 0x09C7, 0x09BE,
                          0x0301, 0x0302, 0x0307, 0x0308, 0x0323, 0x0327, 0x0328, 0x0338, 0x0345, 0x05B0, 0x05BC, 0x0651, 0x0C56, 0x3099, 0x302A, 0x1D165, 0x20)]


def changed(function):
    """Hash of (character, result) wherever the result differs from the character."""
    def numbers():
        for c in EVERY:
            result = function(c)
            if result != c:
                yield ord(c)
                yield from map(ord, result)
    return f"{fnv1a(numbers()):016x}"


def holds(predicate):
    return f"{fnv1a(ord(c) for c in EVERY if predicate(c)):016x}"


def sequences(form):
    state, numbers = 1, []
    for _ in range(20000):
        text = ""
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        for _ in range(1 + (state >> 33) % 6):
            state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
            text += PARTS[(state >> 33) % len(PARTS)]
        numbers += map(ord, unicodedata.normalize(form, text))
    return f"{fnv1a(numbers):016x}"


golden = {"unicode": unicodedata.unidata_version, "last": LAST, "parts": [ord(p) for p in PARTS],
          "forms": {f: changed(lambda c: unicodedata.normalize(f, c)) for f in FORMS}, "sequences": {f: sequences(f) for f in FORMS},
          # One character at a time: Python's own final sigma needs a word around it.
          "lower": changed(str.lower), "upper": changed(str.upper), "title": changed(str.title),
          "space": holds(str.isspace), "printable": holds(str.isprintable), "alpha": holds(str.isalpha), "decimal": holds(str.isdecimal),
          "digit": holds(str.isdigit), "numeric": holds(str.isnumeric), "mark": holds(lambda c: unicodedata.category(c)[0] == "M")}
(Path(__file__).parent / "goldens/unicode.json").write_text(json.dumps(golden, indent=0, separators=(",", ":")) + "\n")
