"""The report itself as a file: the same bytes as ``report --format``."""

from loraprof.report.export.files import replacing
from loraprof.report.export.job import Job
from loraprof.report.html import to_html
from loraprof.report.registry import render


def export_json(job: Job) -> str:
    return _write(job, render(job.report, "json"))


def export_html(job: Job) -> str:
    return _write(job, to_html(job.report, job.drawn()))


def export_markdown(job: Job) -> str:
    return _write(job, render(job.report, "markdown"))


def _write(job: Job, content: bytes) -> str:
    with replacing(job.target) as out:
        out.write(content)
    return "the findings in it: loraprof explain ID"
