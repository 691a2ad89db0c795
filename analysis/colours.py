"""Colours and markers. A method or strategy looks the same in every figure and page."""

from zlib import crc32

COLOURS = {  # Okabe and Ito's palette, safe for colour-blind readers; two greys for the control methods
    "slide": "#0072B2",
    "adaptive": "#56B4E9",
    "discontinuous": "#009E73",
    "distinct": "#DC050C",
    "h2o": "#D55E00",
    "pyramidinfer": "#E69F00",
    "snapkv": "#CC79A7",
    "pyramidkv": "#F0E442",
    "streamingllm": "#000000",
    "recent": "#4F4F4F",
    "random": "#8C8C8C",
    "full": "#882255",
    "none": "#882255",
    # No palette keeps so many colours apart for every reader. These are Tol's, and some in between.
    "accumulated_h2o": "#661100",
    "ams": "#A6761D",
    "diverse": "#E7298A",
    "entropy": "#8C6BB1",
    "expected_attention": "#9E4F00",
    "g_kv": "#1FA187",
    "keydiff": "#C4A000",
    "knorm": "#6699CC",
    "kvpress": "#5F4690",
    "lazyeviction": "#B2DF8A",
    "morphkv": "#44AA99",
    "r_kv": "#117733",
    "raas": "#332288",
    "salient": "#6FAF00",
    "snapkv_d": "#AA4499",
    "tova": "#999933",
    "triattention": "#0B525B",
    "vase": "#FB9A99",
}
FURTHER = ("#94346E", "#38A6A5", "#73AF48", "#EDAD08", "#1D6996", "#CC503E")  # for names not listed
MARKERS = {
    "distinct": "H",
    "entropy": "$E$",  # matplotlib has no further filled shape
    "full": "o",
    "h2o": "s",
    "keydiff": "<",
    "knorm": ">",
    "kvpress": "p",
    "pyramidinfer": "P",
    "pyramidkv": "v",
    "r_kv": "*",
    "random": "d",
    "recent": "X",
    "salient": "$S$",
    "snapkv": "^",
    "streamingllm": "D",
    "tova": "h",
}
OTHER = "8"  # the marker of a method that is not listed


def colour(name: str) -> str:
    """The colour of a prefill method or decoding strategy, as #rrggbb.

    A name that is not listed gets one of `FURTHER`, always the same.
    """
    return COLOURS.get(name) or FURTHER[crc32(name.encode()) % len(FURTHER)]


def marker(method: str) -> str:
    """The marker of a prefill method, as matplotlib names it."""
    return MARKERS.get(method, OTHER)
