"""What a counter under a node counts is called by its name."""

from functools import partial
from pathlib import Path

import pytest


@pytest.mark.parametrize("codec_kept", [True, False])
def test_a_videos_file_is_counted_in_bytes_and_its_frames_as_frames(comfyui, tmp_path, monkeypatch, codec_kept):
    import torch
    from comfy_api.latest import InputImpl, Types
    from server import PromptServer
    from steadydancer.services.progress import NodeProgress
    from steadydancer.services.write_video import write_video

    said = []
    monkeypatch.setattr(PromptServer.instance, "send_progress_text", lambda text, *_: said.append(text))
    parts = Types.VideoComponents(images=torch.rand(9, 64, 64, 3), audio=None, frame_rate=16)
    first, second = Path(tmp_path, "first.mp4"), Path(tmp_path, "second.mp4")
    write_video(InputImpl.VideoFromComponents(parts), first, {}, False, 19, partial(NodeProgress, "1"))
    assert said and all("frames" in text and "B" not in text for text in said)
    said.clear()
    video = InputImpl.VideoFromFile(str(first), **({} if codec_kept else {"start_time": 0.1}))
    write_video(video, second, {}, False, 19, partial(NodeProgress, "1"))
    assert said and all(" MB" in text and "frames" not in text for text in said)
