"""Titles and summaries as readers see them: simple LaTeX as plain text, the rest as it is. Pure.

Research metadata is written with TeX's accents, fonts and formulas, often with macros of the author's own and without the dollar
signs. What has a plain form gets it (Gr\\"obner, {\\em x}, $\\pi_1$, CeAg$_2$Ge$_2$, 10^{-4}, --); what is not in the tables
stays, so nothing is lost, but for the backslash of a macro within a formula. No text becomes longer.
"""

import re
import unicodedata
from functools import lru_cache
from typing import Final

ROUNDS: Final = 6
"""Groups within groups that are worked off; what is deeper stays as it is."""

_HIDDEN: Final = {"\\\\": "\x01", "\\{": "\x02", "\\}": "\x03", "\\$": "\x04"}
_SHOWN: Final = {"\x01": "\\\\", "\x02": "{", "\x03": "}", "\x04": "$", "\x05": "^", "\x06": "_"}
"""Signs that are to be shown as they are stand as controls meanwhile, which no cleaned text has."""
_NO_CONTROLS: Final = {ord(character): None for character in _SHOWN}
_ESCAPED: Final = re.compile(r"\\[\\{}$]")

_TEX: Final = re.compile(r"[\\$`]|[\^_]\{|\^[0-9+*(-]|_[0-9]|--|\{[A-Z]|~")
"""A text in which none of these is has nothing of TeX; most have not."""
_MATH: Final = re.compile(
    r"\$\$([^$]+)\$\$|\$(?=\S)([^$]+)(?<=\S)\$|\\\[((?:(?!\\[\[\]]).)+)\\\]|\\\(((?:(?!\\[()]).)+)\\\)", re.DOTALL
)
"""A dollar before a space, and one after a space, is money."""
_PROSE: Final = re.compile(r"\s\w{3}|\w{3}\s")
"""Between two dollars without any mark of TeX: words, and so two amounts."""

_MARKS: Final = {
    "`": "\u0300", "'": "\u0301", "^": "\u0302", '"': "\u0308", "~": "\u0303", "=": "\u0304", ".": "\u0307",
    "c": "\u0327", "v": "\u030c", "u": "\u0306", "H": "\u030b", "k": "\u0328", "r": "\u030a", "d": "\u0323",
}  # fmt: skip
_LETTER: Final = r"(\\[ij](?![A-Za-z])|[^\W\d_])"
_ACCENT: Final = re.compile(
    rf"\\(?P<sign>[`'^\"~=.])\s*(?:\{{\s*{_LETTER}\s*\}}|{_LETTER})"
    rf"|\\(?P<letter>[cvuHkrd])(?:\s*\{{\s*{_LETTER}\s*\}}|(?<!d)\s+{_LETTER}(?!\w))"
)
_LETTERS: Final = {
    "ss": "ß", "o": "ø", "O": "Ø", "l": "ł", "L": "Ł", "ae": "æ", "AE": "Æ", "oe": "œ", "OE": "Œ", "aa": "å", "AA": "Å",
    "i": "ı", "j": "ȷ", "S": "§", "P": "¶", "dag": "†", "pounds": "£", "copyright": "©", "textregistered": "®",
    "textendash": "–", "textemdash": "—", "ldots": "…", "dots": "…", "textdegree": "°", "LaTeX": "LaTeX", "TeX": "TeX",
}  # fmt: skip
_SPECIAL: Final = re.compile(rf"\\({'|'.join(sorted(_LETTERS, key=len, reverse=True))})(?![A-Za-z])(?:\{{\}}|\s+(?=\w))?")
_LONE: Final = re.compile(r"(\\(?:[A-Za-z]+|.)\s*|[_^])?\{([^\x00-\x7f])\}")
_FONT: Final = re.compile(
    r"\{\s*\\(?:em|it|bf|rm|sc|sl|tt|sf|cal|itshape|bfseries)(?![A-Za-z])\s*+(?:\{([^{}]*)\}\s*|([^{}]*))\}"
)
_STYLED: Final = re.compile(
    r"\\(?:emph|text(?:it|bf|tt|rm|sc|sf|sl|up|normal)?|mbox|underline|em|it|bf|rm|sc|sl|tt|sf|cal)\s*\{([^{}]*)\}"
)
_ESCAPE: Final = re.compile(r"\\([&%#_ ])")
_REFERENCE: Final = re.compile(r"\\(?:cite[pt]?|ref|eqref|url)\s*\{([^{}\\]*)\}")
_IF: Final = r"(?:(?!\\(?:ifmmode|else|fi)(?![A-Za-z])).)*"
_EITHER: Final = re.compile(rf"\\ifmmode(?![A-Za-z])({_IF})\\else(?![A-Za-z])({_IF})\\fi(?![A-Za-z])\s?", re.DOTALL)
"""A macro that was spelled out: what it is within a formula, and outside."""
_CAPITALS: Final = re.compile(r"(\\(?:[A-Za-z]+|.)\s*|[_^{])?\{([A-Z][A-Za-z0-9]*)\}(?!\})")
"""BibTeX's way to keep capitals."""
_TIE: Final = re.compile(r"(?<=[A-Za-z]\.)~(?=\w)|(?<=[A-Za-z]{3})~(?=[A-Za-z]{2})")
_QUOTED: Final = re.compile(r"``([^`']+(?:'[^`']+)*)\'\'")
_DASHES: Final = (
    (re.compile(r"(?<= )--+>(?= )"), "→"),
    (re.compile(r"(?<=[\w)])---(?=[\w(])|(?<= )---(?= )"), "—"),
    (re.compile(r"(?<=[\w)])--(?=[\w(])|(?<= )--(?= )"), "–"),
)
_ODD_DOLLAR: Final = re.compile(r"(?<=\w\))\$(?=[\s.,;])")
"""The end of a formula whose beginning was forgotten."""
_DRIVE: Final = re.compile(r"\b[A-Za-z]:\\")
"""A path of Windows: what looks like commands is none."""
_LOOSE_SCRIPT: Final = re.compile(
    r"(?<=[\w)\]⟩])(?<![A-Za-z]{4})([_^])(?:\{([^{}\\]*)\}|((?<=\^)(?:[+-]?\d{1,3}|[+*-])(?![\w^+*-]|\.\d)))"
)
"""A script without a dollar sign: of a short name, in braces, or a power."""
_LOOSE_NUMBER: Final = re.compile(r"(?<=[\w)\]])\^\(([+-]?\d{1,3})\)|(?<=(?<![\w.$/\\-])[^\W\d_])_(\d)(?![\w\[(=]|\.\d)")
"""A whole number as a script: a power in brackets, or one digit below a letter that stands alone."""

