"""`python dev.py demo`: the main job, whole and real but for the tiny weights, into an S3 server of its own.

The weights are random, so the video is coloured noise: what it shows is that every part of the graph runs here.
"""

import shutil
import sys
import time
from pathlib import Path

import av
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).resolve().parent))
from support import fixtures, tiny, workflows  # noqa: E402  (support loads the package)
from support.s3_server import StrictS3  # noqa: E402
from support.server import Server  # noqa: E402

# isort: split
from steadydancer.tools import comfyui  # noqa: E402

SIZE, FRAMES = (96, 144), 17


def main() -> int:
    base = comfyui.cache_folder() / "demo"
    base.mkdir(parents=True, exist_ok=True)
    prompt = workflows.with_tiny_values(
        workflows.with_tiny_text_encoder(
            workflows.load(workflows.ROOT / "example_workflows/api/steadydancer_basic.json")
        )
    )
    save_to_bucket(prompt)
    print("Starting ComfyUI and an S3 server …")
    with StrictS3(base / "bucket").running() as s3:
        server = Server(comfyui.find(), base, variables=s3.profile)
        tiny.provide(base / "models", *workflows.model_files(prompt))
        server.start()
        try:
            picture, poses = put_input(server, prompt)
            for node in prompt.values():
                if node["class_type"] == "SteadyDancerFitImage":
                    node["inputs"] |= {"width": SIZE[0], "height": SIZE[1]}
            print(f"Dancing: {FRAMES} frames of {SIZE[0]}×{SIZE[1]} on the CPU, with tiny random weights …")
            start = time.monotonic()
            result = server.run(prompt, timeout=1800)
            if not result.succeeded:
                print(f"It did not work: {result.error}\nThe log is {server.log_file}")
                return 1
        finally:
            server.stop()
        ((key, stored),) = s3.objects.items()
    video = result.files[0]
    sheet = video.with_suffix(".png")
    contact_sheet(picture, poses, video).save(sheet)
    print(f"Done in {time.monotonic() - start:.0f} s.")
    print(f"Video:         {video}")
    print(f"Contact sheet: {sheet}   (picture | poses | result)")
    print(f"In the bucket: s3://{s3.buckets[0]}/{key} at {s3.endpoint}")
    if stored["file"].read_bytes() != video.read_bytes():
        print("The bucket holds other bytes than the file.")
        return 1
    return 0


def save_to_bucket(prompt: dict) -> None:
    """Core's Save Video becomes Save Video to R2, with the values that the shipped example has for it."""
    example = workflows.load(workflows.ROOT / "example_workflows/api/save_to_r2.json")
    save = next(node for node in example.values() if node["class_type"] == "SteadyDancerR2SaveVideo")
    for node in prompt.values():
        if node["class_type"] == "SaveVideo":
            node |= {"class_type": save["class_type"], "inputs": save["inputs"] | {"video": node["inputs"]["video"]}}


def put_input(server: Server, prompt: dict) -> tuple[Path, Path]:
    """The real picture and poses where they are beside the checkout; the drawn dancer is in the input folder already."""
    inputs = server.base_directory / "input"
    picture, poses = inputs / "steadydancer_example_person.png", inputs / "steadydancer_example_poses.mp4"
    real = fixtures()
    if real is None:
        return picture, poses
    picture = Path(shutil.copy(real / "dance01" / "ref_image.png", inputs / "demo_picture.png"))
    poses = write_poses(real / "dance01" / "positive", inputs / "demo_poses.mp4")
    negative_poses = write_poses(real / "dance01" / "negative", inputs / "demo_negative_poses.mp4")
    videos = iter((poses, negative_poses))
    for node in prompt.values():
        if node["class_type"] == "LoadImage":
            node["inputs"]["image"] = picture.name
        elif node["class_type"] == "LoadVideo":
            node["inputs"]["file"] = next(videos).name
    return picture, poses


def write_poses(folder: Path, target: Path) -> Path:
    """Drawn pose frames (JPEG, twice the video's size) as a video."""
    with av.open(target, "w") as container:
        stream = container.add_stream("libx264", rate=16)
        stream.width, stream.height, stream.pix_fmt, stream.options = 656, 896, "yuv420p", {"crf": "12"}
        for file in sorted(folder.glob("*.jpg")):
            picture = Image.open(file).resize((stream.width, stream.height), Image.Resampling.LANCZOS)
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode())
    return target


def contact_sheet(picture: Path, poses: Path, video: Path, columns: int = 5) -> Image.Image:
    """The picture, then poses above results at even times."""
    width, height = 2 * SIZE[0], 2 * SIZE[1]
    sheet = Image.new("RGB", ((columns + 1) * (width + 8) + 8, 2 * (height + 28) + 8), "#202124")
    pen = ImageDraw.Draw(sheet)

    def place(image, column, row, label):
        x, y = 8 + column * (width + 8), 8 + row * (height + 28)
        pen.text((x, y), label, "#e8eaed")
        sheet.paste(image.convert("RGB").resize((width, height)), (x, y + 18))

    place(Image.open(picture), 0, 0, "picture")
    at = [round(i * (FRAMES - 1) / (columns - 1)) for i in range(columns)]
    for row, (name, file) in enumerate((("pose", poses), ("result", video))):
        for column, frame in enumerate(frames(file, at)):
            place(frame, column + 1, row, f"{name}, frame {at[column]}")
    return sheet


def frames(video: Path, at: list[int]) -> list[Image.Image]:
    with av.open(video) as container:
        found = [frame.to_image() for i, frame in enumerate(container.decode(video=0)) if i in at]
    return found + found[-1:] * (len(at) - len(found))


if __name__ == "__main__":
    sys.exit(main())
