"""Simple LaTeX of titles and summaries is shown as plain text, and everything else stays as it was written."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.rendering.latex import readable
from core.rendering.text import units
from tests.rendering_samples import texts

PIECES = (
    "\\", "\\'", '\\"', "\\c ", "\\alpha", "\\frac", "\\sqrt", "\\em ", "\\rm ", "\\mathrm", "\\bar", "\\log", "\\foo", "\\left",
    "{", "}", "$", "$$", "_", "^", "~", " ", "a", "o", "2", "\\&", "\\{", "\\}", "\\$", "\\\\", "\\,",
    "\x01", "\x02", "\x05", "ö", "𝔸", "x y",
)  # fmt: skip
tex = st.lists(st.sampled_from(PIECES), max_size=40).map("".join)


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        (
            r"Koll\'ar's, Gr\"obner, Erd\H{o}s, {\"o}, \v{C}ech, \'{\i}, Nguy\~{\^e}n",
            "Kollár's, Gröbner, Erdős, ö, Čech, í, Nguyễn",
        ),
        (r"\O rsted, S\o rensen, \L\'od\'z, Pawe\l{}, {\ss}", "Ørsted, Sørensen, Łódź, Paweł, ß"),
        (r"{\em Lorentzian} and \textit{in situ}, {\it K. L{\"u}st}", "Lorentzian and in situ, K. Lüst"),
        (r"AT\&T, 5\%, a\_b, \#1, \$5 and \$6", "AT&T, 5%, a_b, #1, $5 and $6"),
        ("CeAg$_2$Ge$_2$, 1T-TiSe$_{2}$, 10$^{-4}$", "CeAg₂Ge₂, 1T-TiSe₂, 10⁻⁴"),
        (r"$p$-adic, $\Lambda_{\alpha}$, $B\to\pi\pi$, $\bar\nu_e$", "p-adic, Λ_α, B→ππ, ν̄ₑ"),
        (r"$H^{p,q}(R^n)$, $e^{x^{2}}$, $u_{i,j}$, $R_{\rm eff}$, $^{\mathrm{th}}$", "H^(p,q)(Rⁿ), e^(x²), u_(i,j), R_eff, ᵗʰ"),
        (r"$\sqrt{5}$, $\sqrt{a+b}$, $2\frac{1}{2}$, $m\log n$, $\{a, b\}$", "√5, √(a+b), 2 1/2, m log n, {a, b}"),
        (r"$\alpha\ge 0$, $a = 7 \pm 1$, $\pi r$", "α≥0, a = 7 ± 1, π r"),
        ("$$a$$, $(k, l)$, CeAg$_2$4", "a, (k, l), CeAg₂4"),
        (r"a mass of 0.6 \msun, \la r^2\ra, x \la 3, $\frac12 M_\odot$", "a mass of 0.6 M⊙, ⟨r²⟩, x ≲ 3, 1/2 M⊙"),
        (r"order \cal{O}(\alpha_{s}^2), $\cal{O}$, {\em{stable}}, \[ a_i \in B \], \(x\)", "order O(αₛ²), O, stable, aᵢ ∈ B, x"),
        (
            r"without dollars: \mu_0, rho^{1/2}, 0.85 deg^2, 10^-4 fm^2. M_{CDM}, \bar\theta, C^* O(x_{s}^2)$ in",
            "without dollars: μ₀, rho^(1/2), 0.85 deg², 10⁻⁴ fm². M_CDM, θ̄, C* O(xₛ²) in",
        ),
        ("4.39 x 10^(-22) s^(-1)m^(-1), B_0 ~ 30 T, T_1, T_2/2", "4.39 x 10⁻²² s⁻¹m⁻¹, B₀ ~ 30 T, T₁, T₂/2"),
        ("Lattice--Boltzmann -- ``new'' and 'old' --- D --> K", "Lattice–Boltzmann – “new” and 'old' — D → K"),
        (r"\ifmmode \sim\else$\sim$\fi 5, see \cite{Reeb} and Fig.~2, {C}hicago", "∼5, see [Reeb] and Fig. 2, Chicago"),
    ],
)
def test_shows_what_has_a_plain_form(written: str, shown: str) -> None:
    """Accents, fonts, escapes, and formulas as far as Unicode goes."""
    assert readable(written) == shown


@pytest.mark.parametrize(
    "text",
    [
        "costs $5 and $6", "from $5 million to US$ 7", "$5-$6", r"C:\new\temp", r"see \foo{y}", r"C:\pi\data",
        "newswire --output", "z~2.56", "user_{id}",
        "^_^", "{{items}}", "file_b_0", "C_60", "a_1(b), x_1=5 and v_1.2", "rho^(1/2), ^(-1)", "-a_1",
        "a \\\\ b", "$", "$$", "\\", "{\\em open", "snake_case, x ^ 2 and {braces}",
    ],
)  # fmt: skip
def test_leaves_the_rest_alone(text: str) -> None:
    """Money, paths, unknown commands, and what is not closed."""
    assert readable(text) == text


def test_keeps_unknown_commands_of_a_formula() -> None:
    """A macro of the author's own keeps its name, and what it is given; dollar signs and a lone backslash go."""
    assert readable(r"in $\XQM$ over $\Q(\sqrt{5})$ with $\foo{x}$") == r"in XQM over Q(√5) with \foo{x}"


@given(st.one_of(texts, tex))
def test_no_text_is_refused_or_grows(text: str) -> None:
    """Limits that held for what was written hold for what is shown."""
    shown = readable(text)
    assert len(shown) <= len(text)
    assert units(shown) <= units(text)


@given(st.text(alphabet=st.sampled_from("aZ_09^() .,;=/-é")).map(lambda text: text.replace("--", "-")))
def test_numbers_below_and_above_are_all_that_changes(text: str) -> None:
    """Of text without a backslash, a dollar sign or a brace: what is no such number stays, in its order."""
    shown = readable(text)
    assert "".join(re.findall(r"[a-zA-Zé .,;=/]", shown)) == "".join(re.findall(r"[a-zA-Zé .,;=/]", text))
    digits = str.maketrans("₀₁₂₃₄₅₆₇₈₉⁰¹²³⁴⁵⁶⁷⁸⁹", "01234567890123456789")
    assert re.findall(r"\d", shown.translate(digits)) == re.findall(r"\d", text)


@given(st.text(alphabet=st.characters(exclude_characters="\\$`^_~-{")))
def test_plain_text_stays_as_it_is(text: str) -> None:
    """Without any of its signs there is no LaTeX."""
    assert readable(text) == text


def test_long_hostile_texts_take_no_time() -> None:
    """Nothing is tried in more ways than there are characters: this would run for hours otherwise."""
    for piece in (
        "{\\em ",
        "$",
        "$a",
        "\\sqrt{",
        "\\frac{a}",
        "{" * 3,
        "_{",
        "\\c ",
        "\\ifmmode",
        "\\la ",
        "``a'",
        "\\[",
        "{A",
        "x^{",
        "\\'{",
        "{\\em" + " " * 40,
        "\\foo{",
    ):
        readable(piece * 2_000)
