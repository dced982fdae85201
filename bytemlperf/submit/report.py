"""What `bmp submit` prints, and its exit status."""

from __future__ import annotations

import json
from pathlib import Path

from bytemlperf.command.exits import one_line
from bytemlperf.submit.check import Checked, check_submission
from bytemlperf.submit.pack import pack

EXIT_REFUSED = 1


def check_and_tell(folder: Path, as_json: bool) -> int:
    """One line a finding; status 1 when a rule is broken."""
    checked = check_submission(folder)
    if as_json:
        content = {"accepted": checked.accepted, "findings": [finding._asdict() for finding in checked.findings]}
        print(json.dumps(content, indent=2, ensure_ascii=False))
    else:
        _tell(folder, checked)
    return 0 if checked.accepted else EXIT_REFUSED


def pack_and_tell(folder: Path, out: Path | None) -> int:
    """Nothing is packed that the rules refuse."""
    checked = check_submission(folder)
    if not checked.accepted:
        _tell(folder, checked)
        print("nothing packed")
        return EXIT_REFUSED
    path = out or folder.resolve().with_name(f"{folder.resolve().name}.tar.gz")
    left_out: list[str] = []
    digest = pack(folder, checked, path, left_out)
    for name in left_out:
        print(one_line(f"left out: {name}: not a file of a run"))
    print(f"{path}: {path.stat().st_size:,} bytes, sha256 {digest}")
    return 0


def _tell(folder: Path, checked: Checked) -> None:
    for finding in checked.findings:
        print(one_line(f"{finding.level}: {finding.rule}: {finding.subject}: {finding.text}"))
    problems = sum(finding.level == "problem" for finding in checked.findings)
    print(f"{folder}: {'ACCEPTED' if checked.accepted else f'''REFUSED, {problems} problem{'' if problems == 1 else 's'}'''}")
