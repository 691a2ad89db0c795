"""The letter of a choice, A to J, in an answer.

The rules:
- A letter at the beginning counts: "B", "(B)", "b)", "B. a bank", "option B", "B because ...".
- A bare letter before another word belongs to that word: "A dog", "I think", "C major". Only words such as "is" or
  "because" may follow it.
- Otherwise a bare letter counts after words that announce it, as in "I think it is A". Otherwise the only letter in
  brackets counts.
- Several letters are no answer: "A or B", "(A) and (B)", "A/B", "both".
- A negated letter is no answer: "not (B)", "B is wrong". In "not A but B" it is B."""

import re

LETTER = (
    r"(?:\( ?(?P<round>[A-Ja-j]) ?\)|\[ ?(?P<square>[A-Ja-j]) ?\]"
    r"|(?P<bare>[A-HJ]|I(?=[.,:;!)]))(?![\w&+#]|['’-]\w)|(?P<small>[a-j])(?=\)|\W*$))"
)
GOES_ON = r"(?=\s*(?:$|[^\w\s]|(?:because|since|as|is|was|which|for|by|with|rather|not|instead|over|and|or|it|here)\b))"
NAMED = r"(?:(?:the |an? )?(?:correct |right |best |final )?(?:options?|choices?|letters?|answers?)(?: is)?:? )?"
BEGINS = re.compile(rf"[^\w(\[]*{NAMED}{LETTER}")
LEADS = re.compile(
    r"\b(?:is|be|options?|choices?|letter|answer|choose|pick|select|say|with|probably|likely|definitely|certainly|clearly)"
    rf"[:\s]\W{{0,3}}?{LETTER}"
)
BRACKETED = re.compile(r"\(([A-J])\)")
BESIDE = re.compile(r"\W{0,2}(?:,? ?\b(?:or|and)\b|\s?[/&,+])\s*(?:option |choice )?(?:\([A-J]\)|[A-J]\b)(?!\w|['’])")
REASON = re.compile(r"\b(?:because|since|as|so|while|whereas)\b|[.;\n]")
WRONG = re.compile(r"\W{0,3}(?:is|was)(?:n't| not| wrong| incorrect| false)\b")
DENIED = re.compile(r"\b(?:not|neither|cannot|unknown|none|both|all)\b|n't\b", re.IGNORECASE)
RATHER = re.compile(r"^[^\n]*?\bnot\b.{0,60}?\bbut\b(?: rather)?", re.IGNORECASE)


def choice(text: str) -> str | None:
    """The capital letter of the choice; None if there is none or more than one. text: the output of `plain`."""
    line = RATHER.sub("", text.strip().split("\n", 1)[0])
    found = _taken(BEGINS.match(line))
    if not found:
        found = next(filter(None, map(_taken, LEADS.finditer(line))), None)
        if found and DENIED.search(line[: found.start()]):
            return None
    if found:
        letter = next(filter(None, (found[name] for name in ("round", "square", "bare", "small")))).upper()
        rest = line[found.end() :]
        said = REASON.split(rest, maxsplit=1)[0]
        several = BESIDE.match(rest) or re.search(r"\b(?:or|and)\b \([A-J]\)", said)
        return None if several or WRONG.match(rest) else letter
    letters = set(BRACKETED.findall(line))  # The answer is "bank" (A)
    return letters.pop() if len(letters) == 1 and not DENIED.search(line) else None


def _taken(found: "re.Match[str] | None") -> "re.Match[str] | None":
    """The match; None if its letter is bare and belongs to the next word."""
    if found and found["bare"] and not re.match(GOES_ON, found.string[found.end() :]):
        return None
    return found