_SIGNS: Final = """
alpha α  beta β  gamma γ  delta δ  epsilon ε  varepsilon ε  zeta ζ  eta η  theta θ  vartheta ϑ  iota ι  kappa κ  lambda λ
mu μ  nu ν  xi ξ  pi π  rho ρ  sigma σ  tau τ  upsilon υ  phi φ  varphi φ  chi χ  psi ψ  omega ω  Gamma Γ  Delta Δ  Theta Θ
Lambda Λ  Xi Ξ  Pi Π  Sigma Σ  Upsilon Υ  Phi Φ  Psi Ψ  Omega Ω  pm ±  mp ∓  times ×  cdot ·  div ÷  ast ∗  star ⋆  circ ∘
bullet •  le ≤  leq ≤  ge ≥  geq ≥  ll ≪  gg ≫  ne ≠  neq ≠  equiv ≡  sim ∼  simeq ≃  approx ≈  cong ≅  propto ∝  lesssim ≲
gtrsim ≳  to →  rightarrow →  leftarrow ←  leftrightarrow ↔  Rightarrow ⇒  Leftarrow ⇐  mapsto ↦  in ∈  notin ∉  subset ⊂
subseteq ⊆  supset ⊃  cap ∩  cup ∪  setminus ∖  emptyset ∅  forall ∀  exists ∃  neg ¬  wedge ∧  vee ∨  oplus ⊕  otimes ⊗
infty ∞  partial ∂  nabla ∇  sum ∑  prod ∏  int ∫  oint ∮  ell ℓ  hbar ℏ  Re ℜ  Im ℑ  aleph ℵ  prime ′  dagger †  degree °
parallel ∥  perp ⊥  langle ⟨  rangle ⟩  mid |  vert |  ldots …  dots …  cdots …  odot ⊙  lbrace {  rbrace }  lsim ≲  gsim ≳
lessgtr ≶  longrightarrow →  longleftarrow ←  Leftrightarrow ⇔  uparrow ↑  downarrow ↓  supseteq ⊇  subsetneq ⊊  rtimes ⋊
triangle △  square □  Box □  diamond ⋄  lfloor ⌊  rfloor ⌋  lceil ⌈  rceil ⌉  angle ∠  coprod ∐  bigoplus ⊕  bigotimes ⊗  bigcup ⋃
bigcap ⋂  vdots ⋮  ddots ⋱  lambdabar ƛ  varrho ϱ  varsigma ς  vdash ⊢  models ⊨  prec ≺  succ ≻  doteq ≐  asymp ≍  sun ⊙
kms km/s  msun M⊙  Msun M⊙  rsun R⊙  Rsun R⊙  lsun L⊙  Lsun L⊙  la ≲  ga ≳  ra →  lam λ  eps ε  si σ
"""
"""The last line are macros that many authors define, and use in what they hand in."""
_SYMBOLS: Final = dict(zip(_SIGNS.split()[::2], _SIGNS.split()[1::2], strict=True)) | {
    "quad": " ", "qquad": " ", "left": "", "right": "", "big": "", "Big": "", "displaystyle": "", "limits": "",
    "bigl": "", "bigr": "", "Bigl": "", "Bigr": "", "rm": "",
}  # fmt: skip
_FUNCTIONS: Final = frozenset(
    ("log", "ln", "exp", "sin", "cos", "tan", "lim", "max", "min", "sup", "inf", "det", "dim", "ker", "gcd", "deg", "arg", "mod")
)
_COMMAND: Final = re.compile(r"\\([A-Za-z]+)( ?)")
_BRACKETS: Final = re.compile(r"\\la(?![A-Za-z])([^$\\{}]*)\\ra(?![A-Za-z])")
"""Alone they are a relation and an arrow."""
_DECLARED: Final = re.compile(r"\\(?:rm|bf|it|em|cal|sf|tt|mathcal)(?![A-Za-z])\s*")
_MATH_FONT: Final = re.compile(
    r"\\(?:math(?:rm|it|bf|sf|cal|frak|scr|bb)|text(?:rm|it|bf)?|operatorname|mbox|hbox|boldsymbol|bm)\s*(?=\{)"
)
_MATH_MARKS: Final = {
    "bar": "\u0304", "overline": "\u0304", "hat": "\u0302", "widehat": "\u0302", "tilde": "\u0303", "widetilde": "\u0303",
    "vec": "\u20d7", "dot": "\u0307", "ddot": "\u0308", "check": "\u030c", "breve": "\u0306",
}  # fmt: skip
_MARKED: Final = re.compile(rf"\\({'|'.join(_MATH_MARKS)})(?![A-Za-z])\s*(?:\{{\s*(\w)\s*\}}|(\w))")
_TAKING: Final = frozenset((*_MATH_MARKS, "sqrt", "frac", "dfrac", "tfrac", "begin", "end"))
"""Commands that take the sign after them, without braces too."""
_ROOT: Final = re.compile(r"\\sqrt\s*(?:\{([^{}]*)\}|(\d|(?<=\s)\w))")
_FRACTION: Final = re.compile(r"\\[dt]?frac\s*(?:\{([^{}]*)\}|(\d))\s*(?:\{([^{}]*)\}|(\d))")
_SPACING: Final = re.compile(r"\\[,;: ]|~")
_DOUBLE: Final = re.compile(r"\{\{([^{}]*)\}\}")
_SCRIPT: Final = re.compile(r"(?:(?<=[^\W\d_]) )?([_^])\s*(?:\{([^{}]*)\}|([^\s{}\\^_\x01-\x06]))")
_GROUP: Final = re.compile(r"((?:\\[A-Za-z]+|\x03)\s*)?\{([^{}]*)\}")

