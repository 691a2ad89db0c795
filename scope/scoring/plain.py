"""One spelling for what can be written in many: LaTeX, markdown, HTML, digits of other scripts, look-alike signs."""

import re
import unicodedata

REACH = 200  # characters of an answer that are read; this bounds the time of every pattern

_UNSEEN = re.compile(r"[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff\ufe00-\ufe0f]")
_CUT = re.compile(r"[\d.,'’_/^%-]*\Z")  # a number that the reach cuts in two is not read
_MIXED = re.compile(r"(?<=\d)(?=[¼-¾⅐-⅞]|\\[dtc]?frac)")  # 1½ is 1 1/2, not 11/2
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_POWER = re.compile(r"(?<=[\d)])[⁻⁺]?[⁰¹²³⁴-⁹]+")
_LIFTED = re.compile(r"[⁰¹²³⁴-⁹⁻⁺₀-₉]+")  # beside a letter: a unit's power, a footnote
_SIGNS = str.maketrans("−–‐‑‒﹣٫⁄∕⋅∙·•", "------.//××××")
_SAME = {"٬": ",", "’": "'", "‘": "'", "“": '"', "”": '"', "∗": "*", "∼": "~", "≅": "≈", "⇒": "=", "→": "=", "⟹": "="}

_DIGITS = r"\s?(-?[\d.,]{1,50})\s?"
_FRACTION = re.compile(rf"\\[dtc]?frac\s?(?:\{{{_DIGITS}\}}|(\d))\s?(?:\{{{_DIGITS}\}}|(\d))")
_LATEX = (
    (re.compile(r"\\[dtc]?frac\s?\{([^{}]*)\}\s?\{([^{}]*)\}"), r"(\1)/(\2)"),
    (re.compile(r"\\sqrt\s?\{([^{}]*)\}"), r"√(\1)"),
    (re.compile(r"\\sqrt"), "√"),
    (re.compile(r"\\(?:times|cdot|ast)(?![a-z])"), "×"),
    (re.compile(r"\\div(?![a-z])"), "÷"),
    (re.compile(r"\\(?:approx|sim|simeq|cong)(?:eq)?(?![a-z])"), "≈"),
    (re.compile(r"\\(?:to|rightarrow|Rightarrow|implies)(?![a-zA-Z])"), "="),
    (re.compile(r"\\neq?(?![a-z])"), "≠"),
    (re.compile(r"\\pm(?![a-z])"), "±"),
    (re.compile(r"\\pi(?![a-z])"), "π"),
    (re.compile(r"\^?\{?\\(?:degree|circ)(?![a-z])"), "°"),
    (re.compile(r"\\(?:boxed|fbox|text(?:bf|it|rm|tt|sf)?|math(?:bf|rm|it|sf|tt|bb)|mbox|operatorname)(?![a-z])"), ""),
    (re.compile(r"\\(?:left|right|displaystyle|quad|qquad)(?![a-z])"), ""),
    (re.compile(r"(?<=\d)(?:\\[,;:! ]|\{,\})(?=\d{3})"), ","),
    (re.compile(r"\\[,;:! ]"), " "),
    (re.compile(r"\\(?=[$%#&_{}()\[\]])"), ""),
    (re.compile(r"[{}]"), ""),
)
_MARKED = re.compile(r"[*_`~—<]")
_MARKS = (
    (re.compile(r"</?[A-Za-z]{1,6}/?>"), ""),
    (re.compile(r"~~[^~\n]*~~"), ""),  # struck out
    (re.compile(r"(?<=[\d)])\*\*(?=[\d(-])"), "^"),  # 2**3; bold stands at one end of a word only
    (re.compile(r"(?<=[\d)%])\s?\*\s?(?=[\d($£€.√-])"), "×"),
    (re.compile(r"(?<=\w)\s\*\s(?=[\d($£€.√])"), "×"),
    (re.compile(r"(?<=\d)_(?=\d{3})"), ","),
    (re.compile(r"[*`_]|~~"), ""),
    (re.compile(r"(?<!\d)\s?~(?=\s?[-\d.$£€])"), " "),  # about
    (re.compile(r"(?<=\d)—(?=\d)"), "-"),
    (re.compile(r"\s?—\s?"), "; "),
)


def plain(text: str) -> str:
    """The first `REACH` characters, with ASCII digits and one sign for each meaning: - × ÷ / ^ √ ≈ ± = ~ and %.

    `~` is kept only between numbers. Bold, code, tags and the braces of LaTeX are removed.
    """
    if len(text) > REACH:
        text = _CUT.sub("", text[:REACH])
    if not text.isascii():
        text = _POWER.sub(lambda found: f"^{found[0].translate(_RAISED)}", _UNSEEN.sub("", text))
        text = unicodedata.normalize("NFKC", _MIXED.sub(" ", _LIFTED.sub("", text))).translate(_SIGNS)
        text = "".join(str(unicodedata.decimal(c)) if c.isdecimal() else _SAME.get(c, c) for c in text)
    if "\\" in text or "{" in text:
        text = _FRACTION.sub(lambda found: f"{found[1] or found[2]}/{found[3] or found[4]}", _MIXED.sub(" ", text))
        for pattern, instead in _LATEX:
            text = pattern.sub(instead, text)
    if _MARKED.search(text):
        for pattern, instead in _MARKS:
            text = pattern.sub(instead, text)
    return text.replace("=>", "=").replace("->", "=").strip()
