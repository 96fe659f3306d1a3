#!/usr/bin/env python3
"""Writes goldens/template_features.json: template_features.py's templates as jinja2, set up by transformers, renders them.

Needs PyPI jinja2, transformers. A template that must fail has "error" (or "raised", by raise_exception) instead of its text.
"""
import json
from pathlib import Path

import jinja2
import transformers

from chat_template_oracle import compile_template
from template_features import FEATURES, VARIABLES

HERE = Path(__file__).parent
NOW = [2025, 7, 4, 9, 5, 3]
cases = []
for source in FEATURES:
    case = {"template": source}
    try:
        case["text"] = compile_template(source, NOW).render(
            messages=VARIABLES["msgs"][:1], tools=None, documents=None, add_generation_prompt=True, bos_token="<s>", eos_token="</s>", **VARIABLES)
    except Exception as error:
        case["error"] = "raised" if type(error) is jinja2.exceptions.TemplateError else "error"
        case["why"] = f"{type(error).__name__}: {error}"[:100]
    cases.append(case)
golden = {"oracle": f"jinja2 {jinja2.__version__}, transformers {transformers.__version__}", "now": NOW, "variables": VARIABLES, "cases": cases}
(HERE / "goldens/template_features.json").write_text(json.dumps(golden, ensure_ascii=True, indent=1) + "\n")
