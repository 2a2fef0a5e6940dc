# SPDX-License-Identifier: Apache-2.0
"""Writes `dashboards/flagtriton.json`: a panel for every question of docs/monitoring.md.

python docker/grafana/make_dashboard.py
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DASHBOARD = Path(__file__).parent / "dashboards" / "flagtriton.json"

_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
_OF = 'deployment=~"$deployment"'
_WIDTH = 24


@dataclass(frozen=True)
class Panel:
    """One question.

    Attributes:
        title: the question.
        queries: PromQL, each with the legend of its series.
        unit: Grafana's name of it.
        width: of the page's 24 columns.
        kind: Grafana's name of the panel.
        limit: drawn in red from there on.
        low: the limit is one to stay above.
        note: shown beside the title.
    """

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    width: int = 8
    kind: str = "timeseries"
    limit: float | None = None
    low: bool = False
    note: str = ""


ROWS: dict[str, tuple[Panel, ...]] = {
    "Does it answer?": (
        Panel(
            "Which deployments answer?",
            ((f"flagtriton_deployment_ready{{{_OF}}}", "{{deployment}}"),),
            kind="stat",
            width=6,
            limit=1,
            low=True,
            note="1 answers the launcher's tiny requests, 0 does not.",
        ),
        Panel(
            "What was brought back?",
            (
                (f"increase(flagtriton_recoveries_total{{{_OF}}}[1h])", "{{deployment}}"),
                ("increase(flagtriton_server_restarts_total[1h])", "tritonserver"),
            ),
            width=6,
            note="Within an hour.",
        ),
        Panel(
            "Which process is silent?",
            ((f"time() - flagtriton_step_last_seen_timestamp_seconds{{{_OF}}}", "{{process}}"),),
            unit="s",
            width=6,
            limit=30,
            note="Each says every second that it is alive.",
        ),
        Panel(
            "Is the service level kept?",
            (
                (f"deployment:flagtriton_missed:share1h{{{_OF}}}", "{{deployment}}, 1 h"),
                (f"deployment:flagtriton_missed:share6h{{{_OF}}}", "{{deployment}}, 6 h"),
            ),
            unit="percentunit",
            width=6,
            limit=0.01,
            note="Interactive requests refused or later than 0.5 s; 1 % may be.",
        ),
    ),
    "Requests": (
        Panel(
            "How many come, and what do they get?",
            (
                (
                    f"sum by (deployment, code) (deployment_priority_code:flagtriton_requests:rate1m{{{_OF}}})",
                    "{{deployment}} {{code}}",
                ),
            ),
            unit="reqps",
        ),
        Panel(
            "How long do they take?",
            (
                (
                    f"deployment_priority:flagtriton_request_duration_seconds:p50_5m{{{_OF}}}",
                    "{{deployment}} {{priority}} p50",
                ),
                (
                    f"deployment_priority:flagtriton_request_duration_seconds:p99_5m{{{_OF}}}",
                    "{{deployment}} {{priority}} p99",
                ),
            ),
            unit="s",
            note="In the encoder step, waiting included; without transport, tokenising and pooling.",
        ),
        Panel(
            "How long with everything?",
            (
                (
                    'rate(nv_inference_request_duration_us{model=~"$deployment"}[5m])'
                    ' / (rate(nv_inference_request_success{model=~"$deployment"}[5m]) > 0) / 1e6',
                    "{{model}} mean",
                ),
            ),
            unit="s",
            note="Triton's own mean over all steps.",
        ),
    ),
    "Queues": (
        Panel(
            "How full are they?",
            ((f"deployment_step:flagtriton_waiting:share{{{_OF}}}", "{{deployment}} {{step}}"),),
            unit="percentunit",
            limit=0.5,
            note="At 100 % requests are refused.",
        ),
        Panel(
            "How long do requests wait?",
            ((f"deployment_priority:flagtriton_queue_seconds:mean1m{{{_OF}}}", "{{deployment}} {{priority}}"),),
            unit="s",
            note="Mean, at the encoder: what an autoscaler goes by.",
        ),
        Panel(
            "What is refused?",
            (
                (
                    f'deployment_priority_code:flagtriton_requests:rate1m{{{_OF}, code="unavailable"}}',
                    "{{deployment}} {{priority}}",
                ),
            ),
            unit="reqps",
            limit=1,
        ),
    ),
    "Work": (
        Panel(
            "How much is done?", ((f"deployment:flagtriton_tokens:rate1m{{{_OF}}}", "{{deployment}} tokens"),), width=6
        ),
        Panel(
            "Which step is at its limit?",
            ((f"deployment_step:flagtriton_busy:share1m{{{_OF}}}", "{{deployment}} {{step}}"),),
            unit="percentunit",
            width=6,
            limit=0.9,
            note="The part of the time that a step's processes are at work.",
        ),
        Panel(
            "Are forward passes full?",
            ((f"deployment:flagtriton_tokens_per_micro_batch:mean5m{{{_OF}}}", "{{deployment}} tokens a pass"),),
            width=6,
            note="The token budget is the most: 4,096 on a processor, 65,536 on a GPU unless said otherwise.",
        ),
        Panel(
            "What is wasted on padding?",
            ((f"deployment:flagtriton_padding:share5m{{{_OF}}}", "{{deployment}}"),),
            unit="percentunit",
            width=6,
            limit=0.3,
        ),
        Panel(
            "Which part of the texts is cut?",
            ((f"deployment:flagtriton_truncated_texts:share1h{{{_OF}}}", "{{deployment}}"),),
            unit="percentunit",
            width=6,
            limit=0.05,
            note="What is cut is not searched.",
        ),
        Panel(
            "How many texts?",
            ((f"deployment:flagtriton_texts:rate1m{{{_OF}}}", "{{deployment}}"),),
            unit="cps",
            width=6,
        ),
        Panel(
            "Does it fail inside?",
            ((f'deployment_priority_code:flagtriton_requests:rate1m{{{_OF}, code="internal"}}', "{{deployment}}"),),
            unit="reqps",
            width=12,
            limit=0.001,
            note="Tracebacks are in tritonserver's log, behind [flagtriton].",
        ),
    ),
    "The machine": (
        Panel(
            "Is there memory left?",
            (("nv_cpu_memory_used_bytes", "{{instance}} used"), ("nv_cpu_memory_total_bytes", "{{instance}} all")),
            unit="bytes",
            width=6,
        ),
        Panel(
            "Is there shared memory left?",
            (("flagtriton_shared_memory_free_bytes", "{{instance}} free"),),
            unit="bytes",
            width=6,
            note="/dev/shm, through which tensors travel between steps.",
        ),
        Panel("Are GPUs at work?", (("nv_gpu_utilization", "{{gpu_uuid}}"),), unit="percentunit", width=6),
        Panel(
            "Is there GPU memory left?",
            (("nv_gpu_memory_used_bytes", "{{gpu_uuid}} used"), ("nv_gpu_memory_total_bytes", "{{gpu_uuid}} all")),
            unit="bytes",
            width=6,
        ),
    ),
}


def dashboard() -> dict[str, Any]:
    """Return Grafana's model of the page."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS.items():
        panels.append(
            {"type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": _place(0, y, _WIDTH, 1)}
        )
        y += 1
        x = 0
        for panel in row:
            if x + panel.width > _WIDTH:
                x, y = 0, y + 8
            panels.append(_panel(panel, _place(x, y, panel.width, 8)))
            x += panel.width
        y += 8
    for number, each in enumerate(panels, 1):
        each["id"] = number
    return {
        "uid": "flagtriton",
        "title": "flagtriton",
        "tags": ["triton", "embeddings"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_datasource_variable(), _deployment_variable()]},
        "panels": panels,
    }


