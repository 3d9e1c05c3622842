"""Two workers that turn video files into pictures.

`thumbnails` reads one video and writes a handful of thumbnails and a contact sheet beside each other; `encode` makes
the short test films that the demo feeds it with. Both are plain functions: `thumbnails.run(source="a.mp4")` in a test
needs no broker and no cluster.
"""

import math
import os
from pathlib import Path

import av
from PIL import Image, ImageDraw

from maestro_worker import BusinessError, Run, worker

MEDIA = Path(os.environ.get("MEDIA", "/media"))


def _inside(name: str) -> Path:
    path = (MEDIA / name).resolve()
    if not path.is_relative_to(MEDIA.resolve()):
        raise BusinessError("INVALID_PARAMETERS", f"{name!r} leads out of the media folder")
    return path


@worker
def thumbnails(run: Run, source: str, width: int = 320, count: int = 6) -> dict[str, object]:
    """Take `count` pictures at equal distances from the video `source` and lay them out on one contact sheet.

    `source` is a path under the media folder, `width` the width of a thumbnail in pixels.
    """
    path = _inside(source)
    if not path.is_file():
        raise BusinessError("NO_SUCH_VIDEO", source)
    target = MEDIA / "pictures" / f"{path.stem}-{width}x{count}"
    target.mkdir(parents=True, exist_ok=True)
    pictures: list[Path] = []
    tiles: list[Image.Image] = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = stream.frames or 0
        if frames == 0 or stream.time_base is None:
            raise BusinessError("EMPTY_VIDEO", source)
        wanted = [frames * (2 * i + 1) // (2 * count) for i in range(count)]
        for index, frame in enumerate(container.decode(stream)):
            if index not in wanted:
                continue
            image = frame.to_image()
            image.thumbnail((width, width))
            file = target / f"{len(tiles):02}.jpg"
            image.save(file, quality=85)
            pictures.append(file)
            tiles.append(image)
            run.progress(len(tiles), count, file.name)
    sheet = _contact_sheet(tiles)
    sheet.save(target / "sheet.jpg", quality=85)
    return {
        "pictures": [str(p.relative_to(MEDIA)) for p in pictures],
        "sheet": str((target / "sheet.jpg").relative_to(MEDIA)),
        "frames": frames,
        "pod": os.environ.get("MAESTRO_POD_NAME", ""),
    }


def _contact_sheet(tiles: list[Image.Image], columns: int = 3, margin: int = 8) -> Image.Image:
    width, height = tiles[0].size
    rows = math.ceil(len(tiles) / columns)
    sheet = Image.new("RGB", (columns * (width + margin) + margin, rows * (height + margin) + margin), "white")
    for index, tile in enumerate(tiles):
        column, row = index % columns, index // columns
        sheet.paste(tile, (margin + column * (width + margin), margin + row * (height + margin)))
    return sheet


@worker
def encode(run: Run, films: int = 12, seconds: int = 4) -> dict[str, object]:
    """Encode `films` short H.264 films of moving shapes into the media folder."""
    names = []
    for film in range(films):
        name = f"film-{film:02}.mp4"
        _encode(MEDIA / name, seconds, hue=film / films, title=f"film {film}")
        names.append(name)
        run.progress(film + 1, films, name)
    return {"films": names}


def _encode(
    path: Path, seconds: int, hue: float, title: str, rate: int = 24, size: tuple[int, int] = (960, 540)
) -> None:
    part = path.with_suffix(".part.mp4")
    with av.open(str(part), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"preset": "veryfast", "crf": "28"})
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        total = seconds * rate
        for number in range(total):
            image = _picture(number / total, hue, title, size)
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())
    part.rename(path)  # a reader never sees half a film


def _picture(at: float, hue: float, title: str, size: tuple[int, int]) -> Image.Image:
    width, height = size
    image = Image.new("HSV", size, (int(255 * hue), 140, int(90 + 120 * at))).convert("RGB")
    draw = ImageDraw.Draw(image)
    x, y = width * at, height * (0.5 + 0.35 * math.sin(at * 4 * math.pi))
    draw.ellipse((x - 50, y - 50, x + 50, y + 50), fill="white")
    draw.rectangle((0, height - 12, width * at, height), fill="black")
    draw.text((16, 12), f"{title}  {at:4.0%}", fill="black")
    return image
