"""Files that make ffmpeg open what they name, and the machine that they name: it counts who asks."""

import http.server
import socket
import threading
from contextlib import contextmanager


@contextmanager
def asked():
    """An HTTP server on this machine: its address, and the paths that anybody asked it for."""
    paths = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            paths.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", paths
    finally:
        server.shutdown()
        server.server_close()


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def playlists(address: str) -> dict[str, bytes]:
    """File name → a playlist, a manifest, a list or a session description that leads to `address`."""
    texts = {
        "list.m3u8": f"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\n{address}/a.ts\n#EXT-X-ENDLIST\n",
        "master.m3u8": f"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{address}/b.m3u8\n",
        "key.m3u8": f'#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXT-X-KEY:METHOD=AES-128,URI="{address}/key"\n#EXTINF:3,\nx.ts\n',
        "list.mp4": f"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\n{address}/a.ts\n#EXT-X-ENDLIST\n",
        "list.ffconcat": f"ffconcat version 1.0\nfile '{address}/c.mp4'\n",
        "concat.mp4": f"ffconcat version 1.0\nfile '{address}/c.mp4'\n",
        "manifest.mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT3S">'
        f'<Period><AdaptationSet mimeType="video/mp4"><BaseURL>{address}/</BaseURL><Representation id="1" bandwidth="1" '
        'codecs="avc1"><SegmentList><SegmentURL media="d.mp4"/></SegmentList></Representation></AdaptationSet></Period></MPD>',
        "session.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
        f"m=video {free_port()} RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        "session.mp4": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
        f"m=video {free_port()} RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        "redirect.asx": f'<asx version="3.0"><entry><ref href="{address}/e.wmv"/></entry></asx>',
        "redirect.asf": f"[Reference]\nRef1={address}/f.asf\n",
        "redirect.ram": f"{address}/g.rm\n",
        "picture.svg": f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{address}/h.png"/></svg>',
        "subtitles.vtt": "WEBVTT\n\n00:00.000 --> 00:01.000\nhello\n",
        "numbers.txt": "frame%03d.png",
    }
    return {name: text.encode() for name, text in texts.items()}