def _panel(panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "red" if panel.low else "green", "value": None}]
    if panel.limit is not None:
        steps.append({"color": "green" if panel.low else "red", "value": panel.limit})
    custom = {"fillOpacity": 8, "thresholdsStyle": {"mode": "off" if panel.limit is None else "line"}}
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.note,
        "datasource": _DATASOURCE,
        "gridPos": place,
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "min": 0,
                "thresholds": {"mode": "absolute", "steps": steps},
                **({"custom": custom} if panel.kind == "timeseries" else {}),
            },
            "overrides": [],
        },
        "options": _options(panel.kind),
        "targets": [
            {"refId": chr(ord("A") + place), "datasource": _DATASOURCE, "expr": query, "legendFormat": legend}
            for place, (query, legend) in enumerate(panel.queries)
        ],
    }


def _options(kind: str) -> dict[str, Any]:
    if kind == "stat":
        return {"colorMode": "background", "graphMode": "none", "reduceOptions": {"calcs": ["lastNotNull"]}}
    return {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}}


def _place(x: int, y: int, width: int, height: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": width, "h": height}


def _datasource_variable() -> dict[str, Any]:
    return {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"}


def _deployment_variable() -> dict[str, Any]:
    query = "label_values(flagtriton_step_last_seen_timestamp_seconds, deployment)"
    return {
        "name": "deployment",
        "type": "query",
        "datasource": _DATASOURCE,
        "query": {"query": query, "refId": "deployments"},
        "definition": query,
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def main() -> None:
    """Write the file."""
    DASHBOARD.parent.mkdir(exist_ok=True)
    DASHBOARD.write_text(json.dumps(dashboard(), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
