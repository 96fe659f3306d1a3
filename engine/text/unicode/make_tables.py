#!/usr/bin/env python3
"""Writes the Unicode tables (*.inc) beside this file.

Needs nothing but Python; the tables have the Unicode version of its unicodedata module (Python 3.11: 14.0, the version of PCRE2 10.42, so that normalization and
pre-tokenization agree). Source of the rules: Unicode Standard Annex 15 (normalization forms), chapter 3.13 (default case algorithms).
"""
import sys
import unicodedata
from pathlib import Path

HERE = Path(__file__).parent
EVERY = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
HEADER = f"// Unicode {unicodedata.unidata_version}; written by make_tables.py, not by hand.\n"


def write(name, parts):
    lines = [HEADER]
    for comment, declaration, items in parts:
        lines.append(f"// {comment}\n{declaration} = {{\n")
        line = "   "
        for item in items:
            if len(line) + len(item) + 2 > 120:
                lines.append(line + "\n")
                line = "   "
            line += " " + item + ","
        lines.append(line + "\n};\n")
    (HERE / name).write_text("".join(lines))


def hexes(*codes):
    return "{" + ",".join(f"0x{c:X}" for c in codes) + "}"


def hangul(c):
    return 0xAC00 <= c <= 0xD7A3


def normalization():
    canonical = {}
    for c in EVERY:
        field = unicodedata.decomposition(chr(c))
        if field and not field.startswith("<"):
            canonical[c] = [int(x, 16) for x in field.split()]
    # A pair composes if NFC makes one character of it: exclusions, singletons and non-starters fall out by asking.
    pairs = sorted((d[0], d[1], c) for c, d in canonical.items()
                   if len(d) == 2 and unicodedata.normalize("NFC", chr(d[0]) + chr(d[1])) == chr(c))
    ranges = []
    for c in EVERY:
        k = unicodedata.combining(chr(c))
        if not k:
            continue
        if ranges and ranges[-1][1] == c - 1 and ranges[-1][2] == k:
            ranges[-1][1] = c
        else:
            ranges.append([c, c, k])
    write("decomposition.inc", [
        ("Canonical decompositions {character, first, second or 0}, one step, ascending; Hangul is computed.",
         "constexpr uint32_t canonical_decompositions[][3]",
         [hexes(c, d[0], d[1] if len(d) > 1 else 0) for c, d in sorted(canonical.items())]),
    ])
    write("composition.inc", [
        ("Primary composites {first, second, composite}, ascending.", "constexpr uint32_t compositions[][3]",
         [hexes(*p) for p in pairs]),
        ("Canonical combining classes other than 0 {from, to, class}, ascending.",
         "constexpr uint32_t combining_classes[][3]", [hexes(*r) for r in ranges]),
    ])


def compatibility():
    index, codes = [], []
    for c in EVERY:
        if hangul(c):
            continue
        full = unicodedata.normalize("NFKD", chr(c))
        if full != unicodedata.normalize("NFD", chr(c)):
            index.append(f"0x{c << 5 | len(full):X}")
            assert len(full) < 32
            codes += [f"0x{ord(x):X}" for x in full]
    write("compatibility.inc", [
        ("Characters whose full compatibility decomposition differs from the canonical one: character << 5 | length.",
         "constexpr uint32_t compatibility_index[]", index),
    ])
    write("compatibility_codes.inc", [
        ("Their decompositions, one after the other.", "constexpr uint32_t compatibility_codes[]", codes),
    ])


def case():
    parts = []
    for name, f in (("lower", str.lower), ("upper", str.upper), ("title", str.title)):
        ranges, special = [], []
        for c in EVERY:
            mapped = f(chr(c))
            if mapped == chr(c):
                continue
            if len(mapped) > 1:
                special.append(hexes(c, *[ord(x) for x in mapped], *[0] * (3 - len(mapped))))
                continue
            delta = ord(mapped) - c
            last = ranges[-1] if ranges else None
            if last and last[3] == delta and (c - last[1] == last[2] or (last[0] == last[1] and c - last[1] <= 2)):
                last[2], last[1] = c - last[1], c
            else:
                ranges.append([c, c, 1, delta])
        parts.append((f"To {name} case, one to one {{from, to, every, difference}}, ascending.",
                      f"constexpr int32_t {name}_ranges[][4]", ["{" + ",".join(f"0x{x:X}" if i < 2 else str(x) for i, x in enumerate(r)) + "}" for r in ranges]))
        parts.append((f"To {name} case, one to several {{character, first, second, third or 0}}, ascending.",
                      f"constexpr uint32_t {name}_special[][4]", special))
    write("case.inc", parts)


def printable():
    ranges = []
    for c in range(0x7F, 0x110000):
        if 0xD800 <= c <= 0xDFFF or not chr(c).isprintable():
            if ranges and ranges[-1][1] == c - 1:
                ranges[-1][1] = c
            else:
                ranges.append([c, c])
    write("printable.inc", [("Characters that repr() escapes: other, separators and unassigned {from, to}, ascending.",
                             "constexpr uint32_t unprintable[][2]", [hexes(*r) for r in ranges])])


def ranges_of(test):
    ranges = []
    for c in EVERY:
        if not test(chr(c)):
            continue
        if ranges and ranges[-1][1] == c - 1:
            ranges[-1][1] = c
        else:
            ranges.append([c, c])
    return [hexes(*r) for r in ranges]


def classes():
    write("classes.inc", [
        ("str.isalpha() {from, to}, ascending.", "constexpr uint32_t alpha_ranges[][2]", ranges_of(str.isalpha)),
        ("Marks: general categories Mn, Mc and Me.", "constexpr uint32_t mark_ranges[][2]", ranges_of(lambda c: unicodedata.category(c)[0] == "M")),
        ("str.isdecimal().", "constexpr uint32_t decimal_ranges[][2]", ranges_of(str.isdecimal)),
        ("str.isdigit() but not decimal.", "constexpr uint32_t digit_ranges[][2]", ranges_of(lambda c: c.isdigit() and not c.isdecimal())),
        ("str.isnumeric() but not a digit.", "constexpr uint32_t numeric_ranges[][2]", ranges_of(lambda c: c.isnumeric() and not c.isdigit())),
    ])


normalization()
compatibility()
case()
printable()
classes()
sys.exit(0)
