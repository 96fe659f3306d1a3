#!/usr/bin/env python3
"""Adds up test results: test_summary.py LABEL=FILE … prints what failed and, last, `N passed, N failed`. A FILE is JUnit's, or the output of a program
(*.log) whose last line says so itself. Exit code 1 if anything failed or nothing ran."""
import re
import sys
import xml.etree.ElementTree as ET

passed = failed = skipped = 0
skip_reasons = {}
for argument in sys.argv[1:]:
    label, path = argument.split("=", 1)
    p = f = s = 0
    if path.endswith(".log"):
        lines = open(path, errors="replace").read().strip().splitlines() or [""]
        counts = re.match(r"(\d+) passed, (\d+) failed", lines[-1])
        if counts:
            p, f = int(counts[1]), int(counts[2])
            for line in lines:
                if line.startswith("FAILED"):
                    print(f"{label}: {line}")
        elif lines[-1].startswith("skipped"):
            s = 1
            skip_reasons[label] = lines[-1]
        else:
            f = 1
            print(f"FAILED {label}: ended without a result: {lines[-1][:200]}")
        print(f"{label}: {p} passed, {f} failed, {s} skipped")
        passed, failed, skipped = passed + p, failed + f, skipped + s
        continue
    try:
        root = ET.parse(path).getroot()
    except (OSError, ET.ParseError) as error:
        print(f"{label}: no results ({error})")
        failed += 1
        continue
    for case in root.iter("testcase"):
        name = f"{label}: {case.get('classname') or ''}.{case.get('name')}"
        if case.find("failure") is not None or case.find("error") is not None or case.get("status") == "fail":
            f += 1
            print(f"FAILED {name}")
        elif case.find("skipped") is not None or case.get("result") == "skipped" or case.get("status") == "notrun":
            s += 1
            skip_reasons.setdefault(name, ((case.find("skipped") is not None and case.find("skipped").get("message")) or "").strip())
        else:
            p += 1
    print(f"{label}: {p} passed, {f} failed, {s} skipped")
    passed, failed, skipped = passed + p, failed + f, skipped + s
for name, reason in skip_reasons.items():
    print(f"skipped {name}: {reason}")
if skipped:
    print(f"{skipped} skipped")
print(f"{passed} passed, {failed} failed")
sys.exit(1 if failed or not passed else 0)
