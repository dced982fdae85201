"""The rules and the scrape configuration, checked by Prometheus' own tool; every name in them is one that a suite exports."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from bytemlperf.export.prometheus import Exporter
from bytemlperf_llm.live.metrics import FAMILIES as LLM
from general_perf.job.sweep import FAMILIES as GENERAL
from micro.command.live import families as micro_families
from training.watch.live import FAMILIES as TRAINING

ALL = (*LLM, *micro_families(), *GENERAL, *TRAINING)
DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus/rules.yml"
DASHBOARD = DEPLOY / "grafana/bytemlperf.json"
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool on this machine")


def promtool(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *words], capture_output=True, text=True, timeout=60, check=False)


def exported() -> set[str]:
    """Every series name that a scrape of any suite gives."""
    text = b"".join(Exporter(families).text() for families in (LLM, micro_families(), GENERAL, TRAINING)).decode()
    return {re.split(r"[{ ]", line)[0] for line in text.splitlines() if line and not line.startswith("#")} | {
        f"{family.name}{suffix}" for family in ALL if family.kind == "histogram" for suffix in ("_bucket", "_sum", "_count")
    }


def labels() -> dict[str, str]:
    """The label of each series that has one."""
    found = {}
    for family in ALL:
        if family.label:
            name = family.name if family.kind != "counter" or family.name.endswith("_total") else f"{family.name}_total"
            found[name] = family.label
    return found


def dashboard_expressions() -> list[str]:
    board = json.loads(DASHBOARD.read_text())
    return [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]


def rule_expressions() -> list[str]:
    return [rule["expr"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


@needs_promtool
def test_promtool_accepts_configuration_and_rules():
    done = promtool("check", "config", str(DEPLOY / "prometheus/prometheus.yml"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rules found" in done.stdout


@needs_promtool
def test_the_rules_do_what_their_tests_say():
    done = promtool("test", "rules", str(DEPLOY / "prometheus/rules_test.yml"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_test_or_a_reason():
    alerts = {rule["alert"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"] if "alert" in rule}
    tested = {
        case["alertname"]
        for test in yaml.safe_load((DEPLOY / "prometheus/rules_test.yml").read_text())["tests"]
        for case in test["alert_rule_test"]
    }
    assert alerts == tested


@needs_promtool
def test_promtool_parses_every_panel(tmp_path: Path):
    expressions = [text.replace("$__rate_interval", "1m").replace("$instance", ".*") for text in dashboard_expressions()]
    rules = [{"record": f"panel:{index}", "expr": text} for index, text in enumerate(expressions)]
    file = tmp_path / "panels.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    done = promtool("check", "rules", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(expressions)} rules found" in done.stdout


def test_every_series_asked_for_is_exported_and_every_family_is_shown():
    names = exported()
    recorded = {rule["record"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"] if "record" in rule}
    for text in (*dashboard_expressions(), *rule_expressions()):
        asked = set(re.findall(r"(?:instance:)?bmp_[\w:]+", text))
        assert asked, text
        assert asked <= names | recorded, (asked - names, text)
    shown = " ".join(dashboard_expressions())
    for family in ALL:
        if family.name != "bmp_training_steps" and family.name != "bmp_training_tokens":  # their rates are shown as gauges
            assert family.name in shown, f"{family.name} is on no panel"


def test_labels_that_are_grouped_by_exist():
    of = labels()
    for text in (*dashboard_expressions(), *rule_expressions()):
        for by, name in re.findall(r"sum by \(([^)]*)\) \((?:rate\(|increase\()?(bmp_\w+)", text):
            wanted = {each.strip() for each in by.split(",")} - {"instance", "le"}
            assert wanted <= {of.get(name, "")}, (by, name)
