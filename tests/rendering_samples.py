"""Made-up issues and alerts for the renderers' tests, the nasty ones included."""

from datetime import UTC, datetime

from hypothesis import strategies as st

from core.rendering.model import AlertMessage, Issue, IssueItem, ItemContent

PUBLISHED = datetime(2026, 11, 21, 8, 30, tzinfo=UTC)

NASTY = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "{{unsubscribe_url}} {{items_html}}",
    "<!channel> <!here> <@U024BE7LH> <https://evil.example|bank>",
    "@everyone @here <@123456789012345678> <@&1> **bold** [x](https://evil.example)",
    "Subject\r\nBcc: victim@example.org",
    "مرحبا بالعالم \u202egnp.exe",
    "👩‍👩‍👧‍👦🏳️‍🌈👍🏽🇩🇪" * 40,
    "a" * 5_000,
    "word " * 2_000,
    "e\u0301" * 400,
    "*" * 400,
    "&" * 3_000,
    "",
    " \n\t ",
)
"""Titles and texts that have broken renderers before."""

URLS = (
    "https://example.org/a?b=1&c=2",
    "https://example.org/(x)|y>z",
    "javascript:alert(1)",
    'https://example.org/"onmouseover="alert(1)',
    "https://example.org/" + "p" * 3_000,
    "https://example.org/{{subject}}",
    "",
)

texts = st.one_of(st.sampled_from(NASTY), st.text(max_size=400), st.lists(st.sampled_from(NASTY), max_size=4).map(" ".join))
urls = st.one_of(
    st.sampled_from(URLS), st.text(max_size=60), st.text(max_size=60).map(lambda path: f"https://example.org/{path}")
)
languages = st.sampled_from(["en", "de", "de-AT", "fr", "pt-BR", ""])
reasons = st.one_of(st.sampled_from(["topic:hep-ph", "topics", "", "explore"]), texts)


def content(number: int = 0, **fields: object) -> ItemContent:
    """Return a publication."""
    values = {
        "publication_id": f"00000000-0000-4000-8000-{number:012d}",
        "revision": 1,
        "title": f"Paper {number} on things",
        "summary": "We show a thing. " * 30,
        "url": f"https://example.org/p/{number}",
        "authors": ("Ada Lovelace", "Emmy Noether"),
        "language": "en",
        "published_at": PUBLISHED,
        "topics": ("hep-ph", "hep-th"),
    }
    return ItemContent(**{**values, **fields})  # type: ignore[arg-type]


def issue(count: int = 10, **fields: object) -> Issue:
    """Return an issue."""
    values = {
        "newsletter_id": "daily",
        "newsletter_name": "Daily Brief",
        "subject": "{title}",
        "language": "en",
        "items": tuple(IssueItem(content(number), "topic:hep-ph") for number in range(count)),
        "issue_group": "2026-11-22T09:00",
        "from_name": "Daily Brief",
        "postal_address": "1 Example Street, Berlin",
        "unsubscribe_url": "https://edge.example/u/AbC-_1",
    }
    return Issue(**{**values, **fields})  # type: ignore[arg-type]


def alert(**fields: object) -> AlertMessage:
    """Return an alert."""
    values = {
        "alert_id": "0b5f8a3e-6f3e-4b64-9a39-0c8a3a6b0001",
        "title": "Release withdrawn",
        "body": "Do not use it.\n\nA corrected one follows.",
        "url": "https://example.org/withdrawn",
        "priority": "critical",
        "language": "en",
        "unsubscribe_url": "https://edge.example/u/AbC-_1",
        "raised_at": PUBLISHED,
    }
    return AlertMessage(**{**values, **fields})  # type: ignore[arg-type]


contents = st.builds(
    lambda number, title, summary, url, authors: content(number, title=title, summary=summary, url=url, authors=tuple(authors)),
    st.integers(0, 999_999),
    texts,
    texts,
    urls,
    st.lists(texts, max_size=5),
)
issues = st.builds(
    lambda items, name, subject, language, group: issue(
        items=tuple(items), newsletter_name=name, subject=subject, language=language, issue_group=group, postal_address=name
    ),
    st.lists(st.builds(IssueItem, contents, reasons), max_size=22),
    texts,
    texts,
    languages,
    st.one_of(st.just("2026-11-22T09:00"), texts),
)
alerts = st.builds(
    lambda title, body, url, priority, language: alert(title=title, body=body, url=url, priority=priority, language=language),
    texts,
    texts,
    st.one_of(st.none(), urls),
    st.sampled_from(["critical", "high", "normal", "low"]),
    languages,
)


TOPIC_NAMES = {
    "en": {"hep-ex": "High Energy Physics – Experiment", "cs.LG": "Machine Learning"},
    "de": {"hep-ex": "Hochenergiephysik – Experiment", "cs.LG": "Maschinelles Lernen"},
}
"""By language; two topics have none."""


def real_issue(language: str = "en", **fields: object) -> Issue:
    """Return an issue as a reader gets one: real titles, a title of marks and one from right to left, every kind of reason."""
    texts = (
        (
            "read:Graph Attention Networks in Practice",
            {
                "title": "Attention Is Not All You Need: Rank Collapse in Deep Transformers",
                "summary": "We prove that self-attention without skip connections loses rank doubly exponentially with depth, "
                "and show in experiments on three tasks that feed-forward blocks and skip connections are what keeps the "
                "representation alive. The result explains why pruning heads is easy and pruning layers is not.",
                "authors": ("Yihe Dong", "Jean-Baptiste Cordonnier", "Andreas Loukas"),
                "topics": ("cs.LG", "stat.ML"),
            },
        ),
        (
            "topic:hep-ex",
            {
                "title": "A Measurement of the W Boson Mass at √s = 13 TeV",
                "summary": "Using 117 fb⁻¹ of proton-proton collisions we measure the mass of the W boson with a precision of "
                "9.9 MeV, in agreement with the standard model.",
                "authors": ("CMS Collaboration",),
                "topics": ("hep-ex",),
            },
        ),
        (
            "new:cs.CL",
            {
                "title": "<b>R&D</b> @everyone: *sparse* autoencoders & “features”",
                "summary": "Dictionaries learned from activations give features that people can name; see {{items_html}}.",
                "authors": ("H. Cunningham", "A. Ewart", "L. Riggs", "R. Huben"),
                "topics": ("cs.CL",),
            },
        ),
        ("popular", {"title": "مرحبا بالعالم: نموذج لغوي عربي", "summary": "", "language": "ar", "topics": ()}),
        (
            "explore",
            {"title": "Room-temperature superconductivity: a negative result", "summary": "Four groups tried.", "url": ""},
        ),
    )
    items = tuple(IssueItem(content(number, **values), reason) for number, (reason, values) in enumerate(texts))
    values = {
        "items": items,
        "language": language,
        "newsletter_name": "Morning Papers",
        "from_name": "Morning Papers",
        "postal_address": "Newswire e.V., Musterstraße 1, 10115 Berlin",
        "topic_names": TOPIC_NAMES[language],
        "delivery_id": "20261123-0b5f8a3e-6f3e-5b64-9a39-0c8a3a6b0001",
    }
    return issue(**{**values, **fields})
