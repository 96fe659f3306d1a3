#!/usr/bin/env python3
"""Adds up JUnit files: test_summary.py LABEL=FILE … prints what failed and, last, `N passed, N failed[, N skipped]`. Exit code 1 if anything failed
or nothing ran."""
import sys
import xml.etree.ElementTree as ET

passed = failed = skipped = 0
skip_reasons = {}
for argument in sys.argv[1:]:
    label, path = argument.split("=", 1)
    p = f = s = 0
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
print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
sys.exit(1 if failed or not passed else 0)
