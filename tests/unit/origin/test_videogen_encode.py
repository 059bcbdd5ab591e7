import os

from origin.videogen.encode import VideoEncoder
from origin.videogen.settings import Rendition, parse_source


def test_no_encoder_makes_this_process_real_time() -> None:
    VideoEncoder(1, parse_source("videogen://?video=av1&size=320x180"), Rendition(320, 180))
    policies = {os.sched_getscheduler(int(thread)) for thread in os.listdir("/proc/self/task")}
    assert policies == {os.SCHED_OTHER}
