#!/usr/bin/env python3
"""Writes a C++ header that holds a text file: embed.py INPUT OUTPUT NAME gives `inline constexpr std::string_view NAME`."""
import sys

source, target, name = sys.argv[1:4]
text = open(source, encoding="utf-8").read()
assert ')quire"' not in text
# Compilers limit the length of one literal: join several.
pieces = [text[i:i + 8000] for i in range(0, len(text), 8000)]
with open(target, "w", encoding="utf-8") as out:
    out.write("#pragma once\n\n#include <string_view>\n\n")
    out.write(f"inline constexpr std::string_view {name} =\n")
    out.write("\n".join(f'    R"quire({piece})quire"' for piece in pieces) + ";\n")
