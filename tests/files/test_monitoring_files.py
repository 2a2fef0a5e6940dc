# SPDX-License-Identifier: Apache-2.0
"""docker/prometheus and docker/grafana: rules that promtool accepts, and a dashboard as its script writes it."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from flagtriton.protocol.metrics import METRICS
from flagtriton_tools.serve.health import Health
from flagtriton_tools.serve.health_metrics import exposition
from tests.support.servers.prometheus import CAN_RUN, FOLDER, promtool

GRAFANA = FOLDER.parent / "grafana"
needs_promtool = pytest.mark.skipif(not CAN_RUN, reason="no Prometheus: apt-get install prometheus")


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    return json.loads((GRAFANA / "dashboards" / "flagtriton.json").read_text())


@needs_promtool
@pytest.mark.parametrize("arguments", [("check", "rules", "rules.yml"), ("check", "config", "prometheus.yml")])
def test_promtool_finds_no_fault(arguments: tuple[str, ...]) -> None:
    *command, file = arguments
    checked = promtool(*command, FOLDER / file)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "SUCCESS" in checked.stdout


@needs_promtool
def test_rules_and_alerts_give_what_was_reckoned_by_hand() -> None:
    tested = promtool("test", "rules", FOLDER / "rules_test.yml")
    assert tested.returncode == 0, tested.stdout + tested.stderr


@needs_promtool
def test_a_rule_that_is_wrong_would_be_noticed(tmp_path: Path) -> None:
    rules = (FOLDER / "rules.yml").read_text()
    assert rules.count("histogram_quantile(0.99") == 1
    (tmp_path / "rules.yml").write_text(rules.replace("histogram_quantile(0.99", "histogram_quantile(0.98"))
    (tmp_path / "rules_test.yml").write_text((FOLDER / "rules_test.yml").read_text())
    assert promtool("test", "rules", tmp_path / "rules_test.yml").returncode != 0


def test_every_alert_is_tested() -> None:
    alerts = set(re.findall(r"alert: (\w+)", (FOLDER / "rules.yml").read_text()))
    tests = (FOLDER / "rules_test.yml").read_text()
    fired = {name for name, after in re.findall(r"alertname: (\w+)\n\s+exp_alerts:(.*)", tests) if "[]" not in after}
    assert fired == alerts


def test_the_dashboard_is_what_its_script_writes(dashboard: dict[str, Any]) -> None:
    made = runpy.run_path(str(GRAFANA / "make_dashboard.py"))
    assert made["dashboard"]() == dashboard


def test_panels_lie_side_by_side_within_the_page(dashboard: dict[str, Any]) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_all_metrics_that_rules_and_panels_read_are_there(dashboard: dict[str, Any]) -> None:
    known = {metric.name for metric in METRICS} | set(
        re.findall(r"^# TYPE (\w+)", exposition(Health().to_json()).decode(), re.M)
    )
    rules = (FOLDER / "rules.yml").read_text()
    recorded = set(re.findall(r"record: (\S+)", rules))
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    read = set(
        re.findall(
            r"[\w:]*flagtriton_\w+(?::\w+)*",
            " ".join([*queries, *re.findall(r"expr: (?:\|\n)?((?:.|\n)*?)\n {6,8}[a-z-]", rules)]),
        )
    )
    assert read, "nothing was found"
    assert {name for name in read if name not in known | recorded} == set()
