#!/usr/bin/env python3
"""Writes goldens/public_templates.json: what jinja2, set up by transformers, renders of public chat templates.

usage: make_public_templates.py ../shared/data/templates      (needs PyPI jinja2, transformers)

The templates are not part of this repository, so the golden has a digest of each source and, for every template, conversation, extra variables and
generation prompt of goldens/conversations.json, a digest of the text, or "error" where the template refuses the conversation.
"""
import json
import sys
from pathlib import Path

import jinja2
import transformers

from chat_template_oracle import compile_template, digest

HERE = Path(__file__).parent
inputs = json.loads((HERE / "goldens/conversations.json").read_text())
templates = {}
for path in sorted(Path(sys.argv[1]).glob("*.jinja")):
    source = path.read_text()
    template = compile_template(source, inputs["now"])
    rows = {}
    for conversation in inputs["conversations"]:
        row = []
        for extra in inputs["extras"]:
            for prompt in (True, False):
                variables = dict(messages=conversation["messages"], tools=conversation["tools"], documents=None, add_generation_prompt=prompt,
                                 bos_token=inputs["bos_token"], eos_token=inputs["eos_token"])
                try:
                    row.append(digest(template.render(**{**variables, **extra})))
                except jinja2.exceptions.TemplateError as error:
                    row.append("raised" if type(error) is jinja2.exceptions.TemplateError else "error")
                except Exception:
                    row.append("error")
        rows[conversation["name"]] = row
    templates[path.name] = {"source": digest(source), "rendered": rows}
golden = {"oracle": f"jinja2 {jinja2.__version__}, transformers {transformers.__version__}", "templates": templates}
(HERE / "goldens/public_templates.json").write_text(json.dumps(golden, indent=0, separators=(",", ":")) + "\n")