_SUB: Final = str.maketrans("0123456789+-=()aehijklmnoprstuvxβγρφχ⊙⊥∥", "₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₐₑₕᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓᵦᵧᵨᵩᵪ⊙⊥∥")
_SUPER: Final = str.maketrans(
    "0123456789+-=()abcdefghijklmnoprstuvwxyzABDEGHIJKLMNOPRTUW′∘°∗*†",
    "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ᵃᵇᶜᵈᵉᶠᵍʰⁱʲᵏˡᵐⁿᵒᵖʳˢᵗᵘᵛʷˣʸᶻᴬᴮᴰᴱᴳᴴᴵᴶᴷᴸᴹᴺᴼᴾᴿᵀᵁᵂ′°°**†",
)


def readable(text: str) -> str:
    """Return the text with its simple LaTeX as plain text."""
    return _plain(text) if _TEX.search(text) else text


@lru_cache(maxsize=256)
def _plain(text: str) -> str:
    """Return what `readable` does; remembered, because every message of an alert asks again."""
    clean = text.translate(_NO_CONTROLS)
    clean = _ESCAPED.sub(lambda m: _HIDDEN[m[0]], clean)
    clean = _BRACKETS.sub(lambda m: f"⟨{m[1].strip()}⟩", _EITHER.sub(r"\2", clean))
    clean = _words(_MATH.sub(_formula, clean))
    return "".join(_SHOWN.get(character, character) for character in clean)


