"""The one home of colours and markers: a method or strategy looks the same in every figure and page."""

from zlib import crc32

COLOURS = {  # Okabe and Ito's, which the colour-blind can tell apart, and greys for the controls
    "slide": "#0072B2",
    "adaptive": "#56B4E9",
    "discontinuous": "#009E73",
    "h2o": "#D55E00",
    "pyramidinfer": "#E69F00",
    "snapkv": "#CC79A7",
    "pyramidkv": "#F0E442",
    "streamingllm": "#000000",
    "recent": "#7F7F7F",
    "random": "#BFBFBF",
    "full": "#882255",
    "none": "#882255",
}
FURTHER = ("#332288", "#117733", "#999933", "#AA4499", "#661100", "#44AA99")  # Tol's; for names not listed
MARKERS = {"full": "o", "h2o": "s", "snapkv": "^", "streamingllm": "D", "pyramidkv": "v", "pyramidinfer": "P"}


def colour(name: str) -> str:
    """The colour of a prefill method or decoding strategy; a name that is not listed always gets the same one too."""
    return COLOURS.get(name) or FURTHER[crc32(name.encode()) % len(FURTHER)]


def marker(method: str) -> str:
    return MARKERS.get(method, "X")
