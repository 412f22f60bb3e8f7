"""Traces as bytes, and how tests read them."""

import io
from typing import Any

from builders import Document, text_of

from loraprof.model.trace import Trace
from loraprof.model.vocabulary import HostKind
from loraprof.store.kineto.read import read_stream

MINIMAL = b"""{"schemaVersion": 1, "displayTimeUnit": "ms", "baseTimeNanoseconds": 0,
 "deviceProperties": [{"id": 0, "name": "Synthetic GPU", "numSms": 100, "computeMajor": 9, "computeMinor": 0}],
 "traceEvents": [
  {"ph":"X","cat":"user_annotation","name":"ProfilerStep#0","pid":1,"tid":1,"ts":1000.000,"dur":90.000,
   "args":{"External id":1}},
  {"ph":"X","cat":"cpu_op","name":"aten::mm","pid":1,"tid":1,"ts":1010.000,"dur":12.000,
   "args":{"External id":2,"Sequence number":0,"Fwd thread id":0,"Input Dims":[[512,256],[256,16]],
           "Input type":["c10::BFloat16","c10::BFloat16"]}},
  {"ph":"X","cat":"cuda_runtime","name":"cudaLaunchKernel","pid":1,"tid":1,"ts":1015.000,"dur":5.000,
   "args":{"External id":2,"cbid":211,"correlation":7}},
  {"ph":"X","cat":"kernel","name":"gemm_kernel","pid":0,"tid":7,"ts":1021.500,"dur":4.250,
   "args":{"External id":2,"device":0,"context":1,"stream":7,"correlation":7,"grid":[4,1,1],"block":[128,1,1]}},
  {"ph":"i","s":"g","name":"Record Window End","pid":"","tid":"","ts":1200.000}],
 "traceName": "synthetic.json"}"""


def read(data: bytes) -> Trace:
    return read_stream(io.BytesIO(data), "t.json")


def read_events(*events: Document) -> Trace:
    return read(text_of({"traceEvents": list(events)}))


def event(cat: str, name: str = "x", **more: Any) -> Document:
    return {"ph": "X", "cat": cat, "name": name, "pid": 1, "tid": 1, "ts": 10, "dur": 5} | more


def host_rows(trace: Trace) -> list[tuple[str, str, int, int]]:
    h = trace.host
    columns = (h.kind.tolist(), h.name.tolist(), h.start.tolist(), h.end.tolist())
    return [(HostKind(k).name, trace.names[n], s, e) for k, n, s, e in zip(*columns, strict=True)]
