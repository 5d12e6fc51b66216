import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

# Stands in for pip-audit: writes what it is told to where it is told to.
STUB = """
import os, sys
assert "constraints.txt" in sys.argv
if os.environ["REPORT"]:
    open(sys.argv[sys.argv.index("--output") + 1], "w").write(os.environ["REPORT"])
"""
CLEAN = {"name": "numpy", "version": "2.4", "vulns": []}
SKIPPED = {"name": "esm", "skip_reason": "not found"}
VULNERABLE = {
    "name": "jinja2",
    "version": "3.1.2",
    "vulns": [{"id": "PYSEC-1", "aliases": ["CVE-2"], "fix_versions": ["3.1.3"]}],
}
OTHER = VULNERABLE | {"vulns": [{"id": "PYSEC-3", "aliases": [], "fix_versions": []}]}


@pytest.mark.parametrize(
    ("packages", "status", "said"),
    [
        ([CLEAN, CLEAN], 0, "2 of 2 packages audited"),
        ([CLEAN, SKIPPED], 3, "esm: not audited (not found)"),
        ([CLEAN, SKIPPED], 3, "1 of 2 packages audited"),
        ([VULNERABLE, SKIPPED], 1, "esm: not audited (not found)"),
        ([CLEAN, VULNERABLE], 1, "jinja2 3.1.2: PYSEC-1, fixed in 3.1.3; not accepted"),
        # What pip-audit itself takes for a success.
        ([SKIPPED, SKIPPED], 3, "not audited: the advisories cannot be had"),
        (None, 3, "not audited: the advisories cannot be had"),
    ],
)
def test_an_audit_that_could_not_be_made_is_not_one_that_was_passed(
    tmp_path, packages, status, said
):
    finished = audit(REPOSITORY / ".ci" / "audit", packages, tmp_path)
    assert finished.returncode == status, finished.stderr
    assert said in finished.stdout + finished.stderr


@pytest.mark.parametrize(
    ("packages", "status"), [([VULNERABLE], 0), ([VULNERABLE, SKIPPED], 3), ([CLEAN, OTHER], 1)]
)
def test_an_advisory_is_accepted_by_any_of_its_names(tmp_path, packages, status):
    (tmp_path / ".ci").mkdir()
    script, accepted = tmp_path / ".ci" / "audit", "ACCEPTED: dict[str, str] = {"
    text = (REPOSITORY / ".ci" / "audit").read_text()
    assert accepted in text
    script.write_text(text.replace(accepted, f"{accepted}'CVE-2': 'nothing calls it',"))
    finished = audit(script, packages, tmp_path)
    assert finished.returncode == status, finished.stderr
    said = "PYSEC-1, fixed in 3.1.3; accepted: nothing calls it"
    assert (said in finished.stdout) == (VULNERABLE in packages)


def audit(script, packages, folder):
    (folder / "pip_audit.py").write_text(STUB)
    report = "" if packages is None else json.dumps({"dependencies": packages})
    return subprocess.run(
        [sys.executable, script],
        env=os.environ | {"PYTHONPATH": str(folder), "REPORT": report},
        capture_output=True,
        text=True,
    )
