"""Makes a stream wait for a known time without any activity on the device.

The driver runs a host function in the stream's order (``cuLaunchHostFunc``); here libc's ``usleep``, so that no Python
is needed to finish it. The profiler records neither.
"""

import ctypes

import torch


def host_pause(stream: torch.cuda.Stream, us: int) -> None:
    """Work given to ``stream`` from here on starts at least ``us`` microseconds after the work before it ended.

    Raises RuntimeError where the driver refuses, OSError where its library is not there.
    """
    driver, libc = ctypes.CDLL("libcuda.so.1"), ctypes.CDLL(None)
    sleep = ctypes.cast(libc.usleep, ctypes.c_void_p)
    code = driver.cuLaunchHostFunc(ctypes.c_void_p(stream.cuda_stream), sleep, ctypes.c_void_p(us))
    if code:
        raise RuntimeError(f"cuLaunchHostFunc failed with CUDA error {code}")