def _words(text: str) -> str:
    """Return a text outside of formulas: accents, letters, fonts, escapes, and what of a formula stands without dollar signs."""
    loose = "\\" in text and not _DRIVE.search(text)
    text = _REFERENCE.sub(r"[\1]", _CAPITALS.sub(lambda m: m[0] if m[1] else m[2], text))
    for _ in range(ROUNDS):
        before = text
        text = _SPECIAL.sub(lambda m: _LETTERS[m[1]], _ACCENT.sub(_accented, text))
        text = _STYLED.sub(r"\1", _FONT.sub(lambda m: m[1] or m[2] or "", _LONE.sub(lambda m: m[0] if m[1] else m[2], text)))
        if loose:
            text = _MARKED.sub(_marked, _COMMAND.sub(_sign, text))
        text = _LOOSE_SCRIPT.sub(_script, text)
        if text == before:
            break
    text = _LOOSE_NUMBER.sub(lambda m: m[1].translate(_SUPER) if m[1] else m[2].translate(_SUB), text)
    text = _ODD_DOLLAR.sub("", text)
    text = _QUOTED.sub(r"“\1”", _TIE.sub(" ", _ESCAPE.sub(r"\1", text)))
    for dashes, sign in _DASHES:
        text = dashes.sub(sign, text)
    return text


def _accented(match: re.Match[str]) -> str:
    """Return the letter with its accent when Unicode has it as one, else what was written."""
    base = next(group for group in match.groups()[1:3] + match.groups()[4:] if group).lstrip("\\")
    made = unicodedata.normalize("NFC", base + _MARKS[match["sign"] or match["letter"]])
    return made if len(made) == 1 else match[0]


def _formula(match: re.Match[str]) -> str:
    """Return a formula without its dollar signs; two amounts of money stay as they are."""
    inner = match[1] or match[2] or match[3] or match[4]
    bare = match[2] is not None and not set("\\^_{}") & set(inner)
    if bare and (_PROSE.search(inner) or match.string[match.end() : match.end() + 1].isdigit()):
        return match[0]
    text = _DECLARED.sub("", _MATH_FONT.sub("", _SPACING.sub(" ", inner).replace("\\!", "")))
    text = _COMMAND.sub(_symbol, text)
    for _ in range(ROUNDS):
        before = text
        text = _MARKED.sub(_marked, _DOUBLE.sub(r"{\1}", text))
        text = _SCRIPT.sub(_script, _FRACTION.sub(_fraction, _ROOT.sub(_root, text)))
        if text == before:
            break
    for _ in range(ROUNDS):
        text = _GROUP.sub(lambda m: f"{m[1]}\x02{m[2]}\x03" if m[1] else m[2], text)
    return text.strip()


def _symbol(match: re.Match[str]) -> str:
    """Return what _sign does; of another command of the author's own, its name."""
    name, space = match.groups()
    known = _sign(match)
    if known != match[0] or name in _TAKING or match.string[match.end() : match.end() + 1] == "{":
        return known
    return _apart(match, name) + space


def _sign(match: re.Match[str]) -> str:
    """Return the sign of a command, with a space after it only if there is one before; a function's name apart from a letter."""
    name, space = match.groups()
    before = match.string[max(match.start() - 1, 0) : match.start()]
    sign = name if name in _FUNCTIONS else _SYMBOLS.get(name)
    if sign is None:
        return match[0]
    if len(sign) > 1:
        return _apart(match, sign) + space
    return sign + space if sign.isalpha() or not before or before == " " else sign


def _apart(match: re.Match[str], name: str) -> str:
    return f" {name}" if match.string[max(match.start() - 1, 0) : match.start()].isalnum() else name


def _marked(match: re.Match[str]) -> str:
    return unicodedata.normalize("NFC", (match[2] or match[3]) + _MATH_MARKS[match[1]])


def _root(match: re.Match[str]) -> str:
    return f"√{_whole(match[1] if match[1] is not None else match[2])}"


def _fraction(match: re.Match[str]) -> str:
    above, below = match[1] if match[1] is not None else match[2], match[3] if match[3] is not None else match[4]
    return _apart(match, f"{_whole(above)}/{_whole(below)}")


def _whole(text: str) -> str:
    return text if len(text) == 1 or (text.isascii() and text.isalnum()) else f"({text})"


def _script(match: re.Match[str]) -> str:
    """Return a sub- or superscript in Unicode; as _x, ^x or ^(x, y) when a sign of it has none."""
    inner = (match[2] or match[3] or "").strip()
    table = _SUB if match[1] == "_" else _SUPER
    if all(ord(sign) in table for sign in inner):
        return inner.translate(table)
    return ("\x06" if match[1] == "_" else "\x05") + _whole(inner)
