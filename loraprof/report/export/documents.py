"""The report itself as a file: the same bytes as ``report --format``."""

from loraprof.report.export.files import replacing
from loraprof.report.export.job import Job
from loraprof.report.registry import render


def export_json(job: Job) -> str:
    return _write(job, "json")


def export_html(job: Job) -> str:
    return _write(job, "html")


def export_markdown(job: Job) -> str:
    return _write(job, "markdown")


def _write(job: Job, form: str) -> str:
    content = render(job.report, form)
    with replacing(job.target) as out:
        out.write(content)
    return "the findings in it: loraprof explain ID"
