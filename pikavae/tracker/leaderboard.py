"""Defines how MLflow's UI shows an experiment: the table of runs, and beside it their pictures and curves.

The format is that of MLflow's own shared views, which is not documented. If the UI cannot read it, it says so and shows
its usual table.
"""

from __future__ import annotations

from typing import Any

from pikavae.tracker.tags import EARLIER_RECONSTRUCTIONS, RECONSTRUCTIONS

SCORES = ("val/psnr", "val/ssim")
SETTINGS = ("preset", "data.source", "data.image_size")
NAME = "attributes.`Run Name`"
CURVES = ("val/psnr", "val/ssim", "train/loss", "train/images_per_second")
RUNS_COMPARED = 10


def leaderboard() -> dict[str, Any]:
    """Return the view: runs by validation PSNR, the best first, and as charts reconstructions by step, then curves."""
    return {
        "searchFilter": "",
        "orderByKey": "metrics.`val/psnr`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": [
            *(f"metrics.`{name}`" for name in SCORES),
            *(f"params.`{name}`" for name in SETTINGS),
            "tags.`pikavae.version`",
        ],
        "columnOrder": [NAME, "tags.`pikavae.version`", *(f"metrics.`{name}`" for name in SCORES)],
        "columnWidths": {NAME: 320, "tags.`pikavae.version`": 90, **{f"metrics.`{name}`": 100 for name in SCORES}},
        "compareRunCharts": [
            _pictures("pictures", RECONSTRUCTIONS),
            *map(_curve, CURVES),
            _pictures("earlier", EARLIER_RECONSTRUCTIONS),
        ],
        "compareRunSections": [
            _section("pictures", "Pictures", columns=1, cardHeight=420),
            _section("curves", "Curves"),
            _section("earlier", "Pictures of runs of earlier versions", columns=1, cardHeight=420),
        ],
        "isAccordionReordered": True,
        "runListHidden": False,
        "viewMaximized": True,
        "autoRefreshEnabled": True,
    }


def _section(uuid: str, name: str, **size: int) -> dict[str, Any]:
    flags = {"display": True, "isReordered": False, "deleted": False, "isGenerated": False}
    return {"uuid": uuid, "name": name, **flags, **size}


def _pictures(section: str, series: str) -> dict[str, Any]:
    """Return the card of a series of pictures, without the runs' parameters, which would fill it."""
    return {
        **_chart(section, "IMAGE", section),
        "imageKeys": [series],
        "step": 0,
        "showRunParams": False,
    }


def _curve(metric: str) -> dict[str, Any]:
    return {
        **_chart(metric, "LINE", "curves"),
        "displayName": metric,
        "metricKey": metric,
        "lineSmoothness": 0,
        "xAxisScaleType": "linear",
        "scaleType": "linear",
        "range": {},
        "xAxisKey": "step",
        "selectedXAxisMetricKey": "",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "ignoreOutliers": False,
        "useGlobalXaxisKey": True,
        "useGlobalLineSmoothing": True,
    }


def _chart(uuid: str, kind: str, section: str) -> dict[str, Any]:
    return {
        "uuid": uuid,
        "type": kind,
        "runsCountToCompare": RUNS_COMPARED,
        "metricSectionId": section,
        "deleted": False,
        "isGenerated": False,
    }
